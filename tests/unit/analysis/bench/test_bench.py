"""`nastool bench`, end to end: resuming, extending, what it leaves behind, bad input."""

from __future__ import annotations

import contextlib
import csv
import fcntl
import io
import json
import math
import random
import resource
import shlex
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nastool import cli
from nastool.analysis.bench import results
from nastool.analysis.bench.specs import StrategySpec, TableSpec
from nastool.analysis.bench.view import parse_seeds, whole_numbers
from nastool.core.errors import InputError
from nastool.spaces.nasbench201 import NasBench201
from nastool.spaces.nasbench_macro import NasBenchMacro
from tests.helpers.plugins import install

NASTOOL = [sys.executable, "-m", "nastool"]
EVOLUTION = "evolution:population=4,tournament=2"
LABEL = "evolution(population=4, tournament=2)"


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[dict[str, Any]]:
        assert self.code == 0, self
        return [json.loads(line) for line in self.out.splitlines()]

    def refused(self, *fragments: str) -> None:
        """One line that says what is wrong; no output."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        if lines and lines[0].startswith("Usage: "):
            lines = lines[next(i for i, line in enumerate(lines) if line.startswith("Try ")) + 1 :]
        assert (self.code, self.out, len(lines)) == (2, "", 1), self
        assert lines[0].startswith(("nastool: ", "Error: ")) and len(lines[0]) <= 400, self
        for fragment in fragments:
            assert fragment in self.err, self


Bench = Callable[..., Outcome]


@pytest.fixture
def drawing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Bench:
    """`nastool bench` in this process and a scratch folder."""
    monkeypatch.chdir(tmp_path)
    main = sys.modules["__main__"]  # pytest, which a spawned worker would import again
    monkeypatch.setattr(main, "__spec__", None)
    monkeypatch.delattr(main, "__file__", raising=False)

    def bench(*arguments: str) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["nastool", "bench", *arguments])
        monkeypatch.setattr(sys, "stdin", io.StringIO())
        capsys.readouterr()
        code = cli.run()
        return Outcome(code, *capsys.readouterr())

    return bench


@pytest.fixture
def bench(drawing: Bench, monkeypatch: pytest.MonkeyPatch) -> Bench:
    """The same without the pictures, which take most of the time."""

    monkeypatch.setattr(results, "draw", lambda *arguments: {})
    return drawing


@pytest.fixture(scope="module")
def tables(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Made-up tables: one with noisy labels and times, one without, and odd ones."""
    folder = tmp_path_factory.mktemp("tables")
    rng = np.random.default_rng(0)

    def save(name: str, archs: Any, **columns: Any) -> str:
        np.savez(folder / f"{name}.npz", arch=archs, **columns)
        return str(folder / f"{name}.npz")

    macro = np.array([arch.choices for arch in NasBenchMacro().members()], dtype=np.uint8)
    value = 0.5 + 0.4 * macro.mean(axis=1) / 2 + rng.normal(0, 0.01, len(macro))
    cell = np.array([arch.choices for arch in NasBench201().members()], dtype=np.uint8)
    missing = np.where(rng.random(len(macro)) < 0.3, np.nan, value)
    return {
        "macro": save("macro", macro, val=value, test=value - 0.01, train_time=100 * value),
        "cell": save("cell", cell, val200=rng.uniform(0.2, 0.9, len(cell))),
        "holes": save("holes", macro[::2], val=missing[::2], test=value[::2]),
        "one": save("one", macro[:1], val=[0.5]),
        "constant": save("constant", macro, val=np.full(len(macro), 0.5)),
        "nothing": save("nothing", macro, val=np.full(len(macro), np.nan), test=value),
        "pair": save("pair", macro, aa_val=value, bb_val=value),
    }


def table(tables: dict[str, str], name: str = "macro", options: str = "") -> str:
    space = "nasbench201" if name == "cell" else "nasbench-macro"
    return f"{space}:file={tables[name]}{options and ',' + options}"


