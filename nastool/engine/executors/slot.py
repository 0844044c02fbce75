"""One worker process of an executor, and what it says on its pipe."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Protocol

from nastool.core.errors import Fault, InputError, NastoolError, OutOfMemory
from nastool.core.processes import LOOK_SECONDS, AwakeClock
from nastool.core.values import Scalar
from nastool.engine.executors import tails
from nastool.engine.executors.jobs import EvaluatorSpec, Finished, Job, JobEvent

BEAT_SECONDS = 5.0
"""Seconds between two signs of life of a worker at work."""
SILENT_SECONDS = 60.0
"""Seconds without progress after which something may be wrong with a trial, and its user is told."""


class Process(Protocol):
    """A process that runs `nastool.worker.serve`, on this machine or another; see `core.processes.WorkerProcess`.

    Once it has died it may say by an attribute `fault` by which kind of fault: "machine" where its machine is gone.
    """

    connection: Connection
    """Leads to it; when it dies, reading from there ends."""

    @property
    def pid(self) -> int:
        """Id of the process, for people."""

    @property
    def stopped(self) -> bool:
        """Whether it was stopped (SIGSTOP); False where that is not known."""

    def kill(self) -> None:
        """End it and free what it held."""

    def how_it_died(self) -> str:
        """Say how it died, after its end of the pipe was closed; end it where it still lives."""


Start = Callable[[int, Mapping[str, str]], Process]
"""start(number, environment): start worker `number` with these environment variables changed."""


@dataclass(frozen=True)
class Body:
    """The first message to a worker.

    Attributes:
        spec: How to build its evaluator.
        log: File that takes what it prints; None: stderr does.
        beat: Seconds between two signs of life.
    """

    spec: EvaluatorSpec
    log: Path | None
    beat: float


@dataclass(frozen=True)
class Abandon:
    """To a worker at work: nobody wants the result of this trial's job any more."""

    trial_id: int


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


class DeviceError(NastoolError):
    """A worker could not be prepared since its device does not work."""


class MachineGone(NastoolError):
    """A worker could not be prepared since its machine is gone."""


@dataclass(eq=False)
class Device:
    """What workers run on: a GPU, or the machine where they have none."""

    name: str
    slots: list[Slot] = field(default_factory=list)
    faults: int = 0
    """In a row."""
    given_up: bool = False

    @property
    def busy(self) -> list[Slot]:
        return [slot for slot in self.slots if slot.job is not None]


