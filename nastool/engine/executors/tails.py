"""What a worker printed last, which is kept with a trial that failed."""

from __future__ import annotations

import os
from pathlib import Path

LINES = 20
"""So many lines are kept at most."""
BYTES = 4000
"""So many bytes of them, the last."""


def of_text(text: str) -> str:
    """The last lines of a text."""
    data = text.encode(errors="backslashreplace")[-BYTES:]
    return "\n".join(data.decode(errors="ignore").splitlines()[-LINES:]).strip("\n")


def of_file(path: Path | None, begin: int) -> str:
    """The last lines that were written to a file since it had `begin` bytes; "": none, or it cannot be read."""
    if path is None:
        return ""
    try:
        with path.open("rb") as file:
            file.seek(max(begin, file.seek(0, os.SEEK_END) - BYTES))
            return of_text(file.read(BYTES).decode(errors="replace"))
    except OSError:
        return ""


def size(path: Path | None) -> int:
    """How many bytes a file has; 0 where there is none."""
    try:
        return 0 if path is None else path.stat().st_size
    except OSError:
        return 0
