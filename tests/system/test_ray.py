"""A search on two nodes of Ray, one of which is killed, and so is the coordinator. Minutes, and only where Ray is."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.ray_nodes import IS_THERE, ray_nodes
from tests.system.test_resume import check_complete, rows, told, wait_for

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not IS_THERE, reason="needs Ray: pip install 'nastool[ray]'"),
]
NASTOOL = [sys.executable, "-m", "nastool"]


def test_survives_the_kill_of_a_node_and_of_its_coordinator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of 100 trainings is lost or doubled, and each is what it is here."""
    trains = ["--data", "digits", "--epochs", "1", "--scale", "channels=4,cells=1"]
    common = [*NASTOOL, "search", "-s", "random", *trains, "-n", "100", "--workers", "2"]
    here, there = tmp_path / "here", tmp_path / "there"
    command = [*common, "--executor", "ray:cpus=1", "--out", str(there)]
    with ray_nodes(monkeypatch) as nodes:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        wait_for(lambda: told(there) >= 20 or process.poll() is not None, 300)
        nodes.fail()
        wait_for(lambda: told(there) >= 50 or process.poll() is not None, 300)
        assert process.poll() is None, process.communicate()
        process.send_signal(signal.SIGKILL)
        _, said = process.communicate()
        assert "next try: on another machine" in said
        wait_for(lambda: not workers(there), 60)
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stderr
    check_complete(there, 100)
    subprocess.run([*common, "--out", str(here)], check=True, capture_output=True)
    assert untimed(there) == untimed(here)
    assert not list(there.glob(".workers*"))


def untimed(folder: Path) -> list[tuple[object, ...]]:
    """Of each trial what does not depend on the order in which they ended."""
    return [(row[0], *row[2:]) for row in rows(folder)]


def workers(folder: Path) -> list[str]:
    """Processes that print to the folder's logs."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if str(folder) in os.readlink(process / "fd" / "2"):
                found.append(process.name)
        except OSError:
            continue
    return found
