"""An executor carries out jobs; `Drive` is the one loop that hands it jobs and tries again what may yet succeed."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Self

from nastool.core import registry
from nastool.core.errors import InputError, NastoolError
from nastool.core.evaluator import Evaluator
from nastool.core.values import Scalar, Silence
from nastool.core.wording import trials
from nastool.engine.executors.jobs import EvaluatorSpec, Finished, Job, JobEvent, again

WAIT_SECONDS = 0.25
"""Longest time between two looks at whether to stop."""


def _quiet(line: str) -> None:
    pass


@dataclass(frozen=True)
class Setting:
    """What a run says of how its jobs are to be carried out.

    Attributes:
        workers: Number of jobs at a time, >= 1.
        timeout: Seconds after which a job is given up; None: never.
        hung: Seconds without any progress after which a job's process is ended, and another tried; None: never.
        threads: CPU threads of each worker; None: whatever is quickest there.
        logs: Folder for what workers print; None: it goes to stderr.
        say: Called with a line for people, such as that a job makes no progress.
        options: Of the executor.
    """

    workers: int = 1
    timeout: float | None = None
    hung: float | None = None
    threads: int | None = None
    logs: Path | None = None
    say: Callable[[str], None] = _quiet
    options: Mapping[str, object] = field(default_factory=dict)


class Executor(ABC):
    """Carries out jobs with evaluators that it builds from one specification.

    A job is handed over with `submit`; `wait` returns what happened since: reports, and results in any order. An
    executor is registered by an entry point of group `nastool.executors`. Its options are the keyword-only parameters
    of its constructor, and `make` finds their values in the setting.
    """

    name: ClassVar[str]
    """Name it is registered under."""
    silent: Mapping[int, Silence] = {}
    """Trials that make no progress, as of the last `wait`."""
    devices: Sequence[str] = ()
    """Kinds of device that its workers have, where these differ."""
    computes_here: ClassVar[bool] = True
    """Whether it uses this machine's devices, which are worth looking at."""

    @classmethod
    @abstractmethod
    def make(cls, spec: EvaluatorSpec, evaluator: Evaluator, setting: Setting) -> Self:
        """Return an executor that is not open yet; nothing is started.

        Args:
            spec: How to build the evaluator, in any process.
            evaluator: One that was built so and not prepared; for what it says of itself.
            setting: How many jobs at a time, and so on.

        Raises:
            InputError: The setting asks for what is not there.
        """

    @abstractmethod
    def open(self) -> Mapping[str, Scalar]:
        """Prepare an evaluator and return the facts that it states.

        Raises:
            InputError: Data or device are not as they should be.
        """

    @property
    def ended(self) -> bool:
        """Whether what is open stays so, since no more results come now: the run goes on another time."""
        return False

    @property
    @abstractmethod
    def free(self) -> int:
        """Number of jobs that can be submitted now."""

    @property
    @abstractmethod
    def busy(self) -> Sequence[Job]:
        """Jobs that are submitted and not finished."""

    @property
    def idle(self) -> bool:
        """Whether there are none. Override where that is quicker to say."""
        return not self.busy

    @abstractmethod
    def submit(self, job: Job) -> None:
        """Start a job, or put it first in line where it is one that waits for a place of its own (see `again`)."""

    def abandon(self, job: Job) -> None:
        """End a job that is submitted, whose result nobody wants any more: soon, or not before it has one.

        Its `Finished` comes in any case.
        """

    @abstractmethod
    def wait(self, seconds: float) -> list[JobEvent]:
        """Return what happened since the last call, at the latest after so many seconds."""

    @abstractmethod
    def close(self) -> None:
        """End all work at once. It can be opened again."""


registry.declare("executor", Executor)