def rows(folder: Path) -> list[dict[str, str]]:
    with open(folder / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def runs(folder: Path) -> list[dict[str, Any]]:
    documents = map(json.loads, (folder / "runs.jsonl").read_text().splitlines())
    return [document for document in documents if document.get("kind") == "run"]


# --- what it makes


def test_a_comparison(drawing: Bench, tables: dict[str, str], tmp_path: Path) -> None:
    both = ["--table", table(tables), "--table", table(tables, "cell")]
    result = drawing("-s", "random", "-s", EVOLUTION, *both, "--seeds", "4", "-n", "12", "--at", "6,12", "-o", "b")
    assert [(line["table"], line["strategy"]) for line in result.lines] == [
        (name, label) for name in ("nasbench-macro val", "nasbench201 val200") for label in ("random", LABEL)
    ]
    for line in result.lines:
        assert line["seeds"] == 4 and [mark["queries"] for mark in line["at"]] == [6, 12]
        assert line["at"][0]["regret"] >= line["at"][1]["regret"] > 0 or "201" not in line["table"]
    found = rows(tmp_path / "b")
    assert list(found[0]) == "table strategy seed queries sim_seconds label value regret rank".split()
    assert len(found) == 2 * 2 * 4 * 12
    assert [row["queries"] for row in found[:13]] == [str(n) for n in (*range(1, 13), 1)]
    check_rows(found, tables)
    files = {path.name for path in (tmp_path / "b").iterdir()}
    curves = {
        f"curves-{name}.{kind}" for name in ("nasbench-macro-val", "nasbench201-val200") for kind in ("svg", "png")
    }
    assert files == {"bench.lock", "runs.jsonl", "results.csv", "report.md", *curves}
    check_report(tmp_path / "b", result)


def check_rows(found: list[dict[str, str]], tables: dict[str, str]) -> None:
    """results.csv against the tables themselves."""
    with np.load(tables["macro"]) as columns:
        val, test = columns["val"], columns["test"]
    for row in found:
        if row["table"] == "nasbench-macro val":
            (index,) = np.flatnonzero(abs(val - float(row["label"])) < 1e-9)
            assert float(row["value"]) == pytest.approx(test[index], abs=1e-9)
            assert float(row["regret"]) == pytest.approx(100 * (test.max() - test[index]), abs=1e-7)
            assert int(row["rank"]) == 1 + (test > test[index]).sum()
            assert float(row["sim_seconds"]) > 0
        else:
            assert row["sim_seconds"] == "" and row["label"] == row["value"]
    for before, after in pairwise(found):
        if int(after["queries"]) > 1:
            assert float(after["label"]) >= float(before["label"])


def check_report(folder: Path, result: Outcome) -> None:
    report = (folder / "report.md").read_text()
    assert "nastool bench -s random -s" in report and f"numpy {np.__version__}" in report
    assert report.count("\n## ") == 2 and report.count("### Differences of regret") == 2
    for line in result.lines:
        last = line["at"][-1]
        for each in ("regret", "recommended_regret"):
            assert f"| {last[each]:.3f} ± {last[f'{each}_se']:.3f} |" in report
        assert last["recommended_seeds"] == line["seeds"]
    for path in folder.glob("curves-*"):
        assert f"({path.stem}.svg)" in report
        if path.suffix == ".svg":
            assert ElementTree.parse(path).getroot().tag.endswith("svg")
        else:
            from matplotlib.image import imread

            assert imread(path).shape[2] == 4


def test_the_same_as_a_search(bench: Bench, tables: dict[str, str], tmp_path: Path) -> None:
    """A run is what `nastool search` does with that seed."""
    bench("-s", EVOLUTION, "--table", table(tables), "--seeds", "7-7", "-n", "30", "-o", "b")
    search = ["search", "-s", "evolution", "-S", "population=4", "-S", "tournament=2", "--space", "nasbench-macro"]
    search += ["--evaluator", "table", "-E", f"file={tables['macro']}", "-n", "30", "--seed", "7", "--out", "s"]
    result = subprocess.run([*NASTOOL, *search], capture_output=True, text=True, check=True, cwd=tmp_path)
    best = json.loads(result.stdout)
    last = rows(tmp_path / "b")[-1]
    assert float(last["label"]) == pytest.approx(best["metrics"]["val_acc"], abs=1e-9)
    assert float(last["value"]) == pytest.approx(best["metrics"]["test_acc"], abs=1e-9)


def test_two_workers_give_the_same(drawing: Bench, tables: dict[str, str], tmp_path: Path) -> None:
    command = ["-s", "random", "-s", EVOLUTION, "--table", table(tables, options="noise=0.01"), "--seeds", "6"]
    first = drawing(*command, "-n", "20", "-o", "one")
    second = drawing(*command, "-n", "20", "-o", "two", "--workers", "2")
    assert [without_times(line) for line in first.lines] == [without_times(line) for line in second.lines]
    for name in ("results.csv", "curves-nasbench-macro-val-noise-0.01.svg"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def without_times(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key != "cpu_seconds_per_query"}


def test_simulated_seconds(bench: Bench, tables: dict[str, str], tmp_path: Path) -> None:
    budget = ["--sim-seconds", "800", "--at-seconds", "400,800"]
    result = bench("-s", "random", "--table", table(tables), "--seeds", "3", *budget, "-o", "b")
    (line,) = result.lines
    assert [mark["seconds"] for mark in line["at"]] == [400, 800]
    for seed in range(3):
        spent = [float(row["sim_seconds"]) for row in rows(tmp_path / "b") if row["seed"] == str(seed)]
        assert spent[-1] <= 800 < spent[-1] + 100 and len(spent) > 7
    again = bench("-s", "random", "--table", table(tables), "--seeds", "3", *budget, "-o", "b")
    assert again.lines == result.lines and len(runs(tmp_path / "b")) == 3
    (line,) = bench("-s", "random", "--table", table(tables), "--seeds", "3", "-n", "7", "-o", "b").lines
    assert len(runs(tmp_path / "b")) == 3, "these 7 queries are known"
    assert len(rows(tmp_path / "b")) == 21


def test_jsonl(bench: Bench, tables: dict[str, str], tmp_path: Path) -> None:
    command = ["-s", "random", "--table", table(tables), "--seeds", "2", "-n", "5", "-o", "b"]
    bench(*command)
    expected = [tuple(row.values()) for row in rows(tmp_path / "b")]
    bench(*command, "--format", "jsonl")
    found = [json.loads(line) for line in (tmp_path / "b" / "results.jsonl").read_text().splitlines()]
    assert [tuple(map(str, row.values())) for row in found] == expected
    assert not (tmp_path / "b" / "results.csv").exists(), "it would be out of date after the next call"


# --- continuing


def test_more_seeds_trials_strategies_and_tables(bench: Bench, tables: dict[str, str], tmp_path: Path) -> None:
    begin = ["-s", "random", "--table", table(tables), "-o", "b"]
    first = bench(*begin, "--seeds", "3", "-n", "10")
    assert first.lines[0]["seeds"] == 3 and len(runs(tmp_path / "b")) == 3
    assert bench(*begin, "--seeds", "3", "-n", "10").lines == first.lines
    bench(*begin, "--seeds", "5", "-n", "10")
    assert len(runs(tmp_path / "b")) == 5
    bench(*begin, "--seeds", "5", "-n", "20", "--at", "10,20")
    assert len(runs(tmp_path / "b")) == 10, "shorter ones are made anew"
    assert {row["queries"] for row in rows(tmp_path / "b")} == {str(n) for n in range(1, 21)}
    cut = bench(*begin, "--seeds", "3", "-n", "10")
    assert len(runs(tmp_path / "b")) == 10, "longer ones are cut"
    assert without_times(cut.lines[0]) == without_times(first.lines[0]), "what was asked earlier is asked again"
    (other,) = bench(*begin, "--seeds", "3", "-n", "10", "--at", "7,10").lines
    assert [(mark["seeds"], mark["recommended_seeds"]) for mark in other["at"]] == [(3, 0), (3, 3)], "and no other mark"
    assert "| random | - |" in (tmp_path / "b" / "report.md").read_text()
    bench("-s", EVOLUTION, "--table", table(tables), "-o", "b", "--seeds", "2", "-n", "10")
    result = bench("-s", "random", "--table", table(tables, "cell"), "-o", "b", "--seeds", "2", "-n", "10")
    assert [(line["table"], line["strategy"], line["seeds"]) for line in result.lines] == [
        ("nasbench-macro val", "random", 2),
        ("nasbench-macro val", LABEL, 2),
        ("nasbench201 val200", "random", 2),
    ]
    assert len(runs(tmp_path / "b")) == 14


def test_dry_run(bench: Bench, tables: dict[str, str], tmp_path: Path) -> None:
    command = ["-s", "random", "-s", EVOLUTION, "--table", table(tables), "-n", "5", "-o", "b"]
    assert [line["runs_missing"] for line in bench(*command, "--seeds", "3", "--dry-run").lines] == [3, 3]
    assert not (tmp_path / "b").exists()
    bench(*command[:2], *command[4:], "--seeds", "2")
    before = (tmp_path / "b" / "runs.jsonl").read_bytes()
    assert [line["runs_missing"] for line in bench(*command, "--seeds", "3", "--dry-run").lines] == [1, 3]
    assert (tmp_path / "b" / "runs.jsonl").read_bytes() == before


def test_the_report_alone(drawing: Bench, tables: dict[str, str], tmp_path: Path) -> None:
    command = ["-s", "random", "-s", EVOLUTION, "--table", table(tables), "--seeds", "3", "-n", "10", "-o", "b"]
    whole = drawing(*command)
    before = {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir() if path.name != "bench.lock"}
    for name in before:
        if name != "runs.jsonl":
            (tmp_path / "b" / name).unlink()
    assert drawing("-o", "b").lines == whole.lines
    assert {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir() if path.name != "bench.lock"} == before
    (line, _) = drawing("-o", "b", "--at", "4", "--seeds", "2", "--target-regret", "100").lines
    assert [mark["queries"] for mark in line["at"]] == [4] and line["seeds"] == 2
    assert line["median_queries"] == 1 and line["reached"] == 1
    assert drawing("-o", "b", "-n", "99").lines[0]["seeds"] == 0, "nothing that long was run"
    journal = tmp_path / "b" / "runs.jsonl"
    assert b'{"format":"nastool.bench/4"}' in journal.read_bytes() and b"sitting" not in journal.read_bytes()
    earlier = journal.read_text().replace("bench/4", "bench/1").replace('"kind":"call"', '"kind":"sitting"')
    journal.write_text(earlier)
    assert drawing("-o", "b").lines == whole.lines, "one of format 1 is read"


def test_force_makes_them_again(bench: Bench, tables: dict[str, str], tmp_path: Path) -> None:
    command = ["-s", "random", "--table", table(tables), "--seeds", "2", "-n", "5", "-o", "b"]
    first = bench(*command)
    assert without_times(bench(*command, "--force").lines[0]) == without_times(first.lines[0])
    assert len(runs(tmp_path / "b")) == 4
    path = tmp_path / "b" / "runs.jsonl"
    path.write_text(path.read_text().replace('"source":"', '"source":"0'))
    assert "strategy random was changed since 2 of these; --force makes them again" in bench(*command).err


def test_torn_and_damaged_lines(bench: Bench, tables: dict[str, str], tmp_path: Path) -> None:
    command = ["-s", "random", "--table", table(tables), "--seeds", "3", "-n", "5", "-o", "b"]
    whole = bench(*command)
    path = tmp_path / "b" / "runs.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines)[:-20])
    assert bench("-o", "b").lines[0]["seeds"] == 2, "a torn line is ignored"
    assert without_times(bench(*command).lines[0]) == without_times(whole.lines[0])
    assert [run["seed"] for run in runs(tmp_path / "b")] == [0, 1, 2], "and is cut off before more is written"
    for bad in (
        b"{}\n",
        b"[1]\n",
        b"\xff\n",
        b'{"kind":"run"}\n',
        b'{"kind":"else"}\n',
        lines[-1].replace(b":[", b":{"),
    ):
        path.write_bytes(b"".join([*lines[:-1], bad, lines[-1]]))
        bench("-o", "b").refused(f"damaged in line {len(lines)}: delete that line")
    path.write_bytes(lines[0][:10])
    assert without_times(bench(*command).lines[0]) == without_times(whole.lines[0]), "killed while it began"


def test_a_deleted_line_is_made_again(bench: Bench, tables: dict[str, str], tmp_path: Path) -> None:
    """Also that of a strategy or a table, without which the runs that follow say nothing."""
    command = ["-s", "random", "-s", EVOLUTION, "--table", table(tables), "--seeds", "2", "-n", "5", "-o", "b"]
    whole = [without_times(line) for line in bench(*command).lines]
    path = tmp_path / "b" / "runs.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    for i in range(1, len(lines)):
        path.write_bytes(b"".join(lines[:i] + lines[i + 1 :]))
        again = [without_times(line) for line in bench(*command).lines]
        assert sorted(again, key=str) == sorted(whole, key=str), lines[i]


JUNK = [None, True, 0, -1, 1, 1.5, 2**70, 10**400, 1e308, math.nan, "", "x", "\ud800", [], [1], ["x"], {}, {"a": 1}]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The paths to everything in a JSON value."""
    if path:
        yield path
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[key], (*path, key))


def test_edited_lines(bench: Bench, tables: dict[str, str], tmp_path: Path) -> None:
    """Any value replaced by any other: it is accepted, or the line is named; never an error of ours or a NaN."""
    bench("-s", EVOLUTION, "--table", table(tables), "--seeds", "2", "-n", "5", "-o", "b")
    path = tmp_path / "b" / "runs.jsonl"
    lines = path.read_text().splitlines()
    moments = random.Random(0)
    cases = [(i, place) for i in range(1, 5) for place in places(json.loads(lines[i]))]
    for number, (i, place) in enumerate(cases):
        for value in JUNK if "best" in place else moments.sample(JUNK, 3):
            document = holder = json.loads(lines[i])
            for key in place[:-1]:
                holder = holder[key]
            holder[place[-1]] = value
            path.write_text("\n".join([*lines[:i], json.dumps(document), *lines[i + 1 :]]) + "\n")
            result = bench("-o", "b", *(["--text"] if number % 2 else []))
            if result.code == 2:
                of_no_run = "b has no finished runs" in result.err  # the id of its strategy or table, say
                result.refused("" if of_no_run else f"b/runs.jsonl is damaged in line {i + 1}: delete that line")
            else:
                assert "internal error" not in result.err and "nan" not in result.out, (place, value, result)


def test_a_file_that_is_not_ours_stays(bench: Bench, tables: dict[str, str], tmp_path: Path) -> None:
    command = ["-s", "random", "--table", table(tables), "--seeds", "1", "-n", "2", "-o", "b"]
    (tmp_path / "b").mkdir()
    path = tmp_path / "b" / "runs.jsonl"
    for data, says in (
        (b"my diary, a line without end", "none of nastool bench"),
        (random.Random(0).randbytes(100_000), "none of nastool bench"),
        (
            b'{"format":"nastool.bench/5"}\n{"kind":"new"}\n',
            "has format nastool.bench/5, this nastool reads",
        ),
    ):
        path.write_bytes(data)
        bench(*command).refused(says)
        assert path.read_bytes() == data
    path.unlink()
    path.mkdir()
    bench(*command).refused("no comparison of nastool bench")


@pytest.mark.parametrize("kills, seeds", [(1, 30), pytest.param(25, 1500, marks=pytest.mark.slow)])
def test_killed_it_goes_on_as_if_nothing_had_been(
    tables: dict[str, str], tmp_path: Path, kills: int, seeds: int
) -> None:
    command = [*NASTOOL, "bench", "-s", "random", "-s", EVOLUTION, "--table", table(tables), "-n", "60"]
    command += ["--workers", "2", "--seeds", str(seeds), "--out"]
    subprocess.run([*command, str(tmp_path / "whole")], check=True, capture_output=True)
    moments, journal = random.Random(0), tmp_path / "killed" / "runs.jsonl"
    for kill in range(kills):
        process = subprocess.Popen([*command, str(tmp_path / "killed")], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        enough = 2 * seeds * (kill + moments.random()) / (kills + 1)
        while not journal.exists() or journal.read_bytes().count(b"\n") <= enough:
            assert process.poll() is None, "it was over before it could be killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    subprocess.run([*command, str(tmp_path / "killed")], check=True, capture_output=True)
    for name in ("results.csv", "curves-nasbench-macro-val.svg"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "killed" / name).read_bytes()
    assert len(runs(tmp_path / "killed")) == 2 * seeds, "no finished run was made twice"


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_save_and_say_how_to_go_on(
    tables: dict[str, str], tmp_path: Path, number: signal.Signals, code: int
) -> None:
    command = [*NASTOOL, "bench", "-s", "random", "--table", table(tables), "-n", "200", "--seeds", "100000"]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path / "b")], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    end = time.monotonic() + 60
    while not (tmp_path / "b" / "runs.jsonl").exists() or len(runs(tmp_path / "b")) < 3:
        assert time.monotonic() < end
        time.sleep(0.05)
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (code, "")
    assert f"continue with: nastool bench -s random --table {table(tables)}" in err and "Traceback" not in err
    assert runs(tmp_path / "b")[-1]["queries"] == 200


# --- what goes wrong


CLUMSY = '''
import os
from nastool.strategies.random_search import RandomSearch

class Clumsy(RandomSearch):
    """Raises, dies or behaves, as its seed says."""
    name = "clumsy"

    def __init__(self, space, *, seed: int = 0, always: bool = False):
        super().__init__(space, seed=seed)
        self.number, self.always = seed, always

    def propose(self):
        if self.number == 1:
            raise RuntimeError("made to fail")
        if self.number == 3 and self.always:
            raise SystemExit(0)
        if self.number == 2 and (self.always or not os.path.exists("died")):
            open("died", "w").close()
            os._exit(3)
        return super().propose()

class Needy(RandomSearch):
    name = "needy"
    needs = frozenset({"budget"})
'''


def test_a_bad_run_costs_itself_alone(tables: dict[str, str], tmp_path: Path) -> None:
    points = {"nastool.strategies": "clumsy = clumsy_plugin:Clumsy\nneedy = clumsy_plugin:Needy"}
    environment = install(tmp_path / "plugin", "clumsy_plugin", CLUMSY, points)

    def bench(*arguments: str) -> Outcome:
        command = [*NASTOOL, "bench", "--table", table(tables), "--seeds", "4", "-n", "5", "-o", "b", *arguments]
        result = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
        assert "Traceback" not in result.stderr
        return Outcome(result.returncode, result.stdout, result.stderr)

    result = bench("-s", "clumsy", "-s", "clumsy:always=true", "--workers", "2")
    assert result.code == 1
    assert "no result of clumsy on nasbench-macro val, seed 1: RuntimeError: made to fail" in result.err
    assert "no result of clumsy(always=true) on nasbench-macro val, seed 2: worker died: exit code 3" in result.err
    assert "no result of clumsy(always=true) on nasbench-macro val, seed 3: SystemExit: 0" in result.err
    assert "4 of 8 runs have no result; the same command tries them again" in result.err
    once, always = map(json.loads, result.out.splitlines())
    assert once["seeds"] == 3, "the worker that died once was given another try"
    assert always["seeds"] == 1
    bench("-s", "needy").refused("strategy needy needs 'budget', which space nasbench-macro and evaluator table lack")


@pytest.mark.parametrize("name", ["holes", "one", "constant", "nothing"])
def test_odd_tables(bench: Bench, tables: dict[str, str], name: str) -> None:
    """Rows or labels that are missing, a single row, equal labels, none at all: failed queries at worst."""
    both = ["-s", "random", "-s", EVOLUTION, "--table", table(tables, name)]
    first, second = bench(*both, "--seeds", "3", "-n", "30", "-o", name).lines
    expected = {"holes": (0.3, 0.9), "one": (0.9, 1), "constant": (0, 0), "nothing": (1, 1)}[name]
    assert expected[0] <= first["failed"] <= expected[1] and expected[0] <= second["failed"] <= expected[1]
    assert all(mark["regret"] >= 0 for mark in first["at"])
    assert (first["reached"] == 1) == (name == "constant"), "in the single row no success either"


def test_a_single_seed_has_no_spread(bench: Bench, tables: dict[str, str], tmp_path: Path) -> None:
    result = bench("-s", "random", "-s", EVOLUTION, "--table", table(tables), "--seeds", "1", "-n", "1", "-o", "b")
    assert result.lines[0]["at"] == result.lines[1]["at"], "both begin with the same random architecture"
    (at,) = result.lines[0]["at"]
    assert at["regret_se"] is None and at["recommended_regret_se"] is None
    assert "nan" not in (tmp_path / "b" / "report.md").read_text()


@pytest.mark.parametrize("name, options", [("macro", ["--seeds", "1", "-n", "1"]), ("constant", []), ("nothing", [])])
def test_odd_curves(drawing: Bench, tables: dict[str, str], tmp_path: Path, name: str, options: list[str]) -> None:
    """A single point without a spread; nothing but zeros; nothing but failures."""
    command = ["-s", "random", "-s", EVOLUTION, "--table", table(tables, name)]
    assert drawing(*command, *(options or ["--seeds", "3", "-n", "6"]), "-o", "b").code == 0
    (path,) = (tmp_path / "b").glob("curves-*.svg")
    assert ElementTree.parse(path).getroot().tag.endswith("svg")


def test_odd_names(drawing: Bench, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    """Of data sets: no formula, no file name, no letters that a font has."""
    macro = np.array([arch.choices for arch in NasBenchMacro().members()], dtype=np.uint8)
    names = ["a$\\foo$", "|../*", "日本", "L" * 400]
    np.savez("t.npz", arch=macro, **{f"{name}_val": macro.mean(axis=1) / 2 for name in names})
    all_of_them = [part for name in names for part in ("--table", f"nasbench-macro:file=t.npz,dataset={name}")]
    assert len(drawing("-s", "random", *all_of_them, "--seeds", "2", "-n", "3", "-o", "b").lines) == len(names)
    assert len(list((tmp_path / "b").glob("curves-*.svg"))) == len(names)
    assert not recwarn.list


def test_too_many_workers(tables: dict[str, str], tmp_path: Path) -> None:
    command = [*NASTOOL, "bench", "-s", "random", "--table", table(tables), "--seeds", "40", "-n", "2"]
    result = subprocess.run(
        [*command, "-o", "b", "--workers", "40"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        preexec_fn=partial(resource.setrlimit, resource.RLIMIT_NOFILE, (24, 24)),
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert "nastool: cannot start one more worker (Too many open files): give fewer --workers" in result.stderr


def test_a_reader_that_leaves(bench: Bench, tables: dict[str, str], tmp_path: Path) -> None:
    bench("-s", "random", "--table", table(tables), "--seeds", "1", "-n", "2", "-o", "b")
    for form in ("--text", "--json"):
        script = f"{shlex.join([*NASTOOL, 'bench', '-o', 'b', form])} | true; exit ${{PIPESTATUS[0]}}"
        result = subprocess.run(["bash", "-c", script], capture_output=True, text=True, cwd=tmp_path)
        assert (result.returncode, result.stderr) == (0, "report: b/report.md\n"), form


WORDS = st.sampled_from(
    ["random", "evolution", "bo", "nasbench-macro", "population", "file", "noise", *":,=\\+-019", "9" * 30, "nan", "e"]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(WORDS | st.text(max_size=3), max_size=9).map("".join))
def test_fuzz_specs(text: str) -> None:
    """InputError or success; what is accepted has a name and a label."""
    for read in (StrategySpec.parse, TableSpec.parse, parse_seeds, partial(whole_numbers, flag="--at")):
        with contextlib.suppress(InputError):
            found: Any = read(text)
            if isinstance(found, StrategySpec):
                assert (found.id + found.label).encode()
            else:
                assert found


def test_bad_input(bench: Bench, tables: dict[str, str], tmp_path: Path) -> None:
    good = table(tables)

    def refused(*arguments: str, says: str) -> None:
        bench(*arguments, "-o", "b").refused(says)
        assert not (tmp_path / "b").exists(), arguments

    refused(says="no comparison in b: give --strategy and --table")
    refused("-s", "random", says="give --table as well")
    refused("--table", good, says="give --strategy as well")
    refused("-s", "randm", "--table", good, says="no strategy 'randm'; did you mean 'random'?")
    refused("-s", "random:dedupe=1", "--table", good, says="strategy random has no option 'dedupe'; did you mean")
    refused("-s", "random:dedup=7", "--table", good, says="option dedup must be bool, got '7'")
    refused("-s", "random:dedup", "--table", good, says="write --strategy NAME or --strategy NAME:KEY=VALUE")
    refused("-s", "", "--table", good, says="write --strategy NAME")
    refused("-s", "evolution:population=3,population=4", "--table", good, says="population: given twice")
    refused(
        "-s", "evolution:population=3,tournament=4", "--table", good, says="strategy evolution: need 1 <= tournament"
    )
    refused("-s", "random", "-s", "random:dedup=yes", "--table", good, says="random is given twice")
    refused("-s", "random", "--table", "nasbench202:file=x", says="no space 'nasbench202'; did you mean")
    refused("-s", "random", "--table", "nasbench-macro", says="table of space nasbench-macro needs file=...")
    refused("-s", "random", "--table", f"{good},nose=1", says="has no option 'nose'; did you mean 'noise'?")
    refused("-s", "random", "--table", good, "--table", good, says="is given twice")
    refused(
        "-s", "random", "--table", good, "--table", f"{good},metric=val", says="is the same table as an earlier one"
    )
    refused("-s", "random", "--table", "nasbench-macro:file=absent.npz", says="absent.npz: No such file")
    refused("-s", "random", "--table", f"nasbench201:file={tables['macro']}", says="is no table of space nasbench201")
    refused("-s", "random", "--table", table(tables, "pair"), says="several data sets: give dataset=... of aa, bb")
    run = ["-s", "random", "--table", good]
    refused(*run, "--seeds", "0", says="--seeds '0': need 1 <= number of seeds")
    refused(*run, "--seeds", "a", says="--seeds 'a': write how many, or a list")
    refused(*run, "--trials", "0", says="'--trials'")
    refused(*run, "--trials", "9" * 30, says="need 1 <= --trials <= 1,000,000,000")
    refused(*run, "--sim-seconds", "9", "--at", "1e300", says="need 1 <= --at <= 1,000,000,000")
    refused(*run, "--workers", "9" * 20, says="need --workers <= 1,000, got 9999")
    refused("-s", "bananas:encoding=\udcff", "--table", good, says="it is no UTF-8 text")
    refused("-s", "random", "--table", "nasbench-macro:file=", says="file is empty: name the table")
    refused(*run, "--trials", "9", "--at", "5,10", says="--at 10 lies beyond --trials 9")
    refused(*run, "--at", "5,x", says="--at '5,x': write numbers > 0")
    refused(*run, "--at", "1.5", says="--at '1.5': write whole numbers")
    refused(*run, "--sim-seconds", "9", "--at-seconds", "10", says="--at-seconds 10 lies beyond --sim-seconds 9")
    refused(*run, "--target-regret", "nan", says="need a finite --target-regret >= 0")
    refused("-s", "random", "--table", table(tables, "cell"), "--sim-seconds", "9", says="has no training times")


def test_bad_folders(bench: Bench, tables: dict[str, str], tmp_path: Path) -> None:
    run = ["-s", "random", "--table", table(tables), "--seeds", "1", "-n", "2"]
    (tmp_path / "file").write_text("")
    bench(*run, "-o", "file").refused("file is a file, or under one; give another --out")
    bench(*run, "-o", "file/below").refused("give another --out")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("")
    bench(*run, "-o", "full").refused("full is not empty and no comparison of nastool bench; give another --out")
    for text in ("hello\n", "[]\n", '{"format": "other"}\n'):
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / "runs.jsonl").write_text(text)
        bench(*run, "-o", "other").refused("none of nastool bench; give another --out")
        assert (tmp_path / "other" / "runs.jsonl").read_text() == text
    bench(*run, "-o", "x" * 300).refused("give another --out")
    assert bench(*run, "-o", "b").code == 0
    with open(tmp_path / "b" / "bench.lock") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        bench(*run, "-o", "b").refused("b is being written by process")
        assert bench("-o", "b").code == 0, "one may look at it meanwhile"
    bench("-o", "b", "--dry-run").refused("--dry-run and --force need --strategy and --table")


def test_full_disk(tables: dict[str, str], tmp_path: Path) -> None:
    """No file may get larger than that: one line says which one could not be written, and nothing is lost."""
    command = [*NASTOOL, "bench", "-s", "random", "--table", table(tables), "--seeds", "4", "-n", "50", "-o", "b"]
    for limit, name in ((1500, "runs.jsonl"), (30_000, "curves-")):
        result = subprocess.run(
            command,
            capture_output=True,
            text=True,
            cwd=tmp_path,
            preexec_fn=partial(resource.setrlimit, resource.RLIMIT_FSIZE, (limit, limit)),
        )
        assert (result.returncode, result.stdout) == (2, ""), result
        assert f"nastool: cannot write b/{name}" in result.stderr.splitlines()[-1]
    subprocess.run(command, check=True, capture_output=True, cwd=tmp_path)
    assert len(rows(tmp_path / "b")) == 200 and len(runs(tmp_path / "b")) == 4
    assert not list((tmp_path / "b").glob("*.new"))


# --- start-up


@pytest.mark.parametrize("arguments, heavy", [(["--help"], "numpy scipy matplotlib torch"), ([], "torch scipy")])
def test_what_is_imported(tables: dict[str, str], tmp_path: Path, arguments: list[str], heavy: str) -> None:
    run = ["-s", "random", "--table", table(tables), "--seeds", "1", "-n", "2", "-o", str(tmp_path / "b")]
    code = (
        "import sys\n"
        "from nastool.cli import run\n"
        "if __name__ == '__main__':\n"
        f"    sys.argv = ['nastool', 'bench', *{arguments or run!r}]\n"
        "    code = run()\n"
        f"    found = set({heavy.split()!r}) & set(sys.modules)\n"
        "    sys.exit(f'imported {found}' if found else code)\n"
    )
    (tmp_path / "script.py").write_text(code)
    result = subprocess.run([sys.executable, str(tmp_path / "script.py")], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_workers_have_one_thread_each(tables: dict[str, str], tmp_path: Path) -> None:
    source = '''
import os, sys
assert "numpy" in sys.modules
from nastool.strategies.random_search import RandomSearch

class Threads(RandomSearch):
    """Asks the process how many threads it has."""
    name = "threads"

    def tell(self, trial):
        assert all(os.environ[f"{name}_NUM_THREADS"] == "1" for name in ("OMP", "OPENBLAS", "MKL"))
        if os.path.isdir("/proc/self/task"):
            import numpy
            numpy.ones((300, 300)) @ numpy.ones((300, 300))
            assert len(os.listdir("/proc/self/task")) <= 3, "it, what watches its parent, what says that it lives"
'''
    points = {"nastool.strategies": "threads = threads_plugin:Threads"}
    environment = install(tmp_path / "plugin", "threads_plugin", source, points)
    command = [*NASTOOL, "bench", "-s", "threads", "--table", table(tables), "--seeds", "1", "-n", "2"]
    result = subprocess.run(
        [*command, "-o", str(tmp_path / "b")],
        capture_output=True,
        text=True,
        env=environment | {"OMP_NUM_THREADS": "4"},
    )
    assert result.returncode == 0, result.stderr


# --- real data


def test_known_regrets(bench: Bench, benchmark_data: Path) -> None:
    """NAS-Bench-201, CIFAR-10, without noise: independent implementations found .54 ± .03 for random search at 100."""
    real = f"nasbench201:file={benchmark_data / 'nasbench201.npz'},dataset=cifar10,metric=test200"
    result = bench(
        *["-s", "random:dedup=false", "-s", "evolution:population=10,tournament=3,dedup=false"],
        *["--table", real, "--seeds", "40", "-n", "100", "--at", "100", "-o", "b"],
    )
    random_search, evolution = (line["at"][0]["regret"] for line in result.lines)
    assert random_search == pytest.approx(0.54, abs=0.1) and evolution == pytest.approx(0.26, abs=0.1)
