"""Searches whose trainings end early: killed at any moment, they go on as if they had never been."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest

from nastool.core import registry
from nastool.core.evaluator import Evaluator, Report
from nastool.core.strategy import Strategy
from nastool.core.values import Evaluation, Proposal, Trial
from nastool.engine.executors.inline import Inline
from nastool.engine.executors.jobs import Job, Reported
from nastool.engine.search import Search
from nastool.engine.store import Store
from nastool.engine.study import Study
from nastool.learners import multi_fidelity
from nastool.learners.fidelities import Asha
from nastool.nets import checkpoints
from nastool.spaces.nasbench201 import NasBench201
from tests.helpers import made_runs
from tests.system.test_resume import NASTOOL, search_and_kill

SPACE = NasBench201()
EPOCHS = 10


class Curves(Evaluator):
    """Reports a made-up curve, epoch by epoch; paused trainings leave a file, without which it begins anew."""

    name = "curves"
    provides = frozenset({"fidelity"})

    def prepare(self) -> None: ...

    def evaluate(self, trial_id: int, proposal: Proposal, *, seed: int, report: Report) -> Evaluation:
        assert self.workdir is not None
        last = int(proposal.fidelity or EPOCHS)
        begin = 0
        if proposal.continues is not None:
            state = self.workdir / checkpoints.artifact_of(proposal.continues, "state")
            begin = int(state.read_text()) if state.exists() else 0
        number = hash(proposal.arch.choices)
        for epoch in range(begin + 1, last + 1):
            value = (number * epoch % 1009) / 2018 + epoch / 18
            report(epoch, {"val_acc": value})
        artifacts = {}
        if proposal.fidelity is not None:
            artifacts["state"] = checkpoints.artifact_of(trial_id, "state")
            (self.workdir / "checkpoints").mkdir(exist_ok=True)
            (self.workdir / artifacts["state"]).write_text(str(last))
        return Evaluation({"val_acc": value}, float(last - begin), artifacts=artifacts)


class Killed(BaseException):
    """As a kill -9 would have it: nothing is tidied up."""


def strategy(name: str, rule: str) -> Strategy:
    inner: Strategy = registry.make("strategy", name, SPACE, given={"seed": 1})
    found = multi_fidelity.around(inner, rule, Curves)
    multi_fidelity.begin(found, {"epochs": EPOCHS})
    return found


class OneByOne(Inline):
    """Hands out a job's events one at a time, and is killed instead of handing out number `dies`."""

    def __init__(self, evaluator: Evaluator, dies: int | None) -> None:
        super().__init__(evaluator)
        self.dies = dies
        self.given = 0
        self.cut: list[int] = []

    def wait(self, seconds: float) -> list[Any]:
        if self.given == self.dies:
            raise Killed
        self.given += 1
        events, self._events = self._events[:1], self._events[1:]
        return list(events)

    def abandon(self, job: Job) -> None:
        """What it would have reported yet, and its result, are still to come."""
        self.cut.append(job.trial_id)


def search(folder: Path, name: str, rule: str, trials: int, dies: int | None = None) -> Search:
    """Begin or go on. Killed: after so many events."""
    evaluator = Curves(SPACE)
    evaluator.workdir = folder
    executor = OneByOne(evaluator, dies)
    with Store.open(folder / "run.db") as store:
        found = Search(store, strategy(name, rule), executor, store.objectives, 0, trials, folder)
        found.restore()
        found.run()
    return found


def content(folder: Path) -> list[Sequence[object]]:
    """All that must not depend on interruptions, and the strategy's state."""
    with closing(sqlite3.connect(folder / "run.db")) as db:
        what = "json_remove(evaluation, '$.seconds')"
        found = db.execute(f"SELECT id, state, told, proposal, {what}, losses, loss FROM trials ORDER BY id").fetchall()
        found += db.execute("SELECT trial, step, metrics FROM reports ORDER BY trial, step").fetchall()
        return [*found, *db.execute("SELECT value FROM run WHERE key = 'strategy'").fetchall()]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return made_runs.folder(tmp_path / "run", [])


