"""Child processes: fresh ones, and those that are forked by a process that has imported what they need.

To import it costs a worker a quarter of a second, and two where it trains. A server imports it once; it has no threads,
no devices and nothing of the user's, and forks whenever it is asked to. What it forks is not its own child, but the
coordinator's, who so learns how it died and with whom it ends, whatever becomes of the server. That takes Linux; where
there is no server, each process is a fresh one.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import importlib
import multiprocessing
import os
import pickle
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import ORIGINAL_DIR  # type: ignore[attr-defined]  # typeshed lacks it
from typing import Any

from nastool.core.streams import settle_streams

LATE = {"CUDA_VISIBLE_DEVICES", "NASTOOL_WORKER_THREADS"}
"""Environment variables that nothing reads while it is imported: processes of one server may have different ones."""
SERVER_SECONDS = 60.0
"""Seconds that a server may take to import what it is to, and to fork."""
BEGIN = """
import os, sys
from multiprocessing.connection import Connection
line = Connection(os.dup(0))
null = os.open(os.devnull, os.O_RDONLY)
os.dup2(null, 0)
os.close(null)
try:
    sys.path = line.recv()
    work = line.recv()
except (EOFError, ConnectionError):
    os._exit(1)
work(line)
"""
"""What a fresh process runs: a function that it is sent, called with the connection that is its stdin at first."""
TAKEN_OVER = ("Umask", "Uid", "Gid", "Groups", "SigIgn", "NoNewPrivs", "Cpus_allowed_list", "Mems_allowed_list")
"""Lines of /proc/PID/status: what a process has of the one that started it, and may change."""
_DEATH_SIGNAL, _SUBREAPER, _GET_SUBREAPER = 1, 36, 37  # of prctl


class Child:
    """A child of this process. connection: leads to it; when it dies, reading from there ends."""

    def __init__(self, pid: int, connection: Connection) -> None:
        self.pid = pid
        self.connection = connection
        self.code: int | None = None
        """Its exit code once it is over, -N where signal N ended it; None: not known."""
        self._over = False

    def wait(self, seconds: float | None = None) -> None:
        """Until it is over, at the latest so many seconds."""
        until = None if seconds is None else time.monotonic() + seconds
        while not self._over:
            try:
                pid, status = os.waitpid(self.pid, 0 if until is None else os.WNOHANG)
            except ChildProcessError:  # somebody else has waited for it
                self._over = True
                return
            if pid:
                self.code, self._over = os.waitstatus_to_exitcode(status), True
            elif until is not None and time.monotonic() > until:
                return
            else:
                time.sleep(0.001)

    def end(self) -> None:
        """End it, at once."""
        self.wait(0)
        if not self._over:
            with suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
            self.wait()
        self.connection.close()


@dataclass(frozen=True)
class _Setting:
    """The first message to a process that is to work: what it has of its parent. late: the variables in LATE."""

    parent: int
    name: str
    arguments: list[str]
    folder: str
    late: Mapping[str, str | None]


def start(
    target: Callable[..., None],
    args: tuple[Any, ...],
    *,
    name: str,
    environment: Mapping[str, str],
    modules: Sequence[str] | None,
) -> Child:
    """A child that calls target(connection, *args), settled.

    Args:
        target: A function of a module, pickled as its name.
        args: Pickled.
        name: Of the process, for people; it shows the first 15 characters.
        environment: All its environment variables.
        modules: What it imports anyway, so it may be forked by a process that has done so; None: a process of its own.

    Raises:
        OSError: No further process can be started.
    """
    path = [ORIGINAL_DIR if each == "" else each for each in sys.path]
    late = {key: environment.get(key) for key in LATE}
    setting = _Setting(os.getpid(), name, sys.argv, os.getcwd(), late)
    messages = [pickle.dumps(each) for each in (setting, (target, args))]
    child = None if modules is None else _forked(environment, path, modules)
    child = child or _fresh(_work, environment, path)
    with suppress(ConnectionError):  # it died: reading from there says so
        for message in messages:
            child.connection.send_bytes(message)
    return child


def _fresh(work: Callable[[Connection], None], environment: Mapping[str, str], path: Sequence[str]) -> Child:
    """A child that has imported nothing yet and calls work(connection)."""
    command = [sys.executable, *subprocess._args_from_interpreter_flags(), "-P", "-c", BEGIN]  # type: ignore[attr-defined]
    mine, theirs = multiprocessing.Pipe()
    try:
        with without_interrupts():
            process = subprocess.Popen(command, stdin=theirs.fileno(), env=environment)
    except BaseException:
        mine.close()
        raise
    finally:
        theirs.close()
    process.returncode = 0  # it is waited for by its id, as all are
    with suppress(ConnectionError):
        mine.send(path)
        mine.send(work)
    return Child(process.pid, mine)


@contextmanager
def without_interrupts() -> Iterator[None]:
    """Ctrl-C that comes meanwhile comes afterwards; a process that is started begins without (`settle_in`)."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


