"""Tests that decide within a search: against values worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nastool.core.statistics import permutation, rank_correlation


class TestRankCorrelation:
    @pytest.mark.parametrize(
        ("first", "second", "spearman", "kendall"),
        [
            ([1, 2, 3, 4], [10, 20, 30, 400], 1, 1),
            ([1, 2, 3, 4], [4, 3, 2, 1], -1, -1),
            # d = (-1, 1, 0, 0): rho = 1 - 6 * 2 / (4 * 15); 5 pairs agree and 1 does not
            ([1, 2, 3, 4], [2, 1, 3, 4], 0.8, 4 / 6),
            ([3, 1], [1, 2], -1, -1),
            # Ranks (1.5, 1.5, 3) and (1, 2, 3): covariance 1.5, variances 1.5 and 2. Kendall: 2 of 3 pairs agree, one
            # is a tie in the first: 2 / sqrt(2 * 3)
            ([5, 5, 6], [1, 2, 3], 1.5 / math.sqrt(1.5 * 2), 2 / math.sqrt(6)),
            # Ties at the same place in both: perfect agreement
            ([5, 5, 6], [0.1, 0.1, 0.9], 1, 1),
        ],
    )
    def test_by_hand(self, first: list[float], second: list[float], spearman: float, kendall: float) -> None:
        for a, b in ((first, second), (second, first)):
            found = rank_correlation(a, b)
            assert found.architectures == len(first)
            assert found.spearman == pytest.approx(spearman)
            assert found.kendall == pytest.approx(kendall)

    def test_only_ranks_count(self) -> None:
        rng = np.random.default_rng(0)
        first, second = rng.random(30), rng.random(30)
        assert rank_correlation(list(first), list(second)) == rank_correlation(list(np.exp(9 * first)), list(second))

    @pytest.mark.parametrize(("first", "second"), [([], []), ([1], [2]), ([7, 7, 7], [1, 2, 3]), ([1, 2], [0, 0])])
    def test_undefined(self, first: list[float], second: list[float]) -> None:
        found = rank_correlation(first, second)
        assert (found.architectures, found.spearman, found.kendall) == (len(first), None, None)
        assert "undefined" in str(found)

    def test_in_words(self) -> None:
        assert str(rank_correlation([1, 2, 3, 4], [2, 1, 3, 4])) == "Spearman 0.80, Kendall 0.67 over 4 architectures"


class TestPermutation:
    """One-sided, of the difference of means."""

    def test_by_hand(self) -> None:
        """Of 6 ways to choose 2 of 4 values one has the largest sum."""
        assert permutation(np.array([3.0, 4.0]), np.array([1.0, 2.0])) == pytest.approx(1 / 6)
        assert permutation(np.array([1.0, 2.0]), np.array([3.0, 4.0])) == pytest.approx(1)

    def test_equal_but_for_rounding(self) -> None:
        """Three of 6 ways give the sum 0.6: ties count against the first."""
        first, second = np.array([0.1 + 0.2, 0.3]), np.array([0.3, 0.1])
        assert permutation(first, second) == pytest.approx(3 / 6)

    def test_the_unit_does_not_matter(self) -> None:
        rng = np.random.default_rng(0)
        first, second = rng.random(5), rng.random(6)
        assert permutation(first, second) == permutation(1e-6 * first, 1e-6 * second)
