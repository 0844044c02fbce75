"""A search whose workers a batch system starts: kill -9 of its coordinator, then the same command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers.slurm import fake_slurm
from tests.system.test_resume import check_complete, rows, told, wait_for

NASTOOL = [sys.executable, "-m", "nastool"]


def test_a_killed_coordinator_leaves_no_workers_and_the_same_command_goes_on(
    tmp_path: Path, macro_table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is found is what this machine alone finds, in the same order of proposals."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
    table = ["--space", "nasbench-macro", "--evaluator", "table", "-E", f"file={macro_table}"]
    common = ["search", "-s", "random", *table, "-n", "600"]
    here, there = tmp_path / "here", tmp_path / "there"
    command = [*NASTOOL, *common, "--workers", "2", "--executor", "slurm:time=1:00:00", "--out", str(there)]
    with fake_slurm(tmp_path / "slurm", monkeypatch) as slurm:
        environment = {**os.environ, **slurm.environment}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        wait_for(lambda: told(there) >= 30 or process.poll() is not None, 120)
        slurm.order(slurm.running()[0], "preempt")
        begun = told(there)
        wait_for(lambda: told(there) >= begun + 30, 120)
        assert process.poll() is None, "it was over before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.communicate()
        joined = [job for job, about in slurm.jobs().items() if about["state"] == "RUNNING"]
        wait_for(lambda: not set(slurm.running()) & set(joined), 60)
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        slurm.settle()
        assert "PENDING" not in slurm.states()
    check_complete(there, 600)
    subprocess.run([*NASTOOL, *common, "--out", str(here)], check=True, capture_output=True)
    assert [(row[0], *row[2:]) for row in rows(there)] == [(row[0], *row[2:]) for row in rows(here)]
    assert not list(there.glob(".workers*"))
