"""The command that is being carried out, as a user would type it."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

_typed: ContextVar[Sequence[str] | None] = ContextVar("typed", default=None)
_given: ContextVar[Sequence[str] | None] = ContextVar("given", default=None)

_began: ContextVar[float | None] = ContextVar("began", default=None)


@contextmanager
def begins() -> Iterator[None]:
    """Let a command begin now, before what it needs is imported."""
    token = _began.set(time.monotonic())
    try:
        yield
    finally:
        _began.reset(token)


def began() -> float:
    """Return when the command began, by `time.monotonic`; now, where nobody has said."""
    return _began.get() or time.monotonic()


def words() -> list[str]:
    """Return what follows the program's name."""
    given = _typed.get() or _given.get()
    return sys.argv[1:] if given is None else list(given)


def shown() -> str:
    """Return the whole command, to be typed into a shell."""
    return f"nastool {shlex.join(words())}"


@contextmanager
def of(given: Sequence[str], *, typed: bool = False) -> Iterator[None]:
    """Let it be this one meanwhile, in this thread.

    Args:
        given: What follows the program's name.
        typed: Whether a user typed it; then it counts, whatever functions are called meanwhile.
    """
    variable = _typed if typed else _given
    token = variable.set(given)
    try:
        yield
    finally:
        variable.reset(token)
