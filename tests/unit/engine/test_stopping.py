"""What ends a search: a clock that the test sets, trials that take as long as it says."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import nastool
from nastool.api import page
from nastool.core.errors import InputError
from nastool.core.values import Arch, Evaluation, Proposal, SpaceRef, Trial
from nastool.engine import planning
from nastool.engine.executors.base import Executor
from nastool.engine.executors.jobs import Finished, Job, JobEvent, Reported
from nastool.engine.planning import Estimate, Trainings, rounds
from nastool.engine.stopping import Budget, Rules, Stopping, moment
from nastool.engine.store import Store
from nastool.engine.study import Study
from nastool.evaluators.table import Table
from tests.helpers.running import Run

ARCH = Arch(SpaceRef("s"), (0,))


class Clock:
    """Stands still unless told."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.takes: Callable[[int], float] = lambda trial: 1.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of searches; each trial on a table takes the seconds that it says, and nothing else takes any."""
    clock = Clock()
    evaluate = Table.evaluate

    def slowly(self: Table, trial_id: int, *more: Any, **named: Any) -> Evaluation:
        clock.now += clock.takes(trial_id)
        return evaluate(self, trial_id, *more, **named)

    def budget(rules: Rules, used: float = 0.0, **_: object) -> Budget:
        return Budget(rules, used, clock=clock, now=clock)

    monkeypatch.setattr(Table, "evaluate", slowly)
    monkeypatch.setattr(planning, "Budget", budget)
    monkeypatch.setattr(planning, "CLOSING", 4.0)
    monkeypatch.setattr(planning, "TESTS", 0.0)
    return clock


@pytest.fixture
def search(run: Run, macro_table: str) -> Callable[..., Any]:
    """`nastool search` at random on a table, into folder a."""

    def search(*options: str) -> Any:
        where = ["--space", "nasbench-macro", "--evaluator", "table", "-E", f"file={macro_table}", "--no-report"]
        return run("search", "-s", "random", *where, "--out", "a", *options)

    return search


def made(folder: str = "a") -> list[Trial]:
    with Store.read(Path(folder) / "run.db") as store:
        return list(store.trials())


