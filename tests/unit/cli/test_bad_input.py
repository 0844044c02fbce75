"""Bad input: one clear line on stderr, exit code 2, nothing on stdout, nothing lost.

Most commands run in this process, as `nastool.cli.run` does; what belongs to a process (pipes, limits, signals) runs
in its own.
"""

from __future__ import annotations

import copy
import json
import os
import resource
import shlex
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from nastool import cli
from nastool.core import archfile, options
from nastool.core.errors import InputError, InvalidArchError
from nastool.core.recipe import Recipe
from nastool.spaces.nasbench201 import NasBench201
from nastool.strategies.evolution import RegularizedEvolution
from nastool.training.recipes import load_recipe
from tests.helpers.running import Outcome, Run, changed

NASTOOL = str(Path(sys.executable).parent / "nastool")
SPACE = NasBench201()
GOOD: dict[str, Any] = archfile.to_json(SPACE, SPACE.arch([0, 1, 2, 3, 4, 0]))
LINE = json.dumps(GOOD)
TINY = ["--data", "digits", "--epochs", "1", "-E", "train_size=50", "--device", "cpu"]
DEEP = 100_000
FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def process(script: str, cwd: Path, prepare: Callable[[], None] | None = None, **env: str) -> Outcome:
    """Run a line of bash that calls $nastool."""
    result = subprocess.run(
        ["bash", "-c", script],
        cwd=cwd,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
        preexec_fn=prepare,
        env={**os.environ, "nastool": NASTOOL, **env},
    )
    return Outcome(result.returncode, result.stdout, result.stderr)


@pytest.fixture(scope="module")
def columns() -> dict[str, np.ndarray[Any, Any]]:
    """All of nasbench201 with made-up accuracies."""
    archs = np.array([arch.choices for arch in SPACE.members()], dtype=np.uint8)
    return {"arch": archs, "val": np.random.default_rng(0).random(len(archs))}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory, columns: dict[str, np.ndarray[Any, Any]]) -> str:
    path = tmp_path_factory.mktemp("table") / "t.npz"
    np.savez(path, allow_pickle=False, **columns)
    return str(path)


@pytest.fixture
def search(run: Run, table: str) -> Run:
    """`run` of a search of 5 trials in the table, in the run folder "out"."""
    command = ["search", "--evaluator", "table", "-E", f"file={table}", "-n", "5", "--out", "out"]
    return lambda *more: run(*changed(command, *more))


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, table: str) -> Path:
    """A run folder."""
    folder = tmp_path_factory.mktemp("run") / "a"
    command = [NASTOOL, "search", "--evaluator", "table", "-E", f"file={table}", "-n", "5", "--out", str(folder)]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


# --- architectures


def doc(**changes: Any) -> str:
    """The good document with keys replaced."""
    return json.dumps({**GOOD, **changes})


def choice(**changes: Any) -> str:
    """The good document with choices added or replaced; the first decision is called `first`."""
    named = {"1<-0" if key == "first" else key: value for key, value in changes.items()}
    return doc(choices={**GOOD["choices"], **named})


def raw(text: str) -> str:
    """The good document with raw JSON text as the value of an extra key."""
    return doc(extra=0).replace('"extra": 0', f'"extra": {text}')


def without(key: str) -> str:
    return json.dumps({k: v for k, v in GOOD.items() if k != key})


BAD_DOCUMENTS: dict[str, tuple[str | bytes, str]] = {
    "truncated": (LINE[:100], "line 1"),
    "one brace short": (LINE[:-1], "line 1"),
    "unknown op": (choice(first="nor_conv3x3"), "did you mean 'nor_conv_3x3'"),
    "unknown decision": (choice(foo="none"), "no decision 'foo'"),
    "missing decision": (doc(choices={"1<-0": "none"}), "'2<-0' is missing"),
    "op is a number": (choice(first=3), "'1<-0' has no option 3"),
    "op is null": (choice(first=None), "'1<-0'"),
    "op is a list": (choice(first=["none"]), "'1<-0'"),
    "op is an object": (choice(first={"none": 1}), "'1<-0'"),
    "op is true": (choice(first=True), "'1<-0'"),
    "op is very long": (choice(first="x" * 100_000), "'1<-0'"),
    "op is half a character": (choice(first="\ud800"), "'1<-0'"),
    "decision is very long": (choice(**{"y" * 100_000: "none"}), "no decision"),
    "choices are a list": (doc(choices=[0, 1]), "'choices'"),
    "choices are null": (doc(choices=None), "'choices'"),
    "choices are a number": (doc(choices=3), "'choices'"),
    "choices are nested": (doc(choices={"choices": GOOD["choices"]}), "no decision 'choices'"),
    "no choices": (without("choices"), "'choices'"),
    "no space": (without("space"), "'space'"),
    "unknown space": (doc(space={"name": "nasbench999"}), "did you mean 'nasbench201'"),
    "another space": (doc(space={"name": "nasbench-macro"}), "no decision"),
    "space is a number": (doc(space=5), "'space'"),
    "space without a name": (doc(space={}), "'space'"),
    "unknown space option": (doc(space={"name": "nasbench201", "options": {"x": 1}}), "no option 'x'"),
    "space options are a list": (doc(space={"name": "nasbench201", "options": [1]}), "'options'"),
    "space option is nested": (doc(space={"name": "nasbench201", "options": {"x": {}}}), "'options'"),
    "another format": (doc(format="nastool.arch/2"), "nastool.arch/2"),
    "format is a list": (doc(format=[1]), "format"),
    "NaN": (raw("NaN"), "NaN"),
    "Infinity": (raw("-Infinity"), "Infinity"),
    "number out of range": (raw("1e999"), "line 1"),
    "integer of 5,000 digits": (raw("9" * 5000), "line 1"),
    "choices twice": (LINE[:-1] + ', "choices": {"1<-0": "none"}}', "line 1"),
    "decision twice": (LINE.replace('"1<-0":', '"1<-0": "skip_connect", "1<-0":', 1), "1<-0"),
    "deep list": ("[" * DEEP, "deep"),
    "deep object": ('{"a":' * DEEP, "deep"),
    "deep extra": (raw("[" * DEEP + "]" * DEEP), "deep"),
    "array": (f"[{LINE}]", "object"),
    "string": ('"abc"', "object"),
    "number": ("5", "object"),
    "text": ("hello", "object"),
    "two on one line": (LINE + LINE, "line 1"),
    "two over several lines": (json.dumps(GOOD, indent=1) * 2, "line"),
    "text after the object": (json.dumps(GOOD, indent=1) + "\nfoo", "line"),
    "long text": ("x y z " * 1_700_000, "line 1"),
    "long JSON": ('{"a": "' + "b" * 10_000_000 + '"}', "longer than"),
    "binary": (np.random.default_rng(0).bytes(1_000_000), "text"),
    "UTF-16": (LINE.encode("utf-16"), "text"),
    "Latin-1": (b'{"a": "\xff"}', "text"),
}


