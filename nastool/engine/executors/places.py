"""Places on other machines where worker processes run: both ends of the connections to them.

Who starts a place elsewhere (a batch system, say) starts `join` there. It finds the coordinator by a file on a path
that both see, and from then on starts a fresh worker process whenever it is told to. A place has one connection for
that, which lasts as long as it does, and one for each worker process in turn. When the first ends, so does the place.
"""

from __future__ import annotations

import json
import os
import queue
import secrets
import socket
import struct
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge, wait
from multiprocessing.reduction import recv_handle, send_handle
from pathlib import Path

from nastool.core.errors import InputError, NastoolError, short, why
from nastool.core.processes import WorkerProcess

GREET_SECONDS = 20
"""Seconds that the other end of a new connection may take to say who it is."""
_ALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 6, "TCP_USER_TIMEOUT": 45_000, "TCP_NODELAY": 1}
"""So a machine that is gone without a word is missed after 45 s (on Linux; elsewhere as its TCP has it)."""


@dataclass(frozen=True)
class Hello:
    """The first message on each connection from a place.

    Attributes:
        number: Of the worker.
        name: Of this very place; another one with the same number comes after it.
        host: Machine where it is.
        pid: Of its process.
        works: Whether the connection is a worker process's, which is started once it is asked for.
    """

    number: int
    name: str
    host: str
    pid: int
    works: bool


@dataclass(frozen=True)
class Begin:
    """To a place: start worker process `serial` with these environment variables changed; it needs these modules."""

    serial: int
    environment: Mapping[str, str]
    modules: Sequence[str]


@dataclass(frozen=True)
class End:
    """To a place: nobody needs worker process `serial` any more."""

    serial: int


@dataclass(frozen=True)
class Died:
    """From a place: how worker process `serial` died."""

    serial: int
    how: str


class Meeting:
    """Where places find the coordinator: a port, and the file that leads there.

    Whoever can read the file can have the coordinator run what he likes, so only its owner can.
    """

    def __init__(self, file: Path, host: str | None) -> None:
        """Opens a port and writes the file.

        Args:
            file: On a path that all machines see.
            host: Name or address under which they reach this machine; None: its own name.

        Raises:
            InputError: The file cannot be written.
        """
        self.file = file
        self.arrivals: queue.SimpleQueue[tuple[Hello, Connection]] = queue.SimpleQueue()
        self._key = secrets.token_bytes(32)
        self._socket = socket.create_server(("", 0), backlog=128)
        contact = {
            "host": host or socket.gethostname(),
            "port": self._socket.getsockname()[1],
            "key": self._key.hex(),
            "folder": str(Path.cwd()),
        }
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.unlink(missing_ok=True)
            with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as opened:
                json.dump(contact, opened)
        except OSError as error:
            self._socket.close()
            raise InputError(f"cannot write {short(file)}: {why(error)}") from None
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                accepted, _ = self._socket.accept()
            except OSError:
                return  # it was closed
            threading.Thread(target=self._greet, args=(accepted,), daemon=True).start()

    def _greet(self, accepted: socket.socket) -> None:
        """Find out who it is, as long as others wait: it may say nothing at all."""
        connection = _settled(accepted)
        try:
            deliver_challenge(connection, self._key)
            answer_challenge(connection, self._key)
            hello = connection.recv()
            _wait_long(connection)
            self.arrivals.put((hello, connection))
        except Exception:  # whoever it is, or of another version
            connection.close()

    def close(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # or the thread would go on to wait
        self._socket.close()
        with suppress(OSError):
            self.file.unlink()
        while not self.arrivals.empty():
            self.arrivals.get()[1].close()


def _settled(opened: socket.socket) -> Connection:
    """A connection that notices when the other machine is gone, and waits GREET_SECONDS for a message, at first."""
    opened.settimeout(None)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _ALIVE.items():
        if hasattr(socket, name):
            opened.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", GREET_SECONDS, 0))
    return Connection(opened.detach())


def _wait_long(connection: Connection) -> None:
    """From now on a message may take as long as it likes."""
    with socket.socket(fileno=os.dup(connection.fileno())) as same:
        same.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 0))


# --- elsewhere


def join(file: str, number: int) -> None:
    """Run worker `number`'s processes here, until the coordinator does not want them any more, or is gone.

    Args:
        file: The file of its `Meeting`.
        number: Of the worker.

    Raises:
        InputError: This machine does not see the file, or does not reach the coordinator.
    """
    try:
        contact = json.loads(Path(file).read_text(encoding="utf-8"))
        os.chdir(contact["folder"])
    except OSError as error:
        missing = short(error.filename or file, 200)
        raise InputError(
            f"{socket.gethostname()} does not see {missing} ({why(error)}): the run's folder and the folder of the "
            "command have to lie on a path that all machines share"
        ) from None
    name = f"{os.getpid()}-{secrets.token_hex(4)}"

    def connect(works: bool) -> Connection:
        return _connected(contact, Hello(number, name, socket.gethostname(), os.getpid(), works))

    control = connect(False)
    with suppress(EOFError, OSError, InputError):  # the coordinator has ended
        while True:
            work = connect(True)
            begin = control.recv()
            while not isinstance(begin, Begin):  # an `End` that has come too late
                begin = control.recv()
            _run(control, work, begin, number)


def _run(control: Connection, work: Connection, begin: Begin, number: int) -> None:
    """Run a worker process until it dies, which is told, or is to end. EOFError, OSError: the coordinator is gone."""
    name = f"nastool-worker-{number}"
    process = WorkerProcess(_serve, (), name=name, environment=begin.environment, modules=begin.modules)
    with work, suppress(ConnectionError):  # it has died, which is seen below
        send_handle(process.connection, work.fileno(), process.pid)
    try:
        while process.connection not in wait([control, process.connection]):
            if control.recv() == End(begin.serial):
                process.kill()
                return
    except (EOFError, OSError):
        process.kill()
        raise
    control.send(Died(begin.serial, process.how_it_died()))


def _serve(alive: Connection) -> None:
    """The body of a worker process, whose pipe comes through this one, which is closed when it dies."""
    from nastool.worker import serve  # late: who joins imports nothing that it does not need itself

    serve(Connection(recv_handle(alive)))


def _connected(contact: Mapping[str, str | int], hello: Hello) -> Connection:
    host, port, key = str(contact["host"]), int(contact["port"]), bytes.fromhex(str(contact["key"]))
    try:
        connection = _settled(socket.create_connection((host, port), timeout=GREET_SECONDS))
        answer_challenge(connection, key)
        deliver_challenge(connection, key)
        connection.send(hello)
        _wait_long(connection)
    except (OSError, EOFError, AuthenticationError) as error:
        raise InputError(
            f"{hello.host} does not reach the coordinator on {host}, port {port} ({why(error)}): it has ended, or give "
            "the executor's option host=, a name or address of it that all machines know"
        ) from None
    return connection


if __name__ == "__main__":
    from nastool.engine.executors import places  # whose classes travel, not __main__'s

    try:
        places.join(sys.argv[1], int(sys.argv[2]))
    except NastoolError as problem:
        print(problem, file=sys.stderr)
        sys.exit(1)
