"""What a run leaves behind, and what it never replaces."""

from __future__ import annotations

import json
import shlex
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from nastool.core.errors import InputError
from nastool.engine import results as product
from tests.helpers import made_runs
from tests.helpers.running import Run, content, process, searched


def test_folders_in_the_way_of_what_a_run_leaves(tmp_path: Path, macro_table: str) -> None:
    """They are somebody's; the result is printed, and exit code 0."""
    names = ("model.py", "trials.jsonl", "trials.csv", "report.html")
    script = (
        f"$nastool search -s random --space nasbench-macro --evaluator table -E file={shlex.quote(macro_table)} --out a"
    )
    assert process(f"{script} -n 2 --no-report", tmp_path).code == 0
    for name in names:
        (tmp_path / "a" / name).unlink(missing_ok=True)
        (tmp_path / "a" / name).mkdir()
    outcome = process(f"{script} -n 3 --report", tmp_path)
    assert len(outcome.accepted()) == 1
    for name in names[1:]:
        assert f"note: {name} could not be written" in outcome.err
    assert all((tmp_path / "a" / name).is_dir() for name in names)


def test_a_full_disk_costs_no_result(tmp_path: Path, macro_table: str) -> None:
    """The report is larger than any file may be."""
    script = (
        f"$nastool search -s random --space nasbench-macro --evaluator table -E file={shlex.quote(macro_table)} -n 4"
    )
    outcome = process(f"ulimit -f 110; {script} --report --out a", tmp_path)
    assert len(outcome.accepted()) == 1, outcome
    assert "note: report.html could not be written" in outcome.err
    assert not list((tmp_path / "a").glob("report.html*"))


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


FOREIGN: dict[str, dict[str, str]] = {
    "notes": {"notes.txt": "mine"},
    "another program's run.db": {"run.db": "my diary\n" * 100},
    "a configuration": {"run.yaml": "search: {trials: 3}  # mine"},
    "logs": {"logs/server.log": "mine"},
    "logs and a lock": {"logs/server.log": "mine", "lock": ""},
    "checkpoints": {"checkpoints/mine.pt": "mine"},
    "best.json": {"best.json": "{}"},
}


@pytest.mark.parametrize("force", [[], ["--force"]], ids=["", "force"])
@pytest.mark.parametrize("name", FOREIGN)
def test_foreign_files_survive(search: Run, name: str, force: list[str]) -> None:
    """Whether the search is refused or not."""
    for file, text in FOREIGN[name].items():
        path = Path("out") / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    search(*force)
    for file, text in FOREIGN[name].items():
        assert (Path("out") / file).read_text().startswith(text), file


def test_another_programs_database_survives(search: Run) -> None:
    Path("out").mkdir()
    made_runs.sql(Path("out/run.db"), "CREATE TABLE diary (entry)")
    before = content(Path("out"))
    search().refused("out")
    search("--force").refused("out")
    assert content(Path("out"))["run.db"] == before["run.db"]


def test_force_with_bad_options_keeps_the_run(search: Run, finished: Path) -> None:
    shutil.copytree(finished, "out")
    before = content(Path("out"))
    search("--force", "--seed", "1", "-E", "label=7").refused("7")
    search("--force", "--seed", "1", "-S", "population=0").refused("population")
    after = content(Path("out"))
    assert {name: after[name] for name in before if name != "run.lock"} == {
        name: data for name, data in before.items() if name != "run.lock"
    }


@pytest.mark.parametrize("out", ["file", "file/a", "/proc/nastool", "/dev/null/a", "y" * 300], ids=lambda o: o[:20])
def test_unwritable_run_folder(run: Run, nasbench201_table: str, out: str) -> None:
    Path("file").write_text("mine")
    run("search", "--evaluator", "table", "-E", f"file={nasbench201_table}", "--out", out).refused(out[:50], "--out")
    assert Path("file").read_text() == "mine"


def test_run_db_is_a_folder(search: Run) -> None:
    Path("out/run.db").mkdir(parents=True)
    search().refused("out")
    search("--force").refused("out")


def lasting(folder: Path) -> dict[str, bytes]:
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
        before = lasting(folder)
        searched(run, "--trials", "2").refused("a has lost its database", "best.json", "--force to begin anew")
        assert lasting(folder) == before
        assert searched(run, "--trials", "2", force=True).code == 0
        assert (folder / "checkpoints" / "trial-notes.safetensors").read_text() == "mine"

    @pytest.mark.parametrize("name", ["best.json", "model.py", "best.safetensors", "trials.csv"])
    def test_what_was_changed_is_not_replaced(self, run: Run, tmp_path: Path, name: str) -> None:
        assert searched(run, "--trials", "2").code == 0
        folder = tmp_path / "a"
        (folder / name).write_text("mine")
        before = lasting(folder)
        searched(run, "--trials", "2", "--seed", "1", force=True).refused(name, "changed since", "another --out")
        assert lasting(folder) == before
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
