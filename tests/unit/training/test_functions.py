"""Functions in a file as evaluators (nastool.training.functions) and as data (nastool.tasks.functions)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nastool
from nastool.core import plugin_files, registry
from nastool.core.errors import InputError
from nastool.core.values import Proposal
from nastool.spaces.nasbench201 import NasBench201
from nastool.training.functions import OfChoices, OfNetwork, evaluator_of, metrics_of
from tests.helpers.running import Run

MEASURE = '''
import random

import numpy as np
import torch


def count(arch):
    return {"score": sum(option == "nor_conv_3x3" for option in arch.values()) + random.random() + np.random.rand()}


count.objective = "score:max"


def fails(arch, trial):
    trial.report(1, {"score": 1.0})
    if trial.id == 1:
        raise ValueError("not this one")
    return {"score": trial.seed % 7}


def train(network, trial, *, steps: int = 3):
    """Takes a few steps.

    Args:
        steps: Number of steps.
    """
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    x, y = next(trial.data.batches("train", trial.device).in_order(32))
    for step in range(steps):
        loss = torch.nn.functional.cross_entropy(network(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return {"val_loss": loss.detach(), "draw": torch.rand(())}


def bare(arch):
    return 0.5


def wrong(a, b, c):
    return {}
'''
DATA = """
import numpy as np
import torch

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(90, 4)), np.arange(90) % 3


def pair():
    return X, torch.tensor(Y)


def parts():
    whole = torch.utils.data.TensorDataset(torch.tensor(X).float()[:, None], torch.tensor(X[:, :1]))
    return {"train": whole, "val": (X[:9, None], X[:9, 0]), "test": None}


def images():
    return {"x_train": np.zeros((60, 8, 8), np.uint8), "y_train": np.array(["a", "b"], dtype=object)[Y[:60] % 2]}


def without_labels():
    return {"x_train": X}


def unequal():
    return [(np.zeros(i), 0) for i in (1, 2)]


def text():
    return "file.csv"


def objects():
    return {"x_train": X, "y_train": np.array([{}] * 90)}


def meta():
    return torch.zeros(9, 4, device="meta"), torch.zeros(9)


def missing():
    return X / nothing


def needs(path):
    return X, Y


def not_finite():
    return np.full((9, 1, 4), np.nan), np.arange(9) % 3
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.py").write_text(MEASURE)
    (tmp_path / "data.py").write_text(DATA)
    monkeypatch.setattr(OfChoices, "inline", True)
    return tmp_path


SEARCH = "search -s random --no-report --out a".split()


def test_a_function_of_the_choices_is_an_evaluator_and_is_resumed(mine: Path, run: Run) -> None:
    """Its own objective, and draws that a trial's seed decides: stopped and continued it finds the same."""
    assert run(*SEARCH, "--evaluator", "my.py:count", "-n", "6").code == 0
    whole = [trial.metrics["score"] for trial in nastool.Study.read("a").trials]
    assert nastool.Study.read("a").objective.metric == "score" and len(set(whole)) == 6
    assert run(*SEARCH[:-1], "b", "--evaluator", "my.py:count", "-n", "3").code == 0
    (mine / "my.py").write_text(MEASURE.replace("random.random()", "1000"))
    assert run("resume", "b", "--trials", "6").code == 0, "it goes on with the file as it was"
    assert [trial.metrics["score"] for trial in nastool.Study.read("b").trials] == whole


def test_a_trial_that_raises_has_failed(mine: Path, run: Run) -> None:
    found = run(*SEARCH, "--evaluator", "my.py:fails", "--objective", "score:max", "-n", "3")
    assert found.code == 0
    states = [(trial.state, trial.error) for trial in nastool.Study.read("a").trials]
    assert [state for state, _ in states] == ["done", "failed", "done"]
    assert "not this one; see evaluator my.py:fails" in str(states[1][1]) and "(my.py, line 18)" in str(states[1][1])


def test_a_function_of_a_network_leaves_one_of_use(mine: Path, run: Run) -> None:
    """Its weights are kept as the function leaves them; options are its keyword-only parameters."""
    command = [*SEARCH, "--evaluator", "my.py:train", "--data", "digits", "--scale", "channels=2,cells=1", "-n", "1"]
    command += ["--objective", "val_loss", "--device", "cpu"]
    (best,) = run(*command, "-E", "steps=2").accepted()
    assert best["metrics"]["val_loss"] > 0 and best["evaluator"]["options"]["steps"] == 2
    assert nastool.load("a").classes == tuple("0123456789")
    assert run("export", "a", "--to", "pt2").code == 0
    run(*command, "-E", "step=2", "--force").refused("has no option 'step'; did you mean 'steps'?")
    for more, message in (
        ([], "say what networks are built for: --data, or -E input="),
        (["-E", "input=8"], "write CHANNELSxHEIGHTxWIDTH in numbers"),
        (["--data", "data.py:pair", "--space", "nasbench201"], "is for tabular: give other data"),
    ):
        run(*SEARCH, "--evaluator", "my.py:train", *more).refused(message)


