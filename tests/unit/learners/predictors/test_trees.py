"""Trees as a predictor."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.ensemble import ExtraTreesRegressor

from nastool.learners.predictors import trees


def points(n: int, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    x = np.random.default_rng(seed).integers(0, 2, (n, 12)).astype(np.float32)
    return x, (x @ np.arange(12) + 5 * x[:, 0] * x[:, 3]).astype(np.float64)


def test_the_mean_is_what_scikit_learn_predicts() -> None:
    x, y = points(80)
    rng = np.random.default_rng(3)
    found = trees.fit(x, y, rng, trees=20)
    seed = int(np.random.default_rng(3).integers(2**31))
    reference = ExtraTreesRegressor(20, max_features=1 / 3, random_state=seed).fit(x, y)
    new = points(50, seed=1)[0]
    assert found.predict(new).shape == (20, 50)
    np.testing.assert_allclose(found.predict(new).mean(axis=0), reference.predict(new))


def test_known_points_are_known_and_others_are_guessed() -> None:
    x, y = points(200)
    found = trees.fit(x, y, np.random.default_rng(0))
    first = np.unique(x, axis=0, return_index=True)[1]
    np.testing.assert_allclose(found.predict(x[first]).mean(axis=0), y[first], atol=1)
    new, truth = points(300, seed=1)
    assert np.corrcoef(found.predict(new).mean(axis=0), truth)[0, 1] > 0.9
    assert found.predict(new).std(axis=0).mean() > found.predict(x[first]).std(axis=0).mean()


def test_equal_targets_and_bad_ones() -> None:
    x, _ = points(5)
    flat = trees.fit(x, np.full(5, 2.5), np.random.default_rng(0)).predict(x[:3])
    assert flat.tolist() == [[2.5] * 3]
    with pytest.raises(ValueError, match=r"need inputs \(n, d\) and targets \(n,\)"):
        trees.fit(x, np.zeros(4), np.random.default_rng(0))