@pytest.mark.parametrize("stdin", [False, True], ids=["file", "stdin"])
@pytest.mark.parametrize("name", BAD_DOCUMENTS)
def test_bad_architecture(run: Run, name: str, stdin: bool) -> None:
    document, fragment = BAD_DOCUMENTS[name]
    data = document if isinstance(document, bytes) else document.encode(errors="surrogatepass")
    if stdin:
        run("show", "-", stdin=data).refused("stdin", fragment)
    else:
        Path("a.json").write_bytes(data)
        run("show", "a.json").refused("a.json", fragment)


@pytest.mark.parametrize(
    "text",
    [
        LINE,
        LINE + "\r\n",
        "\ufeff" + LINE,
        json.dumps(GOOD, indent=2),
        "\n\n" + json.dumps(GOOD, indent=2) + "\n\n",
        "{\n" + LINE[1:],
        raw('"\\u0000"'),
        raw("[" * 500 + "]" * 500),
        doc(metrics="none", scale=5, seeds="x", runs=0, std=[], error=None),
    ],
    ids=["no newline", "CRLF", "BOM", "pretty", "blank lines", "brace alone", "NUL", "nested", "odd extras"],
)
def test_unusual_but_good_architecture(run: Run, text: str) -> None:
    for outcome in (run("show", "-", stdin=text), run("show", text.lstrip("\n\ufeff"))):
        (shown,) = outcome.accepted()
        assert shown["choices"] == GOOD["choices"]


def test_numbers_beyond_all_use(run: Run) -> None:
    for command in ("show", "top"):
        run(command, "-", stdin=doc(metrics={"val_acc": 10**400})).refused("line 1", "401 digits")


def test_what_came_before_a_bad_line_is_evaluated(run: Run, table: str) -> None:
    outcome = run("eval", "-", "--evaluator", "table", "-E", f"file={table}", stdin=f"{LINE}\n{{}}\n")
    assert outcome.code == 2
    assert "stdin line 2" in outcome.err
    assert json.loads(outcome.out)["metrics"]["val_acc"] > 0


def test_stale_results_do_not_survive_an_evaluation(run: Run, table: str) -> None:
    stale = doc(error="seed 0: it failed", std={"val_acc": 9}, runs=[], metrics={"val_acc": 9})
    (line,) = run("eval", "-", "--evaluator", "table", "-E", f"file={table}", stdin=stale).accepted()
    assert "error" not in line
    assert "std" not in line
    assert line["metrics"]["val_acc"] < 1


@pytest.mark.parametrize("metrics", ["x", [1], {"val_acc": {}}, {"val_acc": None}, {"val_acc": "0.5"}])
def test_top_of_odd_metrics(run: Run, metrics: object) -> None:
    run("top", "-", stdin=doc(metrics=metrics)).refused("val_acc")
    good = doc(metrics={"val_acc": 0.5})
    assert len(run("top", "-", "-k", "9", stdin=f"{doc(metrics=metrics)}\n{good}").accepted()) == 1


@pytest.mark.parametrize(
    "scale",
    [5, "x", [1], {"foo": 1}, {"channels": -1}, {"channels": 1.5}, {"channels": None}, {"channels": 10**30}],
    ids=str,
)
def test_bad_scale_in_a_line(run: Run, scale: object) -> None:
    """Where no network is built from it, it is one more extra key."""
    assert run("show", "-", stdin=doc(scale=scale)).accepted()[0]["scale"] == scale
    run("show", "-", "--input", "1x8x8", stdin=doc(scale=scale)).refused("scale" if scale in (5, "x", [1]) else "")
    if scale != {"channels": 10**30}:  # found only when a network is built
        run("eval", "-", "--data", "digits", stdin=doc(scale=scale)).refused("scale")


