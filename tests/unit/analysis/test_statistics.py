"""Statistics of comparisons: against values worked out by hand, and against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from nastool.analysis.statistics import (
    best_until,
    bootstrap,
    critical_difference,
    difference,
    holm,
    mann_whitney,
    mean,
    median_until,
    rank_biserial,
    ranks,
    student,
    unpaired_bootstrap,
    wilcoxon,
)


def test_standard_error_by_hand() -> None:
    assert mean(np.array([1.0, 2.0, 3.0, 4.0])).error == pytest.approx(math.sqrt(5 / 3) / 2)
    assert math.isnan(mean(np.array([1.0])).error)


def test_holm_by_hand() -> None:
    # sorted .01 .02 .03 .04 times 4 3 2 1 = .04 .06 .06 .04, made monotone
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []
    assert holm([math.nan, 0.2, 0.1])[1:] == [0.2, 0.2], "what was not tested does not count"


def test_median_counts_those_that_never_got_there() -> None:
    assert median_until([5, 1, 9]) == 5
    assert median_until([5, None, 1]) == 5
    assert median_until([5, None, None]) is None
    assert median_until([5, 1, None, None]) == 5, "half of them did, after 5 queries"
    assert median_until([5, None]) == 5
    assert median_until([]) is None


def test_wilcoxon_by_hand() -> None:
    """Of 16 choices of signs one gives each extreme, five a sum of ranks of at most 3; zeros do not count."""
    assert wilcoxon(np.array([1.0, 2.0, 3.0, 4.0])) == pytest.approx(2 / 16)
    assert wilcoxon(np.array([1.0, 2.0, -3.0, 4.0, 0.0])) == pytest.approx(10 / 16)
    rounding = np.array([0.3 - 0.2, 0.1, 0.4 - 0.3, 0.1])
    assert wilcoxon(rounding) == wilcoxon(np.full(4, 0.1))
    assert wilcoxon(np.zeros(5)) == 1


def test_equal_strategies_are_not_told_apart() -> None:
    same = difference(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 3.0]), paired=True)
    assert (same.mean, same.low, same.high, same.p) == (0, 0, 0, 1)


def test_bootstrap_interval() -> None:
    values = np.random.default_rng(0).normal(5, 2, (400, 3))
    low, high = bootstrap(values)
    half = 1.96 * values.std(axis=0, ddof=1) / 20
    assert low == pytest.approx(values.mean(axis=0) - half, rel=0.01)
    assert high == pytest.approx(values.mean(axis=0) + half, rel=0.01)
    assert (bootstrap(values) == (low, high)).all(), "the same values, the same interval"
    assert np.isnan(bootstrap(np.ones((1, 2)))).all()
    many = np.tile(values, (3, 1))
    assert (bootstrap(many) == student(many)).all() and (bootstrap(values) != student(values)).all()


def test_mean_is_students() -> None:
    values = np.random.default_rng(1).normal(0.9, 0.01, 10)
    own = mean(values)
    by_hand = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (own.low, own.high) == pytest.approx((by_hand.low, by_hand.high))
    boot = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(3))
    assert own.boot_low == pytest.approx(boot.confidence_interval.low, abs=2e-4)
    assert own.boot_high == pytest.approx(boot.confidence_interval.high, abs=2e-4)
    assert own.boot_high - own.boot_low < own.high - own.low, "for n = 10 the bootstrap is too narrow, and t says so"
    alone = mean(np.array([0.5]))
    assert alone.n == 1 and alone.mean == 0.5 and math.isnan(alone.low) and math.isnan(alone.boot_low)


def test_paired_difference() -> None:
    rng = np.random.default_rng(2)
    first, second = rng.normal(0.92, 0.01, 12), rng.normal(0.91, 0.01, 12)
    own = difference(first, second, True)
    assert own.p == pytest.approx(stats.wilcoxon(first, second).pvalue)
    assert own.mean == pytest.approx((first - second).mean())
    boot = stats.bootstrap(
        (first - second,), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(3)
    ).confidence_interval
    assert (own.low, own.high) == pytest.approx((boot.low, boot.high), abs=3e-4)
    assert own.wins + own.ties + own.losses == 12 and own.least_p == 2 / 2**12
    assert difference(second, first, True).effect == -own.effect


def test_unpaired_difference() -> None:
    rng = np.random.default_rng(2)
    first, second = rng.normal(0.92, 0.01, 9), rng.normal(0.91, 0.01, 7)
    own = difference(first, second, False)
    by_hand = stats.mannwhitneyu(first, second)
    assert own.p == pytest.approx(by_hand.pvalue)
    assert own.effect == pytest.approx(2 * by_hand.statistic / 63 - 1), "Cliff's delta from U"
    boot = stats.bootstrap(
        (first, second),
        lambda x, y, axis: x.mean(axis=axis) - y.mean(axis=axis),
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(3),
    ).confidence_interval
    assert unpaired_bootstrap(first, second) == pytest.approx((boot.low, boot.high), abs=3e-4)
    assert own.least_p == pytest.approx(2 / math.comb(16, 7))
    assert mann_whitney(np.ones(4), np.ones(5)) == 1
    assert math.isnan(difference(first[:1], second, False).p)


def test_least_p_is_reached() -> None:
    """What p is where the samples do not even overlap."""
    low, high = np.array([1.0, 2.1, 3.3]), np.array([4.0, 5.2, 6.5])
    for paired in (True, False):
        own = difference(high, low, paired)
        assert own.p == pytest.approx(own.least_p) and own.effect == 1


def test_tests_do_not_depend_on_the_unit() -> None:
    first, second = np.array([3.0, 4.0, 6.0, 5.0, 9.0]), np.array([1.0, 5.5, 2.0, 2.5, 1.5])
    for paired in (True, False):
        expected = difference(first, second, paired)
        for unit in (1e-12, 1e9):
            own = difference(unit * first, unit * second, paired)
            assert (own.p, own.effect, own.wins) == (expected.p, expected.effect, expected.wins)
    rounding = difference(np.array([0.3, 0.3]), np.array([0.1 + 0.2, 0.3]), True)
    assert rounding.ties == 2 and rounding.effect == 0


def test_rank_biserial_by_hand() -> None:
    assert rank_biserial(np.array([1.0, -2.0, 3.0, 0.0])) == pytest.approx((1 - 2 + 3) / 6)
    assert rank_biserial(np.zeros(3)) == 0


def test_nemenyi_is_demsars_table() -> None:
    """Demsar 2006, table 5(a): q at 5% for 2 to 10 methods."""
    table = [1.960, 2.343, 2.569, 2.728, 2.850, 2.949, 3.031, 3.102, 3.164]
    for methods, q in zip(range(2, 11), table, strict=True):
        found = critical_difference(methods, 14) / math.sqrt(methods * (methods + 1) / (6 * 14))
        assert found == pytest.approx(q, abs=1e-3)


def test_friedman_on_demsars_example() -> None:
    """Demsar 2006, table 6: four C4.5 variants on 14 data sets; mean ranks 3.143, 2.000, 2.893, 1.964, CD 1.25."""
    accuracy = np.array(
        [
            [0.763, 0.768, 0.771, 0.798],
            [0.599, 0.591, 0.590, 0.569],
            [0.954, 0.971, 0.968, 0.967],
            [0.628, 0.661, 0.654, 0.657],
            [0.882, 0.888, 0.886, 0.898],
            [0.936, 0.931, 0.916, 0.931],
            [0.661, 0.668, 0.609, 0.685],
            [0.583, 0.583, 0.563, 0.625],
            [0.775, 0.838, 0.866, 0.875],
            [1.000, 1.000, 1.000, 1.000],
            [0.940, 0.962, 0.965, 0.962],
            [0.619, 0.666, 0.614, 0.669],
            [0.972, 0.981, 0.9751, 0.975],
            [0.957, 0.978, 0.946, 0.970],
        ]
    )
    own = ranks(-accuracy)
    assert own.mean == pytest.approx((3.143, 2.000, 2.893, 1.964), abs=1e-3)
    assert own.critical == pytest.approx(1.25, abs=0.01)
    assert own.p == pytest.approx(stats.friedmanchisquare(*accuracy.T).pvalue)
    assert own.alike == ((3, 1, 2, 0),), "as he says: at 5% the test tells none apart, 3.143 - 1.964 < 1.25"
    with pytest.raises(ValueError, match="2 blocks"):
        ranks(-accuracy[:1])
    assert ranks(np.ones((3, 3))).p == 1


def test_who_is_told_apart() -> None:
    """Over 9 blocks three methods have to differ by 1.105 ranks."""
    losses = np.array([[1.0, 2.0, 3.0]] * 5 + [[2.0, 1.0, 3.0]] * 4)
    own = ranks(losses)
    assert own.mean == pytest.approx((13 / 9, 14 / 9, 3.0)) and own.critical == pytest.approx(1.105, abs=1e-3)
    assert own.alike == ((0, 1),)
    assert ranks(np.array([[1.0, 2.0, 3.0]] * 9)).alike == ((0, 1), (1, 2)), "1 and 3 differ, 2 from neither"


def test_best_until() -> None:
    spent, losses = np.array([1.0, 3.0, 3.0, 7.0]), np.array([math.inf, 0.5, 0.9, 0.2])
    assert best_until(spent, losses, [0.5, 1, 2.9, 3, 6, 7, 99]).tolist() == [math.inf] * 3 + [0.5, 0.5, 0.2, 0.2]
