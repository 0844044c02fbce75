"""`search --with-baseline`: random search beside a search, resumable like it."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nastool.analysis.comparison.gather import gather
from nastool.engine.store import Store
from nastool.engine.study import Study
from tests.helpers.plugins import here, sleepy
from tests.helpers.running import changed, in_this_process

NASTOOL = [sys.executable, "-m", "nastool"]
INLINE = ["--evaluator", "sleepy-inline", "-E", "seconds=0"]


@pytest.fixture(autouse=True)
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Of processes that find the plugins, which this one does, too."""
    found = sleepy(tmp_path / "plugin")
    with here(tmp_path / "plugin"):
        yield found


def search(folder: Path, *more: object, code: int = 0) -> tuple[dict[str, Any] | None, str]:
    command = ["search", *INLINE, "-s", "evolution", "--no-report", "--out", str(folder)]
    result = in_this_process(folder.parent, *changed(command, *map(str, more)))
    assert result.code == code, result.err
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert len(lines) == (code == 0)
    return (lines[0] if lines else None), result.err


def trials(folder: Path) -> list[tuple[Any, ...]]:
    """All that must not depend on interruptions."""
    with sqlite3.connect(folder / "run.db") as db:
        metrics = "json_extract(evaluation, '$.metrics')"
        return db.execute(f"SELECT id, told, state, proposal, {metrics} FROM trials ORDER BY id").fetchall()


def best(folder: Path) -> float:
    return float(max(json.loads(row[4])["val_acc"] for row in trials(folder) if row[4]))


def test_the_same_budget_at_random(tmp_path: Path) -> None:
    found, said = search(tmp_path / "a", "-n", 40, "--seed", 5, "--with-baseline")
    assert found is not None
    own = found["baseline"]
    assert own["trials"] == 40 and own["failed"] == 0 and own["seeds"] == 1
    assert own["search"] == best(tmp_path / "a") and own["random"] == best(tmp_path / "a" / "baseline")
    assert own["difference"] == pytest.approx(own["search"] - own["random"])
    assert own["metrics"]["test_acc"] == own["random"] / 2, "its best was tested, too"
    assert json.loads((tmp_path / "a" / "best.json").read_text())["baseline"] == own
    (line,) = (line for line in said.splitlines() if "beside random search (40 trials)" in line)
    assert f"{own['search']:.4f} against {own['random']:.4f}" in line and "n=1 seed: no verdict" in line

    search(tmp_path / "r", "-n", 40, "--seed", 5, "-s", "random")
    assert trials(tmp_path / "a" / "baseline") == trials(tmp_path / "r"), "the very search that -s random makes"
    study = Study.read(tmp_path / "a" / "baseline")
    assert (study.strategy, study.state, study.seed) == ("random", "finished", 5)
    assert [method.name for method in gather([tmp_path / "a"]).methods] == ["evolution", "random"]
    for command in ("status", "top"):
        (about,) = in_this_process(tmp_path, command, "a/baseline", "--json").accepted()
        assert about

    again, said = search(tmp_path / "a", "-n", 40, "--seed", 5, "--with-baseline")
    assert again == found and "already has its 40 trials" in said


def test_it_can_be_added_and_extended(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    found, _ = search(folder, "-n", 20)
    assert found is not None and "baseline" not in found
    found, _ = search(folder, "-n", 20, "--with-baseline")
    assert found is not None and found["baseline"]["trials"] == 20
    first = trials(folder / "baseline")
    found, _ = search(folder, "-n", 30, "--with-baseline")
    assert found is not None and found["baseline"]["trials"] == 30 == len(trials(folder))
    assert trials(folder / "baseline")[:20] == first and len(trials(folder / "baseline")) == 30
    recorded = (folder / "run.yaml").read_text()
    assert "with-baseline" not in recorded, "it is as the run began"
    search(tmp_path / "b", "-n", 5, "--with-baseline")
    assert "with-baseline: true" in (tmp_path / "b" / "run.yaml").read_text()


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def told(folder: Path) -> int:
    try:
        with Store.read(folder / "run.db") as store:
            return store.count()["done"]
    except Exception:
        return 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_interrupted_anywhere_it_goes_on(environment: dict[str, str], tmp_path: Path, how: signal.Signals) -> None:
    """Once in the search, once in the baseline; with processes, since those have to go as well."""
    folder = tmp_path / "a"
    command = [*NASTOOL, "search", "--evaluator", "sleepy", "-E", "seconds=0.01", "-s", "evolution", "-n", "30"]
    command += ["--with-baseline", "--no-report", "--out", str(folder)]
    for part, enough in ((folder, 8), (folder / "baseline", 8)):
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
        )
        wait_for(lambda part=part, enough=enough: told(part) >= enough)  # type: ignore[misc]
        assert process.poll() is None
        process.send_signal(how)
        out, err = process.communicate(timeout=60)
        assert process.returncode == {signal.SIGKILL: -9, signal.SIGINT: 130}[how]
        assert not out and ("continue with:" in err or how == signal.SIGKILL)
        assert told(part) < 30
    assert Study.read(folder).state == "interrupted" and told(folder) == 30
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["baseline"]["trials"] == 30
    for part in (folder, folder / "baseline"):
        assert Study.read(part).state == "finished"
        assert sorted(row[1] for row in trials(part)) == list(range(30)), "each is told once"


