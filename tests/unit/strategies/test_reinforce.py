"""Reinforcement learning as a search strategy."""

from __future__ import annotations

import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nastool.core.space import SearchSpace
from nastool.core.values import Decision, Evaluation, Proposal, Trial
from nastool.engine.study import Study
from nastool.spaces.layerwise_cnn import LayerwiseCNN
from nastool.spaces.nasbench101 import NasBench101
from nastool.spaces.nasbench201 import NasBench201
from nastool.strategies.reinforce import Reinforce
from nastool.testing.strategies import TinySpace, drive
from tests.contract.test_contracts import write_table
from tests.helpers.running import Run


def done(i: int, proposal: Proposal, loss: float) -> Trial:
    return Trial(i, proposal, "done", Evaluation({"val_loss": loss}, 1.0), (loss,))


def search(strategy: Reinforce, trials: int, scale: float = 1.0, shift: float = 0.0) -> list[Trial]:
    """The loss is the mean distance of the choices from the last options."""
    highs = np.array([len(decision.options) - 1 for decision in strategy.space.decisions])
    found = []
    for i in range(trials):
        proposal = strategy.ask()
        assert proposal is not None
        loss = float(np.mean(np.array(proposal.arch.choices) != highs))
        found.append(done(i, proposal, scale * loss + shift))
        strategy.tell(found[-1])
    return found


@pytest.mark.parametrize("reward", ["rank", "value"])
def test_it_finds_more_and_more_of_what_is_good(reward: Any) -> None:
    losses = [trial.loss for trial in search(Reinforce(NasBench201(), seed=0, reward=reward, dedup=False), 120)]
    assert np.mean(losses[:20]) > 0.7
    assert np.mean(losses[-20:]) < 0.3


@pytest.mark.parametrize("reward", ["rank", "value"])
def test_with_dedup_it_finds_the_one_best_of_15625(reward: Any) -> None:
    losses = [trial.loss for trial in search(Reinforce(NasBench201(), seed=0, reward=reward), 150)]
    assert min(losses) == 0


@pytest.mark.parametrize("reward", ["rank", "value"])
def test_the_unit_of_the_objective_does_not_matter(reward: Any) -> None:
    """Exact powers of two, so that nothing is rounded but the sums."""
    one, other = (Reinforce(NasBench201(), seed=0, reward=reward) for _ in range(2))
    first = [trial.proposal.arch for trial in search(one, 40)]
    again = [trial.proposal.arch for trial in search(other, 40, scale=1024, shift=-4096)]
    assert first == again


def test_rewards_by_rank() -> None:
    strategy = Reinforce(NasBench201(), batch=4)
    for i, loss in enumerate([3.0, 1.0, 2.0, 2.0]):
        proposal = strategy.ask()
        assert proposal is not None
        strategy.tell(done(i, proposal, loss))
    assert [strategy._reward(loss) for loss in (1.0, 2.0, 3.0)] == [0.75, 0.0, -0.75]


def test_rewards_by_value() -> None:
    strategy = Reinforce(NasBench201(), batch=4, reward="value")
    losses = [3.0, 1.0, 2.0, 10.0]
    for i, loss in enumerate(losses):
        proposal = strategy.ask()
        assert proposal is not None
        strategy.tell(done(i, proposal, loss))
        if i == 0:
            assert strategy._reward(loss) == 0
    expected = [(np.mean(losses) - loss) / np.std(losses) for loss in losses]
    assert [strategy._reward(loss) for loss in losses] == pytest.approx(expected)


def test_rewards_by_cube() -> None:
    """Accuracies, whose losses are their negative; a failure is the worst of them, and alone teaches nothing."""
    strategy = Reinforce(NasBench201(), batch=4, reward="cube")
    assert strategy._reward(float("inf")) == 0
    for i, loss in enumerate([-0.5, -0.9, -0.8, -0.7]):
        proposal = strategy.ask()
        assert proposal is not None
        strategy.tell(done(i, proposal, loss))
    assert [strategy._reward(loss) for loss in (-0.9, -0.5, float("inf"))] == pytest.approx([0.729, 0.125, 0.125])
    assert np.isfinite(np.float32(strategy._reward(-1e308)))