class TestTime:
    def test_it_ends_in_time_with_a_result(self, search: Callable[..., Any], clock: Clock, run: Run) -> None:
        outcome = search("--time", "30s")
        (line,) = outcome.accepted()
        assert clock.now <= 1000 + 30 and len(made()) == 26, "4 s are kept for what follows"
        assert "ended after 26 trials: the time is up" in outcome.err
        study = Study.read("a")
        assert study.state == "finished" and study.best is not None and line["key"] == study.best.arch.key
        status = run("status", "a", "--text").out
        assert "budget     26 s of 30 s used" in status and "ended      by --time, after 26 trials" in status

    def test_whatever_comes_first(self, search: Callable[..., Any], clock: Clock) -> None:
        search("--time", "30s", "-n", "5").accepted()
        assert len(made()) == 5
        search("--time", "30s", "-n", "100").accepted()
        assert len(made()) == 26

    def test_a_final_stage_fits_in(self, search: Callable[..., Any], clock: Clock) -> None:
        outcome = search("--time", "40s", "--final", "6")
        (line,) = outcome.accepted()
        assert [trial.id for trial in made() if trial.proposal.again is not None] == list(range(30, 36))
        assert clock.now <= 1000 + 40 and line["final_stage"]["trainings"] == 6
        assert "ended after 30 trials: the time is up" in outcome.err
        assert "a ended after 36 trials by its --time" in search("--time", "40s", "--final", "6").err
        search("--time", "60s", "--final", "6").accepted()
        assert [trial.id for trial in made() if trial.proposal.again is not None] == [*range(30, 36), *range(50, 56)]

    def test_a_final_stage_takes_no_more_than_its_share(self, search: Callable[..., Any], clock: Clock) -> None:
        search("--time", "30s", "--final", "20").accepted()
        assert [trial.id for trial in made() if trial.proposal.again is not None] == list(range(14, 26))

    def test_until_an_hour(self, search: Callable[..., Any], clock: Clock) -> None:
        clock.now = moment("07:30") - 20
        search("--until", "07:30").accepted()
        assert len(made()) == 16

    def test_no_trial_begins_that_does_not_fit(self, search: Callable[..., Any], clock: Clock) -> None:
        clock.takes = lambda trial: 10.0
        search("--time", "60s").accepted()
        assert [trial.state for trial in made()] == ["done"] * 5 and clock.now == 1050

    def test_what_earlier_calls_used_counts(self, search: Callable[..., Any], clock: Clock, run: Run) -> None:
        """Also of one that was killed: what it had stored."""

        def killed(trial: int) -> float:
            if trial == 10:
                raise KeyboardInterrupt
            return 1.0

        clock.takes = killed
        assert search("--time", "30s").code == 130
        clock.takes = lambda trial: 1.0
        clock.now += 10_000  # nobody works on it
        run("resume", "a").accepted()
        assert len(made()) == 26
        before = clock.now
        assert "a ended after 26 trials by its --time; more --time extends it" in run("resume", "a").err
        assert "by its --time" in search("--time", "30s").err and clock.now == before

    def test_more_of_it(self, search: Callable[..., Any], clock: Clock, run: Run) -> None:
        """For `resume` from now on, for `search` in all."""
        search("--time", "30s").accepted()
        run("resume", "a", "--time", "10s").accepted()
        assert len(made()) == 26 + 6
        search("--time", "60s").accepted()
        assert len(made()) == 56
        run("resume", "a", "-n", "58").accepted()
        assert len(made()) == 58, "the time by which it ended does not count any more"
        run("resume", "a", "--time", "10s").accepted()
        assert len(made()) == 64, "nor does the number of trials"

    def test_a_first_trial_that_takes_too_long(self, search: Callable[..., Any], clock: Clock) -> None:
        """One that cannot be ended, as it runs in this process: it counts, and nothing else begins."""
        clock.takes = lambda trial: 100.0
        search("--time", "30s").accepted()
        assert [trial.state for trial in made()] == ["done"]

    def test_random_search_beside_it_has_as_long(self, run: Run, clock: Clock, macro_table: str) -> None:
        where = ["--space", "nasbench-macro", "--evaluator", "table", "-E", f"file={macro_table}", "--no-report"]
        command = ["search", "-s", "evolution", *where, "--with-baseline", "--time", "60s", "--out", "a"]
        (line,) = run(*command).accepted()
        assert clock.now <= 1060 and 27 <= len(made()) <= 29
        assert line["baseline"]["trials"] == len(made()) == len(made("a/baseline"))
        before = clock.now
        assert "by its --time" in run(*command).err and clock.now == before

    def test_api(self, clock: Clock, macro_table: str, tmp_path: Path) -> None:
        where: dict[str, Any] = {"evaluator": "table", "evaluator_options": {"file": macro_table}, "report": False}
        study = nastool.search("random", space="nasbench-macro", out=tmp_path / "a", time=30, **where)
        assert len(study.trials) == 26
        assert len(nastool.resume(study, time="10s").trials) == 32
        assert len(nastool.resume(study, stop_when=["val_acc>=2%"]).trials) == 32, "one has it"


class TestEnough:
    def test_a_condition(self, search: Callable[..., Any], clock: Clock, run: Run) -> None:
        outcome = search("--stop-when", "val_acc>=0.9", "-n", "200")
        outcome.accepted()
        found = [trial.evaluation.metrics["val_acc"] >= 0.9 for trial in made() if trial.evaluation]
        assert found.index(True) == len(found) - 1
        assert f"ended after {len(found)} trials: one has val_acc>=0.9 (--stop-when)" in outcome.err
        assert "more --stop-when extends it" in search("--stop-when", "val_acc>=0.9", "-n", "200").err
        run("resume", "a", "-n", str(len(found) + 3)).accepted()
        assert len(made()) == len(found) + 3

    def test_one_trial_meets_all(self, search: Callable[..., Any], clock: Clock) -> None:
        search("--stop-when", "val_acc>=0.5", "--stop-when", "val_acc<=0.6", "-n", "200").accepted()
        found = [0.5 <= trial.evaluation.metrics["val_acc"] <= 0.6 for trial in made() if trial.evaluation]
        assert found.index(True) == len(found) - 1

    def test_without_it_there_are_as_many_as_ever(self, search: Callable[..., Any], clock: Clock) -> None:
        search("--stop-when", "val_acc>=0.999999").accepted()
        assert len(made()) == 20

    def test_patience(self, search: Callable[..., Any], clock: Clock, run: Run) -> None:
        outcome = search("--patience", "7")
        outcome.accepted()
        losses = [trial.loss for trial in made()]
        best = losses.index(min(losses))
        assert len(losses) == best + 1 + 7
        bests = [i for i in range(len(losses)) if losses[i] == min(losses[: i + 1])]
        assert all(later - earlier <= 7 for earlier, later in pairwise(bests))
        assert "none of the last 7 was better" in outcome.err
        assert "by --patience" in run("status", "a", "--text").out
        assert json.loads(run("status", "a", "--json").out)["ended"]["why"] == "patience"

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (["--time", "soon"], "--time: 'soon' is no length of time: write such as 90s, 2m, 1h30m, 8h"),
            (["--time", "0s"], "more than 0 s"),
            (["--until", "7.30"], "--until '7.30': write an hour as 07:30"),
            (["--until", "25:00"], "--until '25:00'"),
            (["--stop-when", "val_acc"], "--stop-when 'val_acc': write 'METRIC<=VALUE' or 'METRIC>=VALUE', in quotes"),
            (["--stop-when", "acc>=0.9"], "gives no metric 'acc'"),
            (["--patience", "0"], "patience"),
        ],
    )
    def test_mistakes(self, search: Callable[..., Any], options: Sequence[str], says: str) -> None:
        search(*options).refused(says)
        assert not Path("a").exists()