RULES = [
    ("random", "median:others=2"),
    ("evolution", "median:others=1,grace=2"),
    ("random", "asha"),
    ("bo", "hyperband"),
    ("bo", "asha:eta=2,predict=power-law"),
    ("random", "median:others=1,grace=3,predict=power-law"),
]


@pytest.mark.parametrize("rule", ["asha", "hyperband"])
def test_where_none_was_whole_the_best_goes_on_to_its_end(folder: Path, tmp_path: Path, rule: str) -> None:
    """Beyond the number of trials; killed on the way, and extended, too."""
    again = Path(shutil.copytree(folder, tmp_path / "again"))
    whole = search(folder, "random", rule, 2)
    first, second, third, last = Study.read(folder).trials
    assert whole.best is not None and whole.best.id == last.id == 3 and whole.ends.why == "trials"
    better = min(first, second, key=lambda trial: trial.trial.early)
    assert third.trial.proposal.continues == better.id and last.trial.proposal.continues == third.id
    assert not whole.exhausted
    for moment in range(12):
        with suppress(Killed):
            search(again, "random", rule, 2, dies=moment)
    assert content(again) == content(folder)
    longer = search(folder, "random", rule, 24)
    assert longer.finished >= 24 and longer.best is not None


@pytest.mark.parametrize(("name", "rule"), RULES)
def test_killed_at_any_moment_it_goes_on_as_if_it_had_not_been(
    folder: Path, tmp_path: Path, name: str, rule: str
) -> None:
    """Twenty kills on the way, each some events after the one before."""
    again = Path(shutil.copytree(folder, tmp_path / "again"))
    whole = search(folder, name, rule, 24)
    assert whole.stopped > 3
    assert whole.finished > whole.stopped + whole.failed, "some are trained to the end"
    kills = 0
    for moment in [0, 1, 3, 2, 5, 8, 1, 4, 13, 7, 9, 2, 6, 11, 3, 5, 10, 4, 12, 7, 9, 8]:
        try:
            search(again, name, rule, 24, dies=moment)
        except Killed:
            kills += 1
    search(again, name, rule, 24)
    assert kills >= 12
    assert content(again) == content(folder)
    there = [{file.name for file in checkpoints.files_of(path)} for path in (folder, again)]
    assert there[0] == there[1]


