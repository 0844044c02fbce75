"""What a person sees while a search runs: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from nastool.cli.common import format_seconds, say
from nastool.core import Trial
from nastool.workers import Reported

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

    from nastool.runner import Search

PLAIN_SECONDS = 5.0
"""Without a terminal, at most one line in so many seconds, unless a trial takes longer than that."""


class Progress:
    """`watch` of a Search: trials done, best so far, trials per hour, time left."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._start = time.monotonic()
        self._first_told: int | None = None
        self._last_line = self._start
        self._running = ""
        self._live: RichProgress | None = None

    def __enter__(self) -> Progress:
        if sys.stderr is not None and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.progress import Progress as RichProgress

            columns = (
                TextColumn("trials"),
                BarColumn(bar_width=20),
                MofNCompleteColumn(),
                TextColumn("{task.description}", markup=False),
            )
            self._live = RichProgress(*columns, console=Console(stderr=True), transient=True, refresh_per_second=4)
            self._live.add_task("", total=self.total)
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def watch(self, search: Search, event: Reported | Trial | None) -> None:
        if self._first_told is None:
            self._first_told = search.told - isinstance(event, Trial)
        if isinstance(event, Reported):
            shown = " ".join(f"{k} {v:.4f}" for k, v in event.metrics.items() if k == search.objective.metric)
            self._running = f"#{event.job.trial_id} step {event.step} {shown}".rstrip()
        now = time.monotonic()
        if self._live is not None:
            if now - self._last_line > 0.1:
                self._last_line = now
                text = "  ".join(filter(None, (self._summary(search, now), self._running)))
                self._live.update(self._live.task_ids[0], completed=search.told, description=text)
        elif isinstance(event, Trial) and (now - self._last_line > PLAIN_SECONDS or event.error):
            if event.error:
                say(f"trial {event.id} failed: {event.error}")
            self._last_line = now
            say(f"trials {search.told}/{self.total}  {self._summary(search, now)}")

    def _summary(self, search: Search, now: float) -> str:
        done = search.told - (self._first_told or 0)
        parts = []
        if search.best is not None:
            value = search.objective.value(search.best.loss)
            parts.append(f"best {search.objective.metric} {value:.4f} (#{search.best.id})")
        if search.failed:
            parts.append(f"{search.failed} failed")
        if done:
            per_trial = (now - self._start) / done
            parts.append(f"{3600 / per_trial:,.0f} trials/h")
            parts.append(f"{format_seconds(per_trial * max(0, self.total - search.told))} left")
        return "  ".join(parts)
