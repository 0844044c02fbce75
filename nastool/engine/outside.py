"""Who proposes or measures is outside: a script, a cluster's tool, a language model. Lines of JSON go to and fro.

A line with "trial" is the result of that trial; one with "choices" proposes an architecture, and with "metrics" it is
its result, too. Read from stdin while a command runs, or given at once by `tell`.
"""

from __future__ import annotations

import json
import os
import select
import sys
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from nastool.core import archfile
from nastool.core.archfile import MAX_LINE
from nastool.core.errors import FAULTS, Fault, InputError, hint, short
from nastool.core.evaluator import Evaluator, executor_of
from nastool.core.space import SearchSpace
from nastool.core.strategy import Fed
from nastool.core.values import Arch, Evaluation, Scalar
from nastool.engine.executors.base import WAIT_SECONDS, Executor, Setting
from nastool.engine.executors.jobs import EvaluatorSpec, Finished, Job, JobEvent, checked, perform
from nastool.engine.store import Store

if TYPE_CHECKING:
    from nastool.engine.search_run import SearchRun


@dataclass(frozen=True)
class Line:
    """What a line from outside says.

    Attributes:
        where: What it was read from, for messages.
        trial: Number of the trial whose result it is; None: it proposes `arch`.
        key: Of the architecture, where it says so.
        result: What was measured, or why that failed; None: it says neither.
        fault: By which kind of fault it failed.
    """

    where: str
    trial: int | None
    arch: Arch | None
    key: str | None
    result: Evaluation | str | None
    fault: Fault = "exception"

    @classmethod
    def read(cls, document: object, space: SearchSpace, where: str) -> Line:
        """Read one. InputError: it is no such line."""
        if not isinstance(document, dict):
            raise InputError(f"need a JSON object, got a {type(document).__name__}")
        trial = document.get("trial")
        if trial is not None and (not isinstance(trial, int) or isinstance(trial, bool)):
            raise InputError(f'"trial" is the number of a trial, got {short(repr(trial))}')
        arch = archfile.from_json({**archfile.about(space), **document}, space).arch if "choices" in document else None
        if trial is None and arch is None:
            raise InputError('need "trial" with a result, or "choices" of an architecture')
        key = document.get("key") if arch is None else arch.key
        fault = document.get("fault", "exception")
        if fault not in FAULTS:
            raise InputError(f'"fault" is {short(repr(fault))}; {hint(fault, FAULTS)}')
        return cls(where, trial, arch, key, _result(document, trial or 0), fault)


def _read(text: str, space: SearchSpace, where: str) -> Line:
    """A line of stdin: JSON, or a proposal in the space's own string form."""
    if text.lstrip().startswith("{") or not isinstance(space, archfile.StringForm):
        return Line.read(archfile.loads(text), space, where)
    return Line(where, None, archfile.read_text(text.strip(), space).arch, None, None)


def _result(document: Mapping[str, Any], trial: int) -> Evaluation | str | None:
    if document.get("error"):
        return str(document["error"])
    metrics = document.get("metrics")
    if metrics is None:
        return None
    try:
        if not isinstance(metrics, dict) or not metrics:
            raise TypeError(f'"metrics" maps names to numbers, got {short(repr(metrics))}')
        seconds = document.get("seconds", metrics.get("seconds", 0.0))
        rest = {name: value for name, value in metrics.items() if name != "seconds"}
        return checked(Evaluation(rest, seconds), trial)
    except TypeError as error:
        raise InputError(str(error)) from None


class Stdin:
    """Lines of stdin, as they come."""

    def __init__(self) -> None:
        self._buffer = b""
        self._number = 0
        try:
            self._file: int | None = sys.stdin.fileno()
        except (AttributeError, OSError, ValueError):
            self._file = None

    def __call__(self, seconds: float) -> list[tuple[str, str]] | None:
        """Lines that are there at the latest after so many seconds, each with its place; None: it has ended."""
        if self._file is None:  # somebody's object in its place
            text, self._buffer = sys.stdin.read() if sys.stdin else "", b""
            return self._placed(text.splitlines()) if text else None
        if not select.select([self._file], [], [], seconds)[0]:
            return []
        found = os.read(self._file, 1 << 16)
        *lines, self._buffer = (self._buffer + found).split(b"\n")
        if not found and self._buffer:
            lines, self._buffer = [self._buffer], b""
        elif not found:
            return None
        if len(self._buffer) > MAX_LINE:
            raise InputError(f"stdin line {self._number + 1}: longer than {MAX_LINE:,} characters")
        try:
            return self._placed([line.decode() for line in lines])
        except UnicodeDecodeError:
            raise InputError("stdin is no UTF-8 text: results are JSON") from None

    def _placed(self, lines: Sequence[str]) -> list[tuple[str, str]]:
        numbers = range(self._number + 1, self._number + 1 + len(lines))
        self._number += len(lines)
        return [(f"stdin line {n}", line) for n, line in zip(numbers, lines, strict=True)]