@pytest.mark.parametrize("reward", ["rank", "value", "cube"])
def test_a_failure_counts_as_the_worst_result(reward: Any) -> None:
    strategy = Reinforce(NasBench201(), batch=4, reward=reward)
    for i, loss in enumerate([3.0, 1.0, None, 2.0]):
        proposal = strategy.ask()
        assert proposal is not None
        strategy.tell(Trial(i, proposal, "failed", error="made up") if loss is None else done(i, proposal, loss))
    failed = strategy._reward(float("inf"))
    assert failed <= strategy._reward(3.0) < strategy._reward(2.0) < strategy._reward(1.0)
    assert np.isfinite(failed)


@pytest.mark.parametrize("reward", ["rank", "value", "cube"])
def test_failures_alone_teach_nothing(reward: Any) -> None:
    strategy = Reinforce(NasBench201(), batch=1, reward=reward, entropy_weight=0)
    before = {name: value.clone() for name, value in strategy.controller.state_dict().items()}
    for i in range(10):
        proposal = strategy.ask()
        assert proposal is not None
        strategy.tell(Trial(i, proposal, "failed", error="made up"))
    assert all(value.equal(before[name]) for name, value in strategy.controller.state_dict().items())


def test_it_learns_after_every_batch() -> None:
    strategy = Reinforce(NasBench201(), batch=4)
    states = []
    for i in range(9):
        states.append({name: value.clone() for name, value in strategy.controller.state_dict().items()})
        proposal = strategy.ask()
        assert proposal is not None
        strategy.tell(done(i, proposal, float(i)))
    changed = [any(not one[name].equal(two[name]) for name in one) for one, two in pairwise(states)]
    assert changed == [i % 4 == 3 for i in range(8)]


def test_nothing_is_asked_twice_until_everything_was() -> None:
    """In 6,466 forms of 15,625 architectures; and a space is exhausted, with one objective or none that differs."""
    space = NasBench201()
    forms = [space.canonical(trial.proposal.arch) for trial in drive(Reinforce(space, seed=1), 150)]
    assert len(set(forms)) == len(forms) == 150
    strategy = Reinforce(TinySpace())
    for i in range(6):
        proposal = strategy.ask()
        assert proposal is not None
        strategy.tell(done(i, proposal, 0.0))
    assert strategy.ask() is None


def test_it_says_what_its_policy_draws() -> None:
    """Now and then."""
    strategy = Reinforce(NasBench201(), lr=0.1)
    told: list[Any] = [trial.proposal.notes.get("frequencies") for trial in search(strategy, 61)]
    assert [i for i, shares in enumerate(told) if shares is not None] == [0, 10, 20, 30, 40, 50, 60]
    assert told[0] is not None and told[60] is not None
    for row in told[0]:
        assert len(row) == 5 and sum(row) == 1 and max(row) < 0.4
    assert np.mean([row[-1] for row in told[60]]) > 2 * np.mean([row[-1] for row in told[0]])


def test_what_it_says_is_no_draw_of_its_own() -> None:
    strategy = Reinforce(NasBench201())
    before = strategy.rng.bit_generator.state
    assert strategy.controller.frequencies() == strategy.controller.frequencies()
    assert strategy.rng.bit_generator.state == before


def test_what_it_says_is_kept(run: Run, tmp_path: Path) -> None:
    write_table(tmp_path / "t.npz", NasBench201())
    run("search", "-s", "reinforce", "--evaluator", "table", "-E", "file=t.npz", "-n", "12", "--out", "r").accepted()
    kept = [trial.frequencies for trial in Study.read(tmp_path / "r").trials]
    assert kept[0] == [list(shares) for shares in Reinforce(NasBench201()).controller.frequencies()]
    assert [i for i, shares in enumerate(kept) if shares] == [0, 10]


def test_repeated_architectures_without_dedup() -> None:
    strategy = Reinforce(TinySpace(), dedup=False, lr=0.05)
    archs = [trial.proposal.arch for trial in search(strategy, 100)]
    assert len(set(archs[-20:])) < 4


