"""Acquisition functions: how promising a candidate is, given a prediction. Higher is better, of a value to maximise."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Acquisition = Literal["its", "ei", "ucb", "pi"]


def score(
    kind: Acquisition, mean: Floats, deviation: Floats, best: float, rng: np.random.Generator, *, beta: float = 0.5
) -> Floats:
    """Score of each of m candidates, (m,).

    mean, deviation: the prediction, (m,) each, deviation >= 0. best: the best value measured so far.

    "its": independent Thompson sampling, a draw from N(mean, deviation^2) for each (White et al. 2021)
    "ei": expected improvement over best (Mockus 1975)
    "pi": probability of improvement (Kushner 1964)
    "ucb": mean + beta * deviation (Srinivas et al. 2010)
    """
    if kind == "its":
        return mean + deviation * rng.standard_normal(len(mean))
    if kind == "ucb":
        return mean + beta * deviation
    from scipy.special import ndtr  # here, since listing strategies imports this module

    above = mean - best
    with np.errstate(divide="ignore", invalid="ignore"):
        z = np.where(deviation > 0, above / deviation, np.where(above > 0, np.inf, -np.inf))
    if kind == "pi":
        return np.asarray(ndtr(z), dtype=np.float64)
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    return np.asarray(above * ndtr(z) + deviation * density, dtype=np.float64)
