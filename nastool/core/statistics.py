"""What searches and comparisons compute of samples: a permutation test, and how two rankings agree.

Functions of arrays alone; units are the caller's. numpy and scipy are imported when they are called.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

PERMUTATIONS = 99_999
"""A permutation test with more of them draws so many."""


def permutation(first: Floats, second: Floats) -> float:
    """One-sided p-value: how often the first sample's mean is as large, or larger, when values change places by chance.

    Over all ways to divide the values where these are at most PERMUTATIONS (the exact test of Fisher, The Design of
    Experiments, 1935, and Pitman, JRSS Supplement 4, 1937), else over so many random ones. Values equal but for
    rounding are equal.

    Args:
        first: (n,) finite values, n >= 2.
        second: (m,) finite values, m >= 2.
    """
    import numpy as np
    from scipy import stats

    unit = max(float(np.abs(first).max()), float(np.abs(second).max())) or 1.0
    x, y = (np.rint(values / unit * 1e9) for values in (first, second))  # whole numbers: their sums have no rounding
    result = stats.permutation_test(
        (x, y),
        lambda x, y, axis: x.sum(axis=axis),  # grows with the difference of means, since the sum of all is fixed
        alternative="greater",
        n_resamples=PERMUTATIONS,
        batch=10_000,
        vectorized=True,
        random_state=0,
    )
    return float(result.pvalue)


@dataclass(frozen=True)
class Ranking:
    """Agreement of two measurements of the same architectures. Correlations in [-1, 1]; None where one is constant.

    p: how probable as high a Kendall's tau is where there is no agreement.
    """

    architectures: int
    spearman: float | None
    kendall: float | None
    p: float | None = None

    def __str__(self) -> str:
        if self.spearman is None or self.kendall is None:
            return f"undefined over {self.architectures} architectures (all equal)"
        return f"Spearman {self.spearman:.2f}, Kendall {self.kendall:.2f} over {self.architectures} architectures"


def rank_correlation(first: Sequence[float], second: Sequence[float]) -> Ranking:
    """Spearman's rho and Kendall's tau-b of n numbers each, in the same order."""
    from scipy import stats

    if min(len(set(first)), len(set(second))) < 2:
        return Ranking(len(first), None, None)
    spearman = float(stats.spearmanr(first, second).statistic)
    kendall = stats.kendalltau(first, second, alternative="greater")
    return Ranking(len(first), spearman, float(kendall.statistic), float(kendall.pvalue))
