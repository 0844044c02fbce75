"""Events of a run while it goes on: what a command line, a notebook or a page can show of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nastool.core.values import Scalar, Trial
from nastool.engine.executors.jobs import Reported

if TYPE_CHECKING:
    from nastool.engine.config import RunConfig
    from nastool.engine.results import Product
    from nastool.engine.search import Search


@dataclass(frozen=True)
class Note:
    """A line for people: what is done, or what to know of it."""

    text: str


@dataclass(frozen=True)
class RunBegun:
    """A run begins: its data and devices are as they should be.

    Attributes:
        config: What is searched, and how.
        folder: The run's.
        facts: What the evaluator says of itself, its data and its device.
    """

    config: RunConfig
    folder: Path
    facts: Mapping[str, Scalar]


@dataclass(frozen=True)
class TrialsBegun:
    """Trials are about to be evaluated: those of the search, of the random search beside it, or trainings.

    Attributes:
        search: The loop over them, whose counts may be read meanwhile: asked, finished, failed, best.
        noun: What these trials are called.
        then: What comes after them; "": nothing that takes long.
    """

    search: Search
    noun: str = "trials"
    then: str = ""


@dataclass(frozen=True)
class TrialFinished:
    """A trial is stored.

    Attributes:
        trial: With state "done" or "failed".
        number: How many had finished before, >= 0.
    """

    trial: Trial
    number: int


@dataclass(frozen=True)
class Waiting:
    """Nothing has happened for a quarter of a second."""


@dataclass(frozen=True)
class TrialsEnded:
    """The trials that `TrialsBegun` announced are over, or interrupted."""


@dataclass(frozen=True)
class Interrupted:
    """The first Ctrl-C has come: what runs is finished, and nothing begins any more.

    Attributes:
        folder: The run's.
        next: What to do with it afterwards, in words.
    """

    folder: Path
    next: str


@dataclass(frozen=True)
class Ended:
    """The run has a result, which is written.

    Attributes:
        document: The object in best.json.
        written: The files; None: an earlier call has written them, and there was nothing to do.
        lines: What else there is to say of it to people, a line each.
        seconds: Time that it took, >= 0.
        search: The loop over its trials; None: there was nothing to do.
    """

    folder: Path
    document: Mapping[str, Any]
    written: Product | None = None
    lines: tuple[str, ...] = ()
    seconds: float = 0.0
    search: Search | None = None


Event = Note | RunBegun | TrialsBegun | Reported | TrialFinished | Waiting | TrialsEnded | Interrupted | Ended
Listener = Callable[[Event], None]
