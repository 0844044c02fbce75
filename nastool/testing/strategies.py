"""What every strategy promises."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from nastool.core import registry
from nastool.core.space import Choose, SearchSpace
from nastool.core.strategy import Earlier, Informable, SeesPredictions, Strategy
from nastool.core.values import Arch, Decision, Evaluation, Proposal, SpaceRef, Trial
from nastool.tasks.images.task import ImageTask
from nastool.training.counting import Counting
from nastool.training.policies import HasPolicy

MakeStrategy = Callable[[SearchSpace, int], Strategy]
Elsewhere = Callable[[Strategy, Mapping[str, object], int], list[list[int]]]


class TinySpace(SearchSpace):
    """Six architectures and no network: small enough to run out of."""

    name = "tiny"
    provides = frozenset()
    Scale = object

    def __init__(self) -> None:
        super().__init__([Decision("a", ("x", "y")), Decision("b", ("p", "q", "r"))])

    def network(self, choose: Choose, task: ImageTask, scale: object) -> None:  # type: ignore[override]  # never called
        raise AssertionError("a strategy builds no network")


ROUNDS = 3
"""How many rounds the made-up evaluator trains a policy for."""


def _let_see(strategy: Strategy) -> None:
    """Give it the predictions, if it looks at any."""
    if isinstance(strategy, SeesPredictions):
        strategy.predictions = made_up_predictions


def outcome(trial_id: int, proposal: Proposal, strategy: Strategy) -> Trial:
    """A made-up objective, with every seventh trial failing. A policy is improved by it, too."""
    if trial_id % 7 == 5:
        return Trial(trial_id, proposal, "failed", error="made up")
    value = _value(proposal.arch.choices)
    told: dict[str, object] | None = None
    if proposal.policy is not None:
        import torch

        given: Any = proposal.policy
        generator = torch.Generator().manual_seed(trial_id)
        assert isinstance(strategy, HasPolicy)
        policy = strategy.make_policy(strategy.space, given["options"], trial_id)
        policy.round(Counting(3, generator, lambda archs: [_value(arch.choices) for arch in archs]))
        told = policy.conclude(ROUNDS - 1 - given["round"], generator).to_json()
        told = json.loads(json.dumps(told))
    return Trial(trial_id, proposal, "done", Evaluation({"val_acc": value}, 1.0, None, told), (-value,))


def _value(choices: tuple[int, ...]) -> float:
    return (hash(choices) % 1009) / 1009  # of a tuple of integers: the same in every process


def made_up_predictions(trial: Trial) -> tuple[NDArray[Any], NDArray[Any]]:
    """What a trial's network would say of 12 samples of 3 classes."""
    choices = trial.proposal.arch.choices
    logits = np.random.default_rng([trial.id, *choices]).normal(size=(12, 3))
    probabilities = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return probabilities, np.arange(12) % 3


def drive(strategy: Strategy, trials: int, first: int = 0) -> list[Trial]:
    """Ask, evaluate, tell, one at a time."""
    done = []
    _let_see(strategy)
    for i in range(first, first + trials):
        proposal = strategy.ask()
        if proposal is None:
            break
        done.append(outcome(i, proposal, strategy))
        strategy.tell(done[-1])
    return done


