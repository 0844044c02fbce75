"""Scripts of bash whose `nastool` runs in the tests' process, where torch is imported already."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.helpers.running import in_this_process

COMMAND = """#!{python} -IS
import json, os, socket, sys
text = sys.stdin.read()
with socket.socket(socket.AF_UNIX) as there:
    there.connect({address!r})
    there.sendall(json.dumps([os.getcwd(), sys.argv[1:], text]).encode())
    there.shutdown(socket.SHUT_WR)
    with there.makefile() as answer:
        code, out, err = json.load(answer)
sys.stdout.write(out)
sys.stderr.write(err)
sys.exit(code)
"""


def bash(script: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run a script. A command reads all of its stdin before it begins, and its text comes when it has ended."""
    with tempfile.TemporaryDirectory() as name, socket.socket(socket.AF_UNIX) as listener:
        folder = Path(name)
        listener.bind(str(folder / "socket"))
        listener.listen()
        listener.settimeout(0.02)
        (folder / "nastool").write_text(COMMAND.format(python=sys.executable, address=str(folder / "socket")))
        (folder / "nastool").chmod(0o755)
        path = os.pathsep.join([name, str(Path(sys.executable).parent), os.environ["PATH"]])
        with open(folder / "out", "w+") as out, open(folder / "err", "w+") as err:
            process = subprocess.Popen(
                ["bash", "-c", f"set -euo pipefail\n{script}"],
                cwd=cwd,
                env={**os.environ, "PATH": path},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
            )
            while process.poll() is None:
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                with connection, connection.makefile("rw") as stream:
                    where, arguments, text = json.load(stream)
                    found = in_this_process(Path(where), *arguments, stdin=text, trains=True)
                    json.dump([found.code, found.out, found.err], stream)
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(script, process.returncode, out.read(), err.read())
