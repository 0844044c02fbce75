"""How many slots one coordinator keeps busy, and what a trial costs it: searches on a simulated clock.

usage: scale.py [--strategy random evolution ...] [--slots 64 1000 10000] [--seconds 0.01 1 3600] [--trials 100000]
                [--space nasbench201] [--strategy-option KEY=VALUE ...] [--objectives 1] [--spread 0.5] [--sync 0]
                [--limit 600] [--dir DIR]

Search, Drive, Store and the executor `processes` are the real ones, with what goes through pipes. Only the workers are
simulated: a child takes a log-normal time (`--seconds` on average, `--spread` its standard deviation in logarithms),
and the clock goes on to the next that ends. The CPU time that the coordinator uses meanwhile is measured and goes by on
the clock, too: who is busy does not answer; and `--sync` seconds for each transaction that a disk has to write. Not in
it: starting the workers, their signs of life (one every 5 s from each; what one costs is printed), and machines that
fail. A case ends after `--limit` seconds of CPU.

Each case runs in processes of its own, one that searches and one that continues what the first left. Printed are, as
Markdown: the share of the slots' time without a child, from when all had one until the last was handed out; trials a
second of the clock there; CPU a trial, of the last tenth, and as ratio to that of the second tenth (1: it does not
grow) and to the reference; the most memory, and how much came with each trial; bytes of run.db a trial; CPU time and
memory to continue. The reference is what nobody can do without: a job and its result pickled through a pipe, and their
rows written in two transactions.
"""

from __future__ import annotations

import argparse
import heapq
import json
import math
import os
import pickle
import resource
import sqlite3
import subprocess
import sys
import tempfile
import time
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any

import numpy as np

from nastool.core import registry
from nastool.core.evaluator import Evaluator, Report
from nastool.core.values import Arch, Evaluation, Proposal, Scalar, SpaceRef, Trial
from nastool.engine import rows
from nastool.engine.executors.jobs import EvaluatorSpec, Finished, Job, JobEvent, Reported, perform
from nastool.engine.executors.processes import Processes
from nastool.engine.executors.slot import Beat, Body, Ready
from nastool.engine.search import Search
from nastool.engine.store import Store

PARTS = 10
"""Of all trials, of which CPU time is averaged."""


class Free(Evaluator):
    """Measures nothing, but that differs from architecture to architecture."""

    name = "free"
    metrics = frozenset({"val_acc", "params"})

    def prepare(self) -> None:
        pass

    def evaluate(self, trial_id: int, proposal: Proposal, *, seed: int, report: Report) -> Evaluation:
        key = hash(proposal.arch.choices)
        return Evaluation({"val_acc": (key % 9973) / 9973, "params": float(key % 9679)}, 1.0)


class Clock:
    """Simulated seconds, in which the CPU time of this process goes by as well."""

    def __init__(self) -> None:
        self.now = 0.0
        self._mark = time.process_time()

    def charge(self) -> None:
        """Let the CPU time since the last look go by."""
        now = time.process_time()
        self.now += now - self._mark
        self._mark = now

    @contextmanager
    def free(self) -> Iterator[None]:
        """What happens within goes on elsewhere."""
        self.charge()
        yield
        self._mark = time.process_time()


class Synced(Store):
    """A database on a disk that takes a time to say that a transaction is written; that goes by on the clock alone."""

    clock: Clock | None = None
    takes = 0.0

    def _commit(self) -> None:
        super()._commit()
        if self.clock is not None:
            self.clock.now += self.takes


class Line(Connection):
    """The coordinator's end of a pipe to a simulated worker, which has no end of its own: half as many open files."""

    def __init__(self, workers: Simulated) -> None:
        path = f"{workers.folder}/line"
        os.mkfifo(path)
        super().__init__(os.open(path, os.O_RDWR))
        os.unlink(path)
        self._workers = workers

    def send(self, obj: Any) -> None:
        """To the worker."""
        self._workers.sent(ForkingPickler.dumps(obj))
        self._workers.takes(self, obj)

    def says(self, obj: Any) -> None:
        """From the worker."""
        super().send(obj)

    def recv(self) -> Any:
        self._workers.unread -= 1
        return super().recv()


