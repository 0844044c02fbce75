"""`nastool status --follow`: the view of a search that runs elsewhere."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from nastool.cli import status_command
from nastool.cli.live.stored import Followed, inner_runs
from nastool.core.errors import InputError
from nastool.core.values import Evaluation, Proposal, Trial
from nastool.engine.config import RunFolder
from nastool.engine.store import Store
from nastool.spaces.nasbench201 import NasBench201
from tests.unit.cli.test_live import LEADER, Terminal, terminal

SPACE = NasBench201()
ABOUT = {
    "config": {
        "strategy": {"name": "random", "options": {}},
        "space": {"name": "nasbench201", "options": {}},
        "evaluator": {"name": "train", "options": {}},
        "seed": 0,
    },
    "objective": "val_acc:max",
    "trials": 3,
}


class Run:
    """A run folder that a search works on, by hand; `begin` and `end` trials."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True)
        self.path = path
        self.store = Store.create(path / "run.db", ABOUT, durable=False)
        self._told = 0

    def close(self) -> None:
        self.store.close()

    def begin(self, trial_id: int) -> None:
        self.store.begin()
        self.store.add(Trial(trial_id, Proposal(SPACE.arch([0] * 6))))
        self.store.commit()

    def report(self, trial_id: int, step: int, value: float) -> None:
        self.store.report(trial_id, step, {"val_acc": value})

    def end(self, trial_id: int, value: float | None) -> None:
        proposal = Proposal(SPACE.arch([0] * 6))
        if value is None:
            trial = Trial(trial_id, proposal, "failed", error="[/red] broke")
        else:
            trial = Trial(trial_id, proposal, "done", Evaluation({"val_acc": value}, 2.0), (-value,))
        self.store.begin()
        self.store.finish(trial, self._told)
        self.store.commit()
        self._told += 1


@contextmanager
def at_work(path: Path) -> Iterator[Run]:
    with closing(Run(path)) as run, RunFolder(path).locked():
        yield run


def follow(folder: Path, *arguments: str, **more: Any) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if key not in ("CI", "COLUMNS", "LINES", "NO_COLOR")}
    environment |= {"TERM": "xterm-256color", "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "nastool", "status", "--follow", *arguments]
    return subprocess.Popen(command, cwd=folder, env=environment, text=True, **more)


def test_a_line_for_every_change(tmp_path: Path) -> None:
    with at_work(tmp_path / "a") as run:
        run.begin(0)
        process = follow(tmp_path, "a", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "a: running  trials 0/3  running #0\n"
        run.report(0, 1, 0.25)
        assert process.stdout.readline() == "a: running  trials 0/3  running #0 step 1\n"
        run.end(0, None)
        assert process.stdout.readline().startswith("a: running  trials 1/3  1 failed  ")
        run.begin(1)
        run.end(1, 0.75)
        while "trials 2/3" not in (line := process.stdout.readline()):  # perhaps between the two
            assert "trials 1/3" in line
        assert line.startswith("a: running  trials 2/3  best val_acc 0.7500 (#1)  1 failed  ")
    rest = process.stdout.read()
    assert rest == "a: interrupted  trials 2/3  best val_acc 0.7500 (#1)  1 failed\n"
    assert process.stderr.read() == "" and process.wait(60) == 0
    process.stdout.close()
    process.stderr.close()


def test_a_json_line_for_every_change(tmp_path: Path) -> None:
    with at_work(tmp_path / "a") as run, at_work(tmp_path / "b") as other:
        run.begin(0)
        process = follow(tmp_path, "a", "b", "--json", stdout=subprocess.PIPE)
        assert process.stdout is not None
        first, second = (json.loads(process.stdout.readline()) for _ in range(2))
        assert (first["run"], first["state"], first["running"]) == ("a", "running", [{"trial": 0}])
        assert (second["run"], second["running"]) == ("b", [])
        run.report(0, 4, 0.25)
        changed = json.loads(process.stdout.readline())
        assert changed == {**first, "running": [{"trial": 0, "step": 4, "metrics": {"val_acc": 0.25}}]}
        other.begin(0)
        assert json.loads(process.stdout.readline())["run"] == "b"
    ends = {json.loads(line)["run"]: json.loads(line)["state"] for line in process.stdout.read().splitlines()}
    assert ends == {"a": "interrupted", "b": "interrupted"} and process.wait(60) == 0
    process.stdout.close()


def on_terminal(folder: Path, tty: Terminal, *runs: str) -> subprocess.Popen[str]:
    environment = {key: value for key, value in os.environ.items() if key not in ("CI", "COLUMNS", "LINES", "NO_COLOR")}
    command = [sys.executable, "-c", LEADER, sys.executable, "-m", "nastool", "status", "--follow", *runs]
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**environment, "TERM": "xterm-256color"},
        start_new_session=True,
        stdin=tty.slave,
        stdout=tty.slave,
        stderr=tty.slave,
        text=True,
    )


