"""Data that are not what they were: nothing goes on with them without a word."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import nastool
from nastool.deploy import exports, models
from nastool.engine.study import Study
from nastool.evaluators.train import Train
from nastool.tasks.images import data
from tests.helpers.running import Run

TRAIN = ["--data", "npz:data.npz", "--epochs", "1", "--scale", "channels=4,cells=1", "--device", "cpu"]
SEARCH = ["search", *TRAIN, "-s", "random", "-n", "1", "--no-report", "--out", "a"]
QUICK = ["--epochs", "1", "--device", "cpu"]
RETRAIN = ["retrain", "a", *QUICK, "--no-report", "--seeds"]


def write(
    seed: int = 0, test: int = 0, classes: tuple[str, ...] = ("cat", "dog", "newt"), path: str = "data.npz"
) -> None:
    """Made-up images of three classes. test: changes these alone."""
    rng = np.random.default_rng(seed)
    y = np.arange(600) % 3
    x = (rng.integers(0, 200, (600, 6, 6)) + 20 * y[:, None, None]).astype(np.uint8)
    x_test = np.random.default_rng([seed, test]).integers(0, 256, (30, 6, 6), dtype=np.uint8)
    np.savez(path, x_train=x, y_train=y, x_test=x_test, y_test=np.arange(30) % 3, classes=np.array(classes))


@pytest.fixture
def a(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished search in folder a, on data.npz."""
    monkeypatch.setattr(Train, "inline", True)  # no worker processes: they would only take time
    write()
    run(*SEARCH).accepted()


def test_a_digest_names_the_source_however_it_is_split(run: Run) -> None:
    write()
    digest = data.load("npz:data.npz").digest
    for options in ({"split_seed": 3}, {"val_fraction": 0.4}, {"train_size": 200}, {"all_data": True}):
        assert data.load("npz:data.npz", **options).digest == digest
    others = {digest, data.load("npz:data.npz", image_size=5).digest, data.load("digits").digest}
    for change in ({"seed": 1}, {"test": 1}, {"classes": ("cat", "dog", "eft")}):
        write(**change)
        others.add(data.load("npz:data.npz").digest)
    assert len(others) == 6


CHANGES: dict[str, Callable[[], None]] = {
    "images": lambda: write(1),
    "test images": lambda: write(test=1),
    "classes": lambda: write(classes=("cat", "newt", "dog")),
}


@pytest.mark.usefixtures("a")
@pytest.mark.parametrize("change", CHANGES)
def test_eval_and_retrain_stop(run: Run, change: str) -> None:
    CHANGES[change]()
    what = ("data npz:data.npz are not those", "--force to go on")
    run("eval", "a", *QUICK).refused(*what)
    run(*RETRAIN, "0").refused(*what)
    assert not Path("a/retrained").exists()
    lines = run("top", "a").out
    run("eval", "-", *QUICK, stdin=lines).refused(*what)
    run("eval", "-", *QUICK, "-E", "val_fraction=0.3", stdin=lines).refused(*what)
    outcome = run("eval", "a", *QUICK, "--force")
    (line,) = outcome.accepted()
    assert "note: data npz:data.npz are not those" in outcome.err
    assert line["data_digest"] == data.load("npz:data.npz").digest
    run("eval", json.dumps(line), *QUICK).accepted()  # what it says now is so


@pytest.mark.usefixtures("a")
def test_retrain_goes_on_with_force(run: Run) -> None:
    """And once begun, its trainings go on by themselves, with the data that they began with."""
    write(1)
    outcome = run(*RETRAIN, "0", "--force")
    (one,) = outcome.accepted()
    assert "note: data npz:data.npz are not those" in outcome.err
    (two,) = run(*RETRAIN, "0,1").accepted()
    assert two["runs"][0] == one["runs"][0]
    write(2)
    run(*RETRAIN, "0,1,2").refused("the data of a/retrained changed since it began", "--force")
    assert len(Study.read("a/retrained").trials) == 2
    assert len(run(*RETRAIN, "0", "--force").accepted()[0]["runs"]) == 1


@pytest.mark.usefixtures("a")
def test_earlier_lines_are_not_lost(run: Run) -> None:
    (line,) = run("top", "a").accepted()
    other = json.dumps({**line, "data_digest": "0123456789abcdef"})
    outcome = run("eval", "-", *QUICK, stdin=f"{json.dumps(line)}\n{other}\n")
    assert outcome.code == 2 and len(outcome.out.splitlines()) == 1
    assert "(digest 0123456789abcdef, now " in outcome.err


@pytest.mark.usefixtures("a")
def test_other_data_that_are_asked_for_are_no_change(run: Run) -> None:
    write(1, path="other.npz")
    run("eval", "a", *QUICK, "--data", "npz:other.npz").accepted()
    run("eval", "a", *QUICK, "-E", "image_size=5").accepted()
    run(*RETRAIN, "0", "--data", "npz:other.npz").accepted()
    (line,) = run("top", "a").accepted()
    del line["data_digest"]  # as of an earlier version
    write(1)
    run("eval", json.dumps(line), *QUICK).accepted()


@pytest.mark.usefixtures("a")
def test_an_export_is_compared_on_the_run_s_images_or_random_ones() -> None:
    assert exports.examples(models.load("a"))[1] == "validation images"
    write(1)
    assert exports.examples(models.load("a"))[1] == "random images"


@pytest.mark.usefixtures("a")
def test_in_python() -> None:
    write(1)
    with pytest.raises(nastool.NastoolError, match="--force to go on"):
        nastool.evaluate("a", epochs=1, device="cpu")
    (line,) = nastool.evaluate("a", epochs=1, device="cpu", force=True)
    assert "metrics" in line
