"""Folders that one process at a time may write to."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO

from nastool.core.errors import InputError, short, why


def names(path: Path) -> set[str] | None:
    """Names in the folder; None: it does not exist.

    Raises:
        InputError: It is a file, or cannot be read.
    """
    try:
        return set(os.listdir(path))
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        raise InputError(f"{short(path)} is a file, or under one; give another --out") from None
    except (OSError, ValueError) as error:
        raise InputError(f"cannot use folder {short(path)}: {why(error)}; give another --out") from None


def is_within(name: str) -> bool:
    """Whether a name that is relative to a folder stays in it, wherever the folder is."""
    parts = PurePosixPath(name).parts
    return bool(parts) and not name.startswith("/") and ".." not in parts and "\0" not in name


def within(folder: Path, name: str) -> Path:
    """The path of a file in a run's folder.

    What a run.db says is data: it decides nothing about files elsewhere.

    Raises:
        InputError: The name, or a link, leads out of the folder.
    """
    path = folder / name
    if not is_within(name) or not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise InputError(f"{short(path)} leads out of the run's folder, in which alone a run has files: take it away")
    return path


@contextmanager
def locked(path: Path, lock_name: str, taken: str) -> Iterator[None]:
    """Creates the folder, and holds the lock file in it meanwhile.

    Args:
        path: The folder.
        taken: Message where another process holds it, with {holder} for the number of that process.
        lock_name: Name of the lock file.

    Raises:
        InputError: Another process holds it, or it cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = open(path / lock_name, "ab+", buffering=0)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write {short(path)}: {why(error)}; give another --out") from None
    with lock:
        try:
            alone = _lock(lock)
        except OSError as error:
            what = f"{short(path)} lies on a file system without locks ({why(error)})"
            raise InputError(f"{what}, so that two searches could write to it: give an --out elsewhere") from None
        if not alone:
            lock.seek(0)
            raise InputError(taken.replace("{holder}", lock.read(20).decode(errors="replace").strip() or "?"))
        if file_at(lock.fileno()) != file_at(path / lock_name):  # another has just taken back what it began
            raise InputError(f"{short(path)} was removed by another process: give the same command again")
        with suppress(OSError):  # the disk may be full; it is only for the message above
            lock.truncate(0)
            lock.write(str(os.getpid()).encode())
        yield


def _lock(file: IO[bytes]) -> bool:
    """Lock a file for this process. Whoever asks whether it is locked may hold it for an instant: try a few times."""
    for _ in range(5):
        with suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.02)
    return False


def file_at(path: Path | int) -> tuple[int, int] | None:
    """What tells a file, or an open one, from another that takes its place; None: there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino
