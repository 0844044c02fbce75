"""An executor: each worker is a command, such as `ssh HOST python -m nastool.worker` on a shared file system."""

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Mapping
from multiprocessing.connection import Connection

from nastool.engine.executors.processes import Processes


class Command:
    """A command that talks through its stdin and stdout."""

    stopped = False

    def __init__(self, words: list[str], environment: Mapping[str, str]) -> None:
        mine, theirs = socket.socketpair()
        self._process = subprocess.Popen(words, stdin=theirs, stdout=theirs, env={**os.environ, **environment})
        theirs.close()
        self.connection = Connection(mine.detach())

    @property
    def pid(self) -> int:
        return self._process.pid

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self.connection.close()

    def how_it_died(self) -> str:
        code = self._process.wait(10)
        self.connection.close()
        return f"exit code {code}"


class Remote(Processes):
    """Carries out trials in workers that are started by the command in NASTOOL_WORKER."""

    name = "remote"

    def start(self, number: int, environment: Mapping[str, str]) -> Command:
        command = os.environ.get("NASTOOL_WORKER", f"{shlex.quote(sys.executable)} -m nastool.worker")
        return Command(shlex.split(command), environment)
