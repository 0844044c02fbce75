"""A worker process and the pipe to it."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from types import ModuleType
from typing import TYPE_CHECKING, Any

from nastool.core.errors import InputError, why
from nastool.core.streams import hold_streams, settle_streams

if TYPE_CHECKING:
    from multiprocessing.context import SpawnProcess

LOOK_SECONDS = 0.25
"""Seconds after which a coordinator looks after its workers, when nothing happens."""


class WorkerProcess:
    """A spawned process. `connection` leads to it; when it dies, reading from there ends."""

    def __init__(
        self, target: Callable[..., None], args: tuple[Any, ...], *, name: str, environment: Mapping[str, str]
    ) -> None:
        """Starts a process.

        Args:
            target: Called with the other end of the pipe and args; it calls `settle_in` first.
            args: Arguments, which are pickled.
            name: Name of the process.
            environment: Variables that it finds changed in its own environment, before it imports anything.

        Raises:
            InputError: No further process can be started.
        """
        context = multiprocessing.get_context("spawn")
        hold_streams()
        try:
            self.connection, theirs = context.Pipe()
        except OSError as error:
            raise _none_left(error) from None
        self._process: SpawnProcess = context.Process(target=target, args=(theirs, *args), name=name)
        before = {key: os.environ.get(key) for key in environment}
        os.environ.update(environment)
        try:
            resource_tracker.ensure_running()  # which lets Ctrl-C through again once it runs
            with _no_main(), _without_interrupts():
                self._process.start()
        except OSError as error:
            self.connection.close()
            theirs.close()
            raise _none_left(error) from None
        finally:
            for key, value in before.items():
                if value is None:
                    os.environ.pop(key, None)
                else:
                    os.environ[key] = value
        theirs.close()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    @property
    def stopped(self) -> bool:
        """Whether somebody stopped it (SIGSTOP), so that it goes on with SIGCONT; False where that is not known."""
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                return file.read().rpartition(b") ")[2][:1] in (b"T", b"t")
        except OSError:
            return False

    def kill(self) -> None:
        """End it and free what it held. It cannot be used afterwards."""
        self._process.kill()
        self._process.join()
        self._process.close()
        self.connection.close()

    def how_it_died(self) -> str:
        """Reason why a process ended whose end of the pipe is closed: "signal 9 (Killed), ..."; ends it if it lives."""
        self._process.join(10)
        code = self._process.exitcode
        self.kill()
        if code is None or code >= 0:
            return f"exit code {code}"
        memory = ", perhaps for want of memory" if -code == signal.SIGKILL else ""
        return f"signal {-code} ({signal.strsignal(-code) or 'unknown'}){memory}"


def _none_left(error: OSError) -> InputError:
    return InputError(f"cannot start one more worker ({why(error)}): give fewer --workers, or raise the limit (ulimit)")


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Ctrl-C that comes meanwhile comes afterwards; a process that is started begins without (`settle_in`)."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextmanager
def _no_main() -> Iterator[None]:
    """A spawned process imports the caller's script, unless there is none: it needs nothing of it, and might run it."""
    script = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = script


def settle_in(*, follows_parent: bool = True) -> None:
    """Leave Ctrl-C to the coordinator: what a worker process does first.

    Args:
        follows_parent: Whether the process ends with its coordinator, which has spawned it.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the coordinator decides
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if follows_parent:
        _die_with_parent()
    settle_streams()


def _die_with_parent() -> None:
    """A coordinator that was killed cannot stop its workers: they watch it.

    A thread alone would not do: it cannot run while native code holds the interpreter. On Linux the kernel watches,
    too. It takes the end of the thread that started the worker for the coordinator's; but then its pool is gone.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None
    with suppress(AttributeError, OSError, TypeError):  # only Linux has it
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, ctypes.c_ulong(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent.pid:  # it ended before
        os._exit(1)

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class AwakeClock:
    """Seconds in which this process ran: neither stopped (Ctrl-Z, SIGSTOP) nor asleep with its machine.

    It has to be looked at often: of a longer time between two looks nobody knows, and it counts as LOOK_SECONDS.
    """

    def __init__(self) -> None:
        self._last = time.monotonic()
        self._awake = 0.0

    def now(self) -> float:
        last, self._last = self._last, time.monotonic()
        passed = self._last - last
        self._awake += passed if passed < 4 * LOOK_SECONDS else LOOK_SECONDS
        return self._awake