class Inbox:
    """What comes from outside, sorted: results of trials, and proposals."""

    def __init__(
        self,
        space: SearchSpace,
        source: Callable[[float], Sequence[tuple[str, str]] | None],
        refuse: Callable[[str], None] | None = None,
    ) -> None:
        """Args:
        space: The architectures' own.
        source: As of `Stdin`.
        refuse: Called with what is wrong with a line that cannot be read, and it goes on; None: that is an error.
        """
        self.results: deque[Line] = deque()
        self.proposals: deque[Line] = deque()
        self.ended = False
        self._space = space
        self._source = source
        self._refuse = refuse
        self.failed: InputError | None = None  # raised once what came before it is taken

    def look(self, seconds: float) -> None:
        """Wait for lines, at most so many seconds. InputError: one before was wrong; what came before it is taken."""
        if self.failed is not None:
            raise self.failed
        found = None if self.ended else self._source(seconds)
        if found is None:
            self.ended = True
            return
        for where, text in found:
            if not text.strip() or self.failed is not None:
                continue
            try:
                line = _read(text, self._space, where)
                (self.proposals if line.trial is None else self.results).append(line)
            except ValueError as error:
                self.fail(InputError(f"{where}: {error}"))

    def fail(self, error: InputError) -> None:
        """Refuse a line."""
        if self._refuse is not None:
            self._refuse(str(error))
        else:
            self.failed = error

    def proposal(self, stop: Callable[[], bool], wait: bool) -> Line | None:
        """Take the next proposal. None: there is none, and there comes none if it was waited for."""
        if not wait and not self.proposals:
            self.look(0)
        while wait and not self.proposals and not self.ended and not stop():
            self.look(WAIT_SECONDS)
        return self.proposals.popleft() if self.proposals else None


class Outside(Executor):
    """Hands jobs to somebody outside, and takes results from there."""

    name = "external"
    computes_here = False

    def __init__(
        self,
        spec: EvaluatorSpec,
        evaluator: Evaluator,
        slots: int,
        inbox: Inbox | None = None,
        out: Callable[[Mapping[str, Any]], None] | None = None,
        repeats: bool = True,
        told: bool = False,
    ) -> None:
        """Args:
        spec: Names the run's folder.
        evaluator: For what is asked of it beside results.
        slots: Number of trials that are handed out beyond those that are so already.
        inbox: Where results come from; None: stdin.
        out: Called with the line of each trial that is handed out; None: it goes to stdout.
        repeats: Whether it is called with those that were handed out before, too.
        told: Whether to end once all results that there are have been taken.
        """
        self.inbox = inbox or Inbox(evaluator.space, Stdin())
        self._evaluator = evaluator
        self._folder = spec.workdir
        self._slots = slots
        self._out = out or _print
        self._repeats = repeats
        self._told = told
        self._asked = range(0)
        self._jobs: dict[int, Job] = {}
        self._events: list[JobEvent] = []
        self._waited = False
        self._proposed: deque[Line] = deque()

    @classmethod
    def make(cls, spec: EvaluatorSpec, evaluator: Evaluator, setting: Setting) -> Outside:
        if (setting.timeout, setting.hung) != (None, None):
            name = "--hung-timeout" if setting.timeout is None else "--trial-timeout"
            raise InputError(f"{name}: what is measured outside cannot be given up; tell its error instead")
        return cls(spec, evaluator, setting.workers)

    def open(self) -> Mapping[str, Scalar]:
        self._evaluator.prepare()
        if self._folder is not None and (self._folder / "run.db").is_file():
            with Store.read(self._folder / "run.db") as store:
                counts = store.count()
            self._asked = range(sum(counts.values()))
            self._slots += counts["running"]
        return {}

    @property
    def ended(self) -> bool:
        inbox = self.inbox
        taken = not (self._events or inbox.results or inbox.proposals)
        if self._told:
            return taken or self._slots == 0
        return taken and self._waited and inbox.ended and inbox.failed is None

    @property
    def free(self) -> int:
        return self._slots - len(self._jobs) - len(self._events)

    @property
    def busy(self) -> Sequence[Job]:
        done = [event.job for event in self._events if isinstance(event, Finished)]
        return [] if self.ended else [*self._jobs.values(), *done]

    def submit(self, job: Job) -> None:
        if job.task != "evaluate":
            self._events.append(perform(self._evaluator, job, None))
            return
        self._jobs[job.trial_id] = job
        new = job.trial_id not in self._asked
        line = self._proposed.popleft() if self._proposed and new else None
        if line is not None and line.result is not None:
            self._finish(job, line)
        elif new or self._repeats:
            self._out(
                {**archfile.to_json(self._evaluator.space, job.proposal.arch), "trial": job.trial_id, "seed": job.seed}
            )

    def wait(self, seconds: float) -> list[JobEvent]:
        if not self._events and not self.inbox.results:
            self.inbox.look(seconds)
            self._waited = True
        while self.inbox.results:
            line = self.inbox.results.popleft()
            try:
                job = None if line.trial is None else self._jobs.get(line.trial)
                if job is None:
                    raise self._not_open(line)
                self._finish(job, line)
            except InputError as error:
                self.inbox.fail(error)
                break
        events, self._events = self._events, []
        return events

    def feed(self, stop: Callable[[], bool], wait: bool) -> Arch | None:
        """Take an architecture that is proposed, perhaps with its result, which is kept for `submit`."""
        line = self.inbox.proposal(stop, wait)
        if line is None:
            return None
        self._proposed.append(line)
        return line.arch

    def close(self) -> None:
        pass

    def check_all_taken(self) -> None:
        """InputError: something came for which there was no place."""
        if self.inbox.failed is not None:
            raise self.inbox.failed
        for line in self.inbox.results:
            raise self._not_open(line)
        for line in self.inbox.proposals:
            raise InputError(f"{line.where}: the search has no trials left: extend it by `nastool resume -n`")

    def _not_open(self, line: Line) -> InputError:
        there = ", ".join(map(str, [*self._jobs][:10])) or "none"
        return InputError(f"{line.where}: trial {line.trial} is not open; open: {there}")

    def _finish(self, job: Job, line: Line) -> None:
        """Take a trial's result. InputError: it is another's, or none."""
        own = job.proposal.arch.key
        if line.key not in (None, own):
            raise InputError(f"{line.where}: trial {job.trial_id} is architecture {own}, not {short(line.key)}")
        if line.result is None:
            raise InputError(f'{line.where}: need "metrics" or "error" of trial {job.trial_id}')
        del self._jobs[job.trial_id]
        if isinstance(line.result, str):
            self._events.append(Finished(job, error=line.result, fault=line.fault))
        else:
            self._events.append(Finished(job, line.result))


def feed(executor: Executor, space: SearchSpace, stop: Callable[[], bool]) -> Callable[[bool], Arch | None]:
    """What a strategy is fed by: lines from where the results come from, too, or else stdin.

    A proposal that cannot be read is answered with a line that says why, and the search goes on.
    """
    if isinstance(executor, Outside):
        return partial(executor.feed, stop)
    inbox = Inbox(space, Stdin(), lambda text: _print({"error": text}))

    def next_one(wait: bool) -> Arch | None:
        line = inbox.proposal(stop, wait)
        return None if line is None else line.arch

    return next_one


def _print(document: Mapping[str, object]) -> None:
    """A line on stdout, at once."""
    print(json.dumps(document), flush=True)


def given(run: SearchRun, lines: Iterable[tuple[str, Mapping[str, Any]]], slots: int, **more: Any) -> Outside:
    """An executor for a run that takes these lines, each with its place, and no others.

    Raises:
        InputError: A line is none, or the run measures for itself.
    """
    if executor_of(run.evaluator) != Outside.name:
        raise InputError(
            f"{run.folder.path} measures by evaluator {run.evaluator.name}: begin it with --evaluator external"
        )
    spec = run.config.evaluator_spec(run.space, run.folder.path)
    inbox = Inbox(run.space, lambda seconds: None)
    inbox.ended = True
    for where, document in lines:
        try:
            line = Line.read(document, run.space, where)
        except InputError as error:
            raise InputError(f"{where}: {error}") from None
        if line.trial is None and not isinstance(run.strategy, Fed):
            raise InputError(f'{where}: need "trial", as `nastool ask` gave it: only strategy external takes proposals')
        (inbox.proposals if line.trial is None else inbox.results).append(line)
    slots += isinstance(run.strategy, Fed)  # what is proposed with its result is open for a moment
    return Outside(spec, run.evaluator, slots, inbox, **more)
