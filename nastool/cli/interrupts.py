"""Ctrl-C and SIGTERM during a search."""

from __future__ import annotations

import signal
from collections.abc import Callable
from types import FrameType, TracebackType

import click


class Interrupts:
    """While active: the first Ctrl-C sets `stopping` and calls `on_first`, the second stops at once (exit code
    130), as SIGTERM does (143). Nothing is lost either way: everything told is in run.db.
    """

    def __init__(self, on_first: Callable[[], None]) -> None:
        self.stopping = False
        self._on_first = on_first

    def __enter__(self) -> Interrupts:
        self._before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
        signal.signal(signal.SIGINT, self._interrupt)
        signal.signal(signal.SIGTERM, self._terminate)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        if self.stopping:
            raise click.exceptions.Exit(130)
        self.stopping = True
        self._on_first()

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        raise click.exceptions.Exit(143)
