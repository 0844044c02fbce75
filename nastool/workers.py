"""Runs evaluations: one spawned process per slot, so that a dying worker costs one trial; or in this process.

Both pools have the same methods. A job is handed to a free slot with `submit`; `wait` returns what
happened since: reports and results. Workers share nothing with the coordinator but a pipe each.
"""

from __future__ import annotations

import faulthandler
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from nastool import options, registry
from nastool.core import Evaluation, Proposal, Scalar, SpaceRef
from nastool.errors import CannotGoOn, InputError, NastoolError, TrialFailed, one_line
from nastool.processes import WorkerProcess, settle_in

if TYPE_CHECKING:
    from nastool.interfaces import Evaluator


START_SECONDS = 600.0
"""How long a worker may take to start and prepare its evaluator."""


@dataclass(frozen=True)
class EvaluatorSpec:
    """How to build the same evaluator in any process."""

    space: SpaceRef
    name: str
    options: Mapping[str, Any]
    workdir: Path | None = None
    seed: int = 0
    """The run's, for an evaluator that has a use for one beyond each trial's own."""

    def build(self) -> Evaluator:
        space = registry.make_space(self.space)
        own = {"seed": self.seed} if options.accepts(registry.load("evaluator", self.name), "seed") else {}
        evaluator: Evaluator = registry.make("evaluator", self.name, space, given={**self.options, **own})
        evaluator.workdir = self.workdir
        return evaluator


@dataclass(frozen=True)
class Job:
    """task: "evaluate" measures the proposal, "test" tests what `evaluation` measured before, "both" does both.

    "ensemble" measures members together.
    """

    trial_id: int
    proposal: Proposal
    seed: int
    task: Literal["evaluate", "test", "both", "ensemble"] = "evaluate"
    evaluation: Evaluation | None = None
    members: tuple[tuple[Proposal, Evaluation], ...] = ()


@dataclass(frozen=True)
class Ready:
    """A worker's evaluator is prepared. facts: what it says about itself and its device."""

    facts: Mapping[str, Scalar]


@dataclass(frozen=True)
class Reported:
    job: Job
    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Finished:
    """evaluation or error.

    retry: another try in a fresh process may help. unsound: the process must not evaluate anything else.
    mend: the error is not the trial's own; nothing can go on before it is mended.
    """

    job: Job
    evaluation: Evaluation | None = None
    tested: Mapping[str, float] | None = None
    error: str | None = None
    retry: bool = False
    unsound: bool = False
    mend: bool = False


Event = Reported | Finished


class Pool(Protocol):
    """Something that runs jobs."""

    def open(self) -> Mapping[str, Scalar]:
        """Prepare the evaluator and return its facts. InputError: it says what is wrong with data or device."""
        ...

    @property
    def free(self) -> int: ...
    @property
    def busy(self) -> Sequence[Job]: ...
    def submit(self, job: Job) -> None: ...
    def wait(self, seconds: float) -> list[Event]: ...
    def close(self) -> None: ...


def perform(evaluator: Evaluator, job: Job, report: Any) -> Finished:
    """Run one job. Whatever the evaluator raises becomes the job's error; Ctrl-C does not."""
    evaluation = job.evaluation
    tested: Mapping[str, float] | None = None
    try:
        if job.task == "ensemble":
            return Finished(job, tested=plain(evaluator.ensemble(job.members)))
        if job.task != "test":
            found = evaluator.evaluate(job.trial_id, job.proposal, seed=job.seed, report=report)
            evaluation = replace(found, metrics=plain(found.metrics), seconds=float(found.seconds))
        if job.task != "evaluate":
            assert evaluation is not None
            tested = plain(evaluator.test(job.proposal, evaluation))
    except CannotGoOn as error:
        return Finished(job, error=one_line(error), mend=True)
    except NastoolError as error:
        retry = isinstance(error, TrialFailed) and error.retry
        return Finished(job, error=one_line(error), retry=retry, unsound=retry)
    except Exception as error:
        # Whatever it was, a device may be left in a bad state (after an illegal access CUDA answers nothing else).
        return Finished(job, error=one_line(error), retry=isinstance(error, MemoryError), unsound=True)
    return Finished(job, evaluation, tested)


