"""The search loop and its workers: failures are trials, not ends."""

from __future__ import annotations

import errno
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nastool.cli import progress
from nastool.core.errors import InputError, NastoolError
from nastool.core.evaluator import Evaluator
from nastool.core.space import SearchSpace
from nastool.core.strategy import Strategy, pool, wanted
from nastool.core.values import Evaluation, Objective, Proposal, Scalar, Trial
from nastool.engine.executors.base import Drive, Executor, Setting
from nastool.engine.executors.jobs import OUTSIDE, EvaluatorSpec, Finished, Job, JobEvent, Reported
from nastool.engine.kept import Kept
from nastool.engine.search import Search
from nastool.engine.store import Store
from nastool.nets import checkpoints
from nastool.spaces.morph_cnn import MorphCNN
from nastool.spaces.nasbench201 import NasBench201
from nastool.strategies.deep_ensemble import DeepEnsemble
from nastool.strategies.evolution import RegularizedEvolution
from nastool.strategies.nes_rs import NESRS
from nastool.strategies.network_morphism import NetworkMorphism
from nastool.strategies.random_search import RandomSearch
from nastool.strategies.saep import SAEP
from nastool.testing.strategies import made_up_predictions
from tests.helpers.plugins import here, sleepy
from tests.helpers.running import Outcome, Run, Started, in_this_process
from tests.system.test_resume import wait_for

QUICK = """
from nastool.engine.executors import processes, slot
processes.SILENT_SECONDS = slot.SILENT_SECONDS = 1.0
slot.BEAT_SECONDS = 0.2
from nastool.cli import main
if __name__ == "__main__":
    main()
"""
"""nastool, whose workers are missed after a second."""


def search(folder: Path, *arguments: str, evaluator: str = "sleepy") -> Outcome:
    """Of this process, whose workers find the evaluator."""
    plugin = folder / "plugin"
    if not plugin.exists():
        sleepy(plugin)
    with here(plugin):
        return in_this_process(folder, "search", "--evaluator", evaluator, "--out", "run", *arguments)


def trials(folder: Path) -> list[Trial]:
    with Store.read(folder / "run" / "run.db") as store:
        return list(store.trials())


REASONS = {
    "raise": "RuntimeError: made to fail",
    "nan": "val_acc is nan",
    "die": "worker died: exit code 3; see ",
    "hang": "gave up after 1.5 s (--trial-timeout)",
    "text": "TypeError: val_acc is no number that fits a float: it is of type str; see evaluator sleepy of package ",
    "set": "TypeError: the evaluator returned a set, not an Evaluation",
    "metrics": "TypeError: metrics are a set, not a mapping",
    "huge": "TypeError: val_acc is no number that fits a float: it is of type int",
    "policy": "TypeError: Object of type set is not JSON serializable",
    "path": "TypeError: the evaluation's checkpoint is a module, not a text",
    "seconds": "TypeError: seconds is no number that fits a float",
    "report": "TypeError: step is no number that fits a float",
}
"""Misbehaviour -> why the trial failed."""
FAULT = {"nan": "nan", "die": "killed", "hang": "timeout"}
"""Of which kind that is; any other: an exception."""


def test_a_failed_trial_has_its_reason_and_the_search_goes_on(tmp_path: Path) -> None:
    number = 5 * len(REASONS)
    options = ("-n", str(number), "--workers", "2", "--trial-timeout", "1.5")
    result = search(tmp_path, "-E", f"misbehave={'+'.join(REASONS)}", *options)
    assert result.code == 0, result.err
    found = trials(tmp_path)
    assert [trial.state for trial in found] == ["failed" if i % 5 == 3 else "done" for i in range(number)]
    for trial, (how, reason) in zip(found[3::5], REASONS.items(), strict=True):
        assert trial.error is not None and trial.error.startswith(reason)
        assert trial.fault == FAULT.get(how, "exception")
    with Store.read(tmp_path / "run" / "run.db") as store:
        assert store.faults() == {"exception": len(REASONS) - 3, "killed": 1, "nan": 1, "timeout": 1}
        *trace, last = store.log(3).splitlines()
        assert last.startswith("trial 3: RuntimeError: made to fail; see evaluator sleepy ")
        assert trace[0] == "Traceback (most recent call last):" and trace[-1] == "RuntimeError: made to fail"
        assert store.log(4) == "", "it did not fail"
    said = [trial for trial in found if f"trial {trial.id} failed: {trial.error}" in result.err]
    assert len(said) == 10 < len(REASONS)  # the first that ended, with two workers in any order
    assert f"{len(REASONS)} failed" in result.err
    best = json.loads(result.out)
    assert best["metrics"]["val_acc"] == max(-trial.loss for trial in found if trial.losses)
    assert best["metrics"]["test_acc"] == best["metrics"]["val_acc"] / 2


