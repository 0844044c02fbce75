"""Means, differences, ranks and curves of methods.

`nastool compare` (`compare`, of run folders) and `nastool bench` (`nastool.analysis.bench.results`, of its journal)
bring the values, one a seed, and say which marks they are of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from nastool.analysis.figures.curves import Curve
from nastool.analysis.statistics import Difference, Floats, Mean, Ranks, difference, holm, mean, ranks, student

Values = Mapping[str, Mapping[int, float]]
"""Method -> seed -> its finite value; a seed without a result is not there."""


@dataclass(frozen=True)
class Cell:
    """One method at one mark. missing: runs without a result until there, in no mean. mean: None: no run has one."""

    mean: Mean | None
    missing: int


def cell(values: Sequence[float], runs: int) -> Cell:
    """Cell of the values that there are, of so many runs."""
    return Cell(mean(np.array(values, dtype=np.float64)) if len(values) else None, runs - len(values))


@dataclass(frozen=True)
class Pair:
    """Two methods at one mark. p: corrected by Holm's method over the pairs of that mark; NaN: too few seeds.

    values: of the first and of the second, where each has one seed.
    """

    first: str
    second: str
    difference: Difference
    p: float
    values: tuple[float, float] | None


def pairs(values: Values, *, unpaired: bool = True) -> tuple[Pair, ...]:
    """Every pair of methods at one mark.

    Args:
        values: of the methods, in the order of the pairs.
        unpaired: compare seeds that only one of two methods has, where those that both have are few.
    """
    found: list[tuple[str, str, Difference, tuple[float, float] | None]] = []
    for first, second in combinations(values, 2):
        x, y = values[first], values[second]
        both = sorted(x.keys() & y.keys())
        # Pairs, where seeds match; those that only one has would be lost, so not if that are most.
        paired = not unpaired or 2 * len(both) >= max(len(x), len(y))
        if not (both if paired else x and y):
            continue
        own, other = (
            np.array([part[seed] for seed in (both if paired else sorted(part))], dtype=np.float64) for part in (x, y)
        )
        single = (float(own[0]), float(other[0])) if len(own) == len(other) == 1 else None
        found.append((first, second, difference(own, other, paired), single))
    corrected = holm([own.p for _, _, own, _ in found])
    return tuple(Pair(a, b, own, p, single) for (a, b, own, single), p in zip(found, corrected, strict=True))


def ranking(losses: Values) -> Ranks | None:
    """Ranks of three methods or more, lower losses first, over the seeds that all have; None: fewer than two."""
    blocks = sorted(set.intersection(*(set(own) for own in losses.values()))) if losses else []
    table = np.array([[own[seed] for own in losses.values()] for seed in blocks])
    if len(losses) < 3 or len(blocks) < 2 or not np.isfinite(table).all():
        return None
    return ranks(table)


def curve(name: str, x: Floats, values: Floats, interval: Callable[[Floats], Floats] = student) -> Curve:
    """Curve of a method's runs. values: (runs, points). interval: of the means over the first axis, (2, points)."""
    low, high = interval(values)
    return Curve(name, len(values), x, values.mean(axis=0), low, high)


def p_value(p: float) -> str:
    if math.isnan(p):
        return "no test"
    return "p < 0.001" if p < 0.0005 else f"p = {p:.3f}"
