"""What is computed of samples. Functions of arrays alone; units are the caller's.

What `nastool bench` computes as well (Holm's correction, the signed-rank test, the bootstrap of a mean) is its own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nastool.analysis.bench.statistics import RESAMPLES, bootstrap, wilcoxon

LEVEL = 0.95
"""Of all intervals; tests call a difference shown where p < 1 - LEVEL."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Mean:
    """Of n values. low, high: interval by Student's t; boot_low, boot_high: by the bootstrap. NaN for n < 2.

    deviation: of the sample, with n - 1; NaN for n < 2.
    """

    n: int
    mean: float
    deviation: float
    low: float
    high: float
    boot_low: float
    boot_high: float


def mean(values: Floats) -> Mean:
    """Mean of (n,) finite values, n >= 1, with two 95% intervals.

    Student's t assumes values that are about normal; the percentile bootstrap does not, but is too narrow for small n.
    """
    n, middle = len(values), float(values.mean())
    if n < 2:
        return Mean(n, middle, math.nan, math.nan, math.nan, math.nan, math.nan)
    from scipy import stats  # here, since it takes a second

    deviation = float(values.std(ddof=1))
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * deviation / math.sqrt(n)
    low, high = bootstrap(values)
    return Mean(n, middle, deviation, middle - half, middle + half, float(low), float(high))


@dataclass(frozen=True)
class Difference:
    """first - second.

    n, m: values of each; paired: they belong together by index, so n == m.
    low, high: 95% bootstrap interval of the mean difference; NaN where a sample has one value.
    p: two-sided, not corrected for the number of tests; NaN where a sample has one value. test: its name.
    least_p: what p would be at least with so many values, however clear the difference.
    effect: in [-1, 1], > 0 where the first's values are larger; effect_name: what it is.
    wins, ties, losses: pairs of seeds where the first's value is larger, equal, smaller; unpaired: of all n x m pairs.
    """

    n: int
    m: int
    paired: bool
    mean: float
    low: float
    high: float
    p: float
    test: str
    least_p: float
    effect: float
    effect_name: str
    wins: int
    ties: int
    losses: int


def difference(first: Floats, second: Floats, paired: bool) -> Difference:
    """Compare samples (n,) and (m,), finite, each at least one value; paired: n == m, by index.

    Paired: Wilcoxon's signed-rank test and the matched-pairs rank-biserial correlation (Kerby, Innovative Teaching 3,
    2014). Unpaired: the Mann-Whitney U test and Cliff's delta (Psychological Bulletin 114, 1993). Values that are
    equal but for rounding are equal.
    """
    # The tests know only ranks, so values may have any unit: rounding has to follow it.
    unit = max(float(np.abs(first).max()), float(np.abs(second).max())) or 1.0
    x, y = np.round(first / unit, 9), np.round(second / unit, 9)
    signs = np.sign(x - y) if paired else np.sign(x[:, None] - y[None, :])
    wins, ties, losses = (int((signs == sign).sum()) for sign in (1, 0, -1))
    n, m = len(x), len(y)
    mean_difference = float(first.mean() - second.mean())
    if paired:
        low, high = bootstrap(first - second)
        p = wilcoxon((first - second) / unit) if n > 1 else math.nan
        test, least = "Wilcoxon signed-rank", 2.0 ** (1 - n)
        effect, name = rank_biserial(x - y), "rank-biserial correlation"
    else:
        low, high = unpaired_bootstrap(first, second)
        p = mann_whitney(x, y) if min(n, m) > 1 else math.nan
        test, least = "Mann-Whitney U", 2 / math.comb(n + m, n)
        effect, name = float(signs.mean()), "Cliff's delta"
    return Difference(
        n,
        m,
        paired,
        mean_difference,
        float(low),
        float(high),
        p,
        test,
        min(1.0, least),
        effect,
        name,
        wins,
        ties,
        losses,
    )


