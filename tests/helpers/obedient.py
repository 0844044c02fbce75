"""What a process does in tests of processes: as it is told. It imports little."""

from __future__ import annotations

from multiprocessing.connection import Connection


def obey(connection: Connection, *names: str) -> None:
    """Answer each expression with its value, of modules with these names; nothing else ends it."""
    known = {name: __import__(name) for name in names}
    while True:
        connection.send(eval(connection.recv(), known))
