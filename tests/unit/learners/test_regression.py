"""What is believed of noisy results, and what is recommended by it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nastool.core.values import Evaluation, Proposal, Trial
from nastool.engine.ranking import recommended
from nastool.learners.regression import FEWEST, MOST_NOISE, MOST_POINTS, SURE, believed, most_noise
from nastool.spaces.nasbench_macro import NasBenchMacro

SPACE = NasBenchMacro()


def measured(count: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Choices (n, 8), true losses (n,), and what was measured of them."""
    rng = np.random.default_rng(seed)
    choices = np.unique(rng.integers(0, 3, (count, 8)), axis=0)
    rng.shuffle(choices)
    truth = ((2 - choices) / np.arange(1, 9)).sum(axis=1)
    return choices, truth, truth + noise * rng.standard_normal(len(choices))


def trials(losses: np.ndarray, choices: np.ndarray) -> list[Trial]:
    return [
        Trial(i, Proposal(SPACE.arch(row.tolist())), "done", Evaluation({}, 1.0), (float(loss),))
        for i, (row, loss) in enumerate(zip(choices, losses, strict=True))
    ]


def test_what_is_recommended_is_truly_better_than_the_best_label() -> None:
    gained = []
    for seed in range(10):
        choices, truth, losses = measured(100, noise=0.5, seed=seed)
        first = recommended(SPACE, trials(losses, choices))[0]
        gained.append(truth[losses.argmin()] - truth[first.trial.id])
        assert abs(first.loss - truth[first.trial.id]) < 4 * first.deviation, "within what it says it does not know"
    assert np.mean(gained) > 0.1, "the best label is 0.3 from the best"


def test_without_noise_the_best_is_recommended() -> None:
    choices, truth, _ = measured(100, noise=0)
    assert recommended(SPACE, trials(truth, choices))[0].trial.id == truth.argmin()


def test_repeated_results_say_how_much_may_be_noise() -> None:
    choices, _, losses = measured(60, noise=0.5)
    targets = (losses - losses.mean()) / losses.std()
    assert most_noise(choices, targets) == MOST_NOISE, "each result is of another architecture"
    again = np.concatenate([choices, choices[:10], choices[:5]])
    assert most_noise(again, np.concatenate([targets, targets[:10], targets[:5]])) == MOST_NOISE, "a table's"
    off = np.concatenate([targets, targets[:10] + 2, targets[:5] + 1])
    # Of five pairs, 2 apart, the sum of squares is 2 each; of five triples (0, 2, 1) it is 2, too.
    assert most_noise(again, off) == pytest.approx((SURE * MOST_NOISE + 10 * 2) / (SURE + 15))


def test_a_lucky_result_is_doubted_more_where_repeated_ones_differ() -> None:
    choices, _, losses = measured(60, noise=2.0)
    best = int(losses.argmin())
    others = np.setdiff1d(np.argsort(losses)[:11], [best])
    doubts = []
    for apart in (0.0, 3.0):
        some = np.concatenate([choices, choices[others]])
        found = believed(SPACE, some, np.concatenate([losses, losses[others] + apart]))
        assert found is not None
        doubts.append(found.losses[best] - losses[best])
    assert doubts[1] > 1.2 * doubts[0] > 0


def test_units_do_not_matter() -> None:
    choices, _, losses = measured(60, noise=0.5)
    found, other = believed(SPACE, choices, losses), believed(SPACE, choices, 1000 * losses - 7)
    assert found is not None and other is not None
    np.testing.assert_allclose(other.losses, 1000 * found.losses - 7, rtol=1e-5)
    np.testing.assert_allclose(other.deviations, 1000 * found.deviations, rtol=1e-4)


def test_many_results_are_thinned_and_the_best_stay() -> None:
    choices, _, losses = measured(800, noise=0.5)
    found = believed(SPACE, choices, losses)
    assert found is not None and len(found.which) == len(found.losses) == MOST_POINTS
    assert set(np.argsort(losses)[: MOST_POINTS // 2]) <= set(found.which.tolist())


def test_nothing_is_said_of_few_or_equal_results() -> None:
    choices, _, losses = measured(30, noise=0.5)
    assert believed(SPACE, choices[: FEWEST - 1], losses[: FEWEST - 1]) is None
    assert believed(SPACE, choices[:FEWEST], losses[:FEWEST]) is not None
    assert believed(SPACE, choices, np.full(len(choices), 0.1)) is None
    assert recommended(SPACE, []) == []


def test_failed_and_running_trials() -> None:
    """What failed counts as the worst, and is never recommended; what runs is not there."""
    choices, _, losses = measured(60, noise=0.1)
    done = trials(losses, choices)
    some = [replace(t, state="failed", evaluation=None, losses=()) if t.id % 5 == 0 else t for t in done]
    found = recommended(SPACE, some)
    assert {each.trial.id for each in found} == {t.id for t in some if t.id % 5}
    running = [replace(t, state="running", evaluation=None, losses=()) if t.id % 5 == 0 else t for t in done]
    assert [e.trial.id for e in recommended(SPACE, running)] == [
        e.trial.id for e in recommended(SPACE, [t for t in done if t.id % 5])
    ]


@pytest.mark.parametrize(
    "change",
    [{"budget": 3.0}, {"inherit": True}, {"policy": {"kind": "made up"}}, {"annealing": (0.0, 0.5)}],
    ids=lambda change: next(iter(change)),
)
def test_what_is_not_measured_alike_is_not_compared(change: dict[str, Any]) -> None:
    choices, _, losses = measured(30, noise=0.5)
    some = trials(losses, choices)
    some[4] = replace(some[4], proposal=replace(some[4].proposal, **change))
    assert recommended(SPACE, some) == []


def test_several_objectives_have_a_front_instead() -> None:
    choices, _, losses = measured(30, noise=0.5)
    assert recommended(SPACE, [replace(t, losses=(*t.losses, 1.0)) for t in trials(losses, choices)]) == []
