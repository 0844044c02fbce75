"""What commands print on a terminal instead of JSON, and what they say there."""

from __future__ import annotations

import io
import json
import os
import pty
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import nastool
from nastool import cli
from nastool.cli import listing
from nastool.core import archfile, registry
from nastool.core.errors import Fault
from nastool.core.values import Objective, SpaceRef
from nastool.core.wording import as_typed
from nastool.engine.store import Store
from nastool.spaces.nasbench201 import NasBench201
from tests.helpers.made_runs import folder
from tests.helpers.running import Run

NASTOOL = str(Path(sys.executable).parent / "nastool")
OBJECTIVE = Objective.parse("val_acc")


def on_terminal(where: Path, *arguments: str) -> tuple[int, str, str]:
    """Exit code, what a terminal of 80 columns got from stdout, and stderr, which goes elsewhere."""
    main, terminal = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key not in ("LINES", "CI")} | {"COLUMNS": "80"}
    try:
        done = subprocess.run(
            [NASTOOL, *arguments], stdin=subprocess.DEVNULL, stdout=terminal, stderr=subprocess.PIPE, text=True,
            cwd=where, env=environment, timeout=120,
        )  # fmt: skip
        os.close(terminal)
        shown = b""
        while part := _read(main):
            shown += part
    finally:
        os.close(main)
    return done.returncode, shown.decode().replace("\r\n", "\n"), done.stderr


def _read(main: int) -> bytes:
    try:
        return os.read(main, 1 << 16)
    except OSError:  # the other side is closed
        return b""


def document(value: float = 0.5, **more: Any) -> dict[str, Any]:
    return {"key": "0123456789ab", "metrics": {"val_acc": value, "val_loss": 1.0, "params": 1234.0}, **more}