def test_a_worker_that_dies_once_is_given_another_try(tmp_path: Path) -> None:
    result = search(tmp_path, "-E", "misbehave=die-once", "-n", "6")
    assert result.code == 0, result.err
    assert [trial.state for trial in trials(tmp_path)] == ["done"] * 6
    with Store.read(tmp_path / "run" / "run.db") as store:
        assert [attempts for *_, attempts in store.times().values()] == [1, 1, 1, 2, 1, 1]


def test_gives_up_when_everything_fails(tmp_path: Path) -> None:
    result = search(tmp_path, "-E", "misbehave=always", "-n", "50", "--max-failures", "4")
    assert result.code == 1
    assert result.out == ""
    assert "gave up after 4 failed trials in a row; the last: RuntimeError: made to fail" in result.err
    assert "Traceback" not in result.err


def test_all_failed_is_exit_code_1(tmp_path: Path) -> None:
    result = search(tmp_path, "-E", "misbehave=always", "-n", "3")
    assert result.code == 1
    assert "all 3 trials failed" in result.err


def test_bad_data_is_found_before_anything_is_written(tmp_path: Path) -> None:
    result = search(tmp_path, "-E", "misbehave=unprepared")
    assert result.code == 2
    assert result.err == "nastool: no such data: give other data\n"
    assert not (tmp_path / "run").exists(), "nothing is left behind"
    assert search(tmp_path, "-n", "2").code == 0


def test_reports_are_kept(tmp_path: Path) -> None:
    assert search(tmp_path, "-n", "2").code == 0
    with Store.read(tmp_path / "run" / "run.db") as store:
        assert store.reports(1) == [(1, {"val_acc": 0.1})]


def test_a_log_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "logs").write_text("no folder")
    assert search(tmp_path, "-n", "1").code == 0


def test_one_coordinator_at_a_time(tmp_path: Path) -> None:
    environment = sleepy(tmp_path / "plugin")
    command = [sys.executable, "-m", "nastool", "search", "--evaluator", "sleepy", "-E", "seconds=600"]
    command += ["--out", str(tmp_path / "run")]
    with Started(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as first:
        assert first.stderr is not None
        assert first.stderr.readline().startswith("searching in")
        second = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert second.returncode == 2
    assert f"is being searched by process {first.pid}" in second.stderr


def test_extending_a_run_equals_a_longer_one(tmp_path: Path) -> None:
    def rows(folder: Path) -> list[Any]:
        return [(t.id, t.proposal, t.losses) for t in trials(folder)]

    short, long = tmp_path / "short", tmp_path / "long"
    for folder in (short, long):
        folder.mkdir()
    options = ("-S", "population=4", "-S", "tournament=2")
    assert search(short, "-n", "8", *options).code == 0
    extended = search(short, "-n", "20", *options)
    assert extended.code == 0 and "8 trials done" in extended.err
    assert search(long, "-n", "20", *options).code == 0
    assert rows(short) == rows(long)


def test_any_kind_of_number_is_a_metric(tmp_path: Path) -> None:
    assert search(tmp_path, "-E", "misbehave=numpy", "-n", "3").code == 0
    for trial in trials(tmp_path):
        assert trial.evaluation is not None
        assert type(trial.evaluation.metrics["val_acc"]) is float


def test_the_timeout_counts_trials_not_the_start_of_workers(tmp_path: Path) -> None:
    """A worker needs longer than this to start, a trial does not."""
    result = search(tmp_path, "-n", "6", "--workers", "2", "--trial-timeout", "0.3")
    assert result.code == 0, result.err
    assert [trial.state for trial in trials(tmp_path)] == ["done"] * 6


@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "0<&- 1>&- 2>&-", "0<&- 2>&-"])
def test_closed_streams(tmp_path: Path, closed: str) -> None:
    """Workers' pipes get no number that something else writes to."""
    environment = sleepy(tmp_path / "plugin")
    command = f"{sys.executable} -m nastool search --evaluator sleepy -n 4 --workers 2 --out run {closed}"
    result = subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.returncode == ("1>&-" in closed)
    assert "internal error" not in result.stderr and "Traceback" not in result.stderr
    if "1>&-" in closed and "2>&-" not in closed:
        assert result.stderr.endswith("nastool: stdout is closed: the result has nowhere to go\n")
    assert [trial.state for trial in trials(tmp_path)] == ["done"] * 4


