"""NAS-RL's asynchronous replicas, on a clock that no test waits for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nastool.analysis.figures import kinds
from nastool.core.space import SearchSpace
from nastool.core.values import Arch, Evaluation, Trial
from nastool.engine.study import Study
from nastool.learners.controller import Controller
from nastool.learners.policy_gradient import MOST_LIKELIER, PolicyGradient
from nastool.spaces.nasbench201 import NasBench201
from nastool.strategies.reinforce import Reinforce
from nastool.testing.strategies import MakeStrategy, StrategyContract, TinySpace
from tests.contract.test_contracts import write_table
from tests.helpers.running import Run
from tests.helpers.workers import Workers, equal, lognormal


def distance(arch: Arch) -> float:
    """What share of nasbench201's choices is not the last option."""
    return float(np.mean(np.array(arch.choices) != 4))


def workers(strategy: Reinforce, count: int, seconds: Callable[[int], float] = lognormal) -> Workers:
    return Workers(strategy, count, distance, seconds)


def parameters(strategy: Reinforce) -> dict[str, Tensor]:
    return strategy.learner.state_dict()


def archs(trials: list[Trial]) -> list[tuple[int, ...]]:
    return [trial.proposal.arch.choices for trial in sorted(trials, key=lambda trial: trial.id)]


def make(**options: Any) -> Reinforce:
    return Reinforce(NasBench201(), **{"seed": 4, "lr": 0.03, "hidden": 16, **options})


@pytest.mark.parametrize("reward", ["rank", "value"])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_one_replica_is_the_serial_loop(batch: int, reward: str) -> None:
    """Bit for bit, whatever the number of workers and the order in which children end."""
    serial, alone = make(batch=batch, reward=reward), make(batch=batch, reward=reward, replicas=1)
    expected = workers(serial, 1, equal).search(48)
    assert archs(workers(alone, 6).search(48)) == archs(expected)
    assert set(alone.late) == {0}
    one, other = parameters(serial), parameters(alone)
    assert one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("staleness", ["scale", "drop", "weigh"])
def test_a_kill_changes_nothing(staleness: str) -> None:
    """Four replicas, killed after every few trials: the same proposals and, to the bit, the same policy."""
    options = {"replicas": 4, "batch": 3, "staleness": staleness}
    whole = make(**options)
    expected = workers(whole, 12).search(72)
    assert max(whole.late) > 2
    found = workers(make(**options), 12)
    for _ in range(8):
        found.search(72, events=7)
        again = make(**options)
        found = found.killed(again)
    assert found.search(72) == expected
    one, other = parameters(whole), parameters(again)
    assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert again.late == whole.late
    assert not again._policies and not whole._policies, "no policy is kept that nobody needs"


def test_rules_differ_and_learn() -> None:
    found = {}
    for staleness in ("scale", "drop", "weigh"):
        strategy = make(replicas=4, dedup=False, staleness=staleness)
        trials = workers(strategy, 4).search(200)
        found[staleness] = archs(trials)
        assert np.mean([trial.loss for trial in trials[-40:]]) < np.mean([trial.loss for trial in trials[:40]]) - 0.3
    assert len({str(drawn) for drawn in found.values()}) == 3


@pytest.mark.parametrize(("replicas", "batch"), [(2, 1), (4, 2), (5, 3)])
def test_with_equal_times_gradients_are_late_by_the_other_replicas(replicas: int, batch: int) -> None:
    strategy = make(replicas=replicas, batch=batch)
    workers(strategy, replicas * batch, equal).search(20 * replicas * batch)
    assert max(strategy.late) == replicas - 1
    assert strategy.late[replicas - 1] > 18 * replicas


def test_what_is_too_late_is_dropped() -> None:
    """A child that takes as long as 40 others; its gradient changes nothing, scaled it does."""

    def slow(i: int) -> float:
        return 40.5 if i == 5 else 1.0

    for staleness, changes in (("drop", False), ("scale", True)):
        strategy = make(replicas=2, staleness=staleness)
        found = workers(strategy, 2, slow)
        while not any(trial.id == 5 for trial in found.ended):
            before = parameters(strategy)
            found.search(60, events=1)
        assert max(strategy.late) > 30
        after = parameters(strategy)
        assert any(not torch.equal(after[name], value) for name, value in before.items()) == changes


