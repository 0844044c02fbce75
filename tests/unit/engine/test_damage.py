"""What a hostile or clumsy user can do to runs, files, the page and the Python interface: nothing that is lost."""

from __future__ import annotations

import json
import math
import os
import shlex
import shutil
import socket
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

import nastool
from nastool.analysis.figures import KINDS, draw, save
from nastool.analysis.report.server import Pages, Server
from nastool.core import archfile, files
from nastool.core.errors import InputError
from nastool.core.values import Trial
from nastool.deploy import models
from nastool.engine import results as product
from nastool.engine.store import Store
from nastool.engine.study import Study
from tests.helpers import made_runs
from tests.helpers.running import Run
from tests.unit.cli.test_bad_input import process


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A made-up one of all of NAS-Bench-Macro."""
    from nastool.spaces.nasbench_macro import NasBenchMacro

    archs = np.array([arch.choices for arch in NasBenchMacro().members()], dtype=np.uint8)
    path = tmp_path_factory.mktemp("table") / "macro.npz"
    np.savez(path, allow_pickle=False, arch=archs, val=np.random.default_rng(0).random(len(archs)) * 100)
    return str(path)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with one small network."""
    folder = tmp_path_factory.mktemp("trained")
    flags = "-s random --data digits --epochs 1 --scale channels=2,cells=1 -E train_size=50 --device cpu --trials 1"
    outcome = process(f"$nastool search {flags} --out a", folder)
    assert outcome.code == 0, outcome
    return folder / "a"


@pytest.fixture
def a(trained: Path, tmp_path: Path) -> Path:
    """A copy of the run to spoil."""
    shutil.copytree(trained, tmp_path / "a")
    return tmp_path / "a"


# --- run.db

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
def test_a_search_does_not_go_on_from_damage(run: Run, table: str, damage: str) -> None:
    key = damage.partition(" ")[0]
    strategy = "bo" if key in ("planned", "theta", "fitted") else "local-search"
    options = ["-S", "batch=3"] if strategy == "bo" else []
    command = ["search", "-s", strategy, *options, "-S", "init=3", "--space", "nasbench-macro", "--evaluator", "table"]
    command += ["-E", f"file={table}", "--out", "a"]
    assert run(*command, "-n", "5").code == 0
    with closing(sqlite3.connect("a/run.db")) as db, db:
        assert db.execute(RESUMED[damage]).rowcount == 1
    run(*command, "-n", "8").refused("a/run.db is damaged")


def test_a_schema_that_is_no_text(run: Run, table: str) -> None:
    command = ["search", "-s", "random", "--space", "nasbench-macro", "--evaluator", "table", "-E", f"file={table}"]
    assert run(*command, "-n", "3", "--out", "a").code == 0
    with closing(sqlite3.connect("a/run.db")) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        db.execute("PRAGMA journal_mode = DELETE")
    data = Path("a/run.db").read_bytes()
    Path("a/run.db").write_bytes(data.replace(b"CREATE TABLE trials", b"CREATE TABLE tr\xff\xfels"))
    for words in (["status", "a"], ["top", "a"], ["report", "a"], [*command, "-n", "5", "--out", "a"]):
        run(*words).refused("a/run.db")


def test_numbers_that_are_none(run: Run, a: Path) -> None:
    line = json.loads((a / "best.json").read_text())
    for number in ("NaN", "1" + "0" * 400, "1e400"):
        text = json.dumps({**line, "metrics": {"val_acc": "NUMBER"}}).replace('"NUMBER"', number)
        run("show", "--text", "-", stdin=text).refused()
        for key in ("mean", "std", "scale", "task"):
            value = {"mean": f"[{number}]", "std": f"[{number}]"}.get(key, f'{{"channels": {number}}}')
            with pytest.raises(InputError, match="no checkpoint of nastool"):
                models.load(str(_spoiled(a, **{key: value})))


def test_commands_on_damaged_runs(run: Run, tmp_path: Path) -> None:
    for name, statement in {"times": SQL["finished is 'x'"], "trial": SQL["metrics of the evaluation is 5"]}.items():
        folder = made_runs.folder(tmp_path / name, [0.5, 0.6])
        with closing(sqlite3.connect(folder / "run.db")) as db, db:
            db.execute(statement)
        for command in ("report", "compare", "plot", "status"):
            run(command, name).refused("damaged")


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
    (folder / "run.yaml").write_text(files.dump_yaml({"format": "nastool.run/1", "provenance": provenance}))
    for command in (["compare", "a"], ["report", "a"]):
        assert run(*command).code == 0