def test_the_next_such_hour() -> None:
    now = datetime(2026, 11, 28, 22, 15)
    assert moment("23:00", now) == datetime(2026, 11, 28, 23, 0).timestamp()
    assert moment("07:30", now) == datetime(2026, 11, 29, 7, 30).timestamp()
    assert moment("22:15", now) == datetime(2026, 11, 29, 22, 15).timestamp()
    assert moment("2026-12-01T07:30", now) == datetime(2026, 12, 1, 7, 30).timestamp()
    for bad in ("", "7", "07:61", "tomorrow", "07:30:00:00", "7:3x"):
        with pytest.raises(InputError, match="--until"):
            moment(bad, now)


class Workers(Executor):
    """Two places, where trials end when the test's clock says so."""

    name = "workers"

    def __init__(self, clock: Clock) -> None:
        self.clock, self.jobs, self.ends = clock, list[Job](), dict[int, float]()
        self.closed = 0

    @classmethod
    def make(cls, *_: Any) -> Workers:
        raise NotImplementedError

    def open(self) -> dict[str, Any]:
        return {}

    @property
    def free(self) -> int:
        return 2 - len(self.jobs)

    @property
    def busy(self) -> Sequence[Job]:
        return self.jobs

    def submit(self, job: Job) -> None:
        self.jobs.append(job)
        self.ends[job.trial_id] = self.clock.now + self.clock.takes(job.trial_id)

    def wait(self, seconds: float) -> list[JobEvent]:
        self.clock.now += seconds
        over = [job for job in self.jobs if self.ends[job.trial_id] <= self.clock.now]
        self.jobs = [job for job in self.jobs if job not in over]
        return [Finished(job, Evaluation({"val_acc": 0.5}, 1.0)) for job in over]

    def close(self) -> None:
        self.jobs = []
        self.closed += 1


class TestRunning:
    @pytest.fixture
    def search(self, tmp_path: Path) -> Iterator[Callable[..., Any]]:
        from nastool.core.values import Objective
        from nastool.engine.search import Search
        from nastool.spaces.nasbench201 import NasBench201
        from nastool.strategies.random_search import RandomSearch

        space = NasBench201()
        config = {"space": {"name": space.name, "options": {}}}
        facts = {"config": config, "objective": "val_acc:max"}

        def search(executor: Executor, stopping: Stopping) -> Any:
            store = Store.create(tmp_path / "run.db", facts) if not (tmp_path / "run.db").exists() else None
            store = store or Store.open(tmp_path / "run.db")
            found = Search(
                store,
                RandomSearch(space),
                executor,
                [Objective("val_acc", "max")],
                0,
                None,
                tmp_path,
                stopping=stopping,
            )
            found.restore()
            found.run()
            return found

        yield search

    def test_what_runs_when_the_time_is_up_is_ended_and_repeated(self, search: Callable[..., Any]) -> None:
        clock = Clock()
        clock.takes = lambda trial: 1000.0 if trial == 5 else 2.0
        rules = Rules(seconds=20)
        workers = Workers(clock)
        stopping = Stopping(rules, Budget(rules, clock=clock, now=clock), lambda: 3.0, lambda: 1.0)
        found = search(workers, stopping)
        assert found.ends.cut == [5] and found.ends.why == "time" and workers.closed == 1
        assert clock.now <= 1000 + 20 - 3 + 0.5
        assert "trial 5 was ended and will be repeated" in found.ends.describe(found.finished)
        finished = found.finished
        clock.takes = lambda trial: 2.0
        rules = Rules(seconds=30)
        again = search(Workers(clock), Stopping(rules, Budget(rules, clock.now - 1000, clock=clock, now=clock)))
        states = {trial.id: trial.state for trial in again.store.trials()}
        assert again.finished > finished and states[5] == "done", "nothing is lost"

    def test_the_first_trial_may_have_what_follows(self, search: Callable[..., Any]) -> None:
        """Without it there is nothing to follow; but not the least that a result takes."""
        clock = Clock()
        clock.takes = lambda trial: 15.0
        rules = Rules(seconds=20)
        stopping = Stopping(rules, Budget(rules, clock=clock, now=clock), lambda: 12.0, lambda: 4.0)
        assert search(Workers(clock), stopping).finished == 1 or clock.now <= 1016.5
        assert clock.now <= 1016.5

    def test_proposals_that_take_longer_do_not_begin(self) -> None:
        clock = Clock()
        rules = Rules(seconds=100)
        stopping = Stopping(rules, Budget(rules, clock=clock, now=clock))
        for number, epochs in enumerate((1, 2, 1)):
            stopping.begins(number)
            clock.now += 10 * epochs
            stopping.told(Trial(number, Proposal(ARCH, budget=epochs), "done", Evaluation({}, 1.0), (0.0,)), False)
        assert stopping.takes(Proposal(ARCH, budget=5)) == 50 and not stopping.hinders(Proposal(ARCH, budget=6))
        assert stopping.hinders(Proposal(ARCH, budget=7)) and stopping.why == "time"
        assert stopping.hinders(Proposal(ARCH, budget=1)), "from then on none begins"


