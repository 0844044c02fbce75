"""kill -9 at any moment, then the same command: nothing is lost, nothing is told twice."""

from __future__ import annotations

import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from nastool.core import registry
from nastool.engine.store import Store
from tests.helpers.plugins import sleepy

NASTOOL = [sys.executable, "-m", "nastool"]


def rows(folder: Path) -> list[tuple[object, ...]]:
    """All that must not depend on interruptions; times do."""
    with sqlite3.connect(folder / "run.db") as db:
        metrics = "json_extract(evaluation, '$.metrics')"
        return db.execute(
            f"SELECT id, told, state, proposal, {metrics}, loss, error FROM trials ORDER BY id"
        ).fetchall()


def check_complete(folder: Path, trials: int) -> None:
    with Store.read(folder / "run.db") as store:
        found = list(store.trials())
    assert [trial.id for trial in found] == list(range(trials))
    assert all(trial.state in ("done", "failed") for trial in found), "no trial is left running"
    assert sorted(row[1] for row in rows(folder)) == list(range(trials)), "every trial is told exactly once"  # type: ignore[type-var]


def search_and_kill(command: list[str], environment: dict[str, str], folder: Path, kills: int, trials: int) -> None:
    """Start, kill -9 somewhere in each part of the run, again; then let it end. The first time while it begins."""
    moments = random.Random(kills)
    for kill in range(kills):
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        if kill == 0:
            time.sleep(moments.uniform(0, 0.5))
        else:
            enough = trials * (kill + moments.random()) / (kills + 2)
            wait_for(lambda enough=enough: told(folder) >= enough, 300)
            time.sleep(moments.uniform(0, 0.02))  # not only right after a commit
        assert process.poll() is None, "it was over before it could be killed"
        process.send_signal(signal.SIGKILL)
        process.communicate()
    subprocess.run(command, env=environment, check=True, capture_output=True)


def table(folder: Path) -> Path:
    """A made-up table of all of nasbench201."""
    space = registry.make("space", "nasbench201", given={})
    archs = np.array([arch.choices for arch in space.members()], dtype=np.uint8)
    path = folder / "table.npz"
    np.savez(path, arch=archs, val200=np.random.default_rng(0).uniform(50, 90, len(archs)))
    return path


WITHOUT_END = {"random": "dedup=false", "evolution": "dedup=false"}
"""What lets a strategy ask for more trials than the space has members."""