class Drive:
    """Jobs on their way through an executor: an iterator of what happens, until there is nothing left to do.

    It yields every `Reported`, every `Finished` that is final, and None where nothing has happened for WAIT_SECONDS. A
    job that may succeed on another try (see `again`) is submitted once more.
    """

    def __init__(
        self,
        executor: Executor,
        source: Callable[[], Job | None],
        *,
        stop: Callable[[], bool] = lambda: False,
        retried: Callable[[Job], None] = lambda job: None,
        settle: Callable[[], None] = lambda: None,
        together: float = 0.0,
    ) -> None:
        """Args:
        executor: Open, and used by nobody else meanwhile.
        source: Called for the next job where there is room for one; None: there is none before another has
            finished, or none at all where nothing is running.
        stop: Asked between events; once true, no further job is taken from the source.
        retried: Called with each job before it is submitted again.
        settle: Called before jobs of the source are submitted, and once all events are yielded: what led to these jobs,
            or followed from these events, is to be stored by then.
        together: Seconds after which jobs from the source are submitted, though there is room for more.
        """
        self.executor = executor
        self.pending: list[JobEvent] = []
        """Events that have happened and are not yielded yet."""
        self.abandoned: set[int] = set()
        """Trials of jobs that were abandoned and have not finished yet; they get no further try."""
        self.taken: list[Job] = []
        """Jobs from the source that are not submitted yet."""
        self._source = source
        self._stop = stop
        self._retried = retried
        self._settle = settle
        self._together = together

    def __iter__(self) -> Iterator[JobEvent | None]:
        """Yield events.

        Raises:
            InputError: Nothing can go on before something else than a trial is mended.
            NastoolError: The executor has nothing to do, and some jobs have no result.
        """
        executor, open_jobs = self.executor, 0
        while True:
            self._settle()
            more = True
            while more and executor.free and not self._stop():
                more = self._take()
                self._settle()
                open_jobs += len(self.taken)
                while self.taken:
                    executor.submit(self.taken.pop(0))
            if not self.pending and executor.idle:
                if open_jobs and not self._stop():
                    raise NastoolError(f"executor {executor.name} lost {trials(open_jobs)}: the same command goes on")
                return
            self.pending += executor.wait(0 if self.pending else WAIT_SECONDS)
            if not self.pending:
                yield None
            while self.pending:
                event = self.pending.pop(0)
                if isinstance(event, Finished):
                    if event.fatal:
                        raise InputError(event.error or "no result")
                    next_try = None if event.job.trial_id in self.abandoned else again(event)
                    if next_try is not None:
                        self._retried(next_try)
                        executor.submit(next_try)
                        continue
                    open_jobs -= 1
                yield event

    def _take(self) -> bool:
        """Take jobs from the source, as many as there is room for now. False: it has no more."""
        begun = time.monotonic()
        while len(self.taken) < self.executor.free and not self._stop():
            job = self._source()
            if job is None:
                return False
            self.taken.append(job)
            if time.monotonic() - begun >= self._together:
                break
        return True

    def abandon(self, job: Job) -> None:
        """Give up a job that runs; what is still to be yielded of it counts no more."""
        self.abandoned.add(job.trial_id)
        self.executor.abandon(job)

    def aside(self, job: Job) -> Finished:
        """Return what becomes of a job that is carried out while the source is asked, and so there is room for it.

        What happens meanwhile to others is yielded afterwards.

        Raises:
            InputError: Nothing can go on before something else than a trial is mended.
        """
        self.executor.submit(job)
        result: Finished | None = None
        while result is None:
            for event in self.executor.wait(WAIT_SECONDS):  # all of them: others may have finished at the same time
                if not isinstance(event, Finished) or event.job.trial_id != job.trial_id:
                    self.pending.append(event)
                elif event.fatal:
                    raise InputError(event.error or "no result")
                elif (next_try := again(event)) is not None:
                    self.executor.submit(next_try)
                else:
                    result = event
        return result


def carry_out(executor: Executor, job: Job) -> Finished:
    """Return what becomes of one job, which is alone in the executor, in as many tries as it gets."""
    jobs = iter([job])
    for event in Drive(executor, lambda: next(jobs, None)):
        if isinstance(event, Finished):
            return event
    raise AssertionError("an executor ended without a result")
