"""Whatever proposes, no trial is spent on an architecture that failed by a fault of its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from nastool.core import options, registry
from nastool.core.errors import OF_THE_MACHINE, Diverged
from nastool.core.evaluator import Evaluator, Report
from nastool.core.space import SearchSpace
from nastool.core.strategy import SeesPredictions, Strategy
from nastool.core.values import Arch, Evaluation, Objective, Proposal, Trial
from nastool.engine.executors.inline import Inline
from nastool.engine.search import Search
from nastool.engine.store import Store
from nastool.learners.fidelities import Asha
from nastool.learners.multi_fidelity import ByLevels
from nastool.spaces.nasbench201 import NasBench201
from nastool.testing.strategies import made_up_predictions, outcome
from tests.contract.test_contracts import SPACE_OPTIONS, STRATEGY_OPTIONS, fitting, own


class Picky(Evaluator):
    """Of some architectures the loss is never finite, others fill the disk on the first try."""

    name = "picky"
    inline = True
    metrics = frozenset({"val_acc"})

    def __init__(self, space: SearchSpace, strategy: Strategy) -> None:
        super().__init__(space)
        self.strategy = strategy
        self.seen: list[tuple[str, Proposal]] = []
        """Canonical form and proposal of what was evaluated."""

    def prepare(self) -> None: ...

    def kind(self, proposal: Proposal) -> int:
        return sum(proposal.arch.choices) % 4 if proposal.policy is None else 3

    def evaluate(self, trial_id: int, proposal: Proposal, *, seed: int, report: Report) -> Evaluation:
        form, kind = self.space.canonical(proposal.arch), self.kind(proposal)
        again = form in [each for each, _ in self.seen]
        self.seen.append((form, proposal))
        if kind == 0:
            raise Diverged("training loss is nan")
        if kind == 1 and not again:
            raise OSError(28, "No space left on device")
        found = outcome(7 * trial_id, proposal, self.strategy).evaluation  # a number that never fails there
        assert found is not None
        return found


@dataclass
class Scene:
    """A search by a strategy, in a folder."""

    folder: Path
    name: str
    seen: list[tuple[str, Proposal]] = field(default_factory=list)
    """As of `Picky`, over all calls."""

    def __post_init__(self) -> None:
        pairs = [space for strategy, space in fitting() if strategy == self.name]
        space = "nasbench201" if "nasbench201" in pairs else pairs[0]
        self.space: SearchSpace = registry.make("space", space, given=SPACE_OPTIONS.get(space, {}))
        ref = {"name": space, "options": dict(self.space.ref.options)}
        self.folder.mkdir()
        Store.create(self.folder / "run.db", {"config": {"space": ref}, "objective": "val_acc:max"}).close()

    def strategy(self) -> Strategy:
        known = options.of(registry.load("strategy", self.name))
        given: dict[str, object] = {
            key: False for key in ("dedup", "inherit") if key in known
        }  # files are not what is tested
        found: Strategy = registry.make(
            "strategy", self.name, self.space, given={**given, **STRATEGY_OPTIONS.get(self.name, {}), "seed": 0}
        )
        return found

    def search(self, trials: int) -> list[Trial]:
        strategy = self.strategy()
        with Store.open(self.folder / "run.db", durable=False) as store:
            evaluator = Picky(self.space, strategy)
            evaluator.seen = self.seen
            objective = [Objective.parse("val_acc")]
            more = {"one_commit": True, "max_failures": 10**6}
            search = Search(store, strategy, Inline(evaluator), objective, 0, trials, self.folder, **more)  # type: ignore[arg-type]
            if isinstance(strategy, SeesPredictions):
                strategy.predictions = made_up_predictions
            search.restore()
            search.run()
            return list(store.trials())


def spent_again(scene: Scene, trials: Sequence[Trial]) -> list[Trial]:
    """Trials that were evaluated although their architecture had failed by a fault of its own before."""
    found, failed = [], set[str]()
    for trial in trials:
        form = scene.space.canonical(trial.proposal.arch)
        answered = (trial.error or "").startswith("as trial ")
        assert not answered or form in failed
        if form in failed and not answered and trial.proposal.policy is None:
            found.append(trial)
        if trial.fault == "nan":
            failed.add(form)
    return found


@pytest.mark.parametrize("name", own("strategy"))
def test_what_failed_by_itself_is_not_evaluated_again(tmp_path: Path, name: str) -> None:
    scene, other = Scene(tmp_path / "a", name), Scene(tmp_path / "b", name)
    trials = scene.search(48)
    for trial in spent_again(scene, trials):
        parent = trials[trial.proposal.parent or 0]
        assert parent.state == "done" and parent.proposal.arch == trial.proposal.arch, "a copy, for another seed"
    answered = [trial for trial in trials if (trial.error or "").startswith("as trial ")]
    assert len(scene.seen) == len(trials) - len(answered)
    assert all(trial.fault == "nan" and "training loss is nan" in (trial.error or "") for trial in answered)
    other.search(19)
    assert other.search(48) == trials, "also where it goes on"


def test_where_much_is_proposed_again(tmp_path: Path) -> None:
    """A strategy that repeats itself is told each time, at once; what was the machine's fault gets its next try."""

    class Stubborn(Strategy):
        name = "stubborn"

        def propose(self) -> Proposal:
            return Proposal(self.space.arch((self.asked // 2 % 4, 2, 2, 2, 2, 2)))

        def tell(self, trial: Trial) -> None: ...

    class Repeating(Scene):
        def strategy(self) -> Strategy:
            return Stubborn(self.space, seed=0)

    scene = Repeating(tmp_path / "a", "random")
    trials = scene.search(16)
    assert "".join(trial.state[0] for trial in trials) == "ddddfffd" + "ddddffdd"
    assert [trial.fault for trial in trials[4:8]] == ["nan", "nan", "machine", None]
    assert [trial.error for trial in trials if trial.fault == "nan"] == [
        "training loss is nan",
        *["as trial 4: training loss is nan"] * 3,
    ]
    assert len(scene.seen) == 13


def test_who_is_known_to_fail_at_one_level_begins_at_none(tmp_path: Path) -> None:
    """With short trainings first, the inner strategy is told, and the ladder counts no result."""

    class Levels(Scene):
        def strategy(self) -> Strategy:
            found = ByLevels(super().strategy(), Asha())
            found.climb((1, 3, 9))
            return found

    scene = Levels(tmp_path / "a", "evolution")
    trials = scene.search(80)
    assert spent_again(scene, trials) == []
    assert any((trial.error or "").startswith("as trial ") for trial in trials)
    assert {trial.state for trial in trials} == {"done", "failed", "stopped"}


def test_what_somebody_gives_is_evaluated_as_often_as_it_is_given(tmp_path: Path) -> None:
    space = NasBench201()
    arch = space.arch((0,) * 6)

    class Given(Strategy):
        name = "given"

        def __init__(self) -> None:
            super().__init__(space)
            self.feed: Callable[[bool], Arch] = lambda wait: arch

        def propose(self) -> Proposal:
            return Proposal(self.feed(False))

        def tell(self, trial: Trial) -> None: ...

    class Fed(Scene):
        def strategy(self) -> Strategy:
            return Given()

    scene = Fed(tmp_path / "a", "random")
    assert [trial.error for trial in scene.search(3)] == ["training loss is nan"] * 3
    assert len(scene.seen) == 3 and "machine" in OF_THE_MACHINE
