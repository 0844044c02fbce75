"""Runs of earlier versions: shown as they are, without a write, and continued.

schema-4.tar.gz holds two of schema 4: `bananas`, finished after 5 trials with a sixth one planned, and
`enas`, killed in the last of three rounds.
"""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nastool.core import registry
from nastool.core.errors import InputError
from nastool.core.values import Evaluation, Proposal, Trial
from nastool.engine.migrations import MIGRATIONS, SCHEMA
from nastool.engine.store import Store
from nastool.engine.study import Study
from nastool.spaces.nasbench201 import NasBench201
from tests.helpers import made_runs
from tests.helpers.running import Run

BANANAS = (
    "search -s bananas -S init=3 -S batch=3 -S networks=1 -S epochs=5 --space nasbench201 --evaluator train "
    "-E epochs=1 --keep 1"
)
ENAS = (
    "search -s enas -S candidates=3 -S steps=2 -S children=2 -S hidden=1 --space nasbench201 --evaluator supernet "
    "-E epochs=3 -E batch_size=30 --retrain 0"
)
SIZES = "--data digits --device cpu --scale channels=1,cells=1 -E train_size=60"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """The folder with both runs."""
    shutil.unpack_archive(Path(__file__).parent / "schema-4.tar.gz", tmp_path, filter="data")
    return tmp_path


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings in the tests' own process."""
    for name in ("train", "supernet"):
        monkeypatch.setattr(registry.load("evaluator", name), "inline", True)


