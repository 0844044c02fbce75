"""A worker process and the pipe to it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import wait
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess


class WorkerProcess:
    """A spawned process. `connection` leads to it; when it dies, reading from there ends."""

    def __init__(
        self, target: Callable[..., None], args: tuple[Any, ...], *, name: str, environment: Mapping[str, str]
    ) -> None:
        """target: is called with the other end of the pipe and args; it calls `settle_in` first.

        environment: what it finds changed in its own, before it imports anything.
        """
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(target=target, args=(theirs, *args), name=name)
        before = {key: os.environ.get(key) for key in environment}
        os.environ.update(environment)
        try:
            with _no_main():
                self._process.start()
        finally:
            for key, value in before.items():
                if value is None:
                    os.environ.pop(key, None)
                else:
                    os.environ[key] = value
        theirs.close()

    def kill(self) -> None:
        """End it and free what it held. It cannot be used afterwards."""
        self._process.kill()
        self._process.join()
        self._process.close()
        self.connection.close()

    def how_it_died(self) -> str:
        """Of a process whose end of the pipe was closed: "signal 9 (Killed), ...", and end it where it still lives."""
        self._process.join(10)
        code = self._process.exitcode
        self.kill()
        if code is None or code >= 0:
            return f"exit code {code}"
        memory = ", perhaps for want of memory" if -code == signal.SIGKILL else ""
        return f"signal {-code} ({signal.strsignal(-code) or 'unknown'}){memory}"


@contextmanager
def _no_main() -> Iterator[None]:
    """A spawned process imports the caller's script, unless there is none: it needs nothing of it, and might run it."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def settle_in() -> None:
    """What a worker process does first: leave Ctrl-C and stdout to its coordinator, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the coordinator decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    os.dup2(2, 1)  # stdout carries the coordinator's results: nothing else may get there


def _die_with_parent() -> None:
    """A coordinator that was killed cannot stop its workers: they watch it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    wait([parent.sentinel])
    os._exit(1)
