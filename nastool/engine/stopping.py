"""When a search ends: after so many trials, when its time is up, or once it has found enough."""

from __future__ import annotations

import math
import statistics
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from nastool.core.errors import InputError, short
from nastool.core.quantities import Condition, duration
from nastool.core.values import Proposal, Trial
from nastool.core.wording import format_seconds

if TYPE_CHECKING:
    from nastool.engine.command_options import SearchOptions

SAVE_SECONDS = 2.0
"""How often the time that is used is stored, at least while a search has a budget."""
FINAL = 0.4
"""Most of all time that is kept for the final stage."""
RECENT = 20
"""Number of the last trials from which is told how long the next one takes."""


@dataclass(frozen=True)
class Rules:
    """What ends a search, whichever comes first.

    Attributes:
        trials: Number of trials in all; None: any.
        seconds: Time in all, that of earlier calls included; None: any.
        until: When it is to be over, in seconds since 1970; None: any time.
        conditions: What one trial has to meet, all of them; (): nothing.
        patience: Number of trials in a row without a better one; None: any.
    """

    trials: int | None = None
    seconds: float | None = None
    until: float | None = None
    conditions: tuple[Condition, ...] = ()
    patience: int | None = None
    final: int = 0

    @classmethod
    def read(cls, options: SearchOptions) -> Rules:
        """What the options say. InputError: they say nothing that can be meant."""
        seconds = None
        if options.time is not None:
            try:
                seconds = duration(options.time)
            except ValueError as error:
                raise InputError(f"--time: {error}") from None
        return cls(
            options.trials,
            seconds,
            None if options.until is None else moment(options.until),
            tuple(Condition.parse(text, "--stop-when") for text in options.stop_when),
            options.patience,
            options.final or 0,
        )

    @property
    def timed(self) -> bool:
        """Whether there is a limit of time."""
        return self.seconds is not None or self.until is not None

    def to_json(self) -> dict[str, Any]:
        """As it is stored with the result that it led to."""
        found = {**vars(self), "conditions": list(map(str, self.conditions))}
        return {name: value for name, value in found.items() if name != "final" or value}


def moment(text: str, now: datetime | None = None) -> float:
    """Seconds since 1970 of the next 07:30, local time, or of 2026-12-01T07:30. InputError: it is neither."""
    now = now or datetime.now()
    written = text.strip()
    try:
        if len(written) > 8:
            return datetime.fromisoformat(written).timestamp()
        hour, minute, second = (int(part) for part in (*written.split(":"), "0")[:3])
        if written.count(":") not in (1, 2):
            raise ValueError
        then = now.replace(hour=hour, minute=minute, second=second, microsecond=0)
    except (ValueError, OverflowError, OSError):
        raise InputError(f"--until {short(repr(text))}: write an hour as 07:30, or a day as 2026-12-01T07:30") from None
    return (then if then > now else then + timedelta(days=1)).timestamp()


_Kind = tuple[bool, float | None, bool]


def _kind(proposal: Proposal) -> _Kind:
    """What trials have in common that take about as long: rounds of a policy, trainings up to the same epoch."""
    return proposal.policy is not None, proposal.fidelity, proposal.continues is None


