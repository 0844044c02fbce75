"""What belongs to a process: pipes, closed streams, limits, signals, read-only folders."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.running import NASTOOL, Started, process

SCRIPTS: dict[str, tuple[str, int, str]] = {
    # script: exit code, what stderr says
    "full stdout": ("$nastool sample > /dev/full", 1, "No space left"),
    "stdout closed": ("$nastool sample >&-", 1, "stdout"),
    "stdout closed, text": ("$nastool list --text >&-", 1, "stdout"),
    "stdin closed": ("$nastool show - <&-", 2, "stdin"),
    "stderr closed": ("$nastool search --evaluator table -E file=$table -n 5 --out out 2>&-", 0, ""),
    "full stderr": ("$nastool search --evaluator table -E file=$table -n 5 --out out 2> /dev/full", 0, ""),
    "bad input, stderr closed": ("$nastool show none 2>&-", 2, ""),
    "reader has enough": ("$nastool sample -n 100000 | head -1; exit ${PIPESTATUS[0]}", 0, ""),
    "no reader": ("$nastool sample -n 100000 | true; exit ${PIPESTATUS[0]}", 0, ""),
    "ASCII terminal": ("PYTHONIOENCODING=ascii $nastool show é", 2, "cannot read"),
    "debug off": ("NASTOOL_DEBUG=0 $nastool show none", 2, "cannot read"),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_process(tmp_path: Path, nasbench201_table: str, name: str) -> None:
    script, code, message = SCRIPTS[name]
    outcome = process(script, tmp_path, table=nasbench201_table)
    assert outcome.code == code, outcome
    assert "Traceback" not in outcome.err, outcome
    assert "internal error" not in outcome.err, outcome
    assert message in outcome.err, outcome


def test_path_that_is_no_text(tmp_path: Path, nasbench201_table: str) -> None:
    """Refused, or as good as any other."""
    for command in ("search --evaluator table -E file=$table -n 5 --out", "status", "top", "show"):
        outcome = process(f"$nastool {command} $'\\xff'", tmp_path, table=nasbench201_table)
        if outcome.code:
            outcome.refused()


@pytest.mark.parametrize("kilobytes", [1, 20, 40])
def test_file_size_limit(tmp_path: Path, nasbench201_table: str, kilobytes: int) -> None:
    """What was finished is kept, and the same command goes on."""
    script = f"$nastool search --evaluator table -E file={shlex.quote(nasbench201_table)} -n 500 --out out"
    stopped = process(f"ulimit -f {kilobytes}; {script}", tmp_path)
    assert stopped.code == 2
    assert "out" in stopped.err
    assert "space" in stopped.err.splitlines()[-1]
    assert len(process(script, tmp_path).accepted()) == 1


def test_a_run_that_is_being_searched(tmp_path: Path, nasbench201_table: str) -> None:
    """It is shown, but neither continued nor replaced; Ctrl-C ends it with all it has told."""
    command = [
        NASTOOL,
        "search",
        "--evaluator",
        "table",
        "-E",
        f"file={nasbench201_table}",
        "-S",
        "dedup=false",
        "--out",
        "out",
    ]
    with Started(
        [*command, "-n", "10000000"], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as other:
        _until(lambda: json.loads(process("$nastool status out", tmp_path).out or "{}").get("best"))
        again = process(f"{shlex.join(command)} -n 10000000", tmp_path)
        force = process(f"{shlex.join(command)} -n 5 --force", tmp_path)
        other.send_signal(signal.SIGINT)
        message = other.communicate(timeout=30)[1]
    again.refused(f"process {other.pid}")
    force.refused(f"process {other.pid}")
    assert other.returncode == 130
    assert "continue with" in message
    (status,) = process("$nastool status out", tmp_path).accepted()
    assert status["state"] == "interrupted"
    assert status["trials"]["done"] > 0


def _until(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_read_only_run(finished: Path) -> None:
    """Also for somebody else: root may write everywhere."""
    drop = "" if os.geteuid() else "setpriv --reuid 65534 --regid 65534 --clear-groups "
    if drop and shutil.which("setpriv") is None:
        pytest.skip("root, and no setpriv to be somebody else with")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(finished, folder / "out")
        for path in ((folder / "out"), *(folder / "out").iterdir(), folder):
            path.chmod(0o755 if path == folder else 0o555 if path.is_dir() else 0o444)
        outcomes = [process(f"{drop}$nastool {command} out", folder) for command in ("status", "top", "show")]
        (folder / "out").chmod(0o755)
    for outcome in outcomes:
        assert len(outcome.accepted()) == 1


def test_a_file_system_without_flock(tmp_path: Path, nasbench201_table: str) -> None:
    """Another lock takes its place: one command at a time, and others see that it is at work."""
    source = "#include <errno.h>\nint flock(int file, int operation) { errno = ENOSYS; return -1; }\n"
    command = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", str(tmp_path / "noflock.so")]
    subprocess.run(command, input=source, text=True, check=True)
    (tmp_path / "script.py").write_text(f"""
import sys
from pathlib import Path
from nastool.analysis.bench.journal import Journal
from nastool.cli import run
from nastool.engine.config import RunFolder

def call(*words):
    sys.argv[1:] = map(str, words)
    return run()

search = "search --evaluator table -E file={nasbench201_table} --out a -n".split()
bench = "bench -s random --table nasbench201:file={nasbench201_table} --seeds 1 -o b -n".split()
for command, folder in ((search, RunFolder(Path("a"))), (bench, Journal(Path("b")))):
    assert call(*command, 3) == 0
    with folder.locked():
        assert command is bench or folder.busy()
        assert call(*command, 4) == 2
    assert command is bench or not folder.busy()
    assert call(*command, 4) == 0
""")
    outcome = process(f"LD_PRELOAD=$PWD/noflock.so {shlex.quote(sys.executable)} script.py", tmp_path)
    assert outcome.code == 0, outcome
    assert "a is being searched by process" in outcome.err and "b is being written by process" in outcome.err
