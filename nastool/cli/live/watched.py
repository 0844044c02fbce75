"""From the events of a search in this process to a view of it."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from nastool.cli.live.view import LAST, Best, Curve, Drawings, RoundBook, Row, View, remaining
from nastool.core.values import Trial
from nastool.engine.executors.jobs import Reported

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nastool.engine.search import Search


class Pace:
    """How long a trial takes, by the clock, over the last minutes or trials."""

    def __init__(self, now: float) -> None:
        self._seen: deque[tuple[float, int]] = deque(maxlen=120)
        self._start = now

    def note(self, now: float, told: int) -> None:
        """told: how many trials are done."""
        if not self._seen:
            self._seen.append((self._start, told))
        elif told != self._seen[-1][1]:
            self._seen.append((now, told))

    def restart(self, now: float) -> None:
        """What comes now takes another time."""
        self._seen.clear()
        self._start = now

    @property
    def per_trial(self) -> float | None:
        """Seconds; None: nothing is known yet."""
        if len(self._seen) < 2:
            return None
        (begin, before), (end, after) = self._seen[0], self._seen[-1]
        return max(end - begin, 1e-9) / max(after - before, 1)


class Watcher:
    """Takes in what happens in a search; cheap, since evaluations that cost next to nothing are watched, too."""

    def __init__(self, total: int, noun: str, now: float, then: str = "") -> None:
        """now: seconds of a clock that only goes forward, here and below. then: what comes after these trials."""
        self.total = total
        self.noun = noun
        self.then = then
        self.pace = Pace(now)
        self.rounds = RoundBook()
        self.failure: tuple[int, str] | None = None
        self._last: deque[Trial] = deque(maxlen=LAST)
        self._curves: dict[int, Curve] = {}
        self._begun: dict[int, float] = {}
        self._drawings: Drawings | None = None
        self._seeded = False

    def take(self, search: Search, event: Reported | Trial | None, now: float) -> None:
        if not self._seeded:
            self._seeded = True
            before = search.told - isinstance(event, Trial)
            self.pace.note(now, before)
            if before:
                self._look_back(search)
                if isinstance(event, Trial):
                    return
        if isinstance(event, Trial):
            self._tell(event)
            if self.rounds.done and not self.rounds.left and event.proposal.policy is not None:
                self.pace.restart(now)
        elif event is not None:
            curve = self._curves.setdefault(event.job.trial_id, Curve())
            curve.add(event.step, event.metrics, search.objective.metric)

    def _look_back(self, search: Search) -> None:
        """What earlier sittings, and perhaps the first event, left in the store."""
        for trial in search.store.history():
            if trial.state != "running":
                self._tell(trial)

    def _tell(self, trial: Trial) -> None:
        self._last.append(trial)
        self._curves.pop(trial.id, None)
        self._begun.pop(trial.id, None)
        if trial.error is not None:
            self.failure = (trial.id, trial.error)
        if trial.proposal.policy is not None:
            self.rounds.add(trial)

    def view(self, search: Search, now: float, machine: Sequence[str] = ()) -> View:
        """What there is to see now."""
        self.pace.note(now, search.told)
        objective, rounds = search.objective, self.rounds.rounds()
        per_trial, ahead = self.pace.per_trial, remaining(search.told, self.total, rounds)
        best = None
        if search.best is not None:
            if self._drawings is None:
                self._drawings = Drawings(search.strategy.space)
            arch = search.best.proposal.arch
            best = Best(Row.of(search.best, objective), arch.key, self._drawings.of(arch))
        return View(
            metric=objective.metric,
            done=search.told,
            total=self.total,
            noun=self.noun,
            per_hour=None if per_trial is None else 3600 / per_trial,
            left=per_trial * ahead if per_trial and ahead else None,
            then=self.then,
            best=best,
            last=[Row.of(trial, objective) for trial in self._last],
            running=[
                self._curves.get(job.trial_id, Curve()).running(
                    job.trial_id,
                    now - self._begun.setdefault(job.trial_id, now),
                    search.executor.silent.get(job.trial_id),
                )
                for job in search.executor.busy
            ],
            failed=search.failed,
            failure=self.failure,
            rounds=rounds,
            stopping=search.stop(),
            machine=machine,
        )