# --- in the child


def settle_in() -> None:
    """Leave Ctrl-C to the coordinator, and stdout to its results: what a worker process does first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the coordinator decides
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    settle_streams()


def _follow(parent: int) -> None:
    """End with the parent, whatever native code runs here: on Linux the kernel sees to it.

    It takes the end of the thread that started this process for the parent's; but then its pool is gone, or a server is
    started anew.
    """
    with suppress(AttributeError, OSError, TypeError):  # only Linux has it
        _prctl(_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before
        os._exit(1)


def _prctl(option: int, value: Any) -> None:
    """OSError: it is not permitted. AttributeError: there is none."""
    value = ctypes.c_ulong(value) if isinstance(value, int) else value
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


def _work(connection: Connection) -> None:
    """Do what comes first through the pipe."""
    setting: _Setting = _received(connection)
    settle_in()
    _follow(setting.parent)
    end = os.dup(connection.fileno())
    threading.Thread(target=_exit_at_the_end_of, args=(end,), daemon=True).start()
    _take_name(setting.name)
    for key, value in setting.late.items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value
    os.chdir(setting.folder)
    sys.argv = setting.arguments
    importlib.invalidate_caches()
    target, args = _received(connection)
    target(connection, *args)


def _received(connection: Connection) -> Any:
    """The next message. Where there is none any more, who started this process has ended, and so does it."""
    try:
        return connection.recv()
    except (EOFError, ConnectionError):
        os._exit(1)


def _take_name(name: str) -> None:
    """Show it in lists of processes, on Linux."""
    with suppress(OSError), open("/proc/self/comm", "w") as file:
        file.write(name)


def _exit_at_the_end_of(connection: int) -> None:
    """Wait until the other end is closed, for where the kernel does not watch the parent."""
    poll = select.poll()
    poll.register(connection, 0)
    poll.poll()
    os._exit(1)


# --- the process that forks


class _Server:
    """A process that has imported what workers need, and forks them.

    key: what they have of this process that cannot be changed afterwards.
    """

    def __init__(
        self, key: object, environment: Mapping[str, str], path: Sequence[str], modules: Sequence[str]
    ) -> None:
        self.key = key
        self._child = _fresh(_serve, environment, path)
        self._line = self._child.connection
        self._able: bool | None = None
        """Whether it can fork; None: it has not said so yet."""
        with suppress(ConnectionError):
            self._line.send((os.getpid(), modules))

    def fork(self) -> Child | None:
        """A child of this process that calls `_work`. None: it cannot. EOFError, ConnectionError: it has died."""
        if self._able is None:
            self._able = self._line.poll(SERVER_SECONDS) and self._line.recv()
        if not self._able:
            return None
        mine, theirs = multiprocessing.Pipe()
        pid: int | None = None
        try:
            with without_interrupts(), _adopting(), socket.socket(fileno=os.dup(self._line.fileno())) as line:
                socket.send_fds(line, [b"f"], [theirs.fileno(), 2])
                if not self._line.poll(SERVER_SECONDS):
                    raise EOFError
                pid = self._line.recv()
        finally:
            theirs.close()
            if pid is None:
                mine.close()
        return None if pid is None else Child(pid, mine)

    def end(self) -> None:
        self._child.end()


_server: _Server | None = None
_lock = threading.Lock()


def _forked(environment: Mapping[str, str], path: Sequence[str], modules: Sequence[str]) -> Child | None:
    """A child that calls `_work`, forked by a process that has imported the modules. None: here that is not possible.

    The server is kept for the next, and another one is started where it has died or what it took over has changed.
    """
    global _server
    try:
        with _lock:
            for _ in range(2):
                early = {key: value for key, value in environment.items() if key not in LATE}
                key = early, path, modules, _taken_over()
                if _server is None or _server.key != key:
                    _end_server()
                    _server = _Server(key, environment, path, modules)
                try:
                    return _server.fork()
                except (EOFError, ConnectionError):
                    _end_server()
                except KeyboardInterrupt:  # its answer might come now, and be taken for the next one
                    _end_server()
                    raise
    except _NotHere:
        pass
    return None


class _NotHere(Exception):
    """This system lacks what it takes."""


def _taken_over() -> object:
    """What a process takes over from this one, besides what it is given. _NotHere: that cannot be told."""
    try:
        with open("/proc/thread-self/status") as status, open("/proc/thread-self/limits") as limits:
            lines = [line for line in status if line.startswith(TAKEN_OVER)]
            return lines, limits.read(), os.getpriority(os.PRIO_PROCESS, 0)
    except OSError:
        raise _NotHere from None


@contextmanager
def _adopting() -> Iterator[None]:
    """Processes below this one whose parent ends become its own children meanwhile. _NotHere: they do not."""
    before = ctypes.c_int()
    try:
        _prctl(_GET_SUBREAPER, ctypes.byref(before))
        _prctl(_SUBREAPER, 1)
    except OSError:
        raise _NotHere from None
    try:
        yield
    finally:
        _prctl(_SUBREAPER, before.value)


def _end_server() -> None:
    global _server
    if _server is not None:
        _server.end()
    _server = None


def _forget_server() -> None:
    """It is the parent's of this process, which has been forked by somebody else."""
    global _server, _lock
    _server, _lock = None, threading.Lock()


