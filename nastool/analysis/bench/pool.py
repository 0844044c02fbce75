"""Runs as jobs of worker processes: a dying one costs its run alone, which is tried once more.

Each worker reads a table once. Numerical libraries get one thread each: the runs are small, and there are many.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from nastool.analysis.bench import scored
from nastool.analysis.bench.benchmark import Benchmark, Facts
from nastool.analysis.bench.loop import Budget, play, with_recommended
from nastool.analysis.bench.scored import Amounts
from nastool.analysis.bench.specs import ScorerSpec, StrategySpec, TableSpec
from nastool.core import registry
from nastool.core.errors import CannotGoOn, InputError, NastoolError, TrialFailed, one_line
from nastool.core.evaluator import Evaluator, Report
from nastool.core.typed import fields, fitted
from nastool.core.values import Evaluation, Proposal, Trial
from nastool.engine.executors.base import Drive
from nastool.engine.executors.jobs import EvaluatorSpec, Finished, Job
from nastool.engine.executors.processes import Processes

THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
"""Variables that are "1" in each worker's environment before numpy is loaded."""


@dataclass(frozen=True)
class Describe:
    """Read a table and say what it is."""

    table: TableSpec


@dataclass(frozen=True)
class Play:
    """Make one run. facts: what the table is known to be; it must not have changed since.

    marks: budgets within which a model says what it recommends.
    """

    strategy: StrategySpec
    table: TableSpec
    facts: Facts
    seed: int
    budget: Budget
    marks: tuple[Budget, ...] = ()


@dataclass(frozen=True)
class Score:
    """Make one search by an evaluator's scores, in the comparison's folder, and judge it by the table."""

    strategy: StrategySpec
    table: TableSpec
    facts: Facts
    seed: int
    scorer: ScorerSpec
    amounts: Amounts
    folder: Path
    force: bool


Task = Describe | Play | Score


class Player(Evaluator):
    """Carries out the tasks that proposals note: whole runs are what is evaluated here."""

    name = "bench"
    _benchmarks: list[tuple[TableSpec, Benchmark]]

    def prepare(self) -> None:
        self._benchmarks = []

    def evaluate(self, trial_id: int, proposal: Proposal, *, seed: int, report: Report) -> Evaluation:
        """The notes are what came of it: `Run`, `Scored` or `Facts`; seconds: CPU time of strategy and loop."""
        task = proposal.notes["task"]
        assert isinstance(task, Task)
        try:
            benchmark = next((there for spec, there in self._benchmarks if spec == task.table), None)
            if benchmark is None:
                benchmark = Benchmark(task.table)
                self._benchmarks.append((task.table, benchmark))
            if isinstance(task, Describe):
                return Evaluation({}, 0.0, notes=asdict(benchmark.facts))
            if task.facts != benchmark.facts:
                raise InputError(f"{task.facts.file} was changed meanwhile: give the command again")
            if isinstance(task, Score):
                of = task.strategy, task.scorer, benchmark, task.seed, task.folder, task.amounts, task.force
                found = scored.carry_out(*of)
                return Evaluation({}, found.seconds, notes=found.to_json())
            benchmark.start(task.seed)
            started = time.process_time()
            told: list[Trial] = []
            run = play(task.strategy.build(benchmark.space, task.seed), benchmark, task.seed, task.budget, told)
            seconds = time.process_time() - started
            return Evaluation({}, seconds, notes=with_recommended(run, benchmark, told, task.marks).to_json())
        except InputError as error:
            raise CannotGoOn(str(error)) from error
        except BaseException as error:  # also of a strategy that calls sys.exit
            if "--debug" in sys.argv:  # a worker has its coordinator's
                traceback.print_exc()
            raise TrialFailed(one_line(error)) from error


class _Spec(EvaluatorSpec):
    def build(self) -> Evaluator:
        return Player(registry.make_space(self.space))


class Pool:
    """Worker processes, started when there is something to do. table: one of those that they are asked of."""

    def __init__(self, workers: int, table: TableSpec) -> None:
        self._executor = Processes(_Spec(table.space, Player.name, {}), [dict.fromkeys(THREADS, "1")] * workers)
        self._arch = registry.make_space(table.space).arch(())

    def run(self, tasks: Iterable[Task], stop: Callable[[], bool]) -> Iterator[tuple[Task, Finished] | None]:
        """Each task with what came of it, in the order they finish; None at least every quarter of a second meanwhile.

        stop: once true, no further task is begun. InputError: a worker found what only the user can mend.
        """
        waiting, given = iter(tasks), dict[int, Task]()

        def jobs() -> Job | None:
            task = next(waiting, None)
            if task is None:
                return None
            given[len(given)] = task
            return Job(len(given) - 1, Proposal(self._arch, notes={"task": task}), 0)

        for event in Drive(self._executor, jobs, stop=stop):
            if isinstance(event, Finished):
                yield given[event.job.trial_id], event
            else:
                yield None

    @property
    def busy(self) -> int:
        return len(self._executor.busy)

    def close(self) -> None:
        self._executor.close()


def describe(pool: Pool, tables: Sequence[TableSpec]) -> list[Facts]:
    """Facts about the tables, in their order. InputError: one cannot be used; NastoolError: memory ran out, say."""
    found: dict[int, Facts] = {}
    tasks = [Describe(table) for table in tables]
    for event in pool.run(tasks, lambda: False):
        if event is not None:
            task, finished = event
            if finished.evaluation is None:
                raise NastoolError(f"--table {task.table.text}: {finished.error}")
            found[id(task)] = Facts(**fitted(finished.evaluation.notes, fields(Facts)))
    return [found[id(task)] for task in tasks]