@dataclass
class Worker:
    """A simulated process."""

    connection: Connection
    pid: int = 0
    stopped: bool = False

    def kill(self) -> None:
        self.connection.close()

    def how_it_died(self) -> str:
        return "it cannot"


class Simulated(Processes):
    """Jobs in simulated processes, whose results come when they are due."""

    name = "simulated"

    def __init__(self, slots: int, seconds: float, spread: float, folder: Path, evaluator: Evaluator) -> None:
        super().__init__(EvaluatorSpec(evaluator.space.ref, evaluator.name, {}), [{}] * slots)
        self.folder = folder
        self.evaluator = evaluator
        self.clock = Clock()
        self._begun, self._ended = array("d"), array("d")
        self.unread = 0
        """Messages that the coordinator has not taken yet."""
        self._mean, self._spread = math.log(seconds) - spread**2 / 2, spread
        self._rng = np.random.default_rng(0)
        self._running: list[tuple[float, int, Line, Job]] = []
        self._out, self._in = os.pipe()[::-1]

    def start(self, number: int, environment: Mapping[str, str]) -> Worker:
        return Worker(Line(self))

    def open(self) -> Mapping[str, Scalar]:
        return {}

    def sent(self, data: Any) -> None:
        """What is written to a worker: of that a system call remains."""
        os.write(self._out, data)
        with self.clock.free():
            os.read(self._in, 1 << 20)

    def takes(self, line: Line, message: Body | Job) -> None:
        """A worker has got a message."""
        with self.clock.free():
            if isinstance(message, Job):
                end = self.clock.now + math.exp(self._rng.normal(self._mean, self._spread))
                self._begun.append(self.clock.now)
                self._ended.append(end)
                heapq.heappush(self._running, (end, message.trial_id, line, message))
            else:
                self._answer(line, Ready({}))

    def _answer(self, line: Line, message: Any) -> None:
        self.unread += 1
        line.says(message)

    def wait(self, seconds: float) -> list[JobEvent]:
        with self.clock.free():
            if not self.unread and self._running and self._running[0][0] > self.clock.now:
                self.clock.now = self._running[0][0]
            while self._running and self._running[0][0] <= self.clock.now:
                _, _, line, job = heapq.heappop(self._running)
                self._answer(line, perform(self.evaluator, job, lambda step, metrics: None))
        return super().wait(0)

    def _look(self) -> bool:
        return False  # a minute of this clock is none of theirs

    def idle_share(self) -> tuple[float, float]:
        """Share of the slots' time without a child, and trials a second, while all could have one."""
        begun, ended, slots = np.array(self._begun), np.array(self._ended), len(self._slots)
        first, last = begun[slots - 1], begun[-1]
        busy = np.clip(np.minimum(ended, last) - np.maximum(begun, first), 0, None).sum()
        return float(1 - busy / (slots * (last - first))), float((len(begun) - slots) / (last - first))

    def beat(self, count: int = 10_000) -> float:
        """CPU seconds that a worker's sign of life costs the coordinator."""
        self.submit(Job(10**9, Proposal(Arch(self.evaluator.space.ref, ())), 0))
        line = self._running[0][2]
        taken = 0.0
        for _ in range(count):
            self._answer(line, Beat(time.process_time()))
            start = time.process_time()
            super().wait(0)
            taken += time.process_time() - start
        return taken / count


# --- a case


@dataclass(frozen=True)
class Case:
    """A search. objectives: val_acc alone, or params, too. sync, limit: as above."""

    strategy: str
    space: str
    options: Mapping[str, Scalar]
    slots: int
    seconds: float
    trials: int
    spread: float
    sync: float
    limit: float
    objectives: int = 1


