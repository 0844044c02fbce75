"""A search at one moment, as people see it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

DRAWN = 6
"""Most lines of a drawing."""


@dataclass(frozen=True)
class Row:
    """A finished trial. value: of the objective; None: it failed or was stopped. params, parent: None where unknown.

    early: value of a trial that was stopped, after so many epochs as fidelity.
    """

    id: int
    value: float | None
    seconds: float | None
    params: float | None
    parent: int | None
    early: float | None = None
    fidelity: float | None = None


@dataclass(frozen=True)
class Best:
    """The best trial. draw: its architecture in a few lines, not wider than so many cells.

    front: of several objectives, number of trials that no other beats in all.
    """

    row: Row
    key: str
    draw: Callable[[int], Sequence[str]]
    front: int | None = None

    @property
    def beside(self) -> str:
        """The size of the front, in words; "" with one objective."""
        return "" if self.front is None else f"front of {self.front:,}"


@dataclass(frozen=True)
class Running:
    """A trial at work. step, metric, curve: what it reported so far; step is None before the first report.

    epochs: how many it trains, of which steps are the numbers then; None: steps are anything.
    silent: how it makes no progress, in words, and for how many seconds; None: it does.
    """

    id: int
    seconds: float
    step: int | None = None
    metric: str = ""
    curve: Sequence[float] = ()
    silent: tuple[str, float] | None = None
    epochs: int | None = None

    @property
    def progress(self) -> str:
        """ "epoch 8/10", "step 8"; "" before the first report."""
        if self.step is None:
            return ""
        return f"step {self.step}" if self.epochs is None else f"epoch {self.step}/{self.epochs}"


@dataclass(frozen=True)
class Rounds:
    """The rounds of a policy. curves: what was measured after each."""

    done: int
    total: int
    curves: Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class View:
    """A search at one moment.

    title: what is shown where several are, else "". noun: what its trials are called. metric: the objective's.
    total: None where nobody knows. per_hour, left: trials in an hour and seconds to the last, as far as known.
    until: seconds to the end of everything, where there is a limit of time.
    then: what comes after these trials, such as "6 trainings".
    last: the latest last. failure: number and reason of the last failed trial. stopping: no further trial begins.
    machine: facts about the devices.
    """

    metric: str
    done: int
    total: int | None
    title: str = ""
    noun: str = "trials"
    per_hour: float | None = None
    left: float | None = None
    until: float | None = None
    then: str = ""
    best: Best | None = None
    last: Sequence[Row] = ()
    running: Sequence[Running] = ()
    failed: int = 0
    stopped: int = 0
    failure: tuple[int, str] | None = None
    rounds: Rounds | None = None
    stopping: bool = False
    machine: Sequence[str] = ()
