"""`search --warm-start`: earlier runs that a search begins with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nastool
from nastool.analysis.comparison.gather import read
from nastool.cli import status_command
from nastool.core.errors import InputError
from nastool.engine import earlier
from nastool.engine.events import Event, TrialFinished
from nastool.engine.store import Store
from nastool.engine.study import Study
from tests.helpers import made_runs
from tests.helpers.running import Run

SMALL = {"bo": {"init": 4, "candidates": 20}, "evolution": {"population": 6}}


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two data sets on which the same architectures are good, in other units."""
    from nastool.spaces.nasbench_macro import NasBenchMacro

    archs = np.array([arch.choices for arch in NasBenchMacro().members()], dtype=np.uint8)
    folder = tmp_path_factory.mktemp("tables")
    value = archs @ np.array([5.0, 4.0, 3.0, 2.0, 1.5, 1.0, 0.5, 0.2]) + 50
    for name, own in (("easy", value), ("hard", value / 10 + 20)):
        np.savez(folder / f"{name}.npz", allow_pickle=False, arch=archs, val=own)
    return {name: str(folder / f"{name}.npz") for name in ("easy", "hard")}


@pytest.fixture(autouse=True)
def there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tables: dict[str, str]) -> None:
    """We are in a folder with a search at random, of 12 trials on the easy data, in "easy"."""
    monkeypatch.chdir(tmp_path)
    search(tables["easy"], "easy", strategy="random", trials=12, seed=7)


def search(file: str, out: str, *, strategy: str = "bo", trials: int = 9, stop_after: int = 99, **more: Any) -> Study:
    done = 0

    def count(event: Event) -> None:
        nonlocal done
        done += isinstance(event, TrialFinished)

    return nastool.search(
        strategy,
        strategy_options=SMALL.get(strategy, {}),
        **{
            "space": "nasbench-macro",
            "evaluator": "table",
            "evaluator_options": {"file": file},
            "report": False,
            **more,
        },
        trials=trials,
        out=out,
        on_event=count,
        stop=lambda: done >= stop_after,
    )


def command(tables: dict[str, str], *more: str) -> list[str]:
    where = ["--space", "nasbench-macro", "--evaluator", "table", "-E", f"file={tables['hard']}", "--no-report"]
    return ["search", "-n", "5", "--out", "out", *where, *more]


def proposed(folder: str) -> list[tuple[int, ...]]:
    return [trial.arch.choices for trial in Study.read(folder).trials]