class TestPlan:
    def test_rounds(self) -> None:
        assert rounds(1.15, 0.0, 100, 100) == 75
        assert rounds(1.15, 0.1, 100, 100) == 68, "100 scores take 10 s"
        assert rounds(1.15, 10.0, 100, 100) == 60, "but at most a fifth"
        assert rounds(1.0, 0.0, None, 100) == 53, "any number of scores: rounds may take longer than was thought"
        assert rounds(1000.0, 0.0, 0, 10) == 1

    def test_trainings(self) -> None:
        wanted, each = Trainings(3, 3, 10), Estimate([10 / 1.15], 20, 64)
        assert wanted.within(1000, each, 1) == wanted
        assert wanted.within(130, each, 1) == wanted and wanted.within(129, each, 1) == Trainings(3, 3, 0)
        assert wanted.within(59, each, 1) == Trainings(2, 2, 0)
        assert wanted.within(59, each, 2) == Trainings(3, 3, 0), "two at a time"
        assert wanted.within(20, each, 1) == Trainings(1, 1, 0)
        assert wanted.within(10, each, 1) == Trainings(1, 1, 0, 10, 64), "half as long"
        assert wanted.within(2, each, 1) == Trainings(1, 0, 0, 4, 64), "what was found alone"
        assert wanted.within(0.2, each, 1).count == 0 == wanted.within(-5, each, 1).count
        assert Trainings(0, 0, 10).within(50, each, 1) == Trainings(0, 0, 5)
        assert wanted.within(1, Estimate(), 1) == wanted, "nobody knows what one takes"