def held() -> int:
    """Bytes of memory that this process holds (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def most_held() -> int:
    """The most bytes of memory that this process has held."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def search_of(case: Case, folder: Path, store: Store) -> tuple[Search, Simulated]:
    space = registry.make_space(SpaceRef(case.space))
    strategy = registry.make("strategy", case.strategy, space, given={"seed": 0, **case.options})
    executor = Simulated(case.slots, case.seconds, case.spread, folder, Free(space))

    def stop() -> bool:
        return time.process_time() > case.limit

    return Search(store, strategy, executor, store.objectives, 0, case.trials, folder, stop=stop), executor


def searched(case: Case, folder: Path) -> dict[str, Any]:
    """Search, and what that took."""
    ref = registry.make_space(SpaceRef(case.space)).ref
    config = {"space": {"name": ref.name, "options": dict(ref.options)}}
    names = ["val_acc:max", "params:min"][: case.objectives]
    usage: dict[int, float] = {}
    early: dict[int, int] = {}
    with Synced.create(folder / "run.db", {"config": config, "objective": names}, durable=False) as store:
        search, executor = search_of(case, folder, store)
        assert isinstance(store, Synced)
        store.clock, store.takes = executor.clock, case.sync

        part = case.trials // PARTS

        def watch(search: Search, event: Reported | Trial | None) -> None:
            if search.told % part == 0 and search.told not in usage:
                usage[search.told] = time.process_time()
                early[search.told] = held()

        search.watch = watch
        search.restore()
        search.run()
        late = held()
        idle, speed = executor.idle_share()
        last = search.finished // part * part
        cpu = (usage[last] - usage[last - part]) / part
        return {
            "trials": search.finished,
            "idle": idle,
            "speed": speed,
            "cpu": cpu,
            "growth": cpu / ((usage[2 * part] - usage[part]) / part),
            "memory": most_held(),
            "memory_trial": (late - early[part]) / (search.finished - part),
            "clock": executor.clock.now,
            "beat": executor.beat(),
        }


def continued(case: Case, folder: Path) -> dict[str, Any]:
    """What it takes to continue the search, until it is where it was."""
    begin = time.process_time()
    with Store.open(folder / "run.db", durable=False) as store:
        search, _ = search_of(case, folder, store)
        search.restore()
        assert search.finished
        return {"resume": time.process_time() - begin, "resume_memory": most_held()}


def reference(trials: int, folder: Path) -> float:
    """CPU seconds of one trial without a search: its messages pickled through a pipe, its rows in two transactions."""
    space = registry.make_space(SpaceRef("nasbench201"))
    archs = [space.sample(np.random.default_rng(seed)) for seed in range(trials)]
    db = sqlite3.connect(folder / "reference.db", isolation_level=None)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("CREATE TABLE trials (id INTEGER PRIMARY KEY, proposal TEXT, evaluation TEXT)")
    ours, theirs = os.pipe()
    begin = time.process_time()
    for number, arch in enumerate(archs):
        job = Job(number, Proposal(arch), number)
        with db:
            db.execute("BEGIN IMMEDIATE")
            db.execute("INSERT INTO trials VALUES (?, ?, NULL)", (number, rows.to_text(job.proposal)))
        for message in (job, Finished(job, Evaluation({"val_acc": 0.5, "params": 1.0}, 1.0))):
            os.write(theirs, pickle.dumps(message))
            pickle.loads(os.read(ours, 1 << 16))
        with db:
            db.execute("BEGIN IMMEDIATE")
            text = rows.to_text(Evaluation({"val_acc": 0.5, "params": 1.0}, 1.0))
            db.execute("UPDATE trials SET evaluation = ? WHERE id = ?", (text, number))
    return (time.process_time() - begin) / trials


STEPS = {"search": searched, "continue": continued}