def test_the_same_trial_measures_the_same(mine: Path) -> None:
    plugin_files.trust("my.py:train")
    cls = registry.load("evaluator", "my.py:train")
    assert issubclass(cls, OfNetwork) and not issubclass(registry.load("evaluator", "my.py:count"), OfNetwork)
    evaluator = cls(NasBench201(), data="digits", scale={"channels": 2, "cells": 1}, device="cpu")
    evaluator.prepare()
    proposal = Proposal(evaluator.space.arch([3] * 6))
    state = torch.get_rng_state(), np.random.get_state()[1].tolist()  # type: ignore[index]  # noqa: NPY002
    first, second, other = (
        evaluator.evaluate(i, proposal, seed=seed, report=lambda *_: None).metrics for i, seed in enumerate((5, 5, 6))
    )
    assert first == second != other
    assert torch.equal(torch.get_rng_state(), state[0]) and np.random.get_state()[1].tolist() == state[1]  # type: ignore[index]  # noqa: NPY002


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (0.5, "it returned a float: return a dictionary of numbers"),
        (None, "it returned nothing: return a dictionary"),
        ({"a": torch.zeros((), device="meta")}, "'a' is a tensor on the meta device, which holds no number"),
        (
            {"a": torch.zeros((), requires_grad=True)},
            "'a' is a tensor with gradients: return a number, as value.item()",
        ),
        ({"a": torch.zeros(3)}, "'a' has 3 values: return one number, such as value.mean().item()"),
    ],
)
def test_what_is_no_metric(returned: Any, message: str) -> None:
    with pytest.raises(TypeError) as caught:
        metrics_of(returned)
    assert message in str(caught.value)


def test_a_mistake_names_file_and_line(mine: Path, run: Run) -> None:
    assert metrics_of({"a": torch.tensor(2.0), "b": np.float32(1)}) == {"a": 2, "b": 1}
    found = run(*SEARCH, "--evaluator", "my.py:bare", "-n", "2")
    assert found.code != 0 and "return a dictionary of numbers" in found.err and "(my.py, line 38)" in found.err
    run(*SEARCH, "--evaluator", "my.py:wrong").refused("my.py, line 42: wrong(a, b, c) is no evaluator")
    assert evaluator_of(3, "x") is None


# --- data


def loaded(name: str, **options: Any) -> Any:
    plugin_files.trust(name)
    return registry.task_for(name).load(name, **options)


def test_a_function_returns_data_of_any_kind(mine: Path) -> None:
    pair = loaded("data.py:pair")
    assert str(pair.task) == "rows of 4 features, 3 classes" and pair.task.name == "tabular"
    parts = loaded("data.py:parts")
    assert str(parts.task) == "signals of 1x4, 1 target" and len(parts.arrays("train")[0]) == 72, "18 are for the test"
    assert registry.task_for("data.py:parts").goals("data.py:parts")[1] == "rmse"
    images = loaded("data.py:images")
    assert images.classes == ("a", "b") and images.task.kind() == "images"
    assert registry.space_for("data.py:images", "nasbench201") == "nasbench201"
    assert registry.space_for("data.py:pair", "nasbench201") == "tabular-net"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("without_labels", "data.py, line 22: no array 'y_train'; need x_train and y_train"),
        ("unequal", "data.py, line 26: the examples of train differ in shape"),
        ("text", "data.py, line 30: got str for train: return {"),
        ("objects", "data.py, line 34: y_train holds Python objects: return numbers, or texts"),
        ("meta", "data.py, line 38: x_train is a tensor on the meta device"),
        ("missing", "data.py, line 43: NameError: name 'nothing' is not defined; correct the file"),
        ("needs", "data.py, line 46: needs is called without arguments: give path a default"),
        ("not_finite", "data.py, line 50: x_train: 36 values are not finite"),
    ],
)
def test_mistakes_in_data_name_file_and_line(mine: Path, name: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        loaded(f"data.py:{name}")
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_data_of_a_function_are_searched_and_resumed(mine: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nastool.evaluators.train.Train.inline", True)
    assert run(*SEARCH, "--data", "data.py:pair", "--epochs", "2", "-n", "1", "--device", "cpu").code == 0
    found = json.loads(Path("a/best.json").read_text())
    assert found["evaluator"]["options"]["data"].startswith("data.py:pair@") and "test_acc" in found["metrics"]
    assert run("resume", "a", "--trials", "2").code == 0
    assert len(nastool.Study.read("a").trials) == 2
    np.savez("new.npz", x=np.zeros((2, 4)))
    assert len(run("predict", "a", "new.npz").accepted()) == 2
