"""The command that is being carried out, as a user would type it, and what it prints if it was called from Python."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_given: ContextVar[Sequence[str] | None] = ContextVar("given", default=None)
_printed: ContextVar[list[Any] | None] = ContextVar("printed", default=None)


def words() -> list[str]:
    """What follows the program's name."""
    given = _given.get()
    return sys.argv[1:] if given is None else list(given)


def shown() -> str:
    """The whole command, to be typed into a shell."""
    return f"nastool {shlex.join(words())}"


def printed() -> list[Any] | None:
    """Where a command called from Python leaves its JSON values; None: it goes to stdout.

    Of this thread alone: stdout would be shared by all.
    """
    return _printed.get()


@contextmanager
def of(given: Sequence[str]) -> Iterator[list[Any]]:
    """Meanwhile it is this one, which was called from Python; what it prints is in the list afterwards."""
    found: list[Any] = []
    tokens = _given.set(given), _printed.set(found)
    try:
        yield found
    finally:
        _given.reset(tokens[0])
        _printed.reset(tokens[1])
