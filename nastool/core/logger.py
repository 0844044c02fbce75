"""Loggers: what a search sends to tools that draw or collect (`nastool search --log NAME[:KEY=VALUE,...]`).

A logger is a class registered by an entry point of group `nastool.loggers`; its options are its constructor's
keyword-only parameters. run.db stays the only memory of a search: a log is a copy that can be made again. So a logger
that fails is switched off and the search goes on, and one that lags behind (after a kill) is told again what it lacks.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from nastool.core.errors import InputError
from nastool.core.values import Decision, Objective, Trial


@dataclass(frozen=True)
class LoggedRun:
    """The search that a logger belongs to.

    Args:
        id: 32 hexadecimal digits, other for every search that ever was, the same when it is continued.
        folder: The run's; a logger may keep files in a folder of its own there, named after it.
        config: Strategy, space, evaluator (each {"name", "options"}), "seed"; JSON.
        objective: Metric that is optimised, the first of several.
        decisions: The space's.
    """

    id: str
    folder: Path
    config: Mapping[str, Any]
    objective: Objective
    decisions: tuple[Decision, ...]

    @property
    def name(self) -> str:
        return self.folder.absolute().name

    @property
    def options(self) -> dict[str, Any]:
        """The configuration as one level: {"strategy": "evolution", "strategy.population": 20, ...}; no None."""
        found: dict[str, Any] = {}
        for kind in ("strategy", "space", "evaluator"):
            found[kind] = self.config[kind]["name"]
            found |= {f"{kind}.{key}": value for key, value in self.config[kind]["options"].items()}
        objectives = self.config.get("objective")
        several = ", ".join(objectives) if isinstance(objectives, list) else None
        found |= {"seed": self.config["seed"], "objective": several or str(self.objective)}
        return {key: value for key, value in found.items() if value is not None}


@dataclass(frozen=True)
class FinishedTrial:
    """A finished trial.

    Args:
        number: 0, 1, 2, ... in the order in which trials finished; the step of all that is logged of it.
        trial: The trial.
        when: Seconds since 1970.
        value: The objective in its own unit; None: it failed.
        best: Best value until now; None: all have failed.
    """

    number: int
    trial: Trial
    when: float
    value: float | None
    best: float | None

    @property
    def metrics(self) -> dict[str, float]:
        """Measurements, "seconds" included; {} for a failed trial."""
        return {} if self.trial.evaluation is None else self.trial.evaluation.all_metrics


class Logger(ABC):
    """One target. The methods are called in the coordinator, between trials, so they should be quick.

    Any exception but InputError from `require` and `open` switches it off with a warning.
    """

    name: ClassVar[str]
    """The name it is registered under."""

    def __init__(self) -> None:
        """A subclass adds keyword-only options with type annotations. Cheap: imports nothing heavy."""

    def require(self) -> None:
        """Imports what it needs, before anything of the search is begun.

        Raises:
            InputError: A package is missing.
        """
        return

    @abstractmethod
    def open(self, run: LoggedRun) -> int:
        """Begins, also when a search is continued.

        Args:
            run: The search.

        Returns:
            Number of finished trials that the log holds already: it gets the others again, from that number on. 0: all,
                for a log that is written anew.

        Raises:
            InputError: It cannot begin, and so the search does not.
        """

    def report(self, trial_id: int, step: int, metrics: Mapping[str, float], when: float) -> None:
        """Takes an intermediate measurement of a running trial; one that was interrupted reports again.

        Args:
            trial_id: Number of the trial.
            step: Counts from 1.
            metrics: Measurements by name.
            when: Seconds since 1970.
        """
        return

    @abstractmethod
    def trial(self, finished: FinishedTrial) -> None:
        """Takes a finished trial."""

    def close(self, document: Mapping[str, object] | None) -> None:
        """Ends, and flushes.

        Args:
            document: The object in best.json; None: the search is to be continued.
        """
        return


def missing(logger: str, module: str, install: str) -> InputError:
    """The error where a logger's package is not there."""
    return InputError(f"--log {logger} needs package {module}: pip install {install}")