def test_a_baseline_that_fails_is_no_failure(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    search(folder, "-n", 12, "-E", "misbehave=raise")
    found, said = search(folder, "-n", 12, "-E", "misbehave=raise", "--with-baseline", "--max-failures", 1)
    assert found is not None and "gave up after 1 failed" in found["baseline"]["error"] and "metrics" in found
    assert "the baseline failed" in said and "random search beside it failed" in said
    found, _ = search(folder, "-n", 12, "-E", "misbehave=raise", "--with-baseline")
    assert found is not None and found["baseline"]["trials"] == 12 and found["baseline"]["failed"] == 2


def test_a_small_space_ends_both(tmp_path: Path) -> None:
    """Of 3 x 2^k members all are evaluated; more trials would change nothing."""
    plugin = tmp_path / "plugin" / "tiny.py"
    plugin.write_text(
        "from nastool.core.values import Decision\nfrom nastool.core.space import SearchSpace\n"
        "class Tiny(SearchSpace):\n    name = 'tiny'\n    class Scale:\n        pass\n"
        "    def __init__(self):\n"
        "        super().__init__([Decision('a', ('x', 'y', 'z')), Decision('b', ('0', '1'))])\n"
        "    def network(self, choose, task, scale):\n        raise NotImplementedError\n"
    )
    points = tmp_path / "plugin" / "sleepy_plugin-1.0.dist-info" / "entry_points.txt"
    points.write_text(points.read_text() + "[nastool.spaces]\ntiny = tiny:Tiny\n")
    options = ["--space", "tiny", "-S", "population=2", "-S", "tournament=1", "-n", 50, "--with-baseline"]
    found, _ = search(tmp_path / "a", *options)
    assert found is not None
    assert found["baseline"]["trials"] == 6 == len(trials(tmp_path / "a")) and found["baseline"]["difference"] == 0
    again, _ = search(tmp_path / "a", *options)
    assert again == found


def test_a_strategy_that_ends_earlier_has_a_smaller_budget(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin" / "brief.py"
    plugin.write_text(
        "from nastool.strategies.random_search import RandomSearch\n"
        "class Brief(RandomSearch):\n    name = 'brief'\n"
        "    def propose(self):\n        return None if self.asked == 7 else super().propose()\n"
    )
    points = tmp_path / "plugin" / "sleepy_plugin-1.0.dist-info" / "entry_points.txt"
    points.write_text(points.read_text() + "[nastool.strategies]\nbrief = brief:Brief\n")
    options = ["-s", "brief", "-n", 50, "--with-baseline"]
    found, _ = search(tmp_path / "a", *options)
    assert found is not None and found["baseline"]["trials"] == 7 == len(trials(tmp_path / "a" / "baseline"))
    again, said = search(tmp_path / "a", *options)
    assert again == found and "nothing left to propose" in said


def test_force_removes_it(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    search(folder, "-n", 5, "--with-baseline")
    (folder / "baseline" / "notes.txt").write_text("mine")
    search(folder, "-n", 5, "--seed", 1, "--force")
    assert os.listdir(folder / "baseline") == ["notes.txt"], "what nastool did not write stays"
    search(folder, "-n", 5, "--seed", 2, "--force")
    (folder / "baseline" / "notes.txt").unlink()
    found, _ = search(folder, "-n", 5, "--seed", 3, "--force", "--with-baseline")
    assert found is not None and Study.read(folder / "baseline").seed == 3


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["-s", "random", *INLINE], "strategy random is the baseline itself"),
        (["-s", "evolution", "--evaluator", "supernet", "--data", "digits"], "--baseline, which is on by default"),
        (["-s", "network-morphism", "--data", "digits"], "says itself how long each trial is trained"),
    ],
)
def test_where_it_makes_no_sense(tmp_path: Path, arguments: list[str], message: str) -> None:
    in_this_process(tmp_path, "search", *arguments, "--with-baseline", "--out", "a").refused(message)
    assert not (tmp_path / "a").exists()


def test_another_run_in_its_place_is_left_alone(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    search(folder, "-n", 5)
    in_this_process(tmp_path, "search", *INLINE, "-n", "5", "--seed", "9", "--out", "a/baseline").accepted()
    before = trials(folder / "baseline")
    _, said = search(folder, "-n", 9, "--with-baseline", code=2)
    assert "holds another search" in said and trials(folder / "baseline") == before
    assert len(trials(folder)) == 5, "it is found out before anything is searched"


def test_no_place_for_a_baseline(tmp_path: Path, macro_table: str) -> None:
    """Said before anything is replaced."""
    command = ["search", "-s", "evolution", "--space", "nasbench-macro", "--evaluator", "table", "--out", "a"]
    command += ["-E", f"file={macro_table}"]
    in_this_process(tmp_path, *command, "-n", "3", "--no-report").accepted()
    (tmp_path / "a" / "baseline").write_text("mine")
    in_this_process(tmp_path, *command, "-n", "2", "--with-baseline", "--force").refused("a/baseline is a file")
    assert len(Study.read(tmp_path / "a").trials) == 3
    assert (tmp_path / "a" / "baseline").read_text() == "mine"
