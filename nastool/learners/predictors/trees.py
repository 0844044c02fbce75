"""Extremely randomised trees (Geurts, Ernst & Wehenkel 2006) by scikit-learn: a predictor without settings to tune."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Trees(NamedTuple):
    """What `fit` returns. members: scikit-learn's trees; empty: `value` is predicted everywhere."""

    members: tuple[Any, ...]
    value: float

    def predict(self, inputs: NDArray[np.float32]) -> NDArray[np.float64]:
        """(m, d) -> (trees, m): each tree's predictions, in the targets' units."""
        if not self.members:
            return np.full((1, len(inputs)), self.value)
        rows = np.ascontiguousarray(inputs, np.float32)
        return np.stack([tree.tree_.predict(rows)[:, 0] for tree in self.members])


def fit(inputs: NDArray[np.float32], targets: NDArray[np.float64], rng: np.random.Generator, trees: int = 100) -> Trees:
    """Grow trees on the same points, each until its leaves are single points or equal ones.

    Every split is the best of a third of the inputs, each at a threshold drawn at random; both are drawn from rng.

    inputs: (n, d) float32, finite; targets: (n,), finite; n, d >= 1. Errors: ValueError.
    """
    if inputs.ndim != 2 or not inputs.size or targets.shape != inputs.shape[:1]:
        raise ValueError(f"need inputs (n, d) and targets (n,), got {inputs.shape} and {targets.shape}")
    seed = int(rng.integers(2**31))
    if targets.min() == targets.max():
        return Trees((), float(targets[0]))
    from sklearn.ensemble import ExtraTreesRegressor  # here, since it takes a second to import

    forest = ExtraTreesRegressor(trees, max_features=1 / 3, random_state=seed)
    return Trees(tuple(forest.fit(inputs, targets).estimators_), 0.0)