class Slot:
    """One worker process, started on its first job and again after it died."""

    def __init__(
        self,
        start: Start,
        spec: EvaluatorSpec,
        number: int,
        environment: Mapping[str, str],
        logs: Path | None,
        clock: AwakeClock,
        there: Callable[[int], bool],
    ) -> None:
        """there(number): whether a process can be started for worker `number` now."""
        self._start = start
        self.spec = spec
        self.number = number
        self.environment = dict(environment)
        """CUDA_VISIBLE_DEVICES and OMP_NUM_THREADS count only when set before the child imports torch."""
        self.log = None if logs is None else logs / f"worker-{number}.log"
        self.device = Device("")
        self.crowded_out = False
        """Its device has too little memory for it beside the other workers."""
        self.process: Process | None = None
        self.job: Job | None = None
        self.ready = False
        """Whether the process has prepared its evaluator; `facts`: what that says of itself."""
        self.facts: Mapping[str, Scalar] = {}
        self.stopped = False
        """Whether it was, when last looked at."""
        self._there = there
        self._clock = clock
        self._started = 0.0
        self._progress = 0.0
        """When it last made some; `_beat`: when it last gave a sign of life."""
        self._excused = 0.0
        """Seconds for which it was stopped since it last made progress."""
        self._beat = 0.0
        self._cpu = 0.0
        self._printed = 0
        """Bytes that its log had when its job began."""

    @property
    def vacant(self) -> bool:
        """Whether it can be given a job, unless one on its device is to be alone."""
        return self.job is None and self.there and not self.crowded_out and not self.device.given_up

    @property
    def there(self) -> bool:
        """Whether its process is, or can be started."""
        return self.process is not None or self._there(self.number)

    @property
    def seconds(self) -> float:
        """Since its job or, where it has yet to prepare its evaluator, it was started; without what it was stopped."""
        return self._clock.now() - self._started

    @property
    def quiet(self) -> float:
        """Seconds since it last made any progress, without those for which it was stopped."""
        return self._clock.now() - self._progress - self._excused

    def _running(self) -> Process:
        """Its process, started where there is none."""
        if self.process is None:
            self.process = self._start(self.number, self.environment)
            try:
                self.process.connection.send(Body(self.spec, self.log, BEAT_SECONDS))
            except OSError:
                pass  # it died at once: reading from the connection will say so
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
            kind = MachineGone if getattr(process, "fault", None) == "machine" else NastoolError
            raise kind(f"{self} died at its start: {self._how_it_died()}") from None
        if isinstance(message, InputError | Broken):
            self.kill()
            raise message if isinstance(message, InputError) else DeviceError(message.error)
        assert isinstance(message, Ready)
        self.ready = True
        return message.facts

    def __str__(self) -> str:
        return f"worker {self.number}" if self.number else "the first worker"

    def start(self, job: Job) -> None:
        process = self._running()
        self.job = job
        self._printed = tails.size(self.log)
        self._begin()
        try:
            process.connection.send(job)
        except OSError:
            pass  # the worker died while idle: `receive` will find its end of the pipe closed

    def abandon(self) -> None:
        """Have its job end with its next report."""
        assert self.job is not None
        with suppress(OSError):  # it has died: `receive` will say so
            self.connection.send(Abandon(self.job.trial_id))

    def receive(self) -> list[JobEvent]:
        assert self.job is not None
        job = self.job
        try:
            message = self.connection.recv()
        except (EOFError, OSError):
            who = "worker died" if self.ready else f"{self} died at its start"
            fault: Fault = getattr(self.process, "fault", "killed")
            return [self._with_log(Finished(job, error=f"{who}: {self._how_it_died()}", retry=True, fault=fault))]
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
            return [self._with_log(Finished(job, error=message.error, fault="device"))]
        if isinstance(message, Ready):
            self.ready = True
            self.facts = message.facts
            self._begin()
            return []
        self._progress, self._excused = self._clock.now(), 0.0
        if isinstance(message, Finished):
            if message.unsound:
                self.kill()
            self.job = None
            return [self._with_log(message)]
        event: JobEvent = message
        return [event]

    def give_up(self, error: str, fault: Fault) -> Finished:
        """End its job, which takes too long, and its process. Where that hung, another try may help."""
        assert self.job is not None
        job = self.job
        self.kill()
        return self._with_log(Finished(job, error=error, fault=fault, retry=fault == "hung"))

    def _with_log(self, event: Finished) -> Finished:
        """The event with what was printed meanwhile, where it is an error and anything was."""
        if event.error is None:
            return event
        return replace(event, log=tails.of_file(self.log, self._printed) or event.log)

    def _begin(self) -> None:
        self._started = self._progress = self._beat = self._clock.now()
        self._excused = 0.0

    def _take_beat(self, beat: Beat) -> None:
        now = self._clock.now()
        if beat.cpu - self._cpu > 0.01 * (now - self._beat):
            self._progress, self._excused = now, 0.0
        self._beat, self._cpu = now, beat.cpu

    def look(self, passed: float) -> str | None:
        """How it makes no progress, in words; None: it does. passed: seconds since the last look, as of the clock."""
        now = self._clock.now()
        self.stopped = self.process is not None and self.process.stopped
        if self.stopped:
            self._started += passed
            self._excused += passed
        if now - self._progress <= SILENT_SECONDS:
            return None
        return "has been stopped" if self.stopped else self.how

    @property
    def how(self) -> str:
        """How it makes no progress, in words."""
        unheard = self._clock.now() - self._beat > SILENT_SECONDS
        return "has not been heard of" if unheard else "has reported nothing and used no processor time"

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
