"""nastool.evaluators.train on texts: what their recipes say, and trainings that go on after an interruption."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from nastool.core import archfile, registry, zoo
from nastool.core.recipe import Recipe, Rule, Text
from nastool.core.space import make_scale
from nastool.core.values import Proposal
from nastool.evaluators.supernet import Supernet
from nastool.evaluators.train import Train
from nastool.nets.costs import count_flops
from nastool.nets.networks import build, count_params
from nastool.spaces.stacked_rnn import StackedRNN
from nastool.tasks.language.task import LanguageTask
from nastool.training import unfinished
from nastool.training.recipes import load_recipe
from nastool.training.unfinished import Unfinished
from tests.helpers.running import in_this_process

SPACE = StackedRNN()
LSTM = SPACE.arch([0, 1, 2, 0])
Reports = list[tuple[int, dict[str, float]]]

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def data(tmp_path: Path) -> str:
    """Sentences of 12 words, in which each is the one after the last, or any."""
    drawn = torch.randint(24, (3, 400), generator=torch.Generator().manual_seed(0))
    folder = tmp_path / "text"
    folder.mkdir()
    for part, numbers in zip(("train", "valid", "test"), drawn.tolist(), strict=True):
        last, words = 0, []
        for number in numbers:
            last = number if number < 12 else (last + 1) % 12
            words.append(f"w{last}")
        lines = [" ".join(words[start : start + 10]) for start in range(0, 400, 10)]
        (folder / f"{part}.txt").write_text("\n".join(lines) + "\n")
    return f"text:{folder}"


TEXT = Text(
    bptt=12,
    varying=True,
    init=0.1,
    dropout={"words": 0.1, "embedding": 0.2, "input": 0.1, "nodes": 0.2, "output": 0.3, "weights": 0.2},
    activation=1.0,
    slowness=1.0,
)
PLAIN = {"batch_size": 4, "warmup_epochs": 0, "momentum": 0.0, "nesterov": False, "schedule": "constant"}


def trainer(data: str, recipe: Recipe, workdir: Path | None = None) -> Train:
    made = Train(SPACE, data=data, recipe="ptb-small", scale={"hidden": 8}, device="cpu", epochs=5, batch_size=4)
    made.recipe = recipe
    made.workdir = workdir
    made.prepare()
    return made


def trained(evaluator: Train, stop: int = 0) -> tuple[Reports, dict[str, float], dict[str, Tensor]]:
    """stop: The epoch in which it is interrupted."""
    reports: Reports = []

    def report(epoch: int, metrics: dict[str, float]) -> None:
        if epoch == stop:
            raise KeyboardInterrupt
        reports.append((epoch, metrics))

    done = evaluator.evaluate(0, Proposal(LSTM), seed=3, report=report)  # type: ignore[arg-type]
    assert evaluator.workdir is not None and done.checkpoint is not None
    return reports, dict(done.metrics), load_file(evaluator.workdir / done.checkpoint)


@pytest.mark.parametrize(
    "recipe",
    [
        Recipe(epochs=5, lr=30, average_after=1, text=TEXT, **PLAIN),  # type: ignore[arg-type]
        Recipe(epochs=5, lr=30, best_of=5, text=TEXT, **PLAIN),  # type: ignore[arg-type]
        Recipe(epochs=5, lr=0.01, average=4, optimizer=Rule("adamw"), text=TEXT, **PLAIN),  # type: ignore[arg-type]
    ],
    ids=["averaged-sgd", "best-of", "adamw"],
)
def test_an_interrupted_training_goes_on_bit_for_bit(
    recipe: Recipe, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unfinished, "EVERY", 0.0)
    reports, metrics, weights = trained(trainer(data, recipe, tmp_path / "whole"))
    for stop in (3, 5):
        with pytest.raises(KeyboardInterrupt):
            trained(trainer(data, recipe, tmp_path / "parts"), stop)
    rest, found, own = trained(trainer(data, recipe, tmp_path / "parts"))
    assert rest == reports[4:] and found == metrics
    assert own.keys() == weights.keys() and all(torch.equal(own[name], weights[name]) for name in own)
    assert [file.name for file in (tmp_path / "parts" / "checkpoints").iterdir()] == ["trial-000000.safetensors"]


def test_what_is_unfinished_of_another_training_is_left_alone(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor is anything damaged taken, nor anything of short trainings kept."""
    recipe = Recipe(epochs=3, lr=1, text=TEXT, **PLAIN)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        trained(trainer(data, recipe, tmp_path), 3)
    assert not list(tmp_path.rglob("*.training.*"))
    monkeypatch.setattr(unfinished, "EVERY", 0.0)
    with pytest.raises(KeyboardInterrupt):
        trained(trainer(data, recipe, tmp_path), 3)
    (kept,) = tmp_path.rglob("*.training.safetensors")
    assert len(trained(trainer(data, recipe.replace(lr=2.0), tmp_path))[0]) == 3
    kept.write_bytes(b"damaged")
    assert len(trained(trainer(data, recipe, tmp_path))[0]) == 3
    assert not kept.exists()


