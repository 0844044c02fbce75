"""What is computed from many runs. Functions of arrays alone; the units are the caller's."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
"""Of a bootstrap. Its seed is fixed: the same runs give the same intervals."""


def standard_error(values: NDArray[np.float64]) -> float:
    """Of the mean of values, (n,); NaN for n < 2."""
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def median_until(queries: Sequence[int | None]) -> int | None:
    """The fewest queries by which at least half of the runs had reached it; None: fewer than half ever did.

    queries: of each run, None where it never did (its number is censored). For an even number of runs it is the
    lower of the two middle ones.
    """
    known = sorted(count for count in queries if count is not None)
    middle = (len(queries) + 1) // 2
    return known[middle - 1] if queries and len(known) >= middle else None


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for their number by Holm's step-down method (Scand. J. Statistics 6, 1979), in their order."""
    corrected = [0.0] * len(p)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = largest
    return corrected


def wilcoxon(differences: NDArray[np.float64]) -> float:
    """Two-sided p-value of the signed-rank test (Wilcoxon, Biometrics 1, 1945): that differences are symmetric about 0.

    differences: (n,), of pairs. Zeros are left out, as Wilcoxon did; nothing left gives 1. Those equal but for
    rounding are ties.
    """
    from scipy import stats  # here, since it takes a second

    kept = np.round(differences, 9)
    kept = kept[kept != 0]
    return float(stats.wilcoxon(kept).pvalue) if len(kept) else 1.0


def bootstrap(values: NDArray[np.float64], resamples: int = RESAMPLES) -> NDArray[np.float64]:
    """95% percentile interval of the mean over the first axis. values: (n, ...); returns (2, ...): low, high.

    NaN for n < 2.
    """
    count = len(values)
    if count < 2:
        return np.full((2, *values.shape[1:]), np.nan)
    return np.quantile(np.tensordot(_weights(count, resamples), values, axes=1), (0.025, 0.975), axis=0)


@lru_cache(maxsize=2)
def _weights(count: int, resamples: int) -> NDArray[np.float64]:
    """(resamples, count): the weight of each value in the mean of each resample."""
    rng = np.random.default_rng(0)
    return rng.multinomial(count, np.full(count, 1 / count), size=resamples) / count


@dataclass(frozen=True)
class Difference:
    """Of two strategies over the seeds both have. low, high: 95% interval of the mean, NaN for one seed."""

    seeds: int
    mean: float
    low: float
    high: float
    p: float


def paired(first: NDArray[np.float64], second: NDArray[np.float64]) -> Difference:
    """first - second, each (n,), paired by index; n >= 1. p is not corrected."""
    differences = first - second
    low, high = bootstrap(differences)
    return Difference(len(differences), float(differences.mean()), float(low), float(high), wilcoxon(differences))
