"""Q-learning: the published schedule, updates by hand, states, rewards."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nastool.core.errors import NastoolError
from nastool.core.values import Arch, Evaluation, Proposal, Trial
from nastool.spaces.cell_cnn import CellCNN
from nastool.spaces.layerwise_cnn import LayerwiseCNN
from nastool.spaces.nasbench101 import NasBench101
from nastool.spaces.nasbench201 import NasBench201
from nastool.spaces.nasbench_macro import NasBenchMacro
from nastool.strategies.q_learning import PUBLISHED, QLearning, epsilon, looks_back
from nastool.testing.strategies import TinySpace


def run(strategy: QLearning, trials: int, loss: Callable[[Arch], float]) -> list[Trial]:
    done = []
    for i in range(trials):
        proposal = strategy.ask()
        if proposal is None:
            break
        value = loss(proposal.arch)
        done.append(Trial(i, proposal, "done", Evaluation({"val_loss": value}, 1.0), (value,)))
        strategy.tell(done[-1])
    return done


def additive(arch: Arch) -> float:
    return float(sum((2 - choice) / (i + 1) for i, choice in enumerate(arch.choices)))


@pytest.mark.parametrize(
    "trained, expected",
    [
        *((0, 1.0), (1499, 1.0), (1500, 0.9), (1599, 0.9), (1600, 0.8), (1700, 0.7), (1800, 0.6), (1949, 0.6)),
        *((1950, 0.5), (2100, 0.4), (2250, 0.3), (2400, 0.2), (2550, 0.1), (2699, 0.1), (2700, 0.1), (10**9, 0.1)),
    ],
)
def test_the_published_schedule(trained: int, expected: float) -> None:
    """models/cifar10/state_space_parameters.py of the authors' code."""
    assert epsilon(trained, PUBLISHED) == expected


@given(st.integers(1, 5000), st.integers(0, 5000))
def test_a_shorter_schedule_is_the_same_in_shares(horizon: int, trained: int) -> None:
    assert epsilon(trained, horizon) >= epsilon(trained + 1, horizon)
    assert epsilon(trained, horizon) == epsilon(3 * trained, 3 * horizon)
    assert epsilon(0, horizon) == 1 and epsilon(horizon, horizon) == 0.1


def test_an_update_by_hand() -> None:
    """Two decisions, rate 1/2, reward 1, values of 1/2 at first.

    Last decision: 1/2 + 1/2 (1 - 1/2) = 3/4; first: 1/2 + 1/2 (max(3/4, 1/2, 1/2) - 1/2) = 5/8. Again: 7/8 and
    5/8 + 1/2 (7/8 - 5/8) = 3/4. Then a reward of 0 for another last option: 1/4, and the first goes up to
    3/4 + 1/2 (7/8 - 3/4) = 13/16, since the best of what follows counts.
    """
    strategy = QLearning(TinySpace(), rate=0.5, shaped=False)
    good = [((0,), 1), ((1, 1), 2)]
    strategy.learn(good, 1.0)
    assert strategy.values == {(0,): [0.5, 0.625], (1, 1): [0.5, 0.5, 0.75]}
    strategy.learn(good, 1.0)
    assert strategy.values == {(0,): [0.5, 0.75], (1, 1): [0.5, 0.5, 0.875]}
    strategy.learn([((0,), 1), ((1, 1), 0)], 0.0)
    assert strategy.values == {(0,): [0.5, 0.8125], (1, 1): [0.25, 0.5, 0.875]}


def test_shaped_and_discounted_updates_by_hand() -> None:
    """Half of the reward at each decision, and half of what follows: 1/2 (1/2), then 1/2 (1/2 + 1/2 (1/4))."""
    strategy = QLearning(TinySpace(), rate=0.5, initial=0.0, shaped=True, discount=0.5)
    strategy.learn([((0,), 0), ((1, 0), 1)], 1.0)
    assert strategy.values == {(1, 0): [0.0, 0.25, 0.0], (0,): [0.5 * (0.5 + 0.5 * 0.25), 0.0]}


def test_values_of_many_updates_are_the_best_that_follows() -> None:
    """Where every architecture was measured, Q is the best result reachable (gamma 1)."""
    space = TinySpace()
    results = {arch.choices: i / 5 for i, arch in enumerate(space.members())}
    strategy = QLearning(space, seed=0, rate=0.3, replay=500, reward="value", shaped=False, memory=1)
    run(strategy, 6, lambda arch: -results[arch.choices])
    for (first,), row in {(a,): [results[a, b] for b in range(3)] for a in range(2)}.items():
        np.testing.assert_allclose(strategy.values[1, first], row, atol=1e-3)
        assert strategy.values[0,][first] == pytest.approx(max(row), abs=1e-3)