def test_a_view_on_a_terminal_until_the_end(tmp_path: Path) -> None:
    with terminal() as tty:
        with at_work(tmp_path / "a") as run, at_work(tmp_path / "b"):
            run.begin(0)
            run.report(0, 1, 0.25)
            run.report(0, 2, 0.5)
            process = on_terminal(tmp_path, tty, "a", "b")
            tty.wait_for("▁█")
            assert "a: running" in tty.text() and "b: running" in tty.text() and "step 2" in tty.text()
            with at_work(tmp_path / "a" / "retrain-12345678") as inner:
                inner.begin(0)
                tty.wait_for("retrain-12345678: running")
            run.end(0, 0.875)
            tty.wait_for("val_acc 0.8750")
        assert process.wait(60) == 0
        os.write(tty.slave, b"<the end>")
        tty.wait_for("<the end>")
        assert tty.text().count("\x1b[?25l") == tty.text().count("\x1b[?25h") == 1
        lines = [line for line in tty.screen() if line]
        assert lines[0] == "a: interrupted" and "b: interrupted" in lines  # what `status` says, and nothing else
        assert any("1 done, 0 failed, 0 running of 3" in line for line in lines)


def test_ctrl_c_ends_it_in_order(tmp_path: Path) -> None:
    with terminal() as tty, at_work(tmp_path / "a"):
        process = on_terminal(tmp_path, tty, "a")
        tty.wait_for("0/3")
        os.write(tty.master, b"\x03")
        assert process.wait(60) == 0
        os.write(tty.slave, b"<the end>")
        tty.wait_for("<the end>")
        assert tty.text().count("\x1b[?25h") == 1 and "Traceback" not in tty.text()
        assert tty.screen()[0] == "a: running"


def test_an_interrupt_ends_the_lines_too(tmp_path: Path) -> None:
    with at_work(tmp_path / "a"):
        process = follow(tmp_path, "a", stdout=subprocess.PIPE)
        assert process.stdout is not None and process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
        process.stdout.close()


def test_a_finished_run_is_shown_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with closing(Run(tmp_path / "a")) as run:
        run.begin(0)
        run.end(0, 0.5)
        run.store.begin()
        run.store.put("final", {"trials": 3, "exhausted": False, "document": {}})
        run.store.commit()
    status_command._follow([tmp_path / "a"], False)
    assert capsys.readouterr().out == f"{tmp_path / 'a'}: finished  trials 1/3  best val_acc 0.5000 (#0)\n"


def test_what_has_not_changed_is_not_said_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with at_work(tmp_path / "a") as run:
        followed = status_command._Watched([tmp_path / "a"])
        counts = []
        nothing: Callable[[], object] = dict
        changes: list[Callable[[], object]] = [nothing, nothing, partial(run.begin, 0), partial(run.report, 0, 1, 0.5)]
        for change in (*changes, nothing):
            change()
            followed.write(followed.views())
            counts.append(len(capsys.readouterr().out.splitlines()))
        assert counts == [1, 0, 1, 1, 0]
        counts.clear()
        for change in (nothing, nothing, partial(run.end, 0, 0.5), nothing):
            change()
            followed.emit([tmp_path / "a"])
            counts.append(len(capsys.readouterr().out.splitlines()))
        assert counts == [1, 0, 1, 0]


def test_pace_and_time_left(tmp_path: Path) -> None:
    with at_work(tmp_path / "a") as run:
        for trial_id in range(2):
            run.begin(trial_id)
            run.end(trial_id, 0.5)
        run.store._db.execute("UPDATE trials SET started = 100 + 10 * id, finished = 110 + 10 * id")
        view = Followed(tmp_path / "a").view()
        assert view.per_hour == pytest.approx(360) and view.left == pytest.approx(10)
        assert not inner_runs(tmp_path / "a") and inner_runs(tmp_path) == [tmp_path / "a"]


def test_no_run_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no run folder"):
        status_command._follow([tmp_path], False)
