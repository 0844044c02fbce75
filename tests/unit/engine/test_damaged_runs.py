"""Damaged runs: damage is named, nothing is lost, and what a database says decides nothing outside of its run."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from nastool.core import folders
from nastool.core.errors import InputError
from nastool.engine.store import Store
from nastool.engine.study import Study
from nastool.nets import checkpoints
from tests.helpers import made_runs
from tests.helpers.running import Run, content, searched

SQL: dict[str, str] = {
    **{
        f"{column} is {value}": f"UPDATE trials SET {column} = {value} WHERE id = 1"
        for column, values in {
            "id": ["-1", "7", "9223372036854775807"],
            "state": ["'lost'", "x'ff'", "'running'"],
            "told": ["'x'", "x'ff'", "0.5"],
            "proposal": ["5", "x'ff'", "'5'", "'null'", "'{}'", "'[]'", f"'{'[' * 100_000}'"],
            "evaluation": ["5", "'[]'", "'{}'", "NULL"],
            "losses": ["5", "'{}'", "'[null]'", "'[NaN]'", "NULL"],
            "error": ["x'ff'"],
            "attempts": ["'x'"],
            "started": ["'x'", "9e999"],
            "finished": ["'x'", "-9e999"],
        }.items()
        for value in values
    },
    **{
        f"{field} of the {column} is {value}": f"UPDATE trials SET {column} = "
        f"replace(json_set({column}, '$.{field}', 'VALUE'), '\"VALUE\"', '{value}') WHERE id = 1"
        for column, fields in {
            "proposal": {
                "choices": ["5", "null", "{}", "[null, 1, 1, 1, 1, 1]"],
                "parent": ['"x"', "9e999", "1.5"],
                "budget": ['"x"', "9e999", "[1]"],
                "policy": ["[1]", "5"],
                "annealing": ["5", "[]", "[0, null]", "[0, 1, 2]"],
                "notes": ["5", "[]"],
                "unheard": ["5"],
            },
            "evaluation": {
                "metrics": ["5", "[]", '{"val_acc": NaN}', '{"val_acc": 1e400}', '{"val_acc": null}', "null"],
                "seconds": ["null", '"x"', "9e999"],
                "checkpoint": ["5", '"/etc/passwd"', '"../x"'],
                "policy": ["[1]"],
                "artifacts": ['["x"]', '{"x": 5}', '{"x": "run.db"}', '{"x": "checkpoints/trial-000000.artifact.x"}'],
                "notes": ["null"],
            },
        }.items()
        for field, values in fields.items()
        for value in values
    },
    **{
        f"{key} is {value}": f"INSERT OR REPLACE INTO run VALUES ('{key}', '{value}')"
        for key, values in {
            "final": [
                "5",
                "[]",
                "{}",
                '{"trials": 3}',
                '{"trials": "x", "document": {}}',
                '{"trials":1,"document":[]}',
            ],
            "trials": ['"x"', "[]"],
            "origin": ["5", "[]"],
        }.items()
        for value in values
    },
    **{
        f"configuration with {part} {value}": f"UPDATE run SET value = json_set(value, '$.{part}', json('{value}')) "
        "WHERE key = 'config'"
        for part in ("strategy", "evaluator", "seed")
        for value in ("null", '"x"', "[]", "{}")
    },
    "configuration without strategy": "UPDATE run SET value = json_remove(value, '$.strategy') WHERE key = 'config'",
    "result whose run is a number": """INSERT INTO run VALUES ('final', '{"trials": 2, "document": {"run": 5}}')""",
    "reports that are no objects": "INSERT INTO reports VALUES (1, 1, '[5]')",
}


@pytest.mark.parametrize("damage", SQL)
def test_a_damaged_database_is_said_to_be(tmp_path: Path, damage: str) -> None:
    folder = made_runs.folder(tmp_path / "run", [0.5, 0.6])
    with closing(sqlite3.connect(folder / "run.db")) as db, db:
        db.execute(SQL[damage])
    with pytest.raises(InputError, match="damaged") as caught:
        Study.read(folder)
    assert "\n" not in str(caught.value)
    assert "run" in str(caught.value)


STATES = ["5", "[]", "{}", "null", '"x"', '{"rng": 5}', '{"rng": {"state": {}}}', '{"rng": null, "starts": 1}']


RESUMED = {
    **{f"state {state}": f"UPDATE run SET value = '{state}' WHERE key = 'strategy'" for state in STATES},
    **{
        f"{key} is {value}": "UPDATE run SET value = "
        f"json_set(value, '$.{key}', json('{value}')) WHERE key = 'strategy'"
        for key, value in [
            ("starts", '"x"'),
            ("starts", "-1"),
            ("starts", "99"),
            ("starts", "2.5"),
            ("center", "77"),
            ("next", "[]"),
            ("rng.state.state", "-1"),
            ("planned", "5"),
            ("planned", "[[[9,9,9,9,9,9],0]]"),
            ("planned", '[[[0,0,0,0,0,0],"x"]]'),
            ("theta", "[1]"),
            ("theta", '["x"]'),
            ("fitted", "null"),
        ]
    },
    "no state": "DELETE FROM run WHERE key = 'strategy'",
    "a hole": "DELETE FROM trials WHERE id = 2",
    "no first": "DELETE FROM trials WHERE id = 0",
    "told twice": "UPDATE trials SET told = 1 WHERE id = 2",
    "a parent to come": "UPDATE trials SET proposal = json_set(proposal, '$.parent', 4) WHERE id = 2",
    "a text that is none": "UPDATE run SET value = CAST(x'22ff22' AS TEXT) WHERE key = 'strategy'",
}


@pytest.mark.parametrize("damage", RESUMED)
def test_a_search_does_not_go_on_from_damage(run: Run, macro_table: str, damage: str) -> None:
    key = damage.partition(" ")[0]
    strategy = "bo" if key in ("planned", "theta", "fitted") else "local-search"
    options = ["-S", "batch=3"] if strategy == "bo" else []
    command = ["search", "-s", strategy, *options, "-S", "init=3", "--space", "nasbench-macro", "--evaluator", "table"]
    command += ["-E", f"file={macro_table}", "--out", "a"]
    assert run(*command, "-n", "5").code == 0
    with closing(sqlite3.connect("a/run.db")) as db, db:
        assert db.execute(RESUMED[damage]).rowcount == 1
    run(*command, "-n", "8").refused("a/run.db is damaged")


def test_a_schema_that_is_no_text(run: Run, macro_table: str) -> None:
    command = [
        "search",
        "-s",
        "random",
        "--space",
        "nasbench-macro",
        "--evaluator",
        "table",
        "-E",
        f"file={macro_table}",
    ]
    assert run(*command, "-n", "3", "--out", "a").code == 0
    with closing(sqlite3.connect("a/run.db")) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.execute("PRAGMA journal_mode = DELETE")
    data = Path("a/run.db").read_bytes()
    Path("a/run.db").write_bytes(data.replace(b"CREATE TABLE trials", b"CREATE TABLE tr\xff\xfels"))
    for words in (["status", "a"], ["top", "a"], ["report", "a"], [*command, "-n", "5", "--out", "a"]):
        run(*words).refused("a/run.db")


def test_commands_on_damaged_runs(run: Run, tmp_path: Path) -> None:
    for name, statement in {"times": SQL["finished is 'x'"], "trial": SQL["metrics of the evaluation is 5"]}.items():
        folder = made_runs.folder(tmp_path / name, [0.5, 0.6])
        with closing(sqlite3.connect(folder / "run.db")) as db, db:
            db.execute(statement)
        for command in ("report", "compare", "plot", "status"):
            run(command, name).refused("damaged")


def _empty_table(folder: Path, *rows: str) -> None:
    (folder / "run.db").unlink()
    made_runs.sql(
        folder / "run.db", "CREATE TABLE run (key, value)", *(f"INSERT INTO run VALUES {row}" for row in rows)
    )


def _truncate(folder: Path, size: int) -> None:
    os.truncate(folder / "run.db", size)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "text": lambda f: (f / "run.db").write_text("my diary\n" * 100),
    "zeros": lambda f: (f / "run.db").write_bytes(bytes(8192)),
    "truncated header": lambda f: _truncate(f, 100),
    "truncated": lambda f: _truncate(f, 4096),
    "no rows": _empty_table,
    "schema is no JSON": lambda f: _empty_table(f, "('schema', 'x')"),
    "schema is binary": lambda f: _empty_table(f, "('schema', x'ff')"),
    "schema alone": lambda f: _empty_table(f, "('schema', '1')"),
    "newer": lambda f: made_runs.sql(f / "run.db", "UPDATE run SET value = '99' WHERE key = 'schema'"),
    "no configuration": lambda f: made_runs.sql(f / "run.db", "DELETE FROM run WHERE key = 'config'"),
    "odd configuration": lambda f: made_runs.sql(f / "run.db", "UPDATE run SET value = '5' WHERE key = 'config'"),
    "unknown space": lambda f: made_runs.sql(
        f / "run.db", "UPDATE run SET value = replace(value, 'bench201', 'bench9')"
    ),
    "choices are no JSON": lambda f: made_runs.sql(f / "run.db", "UPDATE trials SET proposal = 'x'"),
    "choices out of range": lambda f: made_runs.sql(
        f / "run.db", "UPDATE trials SET proposal = '{\"choices\": [9,9,9,9,9,9]}'"
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_run(search: Run, run: Run, finished: Path, damage: str) -> None:
    folder = Path("out")
    shutil.copytree(finished, folder)
    DAMAGES[damage](folder)
    before = content(folder)
    run("status", "out").refused("out" if damage != "unknown space" else "space")
    run("top", "out").refused("out" if damage != "unknown space" else "space")
    search("-n", "6").refused("out")
    after = content(folder)
    assert {name: after[name] for name in before if name != "run.lock"} == {
        name: data for name, data in before.items() if name != "run.lock"
    }


class TestFiles:
    @pytest.mark.parametrize("name", ["/etc/passwd", "../a/best.json", "checkpoints/../../x", "", "a\0b"])
    @pytest.mark.parametrize("command", ["top", "status", "report"])
    def test_names_that_lead_out_of_the_run_are_damage(self, run: Run, tmp_path: Path, name: str, command: str) -> None:
        made_runs.folder(tmp_path / "a", [0.5, 0.6])
        with closing(sqlite3.connect(tmp_path / "a" / "run.db")) as db:
            db.execute("UPDATE trials SET evaluation = json_set(evaluation, '$.checkpoint', ?)", (name,))
            db.commit()
        run(command, "a").refused("a/run.db is damaged", "trial")

    @pytest.mark.usefixtures("inline", "one_thread")
    def test_a_search_deletes_no_file_that_a_database_names(self, run: Run, tmp_path: Path) -> None:
        """It was unlinked when the trial was no longer among the best."""
        victim = tmp_path / "victim.txt"
        victim.write_text("mine")
        assert searched(run, "--trials", "2", "--keep", "1").code == 0
        with closing(sqlite3.connect(tmp_path / "a" / "run.db")) as db:
            db.execute("UPDATE trials SET evaluation = json_set(evaluation, '$.checkpoint', ?)", (str(victim),))
            db.commit()
        searched(run, "--trials", "3", "--keep", "1").refused("a/run.db is damaged")
        assert victim.read_text() == "mine"

    def test_links_out_of_the_run_are_refused(self, tmp_path: Path) -> None:
        """Another run's checkpoints would be swept, or copied."""
        others = tmp_path / "b" / "checkpoints"
        others.mkdir(parents=True)
        theirs = others / "trial-000001.safetensors"
        theirs.touch()
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "checkpoints").symlink_to(others)
        with pytest.raises(InputError, match="leads out of the run"):
            checkpoints.sweep(tmp_path / "a", {}, set(), 5)
        assert theirs.exists()
        with pytest.raises(InputError, match="leads out of the run"):
            folders.within(tmp_path / "a", checkpoints.name_of(1))
        (tmp_path / "link").symlink_to(tmp_path / "b")  # the run itself may lie anywhere
        assert folders.within(tmp_path / "link", checkpoints.name_of(1)).exists()

    def test_trials_that_never_were_have_no_files(self, tmp_path: Path) -> None:
        folder = tmp_path / "checkpoints"
        folder.mkdir()
        for name in ("trial-000001", "trial-000007", "trial-notes"):
            (folder / f"{name}.safetensors").touch()
        checkpoints.sweep(tmp_path, {}, set(), 5)
        assert sorted(file.stem for file in folder.iterdir()) == ["trial-000007", "trial-notes"]


class TestDatabase:
    def begun(self, path: Path) -> Store:
        made_runs.folder(path, [0.5, 0.6])
        store = Store.open(path / "run.db")
        store.begin()
        store.put("x", 1)
        return store

    def test_a_database_that_is_deleted_meanwhile_is_put_back(self, tmp_path: Path) -> None:
        """The search went on, and ended with a result and code 0."""
        with self.begun(tmp_path / "a") as store:
            for path in (tmp_path / "a").glob("run.db*"):
                path.unlink()
            with pytest.raises(InputError, match="was deleted while it was in use, and is put back"):
                store.commit()
        with Store.read(tmp_path / "a" / "run.db") as store:
            assert store.get("x") == 1 and store.count()["done"] == 2

    def test_one_that_is_replaced_is_saved_beside(self, tmp_path: Path) -> None:
        other = made_runs.folder(tmp_path / "b", [0.7]) / "run.db"
        with self.begun(tmp_path / "a") as store:
            other.rename(tmp_path / "a" / "run.db")
            with pytest.raises(InputError, match=r"was replaced by another file .* in .*run\.db\.saved"):
                store.commit()
        with Store.read(tmp_path / "a" / "run.db.saved") as store:
            assert store.get("x") == 1 and store.count()["done"] == 2