def test_a_state_knows_its_block_and_the_one_before() -> None:
    space = CellCNN(blocks=2)
    order = space.policy_order
    found = looks_back(space, order, 1)
    names = [decision.name for decision in space.decisions]
    shown = {names[i]: [names[j] for j in known] for i, known in found.items()}
    assert shown["normal1.input1"] == [] and shown["normal1.op2"] == ["normal1.input1", "normal1.input2", "normal1.op1"]
    block = ["normal1.input1", "normal1.input2", "normal1.op1", "normal1.op2"]
    assert shown["normal2.input1"] == block and shown["normal2.input2"] == [*block, "normal2.input1"]
    assert [len(known) for known in looks_back(space, order, 0).values()] == [0, 1, 2, 3] * 4
    edges = looks_back(NasBench201(), tuple(range(6)), 2)
    assert edges == {0: (), 1: (0,), 2: (0, 1), 3: (1, 2), 4: (2, 3), 5: (3, 4)}


def test_what_does_not_matter_is_neither_decided_nor_learned() -> None:
    space = LayerwiseCNN(layers=3, min_layers=1)
    strategy = QLearning(space, seed=0)
    trials = run(strategy, 30, lambda arch: float(arch.choices[0]))
    for trial in trials:
        active = space.active_many(np.array([trial.proposal.arch.choices]))[0]
        assert not any(choice for choice, there in zip(trial.proposal.arch.choices, active, strict=True) if not there)
        assert [state[0] for state, _ in strategy._steps(trial.proposal.arch)] == np.flatnonzero(active).tolist()


def test_rewards() -> None:
    def told(**given: Any) -> QLearning:
        strategy = QLearning(TinySpace(), replay=1, **given)
        for i, loss in enumerate((3.0, 1.0, 1.0, 2.0)):
            proposal = Proposal(strategy.space.arch((0, 0)))
            strategy.tell(Trial(i, proposal, "done", Evaluation({"flops": 10.0 ** (i + 1)}, 1.0), (loss,)))
        return strategy

    ranks = told()
    assert [ranks._reward(-loss) for loss in (3.0, 1.0, 2.0)] == [1 / 8, 6 / 8, 3 / 8] and ranks._reward(None) == 1 / 8
    values = told(reward="value")
    assert values._reward(-2.0) == -2 and values._reward(None) == -3
    light = told(reward="value", flops_weight=2.0)
    assert [result for _, result in light.told] == pytest.approx(
        [-loss - 2 * (i + 1) * np.log(10) for i, loss in enumerate((3.0, 1.0, 1.0, 2.0))]
    )
    assert QLearning(TinySpace())._reward(None) == 0


def test_without_flops_it_says_so() -> None:
    strategy = QLearning(TinySpace(), flops_weight=1.0)
    proposal = strategy.ask()
    assert proposal is not None
    with pytest.raises(NastoolError, match="flops_weight: trial 0 has no metric flops"):
        strategy.tell(Trial(0, proposal, "done", Evaluation({"val_loss": 1.0}, 1.0), (1.0,)))


def test_it_learns() -> None:
    """An additive loss with 6,561 architectures: what comes last is better than what came first."""
    for seed in range(3):
        trials = run(QLearning(NasBenchMacro(), seed=seed), 150, additive)
        first, last = ([trial.loss for trial in part] for part in (trials[:30], trials[-30:]))
        assert np.mean(last) < np.mean(first) - 0.5 and min(last) < min(first)


def test_nothing_twice_and_all_of_a_small_space() -> None:
    space = NasBench101()
    trials = run(QLearning(space, seed=0, horizon=10), 60, lambda arch: float(sum(arch.choices)))
    assert len({space.canonical(trial.proposal.arch) for trial in trials}) == 60
    assert len(run(QLearning(TinySpace(), seed=0), 20, lambda arch: float(sum(arch.choices)))) == 6


def test_the_published_settings() -> None:
    published = QLearning(TinySpace(), preset="published")
    assert (published.horizon, published.reward, published.shaped) == (2700, "value", False)
    assert (published.rate, published.discount, published.replay, published.initial) == (0.01, 1.0, 128, 0.5)
    assert looks_back(NasBench201(), tuple(range(6)), 1) == QLearning(NasBench201(), preset="published").looks_back
    given = QLearning(TinySpace(), preset="published", horizon=30, rate=0.5, shaped=True)
    assert (given.horizon, given.rate, given.shaped, given.reward) == (30, 0.5, True, "value")


@pytest.mark.parametrize(
    "given, message",
    [
        ({"horizon": 0}, "need horizon >= 1"),
        ({"replay": 0}, "1 <= replay <= 10,000"),
        ({"memory": -1}, "0 <= memory <= 100"),
        ({"rate": 0.0}, "0 < rate <= 1"),
        ({"discount": 1.5}, "0 < discount <= 1"),
        ({"initial": float("inf")}, "initial"),
        ({"flops_weight": -1.0}, "0 <= flops_weight"),
    ],
)
def test_refuses_what_is_out_of_range(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QLearning(TinySpace(), **given)
