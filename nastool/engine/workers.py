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
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from nastool.core import options, registry
from nastool.core.errors import (
    CannotGoOn,
    Fault,
    InputError,
    NastoolError,
    OutOfMemory,
    TrialFailed,
    fault_of,
    one_line,
)
from nastool.core.processes import LOOK_SECONDS, AwakeClock, WorkerProcess, settle_in
from nastool.core.values import Evaluation, Proposal, Scalar, Silence, SpaceRef
from nastool.nets import devices

if TYPE_CHECKING:
    from nastool.core.evaluator import Evaluator


START_SECONDS = 600.0
"""How long a worker may take to start and prepare its evaluator."""
BEAT_SECONDS = 5.0
"""How often a worker at work gives a sign of life."""
SILENT_SECONDS = 60.0
"""After so long without progress something may be wrong with a trial, and its user is told."""
MAX_DEATHS = 2
"""How often a job is tried whose worker dies, or whose evaluator says that another try may help."""
MAX_FAULTS = 2
"""After so many faults of a GPU in a row no job is given to it any more."""
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
    What it learnt from earlier tries, see `again`: deaths: how many of them ended with their worker. alone: with
    nothing else on the same GPU (of workers without one: nothing else at all). micro_batches: into how many parts each
    batch is split. shunned: the GPU that failed under it.
    """

    trial_id: int
    proposal: Proposal
    seed: int
    task: Literal["evaluate", "test", "both", "ensemble"] = "evaluate"
    evaluation: Evaluation | None = None
    members: tuple[tuple[Proposal, Evaluation], ...] = ()
    deaths: int = 0
    alone: bool = False
    micro_batches: int = 1
    shunned: str | None = None

    def __str__(self) -> str:
        return f"trial {self.trial_id}" if self.trial_id < OUTSIDE else f"architecture {self.proposal.arch.key}"


@dataclass(frozen=True)
class Ready:
    """A worker's evaluator is prepared. facts: what it says about itself and its device."""

    facts: Mapping[str, Scalar]


@dataclass(frozen=True)
class Broken:
    """A worker's evaluator cannot be prepared since its device does not work."""

    error: str


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
    """evaluation or error. job: what is left to do of it, where something was done before the error.

    retry: another try in a fresh process may help. unsound: the process must not evaluate anything else.
    mend: the error is not the trial's own; nothing can go on before it is mended.
    fault: of the machine. divisible: its batches can be split further. gpu: where it was, if the fault is of a device.
    given_up: the fault is that GPU's own, which is not used any more.
    """

    job: Job
    evaluation: Evaluation | None = None
    tested: Mapping[str, float] | None = None
    error: str | None = None
    retry: bool = False
    unsound: bool = False
    mend: bool = False
    fault: Fault | None = None
    divisible: bool = False
    gpu: str | None = None
    given_up: bool = False


Event = Reported | Finished


def again(finished: Finished) -> Job | None:
    """The job as it is to be tried once more; None: it is done, or that was its last try.

    Where memory ran out: alone on its GPU; then with batches in 2, 4, ... parts, as far as its evaluator can split
    them. After a fault of its device: once more, on another GPU if there is one. Where it fails on two GPUs that
    work otherwise, the job is at fault.
    """
    job = finished.job
    if finished.mend or finished.error is None:
        return None
    if finished.fault == "memory":
        if not job.alone:
            return replace(job, alone=True)
        return replace(job, micro_batches=2 * job.micro_batches) if finished.divisible else None
    if finished.fault == "device":
        if finished.given_up:
            return job
        return replace(job, shunned=finished.gpu or "") if job.shunned is None else None
    return replace(job, deaths=job.deaths + 1) if finished.retry and job.deaths + 1 < MAX_DEATHS else None


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

    def submit(self, job: Job) -> None:
        """Start it, or put it first in line, where it is one that has to wait for a place of its own (see `again`)."""
        ...

    def wait(self, seconds: float) -> list[Event]: ...
    def close(self) -> None: ...