class Budget:
    """The time that a run has, over all its calls.

    Time in which nobody works on the run does not count against `seconds`; of the time of a call that was killed, what
    was stored last does.
    """

    def __init__(
        self,
        rules: Rules,
        used: float = 0.0,
        keep: Callable[[Mapping[str, object]], None] = lambda facts: None,
        *,
        begun: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        """Stores nothing yet.

        Args:
            rules: With the limits.
            used: Seconds of earlier calls.
            keep: Stores what is used, as JSON.
            begun: When this call began, by the clock; None: now.
            clock, now: Seconds since some moment, and since 1970.
        """
        self.rules = rules
        self.keep = keep
        self.counts = False  # True once a search that was restored goes on
        self.before = used
        self._clock, self._now = clock, now
        self._begun = self._saved = clock() if begun is None else begun

    @property
    def spent(self) -> float:
        """Seconds of this call."""
        return self._clock() - self._begun

    @property
    def used(self) -> float:
        """Seconds of all calls."""
        return self.before + self.spent

    @property
    def left(self) -> float:
        """Seconds; infinity where there is no limit, negative once it is passed."""
        left = math.inf if self.rules.seconds is None else self.rules.seconds - self.used
        return left if self.rules.until is None else min(left, self.rules.until - self._now())

    @property
    def whole(self) -> float:
        """Seconds from the first call to the last, as it looks now."""
        return self.used + self.left

    def clock(self) -> float:
        """Seconds since some moment."""
        return self._clock()

    def tick(self) -> None:
        """Store what is used, now and then, where there is a limit."""
        if self.rules.timed and self._clock() - self._saved >= SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Store what is used, and when the time is up, in seconds since 1970."""
        self._saved = self._clock()
        ends = self._now() + self.left if self.rules.timed else None
        self.keep({"used": self.used, "whole": self.whole if self.rules.timed else None, "ends": ends})


@dataclass
class Stopping:
    """Decides in one loop over trials whether another one begins.

    Attributes:
        rules: What ends it.
        budget: The run's time.
        reserve: Seconds that what follows takes.
        least: Seconds of these that the first trials may not have either, without which there is no result.
        learns_first: The first trial takes as long as no other, as where shared weights are trained in it.
        why: Which rule has ended it: "trials", "time", "stop-when" or "patience"; "": none has.
        last: Seconds that the last trial took.
        cut: Trials that were running when the time was up, and are repeated when it goes on.
        workers: Number of trials at a time.
        final: Number of trials of the final stage, before it begins; then, and without one, 0.
    """

    rules: Rules
    budget: Budget
    reserve: Callable[[], float] = lambda: 0.0
    least: Callable[[], float] = lambda: 0.0
    learns_first: bool = False
    why: str = ""
    cut: Sequence[int] = ()
    last: float = 0.0
    workers: int = 1
    final: int = field(init=False)
    _before_final: str = ""
    """What ended the search proper, as of `describe`, and `why`, once the final stage has begun."""
    _why_before: str = ""
    _begun: dict[int, float] = field(default_factory=dict)
    _taken: dict[_Kind, deque[float]] = field(default_factory=dict)
    """Seconds of the last trials of each kind, for each unit of their budgets."""
    _since_best: int = 0
    _done: int = 0

    def __post_init__(self) -> None:
        self.final = self.rules.final

    def begin_final(self, trials: int, trainings: int, why: str) -> None:
        """The search proper has ended for this reason after so many trials; its final stage has so many trainings."""
        self.why, self.final = why, 0
        self._before_final, self._why_before, self.why = self.describe(trials), why, ""
        self.rules = replace(self.rules, trials=trials + trainings, conditions=(), patience=None)

    @property
    def reason(self) -> str:
        """Which rule has ended it all, as of `why`; where there was a final stage, the search proper."""
        return self.why if self.why == "time" else self._why_before or self.why

    def begins(self, trial_id: int) -> None:
        """A trial is handed out."""
        self._begun[trial_id] = self.budget.clock()

    def taken(self, trial_id: int) -> float:
        """Seconds since a trial was handed out."""
        now = self.budget.clock()
        return now - self._begun.get(trial_id, now)

    def told(self, trial: Trial, better: bool) -> None:
        """A trial has finished, now or in an earlier call. better: it is the best so far."""
        self._done += trial.state == "done"
        begun = self._begun.pop(trial.id, None)
        if begun is not None and not (self.learns_first and trial.id == 0):
            self.last = self.budget.clock() - begun
            kind = _kind(trial.proposal)
            taken = self._taken.setdefault(kind, deque(maxlen=RECENT))
            taken.append(self.last / (trial.proposal.budget or 1))
        if trial.proposal.policy is not None or trial.proposal.again is not None or trial.state == "stopped":
            return  # a round ends nothing
        self._since_best = 0 if better else self._since_best + 1
        if self.rules.patience is not None and self._since_best >= self.rules.patience:
            self.why = self.why or "patience"
        metrics = {} if trial.evaluation is None else trial.evaluation.all_metrics
        if self.rules.conditions and all(condition.holds(metrics) for condition in self.rules.conditions):
            self.why = self.why or "stop-when"

    def _upper(self, kind: _Kind) -> float:
        """Seconds for a unit of budget, of three in four of the last trials at most; 0 where nothing is known."""
        taken = self._taken.get(kind)
        if not taken:
            return 0.0
        return statistics.quantiles(taken, n=4, method="inclusive")[2] if len(taken) > 1 else taken[0]

    def takes(self, proposal: Proposal) -> float:
        """Seconds that a trial takes, as those before did; 0 where nothing is known."""
        return self._upper(_kind(proposal)) * (proposal.budget or 1)

    @property
    def _left(self) -> float:
        """Seconds until all that follows the trials has to begin; infinity where there is no limit."""
        return self.budget.left - (self.reserve if self._done else self.least)() if self.rules.timed else math.inf

    @property
    def left(self) -> float:
        """Seconds for trials; infinity where there is no limit. Before one is done, there is nothing to follow it.

        Of the time before the final stage, that stage has what it takes, and at most FINAL of all.
        """
        if not self.final or not self._done or not self.rules.timed:
            return self._left
        each = max(map(self._upper, self._taken), default=0.0)
        return self._left - min(math.ceil(self.final / self.workers) * each, FINAL * self.budget.whole)

    def over(self, asked: int) -> bool:
        """Whether no further trial is asked for, before the final stage or in it."""
        if not self.why and self.rules.trials is not None and asked >= self.rules.trials - self.final:
            self.why = "trials"
        if not self.why and (left := self.left) < math.inf:
            self.why = "time" if left <= 0 or left < min(map(self._upper, self._taken), default=0.0) else ""
        return bool(self.why)

    def hinders(self, proposal: Proposal) -> bool:
        """Whether there is no time for a trial; from then on none begins."""
        if self.rules.timed and self.takes(proposal) > self.left:
            self.why = self.why or "time"
        return self.why == "time"

    @property
    def overdue(self) -> bool:
        """Whether trials that run have to be ended."""
        return self._left <= 0

    def describe(self, finished: int) -> str:
        """Why it has ended, in words; "": as it always does."""
        found = self._described(finished)
        return "; ".join(filter(None, (self._before_final, found)))

    def _described(self, finished: int) -> str:
        of = f"after {finished} trials"
        if self.why == "patience":
            return f"{of}: none of the last {self.rules.patience} was better than the best (--patience)"
        if self.why == "stop-when":
            return f"{of}: one has {' and '.join(map(str, self.rules.conditions))} (--stop-when)"
        if self.why != "time":
            return ""
        cut = ""
        if self.cut:
            those = f"trial {self.cut[0]} was" if len(self.cut) == 1 else f"{len(self.cut)} trials were"
            cut = f"; {those} ended and will be repeated if the search goes on"
        left = max(0.0, self.budget.left)
        return f"{of}: the time is up, but for {format_seconds(left)} for what follows{cut}"
