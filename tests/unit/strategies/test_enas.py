"""Strategy enas: the order of rounds and candidates, its options, and what its policy learns from made-up rewards."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nastool.core import registry
from nastool.core.space import SearchSpace
from nastool.core.values import Arch, Evaluation, Proposal, Trial
from nastool.nets.networks import Selection
from nastool.spaces.cell_cnn import CellCNN
from nastool.spaces.macro_cnn import MacroCNN
from nastool.spaces.nasbench201 import NasBench201
from nastool.strategies.enas import ENAS, ENASPolicy, Settings, in_first_cell
from nastool.training.counting import Counting
from nastool.training.policies import Part

CELL = NasBench201()
MACRO = MacroCNN(layers=4)
QUICK: Mapping[str, Any] = {"steps": 2, "children": 3, "candidates": 6}
MINIBATCHES = 4
"""Of a made-up round's weights."""

Rewards = Callable[[np.ndarray[Any, Any]], list[float]]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def made_up(children: np.ndarray[Any, Any]) -> list[float]:
    return [(hash(tuple(row)) % 1009) / 1009 for row in children.tolist()]


def policy_of(strategy: ENAS, seed: int = 0) -> ENASPolicy:
    """Of the options that its proposals carry, through JSON, as it reaches an evaluator."""
    proposal = strategy.ask()
    assert proposal is not None and proposal.policy is not None
    given: Any = json.loads(json.dumps(proposal.policy))
    return ENAS.make_policy(strategy.space, given["options"], seed)


def improve(
    policy: ENASPolicy, rewards: Rewards, minibatches: int, rng: torch.Generator, progress: float = 1.0
) -> Mapping[str, float]:
    """Its phase of a round, with made-up rewards."""

    def of(archs: Sequence[Arch]) -> list[float]:
        return rewards(np.array([arch.choices for arch in archs]))

    return policy.learn(Counting(minibatches, rng, of, progress))


class Rounds:
    """A made-up evaluator: one policy, improved by made-up rewards."""

    def __init__(self, strategy: ENAS, rounds: int, rewards: Rewards = made_up) -> None:
        self.space, self.rounds, self.rewards = strategy.space, rounds, rewards
        self.policy: ENASPolicy | None = None
        self.trials: list[Trial] = []

    def evaluate(self, proposal: Proposal) -> Trial:
        """The finished trial, not told yet."""
        told: Any = None
        if proposal.policy is not None:
            given: Any = proposal.policy
            if self.policy is None:
                self.policy = ENAS.make_policy(self.space, given["options"], 0)
            rng = generator(given["round"])
            improve(self.policy, self.rewards, MINIBATCHES, rng)
            left = self.rounds - given["round"] - 1
            learnt = self.policy.conclude(left, rng)
            told = json.loads(json.dumps(learnt.to_json()))
        metrics = {"shared_acc": made_up(np.array([proposal.arch.choices]))[0]}
        return Trial(
            len(self.trials), proposal, "done", Evaluation(metrics, 1.0, None, told), (-metrics["shared_acc"],)
        )

    def drive(self, strategy: ENAS, trials: int = 10**6) -> list[Trial]:
        """Until it has nothing left, or so many trials more are done."""
        for _ in range(trials):
            proposal = strategy.ask()
            if proposal is None:
                break
            self.trials.append(self.evaluate(proposal))
            strategy.tell(self.trials[-1])
        return self.trials


