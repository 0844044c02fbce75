"""Checkpoints: what a training leaves behind, and trainings that begin with it. Real ones, on tiny data."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from nastool.core import archfile
from nastool.core.errors import CannotGoOn, InputError
from nastool.core.space import SearchSpace
from nastool.core.values import Arch, Evaluation, Proposal
from nastool.evaluators.train import Train
from nastool.nets import checkpoints
from nastool.nets.inheritance import growing
from nastool.spaces.morph_cnn import MorphCNN
from nastool.spaces.nasbench201 import NasBench201
from nastool.training.loop import Training, seeds
from tests.helpers.running import in_this_process
from tests.unit.evaluators.test_train import npz

SPACE = MorphCNN(stages=2, layers=3)
START = SPACE.start()
WIDER, DEEPER = (SPACE.morphisms(START)[kind][0] for kind in ("wider", "deeper"))

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def data(tmp_path: Path) -> str:
    return npz(tmp_path / "tiny.npz")


@pytest.fixture
def evaluator(data: str, tmp_path: Path) -> Train:
    return trainer(data, tmp_path / "run")


def trainer(data: str, folder: Path, space: SearchSpace = SPACE, **options: Any) -> Train:
    defaults: dict[str, Any] = {"recipe": "morphism-default", "scale": {"channels": 2}, "device": "cpu"}
    evaluator = Train(space, data=data, **(defaults | {"batch_size": 16, "epochs": 2} | options))
    evaluator.workdir = folder
    evaluator.prepare()
    return evaluator


def train(
    evaluator: Train, trial: int = 0, arch: Arch = START, parent: int | None = None, *, inherit: bool = True
) -> Evaluation:
    proposal = Proposal(arch, parent, inherit=inherit)
    return evaluator.evaluate(trial, proposal, seed=100 + trial, report=lambda *_: None)


def begin(evaluator: Train, arch: Arch, parent: int | None = 0, seed: int = 1) -> Training:
    """A training that is about to start."""
    with evaluator.reproducible(seed):
        return evaluator._begin(Proposal(arch, parent, inherit=True), evaluator.recipe, seed)


def weights_of(evaluator: Train, trial: int = 0) -> Path:
    assert evaluator.workdir is not None
    return evaluator.workdir / checkpoints.name_of(trial)


def validation(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: metrics[name] for name in ("val_acc", "val_loss")}


def chain(morphisms: int, seed: int) -> Arch:
    """So many morphisms from the start."""
    rng = np.random.default_rng(seed)
    arch = START
    for _ in range(morphisms):
        known = [member for members in SPACE.morphisms(arch).values() for member in members]
        arch = known[rng.integers(len(known))]
    return arch


def rewrite(path: Path, change: Callable[[dict[str, Tensor]], object] | None = None, **metadata: str) -> None:
    """Change tensors and metadata ("": leave it out), and nothing else."""
    with safe_open(path, "pt") as file:
        found = {**file.metadata(), **metadata}
    tensors = load_file(path)
    if change is not None:
        change(tensors)
    save_file(tensors, path, {key: value for key, value in found.items() if value})


class TestHandingDown:
    def test_the_same_network_goes_on_exactly(self, evaluator: Train) -> None:
        """With its weights, its statistics and its momentum, as if training had never stopped."""
        parent = train(evaluator)
        whole = begin(evaluator, START, None, seed=100)
        for _ in range(2):
            list(whole.epoch())
        assert evaluator.measure(whole.network, evaluator.val_batches, "val") == validation(parent.metrics)
        child = begin(evaluator, START)
        assert evaluator.measure(child.network, evaluator.val_batches, "val") == validation(parent.metrics)
        state = whole.network.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in child.network.state_dict().items())
        momentum = whole.memory()
        assert child.memory().keys() == momentum.keys()
        assert all(torch.equal(value, momentum[name]) for name, value in child.memory().items())
        assert any(bool(value.any()) for value in momentum.values())
        whole.done = 0
        whole.generator.manual_seed(seeds(101)[2])
        for _ in range(2):
            list(whole.epoch())
        metrics = train(evaluator, 1, START, 0).metrics
        assert validation(metrics) == evaluator.measure(whole.network, evaluator.val_batches, "val")

    @pytest.mark.parametrize("seed", range(6))
    def test_a_child_begins_where_its_parent_ended(self, evaluator: Train, seed: int) -> None:
        parent = train(evaluator, arch=chain(2, seed))
        child = chain(2 + seed, seed)
        grown = begin(evaluator, child)
        measured = evaluator.measure(grown.network, evaluator.val_batches, "val")
        loss = measured["val_loss"]
        assert measured["val_acc"] == parent.metrics["val_acc"]
        assert loss == pytest.approx(parent.metrics["val_loss"], rel=1e-5)
        scratch = begin(evaluator, child, None)
        measured = evaluator.measure(scratch.network, evaluator.val_batches, "val")
        assert measured["val_loss"] != pytest.approx(loss, rel=1e-3)

    def test_momentum_is_carried_to_where_the_weights_went(self, evaluator: Train) -> None:
        train(evaluator)
        kept = load_file(checkpoints.optimizer_of(weights_of(evaluator)))
        grown = begin(evaluator, WIDER).memory()
        assert kept.keys() == grown.keys()
        name = "layers.stage1_layer1.conv.0.weight"
        assert grown[name].shape[0] == 2 * kept[name].shape[0]
        assert torch.equal(grown[name][:2], kept[name]) and bool(kept[name].any())
        assert not grown[name][2:].any(), "new weights have none"
        assert torch.equal(grown["classifier.bias"], kept["classifier.bias"])

    def test_new_normalisation_is_calibrated(self, evaluator: Train) -> None:
        """On training images (all of these few): with what the new layer reads in training, and hands on as it is."""
        train(evaluator)
        network = begin(evaluator, DEEPER).network.train()
        norm = network.get_submodule("layers.stage1_layer2.conv.1")
        assert isinstance(norm, torch.nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
        (images, _), *more = evaluator.train_batches.in_order()
        assert not more
        with torch.no_grad():
            values = network.get_submodule("layers.stage1_layer1.conv")(images)
        variance, mean = torch.var_mean(values, (0, 2, 3))
        assert norm.running_mean.tolist() == pytest.approx(mean.tolist(), rel=1e-4)
        assert norm.running_var.tolist() == pytest.approx(variance.tolist(), rel=1e-4)

    def test_training_a_child_changes_new_weights(self, evaluator: Train) -> None:
        train(evaluator)
        before = {
            name: value.clone() for name, value in begin(evaluator, DEEPER, seed=101).network.state_dict().items()
        }
        train(evaluator, 1, DEEPER, 0)
        after = load_file(weights_of(evaluator, 1))
        new = [name for name in after if "layer2" in name and name.endswith("weight")]
        assert new and all(not torch.equal(before[name], after[name]) for name in new)

    def test_a_repetition_gives_the_same_bits(self, evaluator: Train, data: str, tmp_path: Path) -> None:
        """As after a kill, in another process; the parent's files are read, not changed."""
        train(evaluator)
        parent = weights_of(evaluator).read_bytes()
        metrics, digests = [], []
        for each in (evaluator, evaluator, trainer(data, tmp_path / "run")):
            metrics.append(train(each, 1, chain(4, 0), 0).metrics)
            path = weights_of(each, 1)
            files = (path, checkpoints.optimizer_of(path))
            digests.append([checkpoints.digest(load_file(file)) for file in files])
        assert metrics[0] == metrics[1] == metrics[2]
        assert digests[0] == digests[1] == digests[2]
        assert weights_of(evaluator).read_bytes() == parent

    def test_siblings_differ_by_their_seeds(self, evaluator: Train) -> None:
        train(evaluator)
        assert train(evaluator, 1, START, 0).metrics != train(evaluator, 2, START, 0).metrics

    def test_files_are_left_as_asked(self, evaluator: Train) -> None:
        def names() -> list[str]:
            return sorted(file.name for file in weights_of(evaluator).parent.iterdir())

        train(evaluator)
        own = ["trial-000000.predictions.safetensors", "trial-000000.safetensors"]
        assert names() == ["trial-000000.optimizer.safetensors", *own]
        train(evaluator, inherit=False)
        assert names() == own, "what an earlier try left of the optimiser is gone"

    def test_a_parent_alone_hands_nothing_down(self, evaluator: Train) -> None:
        train(evaluator)
        scratch = train(evaluator, 1, inherit=False)
        assert train(evaluator, 1, START, 0, inherit=False).metrics == scratch.metrics

    def test_without_momentum(self, data: str, tmp_path: Path) -> None:
        path = tmp_path / "r.yaml"
        path.write_text("{momentum: 0, nesterov: false, warmup_epochs: 0}")
        evaluator = trainer(data, tmp_path / "run", recipe=str(path))
        parent = train(evaluator)
        assert load_file(checkpoints.optimizer_of(weights_of(evaluator))) == {}
        child = begin(evaluator, WIDER)
        assert child.memory() == {}
        assert evaluator.measure(child.network, evaluator.val_batches, "val")["val_loss"] == pytest.approx(
            parent.metrics["val_loss"], rel=1e-5
        )

    def test_in_another_space_what_fits_goes_on(self, data: str, tmp_path: Path) -> None:
        space = NasBench201()
        evaluator = trainer(data, tmp_path / "run", space, scale={"channels": 2, "cells": 1})
        parent, child = space.arch([3, 2, 3, 1, 3, 4]), space.arch([3, 3, 3, 1, 0, 4])
        train(evaluator, arch=parent)
        kept, grown = load_file(weights_of(evaluator)), begin(evaluator, child).network.state_dict()
        scratch = begin(evaluator, child, None).network.state_dict()
        same = {name for name, value in grown.items() if name in kept and kept[name].shape == value.shape}
        assert same and same < grown.keys() and same < kept.keys()
        assert all(torch.equal(grown[name], kept[name]) for name in same)
        assert all(torch.equal(grown[name], scratch[name]) for name in grown.keys() - same if "running" not in name)

    def test_there_has_to_be_a_folder(self, evaluator: Train) -> None:
        evaluator.workdir = None
        with pytest.raises(InputError, match="in a run folder, and there is none"):
            train(evaluator, 1, START, 0)

    def test_the_learning_rate_begins_anew_or_goes_on(self, data: str, tmp_path: Path) -> None:
        """Step by step, of 5 steps an epoch: with restarts from lr to nearly final_lr, else one long cosine."""
        path = tmp_path / "r.yaml"
        path.write_text("{lr: 0.4, final_lr: 0.1, warmup_epochs: 0, batch_size: 16}")
        evaluator = trainer(data, tmp_path / "run", recipe=str(path))

        def rates(epochs: int, annealing: tuple[float, float]) -> list[float]:
            proposal = Proposal(START, budget=epochs, annealing=annealing)
            training = evaluator._begin(proposal, evaluator._recipe(proposal), 0)
            return [training.optimizer.lr for _ in range(epochs) for _ in training.epoch()]

        for epochs in (1, 3):
            anew = rates(epochs, (0, 1))
            assert len(anew) == 5 * epochs
            assert anew[0] == 0.4 and anew == sorted(anew, reverse=True)
            assert 0.1 < anew[-1] < (0.14 if epochs == 1 else 0.104)
        path_rates = [*rates(3, (0, 3 / 12)), *rates(2, (3 / 12, 5 / 12)), *rates(2, (5 / 12, 7 / 12))]
        path_rates += rates(5, (7 / 12, 1))
        assert path_rates == pytest.approx(rates(12, (0, 1)), rel=1e-12)


