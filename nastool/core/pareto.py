"""Several objectives: which results no other dominates, how they are spread, and how much they leave behind.

Losses are arrays (n, objectives), lower is better; a row of infinities is a trial that failed: all others dominate it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nastool.core.errors import InputError
from nastool.core.values import Objective, Trial

Floats = NDArray[np.float64]


def dominates(first: Sequence[float], second: Sequence[float]) -> bool:
    """Whether the first is nowhere worse and somewhere better."""
    return first != second and all(a <= b for a, b in zip(first, second, strict=True))


def front(losses: ArrayLike) -> list[int]:
    """Indices of those that none dominates, by the first objective; of equal ones the first alone."""
    found: list[int] = []
    rows = np.asarray(losses, dtype=np.float64)
    for index in np.lexsort((np.arange(len(rows)), *rows.T[::-1])).tolist():
        if np.isfinite(rows[index]).all() and not (rows[found] <= rows[index]).all(axis=1).any():
            found.append(index)
    return found


def ranks(losses: ArrayLike) -> NDArray[np.intp]:
    """How many fronts lie before each one's: 0 for those that none dominates (Deb et al. 2002, the fast sort)."""
    rows = np.asarray(losses, dtype=np.float64)
    no_worse, better = rows[:, None] <= rows, rows[:, None] < rows
    beaten = np.asarray(no_worse.all(axis=2) & better.any(axis=2))  # [a, b]: a dominates b
    found, left = np.zeros(len(rows), dtype=np.intp), beaten.sum(axis=0)
    rank, current = 0, np.flatnonzero(left == 0)
    while len(current):
        found[current] = rank
        left[current] = -1
        left -= beaten[current].sum(axis=0)
        rank, current = rank + 1, np.flatnonzero(left == 0)
    return found


def crowding(losses: ArrayLike) -> Floats:
    """The crowding distance of each among the others, all of one front: the larger, the more alone; ends: infinity.

    The sum over objectives of the gap between its two neighbours, as a share of the whole range (Deb et al. 2002).
    """
    rows = np.asarray(losses, dtype=np.float64)
    found = np.zeros(len(rows))
    for values in rows.T:
        order = np.argsort(values, kind="stable")
        if (span := values[order[-1]] - values[order[0]]) > 0:
            found[order[1:-1]] += (values[order[2:]] - values[order[:-2]]) / span
            found[order[[0, -1]]] = np.inf
    return found


def ordered(trials: Sequence[Trial]) -> list[Trial]:
    """Trials that are done, the best first: by their front, then the most alone in it, then the earlier."""
    if not trials or len(trials[0].losses) == 1:
        return sorted(trials, key=lambda trial: (trial.loss, trial.id))
    losses = np.array([trial.losses for trial in trials])
    fronts, alone = ranks(losses), np.zeros(len(trials))
    for number in range(fronts.max() + 1):
        own = np.flatnonzero(fronts == number)
        alone[own] = crowding(losses[own])
    places = sorted(range(len(trials)), key=lambda i: (fronts[i], -alone[i], trials[i].id))
    return [trials[i] for i in places]


def hypervolume(losses: ArrayLike, reference: Sequence[float]) -> float:
    """The volume that is dominated by some of them and dominates the reference point; of three objectives by moocore.

    Raises:
        InputError: There are more than two objectives, and the package is not installed.
    """
    rows, end = np.asarray(losses, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    rows = rows[(rows < end).all(axis=1)]
    if rows.shape[1] > 2 and len(rows):
        return _of_many(rows, end)
    volume, height = 0.0, end[-1]
    for x, y in rows[front(rows)].tolist():
        volume += (end[0] - x) * max(0.0, height - y)
        height = min(height, y)
    return float(volume)


def _of_many(rows: Floats, reference: Floats) -> float:
    try:
        import moocore
    except ImportError:
        raise InputError(
            f"the hypervolume of {len(reference)} objectives is computed by moocore: pip install 'nastool[objectives]'"
        ) from None
    return float(moocore.hypervolume(rows, ref=reference))


HYPERVOLUME = Objective("hypervolume", "max")
"""What runs with several objectives are compared by: `Box.share` of their trials, in a box around all of them."""


@dataclass(frozen=True)
class Box:
    """From the best to the worst value of each objective: what hypervolumes are shares of.

    Attributes:
        ideal: The least losses. reference: the largest.
    """

    ideal: tuple[float, ...]
    reference: tuple[float, ...]

    @classmethod
    def around(cls, losses: ArrayLike) -> Box:
        """The box of what was measured, at least once; rows that are not finite do not count."""
        rows = np.asarray(losses, dtype=np.float64)
        rows = rows[np.isfinite(rows).all(axis=1)]
        return cls(tuple(rows.min(axis=0).tolist()), tuple(rows.max(axis=0).tolist()))

    def share(self, losses: ArrayLike) -> float:
        """How much of the box these dominate, in [0, 1].

        Raises:
            InputError: As of `hypervolume`.
        """
        whole = float(np.prod(np.subtract(self.reference, self.ideal)))
        return hypervolume(losses, self.reference) / whole if whole > 0 else 0.0

    def so_far(self, losses: Sequence[tuple[float, ...]]) -> list[float]:
        """`share` of the first, of the first two, ..."""
        found: list[float] = []
        best: list[tuple[float, ...]] = []
        for row in losses:
            better = bool(row) and not any(dominates(other, row) or other == row for other in best)
            if better:
                best = [other for other in best if not dominates(row, other)] + [row]
            found.append(self.share(best) if better else found[-1] if found else 0.0)
        return found


def knee(losses: ArrayLike) -> int:
    """Index of the compromise in a front: the least sum of losses, each in units of the front's interquartile range.

    Not of its whole range: one network that is tiny and useless would draw it to that end. losses: of a front, not
    empty.
    """
    rows = np.asarray(losses, dtype=np.float64)
    low, high = np.quantile(rows, (0.25, 0.75), axis=0)
    spans = np.where(high > low, high - low, np.ptp(rows, axis=0))
    return int(np.argmin(((rows - rows.min(axis=0)) / np.where(spans > 0, spans, 1.0)).sum(axis=1)))
