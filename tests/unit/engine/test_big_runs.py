"""Runs of many trials: a command reads what it needs, and that once."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from nastool.engine import rows
from tests.helpers.running import Run

TRIALS = 300


@pytest.fixture
def extended(here: Path, run: Run, macro_table: str) -> list[str]:
    """A search that has ended; more trials extend it."""
    command = ["search", "-s", "evolution", "-S", "dedup=false", "--space", "nasbench-macro", "--out", "a"]
    command += ["--evaluator", "table", "-E", f"file={macro_table}"]
    run(*command, "-n", str(TRIALS)).accepted()
    return command


@pytest.fixture
def read(extended: list[str], monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """How often each trial has been decoded since."""
    found: Counter[int] = Counter()
    real = rows.trial_of

    def counted(space: Any, row: Any) -> Any:
        found[row[0]] += 1
        return real(space, row)

    monkeypatch.setattr(rows, "trial_of", counted)
    return found


def test_one_more_trial(run: Run, extended: list[str], read: Counter[int]) -> None:
    run(*extended, "-n", str(TRIALS + 1), "--report").accepted()
    assert len(read) == TRIALS + 1 and max(read.values()) == 1
    read.clear()
    run(*extended, "-n", str(TRIALS + 1)).accepted()
    assert not read, "there is nothing to do"


@pytest.mark.parametrize("command", [["report"], ["compare"]])
def test_all_trials_once(run: Run, read: Counter[int], command: list[str]) -> None:
    name, *more = command
    assert run(name, "a", *more).code == 0
    assert len(read) == TRIALS and max(read.values()) == 1


@pytest.mark.parametrize(("command", "most"), [(["status", "a"], 2), (["top", "a", "-k", "3"], 9), (["show", "a"], 0)])
def test_few_trials(run: Run, read: Counter[int], command: list[str], most: int) -> None:
    assert run(*command).code == 0
    assert sum(read.values()) <= most
