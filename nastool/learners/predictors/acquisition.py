"""Acquisition functions: how promising a candidate is, given a prediction. Higher is better, of a value to maximise."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nastool.core import pareto

Floats = NDArray[np.float64]
Acquisition = Literal["its", "ei", "ucb", "pi", "mean"]
"""What a mean and a standard deviation suffice for."""
OfMembers = Literal["its", "ei", "ucb", "pi", "mean", "ts", "percentile"]
"""What the members of an ensemble suffice for."""


def score(
    kind: Acquisition, mean: Floats, deviation: Floats, best: float, rng: np.random.Generator, *, beta: float = 0.5
) -> Floats:
    """Score of each of m candidates, (m,).

    mean, deviation: the prediction, (m,) each, deviation >= 0. best: the best value measured so far.

    "its": independent Thompson sampling, a draw from N(mean, deviation^2) for each (White et al. 2021)
    "ei": expected improvement over best (Mockus 1975)
    "pi": probability of improvement (Kushner 1964)
    "ucb": mean + beta * deviation (Srinivas et al. 2010)
    "mean": mean, which explores nothing
    """
    if kind == "its":
        return mean + deviation * rng.standard_normal(len(mean))
    if kind == "ucb":
        return mean + beta * deviation
    if kind == "mean":
        return mean
    if kind == "ei":
        return _beyond(best, mean, deviation)
    from scipy.special import ndtr  # here, since listing strategies imports this module

    above = mean - best
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(deviation > 0, above / deviation, np.where(above > 0, np.inf, -np.inf))
    return np.asarray(ndtr(z), dtype=np.float64)


def score_members(
    kind: OfMembers, predictions: Floats, best: float, rng: np.random.Generator, *, ei_divisor: float = 1.0
) -> Floats:
    """As `score`, (m,), of what each member of an ensemble predicts, (members, m); their spread is the deviation.

    Besides those of `score`, as White et al. (2021) have them:

    "ts": Thompson sampling, what one member, drawn for all candidates together, predicts
    "percentile": the highest of all members' predictions

    ei_divisor: what the deviation is divided by for "ei".
    """
    if kind == "ts":
        return np.asarray(predictions[rng.integers(len(predictions))], dtype=np.float64)
    if kind == "percentile":
        return np.asarray(predictions.max(axis=0), dtype=np.float64)
    deviation = predictions.std(axis=0) / (ei_divisor if kind == "ei" else 1)
    return score(kind, predictions.mean(axis=0), deviation, best, rng)


def _beyond(bound: float | Floats, mean: Floats, deviation: Floats) -> Floats:
    """E[max(0, Y - bound)] of normal Y: by how much a value is expected to exceed a bound."""
    from scipy.special import ndtr

    above = mean - bound
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(deviation > 0, above / deviation, np.where(above > 0, np.inf, -np.inf))
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return np.asarray(above * ndtr(z) + deviation * density, dtype=np.float64)


def hypervolume_improvement(
    means: Sequence[Floats], deviations: Sequence[Floats], measured: Floats, reference: Floats, rng: np.random.Generator
) -> Floats:
    """Expected gain in hypervolume of each of m candidates, (m,), of several independent normal values to maximise.

    Of two values it is exact (Emmerich, Giannakoglou & Naujoks 2006): strips between the points of the front, each the
    product of what is expected in either direction. Of more it is that of one random direction, by 64 draws, whose mean
    over directions it is in proportion to (Golovin & Zhang 2020, random hypervolume scalarisations).

    Args:
        means, deviations: For each value the prediction, (m,).
        measured: Values so far, (n, values). reference: (values,), worse than all that matters.
        rng: For more than two values.
    """
    front = measured[pareto.front(-measured)]
    front = front[(front > reference).all(axis=1)]
    if len(means) == 2:
        ends = np.append(front[:, 0], reference[0])  # descending; from infinity to the best nothing is behind a point
        within = np.diff([_beyond(end, means[0], deviations[0]) for end in ends], axis=0, prepend=0)
        above = [_beyond(low, means[1], deviations[1]) for low in np.append(reference[1], front[:, 1])]
        return np.asarray((within * above).sum(axis=0), dtype=np.float64)
    direction = np.abs(rng.standard_normal(len(means))) + 1e-3
    direction /= np.linalg.norm(direction)
    best = ((front - reference) / direction).min(axis=1).max(initial=0.0) ** len(means)
    gain = np.zeros(len(means[0]))
    for draw in rng.standard_normal((64, len(means))):
        lengths = [
            (m + s * z - r) / d for m, s, z, r, d in zip(means, deviations, draw, reference, direction, strict=True)
        ]
        gain += np.maximum(0.0, np.maximum(0.0, np.min(lengths, axis=0)) ** len(means) - best)
    return gain / 64
