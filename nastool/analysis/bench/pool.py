"""Runs in worker processes: a dying one costs its run alone, which is tried once more.

Each worker reads a table once. Numerical libraries get one thread each: the runs are small, and there are many.
"""

from __future__ import annotations

import contextlib
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

from nastool.analysis.bench.benchmark import Benchmark, Facts
from nastool.analysis.bench.loop import Budget, Run, play
from nastool.analysis.bench.specs import StrategySpec, TableSpec
from nastool.core.errors import InputError, NastoolError, one_line
from nastool.core.processes import WorkerProcess, settle_in

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""Variables that are "1" in each worker's environment before numpy is loaded."""
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

    def __init__(self) -> None:
        self.process: WorkerProcess | None = None
        self.task: Task | None = None

    @property
    def connection(self) -> Connection:
        assert self.process is not None
        return self.process.connection

    def start(self, task: Task) -> None:
        if self.process is None:
            environment = dict.fromkeys(THREADS, "1")
            self.process = WorkerProcess(_serve, (), name="nastool-bench-worker", environment=environment)
        self.task = task
        with contextlib.suppress(OSError):  # it died while idle: `receive` will find its end of the pipe closed
            self.process.connection.send(task)

    def receive(self) -> tuple[Task, Result, bool]:
        """The task, its result, and whether the process died of it. InputError: as the worker raised it."""
        assert self.process is not None and self.task is not None
        task, self.task = self.task, None
        try:
            message: Any = self.process.connection.recv()
        except (EOFError, OSError):
            reason = f"worker died: {self.process.how_it_died()}"
            self.process = None
            return task, Broken(reason), True
        if isinstance(message, InputError):
            raise message
        return task, message, False

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
        self.process = self.task = None


def _serve(connection: Connection) -> None:
    """The body of a worker process: do what comes through the pipe until it closes."""
    settle_in()
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
        except BaseException as error:
            connection.send(_broken(error))


def _play(task: Play, benchmark: Benchmark) -> Played | Broken:
    """Whatever a strategy raises costs this run alone."""
    benchmark.start(task.seed)
    started = time.process_time()
    try:
        run = play(task.strategy.build(benchmark.space, task.seed), benchmark, task.seed, task.budget)
    except BaseException as error:  # also of a strategy that calls sys.exit
        return _broken(error)
    return Played(run, time.process_time() - started)


def _broken(error: BaseException) -> Broken:
    if "--debug" in sys.argv:  # a worker has its coordinator's
        traceback.print_exc()
    return Broken(one_line(error))


def describe(pool: Pool, tables: Sequence[TableSpec]) -> list[Facts]:
    """Facts about the tables, in their order. InputError: one cannot be used; NastoolError: memory ran out, say."""
    found: dict[int, Facts] = {}
    tasks = [Describe(table) for table in tables]
    for event in pool.run(tasks, lambda: False):
        if event is not None:
            task, result = event
            if not isinstance(result, Facts):
                raise NastoolError(f"--table {task.table.text}: {getattr(result, 'reason', result)}")
            found[next(i for i, own in enumerate(tasks) if own is task)] = result
    return [found[i] for i in range(len(tables))]