class TestOptions:
    @pytest.mark.parametrize(
        ("space", "children", "lr", "tanh_constant", "op_tanh_reduce", "op_bias"),
        [
            (MACRO, 20, 0.001, 1.5, 1.0, 0.0),
            (CellCNN(blocks=2), 10, 0.0035, 1.1, 2.5, 0.47),
            (CELL, 10, 0.001, 2.5, 1.0, 0.47),
        ],
        ids=lambda value: getattr(value, "name", None),
    )
    def test_defaults_are_the_authors(
        self,
        space: SearchSpace,
        children: int,
        lr: float,
        tanh_constant: float,
        op_tanh_reduce: float,
        op_bias: float,
    ) -> None:
        settings = ENAS(space).settings
        assert settings.children == children
        assert settings.lr == lr
        assert settings.tanh_constant == tanh_constant
        assert settings.op_tanh_reduce == op_tanh_reduce
        assert settings.op_bias == op_bias
        assert settings.warmup == (0.5 if space is CELL else 0)
        assert settings.temperature is None
        assert (settings.hidden, settings.entropy_weight, settings.baseline_decay) == (64, 0.0001, 0.99)
        assert (settings.skip_target, settings.skip_weight) == (0.4, 0.8)

    def test_defaults_for_recurrent_cells_are_those_of_the_later_code(self) -> None:
        """They follow from there being no operation with weights, whatever the space is called."""
        settings = ENAS(registry.make("space", "recurrent-cell", given={})).settings
        assert (settings.temperature, settings.tanh_constant, settings.op_tanh_reduce) == (5.0, 2.25, 1.0)
        assert settings.children == 10
        assert (settings.op_bias, settings.op_bias_later, settings.warmup) == (0.0, None, 0.0)
        assert settings.nearness and settings.steps_per_minibatch == 25 / 1327
        assert not any(ENAS(space).settings.nearness for space in (MACRO, CELL, CellCNN(blocks=2)))
        given = ENAS(registry.make("space", "recurrent-cell", given={}), temperature=1.0, nearness=False, warmup=0.2)
        assert (given.settings.temperature, given.settings.nearness, given.settings.warmup) == (1.0, False, 0.2)

    @pytest.mark.parametrize(
        ("space", "expected"),
        [
            (MACRO, {"lr": 0.001, "children": 20, "tanh_constant": 1.5}),
            (CellCNN(blocks=2), {"lr": 0.0035, "op_bias": 0.25, "op_bias_later": 0.0, "op_bias_learnt": 10.0}),
            (CELL, {"lr": 0.001, "children": 20, "op_bias": 0.0, "warmup": 0.0}),
            (registry.make("space", "recurrent-cell", given={}), {"lr": 0.00005, "temperature": 5.0}),
        ],
        ids=lambda value: getattr(value, "name", None),
    )
    def test_published(self, space: SearchSpace, expected: dict[str, Any]) -> None:
        settings = ENAS(space, preset="published").settings
        assert {name: getattr(settings, name) for name in expected} == expected
        assert (settings.reward, settings.relative, settings.eps_outside, settings.updates) == (
            "task",
            False,
            True,
            None,
        )
        given = ENAS(space, preset="published", lr=0.5, children=7, eps_outside=False, relative=True).settings
        assert (given.lr, given.children, given.eps_outside, given.relative) == (0.5, 7, False, True)

    @pytest.mark.parametrize(
        ("given", "steps", "rounds", "progress", "expected"),
        [
            ({}, 10, 30, 0.0, 0.001 * (15_500 / 300) ** 0.5),
            ({}, 10, 30, 0.75, 0.001 + 0.25 * (0.001 * (15_500 / 300) ** 0.5 - 0.001)),
            ({}, 10, 30, 1.0, 0.001),
            ({}, 1, 1, 0.0, 0.01),
            ({}, 50, 310, 0.2, 0.001),
            ({}, 500, 310, 0.2, 0.001),
            ({"warmup": 0.5}, 10, 60, 0.5, 0.001 * (15_500 / 300) ** 0.5),
            ({"lr": 0.002}, 10, 30, 0.2, 0.002),
            ({"preset": "published"}, 10, 30, 0.2, 0.001),
        ],
    )
    def test_the_learning_rate_suits_the_number_of_steps(
        self, given: dict[str, Any], steps: int, rounds: int, progress: float, expected: float
    ) -> None:
        policy = policy_of(ENAS(MACRO, steps=steps, children=2, **given))
        policy.learn(Counting(1, generator(), rounds=rounds, progress=progress))
        assert policy.learner.adam["lr"] == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("given", "expected"), [({}, True), ({"reward": "task"}, False), ({"preset": "published"}, False)]
    )
    def test_what_children_are_worth(self, given: dict[str, Any], expected: bool) -> None:
        asked: list[bool] = []

        class Noting(Counting):
            def rewards(self, selections: Sequence[Any], part: Part, likelihood: bool = False) -> list[float]:
                asked.append(likelihood)
                return super().rewards(selections, part)

        policy_of(ENAS(MACRO, **QUICK, **given)).learn(Noting(1, generator()))
        assert asked == [expected] * 2

    def test_near_nodes_are_preferred(self) -> None:
        space = registry.make("space", "recurrent-cell", given={"nodes": 6})
        column = [decision.name for decision in space.decisions].index("node5.input")
        near, even = (
            ENASPolicy(space, ENAS(space, nearness=nearness).settings, 0).sample(2000, generator())[:, column]
            for nearness in (True, False)
        )
        shares = np.bincount(near, minlength=5) / 2000
        expected = np.exp(-(np.arange(5, 0, -1) ** 2) / 6)
        np.testing.assert_allclose(shares, expected / expected.sum(), atol=0.05)
        assert np.bincount(even, minlength=5).min() > 300

    @pytest.mark.parametrize(
        ("space", "minibatches", "steps"), [(MACRO, 45_000 // 128, 50), (CELL, 45_000 // 160, 30), (CELL, 20, 10)]
    )
    def test_steps_by_default(self, space: SearchSpace, minibatches: int, steps: int) -> None:
        """As many as the authors' for as many minibatches as theirs, in proportion for others, but not too few."""
        asked: list[int] = []

        def reward(children: np.ndarray[Any, Any]) -> list[float]:
            asked.append(len(children))
            return [0.5] * len(children)

        improve(policy_of(ENAS(space, children=2)), reward, minibatches, generator())
        assert asked == [2] * steps

    def test_options_reach_the_policy(self) -> None:
        strategy = ENAS(MACRO, hidden=8, temperature=5.0, tanh_constant=2.0, op_tanh_reduce=3.0, lr=0.5, **QUICK)
        policy = policy_of(strategy)
        assert policy.settings == strategy.settings
        controller, learner = policy.learner.controller, policy.learner
        assert (controller.hidden, controller.temperature) == (8, 5)
        assert (controller.tanh_constant, controller.op_tanh_reduce) == (2, 3)
        assert learner.adam == {"lr": 0.5, "beta1": 0, "beta2": 0.999, "eps": 0.001}
        assert (learner.switch_target, learner.switch_weight) == (0.4, 0.8)

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ({"candidates": 0}, "need 1 <= candidates <= 10,000, got 0"),
            ({"candidates": 10_001}, "candidates"),
            ({"steps": 0}, "1 <= steps"),
            ({"steps": 10**9}, "steps <= 100,000"),
            ({"children": 0}, "1 <= children"),
            ({"hidden": 0}, "1 <= hidden"),
            ({"hidden": 1001}, "hidden <= 1,000"),
            ({"lr": 0.0}, "0 < lr <= 1"),
            ({"lr": -1.0}, "lr"),
            ({"lr": 1e30}, "lr"),
            ({"temperature": 0.0}, "temperature"),
            ({"tanh_constant": 1e300}, "need 0.001 <= tanh_constant <= 1000"),
            ({"op_tanh_reduce": -2.0}, "op_tanh_reduce"),
            ({"entropy_weight": -0.1}, "entropy_weight"),
            ({"entropy_weight": 1e308}, "entropy_weight"),
            ({"baseline_decay": 1.0}, "baseline_decay"),
            ({"baseline_decay": -0.1}, "baseline_decay"),
            ({"skip_target": 0.0}, "skip_target"),
            ({"skip_target": 1.0}, "skip_target"),
            ({"skip_weight": -1.0}, "skip_weight"),
            ({"op_bias": -0.1}, "op_bias"),
            ({"op_bias_later": -0.1}, "op_bias_later"),
            ({"op_bias_learnt": 1001.0}, "op_bias_learnt <= 1000"),
            ({"op_bias": 1001.0}, "op_bias <= 1000"),
            ({"skip_weight": 1e308}, "skip_weight"),
        ],
        ids=str,
    )
    def test_bad_values(self, given: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError, match=message) as caught:
            ENAS(CELL, **given)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "given",
        [
            {"lr": 1.0, "tanh_constant": 1000.0, "op_tanh_reduce": 0.001},
            {"temperature": 0.001, "entropy_weight": 1000.0, "skip_weight": 1000.0},
            {"temperature": 1000.0, "tanh_constant": 0.001, "skip_target": 1e-9, "op_bias": 1000.0},
        ],
        ids=str,
    )
    @pytest.mark.parametrize("space", [CELL, MACRO], ids=lambda space: space.name)
    def test_extreme_values_stay_finite(self, space: SearchSpace, given: dict[str, Any]) -> None:
        policy = policy_of(ENAS(space, **QUICK, **given))
        for round_ in range(3):
            learnt = improve(policy, made_up, MINIBATCHES, generator(round_))
            assert all(np.isfinite(list(learnt.values()))), learnt
        assert all(bool(value.isfinite().all()) for value in policy.state_dict().values())