class TestStdoutIsATerminal:
    def test_search_and_then_top_and_eval(self, tmp_path: Path, macro_table: str) -> None:
        search = [
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
        search += ["-n", "3", "-o", "a", "--no-report"]
        code, out, err = on_terminal(tmp_path, *search)
        assert (code, out) == (0, "") and "best: trial" in err and "  cost " in err
        code, out, err = on_terminal(tmp_path, *search)
        assert (code, out) == (0, ""), "also what was found earlier"
        assert "already has its 3 trials" in err and "best: trial" in err and "nastool status a" in err
        code, out, _ = on_terminal(tmp_path, *search, "--json")
        best = json.loads(out)
        assert code == 0 and best == json.loads((tmp_path / "a" / "best.json").read_text())

        code, out, _ = on_terminal(tmp_path, "top", "a", "-k", "2")
        assert code == 0 and out.splitlines()[0] == "a: by val_acc, highest first"
        assert out.splitlines()[2].split()[0] == "1" and out.splitlines()[2].endswith(f"  {best['key']}")
        evaluation = ["eval", "a/best.json", "--evaluator", "table", "-E", f"file={macro_table}"]
        code, out, _ = on_terminal(tmp_path, *evaluation)
        head, row = out.splitlines()
        assert code == 0 and head.split()[:3] == ["key", "val_acc", "test_acc"] and row.startswith(best["key"])
        code, out, _ = on_terminal(tmp_path, *evaluation, "--json")
        assert code == 0 and json.loads(out)["key"] == best["key"]

    def test_show_draws(self, tmp_path: Path) -> None:
        code, out, _ = on_terminal(tmp_path, "show", "zoo:enas-macro")
        assert code == 0 and out.startswith("macro-cnn  ") and "skips" in out and "skip1 " not in out

    def test_search_that_only_plans(self, tmp_path: Path, macro_table: str) -> None:
        options = ["--space", "nasbench-macro", "--evaluator", "table", "-E", f"file={macro_table}", "--dry-run"]
        code, out, err = on_terminal(tmp_path, "search", *options)
        assert (code, out) == (0, "") and "# cost" in err
        code, out, _ = on_terminal(
            tmp_path, "bench", "-s", "random", "--table", f"nasbench-macro:file={macro_table}", "--dry-run"
        )
        assert code == 0 and out == "random on nasbench-macro val: 100 runs\n"

    def test_to_python_it_is_all_the_same(
        self, tmp_path: Path, macro_table: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
        space = registry.make_space(SpaceRef("nasbench-macro"))
        line = archfile.to_json(space, space.arch([0] * 8))
        (found,) = nastool.evaluate(line, evaluator="table", evaluator_options={"file": macro_table})
        assert "val_acc" in found["metrics"] and capsys.readouterr().out == ""


class TestTables:
    def test_top_of_a_run(self, run: Run) -> None:
        folder(Path("a"), [0.25, 0.75, "failed", 0.5])
        assert [line["trial"] for line in run("top", "a", "-k", "2").accepted()] == [1, 3]
        title, head, *rows = run("top", "a", "-k", "9", "--text").out.splitlines()
        assert title == "a: by val_acc, highest first"
        assert head.split() == ["rank", "trial", "val_acc", "params", "seconds", "key"]
        assert [row.split()[:4] for row in rows] == [
            ["1", "1", "0.7500", "1,001"], ["2", "3", "0.5000", "1,003"], ["3", "0", "0.2500", "1,000"],
        ]  # fmt: skip
        lowest = run("top", "a", "--objective", "params:min", "--text").out.splitlines()
        assert lowest[0] == "a: by params, lowest first" and lowest[2].split()[2:4] == ["1,000", "0.2500"]

    def test_of_lines_with_a_spread(self) -> None:
        one = document(std={"val_acc": 0.0123, "params": 0.0})
        head, row = listing.ranking([one], OBJECTIVE)
        assert head.split() == ["rank", "val_acc", "params", "key"]  # no trial, and of loss and accuracy the accuracy
        assert row.split() == ["1", "0.5000", "±", "0.0123", "1,234", "0123456789ab"]

    @pytest.mark.parametrize(("width", "last"), [(200, "seconds"), (50, "params"), (20, "val_acc")])
    def test_a_narrow_terminal_loses_columns_but_no_keys(
        self, monkeypatch: pytest.MonkeyPatch, width: int, last: str
    ) -> None:
        monkeypatch.setattr(listing, "width", lambda: width)
        more = {"val_acc": 0.5, "test_acc": 0.5, "params": 1e6, "flops": 1e9, "seconds": 3.0}
        head, row = listing.ranking([document() | {"metrics": more}], OBJECTIVE)
        assert head.split()[1] == "val_acc" and head.split()[-2:] == [last, "key"] and row.endswith("0123456789ab")
        assert len(row) <= max(width, 30)

    @pytest.mark.parametrize(
        "metrics",
        [
            {"val_acc": 0.5, "params": 10**400, "x": True, "y": None, "z": "text", "\x1b[2J": 1.0},
            {"val_acc": 1, "val_loss": [], "seconds": "long"},
        ],
    )
    def test_of_what_others_wrote(self, metrics: dict[str, Any]) -> None:
        lines = listing.ranking([document(trial="\x1b[2J", std=5) | {"metrics": metrics}, document()], OBJECTIVE)
        assert len(lines) == 3 and all(line.isprintable() for line in lines)

    def test_evaluations_one_by_one(self, capsys: pytest.CaptureFixture[str]) -> None:
        shown = listing.Growing()
        shown.add(document() | {"metrics": {}, "error": "seed 0: broke"})
        shown.add(document(runs=[{"seed": 0}, {"seed": 1, "error": "broke"}]))
        shown.add(document(runs=[{"seed": 0}, {"seed": 1}], std={"val_acc": 0.25}))
        shown.add(document() | {"metrics": {"energy": 3.0}})
        assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
            ["0123456789ab", "failed"],
            ["key", "val_acc", "params"],
            ["0123456789ab", "0.5000", "1,234", "1", "of", "2", "seeds", "failed"],
            ["0123456789ab", "0.5000", "±", "0.2500", "1,234"],
            ["key", "energy"],
            ["0123456789ab", "3"],
        ]


class TestSample:
    def test_no_two_are_equivalent_unless_asked_for(self, run: Run) -> None:
        """55 architectures of these 10,000 combinations differ."""
        cells = ["--space", "cell-cnn", "-P", "blocks=1", "-P", "normal_output=2", "-P", "reduce_output=0"]

        def forms(*arguments: str) -> list[str]:
            archs = [archfile.from_json(line) for line in run("sample", *cells, *arguments).accepted()]
            return [registry.make_space(found.arch.space).canonical(found.arch) for found in archs]

        assert len(set(forms("-n", "55"))) == 55
        assert len(set(forms("-n", "100", "--no-dedup"))) < len(forms("-n", "100", "--no-dedup")) == 100
        result = run("sample", *cells, "-n", "56")
        assert result.code == 2 and len(result.out.splitlines()) == 55
        assert (
            result.err
            == "nastool: space cell-cnn: only 55 architectures were found that differ: give -n 55 or --no-dedup\n"
        )


class TestShow:
    @pytest.mark.parametrize("name", sorted(registry.plugins("space")))
    def test_every_space(self, run: Run, name: str) -> None:
        line = run("sample", "--space", name, "-n", "1").out
        key, choices = json.loads(line)["key"], json.loads(line)["choices"]
        shown = run("show", "-", "--text", stdin=line)
        assert shown.code == 0 and shown.out.startswith(f"{name}  {key}\n"), shown
        listed = run("show", "-", "--to", "decisions", stdin=line).out.splitlines()
        rows = [row.split() for row in listed[1 : 1 + len(choices)]]
        assert rows == [f"{name} {option}".split() for name, option in choices.items()]
        assert run("show", "-", stdin=line).accepted()[0]["choices"] == choices, "in a pipe it stays JSON"

    def test_what_is_known_of_it(self, run: Run) -> None:
        line = run("sample", "-n", "1").accepted()[0]
        line |= {"metrics": {"val_acc": 0.5}, "trial": 3, "run": "runs/a"}
        text = run("show", "-", "--text", stdin=json.dumps(line) + "\n" + json.dumps(line)).out
        assert text.count("\nmetrics  val_acc 0.5000\nrun      runs/a\ntrial    3\n") == 2
        string = NasBench201().to_string(NasBench201().arch([1, 2, 3, 4, 1, 3])) or ""
        assert string in run("show", string, "--space", "nasbench201", "--text").out, "in one piece, to be copied"

    def test_decisions_into_a_file(self, run: Run) -> None:
        assert run("show", "zoo:darts-v2", "--to", "decisions", "-o", "a.txt").code == 0
        assert "normal1.op1 " in Path("a.txt").read_text()


class TestStdin:
    @pytest.mark.parametrize("command", [["eval", "--evaluator", "train"], ["top", "-"], ["show", "-"]])
    def test_a_terminal_is_told_what_is_waited_for(
        self, command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        typed = io.StringIO("")
        monkeypatch.setattr(typed, "isatty", lambda: True, raising=False)
        monkeypatch.setattr(sys, "stdin", typed)
        monkeypatch.setattr(sys, "argv", ["nastool", *command])
        cli.run()
        assert "reading architectures from stdin" in capsys.readouterr().err

    def test_a_pipe_is_not(self, run: Run) -> None:
        assert "reading" not in run("show", "-", stdin=run("sample", "-n", "1").out).err


class TestOptions:
    def test_as_typed(self) -> None:
        given = {"scale": {"channels": 4, "cells": 1}, "all_data": False, "recipe": None, "lr": 0.1, "at": [1, 2]}
        assert as_typed(given) == "scale=channels=4,cells=1 all_data=false lr=0.1 at=1,2"

    def test_status(self, run: Run) -> None:
        options = {"scale": {"channels": 4}, "all_data": False}
        folder(Path("a"), [0.5], evaluator={"name": "train", "options": options})
        text = run("status", "a", "--text").out
        assert "  evaluator  train  scale=channels=4 all_data=false\n" in text and "trained" not in text
        assert "trained" not in run("status", "a").accepted()[0]

    def test_status_and_show_of_what_failed(self, run: Run) -> None:
        made = folder(Path("a"), [0.5, "training loss is nan", "killed", "killed"])
        with Store.open(made / "run.db") as store:
            for trial in list(store.trials())[1:]:
                fault: Fault = "killed" if trial.error == "killed" else "nan"
                store.begin()
                store.finish(
                    replace(trial, fault=fault), trial.id, "epoch 1\nloss \x1b[31mnan" if fault == "nan" else ""
                )
                store.commit()
        text = run("status", "a", "--text").out
        assert "1 done, 3 failed (2 killed, 1 not a number), 0 running" in text
        assert "`nastool show a --trial 3` prints the end of its log" in text
        (facts,) = run("status", "a").accepted()
        assert facts["faults"] == {"killed": 2, "nan": 1} and facts["failures"][-1]["fault"] == "nan"
        shown = run("show", "a", "--trial", "1", "--text").out
        assert "failed   not a number: training loss is nan\nlog\n  epoch 1\n  loss \\u001b[31mnan\n" in shown
        (line,) = run("show", "a", "--trial", "1").accepted()
        assert (line["error"], line["fault"]) == ("training loss is nan", "nan")
        assert line["log"] == ["epoch 1", "loss \x1b[31mnan"]
        (line,) = run("show", "a", "--trial", "2").accepted()
        assert "log" not in line and line["fault"] == "killed"

    def test_neither_a_configuration_file_nor_python_says_how_to_print(self, run: Run) -> None:
        Path("a.yaml").write_text("search: {json-flag: true}")
        run("search", "--config", "a.yaml").refused("no option 'json-flag'")
        with pytest.raises(TypeError, match="json_flag"):
            nastool.evaluate("zoo:enas-macro", json_flag=True)  # type: ignore[call-arg]
