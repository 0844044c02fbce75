"""Acquisition functions: against their definitions, and the expected gain in hypervolume."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nastool.core import pareto
from nastool.learners.predictors.acquisition import Acquisition, hypervolume_improvement, score, score_members

MEASURED = np.array([[3.0, 1.0], [2.0, 2.0], [1.0, 1.5]])
REFERENCE = np.array([0.0, 0.0])


def test_two_values_are_exact() -> None:
    """Against the mean gain over draws."""
    rng = np.random.default_rng(0)
    means, deviations = np.array([[2.5, 0.5, 4.0], [1.5, 2.5, 3.0]]), np.array([[0.6, 0.3, 1e-9], [0.4, 0.5, 1e-9]])
    found = hypervolume_improvement(list(means), list(deviations), MEASURED, REFERENCE, rng)
    before = pareto.hypervolume(-MEASURED, (0.0, 0.0))
    for i in range(3):
        draws = means[:, i] + deviations[:, i] * rng.standard_normal((4000, 2))
        gains = [pareto.hypervolume(-np.vstack([MEASURED, draw]), (0.0, 0.0)) - before for draw in draws]
        assert found[i] == pytest.approx(np.mean(gains), abs=4 * np.std(gains) / np.sqrt(len(gains)) + 1e-6)
    assert found[2] == pytest.approx(12 - before)


def test_nothing_measured_is_beyond_the_reference() -> None:
    gain = hypervolume_improvement(
        [np.ones(1)] * 2, [np.full(1, 1e-9)] * 2, -MEASURED, REFERENCE, np.random.default_rng(0)
    )
    assert gain == pytest.approx([1.0])


def test_three_values() -> None:
    """A candidate that dominates is the most promising, one that is dominated is not."""
    measured = np.array([[2.0, 2.0, 2.0], [3.0, 1.0, 1.0]])
    means = np.array([[3.0, 1.0, 2.0], [3.0, 1.0, 2.1], [3.0, 0.9, 2.0]])
    total = np.zeros(3)
    for seed in range(20):
        rng = np.random.default_rng(seed)
        total += hypervolume_improvement(list(means), [np.full(3, 0.01)] * 3, measured, np.zeros(3), rng)
    assert total[0] > total[2] >= 0 and total[1] == 0


def test_expected_improvement() -> None:
    found = score("ei", np.array([1.0, 2.0, 0.0]), np.array([1.0, 0.0, 0.0]), 1.0, np.random.default_rng(0))
    assert found == pytest.approx([1 / np.sqrt(2 * np.pi), 1.0, 0.0])


INTEGRANDS: dict[Acquisition, Callable[[float, float], float]] = {
    "ei": lambda value, best: max(0.0, value - best),
    "pi": lambda value, best: float(value > best),
    "mean": lambda value, best: value,
}


@pytest.mark.parametrize("kind", INTEGRANDS)
@given(mean=st.floats(-3, 3), deviation=st.floats(0.05, 4), best=st.floats(-3, 3))
def test_against_numerical_integration(kind: Acquisition, mean: float, deviation: float, best: float) -> None:
    """The expectation of what each function is defined by, over the normal distribution, in 200,000 strips."""
    middles = mean + deviation * (np.linspace(-9, 9, 200_000, endpoint=False) + 9 / 200_000)
    density = np.exp(-0.5 * ((middles - mean) / deviation) ** 2) / (deviation * math.sqrt(2 * math.pi))
    integrand = {"ei": np.maximum(0, middles - best), "pi": (middles > best) * 1.0, "mean": middles}[kind]
    for each in (0, 77_777, 199_999):
        assert integrand[each] == INTEGRANDS[kind](float(middles[each]), best)
    expected = float((integrand * density).sum() * deviation * 18 / 200_000)
    found = score(kind, np.array([mean]), np.array([deviation]), best, np.random.default_rng(0))
    assert found[0] == pytest.approx(expected, abs=1e-4)


def test_of_the_members_of_an_ensemble() -> None:
    """Three members, two candidates, by hand: means 2 and 3, deviations sqrt(2/3) and sqrt(6)."""
    predictions = np.array([[1.0, 0.0], [2.0, 3.0], [3.0, 6.0]])

    def found(kind: str, divisor: float = 1.0, seed: int = 0) -> list[float]:
        rng = np.random.default_rng(seed)
        scores: list[float] = score_members(kind, predictions, 2.5, rng, ei_divisor=divisor).tolist()  # type: ignore[arg-type]  # parametrised
        return scores

    assert found("mean") == [2, 3]
    assert found("percentile") == [3, 6]
    assert found("ucb") == pytest.approx([2 + 0.5 * math.sqrt(2 / 3), 3 + 0.5 * math.sqrt(6)])
    ones = {tuple(found("ts", seed=seed)) for seed in range(30)}
    assert ones == set(map(tuple, predictions.tolist()))  # one member for both candidates, never a mixture
    draws = np.array([found("its", seed=seed) for seed in range(2000)])
    assert draws.mean(axis=0) == pytest.approx([2, 3], abs=0.2)
    assert draws.std(axis=0) == pytest.approx([math.sqrt(2 / 3), math.sqrt(6)], rel=0.1)
    assert abs(np.corrcoef(draws.T)[0, 1]) < 0.1  # independent
    fifth = score("ei", np.array([2.0, 3.0]), np.sqrt([2 / 3, 6]) / 5, 2.5, np.random.default_rng(0))
    assert found("ei", 5.0) == pytest.approx(fifth.tolist()) and found("pi", 5.0) == found("pi")
