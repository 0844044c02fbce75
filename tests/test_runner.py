"""The search loop and its workers: failures are trials, not ends."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nastool.core import Trial
from nastool.store import Store
from tests.plugins import sleepy


def search(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = sleepy(folder / "plugin")
    command = [
        sys.executable,
        "-m",
        "nastool",
        "search",
        "--evaluator",
        "sleepy",
        "--out",
        str(folder / "run"),
        *arguments,
    ]
    return subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120)


def trials(folder: Path) -> list[Trial]:
    with Store.read(folder / "run" / "run.db") as store:
        return list(store.trials())


@pytest.mark.parametrize(
    "misbehaviour, reason",
    [
        ("raise", "RuntimeError: made to fail"),
        ("nan", "val_acc is nan"),
        ("die", "worker died: exit code 3; see "),
        ("hang", "gave up after 1.5 s (--trial-timeout)"),
        ("text", "ValueError: could not convert string to float"),
    ],
)
def test_a_failed_trial_has_its_reason_and_the_search_goes_on(tmp_path: Path, misbehaviour: str, reason: str) -> None:
    options = ("-n", "10", "--workers", "2", "--trial-timeout", "1.5")
    result = search(tmp_path, "-E", f"misbehave={misbehaviour}", *options)
    assert result.returncode == 0, result.stderr
    found = trials(tmp_path)
    assert [trial.state for trial in found] == ["failed" if i % 5 == 3 else "done" for i in range(10)]
    for trial in found:
        if trial.state == "failed":
            assert trial.error is not None and trial.error.startswith(reason)
            assert f"trial {trial.id} failed: {trial.error}" in result.stderr
    assert "2 failed" in result.stderr
    best = json.loads(result.stdout)
    assert best["metrics"]["val_acc"] == max(-trial.loss for trial in found)
    assert best["metrics"]["test_acc"] == best["metrics"]["val_acc"] / 2


def test_a_worker_that_dies_once_is_given_another_try(tmp_path: Path) -> None:
    result = search(tmp_path, "-E", "misbehave=die-once", "-n", "6")
    assert result.returncode == 0, result.stderr
    assert [trial.state for trial in trials(tmp_path)] == ["done"] * 6
    with Store.read(tmp_path / "run" / "run.db") as store:
        assert [store.attempts(i) for i in range(6)] == [1, 1, 1, 2, 1, 1]


def test_gives_up_when_everything_fails(tmp_path: Path) -> None:
    result = search(tmp_path, "-E", "misbehave=always", "-n", "50", "--max-failures", "4")
    assert result.returncode == 1
    assert result.stdout == ""
    assert "gave up after 4 failed trials in a row; the last: RuntimeError: made to fail" in result.stderr
    assert "Traceback" not in result.stderr


def test_all_failed_is_exit_code_1(tmp_path: Path) -> None:
    result = search(tmp_path, "-E", "misbehave=always", "-n", "3")
    assert result.returncode == 1
    assert "all 3 trials failed" in result.stderr


def test_bad_data_is_found_before_anything_is_written(tmp_path: Path) -> None:
    result = search(tmp_path, "-E", "misbehave=unprepared")
    assert result.returncode == 2
    assert result.stderr == "nastool: no such data: give other data\n"
    assert not (tmp_path / "run").exists(), "nothing is left behind"
    assert search_again_works(tmp_path)


def search_again_works(folder: Path) -> bool:
    command = [
        sys.executable,
        "-m",
        "nastool",
        "search",
        "--evaluator",
        "sleepy",
        "--out",
        str(folder / "run"),
        "-n",
        "2",
    ]
    environment = sleepy(folder / "plugin2")
    return subprocess.run(command, env=environment, capture_output=True).returncode == 0


def test_reports_are_kept(tmp_path: Path) -> None:
    assert search(tmp_path, "-n", "2").returncode == 0
    with Store.read(tmp_path / "run" / "run.db") as store:
        assert store.reports(1) == [(1, {"val_acc": 0.1})]


def test_one_coordinator_at_a_time(tmp_path: Path) -> None:
    environment = sleepy(tmp_path / "plugin")
    command = [sys.executable, "-m", "nastool", "search", "--evaluator", "sleepy", "-E", "seconds=600"]
    command += ["--out", str(tmp_path / "run")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as first:
        assert first.stderr is not None
        assert first.stderr.readline().startswith("searching in")
        second = subprocess.run(command, env=environment, capture_output=True, text=True)
        first.kill()
    assert second.returncode == 2
    assert f"is being searched by process {first.pid}" in second.stderr


def test_extending_a_run_equals_a_longer_one(tmp_path: Path) -> None:
    def rows(folder: Path) -> list[Any]:
        return [(t.id, t.proposal, t.losses) for t in trials(folder)]

    short, long = tmp_path / "short", tmp_path / "long"
    for folder in (short, long):
        folder.mkdir()
    options = ("-S", "population=4", "-S", "tournament=2")
    assert search(short, "-n", "8", *options).returncode == 0
    (short / "plugin").rename(short / "away")
    extended = search(short, "-n", "20", *options)
    assert extended.returncode == 0 and "8 trials done" in extended.stderr
    assert search(long, "-n", "20", *options).returncode == 0
    assert rows(short) == rows(long)


def test_any_kind_of_number_is_a_metric(tmp_path: Path) -> None:
    assert search(tmp_path, "-E", "misbehave=numpy", "-n", "3").returncode == 0
    for trial in trials(tmp_path):
        assert trial.evaluation is not None
        assert type(trial.evaluation.metrics["val_acc"]) is float


def test_the_timeout_counts_trials_not_the_start_of_workers(tmp_path: Path) -> None:
    """A worker needs longer than this to start, a trial does not."""
    result = search(tmp_path, "-n", "6", "--workers", "2", "--trial-timeout", "0.3")
    assert result.returncode == 0, result.stderr
    assert [trial.state for trial in trials(tmp_path)] == ["done"] * 6


def test_the_cost_can_be_the_objective(tmp_path: Path) -> None:
    result = search(tmp_path, "-n", "3", "--objective", "seconds")
    assert result.returncode == 0, result.stderr
    assert all(trial.evaluation and trial.loss == trial.evaluation.seconds for trial in trials(tmp_path))