@pytest.mark.parametrize("rule", ["asha", "asha:eta=2,predict=power-law"])
def test_what_is_not_kept_is_trained_anew_with_the_same_decisions(
    folder: Path, tmp_path: Path, rule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at any moment, too."""
    again, killed = (Path(shutil.copytree(folder, tmp_path / name)) for name in ("again", "killed"))
    search(folder, "random", rule, 24)
    monkeypatch.setattr(Asha, "kept", lambda ladder: ladder.waiting()[:1])
    search(again, "random", rule, 24)
    for moment in [0, 1, 3, 2, 5, 8, 1, 4, 13, 7, 9, 2, 6, 11, 3, 5, 10, 4, 12, 7, 9, 8, 999]:
        with suppress(Killed):
            search(killed, "random", rule, 24, dies=moment)
    assert content(again) == content(killed)
    found = [
        [(trial.trial.proposal, trial.trial.losses, trial.curve) for trial in Study.read(path).trials]
        for path in (folder, again)
    ]
    assert found[0] == found[1]
    files = [len(checkpoints.files_of(path)) for path in (folder, again, killed)]
    assert files[0] > 4 and files[1] == files[2] <= 2
    with Store.read(again / "run.db") as store:
        firsts = {trial.id: store.reports(trial.id)[0][0] for trial in store.trials() if trial.proposal.continues}
    assert 1 in firsts.values(), "some are trained anew"


def test_a_kill_between_a_report_and_its_end_loses_neither(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are one transaction: after a kill within, the trial runs, and the same report ends it."""

    def dies(search: Search, trial: Trial, *more: Any) -> None:
        if trial.state == "stopped":
            raise Killed
        finish(search, trial, *more)

    finish = Search._finish
    with monkeypatch.context() as patch:
        patch.setattr(Search, "_finish", dies)
        with pytest.raises(Killed):
            search(folder, "random", "median:others=2", 24)
    with Store.read(folder / "run.db") as store:
        running = [trial.id for trial in store.trials() if trial.state == "running"]
        assert len(running) == 1
        last = [step for step, _ in store.reports(running[0])]
    search(folder, "random", "median:others=2", 24)
    with Store.read(folder / "run.db") as store:
        assert next(iter(store.numbered(running[0]))).fidelity == len(last) + 1


def test_nothing_of_an_ended_trial_counts(folder: Path) -> None:
    seen: list[object] = []
    evaluator = Curves(SPACE)
    evaluator.workdir = folder
    executor = OneByOne(evaluator, None)
    with Store.open(folder / "run.db") as store:
        found = Search(store, strategy("random", "median:others=2"), executor, store.objectives, 0, 20, folder)
        found.watch = lambda search, event: seen.append(event)
        found.restore()
        found.run()
        trials = {trial.id: trial for trial in store.trials()}
        stopped = [trial for trial in trials.values() if trial.state == "stopped"]
        assert executor.cut == [trial.id for trial in stopped]
        assert len(stopped) > 2
        for trial in stopped:
            reports = store.reports(trial.id)
            assert trial.fidelity == reports[-1][0] < EPOCHS
            assert trial.evaluation is not None
            assert trial.evaluation.metrics == reports[-1][1]
            assert trial.early == (-reports[-1][1]["val_acc"],)
            assert not trial.losses
    assert [each.id for each in seen if isinstance(each, Trial)] == list(trials), "each is told once"
    assert {each.job.trial_id for each in seen if isinstance(each, Reported)} == set(trials)
    assert found.best is not None
    assert found.best.state == "done"


def test_a_study_shows_them_apart(folder: Path) -> None:
    search(folder, "random", "asha", 24)
    study = Study.read(folder)
    stopped = [trial for trial in study.trials if trial.state == "stopped"]
    whole = [trial for trial in study.trials if trial.state == "done"]
    assert {trial.fidelity for trial in stopped} == {1, 3}
    assert all(trial.value is None and trial.early is not None for trial in stopped)
    assert [trial.id for trial in study.ranked] == [trial.id for trial in sorted(whole, key=lambda t: t.trial.rank)]
    assert all([step for step, _ in trial.curve] == [*range(1, EPOCHS + 1)] for trial in whole), "from its first epoch"
    columns = study.columns()
    assert columns["fidelity"] == [trial.fidelity for trial in study.trials]
    assert columns["continues"] == [trial.trial.proposal.continues for trial in study.trials]
    lines: list[Mapping[str, Any]] = list(study.lines())
    assert [line.get("fidelity") for line in lines] == columns["fidelity"]


def test_a_paused_training_that_is_gone_is_told(folder: Path) -> None:
    found = search(folder, "random", "asha", 9)
    number = min(found.strategy.wanted())  # type: ignore[attr-defined]
    (folder / checkpoints.artifact_of(number, "state")).unlink()
    with pytest.raises(Exception, match=f"lacks the checkpoint of trial {number}, from which the search goes on"):
        search(folder, "random", "asha", 9)


@pytest.mark.slow
@pytest.mark.parametrize("rule", ["asha", "median:others=2"])
def test_killed_for_good_with_two_workers_nothing_is_lost(tmp_path: Path, rule: str) -> None:
    """kill -9 five times, real trainings in two workers; each trial is told once, and what went on went on once."""
    command = (
        f"search -s random --space nasbench201 --data digits -E train_size=120 --epochs 4 --fidelity {rule}".split()
    )
    command += "--scale channels=1,cells=1 --device cpu --trials 24 --workers 2 --no-report --out".split()
    search_and_kill([*NASTOOL, *command, str(tmp_path / "run")], dict(os.environ), tmp_path / "run", 5, 24)
    with Store.read(tmp_path / "run" / "run.db") as store:
        found = store.whole_history()
    assert sorted(trial.id for trial in found) == list(range(24))
    assert {trial.state for trial in found} == {"done", "stopped"}
    sources = [trial.proposal.continues for trial in found if trial.proposal.continues is not None]
    assert len(sources) == len(set(sources))
    study = Study.read(tmp_path / "run")
    for trial in study.trials:
        last = 4 if trial.state == "done" else trial.fidelity
        assert [step for step, _ in trial.curve] == [*range(1, int(last or 0) + 1)]