class TestBias:
    """Operations with weights are favoured: by how much, and in which cell."""

    def test_the_published_code_has_less_in_the_reduction_cell(self) -> None:
        space = CellCNN(blocks=2)
        settings = ENAS(space).settings
        assert (settings.op_bias, settings.op_bias_later) == (0.47, 0.22)
        drawn = ENASPolicy(space, settings, 0).sample(4000, generator())
        for cell, bias in (("normal", 0.47), ("reduce", 0.22)):
            columns = [i for i, d in enumerate(space.decisions) if d.place.startswith(cell) and not d.refers]
            weighted = 2 * np.exp(bias) / (2 * np.exp(bias) + 3 * np.exp(-bias))
            assert np.isin(drawn[:, columns], [0, 1]).mean() == pytest.approx(weighted, abs=0.02)

    def test_one_that_is_given_is_for_all(self) -> None:
        settings = ENAS(CellCNN(blocks=2), op_bias=1.0).settings
        assert (settings.op_bias, settings.op_bias_later) == (1.0, None)

    def test_cells(self) -> None:
        assert in_first_cell(CELL.decisions) == [True] * 6
        assert in_first_cell(MACRO.decisions) == [True] * len(MACRO.decisions)
        for space in (CellCNN(blocks=3), CellCNN(blocks=1), CellCNN(blocks=2, combine="search")):
            assert in_first_cell(space.decisions) == [d.place.startswith("normal") for d in space.decisions]

    def test_a_learnt_one_is_learnt_and_continues(self) -> None:
        policy = ENASPolicy(CELL, ENAS(CELL, op_bias=0.0, op_bias_learnt=0.5, **QUICK).settings, 0)
        (before,) = [
            value for name, value in policy.state_dict().items() if name.startswith("controller.learnt_biases")
        ]
        assert before.tolist() == [0, 0, 0.5, 0.5, 0]
        improve(policy, made_up, MINIBATCHES, generator())
        state = policy.state_dict()
        (after,) = [value for name, value in state.items() if name.startswith("controller.learnt_biases")]
        assert not torch.equal(before, after)
        again = ENASPolicy(CELL, policy.settings, 1)
        again.load_state_dict(state)
        assert all(torch.equal(value, state[name]) for name, value in again.state_dict().items())


