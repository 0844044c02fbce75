"""The documentation's examples of a task and a space of one's own: installed as a package, searched, resumed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nastool
from nastool.core.errors import InputError
from nastool.core.values import Arch
from nastool.engine.study import Study
from nastool.evaluators.supernet import Supernet
from nastool.evaluators.train import Train
from tests.helpers import plugins
from tests.helpers.examples import EXAMPLES
from tests.helpers.running import Run

pytestmark = pytest.mark.usefixtures("one_thread", "series")
POINTS = {"nastool.tasks": "series = series:Series", "nastool.spaces": "series-cnn = series_space:SeriesCNN"}
SEARCH = "search --space series-cnn --data waves --device cpu --seed 1 --keep 2 --retrain 0 --no-baseline".split()


@pytest.fixture(scope="module")
def series(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The examples as a package of somebody else's."""
    folder = tmp_path_factory.mktemp("examples")
    plugins.install(folder, "series", (EXAMPLES / "series.py").read_text(), POINTS)
    shutil.copy(EXAMPLES / "series_space.py", folder)
    with pytest.MonkeyPatch.context() as patch, plugins.here(folder):
        patch.setattr(Train, "inline", True)
        patch.setattr(Supernet, "inline", True)
        yield


def scores(folder: str, metric: str) -> list[tuple[Arch, float]]:
    return [(trial.arch, trial.metrics[metric]) for trial in Study.read(folder).trials]


@pytest.mark.parametrize("evaluator", ["train", "supernet"])
def test_a_task_of_one_s_own_is_searched_and_resumed(run: Run, evaluator: str) -> None:
    command = [*SEARCH, "--strategy", "random", "--evaluator", evaluator, "--epochs", "6", "-E", "batch_size=20"]
    assert run(*command, "-n", "3", "--out", "whole").code == 0
    assert run(*command, "-n", "2", "--out", "parts").code == 0
    assert run(*command, "-n", "3", "--out", "parts").code == 0
    metric = {"train": "val_acc", "supernet": "shared_acc"}[evaluator]
    whole = scores("whole", metric)
    assert whole == scores("parts", metric)
    assert len(whole) == 3
    assert evaluator == "supernet" or max(score for _, score in whole) > 0.5, "a third is chance"


def test_its_networks_are_drawn_and_exported(run: Run) -> None:
    """With what is known of a task alone: the shapes of an example, and the loss' output, whatever it means."""
    command = [*SEARCH, "--strategy", "random", "--evaluator", "train", "--epochs", "1", "-n", "1", "--out", "a"]
    assert run(*command).code == 0
    trained = nastool.load("a")
    signals = torch.randn(4, 1, 64)
    expected = trained.network(signals)
    drawn = run("show", "a", "--to", "text")
    assert drawn.code == 0 and "series of channels=1, length=64, classes=3" in drawn.out and "FLOPs" in drawn.out
    assert run("show", "a", "--to", "svg", "-o", "a.svg").code == 0
    code: dict[str, Any] = {"__name__": "model"}
    assert run("export", "a", "--to", "python", "-o", "model.py").code == 0
    exec(Path("model.py").read_text(), code)
    torch.testing.assert_close(code["load"]("a/best.safetensors")(signals), expected)
    text = Path("a/model.py").read_text()
    assert text == Path("model.py").read_text() and "Examples (N, 1, 64) to logits (N, 3)." in text
    found = run("export", "a", "--to", "pt2")
    assert found.code == 0 and "takes examples: float32 (N, 1, 64)" in found.err
    torch.testing.assert_close(torch.export.load("model.pt2").module()(signals), expected)
    line = json.dumps({key: json.loads(Path("a/best.json").read_text())[key] for key in ("format", "space", "choices")})
    assert run("export", "-", "--to", "python", "--input", "1x64", "--classes", "3", "-o", "b.py", stdin=line).code == 0
    run("show", "-", "--input", "1x8x8", stdin=line).refused("write CHANNELSxLENGTH")
    run("predict", "a", "cat.png").refused("holds a network for series, not for images")
    with pytest.raises(InputError, match="for series, which is given tensors"):
        trained.predict(np.zeros((1, 1, 8, 8), np.uint8))


def test_its_policy_is_trained(run: Run) -> None:
    command = [*SEARCH, "--strategy", "enas", "--epochs", "2", "-S", "steps=2", "-S", "candidates=3"]
    assert run(*command, "--out", "a").code == 0
    assert json.loads((Path("a") / "best.json").read_text())["space"]["name"] == "series-cnn"


def test_an_option_of_images_is_refused(run: Run) -> None:
    run(*SEARCH, "--out", "a", "-E", "image_size=8").refused("image_size: data for series has no such option")
