"""A worker process and the pipe to it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nastool.core import children
from nastool.core.errors import InputError, why
from nastool.core.streams import hold_streams

LOOK_SECONDS = 0.25
"""Seconds after which a coordinator looks after its workers, when nothing happens."""


class WorkerProcess:
    """A process that works for this one. `connection` leads to it; when it dies, reading from there ends."""

    def __init__(
        self,
        target: Callable[..., None],
        args: tuple[Any, ...],
        *,
        name: str,
        environment: Mapping[str, str],
        modules: Sequence[str] | None = None,
    ) -> None:
        """Starts a process, which ends with this one and leaves Ctrl-C to it.

        Args:
            target: Called with the other end of the pipe and args; what it prints goes to stderr.
            args: Arguments, which are pickled.
            name: Name of the process.
            environment: Variables that it finds changed in its own environment, before it imports anything.
            modules: What it imports anyway: it may be forked by a process that has done so. None: it is begun anew.

        Raises:
            InputError: No further process can be started.
        """
        hold_streams()
        try:
            self._child = children.start(
                target, args, name=name, environment={**os.environ, **environment}, modules=modules
            )
        except OSError as error:
            remedy = "give fewer --workers, or raise the limit (ulimit)"
            raise InputError(f"cannot start one more worker ({why(error)}): {remedy}") from None
        self.connection = self._child.connection
        self.pid = self._child.pid

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
        self._child.end()

    def how_it_died(self) -> str:
        """Reason why a process ended whose end of the pipe is closed: "signal 9 (Killed), ..."; ends it if it lives."""
        self._child.wait(10)
        code = self._child.code
        self.kill()
        if code is None or code >= 0:
            return f"exit code {code}"
        memory = ", perhaps for want of memory" if -code == signal.SIGKILL else ""
        return f"signal {-code} ({signal.strsignal(-code) or 'unknown'}){memory}"


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