@pytest.mark.parametrize("kills, trials", [(3, 3000)])
@pytest.mark.parametrize("strategy", [pytest.param("random", marks=pytest.mark.slow), "evolution"])
def test_killed_table_search_is_the_undisturbed_one(tmp_path: Path, strategy: str, kills: int, trials: int) -> None:
    command = [*NASTOOL, "search", "-s", strategy, "-S", WITHOUT_END[strategy], "-n", str(trials)]
    command += ["--evaluator", "table", "-E", f"file={table(tmp_path)}", "--out"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    search_and_kill([*command, str(tmp_path / "killed")], dict(os.environ), tmp_path / "killed", kills, trials)
    check_complete(tmp_path / "killed", trials)
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")


WITH_MEMORY = {"bo": ["-S", "batch=3"], "bananas": ["-S", "epochs=50"], "local-search": []}
"""What has more to remember than its random generator: hyper-parameters, a batch begun, where it climbs."""


@pytest.mark.parametrize(
    "strategy, kills, trials",
    [
        ("bo", 2, 40),
        ("bananas", 2, 60),
        ("local-search", 2, 1500),
    ],
)
def test_killed_amid_a_batch_or_a_climb(tmp_path: Path, strategy: str, kills: int, trials: int) -> None:
    """Often while the model is fitted, which takes most of the time."""
    command = [*NASTOOL, "search", "-s", strategy, *WITH_MEMORY[strategy], "-n", str(trials)]
    command += ["--evaluator", "table", "-E", f"file={table(tmp_path)}", "--out"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    search_and_kill([*command, str(tmp_path / "killed")], dict(os.environ), tmp_path / "killed", kills, trials)
    check_complete(tmp_path / "killed", trials)
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")


@pytest.mark.parametrize("kills, trials", [(3, 40)])
def test_killed_search_with_one_worker_is_the_undisturbed_one(tmp_path: Path, kills: int, trials: int) -> None:
    environment = sleepy(tmp_path / "plugin")
    command = [*NASTOOL, "search", "--evaluator", "sleepy", "-E", "misbehave=raise", "-n", str(trials)]
    command += ["-S", "population=10", "-S", "tournament=3", "-E", "seconds=0.005", "--out"]
    subprocess.run([*command, str(tmp_path / "whole")], env=environment, check=True, capture_output=True)
    search_and_kill([*command, str(tmp_path / "killed")], environment, tmp_path / "killed", kills, trials)
    check_complete(tmp_path / "killed", trials)
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    assert {row[2] for row in rows(tmp_path / "killed")} == {"done", "failed"}


@pytest.mark.parametrize("kills, trials", [(4, 200)])
def test_killed_search_with_two_workers_loses_nothing(tmp_path: Path, kills: int, trials: int) -> None:
    environment = sleepy(tmp_path / "plugin")
    folder = tmp_path / "killed"
    command = [*NASTOOL, "search", "--evaluator", "sleepy", "-n", str(trials), "--workers", "2", "--out", str(folder)]
    search_and_kill(command, environment, folder, kills, trials)
    check_complete(folder, trials)


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_training_search(tmp_path: Path, workers: int) -> None:
    """Real training, one thread a worker: with one worker even the metrics are those of the undisturbed run."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*NASTOOL, "search", "--data", "digits", "--epochs", "1", "--scale", "channels=4,cells=1"]
    command += ["--device", "cpu", "-n", "150", "--workers", str(workers), "--out"]
    search_and_kill([*command, str(tmp_path / "killed")], environment, tmp_path / "killed", 24, 150)
    check_complete(tmp_path / "killed", 150)
    if workers == 1:
        subprocess.run([*command, str(tmp_path / "whole")], env=environment, check=True, capture_output=True)
        assert rows(tmp_path / "killed") == rows(tmp_path / "whole")


def without_order(folder: Path) -> list[tuple[object, ...]]:
    """`rows`, whatever the order in which the trials were told."""
    return [(id_, *others) for id_, _, *others in rows(folder)]


@pytest.mark.parametrize("kills, trials", [(3, 58)])
@pytest.mark.parametrize("workers", [1, 2])
def test_weights_that_are_handed_down_survive(tmp_path: Path, workers: int, kills: int, trials: int) -> None:
    """Each made-up trial depends on all its ancestors' checkpoints. Steps end together, so workers do not matter."""
    environment = sleepy(tmp_path / "plugin")
    command = [*NASTOOL, "search", "-s", "network-morphism", "--evaluator", "sleepy-heir", "-S", "morphisms=2"]
    command += ["-S", f"steps={trials // 8}", "-S", f"final_epochs={trials % 8 - 1}", "--keep", "1", "--out"]
    subprocess.run([*command, str(tmp_path / "whole")], env=environment, check=True, capture_output=True)
    command += [str(tmp_path / "killed"), "--workers", str(workers)]
    search_and_kill(command, environment, tmp_path / "killed", kills, trials)
    check_complete(tmp_path / "killed", trials)
    assert without_order(tmp_path / "killed") == without_order(tmp_path / "whole")
    if workers == 1:
        assert rows(tmp_path / "killed") == rows(tmp_path / "whole")
    left = [[file.name for file in (tmp_path / run / "checkpoints").iterdir()] for run in ("killed", "whole")]
    assert left[0] == left[1] and len(left[0]) == 1


@pytest.mark.slow
def test_killed_network_morphism(tmp_path: Path) -> None:
    """Real training, one thread a worker: with two workers, too, every trial's metrics are the undisturbed run's."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [*NASTOOL, "search", "-s", "network-morphism", "--data", "digits", "-E", "train_size=300"]
    command += ["--scale", "channels=4", "--device", "cpu", "-P", "stages=2", "-P", "layers=4", "--keep", "2"]
    command += ["-S", "steps=6", "-S", "morphisms=2", "-S", "start_epochs=2", "-S", "epochs=2", "-S", "final_epochs=4"]
    command += ["-S", "members=3", "--out"]
    subprocess.run([*command, str(tmp_path / "whole")], env=environment, check=True, capture_output=True)
    for workers in (1, 2):
        folder = tmp_path / str(workers)
        search_and_kill([*command, str(folder), "--workers", str(workers)], environment, folder, 10, 50)
        check_complete(folder, 50)
        assert without_order(folder) == without_order(tmp_path / "whole")
        if workers == 1:
            assert rows(folder) == rows(tmp_path / "whole")
        documents = [json.loads((path / "best.json").read_text()) for path in (folder, tmp_path / "whole")]
        assert documents[0]["ensemble"] == documents[1]["ensemble"]
        names = [{file.name for file in (path / "checkpoints").iterdir()} for path in (folder, tmp_path / "whole")]
        assert names[0] == names[1]


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("misbehave", ["", "native"])
def test_workers_die_with_the_coordinator(tmp_path: Path, misbehave: str) -> None:
    """Also one in native code that lets nothing else of Python run; and so does the process that forked them."""
    environment = sleepy(tmp_path / "plugin") | {"NASTOOL_TEST_MARK": str(tmp_path)}
    command = [
        *NASTOOL,
        "search",
        "--evaluator",
        "sleepy",
        "-E",
        "seconds=0.1" if misbehave else "seconds=600",
        "-E",
        f"misbehave={misbehave}",
        "--workers",
        "2",
        "--out",
        str(tmp_path / "run"),
    ]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    with process:
        wait_for(lambda: len(marked(tmp_path)) >= 4 and (not misbehave or told(tmp_path / "run") > 3))
        process.kill()
        process.communicate()
    wait_for(lambda: not marked(tmp_path))


def marked(mark: Path) -> list[int]:
    """Processes whose environment carries our mark."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (
                f"NASTOOL_TEST_MARK={mark}".encode() in (entry / "environ").read_bytes()
                and "Z" not in (entry / "stat").read_text().split()[2]
            ):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


def wait_for(condition: object, seconds: float = 20) -> None:
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


@pytest.mark.parametrize("evaluator", ["sleepy", "sleepy-inline"])
@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_and_say_how_to_go_on(tmp_path: Path, number: signal.Signals, code: int, evaluator: str) -> None:
    environment = sleepy(tmp_path / "plugin")
    folder = tmp_path / "run"
    command = [
        *NASTOOL,
        "search",
        "--evaluator",
        evaluator,
        "-E",
        "seconds=0.05",
        "-n",
        "100",
        "--out",
        str(folder),
    ]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: told(folder) >= 5)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert process.returncode == code
    assert out == ""
    assert f"continue with: nastool resume {folder}; or make a result of what it has: nastool finish {folder}" in err
    assert "Traceback" not in err
    before = rows(folder)
    assert 5 <= len(before) < 100
    command = [*NASTOOL, "resume", str(folder)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert json.loads(result.stdout)["trial"] < 100
    check_complete(folder, 100)
    assert all(row[2] == "done" for row in rows(folder)), "a signal is no failed trial"
    assert [row for row in rows(folder) if row[0] < len(before) - 1] == before[:-1]  # type: ignore[operator]


def test_second_interrupt_stops_at_once(tmp_path: Path) -> None:
    environment = sleepy(tmp_path / "plugin")
    folder = tmp_path / "run"
    command = [*NASTOOL, "search", "--evaluator", "sleepy", "-E", "seconds=600", "--out", str(folder)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for(lambda: folder.joinpath("run.db").exists() and running(folder) == 1)
    process.send_signal(signal.SIGINT)
    time.sleep(0.7)
    assert process.poll() is None, "the first waits for the running trial"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "Ctrl-C again" in err and "Traceback" not in err
    assert running(folder) == 1, "it will be repeated"
    other = [*command[:-4], "-E", "seconds=0.01", "-n", "2", "--out", str(folder)]
    subprocess.run(other, env=environment, check=True, capture_output=True)
    check_complete(folder, 2)  # nothing had been measured, so another search may take its place


@pytest.mark.parametrize("after", [0.0, 0.15, 0.5, 0.9])
def test_a_burst_of_interrupts(tmp_path: Path, after: float) -> None:
    """To the whole group, as a terminal sends them, at any moment: no traceback, no failed trial."""
    environment = sleepy(tmp_path / "plugin")
    command = [
        *NASTOOL,
        "search",
        "--evaluator",
        "sleepy",
        "-n",
        "60",
        "--workers",
        "2",
        "--out",
        str(tmp_path / "run"),
    ]
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    with process:
        if after:
            wait_for(lambda: (tmp_path / "run").is_dir())
            time.sleep(after - 0.15)
        else:
            time.sleep(0.35)
        for _ in range(12):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.01)
        _, err = process.communicate(timeout=30)
    too_soon = () if after else (-signal.SIGINT,)  # before Python itself had begun, on a busy machine
    assert process.returncode in (130, 0, *too_soon)
    assert "Traceback" not in err and "internal error" not in err, err
    subprocess.run(command, env=environment, check=True, capture_output=True)
    check_complete(tmp_path / "run", 60)
    assert {row[2] for row in rows(tmp_path / "run")} == {"done"}


def told(folder: Path) -> int:
    try:
        with Store.read(folder / "run.db") as store:
            counts = store.count()
    except Exception:
        return 0
    return sum(counts.values()) - counts["running"]


def running(folder: Path) -> int:
    try:
        with Store.read(folder / "run.db") as store:
            return store.count()["running"]
    except Exception:
        return 0