class TestOrder:
    def test_planned_trials(self) -> None:
        strategy = ENAS(CELL, **QUICK)
        assert strategy.planned_trials(30) == 36
        assert strategy.planned_trials(None) is None

    @pytest.mark.parametrize("space", [CELL, MACRO, CellCNN(blocks=2)], ids=lambda space: space.name)
    def test_rounds_and_then_candidates(self, space: SearchSpace) -> None:
        strategy = ENAS(space, **QUICK)
        trials = Rounds(strategy, 4).drive(strategy)
        assert len(trials) == strategy.planned_trials(4)
        assert [t.proposal.policy and t.proposal.policy["round"] for t in trials] == [0, 1, 2, 3] + [None] * 6
        for trial in trials:
            space.validate(trial.proposal.arch)
        assert len({space.canonical(trial.proposal.arch) for trial in trials[4:]}) == 6
        assert strategy.ask() is None

    def test_a_round_scores_the_child_that_looked_best_in_the_one_before(self) -> None:
        strategy = ENAS(CELL, **QUICK)
        rounds = Rounds(strategy, 3)
        first, second, third = rounds.drive(strategy, 3)
        for before, trial in ((first, second), (second, third)):
            assert before.evaluation is not None and before.evaluation.policy is not None
            learnt: Any = before.evaluation.policy
            assert tuple(learnt["best"]) == trial.proposal.arch.choices
            assert set(learnt) == {"best", "rounds_left"}
        assert third.evaluation is not None and third.evaluation.policy is not None
        assert set(third.evaluation.policy) == {"best", "candidates", "rounds_left"}

    def test_nothing_beside_a_round(self) -> None:
        """Several workers would have to share the weights."""
        strategy = ENAS(CELL, **QUICK)
        assert strategy.ask() is not None
        assert strategy.ask() is None
        assert strategy.ask() is None

    def test_candidates_do_not_wait_for_each_other(self) -> None:
        strategy = ENAS(CELL, **QUICK)
        Rounds(strategy, 1).drive(strategy, 1)
        asked = [strategy.ask() for _ in range(7)]
        assert [proposal is not None for proposal in asked] == [True] * 6 + [False]

    def test_a_failed_round_is_asked_again(self) -> None:
        strategy, undisturbed = ENAS(CELL, **QUICK), ENAS(CELL, **QUICK)
        rounds = Rounds(strategy, 2)
        rounds.drive(strategy, 1)
        proposal = strategy.ask()
        assert proposal is not None and proposal.policy is not None and proposal.policy["round"] == 1
        strategy.tell(Trial(1, proposal, "failed", error="made up"))
        assert strategy.ask() == proposal
        strategy.tell(Trial(2, proposal, "done", Evaluation({"shared_acc": 0.5}, 1.0), (-0.5,)))  # it says nothing
        assert strategy.ask() == proposal
        strategy.tell(rounds.evaluate(proposal))
        Rounds(undisturbed, 2).drive(undisturbed, 2)
        assert [strategy.ask() for _ in range(6)] == [undisturbed.ask() for _ in range(6)]

    def test_a_failed_candidate_is_not(self) -> None:
        strategy = ENAS(CELL, **QUICK)
        Rounds(strategy, 1).drive(strategy, 1)
        asked = []
        for i in range(1, 7):
            proposal = strategy.ask()
            assert proposal is not None
            asked.append(proposal.arch)
            strategy.tell(Trial(i, proposal, "failed", error="made up"))
        assert len(set(asked)) == 6
        assert strategy.ask() is None

    @pytest.mark.parametrize("running", [False, True])
    @pytest.mark.parametrize("cut", range(9))
    def test_it_goes_on_after_any_trial(self, cut: int, running: bool) -> None:
        """A kill between two trials, or during one."""
        strategy = ENAS(CELL, **QUICK, seed=3)
        whole = [trial.proposal for trial in Rounds(strategy, 3).drive(strategy)]
        other = ENAS(CELL, **QUICK, seed=3)
        rounds = Rounds(other, 3)
        told = list(rounds.drive(other, cut))
        out = other.ask() if running else None
        state = json.loads(json.dumps(other.state_dict()))
        again = ENAS(CELL, **QUICK, seed=3)
        again.load_state_dict(state, told if out is None else [*told, Trial(cut, out)])
        if out is not None:
            assert out == whole[cut]
            rounds.trials.append(rounds.evaluate(out))
            again.tell(rounds.trials[-1])
        rounds.drive(again)
        assert [trial.proposal for trial in rounds.trials] == whole


