"""The command that is being carried out, as a user would type it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

_typed: ContextVar[Sequence[str] | None] = ContextVar("typed", default=None)
_given: ContextVar[Sequence[str] | None] = ContextVar("given", default=None)


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