@pytest.mark.parametrize("files", [8, 10, 12])
def test_few_open_files(tmp_path: Path, files: int) -> None:
    """One line, and the run goes on when there are more."""
    environment = sleepy(tmp_path / "plugin")
    command = f"{sys.executable} -m nastool search --evaluator sleepy -n 4 --workers 2 --out run"
    limited = subprocess.run(
        ["bash", "-c", f"ulimit -n {files}; {command}"], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert limited.returncode == 2
    *_, last = limited.stderr.splitlines()
    assert last.startswith("nastool: cannot start one more worker (Too many open files): give fewer --workers")
    assert "Traceback" not in limited.stderr
    assert subprocess.run(command.split(), cwd=tmp_path, env=environment, capture_output=True).returncode == 0
    assert [trial.state for trial in trials(tmp_path)] == ["done"] * 4


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("whom", ["all", "worker"])
def test_what_is_stopped_does_not_use_up_the_timeout(tmp_path: Path, whom: str) -> None:
    """Neither with Ctrl-Z, which stops the whole group, nor a worker alone."""
    environment = sleepy(tmp_path / "plugin")
    command = [sys.executable, "-m", "nastool", "search", "--evaluator", "sleepy", "-E", "seconds=1.5", "-n", "2"]
    command += ["--trial-timeout", "4", "--out", "run"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    )
    with process:
        wait_for(lambda: len(rows(tmp_path / "run", "SELECT * FROM reports")) == 1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        workers = [int(pid) for pid in children if Path(f"/proc/{pid}/comm").read_text().startswith("nastool-worker")]
        stop = partial(os.killpg, process.pid) if whom == "all" else partial(os.kill, workers[0])
        stop(signal.SIGSTOP)
        time.sleep(5)
        stop(signal.SIGCONT)
        process.communicate(timeout=60)
    assert process.returncode == 0
    assert [(trial.state, trial.error) for trial in trials(tmp_path)] == [("done", None)] * 2


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize(
    "misbehave, how",
    [
        ("hang", "has reported nothing and used no processor time"),
        ("native", "has not been heard of"),
        ("stop", "has been stopped"),
    ],
)
def test_a_hung_trial_is_said_to_be(tmp_path: Path, misbehave: str, how: str) -> None:
    """On a pipe, and by `status`; here it takes a second for a minute."""
    environment = sleepy(tmp_path / "plugin")
    search = [
        sys.executable,
        "-c",
        QUICK,
        "search",
        "--evaluator",
        "sleepy",
        "-E",
        f"misbehave={misbehave}",
        "-n",
        "9",
        "--out",
        "run",
    ]
    with Started(search, cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = next(line for line in process.stderr if line.startswith("trial 3 "))
        assert line.startswith(f"trial 3 {how} for 1 s (process ")
        remedy = "kill -CONT" if misbehave == "stop" else "--hung-timeout SECONDS ends such trials"
        assert remedy in line
        status = [sys.executable, "-m", "nastool", "status", "run"]
        wait_for(lambda: "silent" in subprocess.check_output([*status, "--text"], cwd=tmp_path, text=True))
        assert f"silent     trial 3 {how} for " in subprocess.check_output([*status, "--text"], cwd=tmp_path, text=True)
        (facts,) = map(json.loads, subprocess.check_output([*status, "--json"], cwd=tmp_path, text=True).splitlines())
        assert [(each["trial"], each["how"]) for each in facts["silent"]] == [(3, how)]
    assert "silent" not in subprocess.check_output([*status, "--text"], cwd=tmp_path, text=True), "nobody is at work"


def test_a_hung_trial_is_ended_where_that_is_asked_for(tmp_path: Path) -> None:
    """And tried once more; so is one of which not even Python is heard any more."""
    command = [sys.executable, "-c", QUICK, "search", "--evaluator", "sleepy", "-E", "misbehave=hang+native", "-n", "9"]
    command += ["--hung-timeout", "2", "--out", "run"]
    environment = sleepy(tmp_path / "plugin")
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    found = trials(tmp_path)
    assert [trial.fault for trial in found] == [None, None, None, "hung", None, None, None, None, "hung"]
    with Store.read(tmp_path / "run" / "run.db") as store:
        tries = {trial_id: attempts for trial_id, (*_, attempts) in store.times().items()}
    assert tries[3] == tries[8] == 2
    for trial, how in ((3, "has reported nothing and used no processor time"), (8, "has not been heard of")):
        reason = f"{how} for 2 s (--hung-timeout)"
        assert found[trial].error == reason
        assert f"trial {trial}: {reason}; next try: in a fresh process" in result.stderr


def test_who_works_is_not_silent(tmp_path: Path) -> None:
    search = [sys.executable, "-c", QUICK, "search", "--evaluator", "sleepy", "-E", "misbehave=compute", "-n", "4"]
    result = subprocess.run(search, cwd=tmp_path, env=sleepy(tmp_path / "plugin"), capture_output=True, text=True)
    assert result.returncode == 0
    assert "trial 3" not in result.stderr


def test_what_happens_at_once_is_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight trials begin in one transaction, and end in one; who is told of them finds them stored."""
    monkeypatch.setattr("nastool.engine.search.TOGETHER_SECONDS", 60.0)
    about = {"config": {"space": {"name": "nasbench201", "options": {}}}, "objective": "val_loss:min"}
    statements: list[str] = []
    told: list[int] = []
    with Store.create(tmp_path / "run.db", about) as store, Store.read(tmp_path / "run.db") as reader:

        def watch(search: Search, event: Reported | Trial | None) -> None:
            if isinstance(event, Trial):
                told.append(search.told)
                assert [trial.losses for trial in reader.numbered(event.id)] == [event.losses]

        hands, loss = Hands(tmp_path, size=8, at_once=8), Objective("val_loss", "min")
        search = Search(store, RandomSearch(NasBench201(), seed=0), hands, [loss], 0, 16, tmp_path, watch=watch)
        search.restore()
        store._db.set_trace_callback(statements.append)
        search.run()
    assert told == [*range(1, 17)]
    assert statements.count("COMMIT") == 5, "two times two, and one for what was put off"


def test_a_pipe_shows_a_long_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(progress, "say", said.append)
    clock = iter([0.0, 59.0, 61.0, 62.0, 180.0, 182.0, 183.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    shown = progress.Progress()
    about = {"config": {"space": {"name": "nasbench201", "options": {}}}, "objective": "val_acc:max", "trials": 3}
    with Store.create(tmp_path / "run.db", about) as store:
        strategy = RandomSearch(NasBench201(), seed=0)
        search = Search(store, strategy, Hands(tmp_path), [Objective("val_acc", "max")], 0, 3, tmp_path)
        store.begin()
        store.add(Trial(0, Proposal(NasBench201().arch([0] * 6))))
        store.commit()
        for _ in range(6):
            shown.watch(search, None)
    assert said == ["trials 0/3  running #0"] * 2, "after one minute, then after two more"


def test_a_file_system_without_locks_is_said_to_be_one(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(file: object, operation: int, argument: object = 0) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refused)
    monkeypatch.setattr("fcntl.fcntl", refused)
    run("search", "-s", "random", "-n", "1", "--out", "a").refused("a lies on a file system without locks", "--out")


def rows(folder: Path, query: str) -> list[Any]:
    try:
        with closing(sqlite3.connect(f"file:{folder}/run.db?mode=ro", uri=True)) as db:
            return db.execute(query).fetchall()
    except sqlite3.Error:
        return []


def test_the_cost_can_be_the_objective(tmp_path: Path) -> None:
    result = search(tmp_path, "-n", "3", "--objective", "seconds")
    assert result.code == 0, result.err
    assert all(trial.evaluation and trial.loss == trial.evaluation.seconds for trial in trials(tmp_path))


# --- what stays on disk


@dataclass
class Hands(Executor):
    """A pool of made-up workers, which leave files as a training does and end in an order drawn at random.

    failing: every so many-th trial fails, after it left its files. dying: every so many-th dies on its first try.
    mend: the number of a trial that cannot go on. at_once: at most so many end between two looks.
    """

    name = "hands"
    folder: Path
    size: int = 1
    seed: int = 0
    failing: int = 1000
    dying: int = 1000
    mend: int | None = None
    at_once: int = 1
    running: list[Job] = field(default_factory=list)
    started: list[int] = field(default_factory=list)

    @classmethod
    def make(cls, spec: EvaluatorSpec, evaluator: Evaluator, setting: Setting) -> Hands:
        raise NotImplementedError

    def open(self) -> Mapping[str, Scalar]:
        return {}

    def close(self) -> None:
        pass

    @property
    def free(self) -> int:
        return self.size - len(self.running)

    @property
    def busy(self) -> Sequence[Job]:
        return self.running

    def submit(self, job: Job) -> None:
        assert self.free
        proposal = job.proposal
        if proposal.inherit and proposal.parent is not None:
            parent = self.folder / checkpoints.name_of(proposal.parent)
            assert parent.is_file() and checkpoints.optimizer_of(parent).is_file(), f"{job} has no parent"
        self.running.append(job)
        self.started.append(job.trial_id)

    def wait(self, seconds: float) -> list[JobEvent]:
        rng = random.Random(hash((self.seed, len(self.started), len(self.running))))
        ended = [
            self.running.pop(rng.randrange(len(self.running))) for _ in range(min(self.at_once, len(self.running)))
        ]
        return [self.result(job) for job in ended]

    def result(self, job: Job) -> JobEvent:
        if job.trial_id == self.mend:
            return Finished(job, error="the disk is full: free some space", fatal=True)
        path = self.folder / checkpoints.name_of(job.trial_id)
        path.parent.mkdir(exist_ok=True)
        path.touch()
        if job.proposal.inherit:
            checkpoints.optimizer_of(path).touch()
        if job.trial_id % self.dying == self.dying - 1 and self.started.count(job.trial_id) == 1:
            return Finished(job, error="worker died", retry=True)
        if job.trial_id % self.failing == self.failing - 1:
            return Finished(job, error="made up")
        metrics = {"val_loss": random.Random(job.seed).randrange(20) / 20}
        return Finished(job, Evaluation(metrics, 1.0, checkpoints.name_of(job.trial_id)))


@pytest.mark.parametrize("seed", range(5))
def test_what_ends_together_with_a_job_aside_is_not_lost(tmp_path: Path, seed: int) -> None:
    """As with a limit on parameters, whose costs are counted in a worker while another worker trains."""
    arch = Proposal(NasBench201().arch([0] * 6))
    left = iter(range(8))

    def source() -> Job | None:
        number = next(left, None)
        if number is None:
            return None
        assert drive.aside(Job(100 + number, arch, 0)).job.trial_id == 100 + number
        return Job(number, arch, 0)

    drive = Drive(Hands(tmp_path, size=3, seed=seed, at_once=3), source)
    found = [event.job.trial_id for event in drive if isinstance(event, Finished)]
    assert sorted(found) == list(range(8))


def test_an_executor_that_loses_a_trial_is_found_out(tmp_path: Path) -> None:
    class Forgetful(Hands):
        def wait(self, seconds: float) -> list[JobEvent]:
            return super().wait(seconds)[1:]

    jobs = (Job(number, Proposal(NasBench201().arch([0] * 6)), 0) for number in range(3))
    with pytest.raises(NastoolError, match="hands lost 1 trial: "):
        list(Drive(Forgetful(tmp_path, size=3, at_once=3), lambda: next(jobs, None)))


STRATEGIES: Mapping[str, tuple[type[Strategy], SearchSpace, Mapping[str, Any]]] = {
    "network-morphism": (NetworkMorphism, MorphCNN(stages=2, layers=3), {"steps": 4, "neighbors": 5, "morphisms": 1}),
    "from scratch": (
        NetworkMorphism,
        MorphCNN(stages=2, layers=3),
        {"steps": 4, "neighbors": 5, "morphisms": 1, "inherit": False},
    ),
    "snapshots": (
        NetworkMorphism,
        MorphCNN(stages=2, layers=3),
        {"steps": 4, "neighbors": 5, "morphisms": 1, "members": 3},
    ),
    "evolution": (RegularizedEvolution, NasBench201(), {"population": 4, "tournament": 2, "inherit": True}),
    "without inheritance": (RegularizedEvolution, NasBench201(), {"population": 4, "tournament": 2}),
    "random": (RandomSearch, NasBench201(), {}),
    "nes-rs": (NESRS, NasBench201(), {"members": 2}),
    "deep-ensemble": (DeepEnsemble, NasBench201(), {"members": 20, "pool": 12}),
    "saep": (SAEP, NasBench201(), {"members": 2, "least": 2}),
}


def on_disk(folder: Path, foreign: Collection[str] = ()) -> tuple[set[int], set[int]]:
    """Trials with weights, and with what the optimiser remembers. Nothing else is there but what is foreign."""
    found: tuple[set[int], set[int]] = (set(), set())
    names = {file.name for file in (folder / "checkpoints").glob("*")}
    assert names >= set(foreign)
    for name in names - set(foreign):
        kind, suffix = (1, ".optimizer.safetensors") if ".optimizer" in name else (0, ".safetensors")
        number = int(name.removeprefix("trial-").removesuffix(suffix))
        assert name == f"trial-{number:06d}{suffix}"
        found[kind].add(number)
    return found


class Killed(BaseException):
    """The process ends here."""


@dataclass
class Checked:
    """A search whose files are checked after each told trial."""

    folder: Path
    kind: str
    trials: int = 22
    keep: int = 3
    foreign: Collection[str] = ()

    def __post_init__(self) -> None:
        self.folder.mkdir(exist_ok=True)
        self.strategy, self.space, self.options = STRATEGIES[self.kind]
        config = {"space": {"name": self.space.name, "options": dict(self.space.ref.options)}}
        Store.create(self.folder / "run.db", {"config": config, "objective": "val_loss:min"}).close()

    def sit(self, hands: Hands, monkeypatch: pytest.MonkeyPatch, enough: int = 10**9) -> list[Trial]:
        """One sitting, killed where files are to be deleted after so many told trials. All trials so far."""
        told = 0

        def delete(kept: Kept) -> None:
            nonlocal told
            told += sum(isinstance(event, Trial) for event in search._untold)
            if told >= enough:
                raise Killed
            original(kept)

        def watch(search: Search, event: Reported | Trial | None) -> None:
            if isinstance(event, Trial):
                self.check(search)

        original = Kept.delete
        with Store.open(self.folder / "run.db", durable=False) as store, monkeypatch.context() as patch:
            patch.setattr(Kept, "delete", delete)
            patch.setattr(Search, "_predictions", staticmethod(made_up_predictions))
            search = Search(
                store,
                self.strategy(self.space, seed=0, **self.options),
                hands,
                [Objective.parse("val_loss")],
                0,
                self.trials,
                self.folder,
                keep=self.keep,
                watch=watch,
            )
            search.restore()
            self.check(search)
            try:
                search.run()
            except Killed:
                pass
            return list(store.trials())

    def check(self, search: Search) -> None:
        trials = list(search.store.trials())
        done = sorted((trial for trial in trials if trial.state == "done"), key=lambda trial: (trial.loss, trial.id))
        running = {trial.id: trial.proposal for trial in trials if trial.state == "running"}
        parents = {p.parent for p in running.values() if p.inherit and p.parent is not None}
        parents |= set(wanted(search.strategy))
        kept = parents | {trial.id for trial in done[: self.keep]} | {*pool(search.strategy)}
        weights, momentum = on_disk(self.folder, self.foreign)
        assert weights - running.keys() == kept
        assert momentum - running.keys() == parents
        for trial in done:
            assert trial.evaluation is not None
            assert (trial.evaluation.checkpoint is not None) == (trial.id in kept)


def results(found: Sequence[Trial]) -> list[tuple[int, Proposal, str, Sequence[float]]]:
    return [(trial.id, trial.proposal, trial.state, trial.losses) for trial in found]


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("kind", STRATEGIES)
def test_which_checkpoints_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, workers: int) -> None:
    """The best, those that a trial inherits or may inherit from, and the ensemble's, whatever fails."""
    for seed, keep in enumerate((1, 3, 100)):
        search = Checked(tmp_path / str(keep), kind, keep=keep)
        hands = Hands(search.folder, workers, seed, failing=6, dying=5, at_once=1 + seed)
        found = search.sit(hands, monkeypatch)
        assert len(found) == search.trials
        assert {trial.state for trial in found} == {"done", "failed"}


FOREIGN = {"mine.safetensors", "supernet.safetensors", "trial-1.safetensors", "trial-000001.safetensors.bak"}
FOREIGN |= {f"trial-{OUTSIDE}.safetensors", "trial-000001.safetensors.new", "trial-000040.safetensors"}
ORPHANS = (".0123abcd.nastool-new", ".00000000.nastool-new")


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("kind", ["network-morphism", "evolution", "random", "nes-rs", "deep-ensemble", "saep"])
def test_a_crash_leaves_nothing_behind_and_takes_nothing_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, workers: int
) -> None:
    """Between a commit and the deletions that follow it, again and again; and while files were written."""
    search = Checked(tmp_path / "cut", kind, foreign=FOREIGN)
    folder = search.folder / "checkpoints"
    folder.mkdir()
    for sitting in range(search.trials):
        for name in FOREIGN:
            (folder / name).touch()
        for name in ORPHANS:
            (folder / name).touch()
        found = search.sit(Hands(search.folder, workers, sitting, at_once=2), monkeypatch, 1 + sitting % 2)
        if len(found) == search.trials and all(trial.state != "running" for trial in found):
            break
    assert sitting > 8
    found = search.sit(Hands(search.folder), monkeypatch)
    whole = Checked(tmp_path / "whole", kind).sit(Hands(tmp_path / "whole"), monkeypatch)
    if workers == 1 or kind not in ("evolution", "saep"):  # whose children depend on who ended before whom
        assert results(found) == results(whole)


def test_without_what_it_builds_on_it_does_not_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    search = Checked(tmp_path, "network-morphism")
    with pytest.raises(InputError, match="the disk is full"):
        search.sit(Hands(tmp_path, mend=9), monkeypatch)
    _, momentum = on_disk(tmp_path)
    assert len(momentum) == 2
    for trial_id in momentum:
        path = tmp_path / checkpoints.name_of(trial_id)
        path.rename(tmp_path / "away")
        hands = Hands(tmp_path)
        with pytest.raises(InputError) as caught:
            search.sit(hands, monkeypatch)
        assert str(caught.value) == (
            f"{tmp_path} lacks the checkpoint of trial {trial_id}, from which the search goes on: put "
            f"checkpoints/trial-{trial_id:06d}.safetensors back, or begin anew with --force"
        )
        assert not hands.started, "before anything is trained"
        (tmp_path / "away").rename(path)
    assert len(search.sit(Hands(tmp_path), monkeypatch)) == 22


def test_also_the_parent_of_a_trial_that_was_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the strategy wants it no more."""
    search = Checked(tmp_path, "evolution", keep=1)
    for sitting in range(20):
        trials = search.sit(Hands(tmp_path, 6, sitting), monkeypatch, 2)
        told = [trial for trial in trials if trial.state != "running"]
        with Store.read(tmp_path / "run.db") as store:
            alive = [trial.id for trial in store.history() if trial.state == "done"][-4:]
        parents = {trial.proposal.parent for trial in trials if trial.state == "running"} - {None, *alive}
        if parents:
            break
    assert told and parents, "another seed is needed"
    (tmp_path / checkpoints.name_of(next(iter(parents)) or 0)).unlink()
    with pytest.raises(InputError, match="lacks the checkpoint of trial"):
        search.sit(Hands(tmp_path), monkeypatch)


@pytest.mark.parametrize("workers", [1, 3])
def test_what_is_not_the_trials_fault_ends_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    """And it is repeated as if nothing had been."""
    search = Checked(tmp_path / "disturbed", "network-morphism")
    for trial_id in (0, 2, 7, 13, 21):
        with pytest.raises(InputError, match="the disk is full: free some space"):
            search.sit(Hands(search.folder, workers, mend=trial_id), monkeypatch)
        with Store.read(search.folder / "run.db") as store:
            states = {trial.id: trial.state for trial in store.trials()}
        assert states[trial_id] == "running"
        assert "failed" not in states.values()
    found = search.sit(Hands(search.folder, workers), monkeypatch)
    whole = Checked(tmp_path / "whole", "network-morphism").sit(Hands(tmp_path / "whole"), monkeypatch)
    assert results(found) == results(whole)


# --- the trials of a step run at the same time


def test_a_step_keeps_all_workers_busy(tmp_path: Path) -> None:
    """Eight neighbors on four workers: four at a time, until fewer are left."""
    options = ("-s", "network-morphism", "-S", "steps=2", "-S", "final_epochs=0", "-E", "seconds=0.5")
    result = search(tmp_path, *options, "--workers", "4", evaluator="sleepy-heir")
    assert result.code == 0, result.err
    with sqlite3.connect(tmp_path / "run" / "run.db") as db:
        rows = db.execute(
            "SELECT id, json_extract(proposal, '$.parent'), started, finished FROM trials ORDER BY id"
        ).fetchall()
    assert len(rows) == 17
    for step in (rows[1:9], rows[9:]):
        assert len({parent for _, parent, _, _ in step}) == 1
        changes = sorted([(started, 1) for *_, started, _ in step] + [(finished, -1) for *_, finished in step])
        running = [sum(change for _, change in changes[: i + 1]) for i in range(len(changes))]
        assert max(running) == 4
        begun = [i for i, (_, change) in enumerate(changes) if change == 1]
        assert running[begun[3]] == 4  # later ones may end together, where the machine is busy
    first_end, begin, end = max(row[3] for row in rows[1:9]), rows[9][2], max(row[3] for row in rows[9:])
    assert first_end <= begin, "the next step begins when all have ended"
    assert end - begin < 6 * 0.5, "one after another it takes at least 8"


def test_not_every_evaluator_keeps_what_an_ensemble_is_chosen_by(tmp_path: Path) -> None:
    result = search(tmp_path, "-s", "network-morphism", "-S", "members=3", evaluator="sleepy-heir")
    assert result.code == 2
    assert "needs 'ensemble'" in result.err and len(result.err.splitlines()) == 1
    assert not (tmp_path / "run").exists()