class StrategyContract:
    """Subclass it and give the fixtures `make` (space, seed -> strategy) and `space`.

    `given`: the options that `make` builds it with, where it is registered and they are not its defaults.
    """

    @pytest.fixture
    def given(self) -> Mapping[str, object]:
        return {}

    @pytest.fixture
    def make(self) -> MakeStrategy:
        raise NotImplementedError("a subclass gives the factory")

    @pytest.fixture
    def space(self) -> SearchSpace:
        raise NotImplementedError("a subclass gives the space")

    def test_proposes_members_and_its_state_does_not_grow(self, make: MakeStrategy, space: SearchSpace) -> None:
        strategy = make(space, 0)
        trials = drive(strategy, 20)
        small = len(json.dumps(strategy.state_dict()))
        trials += drive(strategy, 60, 20)
        assert len(trials) == 80
        for trial in trials:
            space.validate(trial.proposal.arch)
        assert len(json.dumps(strategy.state_dict())) <= small + 100

    def test_follows_its_seed_alone(
        self, make: MakeStrategy, space: SearchSpace, given: Mapping[str, object], elsewhere: Elsewhere
    ) -> None:
        """Not the global generator, nor another PYTHONHASHSEED."""
        state = np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
        strategy = make(space, 1)
        first, again, other = drive(strategy, 60), drive(make(space, 1), 30), drive(make(space, 2), 12)
        assert first[:30] == again
        assert [t.proposal.arch for t in first[:12]] != [t.proposal.arch for t in other]
        after = np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
        assert after == state, "it leaves the global generator alone"
        choices = [list(trial.proposal.arch.choices) for trial in first]
        assert elsewhere(strategy, {"seed": 1, **given}, 60) == choices

    def test_resumes_exactly(self, make: MakeStrategy, space: SearchSpace) -> None:
        """After any number of trials; the state is what a file would hold."""
        cuts = (0, 1, 7, 40)
        strategy, whole, states = make(space, 3), list[Trial](), dict[int, Any]()
        for number in range(cuts[-1] + 20):
            if number in cuts:
                states[number] = json.loads(json.dumps(strategy.state_dict()))
            whole += drive(strategy, 1, number)
        for cut, state in states.items():
            resumed = make(space, 3)
            resumed.load_state_dict(state, whole[:cut])
            assert drive(resumed, 20, cut) == whole[cut : cut + 20], f"resumed after {cut} trials"

    def test_resumes_with_trials_running(self, make: MakeStrategy, space: SearchSpace) -> None:
        """Three are out when it stops: what comes next is the same whether it was stopped or not."""

        def begin() -> tuple[Strategy, list[Trial], list[Trial]]:
            strategy = make(space, 5)
            told = drive(strategy, 40)
            running = []
            for i in range(40, 43):
                proposal = strategy.ask()
                assert proposal is not None
                running.append(Trial(i, proposal))
            return strategy, told, running

        undisturbed, told, running = begin()
        state = json.loads(json.dumps(undisturbed.state_dict()))
        resumed = make(space, 5)
        resumed.load_state_dict(state, [*told, *running])
        _let_see(resumed)
        for strategy in (undisturbed, resumed):
            for trial in (running[2], running[0], running[1]):
                strategy.tell(outcome(trial.id, trial.proposal, strategy))
        assert drive(undisturbed, 30, 43) == drive(resumed, 30, 43)

    def test_resumes_exactly_with_earlier_runs(self, make: MakeStrategy, space: SearchSpace) -> None:
        """Where it learns from such: they tell it where to begin, which is no part of its state."""
        strategy, resumed = make(space, 4), make(space, 4)
        if not (isinstance(strategy, Informable) and isinstance(resumed, Informable)):
            return
        choices = np.array([space.sample(np.random.default_rng(i)).choices for i in range(25)])
        known = Earlier(choices, np.array([[_value(tuple(row))] for row in choices.tolist()]))
        strategy.inform([known])
        before = drive(strategy, 9)
        state = json.loads(json.dumps(strategy.state_dict()))
        after = drive(strategy, 12, 9)
        resumed.inform([known])
        resumed.load_state_dict(state, before)
        assert drive(resumed, 12, 9) == after
        for trial in (*before, *after):
            space.validate(trial.proposal.arch)

    def test_survives_nothing_but_failures(self, make: MakeStrategy, space: SearchSpace) -> None:
        strategy = make(space, 0)
        for i in range(60):
            proposal = strategy.ask()
            assert proposal is not None
            strategy.tell(Trial(i, proposal, "failed", error="made up"))

    def test_asks_ahead_of_tells(self, make: MakeStrategy, space: SearchSpace) -> None:
        """Several workers: None while everything is out is allowed, and changes nothing."""
        strategy = make(space, 0)
        _let_see(strategy)
        out: list[tuple[int, Proposal]] = []
        for _ in range(64):
            i, proposal = strategy.asked, strategy.ask()
            if proposal is None:
                state = json.dumps(strategy.state_dict())
                assert strategy.ask() is None
                assert json.dumps(strategy.state_dict()) == state
                assert out, "with nothing running there is something to ask"
                strategy.tell(outcome(*out.pop(), strategy))
                continue
            out.append((i, proposal))
            if len(out) == 8:
                strategy.tell(outcome(*out.pop(3), strategy))
        assert len({i for i, _ in out}) == len(out)

    def test_a_tiny_space_is_no_trap(self, make: MakeStrategy) -> None:
        """It ends, or goes on repeating members; the state that follows None is unchanged."""
        space = TinySpace()
        strategy = make(space, 0)
        _let_see(strategy)
        archs: list[Arch] = []
        for i in range(40):
            proposal = strategy.ask()
            if proposal is None:
                state = json.dumps(strategy.state_dict())
                assert strategy.ask() is None
                assert json.dumps(strategy.state_dict()) == state
                assert len(set(archs)) == space.size, "it stops only when it has seen everything"
                break
            archs.append(proposal.arch)
            strategy.tell(outcome(i, proposal, strategy))
        assert all(space.is_member(arch) for arch in archs)

    @pytest.fixture(scope="class")
    @classmethod
    def elsewhere(cls) -> Iterator[Elsewhere]:
        """What a strategy asks in another process with another PYTHONHASHSEED: its architectures' choices."""
        command = [sys.executable, "-c", "from nastool.testing.strategies import answer; answer()"]
        environment = {**os.environ, "PYTHONHASHSEED": "12345"}
        with subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdin is not None and process.stdout is not None
            question, answers = process.stdin, process.stdout

            def ask(strategy: Strategy, given: Mapping[str, object], trials: int) -> list[list[int]]:
                space = strategy.space.ref
                print(
                    json.dumps([space.name, dict(space.options), strategy.name, dict(given), trials]),
                    file=question,
                    flush=True,
                )
                found: list[list[int]] = json.loads(answers.readline())
                return found

            yield ask
            question.close()


def answer() -> None:
    """The other process of that test: a line of JSON on stdout for each on stdin."""
    for line in sys.stdin:
        space, options, name, given, trials = json.loads(line)
        strategy = registry.make("strategy", name, registry.make_space(SpaceRef.of(space, options)), given=given)
        print(json.dumps([trial.proposal.arch.choices for trial in drive(strategy, trials)]), flush=True)