def plain(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics as Python numbers, whatever kind of number a plugin used. TypeError or ValueError: it is none."""
    return {str(name): value if isinstance(value, int) else float(value) for name, value in metrics.items()}


class InlinePool:
    """Runs jobs in this process, for evaluators that cost next to nothing."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        self._events: list[Event] = []

    def open(self) -> Mapping[str, Scalar]:
        self.evaluator.prepare()
        return self.evaluator.describe()

    @property
    def free(self) -> int:
        return 0 if self._events else 1

    @property
    def busy(self) -> Sequence[Job]:
        return [event.job for event in self._events if isinstance(event, Finished)]

    def submit(self, job: Job) -> None:
        def report(step: int, metrics: Mapping[str, float]) -> None:
            self._events.append(Reported(job, step, plain(metrics)))

        self._events.append(perform(self.evaluator, job, report))

    def wait(self, seconds: float) -> list[Event]:
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        pass


class ProcessPool:
    """One spawned process per slot, each with its own environment (devices, threads)."""

    def __init__(
        self,
        spec: EvaluatorSpec,
        slots: Sequence[Mapping[str, str]],
        *,
        timeout: float | None = None,
        logs: Path | None = None,
    ) -> None:
        """slots: the environment variables of each worker. timeout: seconds after which a trial is given up.

        logs: folder for what the workers print; None: it goes to stderr.
        """
        self._slots = [_Slot(spec, i, environment, logs) for i, environment in enumerate(slots)]
        self._timeout = timeout

    def open(self) -> Mapping[str, Scalar]:
        return self._slots[0].open()

    @property
    def free(self) -> int:
        return sum(slot.job is None for slot in self._slots)

    @property
    def busy(self) -> Sequence[Job]:
        return [slot.job for slot in self._slots if slot.job is not None]

    def submit(self, job: Job) -> None:
        next(slot for slot in self._slots if slot.job is None).start(job)

    def wait(self, seconds: float) -> list[Event]:
        """What happened, at the latest after so many seconds."""
        busy = {slot.connection: slot for slot in self._slots if slot.job is not None}
        events: list[Event] = []
        for connection in wait(list(busy), seconds):
            assert isinstance(connection, Connection)
            events += busy[connection].receive()
        now = time.monotonic()
        for slot in self._slots:
            limit = self._timeout if slot.ready else START_SECONDS
            if slot.job is not None and limit is not None and now - slot.started > limit:
                job = slot.job
                what = "(--trial-timeout)" if slot.ready else "of waiting for its worker to start"
                slot.kill()
                events.append(Finished(job, error=f"gave up after {limit:g} s {what}"))
        return events

    def close(self) -> None:
        for slot in self._slots:
            slot.kill()


class _Slot:
    """One worker process, started on its first job and again after it died."""

    def __init__(self, spec: EvaluatorSpec, number: int, environment: Mapping[str, str], logs: Path | None) -> None:
        self.spec = spec
        self.number = number
        self.environment = dict(environment)
        """CUDA_VISIBLE_DEVICES and OMP_NUM_THREADS count only when set before the child imports torch."""
        self.log = None if logs is None else logs / f"worker-{number}.log"
        self.process: WorkerProcess | None = None
        self.job: Job | None = None
        self.ready = False
        """Whether the process has prepared its evaluator."""
        self.started = 0.0

    def _running(self) -> WorkerProcess:
        """Its process, started where there is none."""
        if self.process is None:
            name = f"nastool-worker-{self.number}"
            self.process = WorkerProcess(_worker, (self.spec, self.log), name=name, environment=self.environment)
        return self.process

    @property
    def connection(self) -> Connection:
        assert self.process is not None
        return self.process.connection

    def open(self) -> Mapping[str, Scalar]:
        """Start the process and wait until its evaluator is prepared."""
        try:
            message = self._running().connection.recv()
        except (EOFError, OSError):
            raise NastoolError(f"the first worker died at its start: {self._how_it_died()}") from None
        if isinstance(message, InputError):
            self.kill()
            raise message
        assert isinstance(message, Ready)
        self.ready = True
        return message.facts

    def start(self, job: Job) -> None:
        process = self._running()
        self.job, self.started = job, time.monotonic()
        try:
            process.connection.send(job)
        except OSError:
            pass  # the worker died while idle: `receive` will find its end of the pipe closed

    def receive(self) -> list[Event]:
        assert self.job is not None
        job = self.job
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            return [Finished(job, error=f"worker died: {self._how_it_died()}", retry=True)]
        if isinstance(message, InputError):
            self.kill()
            raise message
        if isinstance(message, Ready):
            self.ready, self.started = True, time.monotonic()
            return []
        if isinstance(message, Finished):
            if message.unsound:
                self.kill()
            self.job = None
        event: Event = message
        return [event]

    def _how_it_died(self) -> str:
        assert self.process is not None
        how = self.process.how_it_died()
        self.process = None
        self.kill()
        return f"{how}; see {self.log}" if self.log else how

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
        self.process = self.job = None
        self.ready = False


def _worker(connection: Connection, spec: EvaluatorSpec, log: Path | None) -> None:
    """The body of a worker process: evaluate what comes through the pipe until it closes."""
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(target, 2)
        os.close(target)
    settle_in()
    faulthandler.enable()
    try:
        evaluator = spec.build()
        evaluator.prepare()
    except InputError as error:
        connection.send(error)
        return
    connection.send(Ready(dict(evaluator.describe())))
    while True:
        try:
            job = connection.recv()
        except EOFError:
            return

        def report(step: int, metrics: Mapping[str, float], job: Job = job) -> None:
            connection.send(Reported(job, step, plain(metrics)))

        result = perform(evaluator, job, report)
        if result.error:
            print(f"trial {job.trial_id}: {result.error}", file=sys.stderr, flush=True)
        connection.send(result)