def test_a_command_that_was_stopped_goes_on_amid_a_training(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unfinished, "EVERY", 0.0)
    given = ["--data", data, "--recipe", "ptb-small", "--scale", "hidden=8", "--epochs", "4", "--seeds", "0"]
    given.append("--validation")
    measured: list[str] = []
    stop = 3
    measure = Train.measure

    def counted(self: Train, network: Any, part: Any, prefix: str, *more: Any) -> dict[str, float]:
        measured.append(prefix)
        if len(measured) == stop:
            raise KeyboardInterrupt
        return measure(self, network, part, prefix, *more)

    monkeypatch.setattr(Train, "measure", counted)
    assert in_this_process(tmp_path, "retrain", "zoo:lstm-small", *given, "--out", "a", trains=True).code == 130
    assert len(list((tmp_path / "a/checkpoints").iterdir())) == 1
    stop = 0
    for folder in ("a", "b"):
        measured.clear()
        done = in_this_process(tmp_path, "retrain", "zoo:lstm-small", *given, "--out", folder, trains=True)
        assert done.code == 0, done.err
        assert measured == ["val"] * (2 if folder == "a" else 4) + ["test"]
    one, other = (json.loads((tmp_path / folder / "best.json").read_text()) for folder in ("a", "b"))
    assert one["weights_digest"] == other["weights_digest"]
    assert one["metrics"]["val_ppl"] == other["metrics"]["val_ppl"]


def test_the_mean_begins_when_validation_gets_worse(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With 2 epochs: 4.5 in the fifth is more than 4 in the second."""
    recipe = Recipe(epochs=7, lr=1, average_after=2, text=TEXT, **PLAIN)  # type: ignore[arg-type]
    evaluator = trainer(data, recipe)
    losses = iter([5, 4, 3, 4.0, 4.5, 9, 9])
    monkeypatch.setattr(evaluator, "measure", lambda *_: {"val_loss": next(losses)})
    training = evaluator._begin(Proposal(LSTM), recipe, 0)
    evaluator._fit(training, lambda *_: None, (Unfinished(None, {}), None, None), 7)
    assert training.optimizer.begin == 5 * training.steps


def test_weights_and_learning_rates_are_as_the_recipe_says(data: str) -> None:
    recipe = Recipe(epochs=1, lr=2, text=TEXT, **PLAIN)  # type: ignore[arg-type]
    evaluator = trainer(data, recipe)
    network = evaluator.build(LSTM, 0)
    for name, parameter in network.named_parameters():
        assert 0.05 < parameter.abs().max() <= 0.1, name
    shared = Supernet(registry.make("space", "recurrent-cell", given={"nodes": 3}), data=data, recipe="ptb-search")
    shared.prepare()
    assert 0.03 < max(float(parameter.detach().abs().max()) for parameter in shared.supernet().parameters()) <= 0.04
    training = evaluator.training(network, recipe, 0)
    rates = [training.optimizer.lr for _ in training.epoch()]
    again = evaluator.training(network, recipe, 0).epoch_batches()
    assert rates == pytest.approx([2 * read.shape[1] / 12 for read, _ in again])
    assert len(set(rates)) > 2


@pytest.mark.parametrize("name", ["ptb-small", "ptb-awd", "ptb-char", "ptb-final", "ptb-search"])
def test_the_published_recipes_train(name: str, data: str) -> None:
    recipe = load_recipe(name).replace(epochs=1, batch_size=2)
    evaluator = trainer(data, recipe)
    found = evaluator.evaluate(0, Proposal(LSTM), seed=0, report=lambda *_: None).metrics
    assert 1 < found["val_ppl"] < 100


# --- the space


@pytest.mark.parametrize(
    ("name", "params"),
    [("lstm-small", 4_651_600), ("lstm-medium", 19_775_200), ("lstm-large", 66_022_000), ("awd-lstm", 24_221_600)],
)
def test_published_lstms(name: str, params: int) -> None:
    found = archfile.from_json(zoo.document(name))
    scale = make_scale(found.space, found.extra["scale"])
    with torch.device("meta"):
        assert count_params(build(found.space, found.arch, LanguageTask(10_000), scale)) == params


@pytest.mark.parametrize("kind", range(3))
def test_flops_are_the_same_wherever_they_are_counted(kind: int) -> None:
    """torch knows none of an LSTM on a CPU."""
    scale = SPACE.Scale(hidden=8)
    counted = []
    for device in ("cpu", "meta"):
        with torch.device(device):
            counted.append(
                count_flops(build(SPACE, SPACE.arch([kind, 1, 2, kind % 2]), LanguageTask(30), scale), LanguageTask(30))
            )
    gates = (4, 3, 1)[kind]
    assert counted == [2 * (2 * gates * 2 * 8 * 8 + 8 * 30)] * 2


@pytest.mark.parametrize("scale", [{"biases": 3}, {"tied": 2}, {"embedding": -1}, {"hidden": 0}])
def test_bad_scales(scale: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=f"<= {next(iter(scale))} <="):
        SPACE.Scale(**scale)


def test_from_the_command_line(data: str, tmp_path: Path) -> None:
    """A published LSTM is trained, tested, and says what comes next; its code computes the same."""

    def ran(*args: str) -> str:
        done = in_this_process(tmp_path, *args, trains=True)
        assert done.code == 0, done.err
        return done.out

    given = ["--data", data, "--recipe", "ptb-small", "--scale", "hidden=8", "--epochs", "1"]
    best = json.loads(ran("retrain", "zoo:lstm-small", *given, "--out", "r").splitlines()[-1])
    assert best["scale"] == {"hidden": 8, "embedding": 0, "tied": 0, "biases": 1}
    assert 1 < best["metrics"]["test_ppl"] < 40
    said: dict[str, Any] = json.loads(ran("predict", "r", "text/test.txt").splitlines()[-1])
    assert said["ppl"] == pytest.approx(best["metrics"]["test_ppl"], rel=0.01) and said["next"]
    assert "LanguageModel" in (tmp_path / "r/model.py").read_text()
