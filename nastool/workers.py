"""Runs evaluations: one spawned process per slot, so that a dying worker costs one trial; or in this process.

Both pools have the same methods. A job is handed to a free slot with `submit`; `wait` returns what
happened since: reports and results. Workers share nothing with the coordinator but a pipe each.
"""

from __future__ import annotations

import faulthandler
import json
import math
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from nastool import devices, options, registry
from nastool.core import Evaluation, Proposal, Scalar, Silence, SpaceRef
from nastool.errors import CannotGoOn, InputError, NastoolError, TrialFailed, one_line
from nastool.processes import LOOK_SECONDS, AwakeClock, WorkerProcess, settle_in

if TYPE_CHECKING:
    from nastool.interfaces import Evaluator


START_SECONDS = 600.0
"""How long a worker may take to start and prepare its evaluator."""
BEAT_SECONDS = 5.0
"""How often a worker at work gives a sign of life."""
SILENT_SECONDS = 60.0
"""After so long without progress something may be wrong with a trial, and its user is told."""
OUTSIDE = 10**9
"""From here on are the ids of evaluations that are no trials of a search, so that their checkpoints are not theirs."""


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

    def __str__(self) -> str:
        return f"trial {self.trial_id}" if self.trial_id < OUTSIDE else f"architecture {self.proposal.arch.key}"


@dataclass(frozen=True)
class Ready:
    """A worker's evaluator is prepared. facts: what it says about itself and its device."""

    facts: Mapping[str, Scalar]


@dataclass(frozen=True)
class Beat:
    """Python runs in a worker that is at work. cpu: seconds of processor time that its process has used."""

    cpu: float


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
    @property
    def silent(self) -> Mapping[int, Silence]:
        """The trials that have made no progress for SILENT_SECONDS, as of the last `wait`."""
        ...

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
            evaluation = checked(evaluator.evaluate(job.trial_id, job.proposal, seed=job.seed, report=report))
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


def checked(found: Evaluation) -> Evaluation:
    """What an evaluator returned, as what the core promises. TypeError or ValueError: it is no evaluation."""
    if not isinstance(found, Evaluation):
        raise TypeError(f"the evaluator returned a {type(found).__name__}, not an Evaluation")
    if found.checkpoint is not None and not isinstance(found.checkpoint, str):
        raise TypeError(f"the evaluation's checkpoint is a {type(found.checkpoint).__name__}, not a text")
    policy = None if found.policy is None else json.loads(json.dumps(dict(found.policy), allow_nan=False))
    seconds = float(found.seconds)
    if not 0 <= seconds < math.inf:
        raise ValueError(f"the evaluation's seconds are {seconds}")
    return replace(found, metrics=plain(found.metrics), seconds=seconds, policy=policy)


