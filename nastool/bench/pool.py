"""Runs in worker processes: a dying one costs its run alone, which is tried once more.

Each worker reads a table once. Numerical libraries get one thread each: the runs are small, and there are many.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

from nastool.bench.benchmark import Benchmark, Facts
from nastool.bench.loop import Budget, Run, play
from nastool.bench.specs import StrategySpec, TableSpec
from nastool.errors import InputError, NastoolError, one_line

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""What each worker has as "1" in its environment before numpy is loaded."""
MAX_ATTEMPTS = 2
WAIT_SECONDS = 0.25


@dataclass(frozen=True)
class Describe:
    """Read a table and say what it is."""

    table: TableSpec


@dataclass(frozen=True)
class Play:
    """Make one run. facts: what the table is known to be; it must not have changed since."""

    strategy: StrategySpec
    table: TableSpec
    facts: Facts
    seed: int
    budget: Budget


@dataclass(frozen=True)
class Played:
    """cpu_seconds: of the strategy and the loop together, its construction included, reading the table excluded."""

    run: Run
    cpu_seconds: float


@dataclass(frozen=True)
class Broken:
    """The task has no result, for this reason."""

    reason: str


Task = Describe | Play
Result = Facts | Played | Broken


class Pool:
    """Worker processes, started when there is something to do."""

    def __init__(self, workers: int) -> None:
        self._workers = [_Worker() for _ in range(workers)]

    def run(self, tasks: Iterable[Task], stop: Callable[[], bool]) -> Iterator[tuple[Task, Result] | None]:
        """Each task with its result, in the order they finish; None at least every WAIT_SECONDS meanwhile.

        stop: once true, no further task is begun. InputError: a worker found what only the user can mend.
        """
        waiting = iter(tasks)
        again: deque[Task] = deque()
        tried: list[Task] = []
        while True:
            for worker in self._workers:
                if worker.task is None and not stop():
                    task = again.popleft() if again else next(waiting, None)
                    if task is not None:
                        worker.start(task)
            busy = {worker.connection: worker for worker in self._workers if worker.task is not None}
            if not busy:
                return
            ready = wait(list(busy), WAIT_SECONDS)
            if not ready:
                yield None
            for connection in ready:
                assert isinstance(connection, Connection)
                task, result, died = busy[connection].receive()
                if died and not any(task is other for other in tried):
                    tried.append(task)
                    again.append(task)
                else:
                    yield task, result

    @property
    def busy(self) -> int:
        return sum(worker.task is not None for worker in self._workers)

    def close(self) -> None:
        for worker in self._workers:
            worker.kill()


class _Worker:
    """One process, started on its first task and again after it died."""

    connection: Connection

    def __init__(self) -> None:
        self.process: SpawnProcess | None = None
        self.task: Task | None = None

    def start(self, task: Task) -> None:
        if self.process is None:
            self._spawn()
        self.task = task
        with contextlib.suppress(OSError):  # it died while idle: `receive` will find its end of the pipe closed
            self.connection.send(task)

    def _spawn(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), name="nastool-bench-worker")
        before = {name: os.environ.get(name) for name in THREADS}
        os.environ.update(dict.fromkeys(THREADS, "1"))
        try:
            self.process.start()
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value
        theirs.close()

    def receive(self) -> tuple[Task, Result, bool]:
        """The task, its result, and whether the process died of it. InputError: as the worker raised it."""
        assert self.task is not None
        task = self.task
        try:
            message: Any = self.connection.recv()
        except (EOFError, OSError):
            return task, Broken(f"worker died: {self._how_it_died()}"), True
        self.task = None
        if isinstance(message, InputError):
            raise message
        return task, message, False

    def _how_it_died(self) -> str:
        assert self.process is not None
        self.process.join(10)
        code = self.process.exitcode
        self.kill()
        if code is None or code >= 0:
            return f"exit code {code}"
        memory = ", perhaps for want of memory" if -code == signal.SIGKILL else ""
        return f"signal {-code} ({signal.strsignal(-code) or 'unknown'}){memory}"

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()
            self.process.close()
            self.connection.close()
        self.process = self.task = None


def _serve(connection: Connection) -> None:
    """The body of a worker process: do what comes through the pipe until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the coordinator decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    os.dup2(2, 1)  # stdout carries the coordinator's results
    benchmarks: list[tuple[TableSpec, Benchmark]] = []
    while True:
        try:
            task = connection.recv()
        except EOFError:
            return
        try:
            benchmark = next((there for spec, there in benchmarks if spec == task.table), None)
            if benchmark is None:
                benchmark = Benchmark(task.table)
                benchmarks.append((task.table, benchmark))
            if isinstance(task, Play) and task.facts != benchmark.facts:
                raise InputError(f"{task.facts.file} was changed meanwhile: give the command again")
            connection.send(_play(task, benchmark) if isinstance(task, Play) else benchmark.facts)
        except InputError as error:
            connection.send(error)
        except Exception as error:
            connection.send(_broken(error))


def _play(task: Play, benchmark: Benchmark) -> Played | Broken:
    """Whatever a strategy raises costs this run alone."""
    benchmark.start(task.seed)
    started = time.process_time()
    try:
        run = play(task.strategy.build(benchmark.space, task.seed), benchmark, task.seed, task.budget)
    except Exception as error:
        return _broken(error)
    return Played(run, time.process_time() - started)


def _broken(error: Exception) -> Broken:
    if "--debug" in sys.argv:  # a worker has its coordinator's
        traceback.print_exc()
    return Broken(one_line(error))


def _die_with_parent() -> None:
    """A coordinator that was killed cannot stop its workers: they watch it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)


def describe(pool: Pool, tables: Sequence[TableSpec]) -> list[Facts]:
    """What the tables are, in their order. InputError: one cannot be used; NastoolError: memory ran out, say."""
    found: dict[int, Facts] = {}
    tasks = [Describe(table) for table in tables]
    for event in pool.run(tasks, lambda: False):
        if event is not None:
            task, result = event
            if not isinstance(result, Facts):
                raise NastoolError(f"--table {task.table.text}: {getattr(result, 'reason', result)}")
            found[next(i for i, own in enumerate(tasks) if own is task)] = result
    return [found[i] for i in range(len(tables))]
