"""Statistics of comparisons. Functions of arrays alone; the units are the caller's.

What decides within a search, so that it stands below the engine, is `nastool.core.statistics`. scipy is imported when
it is called, since that takes a second.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.95
"""Confidence of all intervals; tests call a difference shown where p < 1 - LEVEL."""
RESAMPLES = 10_000
"""Resamples of a bootstrap. Its seed is fixed: the same runs give the same intervals."""

MANY = 1000
"""Of more values than this an interval needs no resamples, which would take much memory."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Mean:
    """Mean of n values, with two intervals.

    deviation: of the sample, with n - 1. low, high: interval by Student's t; boot_low, boot_high: by the bootstrap. All
    NaN for n < 2.
    """

    n: int
    mean: float
    deviation: float
    low: float
    high: float
    boot_low: float
    boot_high: float

    @property
    def error(self) -> float:
        """Standard error of the mean; NaN for n < 2."""
        return self.deviation / math.sqrt(self.n)


def mean(values: Floats) -> Mean:
    """Mean of (n,) finite values, n >= 1.

    Student's t assumes values that are about normal; the percentile bootstrap does not, but is too narrow for small n.
    """
    deviation = float(values.std(ddof=1)) if len(values) > 1 else math.nan
    low, high = student(values)
    boot_low, boot_high = bootstrap(values)
    return Mean(
        len(values), float(values.mean()), deviation, float(low), float(high), float(boot_low), float(boot_high)
    )


def student(values: Floats) -> Floats:
    """95% interval of the mean over the first axis by Student's t, as `bootstrap` has it."""
    n = len(values)
    if n < 2:
        return np.full((2, *values.shape[1:]), np.nan)
    from scipy import stats

    middle = values.mean(axis=0)
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * values.std(axis=0, ddof=1) / math.sqrt(n)
    return np.stack([middle - half, middle + half])


def bootstrap(values: Floats, resamples: int = RESAMPLES) -> Floats:
    """95% percentile interval of the mean over the first axis. values: (n, ...); returns (2, ...); NaN for n < 2.

    Of more than `MANY` values, whose mean is as good as normal, by Student's t.
    """
    if len(values) < 2:
        return np.full((2, *values.shape[1:]), np.nan)
    if len(values) > MANY:
        return student(values)
    return np.quantile(np.tensordot(_weights(len(values), resamples), values, axes=1), (0.025, 0.975), axis=0)


@lru_cache(maxsize=4)
def _weights(count: int, resamples: int) -> Floats:
    """(resamples, count): the weight of each value in the mean of each resample."""
    return np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), size=resamples) / count


@dataclass(frozen=True)
class Difference:
    """Difference of two samples: first - second.

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
    tested = min(n, m) > 1
    if paired:
        low, high = bootstrap(first - second)
        p = wilcoxon((first - second) / unit) if tested else math.nan
        test, least = "Wilcoxon signed-rank", 2.0 ** (1 - n)
        effect, name = rank_biserial(x - y), "rank-biserial correlation"
    else:
        low, high = unpaired_bootstrap(first, second)
        p = mann_whitney(x, y) if tested else math.nan
        test, least = "Mann-Whitney U", 2 / math.comb(n + m, n)
        effect, name = float(signs.mean()), "Cliff's delta"
    ahead, least = float(first.mean() - second.mean()), min(1.0, least)
    return Difference(n, m, paired, ahead, float(low), float(high), p, test, least, effect, name, wins, ties, losses)


def wilcoxon(differences: Floats) -> float:
    """Two-sided p-value of the signed-rank test (Wilcoxon, Biometrics 1, 1945): that differences are symmetric about 0.

    differences: (n,), of pairs. Zeros are left out, as Wilcoxon did; nothing left gives 1. Those equal but for
    rounding are ties.
    """
    kept = np.round(differences, 9)
    kept = kept[kept != 0]
    if not len(kept):
        return 1.0
    from scipy import stats

    return float(stats.wilcoxon(kept).pvalue)


def mann_whitney(first: Floats, second: Floats) -> float:
    """Two-sided p-value (Mann & Whitney, Annals of Mathematical Statistics 18, 1947); all values equal: 1."""
    from scipy import stats

    if np.ptp(np.concatenate([first, second])) == 0:
        return 1.0
    return float(stats.mannwhitneyu(first, second).pvalue)


def holm(p: Sequence[float]) -> list[float]:
    """p-values corrected for their number by Holm's step-down method (Scand. J. Statistics 6, 1979), in their order.

    NaN stays, and does not count.
    """
    corrected = [math.nan] * len(p)
    tested = sorted((i for i in range(len(p)) if not math.isnan(p[i])), key=p.__getitem__)
    largest = 0.0
    for rank, i in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p[i]))
        corrected[i] = largest
    return corrected


def rank_biserial(differences: Floats) -> float:
    """Rank-biserial correlation of pairs: (sum of ranks where > 0, less that where < 0) / sum of ranks.

    Zeros are left out; 0: nothing is left.
    """
    kept = differences[differences != 0]
    if not len(kept):
        return 0.0
    from scipy import stats

    ranks = stats.rankdata(np.abs(kept))
    return float((ranks * np.sign(kept)).sum() / ranks.sum())


def unpaired_bootstrap(first: Floats, second: Floats, resamples: int = RESAMPLES) -> tuple[float, float]:
    """95% percentile interval of the difference of means, each sample drawn anew by itself; NaN where one has n < 2."""
    if min(len(first), len(second)) < 2:
        return math.nan, math.nan
    rng = np.random.default_rng(0)
    drawn = [rng.multinomial(len(x), np.full(len(x), 1 / len(x)), size=resamples) @ x / len(x) for x in (first, second)]
    low, high = np.quantile(drawn[0] - drawn[1], (0.025, 0.975))
    return float(low), float(high)


@dataclass(frozen=True)
class Ranks:
    """Mean ranks of k methods over the blocks (seeds) that all have; rank 1 is the best, ties share their mean.

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
    values = np.round(losses / (float(np.abs(losses).max()) or 1.0), 9)
    means = stats.rankdata(values, axis=1).mean(axis=0)
    p = float(stats.friedmanchisquare(*values.T).pvalue) if (np.ptp(values, axis=1) > 0).any() else 1.0
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
        end = start + int((means[order[start:]] - means[order[start]] < critical).sum())
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


def median_until(queries: Sequence[int | None]) -> int | None:
    """The fewest queries by which at least half of the runs had reached it; None: fewer than half ever did.

    queries: of each run, None where it never did (its number is censored). For an even number of runs it is the
    lower of the two middle ones.
    """
    known = sorted(count for count in queries if count is not None)
    middle = (len(queries) + 1) // 2
    return known[middle - 1] if queries and len(known) >= middle else None
