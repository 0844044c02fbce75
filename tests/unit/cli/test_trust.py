"""A run, a line or a checkpoint from elsewhere is data: it decides nothing, and its text does nothing to a terminal."""

from __future__ import annotations

import csv
import io
import json
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nastool import cli
from nastool.core import archfile, folders, wording
from nastool.core.errors import InputError
from nastool.engine import results as product
from nastool.engine.store import Store
from nastool.nets import checkpoints
from nastool.spaces.nasbench201 import NasBench201
from tests.helpers import made_runs
from tests.helpers.running import Run

RED = "\x1b[31mred\x1b]0;title\x07\x9b1mC1\x7f\u202ereversed\r"
SPACE = NasBench201()


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


class TestLines:
    LINE = archfile.to_json(SPACE, SPACE.from_string("|none~0|+|none~0|none~1|+|nor_conv_1x1~0|none~1|none~2|"))

    def test_they_do_not_say_where_data_are_nor_that_they_be_downloaded(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = {"data": "mnist", "data_dir": "theirs", "download": True, "device": "cuda:7", "epochs": 1}
        line = {**self.LINE, "evaluator": {"name": "train", "options": options}}
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
        found = run("eval", json.dumps(line))
        assert found.code == 2
        assert "mnist is not in" in found.err and "mine" in found.err
        assert "data_dir=theirs download=true device=cuda:7, which a line asks for" in found.err
        assert not (tmp_path / "theirs").exists()

    def test_nor_does_retrain_take_it_from_them(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        options = {"data": "mnist", "data_dir": "theirs", "download": True}
        line = {**self.LINE, "evaluator": {"name": "train", "options": options}}
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
        found = run("retrain", json.dumps(line), "--out", "b")
        assert found.code == 2 and "mnist is not in" in found.err and "mine" in found.err
        assert not (tmp_path / "theirs").exists()

    @pytest.mark.parametrize("name", ["/etc/passwd", "../victim.txt", "runs/a/best.json"])
    def test_weights_are_files_of_weights(self, run: Run, tmp_path: Path, name: str) -> None:
        """Whatever else a line names is not opened."""
        line = json.dumps({**self.LINE, "weights": name})
        run("export", "--to", "onnx", line).refused("must name a .safetensors file")


class TestText:
    @pytest.mark.parametrize(
        "command", [["status"], ["top"], ["top", "--text"], ["status", "--text"], ["show"], ["report"]]
    )
    def test_nothing_from_a_run_reaches_the_terminal_raw(self, run: Run, tmp_path: Path, command: list[str]) -> None:
        path = made_runs.folder(tmp_path / f"a{RED}", [0.5, f"no {RED}"], objective=None)
        with Store.open(path / "run.db") as store:
            store.begin()
            store.put("origin", {"evaluator": {"name": RED, "options": {RED: RED}}, "scale": {RED: 1}})
            store.commit()
        found = run(*command, str(path))
        for text in (found.out, found.err):
            assert wording.visible(text) == text, text
        if command == ["status"]:
            (facts,) = found.accepted()
            assert RED.strip() in facts["failures"][0]["error"]  # the same value, written harmlessly

    def test_usage_errors_neither(self, run: Run) -> None:
        found = run("top", f"--{RED}")
        assert found.code == 2 and wording.visible(found.err) == found.err

    def test_text_for_people_goes_through_one_function(self) -> None:
        """click.echo is left where text is our own, or bytes."""
        for path in Path(cli.__file__).parent.glob("*.py"):
            if path.stem not in ("common", "list_command", "complete", "completion_command"):
                lines = [line for line in path.read_text().splitlines() if "click.echo(" in line or "print(" in line]
                assert all("content.encode()" in line for line in lines), (path, lines)

    def test_json_and_plain_text_stay_what_they_are(self) -> None:
        plain = 'grüße, 日本, tab\t "quoted" \\ \n'
        assert wording.visible(plain) == plain
        assert json.loads(wording.visible(json.dumps({"a": RED}, ensure_ascii=False))) == {"a": RED}

    @pytest.mark.parametrize("text", ["=1+1", "+1", "-1+1", "@SUM(A1)", "\t=1"])
    def test_spreadsheets_carry_nothing_out(self, text: str) -> None:
        columns: dict[str, Any] = {text: ["plain", text], "value": [-0.5, 2]}
        rows = list(csv.reader(io.StringIO(product._table(columns), newline="")))
        assert rows == [["'" + text, "value"], ["plain", "-0.5"], ["'" + text, "2"]]


class TestOut:
    COMMANDS = (
        ["report", "a", "-o", "out.html"],
        ["plot", "a", "-f", "best-over-trials", "-o", "out.png"],
        ["compare", "a", "b", "-o", "out.md"],
        ["show", "zoo:darts-v2", "--to", "svg", "-o", "out.svg"],
        ["export", "zoo:darts-v2", "--to", "python", "--input", "3x32x32", "-o", "out.py"],
    )

    @pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
    def test_a_file_that_is_there_is_replaced_only_if_told_to(
        self, run: Run, tmp_path: Path, command: list[str]
    ) -> None:
        for seed, name in enumerate("ab"):
            made_runs.folder(tmp_path / name, [0.5, 0.6], seed=seed)
        out = tmp_path / command[-1]
        out.write_text("mine")
        (tmp_path / f"{command[-1]}.new").write_text("mine, too")
        run(*command).refused(command[-1], "exists", "--force to replace it")
        assert out.read_text() == "mine"
        assert run(*command, "--force").code == 0
        assert b"mine" != out.read_bytes()
        assert (tmp_path / f"{command[-1]}.new").read_text() == "mine, too"

    @pytest.mark.parametrize("command", [["report", "a"], ["plot", "a", "-f", "best-over-trials"]], ids=lambda c: c[0])
    def test_what_nastool_made_of_a_run_may_be_made_again(self, run: Run, tmp_path: Path, command: list[str]) -> None:
        made_runs.folder(tmp_path / "a", [0.5, 0.6])
        for _ in range(2):
            found = run(*command)
            assert found.code == 0, found
        (out,) = {*tmp_path.glob("a/report.html"), *tmp_path.glob("a/figures/*")}
        out.write_text("mine")
        run(*command).refused(out.name, "exists")
        assert out.read_text() == "mine"

    def test_devices_are_no_files_to_keep(self, run: Run) -> None:
        assert run("show", "zoo:darts-v2", "--to", "svg", "-o", "/dev/null").code == 0


def searched(run: Run, *more: str, force: bool = False) -> Any:
    command = ["search", "-s", "random", "--data", "digits", "--epochs", "1", "--scale", "channels=2,cells=1"]
    command += ["-E", "train_size=20", "--device", "cpu", "--workers", "1", "--out", "a"]
    return run(*command, *more, *(["--force"] if force else []))


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings in the tests' own process."""
    from nastool.evaluators.train import Train

    monkeypatch.setattr(Train, "inline", True)


def content(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.startswith("run.db-"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


@pytest.mark.usefixtures("inline", "one_thread")
class TestKept:
    def test_an_empty_database_costs_nothing_of_the_rest(self, run: Run, tmp_path: Path) -> None:
        """All checkpoints and results, and the user's own files, went without a word."""
        assert searched(run, "--trials", "2").code == 0
        folder = tmp_path / "a"
        (folder / "checkpoints" / "trial-notes.safetensors").write_text("mine")
        for path in folder.glob("run.db*"):
            path.unlink()
        (folder / "run.db").touch()
        before = content(folder)
        searched(run, "--trials", "2").refused("a has lost its database", "best.json", "--force to begin anew")
        assert content(folder) == before
        assert searched(run, "--trials", "2", force=True).code == 0
        assert (folder / "checkpoints" / "trial-notes.safetensors").read_text() == "mine"

    @pytest.mark.parametrize("name", ["best.json", "model.py", "best.safetensors", "trials.csv"])
    def test_what_was_changed_is_not_replaced(self, run: Run, tmp_path: Path, name: str) -> None:
        assert searched(run, "--trials", "2").code == 0
        folder = tmp_path / "a"
        (folder / name).write_text("mine")
        before = content(folder)
        searched(run, "--trials", "2", "--seed", "1", force=True).refused(name, "changed since", "another --out")
        assert content(folder) == before
        found = searched(run, "--trials", "3")
        assert (folder / name).read_text() == "mine"
        assert "left as it is: move it away" in found.err and found.code in (0, 2)
        (folder / name).rename(tmp_path / "away")
        assert searched(run, "--trials", "3").code == 0
        assert (folder / name).exists() and (folder / name).read_bytes() != b"mine"
        assert searched(run, "--trials", "2", "--seed", "1", force=True).code == 0

    def test_a_copied_run_is_its_own(self, run: Run, tmp_path: Path) -> None:
        """Not by times, which copies do not keep."""
        assert searched(run, "--trials", "2").code == 0
        (tmp_path / "a").rename(tmp_path / "b")
        shutil.copytree(tmp_path / "b", tmp_path / "a", copy_function=shutil.copyfile)
        assert searched(run, "--trials", "3").code == 0

    def test_a_run_of_an_earlier_version_goes_on(self, run: Run, tmp_path: Path) -> None:
        """It has no list of what it wrote."""
        assert searched(run, "--trials", "2").code == 0
        with closing(sqlite3.connect(tmp_path / "a" / "run.db")) as db:
            db.execute("DELETE FROM run WHERE key = 'files'")
            db.commit()
        assert searched(run, "--trials", "3").code == 0
        assert searched(run, "--trials", "2", "--seed", "1", force=True).code == 0

    @pytest.mark.parametrize("key", ["origin", "files", "fingerprint", "strategy", "objective"])
    def test_a_fact_that_is_gone_is_no_internal_error(self, run: Run, tmp_path: Path, key: str) -> None:
        assert searched(run, "--trials", "2").code == 0
        with closing(sqlite3.connect(tmp_path / "a" / "run.db")) as db:
            db.execute("DELETE FROM run WHERE key = ?", (key,))
            db.commit()
        found = searched(run, "--trials", "3")
        assert found.code in (0, 2) and "internal error" not in found.err, found

    def test_force_takes_what_was_made_of_the_run(self, run: Run, tmp_path: Path) -> None:
        """A retraining of what the earlier search had found."""
        assert searched(run, "--trials", "2").code == 0
        assert run("retrain", "a", "--epochs", "1", "--seeds", "0", "--no-report").code == 0
        (tmp_path / "a" / "notes.txt").write_text("mine")
        assert (tmp_path / "a" / "retrained" / "best.json").exists()
        assert searched(run, "--trials", "2", "--seed", "1", force=True).code == 0
        assert not (tmp_path / "a" / "retrained").exists()
        assert (tmp_path / "a" / "notes.txt").read_text() == "mine"


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