def in_process(step: str, case: Case, folder: str) -> dict[str, Any]:
    """What a step comes to in a process of its own."""
    command = [sys.executable, __file__, "--step", step, json.dumps(asdict(case)), folder]
    found: dict[str, Any] = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return found


COLUMNS = (
    "strategy",
    "child",
    "slots",
    "trials",
    "idle",
    "trials/s",
    "CPU ms a trial",
    "x second tenth",
    "x reference",
    "peak MB",
    "KB a trial",
    "run.db B a trial",
    "resume s",
    "resume MB",
)


def row(case: Case, found: Mapping[str, Any], size: int, least: float) -> list[str]:
    return [
        case.strategy,
        f"{case.seconds:g} s",
        f"{case.slots:,}",
        f"{found['trials']:,}",
        f"{100 * found['idle']:.2f}%",
        f"{found['speed']:.4g}",
        f"{1000 * found['cpu']:.3f}",
        f"{found['growth']:.2f}",
        f"{found['cpu'] / least:.1f}",
        f"{found['memory'] / 1e6:.0f}",
        f"{found['memory_trial'] / 1e3:.2f}",
        f"{size / found['trials']:.0f}",
        f"{found['resume']:.1f}",
        f"{found['resume_memory'] / 1e6:.0f}",
    ]


def printed(cells: Sequence[str]) -> None:
    print("| " + " | ".join(cells) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strategy", nargs="+", default=["random", "evolution"])
    parser.add_argument("--slots", type=int, nargs="+", default=[64, 1000, 10_000])
    parser.add_argument("--seconds", type=float, nargs="+", default=[0.01, 1.0, 3600.0])
    parser.add_argument("--trials", type=int, default=100_000, help="at least 2,000, and twice the slots")
    parser.add_argument("--space", default="nasbench201")
    parser.add_argument("--strategy-option", nargs="*", default=["dedup=false"], metavar="KEY=VALUE")
    parser.add_argument("--objectives", type=int, choices=(1, 2), default=1)
    parser.add_argument("--spread", type=float, default=0.5)
    parser.add_argument("--sync", type=float, default=0.0, help="seconds that the disk takes to write a transaction")
    parser.add_argument("--limit", type=float, default=600.0, help="seconds of CPU after which a case ends")
    parser.add_argument("--dir", default=None, help="where the files go; a temporary folder by default")
    parser.add_argument("--step", nargs=3, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        step, case, folder = args.step
        print(json.dumps(STEPS[step](Case(**json.loads(case)), Path(folder))))
        return
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        least = reference(5000, Path(folder))
    print(f"reference: {1e6 * least:.0f} us of CPU a trial\n")
    printed(COLUMNS)
    printed(["---"] * len(COLUMNS))
    options = {key: json.loads(value) for key, value in (option.split("=", 1) for option in args.strategy_option)}
    beats = []
    for strategy in args.strategy:
        for seconds in args.seconds:
            for slots in args.slots:
                case = Case(
                    strategy,
                    args.space,
                    options,
                    slots,
                    seconds,
                    args.trials,
                    args.spread,
                    args.sync,
                    args.limit,
                    args.objectives,
                )
                with tempfile.TemporaryDirectory(dir=args.dir) as folder:
                    found = in_process("search", case, folder)
                    size = sum(file.stat().st_size for file in Path(folder).glob("run.db*"))
                    found |= in_process("continue", case, folder)
                beats.append((slots, found["beat"]))
                printed(row(case, found, size, least))
    print()
    for slots, seconds in sorted(dict(beats).items()):
        share = 100 * seconds * slots / 5
        print(f"a sign of life among {slots:,} slots costs {1e6 * seconds:.0f} us: {share:.1f}% of the coordinator")
    print(json.dumps({"python": sys.version.split()[0], "sqlite": sqlite3.sqlite_version}))


if __name__ == "__main__":
    main()