def perform(evaluator: Evaluator, job: Job, report: Any) -> Finished:
    """Run one job. Whatever the evaluator raises becomes the job's error; Ctrl-C does not."""
    evaluation = job.evaluation
    tested: Mapping[str, float] | None = None
    evaluator.micro_batches = job.micro_batches
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
    except Exception as error:
        fault = fault_of(error)
        retry = isinstance(error, TrialFailed) and error.retry
        if job.task == "both" and evaluation is not None:  # what it measured need not be measured again
            job = replace(job, task="test", evaluation=evaluation)
        return Finished(
            job,
            error=one_line(error),
            retry=retry,
            # An error that is not ours may leave a device in a bad state (after some, CUDA answers nothing else).
            unsound=retry or fault is not None or not isinstance(error, NastoolError),
            fault=fault,
            divisible=2 * job.micro_batches <= evaluator.max_micro_batches,
        )
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
        chosen = str(spec.options.get("device") or "auto")
        by_name: dict[str, _Device] = {}
        for slot in self._slots:
            given = slot.environment.get("CUDA_VISIBLE_DEVICES")
            name = f"GPU {given}" if given else f"GPU {chosen}" if chosen.startswith("cuda") else "this machine"
            slot.device = by_name.setdefault(name, _Device(name))
            slot.device.slots.append(slot)
        self._devices = list(by_name.values())
        self._line: list[Job] = []
        """Jobs that wait for a place."""
        self._timeout = timeout
        self._say = say
        self._looked = 0.0
        self._first: Mapping[str, Scalar] = {}
        """The facts of the first worker."""
        self.silent: Mapping[int, Silence] = {}

    def open(self) -> Mapping[str, Scalar]:
        while True:
            first = next(slot for slot in self._slots if not slot.device.given_up)
            try:
                facts = self._first = first.open(self._say)
                break
            except _DeviceError as error:
                self._count(first.device, str(error))
                if all(device.given_up for device in self._devices):
                    raise CannotGoOn(self._nothing_left(first.device, str(error))) from None
        for slot in self._slots:  # what the first chose holds for all, also where one is started again
            if slot.environment.pop(devices.MOST_THREADS, None) is not None and "threads" in facts:
                slot.environment["OMP_NUM_THREADS"] = str(facts["threads"])
        given = first.environment.get("OMP_NUM_THREADS")
        return facts if given is None else {**facts, "threads": int(given)}

    @property
    def free(self) -> int:
        return len(self._free())

    @property
    def busy(self) -> Sequence[Job]:
        return [*(slot.job for slot in self._slots if slot.job is not None), *self._line]

    def submit(self, job: Job) -> None:
        self._line.append(job)
        self._place()

    def _free(self) -> list[_Slot]:
        """The slots that a job may be given to that need not be alone."""
        waiting = next((job for job in self._line if job.alone), None)
        kept = None if waiting is None else self._quietest(waiting)
        return [slot for slot in self._slots if slot.free and slot.device is not kept]

    def _elsewhere(self, job: Job) -> list[_Device]:
        """The devices that a job may go to: not to the one that failed under it, if there are others."""
        there = [device for device in self._devices if not device.given_up]
        return [device for device in there if device.name != job.shunned] or there

    def _quietest(self, job: Job) -> _Device | None:
        """Where a job that must be alone waits until nothing else runs; None: there is no device left."""
        return min(self._elsewhere(job), key=lambda device: len(device.busy), default=None)

    def _place(self) -> None:
        """Give the jobs in line to those slots that they may go to."""
        for job in list(self._line):
            if job.alone:
                device = self._quietest(job)
                if device is None or device.busy:
                    continue
                slot, *others = (slot for slot in device.slots if not slot.crowded_out)
                for each in (slot, *others):  # a fresh process, and no memory held by idle ones
                    each.kill()
            else:
                devices = self._elsewhere(job)
                free = [slot for slot in self._free() if slot.device in devices]
                if not free:
                    continue
                slot = free[0]
            self._line.remove(job)
            slot.start(job)

    def wait(self, seconds: float) -> list[Event]:
        """What happened, at the latest after so many seconds."""
        busy = {slot.connection: slot for slot in self._slots if slot.job is not None}
        events: list[Event] = []
        for connection in wait(list(busy), seconds):
            assert isinstance(connection, Connection)
            slot = busy[connection]
            try:
                events += [self._judged(slot, event) for event in slot.receive()]
                self._check(slot)
            except OutOfMemory as error:
                self._crowd_out(slot, error)
        self._look()
        for slot in self._slots:
            limit = self._timeout if slot.ready else START_SECONDS
            if slot.job is not None and limit is not None and slot.seconds > limit:
                job = slot.job
                what = "(--trial-timeout)" if slot.ready else "of waiting for its worker to start"
                slot.kill()
                events.append(Finished(job, error=f"gave up after {limit:g} s {what}"))
        self._place()
        return events

    def _judged(self, slot: _Slot, event: Event) -> Event:
        """The event with what it means for the slot's device; says why a job is tried again."""
        if not isinstance(event, Finished):
            return event
        device = slot.device
        if event.fault == "device":
            what = event.error or ""
            given_up = self._count(device, what)
            if all(device.given_up for device in self._devices):
                return replace(event, error=self._nothing_left(device, what), mend=True)
            event = replace(event, error=f"{what} ({device.name})", gpu=device.name, given_up=given_up)
        elif not event.retry:
            device.faults = 0
        next_try = again(event)
        if next_try is not None and event.fault is not None:
            if event.fault == "device":
                how = "on another, if there is one"
            elif next_try.micro_batches == 1:
                how = "with nothing else on its device"
            else:
                how = f"each batch in {next_try.micro_batches} parts"
            self._say(f"{event.job}: {event.error}; next try: {how}")
        return event

    def _count(self, device: _Device, error: str) -> bool:
        """Count a fault of a device; whether it is given up, which is said once."""
        device.faults += 1
        if device.faults >= MAX_FAULTS and not device.given_up:
            device.given_up = True
            for slot in device.slots:
                if slot.job is None:
                    slot.kill()
            if not all(other.given_up for other in self._devices):
                self._say(f"{device.name} failed {MAX_FAULTS} times in a row and is not used any more: {error}")
        return device.given_up

    def _nothing_left(self, device: _Device, error: str) -> str:
        others = "" if len(self._devices) == 1 else ", the last that was left,"
        return (
            f"{device.name}{others} failed {MAX_FAULTS} times in a row: {error}; see what nvidia-smi says of it, or "
            "choose another with CUDA_VISIBLE_DEVICES or -E device=, then give the same command again"
        )

    def _crowd_out(self, slot: _Slot, error: OutOfMemory) -> None:
        """Go on without a worker that finds no room beside the others. OutOfMemory: it is the last one there."""
        job = slot.job
        left = [other for other in slot.device.slots if not other.crowded_out and other is not slot]
        slot.kill()
        if not left or job is None or job.alone:
            raise error
        slot.crowded_out = True
        self._say(f"worker {slot.number}: {error}; {len(left)} {'go' if len(left) > 1 else 'goes'} on without it")
        self._line.insert(0, job)

    def _check(self, slot: _Slot) -> None:
        """InputError: a worker that has prepared its evaluator computes otherwise than the first: on the CPU, say."""

        def kind(facts: Mapping[str, Scalar]) -> tuple[bool, Scalar]:
            return str(facts.get("device", "")).startswith("cpu"), facts.get("precision")

        if not slot.facts or kind(slot.facts) == kind(self._first):
            return

        def how(facts: Mapping[str, Scalar]) -> str:
            return " in ".join(str(facts[key]) for key in ("device", "precision") if key in facts)

        dealt = slot.environment.get(devices.VARIABLE, os.environ.get(devices.VARIABLE))
        given = "not set" if dealt is None else f"{devices.VARIABLE}={dealt}"
        raise InputError(
            f"worker {slot.number} ({given}) computes on {how(slot.facts)}, and the first on {how(self._first)}: give "
            f"fewer --workers, only devices that are alike in {devices.VARIABLE}, or a precision that all have"
        )

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


