"""Who is at work on a run, where the locks of its file system do not say so to other machines: a lease in its run.db.

The holder counts up every few seconds. Whoever wants it watches, by a clock of its own, whether the count moves: so it
makes no difference what time it is on either machine. Processes of one machine have the folder's lock.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from urllib.parse import quote

from nastool.core.errors import InputError, short
from nastool.engine.store import Store

KEY = "lease"
"""Under which it stands among the facts of a run."""
BEAT_SECONDS = 5.0
"""Seconds between two counts."""
WATCH_SECONDS = 30.0
"""Seconds for which a count that does not move is watched; then its holder is taken for dead."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lease.

    Attributes:
        host, pid: For people.
        machine: Tells one machine, since it was started, from all others.
        token: Random.
        count: How often it has counted.
    """

    host: str
    pid: int
    machine: str
    token: str
    count: int = 0

    @classmethod
    def of(cls, path: Path) -> Holder | None:
        """Whoever a run.db says holds it; None: nobody, or there is none."""
        uri = f"file:{quote(os.fsencode(path.absolute()))}?mode=ro"
        try:
            with closing(sqlite3.connect(uri, uri=True, timeout=10)) as db:
                ((text,),) = db.execute("SELECT value FROM run WHERE key = ?", (KEY,)).fetchall()
            return cls(**json.loads(text))
        except (sqlite3.Error, TypeError, ValueError, UnicodeError):
            return None


class Lease:
    """One coordinator's lease of a run.db."""

    def __init__(self, path: Path, say: Callable[[str], None]) -> None:
        """Makes one that is not held yet.

        Args:
            path: The run.db, which may not exist yet.
            say: Called with a line for people where it takes a while.
        """
        self._path = path
        self._say = say
        self._dead: Holder | None = None
        """Who has been watched and has not moved."""
        self._holder = Holder(os.uname().nodename, os.getpid(), machine(), secrets.token_hex(8))
        self._counted = 0.0
        """When it last counted."""

    def watch(self) -> None:
        """Find out whether somebody on another machine is at work; the folder's lock is held. InputError: yes."""
        found = Holder.of(self._path)
        if found is None or found == self._dead or found.machine == self._holder.machine:
            return
        who = f"process {found.pid} on {short(found.host)}"
        folder = short(self._path.parent)
        self._say(f"{folder} was searched by {who} last: {WATCH_SECONDS:.0f} s to see whether that is still at work")
        end = time.monotonic() + WATCH_SECONDS
        while time.monotonic() < end:
            time.sleep(min(1.0, WATCH_SECONDS))
            if Holder.of(self._path) != found:
                raise InputError(
                    f"{folder} is being searched by {who}: see `nastool status {folder}`, and end it there before "
                    "giving the command here"
                )
        self._dead = found

    @contextmanager
    def held(self, store: Store) -> Iterator[None]:
        """Hold it meanwhile; `watch` comes before. Where it is another's, transactions begin with an InputError."""
        store.write({KEY: self._next()})
        store.guard = lambda: self._check(store)
        over = threading.Event()
        counting = threading.Thread(target=self._count, args=(over,), daemon=True)
        counting.start()
        try:
            yield
        finally:
            over.set()
            counting.join()
            store.rollback()  # of a step that was interrupted
            with suppress(InputError):  # it has been taken over, or the disk is full
                store.write({KEY: None})
            store.guard = None

    def _check(self, store: Store) -> None:
        """Count where it is time: a thread may find no room between many transactions.

        Raises:
            InputError: Another holds it, since this process stood still for long.
        """
        found = store.get(KEY) or {}
        if found.get("token") == self._holder.token:
            if time.monotonic() - self._counted > BEAT_SECONDS:
                store.put(KEY, self._next())
            return
        store.rollback()
        raise _taken_over(self._path, found)

    def _next(self) -> dict[str, object]:
        """What to write down now."""
        self._counted = time.monotonic()
        self._holder = replace(self._holder, count=self._holder.count + 1)
        return asdict(self._holder)

    def _count(self, over: threading.Event) -> None:
        """In a thread: count, until it is over. What is not ours any more stays as it is."""
        ours = f'%"{self._holder.token}"%'
        while not over.wait(BEAT_SECONDS):
            if time.monotonic() - self._counted < BEAT_SECONDS / 2:
                continue
            values = json.dumps(self._next()), KEY, ours
            with (
                suppress(sqlite3.Error),  # a full disk, say, of which the search itself will speak
                closing(sqlite3.connect(self._path, timeout=10, isolation_level=None)) as db,
            ):
                db.execute("UPDATE run SET value = ? WHERE key = ? AND value LIKE ?", values)


def check(store: Store) -> None:
    """InputError: a process other than this one holds the lease; for writers who have another connection than it."""
    found = store.get(KEY) or {}
    if found and (found.get("machine"), found.get("pid")) != (machine(), os.getpid()):
        raise _taken_over(store.path, found)


def _taken_over(path: Path, found: Mapping[str, object]) -> InputError:
    """found: who has it now, as stored."""
    who = f"process {found.get('pid')} on {short(str(found.get('host')))}" if found else "another process"
    return InputError(
        f"{short(path.parent)} was taken over by {who} while this process stood still, which writes nothing there any "
        f"more: see `nastool status {short(path.parent)}`"
    )


def machine() -> str:
    """What tells this machine, since it was started, from all others."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return os.uname().nodename