@pytest.mark.parametrize("batch", [1, 4])
def test_no_worker_waits_where_a_barrier_does(batch: int) -> None:
    """Child times log-normal, as many replicas as workers: at least 0.9 of what these could do; a barrier loses 30%."""
    shares = {}
    for name, replicas, m in (("replicas", 8, batch), ("barrier", 1, 8)):
        strategy = Reinforce(TinySpace(), dedup=False, hidden=4, replicas=replicas, batch=m)
        found = Workers(strategy, 8, lambda arch: float(arch.choices[0]))
        found.search(400)
        shares[name] = found.busy
    assert shares["replicas"] >= 0.9 and shares["barrier"] <= 0.7


def test_a_lost_replica_loses_its_children_alone() -> None:
    """Of three replicas with 4 children one is lost: at most those 4 count as failed, and the others go on."""
    strategy = make(replicas=3, batch=4)
    found = workers(strategy, 12)
    found.search(96, events=30)
    batch = found.running[0][1] // 4
    found.lost = [i for _, i, _ in found.running if i // 4 == batch]
    trials = found.search(96)
    assert 1 <= sum(trial.state == "failed" for trial in trials) <= 4
    assert strategy.version == 96 // 4 and len(trials) == 96


def test_trials_that_go_on_between_are_none_of_its_own() -> None:
    """With --fidelity, a child is another's training too: ids have gaps; batches are whole all the same."""
    plain, gaps = make(replicas=2, batch=3), make(replicas=2, batch=3)
    for i in range(24):
        one, other = plain.ask(), gaps.ask()
        assert one is not None and one == other
        for strategy, number in ((plain, i), (gaps, 5 * i + 2)):
            strategy.tell(Trial(number, one, "done", Evaluation({"val_loss": 0.1 * i}, 1.0), (0.1 * i,)))
    assert plain.version == gaps.version == 8


@pytest.mark.parametrize("note", [{"version": 9}, {"version": -1}, {"version": None}, {"batch": 7}, {"batch": "x"}])
def test_damaged_notes_are_refused(note: dict[str, object]) -> None:
    strategy = make(replicas=2, batch=3)
    told = workers(strategy, 1).search(9)
    state = strategy.state_dict()
    damaged = replace(told[3].proposal, notes={**told[3].proposal.notes, **note})
    told[3] = replace(told[3], proposal=damaged)
    with pytest.raises((KeyError, TypeError, ValueError)):
        make(replicas=2, batch=3).load_state_dict(state, told)


def test_there_are_no_more_than_so_many_batches() -> None:
    """What has no place waits for a whole batch, and then there is something to ask."""
    strategy = make(replicas=2, batch=3)
    out: list[Trial] = []
    while (proposal := strategy.ask()) is not None:
        out.append(Trial(len(out), proposal, "done", Evaluation({"val_loss": 0.0}, 1.0), (0.0,)))
    assert len(out) == 6
    for trial in (out[4], out[0], out[2]):
        strategy.tell(trial)
        assert strategy.ask() is None
    strategy.tell(out[1])
    assert strategy.ask() is not None


class TestReplicas(StrategyContract):
    @pytest.fixture(params=["scale", "drop", "weigh"])
    def make(self, request: pytest.FixtureRequest) -> MakeStrategy:
        staleness: Any = request.param
        return lambda space, seed: Reinforce(space, seed=seed, replicas=2, batch=3, staleness=staleness)

    @pytest.fixture
    def given(self, request: pytest.FixtureRequest) -> dict[str, object]:
        return {"replicas": 2, "batch": 3, "staleness": request.node.callspec.params["make"]}

    @pytest.fixture
    def space(self) -> SearchSpace:
        return NasBench201()


def test_the_report_shows_how_late_gradients_are(run: Run, tmp_path: Path) -> None:
    write_table(tmp_path / "t.npz", NasBench201())
    command = "search -s reinforce -S replicas=3 -S batch=2 --evaluator table -E file=t.npz -n 41 --out r"
    run(*command.split()).accepted()
    study = Study.read(tmp_path / "r")
    ((_, drawn),) = kinds.draw(kinds.KINDS["staleness"], [study])
    assert drawn.caption.startswith("By how many updates of the policy each of 20 gradients came late: 0.00 on average")
    assert [trial.trial.proposal.notes["version"] for trial in study.trials] == [i // 2 for i in range(41)]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"replicas": 0}, "replicas"), ({"replicas": 1001}, "replicas"), ({"replicas": 2, "ppo_clip": 0.2}, "ppo_clip")],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Reinforce(NasBench201(), **options)


# --- gradients that come late


def policy(init: float = 0.5) -> Controller:
    return Controller(TinySpace(), hidden=8, init=init, generator=torch.Generator().manual_seed(0))


def after(learner: PolicyGradient, far: float) -> dict[str, Tensor]:
    """Parameters of the policy as it is; then it moves on."""
    before = learner.parameters()
    with torch.no_grad():
        for number, parameter in enumerate(learner.controller.parameters()):
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)), alpha=far)
    return before


def gradient(controller: Controller) -> Tensor:
    return torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in controller.parameters()]
    )


EVERY = torch.tensor([[a, b] for a in range(2) for b in range(3)])
REWARDS = torch.tensor([0.3, -1.0, 0.1, 0.8, 0.0, -0.2])


def expected_gradient(learner: PolicyGradient, before: dict[str, Tensor], factor: float | None) -> Tensor:
    """Of what an earlier policy draws, by enumeration; the learner's step is too small to change a parameter."""
    with learner.policy(before), torch.no_grad():
        shares = learner.controller.score(EVERY).log_prob.exp()
    found = []
    for choices, reward in zip(EVERY, REWARDS, strict=True):
        learner._average, learner._weight = torch.tensor(0.25, dtype=torch.float64), torch.ones((), dtype=torch.float64)
        learner.update(choices[None], reward[None], drawn_by=before, factor=factor)
        found.append(gradient(learner.controller))
    return shares @ torch.stack(found)


def exact(controller: Controller, weights: Tensor | None = None) -> Tensor:
    """The gradient of the expected reward, downwards; or of what is drawn by these shares."""
    scored = controller.score(EVERY)
    controller.zero_grad()
    shares = scored.log_prob.exp().detach() if weights is None else weights
    loss = -(shares * scored.log_prob * (REWARDS - 0.25)).sum()
    loss.backward()  # type: ignore[no-untyped-call]
    return gradient(controller)


def test_importance_weights_leave_the_expected_gradient_as_it_is() -> None:
    """Of two decisions: what an earlier policy drew teaches as if the present one had drawn it."""
    learner = PolicyGradient(policy(), lr=1e-30, entropy_weight=0)
    before = after(learner, 0.05)
    found = expected_gradient(learner, before, None)
    truth = exact(learner.controller)
    torch.testing.assert_close(found, truth, atol=1e-6, rtol=1e-4)
    assert not torch.allclose(expected_gradient(learner, before, 1.0), truth, atol=1e-3)


def test_importance_weights_of_many_draws() -> None:
    """100,000 of them, in one update."""
    learner = PolicyGradient(policy(), lr=1e-30, entropy_weight=0)
    before = after(learner, 0.05)
    with learner.policy(before):
        choices = learner.controller.sample(100_000, torch.Generator().manual_seed(1))
    learner._average, learner._weight = torch.tensor(0.25, dtype=torch.float64), torch.ones((), dtype=torch.float64)
    learner.update(choices, REWARDS[3 * choices[:, 0] + choices[:, 1]], drawn_by=before)
    found = gradient(learner.controller)
    assert float((found - exact(learner.controller)).abs().max()) < 5 * 0.6 / 100_000**0.5


def test_importance_weights_have_a_bound() -> None:
    learner = PolicyGradient(policy(), lr=1e-30, entropy_weight=0)
    before = after(learner, 1.0)
    now = learner.controller.score(EVERY).log_prob.detach()
    with learner.policy(before), torch.no_grad():
        then = learner.controller.score(EVERY).log_prob
    assert float((now - then).max().exp()) > 2
    found = expected_gradient(learner, before, None)
    shares = torch.minimum(now.exp(), MOST_LIKELIER * then.exp())
    torch.testing.assert_close(found, exact(learner.controller, shares), atol=1e-6, rtol=1e-4)


def test_a_late_gradient_is_the_earlier_policys() -> None:
    learner = PolicyGradient(policy(), lr=1e-30, entropy_weight=0)
    with learner.policy(None):
        truth = exact(learner.controller)
    before = after(learner, 0.3)
    there = learner.parameters()
    torch.testing.assert_close(expected_gradient(learner, before, 0.25), truth / 4, atol=1e-6, rtol=1e-4)
    assert all(torch.equal(value, there[name]) for name, value in learner.parameters().items())
