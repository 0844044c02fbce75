"""Strategy nesbs: rounds of uniform sampling, then a posterior, and the best of the sets that are drawn from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nastool.core.space import SearchSpace
from nastool.core.values import Arch, Proposal
from nastool.evaluators.supernet import Supernet
from nastool.spaces.cell_cnn import CellCNN
from nastool.spaces.nasbench201 import NasBench201
from nastool.strategies.nesbs import NESBS, NESBSPolicy
from nastool.training.counting import Counting
from nastool.training.shared import SharedWeights

SPACE = NasBench201()
CONVOLUTION = 3
"""Option of each edge that the made-up validation loss is lower with."""


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def likelihoods(archs: Sequence[Arch]) -> list[float]:
    """exp(-loss): each of the six edges with a convolution takes 0.3 off the loss."""
    return [float(np.exp(-2 + 0.3 * arch.choices.count(CONVOLUTION))) for arch in archs]


class Trainer(Counting):
    """One that keeps which children trained the weights, and which sets were scored."""

    def __init__(self, seed: int = 0, steps: int = 50, progress: float = 1.0) -> None:
        super().__init__(steps, generator(seed), likelihoods, progress)
        self.children: list[Arch] = []
        self.scored: list[list[Arch]] = []

    def weights_step(self, selections: Sequence[Any], gradient: bool = False) -> torch.Tensor:
        self.children += selections
        return super().weights_step(selections, gradient)

    def mean_losses(self, sets: Sequence[Sequence[Arch]], part: Any) -> list[float]:
        self.scored += map(list, sets)
        return super().mean_losses(sets, part)


def policy_of(space: SearchSpace = SPACE, **options: Any) -> NESBSPolicy:
    """Of the options that its proposals carry, through JSON, as it reaches an evaluator."""
    strategy = NESBS(space, **options)
    proposal = strategy.ask()
    assert proposal is not None and proposal.policy is not None
    given: Any = json.loads(json.dumps(proposal.policy))
    return NESBS.make_policy(space, given["options"], 0)


def ended(
    seed: int = 0, space: SearchSpace = SPACE, **options: Any
) -> tuple[NESBSPolicy, Trainer, Mapping[str, float]]:
    """After the last round."""
    policy, trainer = policy_of(space, **options), Trainer(seed)
    return policy, trainer, policy.round(trainer)


def hamming(members: Sequence[Sequence[int]]) -> float:
    """In how many decisions two members differ, the mean over pairs."""
    pairs = combinations(members, 2)
    return float(np.mean([sum(a != b for a, b in zip(*pair, strict=True)) for pair in pairs]))


class TestOptions:
    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"members": 0}, "need 1 <= members <= 1,000, got 0"),
            ({"sets": 0}, "need 1 <= sets <= 10,000, got 0"),
            ({"delta": 101.0}, "need -100 <= delta <= 100, got 101"),
            ({"steps": -1}, "need 0 <= steps <= 100,000, got -1"),
            ({"children": 1}, "need 2 <= children <= 10,000, got 1"),
            ({"examples": float("nan")}, "need 0 <= examples <= 1e+09, got nan"),
            ({"lr": 0.0}, "need 0 < lr <= 10, got 0"),
            (
                {"sampler": "mc", "delta": 1.0},
                "delta is what sampler=svgd-rd holds members apart by: leave one of the two out",
            ),
        ],
        ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
    )
    def test_out_of_range(self, options: dict[str, Any], message: str) -> None:
        with pytest.raises(ValueError) as caught:
            NESBS(SPACE, **options)
        assert str(caught.value) == message

    def test_as_many_trials_as_rounds_and_members(self) -> None:
        assert NESBS(SPACE, members=5).planned_trials(7) == 12


class TestRounds:
    """Before the last the posterior is uniform."""

    def test_children_are_drawn_uniformly(self) -> None:
        policy, trainer = policy_of(), Trainer(steps=2000, progress=0.5)
        found = policy.round(trainer)
        assert found == {"entropy": pytest.approx(6 * np.log(5))}
        counts = np.array([[arch.choices[i] for arch in trainer.children].count(o) for i in range(6) for o in range(5)])
        assert abs(counts - 400).max() < 4.5 * np.sqrt(2000 * 0.2 * 0.8)
        assert trainer.asked == [] and trainer.scored == []
        learnt = policy.conclude(1, generator())
        assert learnt.candidates is None and learnt.best == trainer.children[-1].choices

    def test_draws_come_from_the_rounds_generator(self) -> None:
        def children(seed: int) -> list[Arch]:
            trainer = Trainer(seed, progress=0.5)
            policy_of().round(trainer)
            return trainer.children

        assert children(1) == children(1) != children(2)


class TestTheEnd:
    """The last round: posterior, sets, and what is charged."""

    def test_the_posterior_prefers_what_is_likelier(self) -> None:
        """In decisions that count one by one it is exp(examples * 0.3) times as likely."""
        policy, _, found = ended(examples=5.0, steps=300, lr=0.1)
        shares = policy.posterior.shares[:, CONVOLUTION]
        exact = np.exp(1.5) / (np.exp(1.5) + 4)
        np.testing.assert_allclose(shares, exact, atol=0.15)
        assert shares.mean() == pytest.approx(exact, abs=0.05)
        assert found["entropy"] == pytest.approx(policy.posterior.entropy())
        learnt = policy.conclude(0, generator())
        assert learnt.frequencies is not None
        np.testing.assert_array_equal(np.array(learnt.frequencies), policy.posterior.shares)

    @pytest.mark.parametrize("sampler", ["mc", "svgd-rd"])
    def test_the_best_set_is_what_is_trained(self, sampler: str) -> None:
        policy, trainer, found = ended(sampler=sampler, members=3, sets=7, examples=5.0)
        sets, last = trainer.scored[:7], trainer.scored[7:]
        losses = Counting(1, generator(), likelihoods).mean_losses(sets, "val")
        assert found["set_loss"] == min(losses)
        best = sets[int(np.argmin(losses))]
        assert last == [[arch] for arch in best]
        learnt = policy.conclude(0, generator())
        assert learnt.candidates == tuple(arch.choices for arch in best)
        assert learnt.best == best[0].choices
        for each in sets:
            assert len({SPACE.canonical(arch) for arch in each}) == 3

    def test_all_that_is_looked_at_is_counted(self) -> None:
        """Rewards of all children, and predictions of all members of all sets."""
        _, trainer, _ = ended(steps=4, children=6, sets=5, members=2)
        assert trainer.asked == [6] * 4
        members = {arch for each in trainer.scored for arch in each}
        assert len(trainer.scored) == 5 + 2
        assert len(members) <= trainer.predicted <= len(members) + 2

    def test_members_of_a_set_differ_more_the_more_diversity_is_worth(self) -> None:
        apart = []
        for delta in (0.0, 2.0, 8.0):
            _, trainer, _ = ended(delta=delta, examples=8.0)
            apart.append(np.mean([hamming([arch.choices for arch in each]) for each in trainer.scored[:10]]))
        assert apart[0] < apart[1] < apart[2]

    def test_the_narrower_the_posterior_the_likelier_its_members(self) -> None:
        def loss(examples: float) -> float:
            return ended(examples=examples, sampler="mc", sets=1)[2]["member_loss"]

        assert loss(50.0) < loss(0.0)

    def test_where_the_rules_forbid_options_members_obey_them(self) -> None:
        space = CellCNN(blocks=2)
        _, trainer, _ = ended(space=space, steps=3)
        assert all(space.is_member(arch) for each in trainer.scored for arch in each)

    def test_sets_of_one(self) -> None:
        policy, _, found = ended(members=1)
        assert found["set_loss"] == pytest.approx(found["member_loss"])
        assert len(policy.chosen) == 1

    def test_a_loss_that_is_no_number_is_never_the_best(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(self: Trainer, sets: Sequence[Sequence[Arch]], part: Any) -> list[float]:
            return [float("nan")] * (len(sets) - 1) + [3.0]

        monkeypatch.setattr(Trainer, "mean_losses", broken)
        assert ended(sets=3)[2]["set_loss"] == 3.0

    def test_it_goes_on_from_its_state(self) -> None:
        policy, _, _ = ended()
        other = policy_of()
        other.load_state_dict(policy.state_dict())
        assert np.array_equal(policy.sample(5, generator()), other.sample(5, generator()))
        assert other.conclude(0, generator()) == policy.conclude(0, generator())


class TestWithSharedWeights:
    """On digits, in seconds."""

    options: Mapping[str, Any] = {"steps": 3, "children": 4, "sets": 3, "members": 2}

    def supernet(self, folder: Path | None = None, **more: Any) -> Supernet:
        evaluator = Supernet(
            SPACE, data="digits", train_size=300, epochs=2, batch_size=50, scale={"channels": 4}, device="cpu", **more
        )
        evaluator.make_policy = NESBS.make_policy
        evaluator.workdir = folder
        return evaluator

    def proposal(self, number: int) -> Proposal:
        proposal = NESBS(SPACE, **self.options).ask()
        assert proposal is not None and proposal.policy is not None
        return Proposal(proposal.arch, policy={**proposal.policy, "round": number})

    def test_a_killed_search_goes_on_bit_for_bit(self, tmp_path: Path) -> None:
        """The last round from the checkpoint of the one before, in another process as it were."""
        whole, again = self.supernet(tmp_path / "a"), tmp_path / "b"
        found = [
            (
                whole.evaluate(i, self.proposal(i), seed=i, report=lambda *_: None),
                self.supernet(again).evaluate(i, self.proposal(i), seed=i, report=lambda *_: None),
            )
            for i in range(2)
        ]
        for undisturbed, resumed in found:
            assert undisturbed.metrics == resumed.metrics
            assert undisturbed.policy == resumed.policy
        metrics, learnt = found[1][0].metrics, found[1][0].learnt
        assert learnt is not None and learnt.candidates is not None and len(learnt.candidates) == 2
        assert metrics["set_loss"] <= metrics["member_loss"]  # Jensen
        assert {"gain", "gain_se", "entropy"} <= metrics.keys()

    @pytest.fixture(scope="class")
    @classmethod
    def shared(cls) -> SharedWeights:
        evaluator = cls().supernet()
        evaluator.prepare()
        shared = evaluator._load()
        shared.epoch(0, generator(), policy_of(steps=0).round)
        return shared

    def test_the_loss_of_a_mean_prediction(self, shared: SharedWeights) -> None:
        rng = np.random.default_rng(0)
        a, b, c = (SPACE.sample(rng) for _ in range(3))
        before = {name: value.clone() for name, value in shared.network.state_dict().items()}
        one, two, three = shared.mean_losses([[a], [a, b], [a, b, c]], "val")
        alone = shared.losses([a, b, c], "val")
        assert one == pytest.approx(alone[0], rel=1e-5)
        assert two < np.mean(alone[:2]) and three < np.mean(alone)
        batches = shared.parts["val"]
        sums: Any = 0.0
        for arch in (a, b):
            shared.network.select(arch)
            with torch.no_grad():
                sums += torch.cat([shared.network(x).softmax(1) for x, _ in batches.mixed(50)])
        labels = torch.cat([y for _, y in batches.mixed(50)])
        expected = -(sums / 2).double()[torch.arange(len(labels)), labels].log().mean().item()
        assert two == pytest.approx(expected, rel=1e-5)
        assert all(torch.equal(value, before[name]) for name, value in shared.network.state_dict().items())

    def test_of_a_task_without_ensembles_the_members_losses_count(
        self, shared: SharedWeights, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def none(*_: Any) -> None:
            raise NotImplementedError

        monkeypatch.setattr(type(shared.training.task), "predict", none)
        rng = np.random.default_rng(0)
        a, b = (SPACE.sample(rng) for _ in range(2))
        alone = shared.losses([a, b], "val")
        assert shared.mean_losses([[a, b], [b]], "val") == pytest.approx([np.mean(alone), alone[1]])

    def test_an_estimate_spreads_what_comes_last_over_the_rounds(
        self, shared: SharedWeights, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A second for whatever is timed: steps, the pairs of the gain, and of posterior and sets the half."""
        monkeypatch.setattr("nastool.evaluators.supernet.seconds_of_one", lambda *_: 1.0)
        cost, score = self.supernet()._costs(self.proposal(0))
        assert score == 1
        rewards, pairs = 3 * 4, 2 * 16
        most = 3 * 2 + 2  # members of the sets, and once more those of the best
        rest = cost - len(shared.steps) - rewards / 2 - pairs
        assert (most - 4) / 2 < rest < most / 2 + 1