class TestShared:
    """Shared weights on digits, small; what a round, a score and a training take, the test says."""

    @pytest.fixture
    def search(self, run: Run, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
        from nastool.evaluators.supernet import Supernet
        from nastool.evaluators.train import Train

        for evaluator in (Supernet, Train):
            monkeypatch.setattr(evaluator, "inline", True)
        self.says(monkeypatch, 10.0)
        Path("tiny.yaml").write_text("epochs: 2\nbatch_size: 50\nlr: 0.1\ncrop_padding: 0\n")

        def search(strategy: str, *options: str) -> Any:
            small = ["--space", "nasbench201", "--evaluator", "supernet", "-E", "train_size=200", "--no-report"]
            small += ["--scale", "channels=4,cells=1", "--device", "cpu"]
            small += [] if "0" in options else ["--retrain-recipe", "tiny.yaml"]
            return run("search", "-s", strategy, *small, "--out", "a", *options)

        return search

    def says(self, monkeypatch: pytest.MonkeyPatch, each: float) -> None:
        def estimate(executor: Executor, proposals: Sequence[Proposal], spec: object = None) -> Estimate:
            if spec is not None:
                return Estimate([4.0], 2, 50)
            return Estimate([each, 0.1] if proposals[0].policy is not None else [30 * each + 0.1, 0.1])

        monkeypatch.setattr(planning, "estimate", estimate)

    def facts(self, *keys: str, folder: str = "a") -> list[Any]:
        with Store.read(Path(folder) / "run.db") as store:
            return [store.get(key) for key in keys]

    def test_rounds_are_chosen_once(
        self, search: Callable[..., Any], run: Run, monkeypatch: pytest.MonkeyPatch, clock: Clock
    ) -> None:
        """What came from the clock stands in run.db; who goes on does as it says, whatever the clock says then."""
        small = ["-S", "steps=2", "-S", "children=3", "-S", "candidates=4", "--retrain", "1"]
        outcome = search("enas", "--time", "60s", *small)
        (line,) = outcome.accepted()
        assert "4 rounds, as there is time for (--epochs N decides otherwise)" in outcome.err
        rounds, settled, plan = self.facts("rounds", "settled", "trainings")
        assert rounds == settled["epochs"] == 4 and (plan["plan"]["found"], plan["plan"]["epochs"]) == (1, None)
        assert [trial.proposal.policy is not None for trial in made()] == [True] * 4 + [False] * 4
        assert line["metrics"]["val_acc"] and line["comparison"]["random"]["architectures"] == 1
        whole = [(trial.proposal, trial.losses) for trial in made()]
        Path("a").rename("whole")

        clock.takes = lambda trial: 0.0
        from nastool.evaluators.supernet import Supernet

        evaluate = Supernet.evaluate

        def killed(self: Supernet, trial_id: int, *more: Any, **named: Any) -> Evaluation:
            if trial_id == 2:
                raise KeyboardInterrupt
            return evaluate(self, trial_id, *more, **named)

        with monkeypatch.context() as patch:
            patch.setattr(Supernet, "evaluate", killed)
            assert search("enas", "--time", "60s", *small).code == 130
        self.says(monkeypatch, 1.0)  # it would be 40 rounds by now
        run("resume", "a").accepted()
        assert [(trial.proposal, trial.losses) for trial in made()] == whole

    def test_rounds_that_are_asked_for_stay(self, search: Callable[..., Any], clock: Clock) -> None:
        search("random", "--time", "60s", "--epochs", "3", "-n", "2", "--retrain", "0").accepted()
        assert self.facts("rounds") == [None] and self.facts("settled")[0]["epochs"] == 3

    def test_rounds_that_take_longer(
        self, search: Callable[..., Any], clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """All rounds come before the first score: those that were made are what is scored."""
        self.says(monkeypatch, 3.0)
        executors: list[Workers] = []

        def late(name: str | None, spec: Any, evaluator: Any, setting: Any) -> Executor:
            """Five rounds are reported, then nothing comes any more."""
            if spec.options.get("epochs") in (None, 5) or spec.name == "train":
                return real(name, spec, evaluator, setting)
            executors.append(Late(clock))
            return executors[-1]

        class Late(Workers):
            def open(self) -> dict[str, Any]:
                return {"epochs": 8, "batch_size": 50}

            def wait(self, seconds: float) -> list[JobEvent]:
                self.clock.now += 3
                step = round((self.clock.now - 1000) / 3)
                return [Reported(self.jobs[0], step, {"shared_acc": 0.1})] if self.jobs and step <= 5 else []

        from nastool.engine import run as run_module

        real = run_module.make_executor
        monkeypatch.setattr(run_module, "make_executor", late)
        monkeypatch.setattr(planning, "make_executor", late)
        outcome = search("random", "--time", "60s", "--retrain", "1", "-n", "6")
        outcome.accepted()
        assert executors and "there was time for 5 rounds: what has been trained by now is scored" in outcome.err
        assert self.facts("rounds") == [5] and made()[0].state == "done"
        assert clock.now <= 1060

    def test_no_round_in_time(
        self, search: Callable[..., Any], run: Run, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """There is a usable network all the same, which is called a guess; what was begun is repeated."""
        from nastool.engine import run as run_module

        class Late(Workers):
            def open(self) -> dict[str, Any]:
                return {"epochs": 1, "batch_size": 50}

        def late(name: str | None, spec: Any, evaluator: Any, setting: Any) -> Executor:
            paced = spec.name == "supernet" and spec.options.get("epochs")
            return Late(clock) if paced else real(name, spec, evaluator, setting)

        real = run_module.make_executor
        clock.takes = lambda trial: 1000.0
        monkeypatch.setattr(run_module, "make_executor", late)
        small = ["-S", "steps=2", "-S", "children=3", "-S", "candidates=4", "--retrain", "1"]
        outcome = search("enas", "--time", "60s", *small)
        (line,) = outcome.accepted()
        assert "the time was up before a round had finished: what is trained from scratch is a guess" in outcome.err
        assert clock.now <= 1060 and line["metrics"]["val_acc"] and Path("a/model.py").exists()
        assert Study.read("a").ranked == () and "trial 0" in page(Study.read("a"))
        assert [trial.state for trial in made()] == ["running"] and Study.read("a").state == "finished"
        before = clock.now
        assert "ended after 0 trials by its --time" in run("resume", "a").err and clock.now == before
