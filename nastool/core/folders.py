"""Folders that one process at a time may write to."""

from __future__ import annotations

import fcntl
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import IO, Any

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
def locked(path: Path, lock_name: str, taken: str, patience: float = 0.1) -> Iterator[None]:
    """Creates the folder, and holds the lock file in it meanwhile.

    Args:
        path: The folder.
        taken: Message where another process holds it, with {holder} for the number of that process.
        lock_name: Name of the lock file.
        patience: Seconds to wait for another process that holds it.

    Raises:
        InputError: Another process holds it, or it cannot be created.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = open(path / lock_name, "ab+", buffering=0)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot write {short(path)}: {why(error)}; give another --out") from None
    with file:
        try:
            alone = _lock(file, patience)
        except OSError as error:
            what = f"{short(path)} lies on a file system without locks ({why(error)})"
            raise InputError(f"{what}, so that two searches could write to it: give an --out elsewhere") from None
        if not alone:
            file.seek(0)
            holder = short(file.read(100).decode(errors="replace").removesuffix(f" on {os.uname().nodename}") or "?")
            raise InputError(taken.replace("{holder}", holder))
        if file_at(file.fileno()) != file_at(path / lock_name):  # another has just taken back what it began
            raise InputError(f"{short(path)} was removed by another process: give the same command again")
        with suppress(OSError):  # the disk may be full; it is only for the message above
            file.truncate(0)
            file.write(f"{os.getpid()} on {os.uname().nodename}".encode())
        yield


REMOTE = frozenset(
    "9p afs beegfs ceph cifs fuse.beegfs fuse.ceph fuse.glusterfs fuse.juicefs fuse.sshfs fuse.weka glusterfs gpfs "
    "lustre nfs nfs4 orangefs panfs smb3 smbfs virtiofs wekafs".split()
)
"""Kinds of file systems that other machines may write to as well."""


def is_remote(path: Path, mounts: Path = Path("/proc/self/mounts")) -> bool:
    """Whether a path is on a file system that other machines may write to; False where that is not known.

    Args:
        path: Of a file, which may not exist yet.
        mounts: Names what is mounted where, as Linux does.
    """
    try:
        lines = mounts.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return False
    place = Path(os.path.realpath(path))
    found = (line.split(" ") for line in lines)
    holds = [(len(at), kind) for _, at, kind, *_ in found if place.is_relative_to(at.replace(r"\040", " "))]
    return max(holds, default=(0, ""))[1] in REMOTE


def _lock(file: IO[bytes], patience: float) -> bool:
    """Lock a file for this process. Whoever asks whether it is locked may hold it for an instant: try a few times."""
    end = time.monotonic() + patience
    while True:
        with suppress(BlockingIOError):
            lock(file)
            return True
        if time.monotonic() > end:
            return False
        time.sleep(0.02)


def file_at(path: Path | int) -> tuple[int, int] | None:
    """What tells a file, or an open one, from another that takes its place; None: there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def lock(file: IO[Any], *, shared: bool = False, wait: bool = False) -> None:
    """Lock an open file until it is closed; where its file system has no flock, by a lock on its bytes.

    Either ends with its holder, whatever ends that, and holds for other machines where the file system says so (NFS
    does). A file that says who holds it would do neither: hence it is none.

    Args:
        file: The file; for a lock that is not shared it is open for writing.
        shared: Others may share it.
        wait: For whoever has it.

    Raises:
        BlockingIOError: Somebody else holds it.
        OSError: Its file system has no locks.
    """
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError:
        if not hasattr(fcntl, "F_OFD_SETLK"):  # of Linux
            raise
        kind = fcntl.F_RDLCK if shared else fcntl.F_WRLCK
        whole = struct.pack("hhqqi", kind, os.SEEK_SET, 0, 0, 0)  # struct flock
        try:
            fcntl.fcntl(file, fcntl.F_OFD_SETLKW if wait else fcntl.F_OFD_SETLK, whole)
        except PermissionError as error:  # which POSIX allows to mean the same
            raise BlockingIOError(*error.args) from None
