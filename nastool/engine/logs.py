"""From a search to its loggers."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from nastool.core import options, registry
from nastool.core.errors import InputError, one_line
from nastool.core.logger import FinishedTrial, LoggedRun, Logger
from nastool.core.values import Trial
from nastool.engine.events import Event, Listener, TrialFinished
from nastool.engine.executors.jobs import Reported

if TYPE_CHECKING:
    from nastool.core.space import SearchSpace
    from nastool.engine.store import Store


def given(flags: Sequence[str], file: Mapping[str, object]) -> list[str]:
    """Specs of --log and of a configuration file's `log: {NAME: {KEY: VALUE}}`; a flag wins over the file's."""
    named = {text.partition(":")[0].strip() for text in flags}
    found = []
    for key, values in file.items():
        dashed = key.replace("_", "-")  # a file's names have come with underscores
        name = dashed if dashed in registry.plugins("logger") else key
        if values is not None and not isinstance(values, Mapping):
            raise InputError(f"log: {name} must be a mapping of its options, such as {{}}")
        pairs = ",".join(f"{key}={value}".replace(",", r"\,") for key, value in (values or {}).items())
        if name not in named:
            found.append(f"{name}:{pairs}" if pairs else name)
    return [*found, *flags]


class Loggers:
    """All loggers of a search. One that fails is left out from then on; the search never notices."""

    def __init__(self, specs: Sequence[str]) -> None:
        """specs: As given to --log. InputError: unknown, bad option, missing package."""
        self._warn: Callable[[str], None] = print
        self._loggers: list[Logger] = []
        self._run: LoggedRun | None = None
        self._best: float | None = None
        for text in specs:
            name, values = options.split(text, "--log")
            if any(other.name == name for other in self._loggers):
                raise InputError(f"--log {name}: given twice")
            resolved = options.resolve(f"logger {name}", registry.load("logger", name), values)
            logger: Logger = registry.make("logger", name, given=resolved)
            logger.require()
            self._loggers.append(logger)

    @contextmanager
    def opened(self, store: Store, space: SearchSpace, folder: Path, warn: Callable[[str], None]) -> Iterator[None]:
        """Meanwhile the loggers are open. What they lack of earlier calls, they are sent first. InputError.

        warn: Called with what goes wrong, a line each.
        """
        self._warn = warn
        if not self._loggers:
            yield
            return
        self._run = LoggedRun(_id(store), folder, store.get("config"), store.objectives[0], space.decisions)
        try:
            self._open(store)
            yield
        finally:
            self.close(None)

    def _open(self, store: Store) -> None:
        assert self._run is not None
        held: dict[Logger, int] = {}
        wanted, self._loggers = self._loggers, []
        for logger in wanted:
            try:
                held[logger] = logger.open(self._run)
                self._loggers.append(logger)
            except InputError:
                raise
            except Exception as error:
                raise InputError(
                    f"--log {logger.name} cannot begin: {_said(error, logger)}; mend it or leave it out"
                ) from error
        when = store.times()
        for number, trial in enumerate(trial for trial in store.history() if trial.state != "running"):
            lacking = [logger for logger in self._loggers if number >= held[logger]]
            finished = when[trial.id][2] or 0.0
            told = self._told(number, trial, finished)
            if lacking:
                for step, metrics in store.reports(trial.id):
                    self._send(lacking, "report", trial.id, step, metrics, finished)
                self._send(lacking, "trial", told)

    def listening(self, tell: Listener) -> Listener:
        """Return a listener to one search that tells `tell` and the loggers."""
        if not self._loggers:
            return tell

        def both(event: Event) -> None:
            tell(event)
            if isinstance(event, Reported):
                self._send(self._loggers, "report", event.job.trial_id, event.step, event.metrics, time.time())
            elif isinstance(event, TrialFinished):
                self._send(self._loggers, "trial", self._told(event.number, event.trial, time.time()))

        return both

    def close(self, document: Mapping[str, object] | None) -> None:
        """The search has ended with this result; None: it will be continued. Only the first call counts."""
        self._send(self._loggers, "close", document)
        self._loggers = []

    def _told(self, number: int, trial: Trial, finished: float) -> FinishedTrial:
        assert self._run is not None
        objective = self._run.objective
        value = objective.value(trial.loss) if trial.losses else None
        if value is not None:
            better = max if objective.goal == "max" else min
            self._best = value if self._best is None else better(self._best, value)
        return FinishedTrial(number, trial, finished, value, self._best)

    def _send(self, loggers: Sequence[Logger], what: str, *arguments: object) -> None:
        for logger in list(loggers):
            if logger not in self._loggers:
                continue
            try:
                getattr(logger, what)(*arguments)
            except Exception as error:
                self._loggers.remove(logger)
                self._warn(
                    f"warning: logger {logger.name} failed and is switched off: {_said(error, logger)}; "
                    "the search goes on, and a later call with --log sends what is missing"
                )


def _said(error: Exception, logger: Logger) -> str:
    """The error, and where in a plugin of another package it is from."""
    who = registry.blamed(error, logger)
    return f"{one_line(error)} in {who}" if who else one_line(error)


def _id(store: Store) -> str:
    found = store.get("log_id")
    if found is None:
        found = uuid.uuid4().hex
        store.begin()
        store.put("log_id", found)
        store.commit()
    return str(found)