STRING = SPACE.to_string(SPACE.arch([0, 1, 2, 3, 4, 0]))


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["show"], "Missing argument"),
        (["show", "a", "b"], "unexpected extra argument"),
        (["shwo"], "no command 'shwo'; did you mean 'show'?"),
        (["--foo"], "No such option"),
        (["show", "none.json"], "cannot read none.json"),
        (["show", "."], "best.json"),
        (["show", "/proc/self/mem"], "cannot read"),
        (["show", "x" * 5000], "cannot read"),
        (["show", "a/" * 3000], "cannot read"),
        (["show", "{"], "no valid JSON"),
        (["show", "{}x"], "no valid JSON"),
        (["show", STRING], "--space"),
        (["show", STRING, "--space", "nasbench-macro"], "8 digits"),
        (["show", STRING, "--space", "nope"], "no space 'nope'"),
        (["show", "|foo~0|", "--space", "nasbench201"], "|foo~0|"),
        (["show", "01201203", "--space", "nasbench-macro"], "01201203"),
        (["show", "x" * 5000, "--space", "nasbench-macro"], "8 digits"),
        (["show", LINE, "--space", "nasbench-macro"], "expected nasbench-macro"),
        (["show", LINE, "--input", "3x8"], "3x32x32"),
        (["show", LINE, "--input", "0x8x8"], "from 1"),
        (["show", LINE, "--input", f"{10**20}x8x8"], "--input"),
        (["show", LINE, "--input", f"3x{10**10}x{10**10}"], "--input"),
        (["show", LINE, "--input", "1x8x8", "--scale", "channels"], "KEY=N"),
        (["show", LINE, "--input", "1x8x8", "--scale", "channels=0"], "1 <= channels"),
        (["show", LINE, "--input", "1x8x8", "--scale", f"channels={10**20}"], "channels"),
        (["show", LINE, "--input", "1x8x8", "--classes", "1"], "--classes"),
        (["show", LINE, "--input", "1x8x8", "--classes", str(10**20)], "classes"),
        (["show", "recipe:nope"], "no recipe 'nope'"),
        (["show", "recipe:../__init__"], "no recipe"),
        (["top", "none"], "cannot read none"),
        (["top", LINE], "cannot read"),
        (["top", "-", "-k", "0"], "-k"),
        (["top", "-", "--objective", "nope"], "objective 'nope'"),
        (["status", "none"], "none is no run folder"),
        (["status"], "Missing argument"),
        (["list", "cakes"], "cakes"),
        (["sample", "-n", "0"], "-n"),
        (["sample", "--seed", "-1"], "--seed"),
        (["sample", "-P", "x"], "write -P KEY=VALUE"),
        (["eval", LINE, "--seeds", ""], "--seeds"),
        (["eval", LINE, "--seeds", "0,0"], "different"),
        (["eval", LINE, "--seeds", "-1"], "--seeds"),
        (["eval", LINE, "--seeds", "9" * 5000], "--seeds"),
        (["eval", LINE, "--workers", "0"], "--workers"),
        (["eval", LINE, "--trial-timeout", "0"], "--trial-timeout"),
        (["eval", LINE, "--trial-timeout", "nan", *TINY], "--trial-timeout"),
        (["eval", LINE, "--data", "digits", "-E", "data=digits"], "keep one"),
        (["eval", LINE, "--data", "digit"], "digits"),
        (["eval", LINE, "--epochs", "0"], "epochs"),
        (["eval", LINE, "--recipe", "nope"], "no recipe 'nope'"),
        (["eval", LINE, "--device", "gpu"], "device"),
        (["eval", LINE, "--scale", "channels=8,channels=4", *TINY], "channels"),
        (["eval", LINE, "--evaluator", "table"], "file="),
        (["eval", LINE, "--evaluator", "table", "--data", "digits", "-E", "file=x"], "no option 'data'"),
        (["eval", LINE, "-E", "seed=1"], "no option 'seed'"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)
def test_bad_arguments(run: Run, arguments: list[str], fragment: str) -> None:
    run(*arguments).refused(fragment)


def test_eval_refuses_before_training_where_it_could_not_save(run: Run) -> None:
    Path("file").write_text("mine")
    run("eval", LINE, *TINY, "--save", "file").refused("file")


# --- the options of a search


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["--trials", "0"], "--trials"),
        (["--trials", "abc"], "abc"),
        (["--workers", "0"], "--workers"),
        (["--seed", "-1"], "--seed"),
        (["--keep", "0"], "--keep"),
        (["--trial-timeout", "nan"], "--trial-timeout"),
        (["--objective", "nope"], "METRIC:max"),
        (["--objective", "val_acc:up"], "METRIC:max"),
        (["--objective", ":max"], "METRIC:max"),
        (["--objective", "latency_ms"], "latency_ms"),
        (["--strategy", "evolutoin"], "did you mean 'evolution'"),
        (["--space", "nope"], "no space 'nope'"),
        (["--space", "nasbench-macro"], "no table of space nasbench-macro"),
        (["--evaluator", "nope"], "no evaluator 'nope'"),
        (["-S", "population"], "write -S KEY=VALUE"),
        (["-S", "=1"], "write -S KEY=VALUE"),
        (["-S", "popluation=3"], "did you mean 'population'"),
        (["-S", "population=3", "-S", "population=4"], "given twice"),
        (["-S", "mutation-rate=0", "-S", "mutation_rate=1"], "given twice"),
        (["-S", "population=3", "-S", "tournament=4"], "1 <= tournament <= population"),
        (["-S", "population=0"], "1 <= tournament <= population"),
        (["-S", "population=-5", "-S", "tournament=-6"], "1 <= tournament <= population"),
        (["-S", "population=1.5"], "must be int"),
        (["-S", "population=" + "9" * 30], "population"),
        (["-S", "population=" + "9" * 5000], "population"),
        (["-S", "mutation_rate=nan"], "must be float"),
        (["-S", "mutation_rate=inf"], "must be float"),
        (["-S", "mutation_rate=1.1"], "mutation_rate <= 1"),
        (["-S", "dedup=maybe"], "must be bool"),
        (["-S", "seed=1"], "no option 'seed'"),
        (["-s", "bananas", "-S", "truncate=0"], "need truncate >= 1, got 0"),
        (["-s", "bananas", "-S", "networks=1000000"], "1 <= networks <= 100"),
        (["-s", "bananas", "-S", "width=1000000"], "1 <= width <= 1,000"),
        (["-s", "bananas", "-S", "width=1000"], "networks x layers x width^2 <= 2,000,000"),
        (["-s", "bananas", "-S", "epochs=0"], "1 <= epochs <= 10,000"),
        (["-s", "bananas", "-S", "epochs=" + "9" * 30], "1 <= epochs <= 10,000"),
        (["-s", "bananas", "-S", "candidates=1000000000"], "need batch <= candidates <= 10,000"),
        (["-s", "bananas", "-S", "batch=500"], "need batch <= candidates <= 10,000, got 500, 100"),
        (["-s", "bananas", "-S", "encoding="], "has no encoding ''; it has"),
        (["-s", "bananas", "-S", "learning_rate=0"], "0 < learning_rate <= 1"),
        (["-s", "bo", "-S", "encodings=onehot+onehot"], "need encodings that differ, got onehot+onehot"),
        (["-s", "bo", "-S", "encodings=onehot+"], "has no encoding ''; it has"),
        (["-s", "bo", "-S", "candidates=1000000000"], "candidates <= 100,000"),
        (["-s", "bo", "-S", "acquisition=best"], "its | ei | ucb | pi"),
        (["-s", "local-search", "-S", "init=0"], "need init >= 1, got 0"),
        (["-P", "a=1"], "no option 'a'"),
        (["-E", "x=1"], "no option 'x'"),
        (["-E", "label=x"], "label"),
        (["-E", "label=5"], "no training seed 5"),
        (["-E", "label=" + "9" * 5000], "label must be mean, random or a training seed's number"),
        (["-E", "noise=-1"], "need 0 <= noise <= 1"),
        (["-E", "noise=nan"], "must be float"),
        (["-E", "noise_seed=-1"], "need noise_seed >= 0"),
        (["-E", "label=random"], "label=mean"),
        (["-E", "metric=nope"], "no metric 'nope'"),
        (["-E", "dataset=nope"], "no data set 'nope'"),
        (["-E", "dataset="], "data set ''"),
        (["--epochs", "3"], "no option 'epochs'"),
        (["--config", "none.yaml"], "cannot read none.yaml"),
        (["extra"], "unexpected extra argument"),
        (["--out", "x" * 5000], "--out"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)
