"""Expected gain in hypervolume."""

from __future__ import annotations

import numpy as np
import pytest

from nastool.core import pareto
from nastool.learners.predictors.acquisition import hypervolume_improvement, score

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
