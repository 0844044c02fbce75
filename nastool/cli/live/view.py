"""What there is to see of a search at one moment, wherever it comes from."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nastool.core.space import SearchSpace
from nastool.core.values import Arch, Objective, Silence, Trial

LAST = 40
"""How many of the last trials are kept to be shown."""
CURVE = 200
"""How many values of a curve are kept."""


@dataclass(frozen=True)
class Row:
    """A finished trial. value: of the objective; None: it failed. params, parent: None where unknown."""

    id: int
    value: float | None
    seconds: float | None
    params: float | None
    parent: int | None

    @classmethod
    def of(cls, trial: Trial, objective: Objective) -> Row:
        evaluation = trial.evaluation
        return cls(
            trial.id,
            objective.value(trial.loss) if trial.losses else None,
            None if evaluation is None else evaluation.seconds,
            None if evaluation is None else evaluation.metrics.get("params"),
            trial.proposal.parent,
        )


@dataclass(frozen=True)
class Best:
    """The best trial. draw: its architecture in a few lines, not wider than so many cells."""

    row: Row
    key: str
    draw: Callable[[int], Sequence[str]]


@dataclass(frozen=True)
class Running:
    """A trial at work. step, metric, curve: what it reported so far; step is None before the first report.

    silent: how it makes no progress, in words, and for how many seconds; None: it does.
    """

    id: int
    seconds: float
    step: int | None = None
    metric: str = ""
    curve: Sequence[float] = ()
    silent: tuple[str, float] | None = None


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
    then: str = ""
    best: Best | None = None
    last: Sequence[Row] = ()
    running: Sequence[Running] = ()
    failed: int = 0
    failure: tuple[int, str] | None = None
    rounds: Rounds | None = None
    stopping: bool = False
    machine: Sequence[str] = ()


@dataclass
class Curve:
    """What one trial reports."""

    step: int | None = None
    metric: str = ""
    values: list[float] = field(default_factory=list)

    def add(self, step: int, metrics: Mapping[str, float], objective: str) -> None:
        """Take in a report. The curve is that of the objective or, where it is not reported, of the first metric."""
        if self.step is not None and step <= self.step:
            self.values.clear()  # the trial is repeated
        self.step = step
        metric = objective if objective in metrics else next(iter(metrics), "")
        if metric != self.metric:
            self.metric, self.values = metric, []
        if metric:
            self.values.append(metrics[metric])
            del self.values[:-CURVE]

    def running(self, trial_id: int, seconds: float, silence: Silence | None = None) -> Running:
        silent = None if silence is None else (silence.how, max(0.0, time.time() - silence.since))
        return Running(trial_id, seconds, self.step, self.metric, tuple(self.values), silent)


class RoundBook:
    """What the rounds of a policy gave so far."""

    def __init__(self, trials: Iterable[Trial] = ()) -> None:
        self.done = self.left = 0
        self._curves: dict[str, list[float]] = {}
        for trial in trials:
            self.add(trial)

    def add(self, trial: Trial) -> None:
        """Take in a finished trial; of no account unless it was a round."""
        policy: Any = trial.evaluation and trial.evaluation.policy
        if trial.evaluation is None or not policy:
            return
        self.done += 1
        self.left = int(policy.get("rounds_left", 0))
        for name in ("shared_acc", "entropy"):
            if name in trial.evaluation.metrics:
                values = self._curves.setdefault(name, [])
                values.append(trial.evaluation.metrics[name])
                del values[:-CURVE]

    def rounds(self) -> Rounds | None:
        """None: there were none."""
        if not self.done:
            return None
        return Rounds(self.done, self.done + self.left, {name: tuple(v) for name, v in self._curves.items()})


class Drawings:
    """Small drawings of a space's architectures, each made once for each width."""

    LINES = 6

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self._arch: Arch | None = None
        self._made: dict[int, list[str]] = {}

    def of(self, arch: Arch) -> Callable[[int], Sequence[str]]:
        if arch != self._arch:
            self._arch, self._made = arch, {}
        made = self._made

        def draw(width: int) -> Sequence[str]:
            if width not in made:
                made[width] = self._draw(arch, width)
            return made[width]

        return draw

    def _draw(self, arch: Arch, width: int) -> list[str]:
        """[] where there is none: a view is no reason to fail."""
        try:
            from nastool import drawing

            return list(drawing.small(self.space, arch, width, lines=self.LINES))[: self.LINES]
        except Exception:
            return []


def remaining(done: int, total: int | None, rounds: Rounds | None) -> int | None:
    """How many trials of the present kind are to come: a round takes far longer than what is scored afterwards."""
    if rounds is not None and rounds.done < rounds.total:
        return rounds.total - rounds.done
    return None if total is None else max(0, total - done)