atexit.register(_end_server)
os.register_at_fork(after_in_child=_forget_server)


def _serve(line: Connection) -> None:
    """The work of a server: fork a worker whenever it is asked to, until nobody can ask any more."""
    settle_in()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, there would be nothing to wait for
    parent, modules = _received(line)
    _follow(parent)
    _take_name("nastool-forks")
    line.send(_prepared(modules))
    with socket.socket(fileno=os.dup(line.fileno())) as asked:
        while True:
            message, descriptors, _, _ = socket.recv_fds(asked, 1, 2, socket.MSG_CMSG_CLOEXEC)
            if not message:
                os._exit(0)
            try:
                pid = _fork_for_parent() if len(descriptors) == 2 else None
            except OSError:
                pid = None
            if pid == 0:
                break
            line.send(pid)
            for each in descriptors:
                os.close(each)
    line.close()
    connection, stderr = descriptors
    os.dup2(stderr, 2)
    os.close(stderr)
    if "numpy.random" in sys.modules:  # its own generator, for plugins that use it, begins elsewhere in each process
        sys.modules["numpy.random"].seed()
    _work(Connection(connection))


def _prepared(modules: Sequence[str]) -> bool:
    """Import them; whether that went well and no thread runs afterwards, which a fork would lose."""
    try:
        gc.disable()  # next to nothing of what is made meanwhile is garbage
        for module in modules:
            importlib.import_module(module)
        gc.freeze()  # what the garbage collector does not write to stays shared
        gc.enable()
        if (pid := os.fork()) == 0:  # which ends OpenBLAS's threads
            os._exit(0)
        os.waitpid(pid, 0)
        return len(os.listdir("/proc/self/task")) == 1
    except Exception:  # the worker will say what it is
        return False


def _fork_for_parent() -> int:
    """As os.fork, but the new process is a child of this one's parent, which adopts it: its own ends at once.

    Raises:
        OSError: No process can be started.
    """
    incoming, outgoing = os.pipe()
    with open(incoming, "rb") as answer:
        with open(outgoing, "wb", buffering=0) as answering:
            between = os.fork()
            if between == 0:
                try:
                    pid = os.fork()
                except OSError:
                    os._exit(1)
                if pid == 0:
                    return 0
                answering.write(b"%d" % pid)
                os._exit(0)
        os.waitpid(between, 0)
        told = answer.read()
    if not told:
        raise OSError("no process")
    return int(told)