def test_members_only() -> None:
    """nasbench101 has rules that the policy does not know."""
    space = NasBench101()
    for trial in drive(Reinforce(space, seed=0), 30):
        space.validate(trial.proposal.arch)


# --- the depth schedule


def depths(strategy: Reinforce, trials: int) -> list[int]:
    options = strategy.space.decisions[0].options
    return [int(options[trial.proposal.arch.choices[0]]) for trial in search(strategy, trials)]


def test_the_depth_follows_its_schedule() -> None:
    space = LayerwiseCNN(layers=5, min_layers=2)
    scheduled = Reinforce(space, seed=0, depth_start=2, depth_step=2, depth_every=6)
    assert depths(scheduled, 20) == [2] * 6 + [4] * 6 + [5] * 8
    assert depths(Reinforce(space, seed=0, depth_start=1, depth_step=0), 3) == [2] * 3
    free = depths(Reinforce(space, seed=0), 20)
    assert len(set(free)) > 2


def test_the_schedule_survives_a_restart() -> None:
    space = LayerwiseCNN(layers=4, min_layers=1)

    def make() -> Reinforce:
        return Reinforce(space, seed=0, depth_start=1, depth_step=1, depth_every=5, batch=2)

    whole = search(make(), 14)
    before = make()
    told = search(before, 7)
    resumed = make()
    resumed.load_state_dict(before.state_dict(), told)
    after = []
    for trial in whole[7:]:
        proposal = resumed.ask()
        assert proposal is not None
        after.append(proposal)
        resumed.tell(done(trial.id, proposal, trial.loss))
    assert after == [trial.proposal for trial in whole[7:]]


def test_a_depth_whose_architectures_are_used_up_is_left() -> None:
    """Of one layer there are 64; then others are asked rather than none."""
    space = LayerwiseCNN(layers=2, min_layers=1)
    found = depths(Reinforce(space, seed=0, depth_start=1, depth_step=0, batch=1000), 66)
    assert found[:60] == [1] * 60 and 2 in found[60:]


def test_a_space_without_depth_is_named() -> None:
    for space in (NasBench201(), LayerwiseCNN()):
        with pytest.raises(ValueError, match="no decision on its depth"):
            Reinforce(space, depth_start=2)


# --- options


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch"),
        ({"batch": 1001}, "batch"),
        ({"hidden": 0}, "hidden"),
        ({"layers": 0}, "layers"),
        ({"ppo_epochs": 2}, "ppo_clip"),
        ({"ppo_epochs": 101, "ppo_clip": 0.2}, "ppo_epochs"),
        ({"lr": 0.0}, "lr"),
        ({"beta1": 1.0}, "betas"),
        ({"entropy_weight": -0.1}, "entropy_weight"),
        ({"baseline_decay": 1.0}, "baseline_decay"),
        ({"temperature": 0.0}, "temperature"),
        ({"tanh_constant": 0.0}, "tanh_constant"),
        ({"depth_step": -1}, "depth_step"),
        ({"depth_every": 0}, "depth_every"),
        ({"depth_start": 0}, "depth_start"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Reinforce(NasBench201(), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"ppo_clip": 0.2, "ppo_epochs": 3, "batch": 5},
        {"temperature": 5.0, "tanh_constant": 2.5, "lr": 0.03},
        {"reward": "cube", "lr": 0.03},
        {"layers": 2, "hidden": 35, "lr": 0.03},
    ],
)
def test_variants_learn_too(options: dict[str, Any]) -> None:
    losses = [trial.loss for trial in search(Reinforce(NasBench201(), seed=0, dedup=False, **options), 150)]
    assert np.mean(losses[-20:]) < np.mean(losses[:20]) - 0.2


def test_a_space_of_one_is_no_trap() -> None:
    class OneMember(TinySpace):
        def __init__(self) -> None:
            SearchSpace.__init__(self, [Decision("a", ("x",))])

    strategy = Reinforce(OneMember())
    proposal = strategy.ask()
    assert proposal is not None
    strategy.tell(done(0, proposal, 1.0))
    assert strategy.ask() is None


def test_importing_it_does_not_import_torch() -> None:
    modules = "nastool.strategies.reinforce, nastool.spaces.layerwise_cnn"
    code = f"import sys; import {modules}; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
