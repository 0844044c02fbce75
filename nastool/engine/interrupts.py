"""Ctrl-C during a search."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from nastool.core.errors import Stopped

_ending = False
"""Whether the program is ending after a Ctrl-C: further ones would only disturb it in what it puts in order."""


@contextmanager
def last_interrupt() -> Iterator[None]:
    """The program: the first Ctrl-C that nobody else takes raises KeyboardInterrupt, and those after it do nothing."""
    global _ending
    _ending = False
    if threading.current_thread() is threading.main_thread():
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _raise_once)
    yield


def _raise_once(number: int, frame: FrameType | None) -> None:
    global _ending
    if not _ending:
        _ending = True
        raise KeyboardInterrupt


class Interrupts:
    """While active, the first Ctrl-C sets `stopping` and calls `on_first`; the second stops at once, exit code 130.

    Nothing is lost either way: everything told is in run.db.
    """

    def __init__(self, on_first: Callable[[], None]) -> None:
        self.stopping = False
        self._on_first = on_first

    def __enter__(self) -> Interrupts:
        global _ending
        _ending = False
        if threading.current_thread() is threading.main_thread():  # no other can be told of signals
            self._before = signal.signal(signal.SIGINT, self._interrupt)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: TracebackType | None) -> None:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, self._before)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        global _ending
        if _ending:
            return
        if self.stopping:
            _ending = True
            raise Stopped(130)
        self.stopping = True
        self._on_first()


@contextmanager
def undisturbed() -> Iterator[None]:
    """Signals that come meanwhile are handled afterwards: what is half drawn can neither be left nor drawn upon."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before: dict[int, Callable[[int, FrameType | None], object]] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGTSTP):
            handler = signal.getsignal(number)
            if callable(handler):  # the others are not handled in Python
                before[number] = handler
                signal.signal(number, lambda came_now, frame: came.append(came_now))
        yield
    finally:
        for kept, old in before.items():
            signal.signal(kept, old)
    for late in came:
        signal.raise_signal(late)
