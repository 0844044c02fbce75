"""Successive rejects: the published schedule, and what holds whatever the results are and however they come."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nastool.learners.best_arm import lengths, standing


@pytest.mark.parametrize(
    ("arms", "results", "expected"),
    [
        # by hand: L(2) = 1, L(3) = 4/3, L(5) = 107/60
        (2, 12, [5]),
        (3, 11, [2, 3]),
        (5, 15, [2, 2, 2, 3]),
        (5, 112, [12, 15, 20, 30]),
        (5, 5, [1, 1, 1, 1]),
    ],
)
def test_the_published_schedule(arms: int, results: int, expected: list[int]) -> None:
    assert lengths(arms, results) == expected


@given(st.integers(2, 20), st.integers(0, 300))
def test_the_schedule_keeps_within_its_results(arms: int, more: int) -> None:
    """Theorem 2's bound: n_1 + ... + n_(K-1) + n_(K-1) <= n."""
    found = lengths(arms, arms + more)
    assert found == sorted(found)
    assert sum(found) + found[-1] <= arms + more


def play(
    truths: list[float], more: int, noise: float, seed: int, workers: int = 1
) -> tuple[list[list[float | None]], list[int]]:
    """Results of each arm, and the order in which they were pulled; so many are not known yet at a time."""
    rng = np.random.default_rng(seed)
    tables = [truth + noise * rng.standard_normal(more + 1) for truth in truths]
    results: list[list[float | None]] = [[float(table[0])] for table in tables]
    running: list[tuple[int, int]] = []
    pulled: list[int] = []
    while True:
        pull = standing(results, more).pull if len(running) < workers else None
        if pull is not None:
            running.append((pull, len(results[pull])))
            results[pull].append(None)
            pulled.append(pull)
        elif running:
            arm, place = running.pop(int(rng.integers(len(running))))  # they end in any order
            results[arm][place] = float(tables[arm][place])
        else:
            return results, pulled


@given(
    st.lists(st.floats(-1, 1), min_size=2, max_size=8),
    st.integers(1, 40),
    st.floats(0, 1),
    st.integers(0, 99),
    st.integers(2, 5),
)
def test_all_results_are_used_and_workers_change_nothing(
    truths: list[float], more: int, noise: float, seed: int, workers: int
) -> None:
    alone, pulled = play(truths, more, noise, seed)
    assert len(pulled) == more
    order = standing(alone, more)
    assert sorted(order.order) == list(range(len(truths))) and order.left == 2
    several, _ = play(truths, more, noise, seed, workers)
    assert several == alone
    assert standing(several, more) == order


def test_the_best_wins_without_noise_and_the_worst_go_first() -> None:
    results, pulled = play([0.3, 0.1, 0.4, 0.0, 0.2], 12, 0.0, 0)
    found = standing(results, 12)
    assert found.order == (3, 1, 4, 0, 2)
    assert found.pull is None
    assert pulled[-1] in (1, 3)


def test_more_results_find_the_best_more_often_than_the_first_ones() -> None:
    truths = [0.0, 0.05, 0.1, 0.15, 0.2]
    best = [standing(play(truths, 20, 0.1, seed)[0], 20).order[0] for seed in range(200)]
    first = [min(range(5), key=lambda arm: play(truths, 1, 0.1, seed)[0][arm][0] or 0.0) for seed in range(200)]
    assert best.count(0) > first.count(0) + 40


def test_what_fails_once_is_out_and_equal_arms_stay_in_order() -> None:
    assert standing([[0.1, math.inf], [0.3, 0.3], [0.2, 0.2]], 5).order == (2, 1, 0)
    assert standing([[0.5], [0.5], [0.5]], 1).order == (0, 1, 2)


def test_results_that_are_there_already_count() -> None:
    """The arm that has three needs no more of the first phases; the others get all."""
    results: list[list[float | None]] = [[0.1, 0.1, 0.1], [0.2], [0.3]]
    pulls = []
    while (pull := standing(results, 2 + 6).pull) is not None:
        pulls.append(pull)
        results[pull].append([0.1, 0.2, 0.3][pull])
    assert len(pulls) == 6
    assert pulls[:2] == [1, 2]
    assert standing(results, 8).order[0] == 0


def test_one_arm_has_won() -> None:
    assert standing([[0.5]], 3) == standing([[0.5]], 1)
    assert standing([[0.5]], 3).pull is None