class TestWarmUp:
    def test_nothing_is_learnt_in_it(self) -> None:
        policy = ENASPolicy(CELL, ENAS(CELL, warmup=0.5, **QUICK).settings, 0)
        before = policy.state_dict()
        for progress in (0.1, 0.3, 0.5):
            learnt = improve(policy, made_up, MINIBATCHES, generator(), progress)
            assert {"reward", "entropy"} <= learnt.keys()
            assert policy.best
            state = policy.state_dict()
            assert state.keys() == before.keys() and all(torch.equal(state[name], before[name]) for name in before)
        improve(policy, made_up, MINIBATCHES, generator(), 0.51)
        state = policy.state_dict()
        assert any(not torch.equal(state[name], before[name]) for name in before)

    @pytest.mark.parametrize("warmup", [-0.1, 1.0])
    def test_bad_share(self, warmup: float) -> None:
        with pytest.raises(ValueError, match="need 0 <= warmup < 1"):
            ENAS(CELL, warmup=warmup)


class TestPolicy:
    def settings(self, space: SearchSpace, **given: Any) -> Settings:
        return ENAS(space, **given).settings

    def share(self, policy: ENASPolicy, column: int, option: int) -> float:
        return float(np.mean(policy.sample(2000, generator(99))[:, column] == option))

    @pytest.mark.parametrize(("space", "column", "option"), [(CELL, 5, 2), (MACRO, 0, 3)], ids=["cell", "macro"])
    def test_it_learns_what_is_rewarded(self, space: SearchSpace, column: int, option: int) -> None:
        """With the learning rate and all else as published; chance is 1/5 and 1/6."""
        policy = ENASPolicy(space, self.settings(space, steps=150), 0)
        before = self.share(policy, column, option)
        learnt = improve(policy, lambda rows: (rows[:, column] == option).astype(float).tolist(), 1, generator())
        after = self.share(policy, column, option)
        assert before < 0.3
        assert after > before + 0.15
        assert before < learnt["reward"] < after

    def test_a_constant_reward_teaches_nothing_but_the_rate_of_skips(self) -> None:
        policy = ENASPolicy(MACRO, self.settings(MACRO, steps=100, lr=0.01), 0)
        ops = [i for i, decision in enumerate(MACRO.decisions) if not decision.is_switch]
        switches = [i for i, decision in enumerate(MACRO.decisions) if decision.is_switch]
        before = policy.sample(4000, generator(1))
        assert before[:, switches].mean() == pytest.approx(0.5, abs=0.03)
        learnt = improve(policy, lambda rows: [0.7] * len(rows), 1, generator())
        after = policy.sample(4000, generator(1))
        assert after[:, switches].mean() == pytest.approx(0.4, abs=0.02), "of what is sampled, not of half its logit"
        for op in range(6):
            assert (after[:, ops] == op).mean() == pytest.approx(1 / 6, abs=0.05)
        assert 0.4 <= learnt["switch_rate"] < 0.5
        assert learnt["reward"] == pytest.approx(0.7)

    def test_what_it_reports(self) -> None:
        for space, names in ((CELL, {"reward", "entropy"}), (MACRO, {"reward", "entropy", "switch_rate"})):
            policy = ENASPolicy(space, self.settings(space, op_bias=0.0, **QUICK), 0)
            learnt = improve(policy, made_up, MINIBATCHES, generator())
            assert set(learnt) == names
            most = sum(np.log(len(decision.options)) for decision in space.decisions)
            assert 0.95 * most < learnt["entropy"] <= most + 1e-4, "in nats, at first nearly uniform"

    def test_operations_with_weights_are_favoured(self) -> None:
        """In proportion exp(op_bias) to exp(-op_bias) before anything is learnt: 2 of 5 operations have weights."""
        for bias, expected in ((None, 0.63), (0.0, 0.4)):
            drawn = ENASPolicy(CELL, self.settings(CELL, op_bias=bias), 0).sample(2000, generator())
            assert np.isin(drawn, [2, 3]).mean() == pytest.approx(expected, abs=0.03)

    def test_best_is_the_best_of_the_last_step(self) -> None:
        policy = ENASPolicy(CELL, self.settings(CELL, **QUICK), 0)
        seen: list[np.ndarray[Any, Any]] = []

        def reward(children: np.ndarray[Any, Any]) -> list[float]:
            seen.append(children)
            return made_up(children)

        improve(policy, reward, MINIBATCHES, generator())
        assert [children.shape for children in seen] == [(3, 6)] * 2
        learnt = policy.conclude(1, generator())
        assert learnt.candidates is None and learnt.rounds_left == 1
        assert list(learnt.best) == seen[-1][int(np.argmax(made_up(seen[-1])))].tolist()

    def test_frequencies_are_those_of_the_policy(self) -> None:
        policy = ENASPolicy(CELL, self.settings(CELL, **QUICK), 0)
        before = generator().get_state()
        rng = generator()
        told = policy.conclude(1, rng)
        assert torch.equal(rng.get_state(), before)  # nothing that follows changes because of a report
        controller = policy.learner.controller
        with torch.no_grad():
            drawn = controller.sample(20_000, torch.Generator().manual_seed(5))
        for i, (decision, shares) in enumerate(zip(CELL.decisions, told.frequencies or (), strict=True)):
            assert len(shares) == len(decision.options) and sum(shares) == 1
            expected = drawn[:, i].bincount(minlength=len(shares)) / len(drawn)
            assert np.abs(np.array(shares) - expected.numpy()).max() < 0.15  # 256 draws: 4 standard deviations

    @pytest.mark.parametrize("count", [1, 100])
    def test_so_many_candidates(self, count: int) -> None:
        policy = ENASPolicy(CELL, self.settings(CELL, steps=1, candidates=count), 0)
        improve(policy, made_up, MINIBATCHES, generator())
        told = policy.conclude(0, generator())
        assert len({CELL.canonical(CELL.arch(choices)) for choices in (told.candidates or ())}) == count
        assert len(told.candidates or ()) == count

    def test_a_collapsed_policy_has_fewer(self) -> None:
        policy = ENASPolicy(
            CELL,
            self.settings(CELL, steps=40, lr=0.3, tanh_constant=20.0, op_tanh_reduce=2.5, op_bias=0.0, candidates=50),
            0,
        )
        learnt = improve(policy, lambda rows: (rows == 1).mean(1).tolist(), 1, generator())
        told = policy.conclude(0, generator())
        assert 1 <= len(told.candidates or ()) < 25
        assert learnt["entropy"] < 0.7 * 6 * np.log(5)

    def test_members_only(self) -> None:
        class Ruled(NasBench201):
            """Half of the combinations are no members."""

            def is_member(self, arch: Any) -> bool:
                return super().is_member(arch) and arch.choices[0] < 2

        space = Ruled()
        policy = ENASPolicy(space, self.settings(space, **QUICK), 0)
        assert set(policy.sample(200, generator())[:, 0]) == {0, 1}

        class Empty(NasBench201):
            def is_member(self, arch: Any) -> bool:
                return False

        with pytest.raises(ValueError, match="hardly ever draws a member"):
            ENASPolicy(Empty(), self.settings(space, **QUICK), 0).sample(1, generator())

    def test_it_goes_on_exactly(self) -> None:
        """Parameters, Adam's moments and the baseline, through a checkpoint."""
        whole, first = (ENASPolicy(MACRO, self.settings(MACRO, **QUICK), 0) for _ in range(2))
        for policy in (whole, first):
            improve(policy, made_up, MINIBATCHES, generator(1))
        other = ENASPolicy(MACRO, self.settings(MACRO, **QUICK), 7)
        other.load_state_dict(first.state_dict())
        found = [improve(policy, made_up, MINIBATCHES, generator(2)) for policy in (whole, other)]
        assert found[0] == found[1]
        concluded = [policy.conclude(0, generator(3)) for policy in (whole, other)]
        assert concluded[0] == concluded[1]

    def test_seeds_differ(self) -> None:
        drawn = [ENASPolicy(CELL, self.settings(CELL, **QUICK), seed).state_dict() for seed in (0, 0, 1)]
        start = [state["controller.start"] for state in drawn]
        assert torch.equal(start[0], start[1]) and not torch.equal(start[0], start[2])


def test_fair_sets_train_the_weights_in_the_warm_up() -> None:
    class Steps(Counting):
        def weights_step(self, selections: Sequence[Selection], gradient: bool = False) -> Tensor:
            sets.append([one.choices for one in selections if isinstance(one, Arch)])
            return super().weights_step(selections, gradient)

    space = NasBench201()
    settings = ENAS(space, fair=True, warmup=0.5).settings
    for done, many in ((0, True), (1, True), (2, False), (3, False)):
        sets: list[list[tuple[int, ...]]] = []
        policy = ENASPolicy(space, settings, 0)
        policy.round(Steps(3, generator(), progress=done / 4, rounds=4))
        assert len(sets) == 3
        for children in sets:
            assert len(children) == (5 if many else 1)
            assert not many or (np.sort(children, axis=0) == np.arange(5)[:, None]).all()
    assert policy.fair_share == 0.5 and ENASPolicy(space, ENAS(space).settings, 0).fair_share == 0
    with pytest.raises(ValueError, match="give warmup"):
        ENAS(space, fair=True, warmup=0.0)
