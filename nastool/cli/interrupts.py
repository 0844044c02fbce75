"""Ctrl-C during a search."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType, TracebackType

from nastool.errors import Stopped


class Interrupts:
    """While active, the first Ctrl-C sets `stopping` and calls `on_first`; the second stops at once, exit code 130.

    Nothing is lost either way: everything told is in run.db.
    """

    def __init__(self, on_first: Callable[[], None]) -> None:
        self.stopping = False
        self._on_first = on_first

    def __enter__(self) -> Interrupts:
        self._before = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.stopping:
            raise Stopped(130)
        self.stopping = True
        self._on_first()