def content(folder: Path) -> dict[str, bytes]:
    """What is in the folder; what SQLite lays beside a database that is read is none of it."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".db-shm", ".db-wal"))
    return {str(path): path.read_bytes() for path in files}


def schema(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "run.db")) as db:
        return int(db.execute("SELECT value FROM run WHERE key = 'schema'").fetchone()[0])


class TestShown:
    def test_a_study_has_all_of_it(self, old: Path) -> None:
        study = Study.read(old / "bananas")
        assert [trial.arch.key for trial in study.trials][:2] == ["fd969211e5be", "73fe2e8d0ac7"]
        assert [trial.expected for trial in study.trials] == [None] * 3 + [0.09671800660590672, 0.09671480538584443]
        assert [trial.value for trial in study.trials] == [
            0.08333333333333333, 0.10277777777777777, 0.1, 0.1, 0.10277777777777777,
        ]  # fmt: skip
        assert study.state == "finished" and study.trials[2].metrics["seconds"] == 0.07037715499609476
        assert study.best is not None and study.best.id == 4

    def test_rounds_of_a_policy(self, old: Path) -> None:
        study = Study.read(old / "enas")
        assert [(trial.state, trial.is_round) for trial in study.trials] == [
            ("done", True), ("done", True), ("running", True),
        ]  # fmt: skip
        first, second, running = study.trials
        assert [len(shares) for shares in first.frequencies] == [5] * 6 and running.frequencies is None
        assert second.trial.evaluation is not None and second.trial.evaluation.policy is not None
        assert set(second.trial.evaluation.policy) == {"best", "rounds_left"}
        assert study.state == "interrupted"

    @pytest.mark.parametrize("name", ["bananas", "enas"])
    def test_commands_write_nothing(self, old: Path, run: Run, name: str) -> None:
        before = content(old / name)
        (line,) = run("status", name).accepted()
        assert line["state"] == ("finished" if name == "bananas" else "interrupted")
        assert len(run("top", name, "-k", "2").accepted()) == 2
        assert run("compare", name).code == 0
        assert run("report", name, "--out", "page.html").code == 0
        assert content(old / name) == before and schema(old / name) == 4

    def test_in_a_folder_that_cannot_be_written(self, old: Path) -> None:
        (old / "bananas").chmod(0o555)
        try:
            assert len(Study.read(old / "bananas").trials) == 5
        finally:
            (old / "bananas").chmod(0o755)


@pytest.mark.usefixtures("inline", "one_thread")
class TestContinued:
    def test_a_search_with_a_model(self, old: Path, run: Run) -> None:
        """The trial that was planned is the next one, with what was expected of it."""
        before = Study.read(old / "bananas").trials
        assert run(*BANANAS.split(), *SIZES.split(), "--trials", "7", "--out", "bananas").code == 0
        study = Study.read(old / "bananas")
        assert schema(old / "bananas") == SCHEMA
        assert [(trial.arch, trial.metrics) for trial in study.trials[:5]] == [
            (trial.arch, trial.metrics) for trial in before
        ]
        assert study.trials[5].arch.key == "da041fb3f8ed"
        assert study.trials[5].expected == pytest.approx(0.09671225492741276)
        assert [trial.state for trial in study.trials] == ["done"] * 7 and study.state == "finished"

    def test_a_search_by_rounds(self, old: Path, run: Run) -> None:
        """The round that was killed is repeated with the shared weights as they were."""
        assert run(*ENAS.split(), *SIZES.split(), "--trials", "6", "--out", "enas").code == 0
        study = Study.read(old / "enas")
        assert [trial.is_round for trial in study.trials] == [True] * 3 + [False] * 3
        assert all(trial.state == "done" for trial in study.trials)
        assert study.trials[2].arch.key == "eb2d2a27ac61"
        assert study.trials[2].metrics["train_loss"] == pytest.approx(2.320733, abs=1e-4)

    def test_it_was_changed_by_nothing_but_what_follows(self, old: Path) -> None:
        before = Study.read(old / "enas")
        Store.open(old / "enas" / "run.db").close()
        assert schema(old / "enas") == SCHEMA
        after = Study.read(old / "enas")
        assert after.trials == before.trials and after.config == before.config
        Store.open(old / "enas" / "run.db").close()
        assert Study.read(old / "enas").trials == before.trials


# --- every column of schema 4

TABLE_4 = """
CREATE TABLE trials (
    id INTEGER PRIMARY KEY, state TEXT NOT NULL, told INTEGER, choices TEXT NOT NULL,
    parent INTEGER, budget REAL, policy TEXT, inherit INTEGER NOT NULL DEFAULT 0, annealing TEXT,
    expected REAL, frequencies TEXT,
    metrics TEXT, losses TEXT, loss REAL, seconds REAL, checkpoint TEXT, new_policy TEXT, error TEXT,
    attempts INTEGER NOT NULL DEFAULT 1, started REAL NOT NULL, finished REAL
)"""
CHOICES = (0, 1, 2, 3, 4, 0)
ROWS: list[dict[str, Any]] = [
    {"id": 0, "state": "failed", "told": 0, "losses": "[]", "error": "why", "attempts": 2, "finished": 2.5},
    {
        "id": 1,
        "state": "done",
        "told": 1,
        "parent": 0,
        "budget": 0.1,
        "policy": '{"round": 3}',
        "inherit": 1,
        "annealing": "[0.25, 0.5]",
        "expected": -0.1,
        "frequencies": "[[0.5, 0.5], [1.0]]",
        "metrics": '{"val_acc": 0.3, "params": 12}',
        "losses": "[-0.3]",
        "loss": -0.3,
        "seconds": 0.1 + 0.2,
        "checkpoint": "checkpoints/trial-000001.safetensors",
        "new_policy": '{"best": [1], "frequencies": [[0.25, 0.75], [1.0]]}',
        "finished": 3.5,
    },
    {"id": 2, "state": "running"},
]


@pytest.fixture
def every(tmp_path: Path) -> Path:
    """A run of schema 4 that uses every column."""
    folder = made_runs.folder(tmp_path / "every", [])
    with closing(sqlite3.connect(folder / "run.db")) as db, db:
        db.execute("DROP TABLE trials")
        db.execute(TABLE_4)
        db.execute("UPDATE run SET value = '4' WHERE key = 'schema'")
        for row in ROWS:
            whole = {"choices": json.dumps(CHOICES), "started": 1.5 + row["id"], **row}
            marks = ",".join("?" * len(whole))
            db.execute(f"INSERT INTO trials ({','.join(whole)}) VALUES ({marks})", tuple(whole.values()))
    return folder


def test_every_column_arrives(every: Path) -> None:
    arch = NasBench201().arch(CHOICES)
    proposal = Proposal(
        arch,
        0,
        0.1,
        {"round": 3},
        inherit=True,
        annealing=(0.25, 0.5),
        notes={"expected": -0.1, "frequencies": [[0.5, 0.5], [1.0]]},
    )
    evaluation = Evaluation(
        {"val_acc": 0.3, "params": 12},
        0.1 + 0.2,
        "checkpoints/trial-000001.safetensors",
        {"best": [1]},
        notes={"frequencies": [[0.25, 0.75], [1.0]]},
    )
    wanted = [
        Trial(0, Proposal(arch), "failed", error="why"),
        Trial(1, proposal, "done", evaluation, (-0.3,)),
        Trial(2, Proposal(arch)),
    ]
    for opened in (Store.read, Store.open):
        with opened(every / "run.db") as store:
            assert list(store.trials()) == wanted
            assert store.times() == {0: (0, 1.5, 2.5, 2), 1: (1, 2.5, 3.5, 1), 2: (None, 3.5, None, 1)}
            assert [trial.id for trial in store.best(9)] == [1] and store.spent()[0] == pytest.approx(1.3)


@pytest.mark.parametrize("column", ["choices", "policy", "annealing", "frequencies", "metrics", "new_policy"])
@pytest.mark.parametrize("value", ["x", b"\xff", "[" * 100_000, "5"])
def test_a_damaged_one_says_so_and_is_left_alone(every: Path, column: str, value: object) -> None:
    with closing(sqlite3.connect(every / "run.db")) as db, db:
        db.execute(f"UPDATE trials SET {column} = ? WHERE id = 1", (value,))
    if column == "frequencies" and value == "5":  # only reports read it
        assert Study.read(every).trials[1].trial.proposal.notes["frequencies"] == 5
        return
    with pytest.raises(InputError, match="damaged"):
        Study.read(every)
    if value != "5":
        with pytest.raises(InputError, match="is damaged"):
            Store.open(every / "run.db")
        assert schema(every) == 4


def test_a_migration_that_is_interrupted_leaves_what_was(every: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from nastool.engine import migrations

    def fails(db: sqlite3.Connection) -> None:
        MIGRATIONS[4](db)
        raise KeyboardInterrupt

    before = Study.read(every)
    with monkeypatch.context() as patch:
        patch.setattr(migrations, "MIGRATIONS", {4: fails})
        with pytest.raises(KeyboardInterrupt):
            Store.open(every / "run.db")
    assert schema(every) == 4 and Study.read(every).trials == before.trials
    Store.open(every / "run.db").close()
    assert Study.read(every).trials == before.trials


def test_of_what_failed_before_the_kind_is_not_known(tmp_path: Path) -> None:
    """A run of schema 6 goes on; what fails then has a kind."""
    folder = made_runs.folder(tmp_path / "a", [0.5, "why"])
    before = (
        "ALTER TABLE trials DROP COLUMN fault",
        "DROP TABLE logs",
        "UPDATE run SET value = '6' WHERE key = 'schema'",
    )
    made_runs.sql(folder / "run.db", *before)
    (_, failed) = Study.read(folder).trials
    assert failed.error == "why" and failed.fault is None and schema(folder) == 6
    with Store.open(folder / "run.db") as store:
        assert schema(folder) == SCHEMA and store.faults() == {} and store.log(1) == ""
        proposal = failed.trial.proposal
        store.begin()
        store.add(Trial(2, proposal))
        store.finish(Trial(2, proposal, "failed", error="diverged", fault="nan"), 2, "the end")
        store.commit()
        assert store.faults() == {"nan": 1} and store.log(2) == "the end"


def test_every_earlier_schema_leads_to_this_one() -> None:
    assert sorted(MIGRATIONS) == list(range(min(MIGRATIONS), SCHEMA))


@pytest.mark.parametrize("version", ["3", "99", '"4"'])
def test_others_are_refused(every: Path, version: str) -> None:
    with closing(sqlite3.connect(every / "run.db")) as db, db:
        db.execute("UPDATE run SET value = ? WHERE key = 'schema'", (version,))
    for opened in (Store.read, Store.open):
        with pytest.raises(InputError, match="use the version that wrote it"):
            opened(every / "run.db")
