"""What becomes of a run's database when the disk or the file fails: one clear line, and nothing lost."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from nastool.core.errors import InputError


class Errors:
    """A context that turns sqlite3's errors into one clear line and rolls back."""

    def __init__(self, path: Path, rollback: Callable[[], None]) -> None:
        self.path = path
        self._rollback = rollback

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if not isinstance(error, sqlite3.Error | UnicodeError | OverflowError):
            return
        text = str(error) if isinstance(error, sqlite3.Error) else "malformed text or numbers"
        with suppress(sqlite3.Error, UnicodeError):
            self._rollback()
        path = self.path
        if "full" in text or "disk I/O" in text:
            raise InputError(
                f"cannot write {path}: {text}; free some space, then give the same command again"
            ) from error
        if "not a database" in text or "malformed" in text or "no such" in text or "UTF-8" in text:
            raise InputError(f"{path} is damaged or no nastool run: {text}") from error
        raise InputError(f"cannot use {path}: {text}") from error


def saved(db: sqlite3.Connection, path: Path) -> InputError:
    """Write down what a file held that was deleted or replaced, which its connection still has; return what to say."""
    there = path.exists()
    target = path.with_name("run.db.saved") if there else path
    if there and target.exists():
        return InputError(f"{path} was replaced while it was in use, and {target} is there already")
    with Errors(path, lambda: None), closing(sqlite3.connect(target)) as copy:
        db.backup(copy)
    if there:
        return InputError(
            f"{path} was replaced by another file while it was in use: what it held is in {target}; put that in "
            "its place, then give the same command again"
        )
    return InputError(
        f"{path} was deleted while it was in use, and is put back with all that it held: to go on, give the "
        "same command again"
    )