# --- files that are written


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    files.write_atomic(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_a_pipe_stays_a_pipe(tmp_path: Path) -> None:
    """What is no file is written to: as root, `-o /dev/null` must not replace it by a file."""
    os.mkfifo(tmp_path / "pipe")
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_text()))
    reader.start()
    files.write_atomic(tmp_path / "pipe", "text")
    reader.join(10)
    assert got == ["text"]
    assert (tmp_path / "pipe").is_fifo()


def test_what_cannot_be_replaced_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("folder", "missing/x", "x" * 300):
        with pytest.raises(InputError, match="cannot write"):
            files.write_atomic(tmp_path / name, "text")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


OUTPUTS = {
    "report": ["report", "a", "-o"],
    "compare": ["compare", "a", "-o"],
    "export": ["export", "a", "--to", "python", "--force", "-o"],
    "weights": ["export", "a", "--to", "safetensors", "--force", "-o"],
    "svg": ["show", "a", "--to", "svg", "--force", "-o"],
    "png": ["show", "a", "--to", "png", "--force", "-o"],
    "plot": ["plot", "a", "-f", "best-over-trials", "-o"],
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_places_for_output(run: Run, a: Path, name: str) -> None:
    before = sorted(path.name for path in a.parent.iterdir())
    for out in ("missing/x.png", "x" * 300 + ".png", "y" * 260, *(["", "."] if name != "plot" else [])):
        run(*OUTPUTS[name], out).refused("--out" if len(out) < 250 or name == "plot" else "")
    assert sorted(path.name for path in a.parent.iterdir()) == before
    odd = os.fsdecode(b"\xff\n<b>%#?.png")
    assert run(*OUTPUTS[name], odd).code == 0
    assert Path(odd).stat().st_size


def test_programs_are_written_to_names_that_are_no_text(run: Run, a: Path) -> None:
    """torch ends the process for such a name."""
    name = os.fsdecode(b"\xff.pt2")
    assert run("export", "a", "--to", "pt2", "-o", name).code == 0
    assert Path(name).stat().st_size


def test_figures_are_whole_or_not_there(tmp_path: Path) -> None:
    ((_, drawn),) = draw(KINDS["best-over-trials"], [made_runs.study([0.5, 0.6])])
    (tmp_path / "a.png").mkdir()
    with pytest.raises(InputError, match="cannot write"):
        save(drawn, tmp_path / "a.png")
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


# --- what a run leaves behind


def test_folders_in_the_way_of_what_a_run_leaves(tmp_path: Path, table: str) -> None:
    """They are somebody's; the result is printed, and exit code 0."""
    names = ("model.py", "trials.jsonl", "trials.csv", "report.html")
    script = f"$nastool search -s random --space nasbench-macro --evaluator table -E file={shlex.quote(table)} --out a"
    assert process(f"{script} -n 2 --no-report", tmp_path).code == 0
    for name in names:
        (tmp_path / "a" / name).unlink(missing_ok=True)
        (tmp_path / "a" / name).mkdir()
    outcome = process(f"{script} -n 3 --report", tmp_path)
    assert len(outcome.accepted()) == 1
    for name in names[1:]:
        assert f"note: {name} could not be written" in outcome.err
    assert all((tmp_path / "a" / name).is_dir() for name in names)


def test_a_full_disk_costs_no_result(tmp_path: Path, table: str) -> None:
    """The report is larger than any file may be."""
    script = f"$nastool search -s random --space nasbench-macro --evaluator table -E file={shlex.quote(table)} -n 4"
    outcome = process(f"ulimit -f 90; {script} --report --out a", tmp_path)
    assert len(outcome.accepted()) == 1, outcome
    assert "note: report.html could not be written" in outcome.err
    assert not list((tmp_path / "a").glob("report.html*"))


def test_no_place_for_a_baseline(tmp_path: Path, table: str) -> None:
    """Said before anything is replaced."""
    script = (
        f"$nastool search -s evolution --space nasbench-macro --evaluator table -E file={shlex.quote(table)} --out a"
    )
    assert process(f"{script} -n 3 --no-report", tmp_path).code == 0
    (tmp_path / "a" / "baseline").write_text("mine")
    process(f"{script} -n 2 --with-baseline --force", tmp_path).refused("a/baseline is a file")
    assert len(Study.read(tmp_path / "a").trials) == 3
    assert (tmp_path / "a" / "baseline").read_text() == "mine"


def test_weights_that_are_gone(a: Path) -> None:
    with pytest.raises(InputError, match="put the file back"):
        product.result(a, {}, a / "checkpoints" / "trial-000009.safetensors")
    assert (a / "best.safetensors").is_file() and json.loads((a / "best.json").read_text())["weights_digest"]
    assert not list(a.glob("*.new"))


def test_whole(a: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(a.parent)
    document = json.loads((a / "best.json").read_text())
    assert product.whole(Path("a"), document, report=False)
    assert not product.whole(a, document, report=False)  # as after it was moved
    for name in ("model.py", "best.safetensors", "trials.csv", "best.json"):
        (a / name).rename(a / "away")
        assert not product.whole(Path("a"), document, report=False), name
        (a / "away").rename(a / name)


# --- trained networks


def _spoiled(folder: Path, **metadata: str) -> Path:
    path = folder / "best.safetensors"
    with safe_open(path, framework="np") as file:
        tensors, found = {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())
    save_file(tensors, path, {**found, **metadata})
    return path


@pytest.mark.parametrize(
    "metadata",
    [{"scale": "5"}, {"scale": "[1]"}, {"std": "[0]"}, {"std": "[1e-300]"}, {"classes": "[0,1,2,3,4,5,6,7,8,9]"}],
    ids=str,
)
def test_weights_that_say_nonsense(a: Path, metadata: dict[str, str]) -> None:
    with pytest.raises(InputError, match="no checkpoint of nastool"):
        models.load(str(_spoiled(a, **metadata)))


def test_images_that_are_none(trained: Path) -> None:
    model = nastool.load(trained)
    good = np.random.default_rng(0).integers(0, 256, (3, 1, 8, 8), dtype=np.uint8)
    wanted = model.predict(good)
    views: list[NDArray[np.uint8]] = [good[::-1][::-1], np.ascontiguousarray(good[::-1])[::-1]]
    good.flags.writeable = False
    for same in (good, *views):
        assert np.array_equal(model.predict(same), wanted)
    bad: list[Any] = [good / 255, good[0], good.repeat(3, 1), good.tolist(), None]
    for each in bad:
        with pytest.raises(InputError, match="uint8"):
            model.predict(each)


# --- retrain


def _line(folder: Path, **more: Any) -> None:
    path = folder / "best.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


@pytest.mark.parametrize(
    ("more", "fragment"),
    [
        ({"scale": 5}, "scale"),
        ({"scale": {"channels": "x"}}, "scale"),
        ({"scale": {"channels": None}}, "scale"),
        ({"scale": {"channels": [1]}}, "scale"),
        ({"evaluator": {"name": "train", "options": {"data": "digits", "recipe": [1]}}}, "recipe"),
        ({"evaluator": {"name": "train", "options": {"data": 5}}}, "data"),
    ],
)
def test_retrain_of_a_spoiled_line(run: Run, a: Path, more: dict[str, Any], fragment: str) -> None:
    _line(a, **more)
    run("retrain", "a/best.json", "--out", "r").refused(fragment)
    assert not Path("r").exists()


def test_retrain_with_bad_data_says_so_and_nothing_else(run: Run, a: Path) -> None:
    run("retrain", "a", "--data", "npz:none.npz", "--device", "cpu", "--out", "r").refused("none.npz")
    assert not Path("r").exists()


@pytest.mark.slow
def test_a_seed_that_fails_is_left_out_of_the_mean(
    run: Run, a: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And said so; the network that counts is the first that there is."""
    from nastool.engine.search import Search

    told = Search._trial

    def fails(search: Search, event: Any) -> Any:
        trial = told(search, event)
        return trial if trial.id else Trial(trial.id, trial.proposal, "failed", error="diverged")

    monkeypatch.setattr(Search, "_trial", fails)
    command = ["retrain", "a", "--epochs", "1", "--seeds", "4,5", "-E", "train_size=50", "--device", "cpu"]
    outcome = run(*command)
    (found,) = outcome.accepted()
    assert "note: 1 of 2 trainings failed; the last: diverged" in outcome.err
    assert "(seed 5)\n" in outcome.err and "over 1" not in outcome.err
    assert found["runs"][0] == {"seed": 4, "error": "diverged"}
    assert found["metrics"] == found["runs"][1]["metrics"]


@pytest.mark.slow
def test_retrain_makes_again_what_was_lost(run: Run, a: Path) -> None:
    """After a kill while it was written, or when files were deleted or the folder was moved; nothing is trained."""
    command = ["retrain", "a", "--epochs", "1", "--seeds", "0,1", "-E", "train_size=50", "--device", "cpu"]
    (first,) = run(*command).accepted()
    folder = Path("a/retrained")
    tested = Store.read(folder / "run.db").get("tested")
    for name in ("model.py", "best.safetensors", "best.json", "trials.csv"):
        (folder / name).unlink()
        assert run(*command).accepted() == [first]
        assert (folder / name).is_file()
    assert "already has" in run(*command).err
    folder.rename("moved")
    (moved,) = run(*command, "--out", "moved").accepted()
    assert moved["weights"] == "moved/best.safetensors"
    assert moved["metrics"] == first["metrics"]
    assert Store.read(Path("moved/run.db")).get("tested") == tested


# --- the page


@pytest.fixture
def ask(tmp_path: Path) -> Iterator[Callable[[bytes], bytes]]:
    """Sends bytes to a served page, and returns all that comes back."""
    with Server(Pages([made_runs.folder(tmp_path / "run", [0.5])]), 0) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()

        def ask(data: bytes) -> bytes:
            host = f"127.0.0.1:{server.server_port}".encode()
            with socket.create_connection(("127.0.0.1", server.server_port), timeout=10) as connection:
                connection.sendall(data.replace(b"HOST", host))
                connection.shutdown(socket.SHUT_WR)
                return b"".join(iter(lambda: connection.recv(65536), b""))

        yield ask
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"<script>alert(1)</script> / HTTP/1.1\r\nHost: HOST\r\n\r\n", b" 501 "),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: HOST\r\n\r\n", b" 414 "),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 70_000 + b"\r\nHost: HOST\r\n\r\n", b" 431 "),
    ],
)
def test_requests_that_are_none(ask: Callable[[bytes], bytes], data: bytes, status: bytes) -> None:
    """Not even they are answered without the headers, or with what they said."""
    answer = ask(data)
    assert status in answer.splitlines()[0]
    assert b"Content-Security-Policy: default-src 'none'" in answer
    assert b"script>" not in answer


def test_what_a_request_carries_is_no_request(ask: Callable[[bytes], bytes]) -> None:
    inner = b"GET /version HTTP/1.1\r\nHost: HOST\r\n\r\n"
    answer = ask(b"GET /nothing HTTP/1.1\r\nHost: HOST\r\nContent-Length: 60\r\n\r\n" + inner)
    assert answer.count(b"HTTP/1.1 ") == 1


# --- from Python


def _search(table: str, **options: Any) -> Study:
    given: dict[str, Any] = {"strategy": "random", "space": "nasbench-macro", "evaluator": "table", "report": False}
    return nastool.search(**{**given, "evaluator_options": {"file": table}, "trials": 3, **options})


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_values_of_other_kinds(here: Path, table: str) -> None:
    study = _search(table, trials=np.int64(3), seed=np.int32(1), out=b"a\xff", force=np.bool_(False))
    assert len(study.trials) == 3
    pairs = (f"{key}={value}" for key, value in {"file": table}.items())
    assert len(_search(table, evaluator_options=pairs, out=Path("b")).trials) == 3
    for name, value in {
        "out": object(),
        "trials": lambda: 3,
        "force": 1,
        "strategy_options": 5,
        "seed": [1, 2],
    }.items():
        with pytest.raises(InputError):
            _search(table, **{name: value})
    with pytest.raises(InputError, match="different integers"):
        nastool.retrain(study, seeds=np.array([-1, 2]), data="digits")


def test_architectures_of_all_kinds(here: Path, table: str) -> None:
    study = _search(table, out="a")
    assert study.best is not None
    options: dict[str, Any] = {"evaluator": "table", "evaluator_options": {"file": table}}
    line = study.line(study.best)
    (wanted,) = nastool.evaluate(line, **options)
    for same in (study, Path("a"), {**line, "mine": np.float32(0.5)}, iter([line])):
        given: Any = same
        (found,) = nastool.evaluate(given, **options)
        assert found["metrics"] == wanted["metrics"]
    assert nastool.evaluate([], **options) == []  # and does not wait for stdin
    bad: list[Any] = [study.best, None, 5, [[line]], {"a": object()}, {"a": math.nan}, ""]
    for each in bad:
        with pytest.raises(InputError):
            nastool.evaluate(each, **options)
    with pytest.raises(TypeError, match="trials"):
        nastool.evaluate([], trials=3)  # type: ignore[call-arg]


def test_searches_in_two_threads(here: Path, table: str) -> None:
    """stdout belongs to all threads, so no call may borrow it."""
    before, found, problems = sys.stdout, {}, []

    def work(number: int) -> None:
        try:
            for i in range(4):
                name = f"t{number}-{i}"
                found[name] = _search(table, out=name, seed=number * 10 + i, trials=40).path.name
                nastool.evaluate(name, evaluator="table", evaluator_options={"file": table})
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert sys.stdout is before
    assert found == {name: name for name in found}
    assert len(found) == 12


def test_a_call_prints_nothing(here: Path, table: str, capsys: pytest.CaptureFixture[str]) -> None:
    _search(table, out="a")
    assert capsys.readouterr().out == ""


def test_without_streams(here: Path, table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As under pythonw."""
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", None)
        patched.setattr(sys, "stderr", None)
        study = _search(table, out="a")
    assert study.state == "finished"