@pytest.mark.parametrize("strategy", ["bo", "evolution"])
def test_its_results_tell_where_to_begin_and_are_no_trials(
    tables: dict[str, str], strategy: str, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    best = Study.read("easy").best
    assert best is not None and best.value is not None
    study = search(tables["hard"], "out", strategy=strategy, warm_start="easy")
    first = study.trials[0]
    assert first.arch == best.arch and first.value == pytest.approx(0.2 + best.value / 10)
    assert len(study.trials) == 9 and study.config["warm_start"] == ["easy"]
    top = run("top", "out", "-k", "99").accepted()
    assert len(top) == 9 and all(line["run"] == "out" for line in top)
    assert json.loads(Path("out/best.json").read_text())["metrics"]["val_acc"] == max(
        t.value or 0 for t in study.trials
    )
    (line,) = run("status", "out").accepted()
    assert line["warm_start"] == {"easy": 12} and line["trials"]["done"] == 9
    status_command._text(status_command._status(Path("out")))
    assert "  warm start 12 results of easy\n" in capsys.readouterr().out


@pytest.mark.parametrize("strategy", ["bo", "evolution"])
@pytest.mark.parametrize("after", [1, 5])
def test_goes_on_without_the_earlier_run(tables: dict[str, str], strategy: str, after: int) -> None:
    """What was read is stored: whether the run is gone, or has grown, the search is the same."""
    search(tables["hard"], "whole", strategy=strategy, warm_start=["easy"])
    for name in ("gone", "grown"):
        search(tables["hard"], name, strategy=strategy, warm_start=["easy"], stop_after=after)
        assert Study.read(name).state == "interrupted"
    search(tables["easy"], "easy", strategy="random", trials=40, seed=7)
    search(tables["hard"], "grown", strategy=strategy, warm_start=["easy"])
    shutil.rmtree("easy")
    nastool.resume("gone")
    assert proposed("gone") == proposed("grown") == proposed("whole")
    with pytest.raises(InputError, match=r"--warm-start easy: .*no run folder"):
        search(tables["hard"], "new", strategy=strategy, warm_start=["easy"])


def test_several_runs(tables: dict[str, str]) -> None:
    search(tables["easy"], "other", strategy="random", trials=7, seed=8)
    study = search(tables["hard"], "out", warm_start=[Path("easy"), "other/run.db"])
    with Store.read(study.path / "run.db") as store:
        assert earlier.described(store) == {"easy": 12, "other": 7}
    bests = [found.best.arch for found in map(Study.read, ("easy", "other")) if found.best is not None]
    assert [trial.arch for trial in study.trials if trial.id in (0, 2)] == bests


def test_another_warm_start_is_another_search(tables: dict[str, str], run: Run) -> None:
    search(tables["easy"], "other", strategy="random", trials=7, seed=8)
    plain = search(tables["hard"], "plain")
    search(tables["hard"], "out", warm_start=["easy"])
    for more in ([], ["--warm-start", "other"], ["--warm-start", "easy", "--warm-start", "other"]):
        refused = run(*command(tables, "-s", "bo", "-S", "init=4", "-S", "candidates=20", *more))
        refused.refused("out holds another search", "warm_start is ['easy']")
    assert read(Path("out")).strategy != read(plain.path).strategy
    assert run("search", "--config", "out/run.yaml", "--out", "again", "-n", "9").code == 0
    assert proposed("again") == proposed("out")


def test_random_search_beside_it_knows_nothing(tables: dict[str, str]) -> None:
    search(tables["hard"], "out", warm_start=["easy"], with_baseline=True)
    search(tables["hard"], "random", strategy="random")
    assert proposed("out/baseline") == proposed("random")


class TestRefused:
    """One line, and nothing is left there."""

    @pytest.fixture(autouse=True)
    def nothing_left(self) -> Any:
        yield
        assert not Path("out").exists()

    def refused(self, run: Run, tables: dict[str, str], *more: str, said: str) -> None:
        run(*command(tables, *(("-s", "bo") if "-s" not in more else ()), *more)).refused(said)

    def test_no_run(self, run: Run, tables: dict[str, str]) -> None:
        Path("empty").mkdir()
        self.refused(run, tables, "--warm-start", "empty", said="--warm-start empty: empty is no run folder")
        Path("empty/run.db").write_bytes(b"nothing")
        self.refused(run, tables, "--warm-start", "empty", said="--warm-start empty: ")

    def test_a_strategy_that_learns_nothing(self, run: Run, tables: dict[str, str]) -> None:
        said = "strategy random learns nothing from earlier runs: leave it out, or take one that does: bananas, bo, "
        self.refused(run, tables, "-s", "random", "--warm-start", "easy", said=said)

    def test_another_space(self, run: Run, tables: dict[str, str]) -> None:
        made_runs.folder(Path("other"), [0.1, 0.2])
        said = "--warm-start other has searched space nasbench201, and this search is of nasbench-macro"
        self.refused(run, tables, "--warm-start", "other", said=said)

    def test_options_of_a_space_are_its_own(self, run: Run, tables: dict[str, str]) -> None:
        flags = "--evaluator zero-cost --data digits -s evolution --space cell-cnn --warm-start a --out out".split()
        config = {"space": {"name": "cell-cnn", "options": {"blocks": 3}}}
        made_runs.folder(Path("a"), [], **config)
        run("search", *flags).refused("--warm-start a has searched space cell-cnn(", "blocks=3", "blocks=5")

    def test_no_results(self, run: Run, tables: dict[str, str]) -> None:
        made_runs.folder(Path("a"), ["it failed"], space={"name": "nasbench-macro", "options": {}})
        self.refused(run, tables, "--warm-start", "a", said="--warm-start a has no finished trial")

    def test_equal_results(self, run: Run, tables: dict[str, str]) -> None:
        search(tables["easy"], "one", strategy="random", trials=1)
        self.refused(run, tables, "--warm-start", "one", said="--warm-start one: all its results are equal (1)")

    def test_another_metric(self, run: Run, tables: dict[str, str]) -> None:
        found = json.dumps({"metrics": {"test_acc": 0.5}, "seconds": 1.0})
        made_runs.sql(Path("easy/run.db"), f"UPDATE trials SET evaluation = '{found}'")
        said = "easy has measured no val_acc, which this search optimises, only seconds, test_acc"
        self.refused(run, tables, "--warm-start", "easy", said=said)

    def test_twice(self, run: Run, tables: dict[str, str]) -> None:
        self.refused(run, tables, "--warm-start", "easy", "--warm-start", "./easy/", said="easy is given twice")


def test_what_is_stored_may_be_damaged(tables: dict[str, str], run: Run) -> None:
    search(tables["hard"], "out", warm_start=["easy"], stop_after=3)
    for damage in ("[1]", '[{"run": "easy", "choices": [[0]], "losses": [[1.0]]}]', '[{"run": "a", "choices": []}]'):
        made_runs.sql(Path("out/run.db"), f"UPDATE run SET value = '{damage}' WHERE key = 'earlier'")
        run("resume", "out").refused("out/run.db is damaged: what it says of earlier runs is none of it")