class _DeviceError(NastoolError):
    """A worker could not be prepared since its device does not work."""


@dataclass
class _Device:
    """What workers run on: a GPU, or the machine where they have none."""

    name: str
    slots: list[_Slot] = field(default_factory=list)
    faults: int = 0
    """In a row."""
    given_up: bool = False

    @property
    def busy(self) -> list[_Slot]:
        return [slot for slot in self.slots if slot.job is not None]


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
        self.device = _Device("")
        self.crowded_out = False
        """Its device has too little memory for it beside the other workers."""
        self.process: WorkerProcess | None = None
        self.job: Job | None = None
        self.ready = False
        """Whether the process has prepared its evaluator; `facts`: what that says of itself."""
        self.facts: Mapping[str, Scalar] = {}
        self.stopped = False
        """Whether it was, when last looked at."""
        self._clock = clock
        self._started = 0.0
        self._progress = 0.0
        """When it last made some; `_beat`: when it last gave a sign of life."""
        self._beat = 0.0
        self._cpu = 0.0

    @property
    def free(self) -> bool:
        alone = any(slot.job is not None and slot.job.alone for slot in self.device.slots)
        return self.job is None and not self.crowded_out and not self.device.given_up and not alone

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
                        say(f"{self} {how} for {SILENT_SECONDS:.0f} s (process {process.pid})")
                message = process.connection.recv()
                if not isinstance(message, Beat):
                    break
                self._take_beat(message)
        except (EOFError, OSError):
            raise NastoolError(f"{self} died at its start: {self._how_it_died()}") from None
        if isinstance(message, InputError | Broken):
            self.kill()
            raise message if isinstance(message, InputError) else _DeviceError(message.error)
        assert isinstance(message, Ready)
        self.ready = True
        return message.facts

    def __str__(self) -> str:
        return f"worker {self.number}" if self.number else "the first worker"

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
            who = "worker died" if self.ready else f"{self} died at its start"
            return [Finished(job, error=f"{who}: {self._how_it_died()}", retry=True)]
        if isinstance(message, Beat):
            self._take_beat(message)
            return []
        if isinstance(message, OutOfMemory):
            raise message
        if isinstance(message, InputError):
            self.kill()
            raise message
        if isinstance(message, Broken):
            self.kill()
            return [Finished(job, error=message.error, fault="device")]
        if isinstance(message, Ready):
            self.ready = True
            self.facts = message.facts
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
        most = os.environ.get(devices.MOST_THREADS)
        chosen = {} if most is None else dict(evaluator.choose_threads(int(most)))
        ready = Ready({**described(evaluator), **chosen})
    except devices.Hidden as error:  # it was there when the coordinator looked
        line.end(Broken(one_line(error)))
        return
    except InputError as error:
        line.end(error)
        return
    except Exception as error:
        fault = fault_of(error)
        if fault is None:
            raise
        print(one_line(error), file=sys.stderr, flush=True)
        more = "use fewer workers, or free some memory"
        line.end(Broken(one_line(error)) if fault == "device" else OutOfMemory(f"{one_line(error)}; {more}"))
        return
    line.end(ready)
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
