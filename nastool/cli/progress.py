"""What a person sees while a search runs: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING

from nastool.cli.common import say
from nastool.cli.live.stored import Followed
from nastool.cli.live.text import at_work, clean, line, suitable
from nastool.core.errors import NastoolError
from nastool.core.values import Trial
from nastool.engine.executors.jobs import Reported

if TYPE_CHECKING:
    from nastool.cli.live.machine import Machine
    from nastool.cli.live.screen import Screen
    from nastool.cli.live.view import View
    from nastool.engine.search import Search

PLAIN_SECONDS = 5.0
"""Without a terminal, at most one line in so many seconds, unless a trial takes longer than that."""
PAUSE_SECONDS, LONGEST_PAUSE = 60.0, 960.0
"""Where no trial ends, the next line comes after so many seconds, then after twice as many each time, up to these."""
FRAME_SECONDS = 0.25
"""On a terminal, how often the view is drawn at most."""
FRAME_SHARE = 0.05
"""Most of the time that this may take."""
REASONS = 10
"""So many failures are told at once, whatever the time."""


class Progress:
    """`watch` of a Search: what is running, what was found, how long it takes."""

    def __init__(self, noun: str = "trials") -> None:
        """Makes a display that shows nothing yet.

        Args:
            noun: Name of the search's trials.
        """
        self.noun = noun
        self._followed: Followed | None = None
        self._last = time.monotonic()
        self._frame_seconds = FRAME_SECONDS
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
        if self._screen is not None:
            if now - self._last >= self._frame_seconds:
                self._draw(search, now)
                self._last = time.monotonic()
                self._frame_seconds = max(FRAME_SECONDS, (self._last - now) / FRAME_SHARE)
        elif isinstance(event, Trial):
            self._write(search, event, now)
        elif now - self._last >= self._pause:
            self._last, self._pause = now, min(2 * self._pause, LONGEST_PAUSE)
            if view := self._view(search):
                say(line(view) + at_work(view))

    def _draw(self, search: Search, now: float) -> None:
        from nastool.cli.live.frame import Frame
        from nastool.cli.live.machine import Machine

        assert self._screen is not None
        if self._machine is None:
            self._machine = Machine(gpus=search.executor.computes_here)
        if view := self._view(search):
            self._screen.show(Frame([replace(view, machine=self._machine.facts(now))]))

    def _view(self, search: Search) -> View | None:
        """What there is to see now; None where it cannot be read, since a view is no reason to fail."""
        try:
            if self._followed is None:
                self._followed = Followed(search.workdir)
            return replace(self._followed.view("running"), title="", noun=self.noun, stopping=search.stop())
        except NastoolError:
            return None

    def _write(self, search: Search, trial: Trial, now: float) -> None:
        due = now - self._last > PLAIN_SECONDS
        self._pause = PAUSE_SECONDS
        if trial.error and (due or self._reasons < REASONS):
            self._reasons += 1
            say(f"trial {trial.id} failed: {clean(trial.error)}")
        if due:
            self._last = now
            if view := self._view(search):
                say(line(view))