def test_bad_search(search: Run, arguments: list[str], fragment: str) -> None:
    """And the corrected command does not stumble over what the wrong one left behind."""
    search(*arguments).refused(fragment)
    assert len(search().accepted()) == 1


NARROW = "growing starts with layers of min_width = 2, which max_width = 1 does not allow: raise max_width or lower"


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["-S", "neighbors=0"], "need 1 <= neighbors <= 100,000, got 0"),
        (["-S", "neighbors=" + "9" * 30], "1 <= neighbors <= 100,000"),
        (["-S", "steps=-1"], "need 0 <= steps <= 100,000, got -1"),
        (["-S", "morphisms=0"], "1 <= morphisms"),
        (["-S", "start_epochs=0"], "1 <= start_epochs"),
        (["-S", "epochs=0"], "1 <= epochs"),
        (["-S", "epochs=1.5"], "must be int"),
        (["-S", "final_epochs=-1"], "0 <= final_epochs"),
        (["-S", "inherit=perhaps"], "must be bool"),
        (["-S", "kinds=wieder"], "no morphism 'wieder'; there are deeper, wider, concat, add, kernel"),
        (["-S", "kinds="], "no morphism ''"),
        (["-S", "neighbours=3"], "did you mean 'neighbors'"),
        (["-P", "max_width=1", "-P", "min_width=2"], NARROW),
        (["-P", "max_width=3"], "max_width: need a power of two from 1 to 1,024, got 3"),
        (["-P", "layers=0"], "1 <= layers <= 30"),
        (["-P", "stages=9"], "1 <= stages <= 8"),
        (["--scale", "channels=0"], "1 <= channels"),
        (["--epochs", "3"], "strategy network-morphism says itself how long to train: give -S epochs=N, not --epochs"),
        (["-E", "epochs=3"], "give -S epochs=N, not --epochs"),
        (["--space", "nasbench201"], "needs 'inherit', which space nasbench201 and evaluator train lack"),
        (["--evaluator", "supernet"], "evaluator supernet needs 'supernet', which space morph-cnn lacks"),
        (["--evaluator", "table", "-E", "file=x"], "needs 'table', which space morph-cnn lacks"),
        (["--recipe", "morphism-digit"], "did you mean 'morphism-digits'"),
        (["-E", "from_checkpoint=none.safetensors"], "from_checkpoint: cannot read none.safetensors: No such file"),
    ],
    ids=lambda value: " ".join(value)[:50] if isinstance(value, list) else "",
)
def test_bad_network_morphism(run: Run, arguments: list[str], fragment: str) -> None:
    run("search", "-s", "network-morphism", *arguments, "--out", "out").refused(fragment)
    assert not Path("out").exists()


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (["-s", "random"], "--ensemble: strategy random has no path of networks to make one of"),
        (["-s", "evolution", "-S", "inherit=true"], "--ensemble: strategy evolution has no path"),
        (["-s", "enas"], "--ensemble: strategy enas has no path"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_no_ensemble(run: Run, arguments: list[str], fragment: str) -> None:
    run("search", *arguments, "--ensemble", "--out", "out").refused(fragment)
    assert not Path("out").exists()


@pytest.mark.parametrize("evaluator", ["table", "supernet"])
def test_no_weights_to_hand_down(run: Run, table: str, evaluator: str) -> None:
    source = ["-E", f"file={table}"] if evaluator == "table" else ["--data", "digits"]
    run("search", "-s", "evolution", "-S", "inherit=true", "--evaluator", evaluator, *source, "--out", "out").refused(
        f"strategy evolution needs 'warm-start', which space nasbench201 and evaluator {evaluator} lack"
    )
    assert not Path("out").exists()


def test_no_weights_to_hand_down_in_a_comparison(run: Run, table: str) -> None:
    for strategy in ("evolution:inherit=true", "network-morphism"):
        run("bench", "-s", strategy, "--table", f"nasbench201:file={table}", "--out", "out").refused(
            "needs 'warm-start', which space nasbench201 and evaluator table lack"
        )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of morph-cnn, hardly trained, beside its arch.json; and smaller.json."""
    from nastool.core.values import Proposal
    from nastool.evaluators.train import Train
    from nastool.spaces.morph_cnn import MorphCNN

    space = MorphCNN()
    smaller = space.start()
    arch = space.arch([1, *smaller.choices[1:]])
    folder = tmp_path_factory.mktemp("trained")
    evaluator = Train(space, train_size=50, epochs=1, scale={"channels": 2}, device="cpu")
    evaluator.workdir = folder
    found = evaluator.evaluate(0, Proposal(arch), seed=0, report=lambda *_: None)
    (folder / str(found.checkpoint)).rename(folder / "a.safetensors")
    (folder / "arch.json").write_text(json.dumps(archfile.to_json(space, arch)))
    (folder / "smaller.json").write_text(json.dumps(archfile.to_json(space, smaller)))
    return folder


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _damaged(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1  # the last bit of a number
    path.write_bytes(data)


NO_CHECKPOINTS: dict[str, tuple[Callable[[Path], object], list[str], str]] = {
    "missing": (lambda path: path.unlink(), [], "from_checkpoint: cannot read a.safetensors: No such file"),
    "a folder": (_folder, [], "cannot read a.safetensors: Is a directory"),
    "text": (lambda path: path.write_text("my diary"), [], "a.safetensors is damaged"),
    "empty": (lambda path: path.write_bytes(b""), [], "a.safetensors is damaged"),
    "truncated": (lambda path: os.truncate(path, 2000), [], "a.safetensors is damaged"),
    "one bit": (_damaged, [], "a.safetensors is damaged: its tensors were changed"),
    "another scale": (lambda path: None, ["--scale", "channels=3"], "is of scale {'channels': 2}, not {'channels': 3}"),
    "another space": (lambda path: path.with_name("arch.json").write_text(LINE), [], "is of space morph-cnn("),
    "given twice": (lambda path: None, ["-E", "from_checkpoint=b"], "both --from-checkpoint and -E from_checkpoint="),
    "another evaluator": (lambda path: None, ["--evaluator", "supernet"], "has no option 'from_checkpoint'"),
    "another architecture": (
        lambda path: path.with_name("smaller.json").rename(path.with_name("arch.json")),
        [],
        "without a change of its function: give a checkpoint of that architecture",
    ),
}


@pytest.mark.parametrize("name", NO_CHECKPOINTS)
def test_bad_checkpoint_to_begin_with(run: Run, trained: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    from nastool.evaluators.train import Train

    monkeypatch.setattr(Train, "inline", True)
    for file in trained.glob("*.*"):
        shutil.copy(file, file.name)
    damage, arguments, fragment = NO_CHECKPOINTS[name]
    damage(Path("a.safetensors"))
    scale = [] if "--scale" in arguments else ["--scale", "channels=2"]
    command = ["eval", "arch.json", "--data", "digits", *scale, "--epochs", "1", "--device", "cpu"]
    run(*command, "-E", "train_size=50", "--from-checkpoint", "a.safetensors", *arguments).refused(fragment)


@pytest.mark.parametrize(
    ("name", "value", "fragment"),
    [
        ("NASTOOL_SEARCH_TRIALS", "abc", "abc"),
        ("NASTOOL_SEARCH_WORKERS", "0", "--workers"),
        ("NASTOOL_SEARCH_FORCE", "perhaps", "perhaps"),
        ("NASTOOL_SEARCH_STRATEGY_OPTIONS", "population=3 tournament=9", "1 <= tournament <= population"),
        ("NASTOOL_SEARCH_STRATEGY_OPTIONS", "x", "KEY=VALUE"),
        ("NASTOOL_SEARCH_CONFIG", "none.yaml", "none.yaml"),
    ],
)
def test_bad_environment(
    run: Run, table: str, monkeypatch: pytest.MonkeyPatch, name: str, value: str, fragment: str
) -> None:
    monkeypatch.setenv(name, value)
    run("search", "--evaluator", "table", "-E", f"file={table}").refused(fragment)
    assert not Path("runs").exists()


# --- configuration files

BOMB = "provenance:\n  a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"  {name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)
MERGE_BOMB = "provenance:\n  a: &a {x: 1}\n" + "".join(
    f"  {name}: &{name} {{<<: [{', '.join([f'*{before}'] * 9)}]}}\n"
    for before, name in zip("abcdefghi", "bcdefghij", strict=True)
)
BAD_CONFIGS: dict[str, tuple[str | bytes, str]] = {
    "unknown section": ("serach: {}", "'serach'"),
    "unknown key": ("search: {trails: 3}", "did you mean 'trials'"),
    "underscores": ("search: {strategy_options: {}}", "did you mean 'strategy-options'"),
    "text for int": ("search: {trials: abc}", "trials must be an integer"),
    "bool for int": ("search: {trials: true}", "trials must be an integer"),
    "float for int": ("search: {trials: 2.0}", "trials must be an integer"),
    "mapping for int": ("search: {trials: {a: 1}}", "trials"),
    "int for text": ("search: {space: 3}", "space must be text"),
    "list for text": ("search: {space: [a]}", "space must be text"),
    "date for text": ("search: {space: 2020-01-01}", "space must be text"),
    "mapping for text": ("search: {strategy: {a: 1}}", "strategy"),
    "int for bool": ("search: {force: 1}", "force must be true or false"),
    "out of range": ("search: {workers: 0}", "--workers"),
    "not a number": ("search: {trial-timeout: .nan}", "trial-timeout"),
    "infinite option": ("search: {strategy-options: {mutation_rate: .inf}}", "must be float"),
    "bool for int option": ("search: {strategy-options: {population: true}}", "must be int"),
    "options are a list": ("search: {strategy-options: [population=3]}", "mapping"),
    "option is a number": ("search: {strategy-options: {3: 3}}", "mapping"),
    "unknown option": ("search: {strategy-options: {popluation: 3}}", "did you mean 'population'"),
    "section is a list": ("search: [1]", "mapping"),
    "top level is a list": ("- a", "mapping"),
    "top level is text": ("hello", "mapping"),
    "key is a number": ("1: 2", "mapping"),
    "key is null in a section": ("search: {null: 2}", "None"),
    "key is a list": ("search: {[1]: 2}", "YAML"),
    "section twice": ("search: {trials: 3}\nsearch: {seed: 3}", "search"),
    "key twice": ("search: {trials: 3, trials: 4}", "trials"),
    "option twice": ("search: {strategy-options: {mutation-rate: 0, mutation_rate: 1}}", "mutation_rate"),
    "another format": ("format: nastool.run/2", "nastool.run/2"),
    "itself": ("search: &a {strategy-options: *a}", ""),
    "tabs": ("search:\n\ttrials: 3", "line 2"),
    "open quote": ("search: 'abc", "YAML"),
    "two documents": ("search: {}\n---\nsearch: {}", "line 2"),
    "python tag": ("search: !!python/object/apply:os.mkdir [pwned]", "python/object"),
    "unknown tag": ("search: !foo {}", "!foo"),
    "wrong bool tag": ("search: {force: !!bool x}", "YAML"),
    "wrong time tag": ("search: {space: !!timestamp x}", "YAML"),
    "wrong int tag": ("search: {trials: !!int x}", "YAML"),
    "wrong merge": ("search: {<<: 3}", "line 1"),
    "bad date": ("search: {space: 2020-13-45}", "YAML"),
    "integer of 5,000 digits": ("search: {trials: " + "9" * 5000 + "}", "YAML"),
    "hexadecimal of 5,000 digits": ("search: {seed: 0x" + "f" * 5000 + "}", "seed"),
    "deep list": ("[" * 10_000, "YAML"),
    "deep mapping": ("search: " + "{a: " * 3000, "YAML"),
    "NUL": ("search: \0", "YAML"),
    "NUL in a path": ('search: {out: "a\\0b"}', "--out"),
    "NUL in a file name": ('search: {evaluator-options: {file: "a\\0b"}}', "a"),
    "half a character": ('search: {space: "\\ud800"}', "no space"),
    "half a character in a path": ('search: {out: "\\ud800"}', "out"),
    "bomb as a number": (BOMB + "search: {trials: *j}", ""),
    "bomb as a format": (BOMB + "format: *j", ""),
    "bomb as an option": (BOMB + "search: {strategy-options: {population: *j}}", ""),
    "bomb of merges": (MERGE_BOMB, "YAML"),
    "too large": ("#" * 1_000_001, "larger than"),
    "binary": (np.random.default_rng(0).bytes(1000), "YAML"),
    "UTF-16": ("search: {}".encode("utf-16"), "YAML"),
}


@pytest.mark.parametrize("name", [name for name in BAD_CONFIGS if not name.startswith("bomb")])
def test_bad_config(run: Run, table: str, name: str) -> None:
    text, fragment = BAD_CONFIGS[name]
    Path("c.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    source = [] if "file name" in name else ["-E", f"file={table}"]
    run("search", "--evaluator", "table", *source, "--config", "c.yaml").refused(fragment)
    assert not Path("pwned").exists()


@pytest.mark.parametrize("name", [name for name in BAD_CONFIGS if name.startswith("bomb")])
def test_config_that_explodes(tmp_path: Path, table: str, name: str) -> None:
    """In a process of its own, with 2 GB and 10 s of processor time."""
    text, fragment = BAD_CONFIGS[name]
    (tmp_path / "c.yaml").write_text(str(text))

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
        resource.setrlimit(resource.RLIMIT_CPU, (10, 10))

    script = f"exec $nastool search --evaluator table -E file={shlex.quote(table)} --config c.yaml --out out"
    process(script, tmp_path, limit).refused(fragment)


# --- tables


@pytest.mark.parametrize("name", ["train_time", "test", "params"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_table_without_a_number(run: Run, columns: dict[str, np.ndarray[Any, Any]], name: str, value: float) -> None:
    """Said at once or passed over, never an error at the end of a search."""
    np.savez("odd.npz", allow_pickle=False, **columns, **{name: np.full(len(columns["val"]), value)})
    outcome = run("search", "--evaluator", "table", "-E", "file=odd.npz", "-n", "5", "--out", "out")
    if outcome.code:
        outcome.refused("odd.npz")
    else:
        assert outcome.accepted()[0]["metrics"]["val_acc"] > 0


ODD_TABLES = ["scalar", "no array", "long epochs", "long seed", "many fields", "huge number", "short column", "a pipe"]


@pytest.mark.parametrize("kind", ODD_TABLES)
def test_bad_table(run: Run, columns: dict[str, np.ndarray[Any, Any]], kind: str) -> None:
    """Beside those of test_table.py."""
    arch, val = columns["arch"], columns["val"]
    path = "t.npz"
    match kind:
        case "scalar":
            np.savez(path, arch=np.int8(3), val=val)
        case "no array":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("arch.npy", "hello")
        case "long epochs":
            np.savez(path, allow_pickle=False, arch=arch, **{"val" + "9" * 5000: val})
        case "long seed":
            np.savez(path, allow_pickle=False, arch=arch, **{"val_s" + "9" * 5000: val})
        case "many fields":
            np.savez(path, allow_pickle=False, arch=arch, **{f"field{i}": val[:1] for i in range(300)})
        case "short column":
            np.savez(path, allow_pickle=False, arch=arch, val=val[:5])
        case "a pipe":
            os.mkfifo(path)
        case "huge number":
            path = "t.json"
            Path(path).write_text('{"000000": {"val": ' + "9" * 400 + "}}")
    run("search", "--evaluator", "table", "-E", f"file={path}", "--out", "out").refused(path)
    assert not (Path("out") / "run.db").exists()


# --- run folders


def _sql(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as db, db:
        for statement in statements:
            db.execute(statement)


def _empty_table(folder: Path, *rows: str) -> None:
    (folder / "run.db").unlink()
    _sql(folder / "run.db", "CREATE TABLE run (key, value)", *(f"INSERT INTO run VALUES {row}" for row in rows))


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
    "newer": lambda f: _sql(f / "run.db", "UPDATE run SET value = '99' WHERE key = 'schema'"),
    "no configuration": lambda f: _sql(f / "run.db", "DELETE FROM run WHERE key = 'config'"),
    "odd configuration": lambda f: _sql(f / "run.db", "UPDATE run SET value = '5' WHERE key = 'config'"),
    "unknown space": lambda f: _sql(f / "run.db", "UPDATE run SET value = replace(value, 'bench201', 'bench9')"),
    "choices are no JSON": lambda f: _sql(f / "run.db", "UPDATE trials SET proposal = 'x'"),
    "choices out of range": lambda f: _sql(f / "run.db", "UPDATE trials SET proposal = '{\"choices\": [9,9,9,9,9,9]}'"),
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
    _sql(Path("out/run.db"), "CREATE TABLE diary (entry)")
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
def test_unwritable_run_folder(run: Run, table: str, out: str) -> None:
    Path("file").write_text("mine")
    run("search", "--evaluator", "table", "-E", f"file={table}", "--out", out).refused(out[:50], "--out")
    assert Path("file").read_text() == "mine"


def test_run_db_is_a_folder(search: Run) -> None:
    Path("out/run.db").mkdir(parents=True)
    search().refused("out")
    search("--force").refused("out")


# --- what belongs to a process

SCRIPTS: dict[str, tuple[str, int, str]] = {
    # script: exit code, what stderr says
    "full stdout": ("$nastool sample > /dev/full", 1, "No space left"),
    "stdout closed": ("$nastool sample >&-", 1, "stdout"),
    "stdout closed, text": ("$nastool list --text >&-", 1, "stdout"),
    "stdin closed": ("$nastool show - <&-", 2, "stdin"),
    "stderr closed": ("$nastool search --evaluator table -E file=$table -n 5 --out out 2>&-", 0, ""),
    "full stderr": ("$nastool search --evaluator table -E file=$table -n 5 --out out 2> /dev/full", 0, ""),
    "bad input, stderr closed": ("$nastool show none 2>&-", 2, ""),
    "reader has enough": ("$nastool sample -n 100000 | head -1; exit ${PIPESTATUS[0]}", 0, ""),
    "no reader": ("$nastool sample -n 100000 | true; exit ${PIPESTATUS[0]}", 0, ""),
    "ASCII terminal": ("PYTHONIOENCODING=ascii $nastool show é", 2, "cannot read"),
    "debug off": ("NASTOOL_DEBUG=0 $nastool show none", 2, "cannot read"),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_process(tmp_path: Path, table: str, name: str) -> None:
    script, code, message = SCRIPTS[name]
    outcome = process(script, tmp_path, table=table)
    assert outcome.code == code, outcome
    assert "Traceback" not in outcome.err, outcome
    assert "internal error" not in outcome.err, outcome
    assert message in outcome.err, outcome


def test_path_that_is_no_text(tmp_path: Path, table: str) -> None:
    """Refused, or as good as any other."""
    for command in ("search --evaluator table -E file=$table -n 5 --out", "status", "top", "show"):
        outcome = process(f"$nastool {command} $'\\xff'", tmp_path, table=table)
        if outcome.code:
            outcome.refused()


@pytest.mark.parametrize("kilobytes", [1, 20, 40])
def test_file_size_limit(tmp_path: Path, table: str, kilobytes: int) -> None:
    """What was finished is kept, and the same command goes on."""
    script = f"$nastool search --evaluator table -E file={shlex.quote(table)} -n 2000 --out out"
    stopped = process(f"ulimit -f {kilobytes}; {script}", tmp_path)
    assert stopped.code == 2
    assert "out" in stopped.err
    assert "space" in stopped.err.splitlines()[-1]
    assert len(process(script, tmp_path).accepted()) == 1


def test_a_run_that_is_being_searched(tmp_path: Path, table: str) -> None:
    """It is shown, but neither continued nor replaced; Ctrl-C ends it with all it has told."""
    command = [NASTOOL, "search", "--evaluator", "table", "-E", f"file={table}", "-S", "dedup=false", "--out", "out"]
    with subprocess.Popen(
        [*command, "-n", "10000000"], cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as other:
        try:
            _until(lambda: json.loads(process("$nastool status out", tmp_path).out or "{}").get("best"))
            again = process(f"{shlex.join(command)} -n 10000000", tmp_path)
            force = process(f"{shlex.join(command)} -n 5 --force", tmp_path)
            other.send_signal(signal.SIGINT)
            message = other.communicate(timeout=30)[1]
        finally:
            other.kill()
    again.refused(f"process {other.pid}")
    force.refused(f"process {other.pid}")
    assert other.returncode == 130
    assert "continue with" in message
    (status,) = process("$nastool status out", tmp_path).accepted()
    assert status["state"] == "interrupted"
    assert status["trials"]["done"] > 0


def _until(condition: Callable[[], object], seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_read_only_run(finished: Path) -> None:
    """Also for somebody else: root may write everywhere."""
    drop = "" if os.geteuid() else "setpriv --reuid 65534 --regid 65534 --clear-groups "
    if drop and shutil.which("setpriv") is None:
        pytest.skip("root, and no setpriv to be somebody else with")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(finished, folder / "out")
        for path in ((folder / "out"), *(folder / "out").iterdir(), folder):
            path.chmod(0o755 if path == folder else 0o555 if path.is_dir() else 0o444)
        outcomes = [process(f"{drop}$nastool {command} out", folder) for command in ("status", "top", "show")]
        (folder / "out").chmod(0o755)
    for outcome in outcomes:
        assert len(outcome.accepted()) == 1


# --- fuzzing: InputError or success, nothing else

_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
_json = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)


@st.composite
def _mutated(draw: st.DrawFn) -> Any:
    """A good document with a few things in it replaced, removed or added."""
    document: Any = copy.deepcopy(GOOD)
    for _ in range(draw(st.integers(1, 3))):
        holder = draw(st.sampled_from([document, *(v for v in document.values() if isinstance(v, dict))]))
        key = draw(st.sampled_from([*holder, "options", "name", "scale", "metrics"]) | st.text(max_size=5))
        if draw(st.booleans()):
            holder[key] = draw(_json | st.sampled_from(["nasbench201", "nasbench-macro", "none", {}]))
        else:
            holder.pop(key, None)
    return document


def _read(lines: list[str]) -> None:
    """Whatever is accepted can be written again, and is the same when read."""
    try:
        documents = list(archfile.read_lines(iter(lines), "fuzz"))
    except InputError:
        return
    for document in documents:
        text = archfile.dumps(document.to_json())
        text.encode()
        assert archfile.read_text(text).arch == document.arch


@FUZZ
@given(st.lists(st.text(max_size=60), max_size=4))
@example(["{", "}"])
@example(["\ufeff" + LINE])
def test_fuzz_lines(lines: list[str]) -> None:
    _read(lines)


@FUZZ
@given(st.binary(max_size=200))
def test_fuzz_bytes(data: bytes) -> None:
    _read(data.decode(errors="surrogateescape").splitlines(keepends=True))


@FUZZ
@given(_json | _mutated(), st.sampled_from([None, 1]))
def test_fuzz_documents(value: Any, indent: int | None) -> None:
    _read(json.dumps(value, indent=indent).splitlines(keepends=True))
    try:
        archfile.from_json(value)
    except InvalidArchError:
        pass
    except InputError as error:  # of the space's options
        assert "space" in str(error)


@FUZZ
@given(st.integers(0, len(LINE)), st.integers(0, len(LINE)), st.text(max_size=3))
def test_fuzz_edited_text(start: int, end: int, inserted: str) -> None:
    _read([LINE[: min(start, end)] + inserted + LINE[max(start, end) :]])


def _options() -> Iterator[Any]:
    for target in (RegularizedEvolution, NasBench201.Scale, Recipe):
        yield from options.of(target).values()


@FUZZ
@given(_json, st.sampled_from([*_options()]))
def test_fuzz_convert(value: object, option: options.Option) -> None:
    try:
        converted = options.convert(value, option.type)
    except ValueError:
        return
    assert options.convert(converted, option.type) == converted


@FUZZ
@given(st.dictionaries(st.sampled_from([o.name for o in _options()]) | st.text(max_size=8), _json, max_size=4))
def test_fuzz_options(values: dict[str, object]) -> None:
    for target in (RegularizedEvolution, NasBench201.Scale, Recipe):
        try:
            checked = options.check("fuzz", target, values)
        except InputError:
            continue
        assert set(checked) == set(values)


_words = st.sampled_from(
    ["search", "format", "eval", "trials", "strategy-options", "population", "scale", "evaluator", "dry-run", "seed"]
)
_yaml = st.recursive(
    _scalars | st.dates(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_words | _scalars, inner, max_size=3),
)
_text = st.lists(
    _words
    | st.sampled_from([*": {}[],&*!|>-#'\"%@`\n\t\0", "&a ", "*a", "!!int ", "!!bool ", "<<: "])
    | st.text(max_size=3)
).map("".join)


@FUZZ
@given(
    st.one_of(_yaml.map(yaml.safe_dump), st.dictionaries(_words, _yaml).map(yaml.safe_dump), _text).map(str.encode)
    | st.binary(max_size=60)
)
@example(b"search: {force: !!bool x}")
def test_fuzz_config(run: Run, table: str, data: bytes) -> None:
    Path("fuzz.yaml").write_bytes(data)
    outcome = run("search", "--dry-run", "--evaluator", "table", "-E", f"file={table}", "--config", "fuzz.yaml")
    if outcome.code:
        assert outcome.code == 2, outcome
        assert "internal error" not in outcome.err, outcome


@FUZZ
@given(
    st.dictionaries(st.sampled_from([*options.of(Recipe)]) | st.text(max_size=5), _json)
    .map(yaml.safe_dump)
    .map(str.encode)
    | st.binary(max_size=60)
)
@example(b"lr: !!timestamp x")
def test_fuzz_recipe(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "fuzz.yaml"
    path.write_bytes(data)
    try:
        recipe = load_recipe(str(path))
    except InputError as error:
        assert str(path) in str(error)
    else:
        assert 0 <= recipe.learning_rate(0, 10) <= recipe.lr


def test_long_paths_keep_their_end(run: Run, tmp_path: Path) -> None:
    """The name of the file is what a person looks for."""
    folder = tmp_path / ("folder" * 20) / "there"
    folder.mkdir(parents=True)
    run("eval", str(folder / "absent.json")).refused("there/absent.json: ")
    run("status", str(folder)).refused("there is no run folder")


# --- said twice


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_no_option_with_one_value_takes_the_last_of_two(run: Run, name: str) -> None:
    """Whatever the value: nothing else is looked at."""
    command = cli.cli.get_command(click.Context(cli.cli), name)
    assert command is not None
    options = [
        each
        for each in command.get_params(click.Context(command, **cli.cli.context_settings))
        if isinstance(each, click.Option)
    ]
    switches = [each for each in options if each.is_flag and each.secondary_opts]
    single = [each for each in options if not each.is_flag and not each.multiple]
    assert single or switches or name in ("status", "completion")
    for option in single:
        said = f"nastool: {option.opts[-1]}: given twice; keep one\n"
        for again in option.opts:
            assert run(name, option.opts[-1], "1", again, "2") == Outcome(2, "", said)
    for switch in switches:
        both = [*switch.opts, *switch.secondary_opts]
        assert run(name, *both).err == f"nastool: {'/'.join(both)}: given twice; keep one\n"


def test_a_flag_may_be_repeated(run: Run) -> None:
    assert "--help" in run("search", "--force", "--dry-run", "--force", "--help").out
    run("search", "-s", "random", "--download", "--download", "--epochs", "0").refused("epochs")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("search -s random --scale channels=8,channels=16", "evaluator train: option scale: channels= is given twice"),
        ("search -s random --retrain 1 --retrain-scale channels=8,channels=8", "--retrain-scale: channels= is given"),
        ("search -s random --check-ranking 3 --ranking-table file=a,file=b", "--ranking-table: file= is given twice"),
        ("show zoo:darts-v2 --input 3x8x8 --scale cells=1,cells=2", "--scale: cells= is given twice"),
        ("search -s random -E epochs=1 -E epochs=2", "-E epochs: given twice"),
        ("search -s random -P a=1 -P a=2", "-P a: given twice"),
        ("search -s random --epochs 1 -E epochs=2", "both --epochs and -E epochs= are given: keep one"),
        ("search -s random --objective val_acc --objective params:min", "--objective: given twice"),
    ],
    ids=str,
)
def test_no_key_takes_the_last_of_two(run: Run, arguments: str, said: str) -> None:
    outcome = run(*arguments.split())
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.err.startswith(f"nastool: {said}") and outcome.err.count("\n") == 1