def plain(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics as Python numbers, whatever kind of number a plugin used. TypeError or ValueError: it is none."""
    if not isinstance(metrics, Mapping):
        raise TypeError(f"metrics are a {type(metrics).__name__}, not a mapping of names to numbers")
    return {
        str(name): int(value) if isinstance(value, int) and abs(value) < 2**63 else float(value)
        for name, value in metrics.items()
    }


def described(evaluator: Evaluator) -> dict[str, Scalar]:
    """An evaluator's facts; what is no plain value as text."""
    facts = dict(evaluator.describe())
    return {str(key): fact if isinstance(fact, Scalar) else str(fact) for key, fact in facts.items()}


class InlinePool:
    """Runs jobs in this process, for evaluators that cost next to nothing."""

    silent: Mapping[int, Silence] = {}

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        self._events: list[Event] = []

    def open(self) -> Mapping[str, Scalar]:
        self.evaluator.prepare()
        return described(self.evaluator)

    @property
    def free(self) -> int:
        return 0 if self._events else 1

    @property
    def busy(self) -> Sequence[Job]:
        return [event.job for event in self._events if isinstance(event, Finished)]

    def submit(self, job: Job) -> None:
        def report(step: int, metrics: Mapping[str, float]) -> None:
            self._events.append(Reported(job, int(step), plain(metrics)))

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
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        """slots: the environment variables of each worker. timeout: seconds after which a trial is given up.

        What it was stopped or its machine asleep does not count. logs: folder for what the workers print; None: it goes
        to stderr. say: is told of trials that make no progress.
        """
        self._clock = AwakeClock()
        self._slots = [_Slot(spec, i, environment, logs, self._clock) for i, environment in enumerate(slots)]
        self._timeout = timeout
        self._say = say
        self._looked = 0.0
        self.silent: Mapping[int, Silence] = {}

    def open(self) -> Mapping[str, Scalar]:
        facts = self._slots[0].open(self._say)
        for slot in self._slots:  # what the first chose holds for all, also where one is started again
            if slot.environment.pop(devices.MOST_THREADS, None) is not None and "threads" in facts:
                slot.environment["OMP_NUM_THREADS"] = str(facts["threads"])
        given = self._slots[0].environment.get("OMP_NUM_THREADS")
        return facts if given is None else {**facts, "threads": int(given)}

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
        self._look()
        for slot in self._slots:
            limit = self._timeout if slot.ready else START_SECONDS
            if slot.job is not None and limit is not None and slot.seconds > limit:
                job = slot.job
                what = "(--trial-timeout)" if slot.ready else "of waiting for its worker to start"
                slot.kill()
                events.append(Finished(job, error=f"gave up after {limit:g} s {what}"))
        return events

    def _look(self) -> None:
        """See which workers are stopped, and which trials make no progress."""
        now = self._clock.now()
        passed, before = now - self._looked, self.silent
        if passed < LOOK_SECONDS / 2:
            return
        self._looked = now
        self.silent = {}
        for slot in self._slots:
            if slot.job is None:
                continue
            how = slot.look(passed)
            if how is None:
                continue
            key = slot.job.trial_id
            since = before[key].since if key in before else time.time() - SILENT_SECONDS
            self.silent |= {key: Silence(since, how)}
            if key not in before or before[key].how != how:
                rest = "--trial-timeout SECONDS ends such trials" if self._timeout is None else ""
                pid = 0 if slot.process is None else slot.process.pid
                rest = f"kill -CONT {pid} lets it go on" if slot.stopped else rest
                self._say(f"{slot.job} {how} for {time.time() - since:.0f} s (process {pid})" + (rest and f"; {rest}"))

    def close(self) -> None:
        for slot in self._slots:
            slot.kill()


class _Slot:
    """One worker process, started on its first job and again after it died."""

    def __init__(
        self, spec: EvaluatorSpec, number: int, environment: Mapping[str, str], logs: Path | None, clock: AwakeClock
    ) -> None:
        self.spec = spec
        self.number = number
        self.environment = dict(environment)
        """CUDA_VISIBLE_DEVICES and OMP_NUM_THREADS count only when set before the child imports torch."""
        self.log = None if logs is None else logs / f"worker-{number}.log"
        self.process: WorkerProcess | None = None
        self.job: Job | None = None
        self.ready = False
        """Whether the process has prepared its evaluator."""
        self.stopped = False
        """Whether it was, when last looked at."""
        self._clock = clock
        self._started = 0.0
        self._progress = 0.0
        """When it last made some; `_beat`: when it last gave a sign of life."""
        self._beat = 0.0
        self._cpu = 0.0

    @property
    def seconds(self) -> float:
        """Since its job or, where it has yet to prepare its evaluator, it was started; without what it was stopped."""
        return self._clock.now() - self._started

    def _running(self) -> WorkerProcess:
        """Its process, started where there is none."""
        if self.process is None:
            name = f"nastool-worker-{self.number}"
            body = (self.spec, self.log, BEAT_SECONDS)
            self.process = WorkerProcess(_worker, body, name=name, environment=self.environment)
            self._cpu = 0.0
        return self.process

    @property
    def connection(self) -> Connection:
        assert self.process is not None
        return self.process.connection

    def open(self, say: Callable[[str], None]) -> Mapping[str, Scalar]:
        """Start the process and wait until its evaluator is prepared; say where nothing goes on."""
        process = self._running()
        self._begin()
        said: str | None = None
        try:
            while True:
                while not process.connection.poll(LOOK_SECONDS):
                    how = self.look(LOOK_SECONDS)
                    if how is not None and how != said:
                        said = how
                        say(f"the first worker {how} for {SILENT_SECONDS:.0f} s (process {process.pid})")
                message = process.connection.recv()
                if not isinstance(message, Beat):
                    break
                self._take_beat(message)
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
        self.job = job
        self._begin()
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
        if isinstance(message, Beat):
            self._take_beat(message)
            return []
        if isinstance(message, InputError):
            self.kill()
            raise message
        if isinstance(message, Ready):
            self.ready = True
            self._begin()
            return []
        self._progress = self._clock.now()
        if isinstance(message, Finished):
            if message.unsound:
                self.kill()
            self.job = None
        event: Event = message
        return [event]

    def _begin(self) -> None:
        self._started = self._progress = self._beat = self._clock.now()

    def _take_beat(self, beat: Beat) -> None:
        now = self._clock.now()
        if beat.cpu - self._cpu > 0.01 * (now - self._beat):
            self._progress = now
        self._beat, self._cpu = now, beat.cpu

    def look(self, passed: float) -> str | None:
        """How it makes no progress, in words; None: it does. passed: seconds since the last look, as of the clock."""
        now = self._clock.now()
        self.stopped = self.process is not None and self.process.stopped
        if self.stopped:
            self._started += passed
        if now - self._progress <= SILENT_SECONDS:
            return None
        if self.stopped:
            return "has been stopped"
        if now - self._beat > SILENT_SECONDS:
            return "has not been heard of"
        return "has reported nothing and used no processor time"

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


class _Line:
    """A worker's end of the pipe, for all its threads; one of them says regularly that Python runs while it works."""

    def __init__(self, connection: Connection, seconds: float) -> None:
        self._connection = connection
        self._seconds = seconds
        self._lock = threading.Lock()
        self._at_work = True
        threading.Thread(target=self._beat, daemon=True).start()

    def send(self, message: object) -> None:
        """A message while at work."""
        with self._lock:
            self._connection.send(message)

    def end(self, message: object) -> None:
        """The last message of this work: nothing comes after it."""
        with self._lock:
            self._at_work = False
            self._connection.send(message)

    def next(self) -> Job:
        """What to do next. EOFError: nothing."""
        job: Job = self._connection.recv()
        with self._lock:
            self._at_work = True
        return job

    def _beat(self) -> None:
        while True:
            time.sleep(self._seconds)
            with self._lock:
                if self._at_work:
                    try:
                        self._connection.send(Beat(time.process_time()))
                    except OSError:
                        return  # nobody listens any more


def _worker(connection: Connection, spec: EvaluatorSpec, log: Path | None, beat: float) -> None:
    """The body of a worker process: evaluate what comes through the pipe until it closes."""
    if log is not None:
        log.parent.mkdir(parents=True, exist_ok=True)
        target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(target, 2)
        os.close(target)
    settle_in()
    line = _Line(connection, beat)
    faulthandler.enable()
    try:
        evaluator = spec.build()
        evaluator.prepare()
    except InputError as error:
        line.end(error)
        return
    most = os.environ.get(devices.MOST_THREADS)
    chosen = {} if most is None else dict(evaluator.choose_threads(int(most)))
    line.end(Ready({**described(evaluator), **chosen}))
    while True:
        try:
            job = line.next()
        except EOFError:
            return

        def report(step: int, metrics: Mapping[str, float], job: Job = job) -> None:
            line.send(Reported(job, int(step), plain(metrics)))

        result = perform(evaluator, job, report)
        if result.error:
            print(f"trial {job.trial_id}: {result.error}", file=sys.stderr, flush=True)
        line.end(result)