def _flip(tensors: dict[str, Tensor]) -> None:
    tensors["classifier.weight"][1, 1] += 1e-6


def _spoil(tensors: dict[str, Tensor]) -> None:
    tensors["classifier.weight"][1, 1] = torch.nan


def _folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _copy(evaluator: Train, source: Path) -> None:
    shutil.copy(source, weights_of(evaluator))
    shutil.copy(checkpoints.optimizer_of(source), checkpoints.optimizer_of(weights_of(evaluator)))


def _elsewhere(evaluator: Train, tmp_path: Path, **options: Any) -> None:
    """Trial 0 of another run."""
    data = npz(tmp_path / "other.npz", channels=options.pop("images", 1))
    other = trainer(data, tmp_path / "other", **options)
    train(other, arch=growing(other.space).start())
    _copy(evaluator, weights_of(other))


def _finite_digest(evaluator: Train) -> None:
    path = weights_of(evaluator)
    rewrite(path, _spoil)
    rewrite(path, digest=checkpoints.digest(load_file(path)))
    optimizer = checkpoints.optimizer_of(path)
    rewrite(optimizer, weights=checkpoints.digest(load_file(path)))


DAMAGES: dict[str, tuple[Callable[[Train, Path], object], str]] = {
    "missing": (lambda e, _: weights_of(e).unlink(), "there is no {path}"),
    "a folder": (lambda e, _: _folder(weights_of(e)), "there is no {path}"),
    "empty": (lambda e, _: weights_of(e).write_bytes(b""), "{path} is damaged"),
    "text": (lambda e, _: weights_of(e).write_text("my diary\n" * 100), "{path} is damaged"),
    "truncated": (lambda e, _: os.truncate(weights_of(e), 1500), "{path} is damaged"),
    "one number changed": (lambda e, _: rewrite(weights_of(e), _flip), "{path} is damaged: its tensors were changed"),
    "a tensor more": (
        lambda e, _: rewrite(weights_of(e), lambda t: t.update(more=torch.zeros(1))),
        "{path} is damaged: its tensors were changed",
    ),
    "not a number": (lambda e, _: _finite_digest(e), "classifier.weight holds numbers that are not finite"),
    "another trial's": (lambda e, _: _copy(e, weights_of(e, 1)), "{path} is no checkpoint of trial 0"),
    "another scale": (
        lambda e, t: _elsewhere(e, t, scale={"channels": 3}),
        "{path} is of scale {{'channels': 3}}, not {{'channels': 2}}",
    ),
    "other images": (lambda e, t: _elsewhere(e, t, images=3), "{path} is of task {{'channels': 3"),
    "another space": (
        lambda e, t: _elsewhere(e, t, space=MorphCNN(stages=2, layers=4)),
        "is of space morph-cnn(layers=4, max_width=8, min_width=1, stages=2), not morph-cnn(layers=3,",
    ),
    "of nothing": (lambda e, _: rewrite(weights_of(e), arch=""), "{path} is no checkpoint of nastool"),
    "of something else": (
        lambda e, _: rewrite(weights_of(e), arch=json.dumps(archfile.to_json(SPACE, DEEPER))),
        "does not fit the architecture it names: layers.stage1_layer2.conv.0.weight is missing, not (2, 2, 3, 3)",
    ),
    "odd metadata": (lambda e, _: rewrite(weights_of(e), scale="[" * 100_000), "{path} is no checkpoint of nastool"),
    "no momentum": (lambda e, _: checkpoints.optimizer_of(weights_of(e)).unlink(), "there is no {optimizer}"),
    "truncated momentum": (
        lambda e, _: os.truncate(checkpoints.optimizer_of(weights_of(e)), 1000),
        "{optimizer} is damaged",
    ),
    "momentum changed": (
        lambda e, _: rewrite(checkpoints.optimizer_of(weights_of(e)), _flip),
        "{optimizer} is damaged: its tensors were changed",
    ),
    "another's momentum": (
        lambda e, _: shutil.copy(checkpoints.optimizer_of(weights_of(e, 1)), checkpoints.optimizer_of(weights_of(e))),
        "{optimizer} does not belong to the checkpoint beside it",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_parent_that_cannot_be_read(evaluator: Train, tmp_path: Path, name: str) -> None:
    """Nothing is wrong with the child, so it does not fail; and when the file is back, all is well."""
    train(evaluator)
    train(evaluator, 1)
    folder = weights_of(evaluator).parent
    shutil.copytree(folder, tmp_path / "good")
    expected = train(evaluator, 2, DEEPER, 0).metrics
    damage, message = DAMAGES[name]
    damage(evaluator, tmp_path)
    with pytest.raises(CannotGoOn) as caught:
        train(evaluator, 2, DEEPER, 0)
    text = str(caught.value)
    path = weights_of(evaluator)
    assert message.format(path=path, optimizer=checkpoints.optimizer_of(path)) in text
    assert text.endswith(": put the checkpoint of trial 0 back, or begin anew with --force")
    assert "\n" not in text
    shutil.rmtree(folder)
    (tmp_path / "good").rename(folder)
    assert train(evaluator, 2, DEEPER, 0).metrics == expected


class TestFromCheckpoint:
    @pytest.fixture
    def file(self, evaluator: Train, tmp_path: Path) -> Path:
        """A copy of the weights alone, as a search leaves them."""
        train(evaluator, arch=WIDER)
        shutil.copy(weights_of(evaluator), tmp_path / "best.safetensors")
        return tmp_path / "best.safetensors"

    def begun(self, evaluator: Train, arch: Arch) -> tuple[float, Mapping[str, Tensor]]:
        """Validation loss before the first step, and the momentum."""
        training = begin(evaluator, arch, None)
        return evaluator.measure(training.network, evaluator.val_batches, "val")["val_loss"], training.memory()

    @pytest.mark.parametrize("grown", range(4))
    def test_it_goes_on(self, evaluator: Train, data: str, tmp_path: Path, file: Path, grown: int) -> None:
        arch = WIDER
        for i in range(grown):
            arch = [member for members in SPACE.morphisms(arch).values() for member in members][i]
        found, momentum = self.begun(trainer(data, tmp_path / "new", from_checkpoint=str(file)), arch)
        with safe_open(weights_of(evaluator), "pt") as kept:
            assert kept.metadata()["trial"] == "0"
        network = evaluator.load(WIDER, checkpoints.name_of(0))
        loss = evaluator.measure(network, evaluator.val_batches, "val")["val_loss"]
        assert found == (pytest.approx(loss, rel=1e-5) if grown else loss)
        assert not any(bool(value.any()) for value in momentum.values()), "there is no file of it"

    def test_without_a_run_folder(self, data: str, tmp_path: Path, file: Path) -> None:
        evaluator = trainer(data, tmp_path, from_checkpoint=str(file))
        evaluator.workdir = None
        assert train(evaluator, arch=WIDER, inherit=False).checkpoint is None

    def test_momentum_where_it_lies_beside(self, evaluator: Train, data: str, tmp_path: Path, file: Path) -> None:
        other = trainer(data, tmp_path, from_checkpoint=str(weights_of(evaluator)))
        kept = load_file(checkpoints.optimizer_of(weights_of(evaluator)))
        momentum = self.begun(other, WIDER)[1]
        assert momentum.keys() == kept.keys() and all(torch.equal(momentum[name], kept[name]) for name in kept)
        train(evaluator, 1)
        shutil.copy(checkpoints.optimizer_of(weights_of(evaluator, 1)), checkpoints.optimizer_of(file))
        other = trainer(data, tmp_path, from_checkpoint=str(file))
        assert not any(bool(value.any()) for value in self.begun(other, WIDER)[1].values()), "of other weights"
        shutil.copy(checkpoints.optimizer_of(weights_of(evaluator)), checkpoints.optimizer_of(file))
        rewrite(checkpoints.optimizer_of(file), _flip)
        with pytest.raises(InputError, match=r"best\.optimizer\.safetensors is damaged: its tensors were changed"):
            trainer(data, tmp_path, from_checkpoint=str(file))

    def test_children_take_their_parents_instead(self, data: str, tmp_path: Path, file: Path) -> None:
        evaluator = trainer(data, tmp_path / "new", from_checkpoint=str(file))
        parent = train(evaluator, arch=WIDER)
        child = begin(evaluator, WIDER, 0)
        assert evaluator.measure(child.network, evaluator.val_batches, "val") == validation(parent.metrics)

    @pytest.mark.parametrize("arch", [START, DEEPER], ids=["smaller", "other"])
    def test_what_it_cannot_become(self, data: str, tmp_path: Path, file: Path, arch: Arch) -> None:
        evaluator = trainer(data, tmp_path / "new", from_checkpoint=str(file))
        with pytest.raises(CannotGoOn) as caught:
            train(evaluator, arch=arch)
        assert str(caught.value) == (
            f"checkpoint {file} is of architecture {WIDER.key}, which cannot become {arch.key} without a change of its "
            "function: give a checkpoint of that architecture"
        )

    @pytest.mark.parametrize(
        ("options", "fragment"),
        [
            ({"scale": {"channels": 3}}, "is of scale {'channels': 2}, not {'channels': 3}"),
            ({"space": NasBench201(), "scale": None}, "is of space morph-cnn(layers=3, max_width=8, min_width=1, stag"),
            ({"space": MorphCNN(stages=3, layers=3)}, "stages=2), not morph-cnn(layers=3, max_width=8, min_width=1, s"),
            (
                {"image_size": 6},
                "is of task {'channels': 1, 'height': 8, 'width': 8, 'classes': 2}, not {'channels': 1",
            ),
        ],
        ids=["scale", "space", "stages", "task"],
    )
    def test_of_something_else(
        self, data: str, tmp_path: Path, file: Path, options: dict[str, Any], fragment: str
    ) -> None:
        with pytest.raises(InputError) as caught:
            trainer(data, tmp_path, from_checkpoint=str(file), **options)
        assert fragment in str(caught.value) and str(file) in str(caught.value)

    @pytest.mark.parametrize("name", ["none.safetensors", "", ".", "a\0b", "x" * 5000])
    def test_no_file(self, data: str, tmp_path: Path, name: str) -> None:
        """Found without reading data."""
        with pytest.raises(InputError, match=r"^from_checkpoint: cannot read ") as caught:
            Train(SPACE, from_checkpoint=name)
        assert len(str(caught.value)) < 200

    def test_changed_or_no_checkpoint_at_all(self, data: str, tmp_path: Path, file: Path) -> None:
        def refused(message: str) -> None:
            with pytest.raises(InputError, match=message):
                trainer(data, tmp_path, from_checkpoint=str(file))

        rewrite(file, _flip)
        refused(r"best\.safetensors is damaged: its tensors were changed")
        rewrite(file, digest="")
        trainer(data, tmp_path, from_checkpoint=str(file))  # of a version that wrote none
        save_file(load_file(file), file)
        refused(r"best\.safetensors is no checkpoint of nastool")
        os.truncate(file, 1000)
        refused(r"best\.safetensors is damaged")
        torch.save({"weight": torch.zeros(3)}, file)
        refused(r"best\.safetensors is damaged")

    def test_its_content_is_what_a_run_is_about(self, tmp_path: Path) -> None:
        """Not its name."""
        for name, text in (("a", "1"), ("b", "1"), ("c", "2")):
            (tmp_path / name).write_text(text)

        def resolved(name: str | None) -> Any:
            path = None if name is None else str(tmp_path / name)
            options = {"recipe": None, "data": "digits", "epochs": None, "batch_size": None, "lr": None}
            return Train.resolved({**options, "from_checkpoint": path})

        assert resolved("a") == resolved("b") != resolved("c")
        assert "from_checkpoint" not in resolved(None)
        assert "from_checkpoint" in Train.local_options

    def test_by_the_command_line(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """One epoch more of a network that has learnt its digits."""
        options: dict[str, Any] = {"scale": {"channels": 8}, "batch_size": 32, "train_size": 600, "epochs": 8}
        evaluator = trainer("digits", tmp_path, recipe="morphism-digits", **options)
        learnt = train(evaluator, arch=WIDER).metrics["val_acc"]
        assert learnt > 0.85
        command = ["eval", json.dumps(archfile.to_json(SPACE, WIDER)), "--epochs", "1"]
        command += ["--data", "digits", "-E", "train_size=600", "--scale", "channels=8", "--device", "cpu"]
        command += ["-E", "lr=0.001", "--from-checkpoint", str(weights_of(evaluator))]
        (line,) = in_this_process(tmp_path, *command, trains=True).accepted()
        metrics = line["metrics"]
        assert metrics["val_acc"] > learnt - 0.03
        scratch = trainer("digits", tmp_path, recipe="digits", **{**options, "epochs": 1, "lr": 0.001})
        assert train(scratch, arch=WIDER, inherit=False).metrics["val_acc"] < 0.5


class TestFiles:
    def test_names(self) -> None:
        path = Path("a") / checkpoints.name_of(12)
        assert path == Path("a/checkpoints/trial-000012.safetensors")
        assert checkpoints.optimizer_of(path).name == "trial-000012.optimizer.safetensors"
        assert checkpoints.predictions_of(path).name == "trial-000012.predictions.safetensors"

    def test_a_digest_is_of_names_types_shapes_and_numbers(self) -> None:
        a, b = torch.arange(6.0), torch.ones(2, 3)
        first = checkpoints.digest({"a": a, "b": b})
        assert len(first) == 32
        assert checkpoints.digest({"b": b.clone(), "a": a.clone()}) == first
        assert checkpoints.digest({"a": a, "b": torch.ones(3, 2).T}) == first, "whatever its layout in memory"
        others: list[dict[str, Tensor]] = [
            {"a": a},
            {"a": a, "c": b},
            {"a": b, "b": a},
            {"a": a.view(2, 3), "b": b},
            {"a": a.double(), "b": b},
            {"a": a, "b": b + torch.eye(2, 3) * 1e-6},
            {},
        ]
        found = {checkpoints.digest(other) for other in others}
        assert len(found) == len(others) and first not in found

    def test_a_digest_is_of_what_is_written(self, tmp_path: Path) -> None:
        tensors = {"half": torch.rand(3).bfloat16(), "count": torch.tensor(3), "nothing": torch.zeros(0)}
        checkpoints.write(tmp_path / "a.safetensors", tensors, {"half": torch.rand(3).half()}, {"more": "x"})
        for path in (tmp_path / "a.safetensors", tmp_path / "a.optimizer.safetensors"):
            with safe_open(path, "pt") as file:
                assert file.metadata()["digest"] == checkpoints.digest(load_file(path))

    @pytest.mark.parametrize("full", [1, 2], ids=["momentum", "weights"])
    @pytest.mark.parametrize("existing", [False, True])
    def test_a_full_disk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: int, existing: bool) -> None:
        """Nothing is left where there was nothing, and nothing half written in any case."""
        path = tmp_path / "checkpoints" / "a.safetensors"
        tensors = {"weight": torch.rand(3)}
        if existing:
            checkpoints.write(path, tensors, tensors, {})
        written = 0

        def fsync(_: int) -> None:
            nonlocal written
            written += 1
            if written == full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(CannotGoOn) as caught:
            checkpoints.write(path, {"weight": torch.rand(3)}, {"weight": torch.rand(3)}, {})
        assert str(caught.value) == (
            f"cannot write checkpoint {path}: No space left on device; "
            "free some space, then give the same command again"
        )
        names = [file.name for file in sorted(path.parent.iterdir())]
        assert names == (["a.optimizer.safetensors", "a.safetensors"] if existing else [])

    def test_a_folder_that_cannot_be_made(self, tmp_path: Path) -> None:
        (tmp_path / "checkpoints").write_text("mine")
        with pytest.raises(CannotGoOn, match="cannot write checkpoint"):
            checkpoints.write(tmp_path / checkpoints.name_of(0), {}, {}, {})
        assert (tmp_path / "checkpoints").read_text() == "mine"

    def test_remove(self, tmp_path: Path) -> None:
        for number in (1, 2):
            path = tmp_path / checkpoints.name_of(number)
            path.parent.mkdir(exist_ok=True)
            for file in (path, checkpoints.optimizer_of(path), checkpoints.predictions_of(path)):
                file.touch()
        checkpoints.remove(path)
        checkpoints.remove(path)
        assert {file.name[:11] for file in path.parent.iterdir()} == {"trial-00000"}
        assert len(list(path.parent.iterdir())) == 3 and not path.exists()

    def test_a_scale_with_all_its_fields(self, data: str, tmp_path: Path) -> None:
        """A space whose networks have got another knob since is another scale."""
        evaluator = trainer(data, tmp_path)
        train(evaluator)

        @dataclasses.dataclass(frozen=True)
        class More:
            channels: int = 2
            cells: int = 1

        with pytest.raises(InputError, match=r"is of scale \{'channels': 2\}, not \{'channels': 2, 'cells': 1\}"):
            checkpoints.read(weights_of(evaluator), SPACE, More(), evaluator.task)
