"""Runs as they are read."""

from __future__ import annotations

import math
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nastool.core import archfile, yaml_files
from nastool.engine.store import Store
from nastool.engine.study import Study
from tests.helpers import made_runs
from tests.helpers.running import Run


def test_what_is_reported_on_the_way_need_not_be_finite(tmp_path: Path) -> None:
    """A diverging training reports NaN: all trials can be written as JSON all the same."""
    folder = made_runs.folder(tmp_path / "run", [0.5])
    with Store.open(folder / "run.db") as store:
        store.report(0, 1, {"train_loss": math.nan, "val_acc": 0.25})
    study = Study.read(folder)
    assert study.trials[0].curve == ((1, {"val_acc": 0.25}),)
    assert [archfile.dumps(line) for line in study.lines()]


def test_a_run_is_read_as_of_one_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A better trial that comes while it is read belongs to the next reading."""
    folder = made_runs.folder(tmp_path / "run", [0.5, 0.6])
    times = Store.times

    def meanwhile(store: Store) -> Any:
        found = times(store)
        made_runs.add(folder, [0.9])
        return found

    monkeypatch.setattr(Store, "times", meanwhile)
    study = Study.read(folder)
    assert [trial.value for trial in study.ranked] == [0.6, 0.5]
    assert len(Study.read(folder).trials) == 3


@pytest.mark.parametrize(
    "provenance",
    [
        {"evaluator": 5},
        {"evaluator": [1], "packages": 5, "command": 5},
        {"evaluator": {"train_images": math.nan}},
        {"evaluator": {"train_images": "x"}, "packages": {"torch": {"a": 1}}, "command": [5, None]},
    ],
)
def test_odd_provenance_is_no_obstacle(run: Run, tmp_path: Path, provenance: dict[str, Any]) -> None:
    folder = made_runs.folder(tmp_path / "a", [0.5, 0.6])
    with closing(sqlite3.connect(folder / "run.db")) as db, db:
        db.execute("""UPDATE trials SET evaluation = '{"metrics": {"val_acc": 0.5, "flops": 100}, "seconds": 1}'""")
    (folder / "run.yaml").write_text(yaml_files.dump_yaml({"format": "nastool.run/1", "provenance": provenance}))
    for command in (["compare", "a"], ["report", "a"]):
        assert run(*command).code == 0
