"""What a training comes to in the end, told from its learning curve so far. Pure, without any I/O."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nastool.core.values import Trial

Law = Literal["power-law"]
FEWEST = 5
"""Points of a curve from which on a law of three parameters is fitted."""
SLOWEST, FASTEST = 0.05, 5.0
"""Least and greatest exponent of a power law."""


def power_law(steps: Sequence[float], losses: Sequence[float], whole: float) -> float | None:
    """The loss after step `whole`, by the power law a + b t^-c that fits best: pow3 of Domhan et al., IJCAI 2015.

    Least squares, b > 0 and SLOWEST <= c <= FASTEST. For each c the best a and b are those of a straight line, so c
    alone is searched: at even steps of its logarithm, then between the neighbours of the best.

    Args:
        steps: Of the points (n,), ascending, > 0.
        losses: There (n,); lower is better.
        whole: From the last step on.

    Returns:
        None: There are fewer than FEWEST points, or they do not fall by such a law.
    """
    if len(steps) < FEWEST:
        return None
    from scipy.optimize import minimize_scalar  # late: it takes a while to import, and few searches need it

    times, values = np.asarray(steps, dtype=np.float64), np.asarray(losses, dtype=np.float64)

    def error(logarithm: float) -> float:
        return _line(times ** -np.exp(logarithm), values)[2]

    grid = np.linspace(np.log(SLOWEST), np.log(FASTEST), 12)
    best = int(np.argmin([error(each) for each in grid]))
    bounds = grid[max(0, best - 1)], grid[min(len(grid) - 1, best + 1)]
    found = minimize_scalar(error, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    exponent = float(np.exp(found.x))
    start, slope, _ = _line(times**-exponent, values)
    loss = start + slope * whole**-exponent
    return loss if slope > 0 and np.isfinite(loss) else None


def _line(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float, float]:
    """Intercept and slope >= 0 of the straight line nearest to points (n,), and the sum of squares that is left."""
    away, off = x - x.mean(), y - y.mean()
    slope = max(0.0, float(away @ off) / float(away @ away))
    rest = off - slope * away
    return float(y.mean()) - slope * float(x.mean()), slope, float(rest @ rest)


class Curves:
    """Learning curves of trials, and what they predict: by a law, or that the last value stays.

    Attributes:
        whole: After which step a training is whole; None: that is not known yet.
    """

    def __init__(self, law: Law | None) -> None:
        self.law = law
        self.whole: float | None = None
        self._points: dict[int, list[tuple[int, float]]] = {}

    def take(self, number: int, step: int, loss: float) -> None:
        """A report of trial `number`, whose steps ascend."""
        if self.law is not None:
            self._points.setdefault(number, []).append((step, loss))

    def predicted(self, number: int, last: float) -> float:
        """The loss that the trial's training comes to; the last one, where no law says more."""
        points = self._points.get(number, [])
        if self.whole is None or not points:
            return last
        steps, losses = zip(*points, strict=True)
        found = power_law(steps, losses, self.whole)
        return last if found is None else found

    def ended(self, trial: Trial) -> Trial:
        """A trial that has ended, as it counts: `early` of one that was stopped is what its training would come to.

        Once of each, after its reports and after the trial that it goes on from.
        """
        before = [] if trial.proposal.continues is None else self._points.pop(trial.proposal.continues, [])
        own = self._points.pop(trial.id, [])
        own = [point for point in before if not own or point[0] < own[0][0]] + own  # where it was trained anew
        if trial.state != "stopped":
            return trial
        if own:
            self._points[trial.id] = own
        return replace(trial, early=(self.predicted(trial.id, trial.early[0]),))
