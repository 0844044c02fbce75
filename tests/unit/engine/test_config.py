"""A run's folder: nothing is taken from under whoever has it open."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import nastool
from nastool.core import folders
from nastool.core.errors import InputError
from nastool.engine.config import RunFolder
from tests.helpers.running import content


def search(folder: Path, table: str, **options: Any) -> None:
    where: dict[str, Any] = {
        "space": "nasbench-macro",
        "evaluator": "table",
        "evaluator_options": {"file": table},
        "out": folder,
    }
    nastool.search("random", trials=1, report=False, **where, **options)


def test_the_first_workers_log_stays(tmp_path: Path, macro_table: str) -> None:
    """It is open before what an earlier run left is removed."""
    logs = tmp_path / "logs"
    for seed in (0, 1):
        search(tmp_path, macro_table, executor="processes", seed=seed, force=seed == 1)
        assert os.listdir(logs) == ["worker-0.log"] and not (logs / "worker-0.log").read_text()
        for name in ("worker-0.log", "worker-7.log"):
            (logs / name).write_text("of the first")


def test_force_spares_a_run_at_work_below(tmp_path: Path, macro_table: str) -> None:
    """Such as trainings of its best."""
    for folder in (tmp_path, tmp_path / "retrained"):
        search(folder, macro_table)
    before = content(tmp_path)
    with RunFolder(tmp_path / "retrained").locked():
        with pytest.raises(InputError, match="retrained is at work"):
            search(tmp_path, macro_table, seed=5, force=True)
    assert {**content(tmp_path), "retrained/run.lock": b""} == {**before, "retrained/run.lock": b""}
    search(tmp_path, macro_table, seed=5, force=True)
    assert not (tmp_path / "retrained").exists()


def test_logs_come_back_where_nothing_begins(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    log = tmp_path / "logs" / "worker-0.log"
    log.parent.mkdir()
    log.write_text("before")
    with pytest.raises(InputError), folder.new_logs():
        log.write_text("now")
        raise InputError("bad data")
    assert log.read_text() == "before"
    with folder.new_logs():
        log.write_text("now")
    assert log.read_text() == "now" and os.listdir(log.parent) == [log.name]


def test_a_lock_that_was_removed_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a lock while its holder takes the folder back has another file than who comes next."""

    def slow(file: object, patience: float) -> bool:
        (tmp_path / "run.lock").unlink()
        return True

    monkeypatch.setattr(folders, "_lock", slow)
    with pytest.raises(InputError, match="removed by another process"), RunFolder(tmp_path).locked():
        pass
