"""A CSV file as a space and its evaluator."""

from __future__ import annotations

import csv
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nastool.core import plugin_files, registry
from nastool.core.evaluator import Evaluator
from nastool.core.space import SearchSpace
from nastool.core.values import SpaceRef
from nastool.engine.study import Study
from nastool.testing.evaluators import EvaluatorContract, MakeEvaluator
from tests.helpers.running import Run

OPTIONS: list[list[Any]] = [["conv3", "conv5", "none"], [8, 16, 32], [0.1, 0.25], [True, False]]
NAMES = ["id", "op", "width", "dropout", "se", "val_acc", "latency_ms", "wear", "same"]


def worth(row: tuple[Any, ...]) -> float:
    return float(0.5 + 0.2 * (row[0] == "conv5") + row[1] / 200 - row[2] / 10)


def write(path: Path, keep: float = 1.0) -> list[tuple[Any, ...]]:
    """Writes a table of some of all combinations; returns these."""
    rng = np.random.default_rng(0)
    rows = [row for row in product(*OPTIONS) if rng.random() < keep]
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(NAMES)
        for number, row in enumerate(rows):
            writer.writerow([number, *row, worth(row), row[1] * 0.1, rng.random(), 7])
    return rows


def space_of(path: Path, **options: str) -> SearchSpace:
    plugin_files.trust(str(path))
    return registry.make_space(SpaceRef.of(str(path), options))


def test_columns_are_guessed_and_shown(run: Run, tmp_path: Path) -> None:
    rows = write(tmp_path / "t.csv", 0.8)
    found = run("search", "--space", "t.csv", "-s", "random", "-n", str(len(rows)), "--out", "a")
    assert found.code == 0, found.err
    assert "decisions op, width, dropout, se  metrics val_acc, latency_ms, wear  left_out id, same" in found.err
    line = found.accepted()[0]
    assert line["metrics"]["val_acc"] == max(map(worth, rows))
    assert line["choices"]["op"] == "conv5" and line["choices"]["width"] == "32"
    assert len(Study.read(tmp_path / "a").trials) == len(rows), "every row is an architecture"
    for command in (["resume", "a"], ["show", "a"], ["top", "a", "-k", "2"], ["list", "spaces", "t.csv"]):
        assert run(*command).code == 0, command


def test_columns_are_what_the_user_says(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "t.csv")
    words = ["search", "-s", "evolution", "--space", "t.csv", "-n", "8", "-P", "metrics=latency_ms", "-P"]
    found = run(*words, "decisions=op,width,dropout")
    assert (
        "decisions op, width, dropout  metrics latency_ms  left_out id, se, val_acc, wear, same  repeated_rows 18"
        in found.err
    )
    assert found.accepted()[0]["metrics"]["latency_ms"] == pytest.approx(0.8), "less is better"
    run(*words, "decisions=op,widht").refused("t.csv, line 1: no column 'widht' for decisions; did you mean 'width'?")
    run(*words[:-1], "decisions=op", "-P", "metrics=op").refused()


def test_a_limit_and_several_objectives(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "t.csv")
    found = run("search", "-s", "nsga2", "--space", "t.csv", "-n", "20", "--objective", "val_acc", "--objective",
                "wear:min", "--limit", "latency_ms<=1.7", "--out", "a")  # fmt: skip
    assert found.code == 0, found.err
    assert all(trial.metrics["latency_ms"] <= 1.7 for trial in Study.read(tmp_path / "a").trials)


def test_rows_alone_are_members(tmp_path: Path) -> None:
    rows = write(tmp_path / "t.csv", 0.3)
    space, rng = space_of(tmp_path / "t.csv"), np.random.default_rng(1)
    assert space.size == len(rows) == len(list(space.members())) < 36
    for arch in space.members():
        space.validate(arch)
        mutant = space.mutate(arch, rng)
        assert mutant != arch and space.is_member(mutant)
    drawn = {space.sample(rng).choices for _ in range(500)}
    assert len(drawn) == len(rows)
    outside = next(each for each in np.ndindex(3, 3, 2, 2) if not space.is_member(space.arch(each)))
    with pytest.raises(ValueError, match="no row of these decisions"):
        space.validate(space.arch(outside))


def test_a_changed_table_is_another_space(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "t.csv")
    assert run("search", "--space", "t.csv", "-s", "random", "-n", "3", "--out", "a").code == 0
    write(tmp_path / "t.csv", 0.9)
    run("resume", "a").refused("t.csv@", "the file has changed, or is not known here: put it back")
    again = run("search", "--space", "t.csv", "-s", "random", "-n", "3", "--out", "a")
    assert again.code == 2 and "t.csv has changed since" in again.err


class TestLookUp(EvaluatorContract):
    @pytest.fixture
    def make(self, tmp_path: Path) -> MakeEvaluator:
        write(tmp_path / "t.csv")
        space = space_of(tmp_path / "t.csv")

        def make() -> Evaluator:
            evaluator: Evaluator = registry.make("evaluator", "csv-rows", space, given={})
            return evaluator

        return make


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\nx,y\nx,z\ny,y\n", "no column seems to be one of metrics: name them, -P metrics=COLUMN,..."),
        ("val_acc,loss\n1,2\n2,3\n", "no column seems to be one of decisions"),
        ("a,val_acc\nx\n", "line 2: 1 values, but the first line names 2 columns"),
    ],
)
def test_what_is_no_such_table(run: Run, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    run("search", "--space", "t.csv", "-s", "random", "-n", "3").refused(message)
    run("search", "--space", "none.csv", "-s", "random", "-n", "3").refused("none.csv: No such file")
    run("search", "--space", "t.csv", "-s", "t.csv", "-n", "3").refused(
        "t.csv is a table, no strategy: give it as the space"
    )
