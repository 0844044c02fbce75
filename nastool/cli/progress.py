"""What a person sees while a search runs: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from nastool.cli.common import say
from nastool.cli.live.text import at_work, clean, line, suitable
from nastool.cli.live.watched import Watcher
from nastool.core.values import Trial
from nastool.engine.executors.jobs import Reported

if TYPE_CHECKING:
    from nastool.cli.live.machine import Machine
    from nastool.cli.live.screen import Screen
    from nastool.engine.search import Search

PLAIN_SECONDS = 5.0
"""Without a terminal, at most one line in so many seconds, unless a trial takes longer than that."""
PAUSE_SECONDS, LONGEST_PAUSE = 60.0, 960.0
"""Where no trial ends, the next line comes after so many seconds, then after twice as many each time, up to these."""
FRAME_SECONDS = 0.25
"""On a terminal, how often the view is drawn at most."""
REASONS = 10
"""So many failures are told at once, whatever the time."""


class Progress:
    """`watch` of a Search: what is running, what was found, how long it takes."""

    def __init__(self, total: int, noun: str = "trials", then: str = "") -> None:
        """noun: what the search's trials are called. then: what comes after them."""
        now = time.monotonic()
        self._watcher = Watcher(total, noun, now, then)
        self._last = now
        self._pause = PAUSE_SECONDS
        self._reasons = 0
        self._screen: Screen | None = None
        self._machine: Machine | None = None

    def __enter__(self) -> Progress:
        if suitable(sys.stderr):
            from nastool.cli.live.screen import Screen  # late: rich's import takes its time

            self._screen = Screen(sys.stderr)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        if self._screen is not None:
            self._screen.stop()
            self._screen = None
        if self._machine is not None:
            self._machine.close()
            self._machine = None

    def watch(self, search: Search, event: Reported | Trial | None) -> None:
        now = time.monotonic()
        self._watcher.take(search, event, now)
        if self._screen is not None:
            if now - self._last >= FRAME_SECONDS:
                self._last = now
                self._draw(search, now)
        elif isinstance(event, Trial):
            self._write(search, event, now)
        elif now - self._last >= self._pause:
            self._last, self._pause = now, min(2 * self._pause, LONGEST_PAUSE)
            view = self._watcher.view(search, now)
            say(line(view) + at_work(view))

    def _draw(self, search: Search, now: float) -> None:
        from nastool.cli.live.frame import Frame
        from nastool.cli.live.machine import Machine

        assert self._screen is not None
        if self._machine is None:
            self._machine = Machine(gpus=search.executor.computes_here)
        view = self._watcher.view(search, now, self._machine.facts(now))
        self._screen.show(Frame([view]))

    def _write(self, search: Search, trial: Trial, now: float) -> None:
        due = now - self._last > PLAIN_SECONDS
        self._pause = PAUSE_SECONDS
        if trial.error and (due or self._reasons < REASONS):
            self._reasons += 1
            say(f"trial {trial.id} failed: {clean(trial.error)}")
        if due:
            self._last = now
            say(line(self._watcher.view(search, now)))
