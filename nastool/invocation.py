"""The command that is being carried out, as a user would type it."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

_given: ContextVar[Sequence[str] | None] = ContextVar("given", default=None)


def words() -> list[str]:
    """What follows the program's name."""
    given = _given.get()
    return sys.argv[1:] if given is None else list(given)


def shown() -> str:
    """The whole command, to be typed into a shell."""
    return f"nastool {shlex.join(words())}"


@contextmanager
def of(given: Sequence[str]) -> Iterator[None]:
    """Meanwhile it is this one, which was called from Python."""
    token = _given.set(given)
    try:
        yield
    finally:
        _given.reset(token)