def mann_whitney(first: Floats, second: Floats) -> float:
    """Two-sided p-value (Mann & Whitney, Annals of Mathematical Statistics 18, 1947); all values equal: 1."""
    from scipy import stats

    if np.ptp(np.concatenate([first, second])) == 0:
        return 1.0
    return float(stats.mannwhitneyu(first, second).pvalue)


def rank_biserial(differences: Floats) -> float:
    """Of pairs: (sum of ranks where > 0, less that where < 0) / sum of ranks, zeros left out; 0: nothing is left."""
    from scipy import stats

    kept = differences[differences != 0]
    if not len(kept):
        return 0.0
    ranks = stats.rankdata(np.abs(kept))
    return float((ranks * np.sign(kept)).sum() / ranks.sum())


def unpaired_bootstrap(first: Floats, second: Floats, resamples: int = RESAMPLES) -> tuple[float, float]:
    """95% percentile interval of the difference of means, each sample drawn anew by itself; NaN where one has n < 2."""
    if min(len(first), len(second)) < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(0)

    def means(values: Floats) -> Floats:
        count = len(values)
        found: Floats = rng.multinomial(count, np.full(count, 1 / count), size=resamples) @ values / count
        return found

    low, high = np.quantile(means(first) - means(second), (0.025, 0.975))
    return float(low), float(high)


@dataclass(frozen=True)
class Ranks:
    """Of k methods over the blocks (seeds) that all have; rank 1 is the best, ties share the mean of their ranks.

    p: of Friedman's test, that all methods are the same. critical: two mean ranks that lie at least so far apart differ
    by Nemenyi's test. alike: the largest sets of methods, by index and from the best rank on, that it does not tell
    apart.
    """

    blocks: int
    mean: tuple[float, ...]
    p: float
    critical: float
    alike: tuple[tuple[int, ...], ...]


def ranks(losses: Floats) -> Ranks:
    """Friedman's and Nemenyi's tests as Demsar (JMLR 7, 2006) has them, at 5%.

    losses: (blocks, methods), lower is better; at least 2 blocks and 3 methods, else ValueError.
    """
    from scipy import stats

    blocks, methods = losses.shape
    if blocks < 2 or methods < 3:
        raise ValueError(f"need at least 2 blocks and 3 methods, got {blocks} and {methods}")
    unit = float(np.abs(losses).max()) or 1.0
    values = np.round(losses / unit, 9)
    means = stats.rankdata(values, axis=1).mean(axis=0)
    p = 1.0
    if (np.ptp(values, axis=1) > 0).any():
        p = float(stats.friedmanchisquare(*values.T).pvalue)
    critical = critical_difference(methods, blocks)
    return Ranks(blocks, tuple(map(float, means)), p, critical, _alike(means, critical))


def critical_difference(methods: int, blocks: int) -> float:
    """Nemenyi's at 5%: q sqrt(k (k + 1) / (6 N)), q of the studentized range over sqrt(2) (Demsar 2006, table 5)."""
    from scipy import stats

    q = float(stats.studentized_range.ppf(LEVEL, methods, np.inf)) / math.sqrt(2)
    return q * math.sqrt(methods * (methods + 1) / (6 * blocks))


def _alike(means: Floats, critical: float) -> tuple[tuple[int, ...], ...]:
    order = np.argsort(means, kind="stable")
    found: list[tuple[int, ...]] = []
    reached = 0
    for start in range(len(order)):
        end = start + 1
        while end < len(order) and means[order[end]] - means[order[start]] < critical:
            end += 1
        if end - start > 1 and end > reached:
            found.append(tuple(int(i) for i in order[start:end]))
            reached = end
    return tuple(found)


def best_until(progress: Floats, losses: Floats, marks: Sequence[float]) -> Floats:
    """The lowest loss that was known by each mark; infinity: none was.

    progress: (n,) not falling, what had been spent when each result was there. losses: (n,), infinity for failures.
    """
    best = np.minimum.accumulate(np.append(math.inf, losses))
    found: Floats = best[np.searchsorted(progress, np.asarray(marks) * (1 + 1e-12), side="right")]
    return found
