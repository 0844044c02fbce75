"""nastool.evaluators.train: training from scratch, on tiny data."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from nastool.core import registry
from nastool.core.errors import CannotGoOn, InputError, TrialFailed
from nastool.core.recipe import Recipe
from nastool.core.space import Choose, SearchSpace
from nastool.core.values import Decision, Evaluation, Proposal
from nastool.engine.store import Store
from nastool.ensembles import metrics, stored
from nastool.evaluators.train import Train
from nastool.nets import checkpoints, devices
from nastool.nets.blocks import DropPath, GlobalPool, Residual
from nastool.nets.networks import build
from nastool.spaces.cell_cnn import CellCNN
from nastool.spaces.nasbench201 import NasBench201
from nastool.tasks.images.task import ImageTask
from nastool.testing.spaces import task_of
from nastool.training import evaluator as module
from nastool.training.loop import Training, seeds
from nastool.training.recipes import load_recipe
from tests.helpers.running import Run

SPACE = NasBench201()
CELL = SPACE.from_string("|nor_conv_3x3~0|+|none~0|nor_conv_1x1~1|+|skip_connect~0|avg_pool_3x3~1|nor_conv_3x3~2|")
SMALL = {"channels": 4, "cells": 1}
Reports = list[tuple[int, dict[str, float]]]


pytestmark = pytest.mark.usefixtures("one_thread")


def separable(n: int, seed: int, side: int = 8, channels: int = 1) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Noise, brighter in the upper or the lower half: two classes."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 150, (n, channels, side, side), dtype=np.uint8)
    y = np.arange(n) % 2
    for image, label in zip(x, y, strict=True):
        image[:, label * side // 2 :][:, : max(1, side // 2)] += 60
    return x, y


def npz(path: Path, side: int = 8, channels: int = 1, test_seed: int = 2, n: int = 80) -> str:
    arrays: dict[str, NDArray[Any]] = {}
    for part, count, seed in (("train", n, 0), ("val", 40, 1), ("test", 30, test_seed)):
        arrays[f"x_{part}"], arrays[f"y_{part}"] = separable(count, seed, side, channels)
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return f"npz:{path}"


@pytest.fixture
def data(tmp_path: Path) -> str:
    return npz(tmp_path / "tiny.npz")


def trainer(data: str, **options: Any) -> Train:
    defaults: dict[str, Any] = {"scale": SMALL, "device": "cpu", "epochs": 2, "batch_size": 16}
    return Train(SPACE, data=data, **(defaults | options))


def run(evaluator: Train, seed: int = 0, budget: float | None = None, trial: int = 0) -> tuple[Evaluation, Reports]:
    reports: Reports = []
    evaluation = evaluator.evaluate(
        trial,
        Proposal(CELL, budget=budget),
        seed=seed,
        report=lambda step, metrics: reports.append((step, dict(metrics))),
    )
    return evaluation, reports


# --- what is measured


def test_learns_and_reports_every_epoch(data: str) -> None:
    evaluation, reports = run(trainer(data, epochs=6))
    assert evaluation.metrics["val_acc"] >= 0.9
    assert [step for step, _ in reports] == [1, 2, 3, 4, 5, 6]
    assert all(set(metrics) == {"val_acc", "val_loss", "train_loss"} for _, metrics in reports)
    last = reports[-1][1]
    assert evaluation.metrics["val_acc"] == last["val_acc"] and evaluation.metrics["val_loss"] == last["val_loss"]
    assert last["train_loss"] < reports[0][1]["train_loss"]
    assert 0 < evaluation.seconds < 60 and evaluation.checkpoint is None


def test_the_best_of_the_last_epochs_counts(data: str, tmp_path: Path) -> None:
    """One metric by one; the weights are the last epoch's all the same."""
    (tmp_path / "r.yaml").write_text("epochs: 7\nbest_of: 4\nlr: 0.5\nschedule: constant\ngrad_clip: 0")
    evaluation, reports = run(trainer(data, recipe=str(tmp_path / "r.yaml"), epochs=None))
    last = [metrics for _, metrics in reports[3:]]
    assert evaluation.metrics["val_acc"] == max(metrics["val_acc"] for metrics in last)
    assert evaluation.metrics["val_loss"] == min(metrics["val_loss"] for metrics in last)
    assert evaluation.metrics["val_loss"] < last[-1]["val_loss"]


def test_the_evaluator_takes_every_option_of_the_data(tmp_path: Path) -> None:
    """Each on its own; what is not there is said by the data themselves."""
    given: dict[str, Any] = {
        "data_dir": str(tmp_path),
        "download": False,
        "split_seed": 1,
        "val_fraction": 0.2,
        "train_size": 50,
    }
    given |= {"image_size": 14, "max_gigabytes": 1.0, "all_data": True, "predict": "classes", "balance": "weigh"}
    assert given.keys() == ImageTask.data_options
    for name in given.keys() - {"all_data"}:
        Train(NasBench201(), data="mnist", **{name: given[name]})
    with pytest.raises(InputError, match=f"mnist is not in {tmp_path}"):
        Train(NasBench201(), data="mnist", data_dir=str(tmp_path)).prepare()


def test_digits_in_two_epochs() -> None:
    evaluator = Train(SPACE, scale={"channels": 8, "cells": 1}, device="cpu", epochs=2)
    assert run(evaluator)[0].metrics["val_acc"] > 0.5  # chance: 0.1


def test_params_and_flops(tmp_path: Path) -> None:
    """All-skip cell, 3 channels, published scale: 73,306 parameters for 10 classes, 8 x 65 fewer for 2."""
    skip = SPACE.arch([1] * 6)
    evaluator = trainer(npz(tmp_path / "c.npz", channels=3), scale=None, epochs=1, train_size=16)
    metrics = evaluator.evaluate(0, Proposal(skip), seed=0, report=lambda *_: None).metrics
    assert metrics["params"] == 73_306 - 8 * 65
    stem, pixels = 3 * 16 * 9, 8 * 8
    blocks = sum((c * 2 * c * 9 + 4 * c * c * 9 + c * 2 * c) * pixels // down for c, down in ((16, 4), (32, 16)))
    assert metrics["flops"] == 2 * (stem * pixels + blocks + 64 * 2)
    assert set(metrics) == {"val_acc", "val_loss", "params", "flops"}


def test_the_same_arguments_give_the_same_bits(data: str, tmp_path: Path) -> None:
    results = []
    for number in range(2):
        torch.manual_seed(number)  # the global generator must not matter
        torch.rand(number)
        evaluator = trainer(data)
        evaluator.workdir = tmp_path / str(number)
        evaluation, reports = run(evaluator, seed=5)
        assert evaluation.checkpoint is not None
        weights = load_file(evaluator.workdir / evaluation.checkpoint)
        results.append((evaluation.metrics, reports, {key: w.numpy().tobytes() for key, w in weights.items()}))
    assert results[0] == results[1]
    again, _ = run(evaluator, seed=5)  # whatever this instance did before
    assert again.metrics == results[0][0]


def test_seeds_differ_and_the_global_generator_is_left_alone(data: str) -> None:
    evaluator = trainer(data)
    before = torch.get_rng_state()
    losses = {run(evaluator, seed)[0].metrics["val_loss"] for seed in (0, 1, 2**63 - 1)}
    assert len(losses) == 3
    assert torch.equal(before, torch.get_rng_state())


def test_the_loop_is_sgd_by_the_recipe(tmp_path: Path, data: str) -> None:
    """The same training written out with PyTorch's optimiser, without nastool's batches and schedule."""
    path = tmp_path / "r.yaml"
    path.write_text(
        "{epochs: 2, batch_size: 20, lr: 0.2, warmup_epochs: 0, crop_padding: 0, label_smoothing: 0.1, "
        "grad_clip: 0.5, weight_decay: 0.01, final_lr: 0.02}"
    )
    evaluator = Train(SPACE, data=data, recipe=str(path), scale=SMALL, device="cpu")
    _, reports = run(evaluator, seed=3)

    with np.load(data.removeprefix("npz:")) as file:
        arrays = dict(file)
    mean, std = arrays["x_train"].mean() / 255, arrays["x_train"].std() / 255
    x, x_val = (torch.from_numpy((arrays[k] / 255 - mean) / std).float() for k in ("x_train", "x_val"))
    y, y_val = (torch.from_numpy(arrays[k]) for k in ("y_train", "y_val"))
    initial, _, order_seed = seeds(3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(initial)
        network = build(SPACE, CELL, ImageTask(1, 8, 8, 2), NasBench201.Scale(**SMALL))
    generator = torch.Generator().manual_seed(order_seed)
    optimizer = torch.optim.SGD(network.parameters(), 1, momentum=0.9, nesterov=True, weight_decay=0.01, fused=False)
    for epoch in range(2):
        order = torch.randperm(80, generator=generator)
        losses = []
        network.train()
        for step in range(4):
            progress = (epoch * 4 + step) / 8
            optimizer.param_groups[0]["lr"] = 0.02 + 0.18 * (1 + np.cos(np.pi * progress)) / 2
            batch = order[step * 20 : step * 20 + 20]
            loss = cross_entropy(network(x[batch]), y[batch], label_smoothing=0.1)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(network.parameters(), 0.5)
            optimizer.step()
            losses.append(loss.item())
        network.eval()
        with torch.no_grad():
            logits = network(x_val)
        measured = reports[epoch][1]
        assert measured["train_loss"] == pytest.approx(np.mean(losses), rel=1e-3)
        assert measured["val_loss"] == pytest.approx(cross_entropy(logits, y_val).item(), rel=1e-3)
        assert measured["val_acc"] == pytest.approx((logits.argmax(1) == y_val).float().mean().item(), abs=0.03)


def test_an_auxiliary_classifier_that_is_not_trained(data: str) -> None:
    """As in ENAS' code; the network before it learns from it all the same."""
    space = CellCNN(blocks=1)
    arch = space.sample(np.random.default_rng(0))
    found = {}
    for weight, trained in ((0.0, False), (0.4, False), (0.4, True)):
        evaluator = Train(space, data=data, epochs=1, batch_size=20, device="cpu", scale={**SMALL, "auxiliary": 1})
        evaluator.prepare()
        network = evaluator.build(arch, 0)
        before = {name: parameter.detach().clone() for name, parameter in network.named_parameters()}
        recipe = evaluator.recipe.replace(auxiliary_weight=weight, train_auxiliary=trained)
        training = evaluator.training(network, recipe, 0)
        list(training.epoch())
        assert set(training.memory()) == {name for name in before if trained or not name.startswith("auxiliary")}
        for name, parameter in network.named_parameters():
            if name.startswith("auxiliary"):
                assert torch.equal(parameter, before[name]) != trained or parameter.numel() == 1, name
        found[weight, trained] = network.get_parameter("stem.0.weight").detach().clone()
    assert not torch.equal(found[0.0, False], found[0.4, False])


# --- weight decay


def groups_of(network: nn.Module, **recipe: Any) -> dict[str, float]:
    """The weight decay of each parameter, by name."""
    nothing: Any = SimpleNamespace(steps=lambda batch_size: 1)
    training = Training(network, ImageTask(3, 8, 8, 2), nothing, Recipe(weight_decay=0.01, **recipe), torch.Generator())
    found = training.optimizer.decay
    assert found.keys() == dict(network.named_parameters()).keys()
    return found


@pytest.mark.parametrize("name", registry.plugins("space"))
def test_what_decays(name: str) -> None:
    """One rule for all spaces: weights of layers do, norms and biases by the recipe, anything else does not."""
    space = registry.load("space", name)()
    rng = np.random.default_rng(0)
    for _ in range(3):
        with torch.device("meta"):
            network = build(space, space.sample(rng), task_of(space), space.Scale())
        network = network.to_empty(device="cpu")
        as_published, without_norms = groups_of(network), groups_of(network, decay_norms=False)
        for module_name, layer in network.named_modules():
            for own, parameter in layer.named_parameters(recurse=False):
                key = f"{module_name}.{own}".lstrip(".")
                if key not in as_published:
                    assert parameter is network.get_parameter("embedding.weight"), "tied weights have one name"
                    continue
                weight = isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Linear | nn.Embedding) and own == "weight"
                share = own == "share"
                assert as_published[key] == (0 if share else 0.01), key
                assert without_norms[key] == (0.01 if weight else 0), (key, parameter.shape)


class Shared(SearchSpace):
    """A network with a share that the loss does not depend on, and one layer."""

    name = "shared"

    @dataclass(frozen=True)
    class Scale:
        pass

    def __init__(self) -> None:
        super().__init__([Decision("p", ("a", "b"))])

    def network(self, choose: Choose, task: ImageTask, scale: Any) -> nn.Module:
        class Network(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.share = nn.Parameter(torch.ones(3))
                self.layer = nn.Linear(task.channels * task.height * task.width, task.classes)

            def forward(self, x: Tensor) -> Tensor:
                out: Tensor = self.layer(x.flatten(1)) + 0 * self.share.sum()
                return out

        return Network()


def test_decay_leaves_shares_alone(data: str, tmp_path: Path) -> None:
    """Nothing else pulls at it: from 1 it goes to 0.22 in 17 epochs of decay alone, at a usual learning rate."""
    space = Shared()
    path = tmp_path / "r.yaml"
    path.write_text("{epochs: 5, weight_decay: 0.1}")
    evaluator = Train(space, data=data, recipe=str(path), device="cpu")
    evaluator.workdir = tmp_path
    evaluation = evaluator.evaluate(0, Proposal(space.arch([0])), seed=0, report=lambda step, metrics: None)
    assert evaluation.checkpoint is not None
    state = load_file(tmp_path / evaluation.checkpoint)
    assert torch.equal(state["share"], torch.ones(3))


class Dropping(SearchSpace):
    """A space whose networks draw random numbers while they are trained."""

    name = "dropping"

    @dataclass(frozen=True)
    class Scale:
        pass

    def __init__(self) -> None:
        super().__init__([Decision("p", ("0.3", "0.6"))])

    def network(self, choose: Choose, task: ImageTask, scale: Any) -> nn.Module:
        drop = choose.layer("p", {p: lambda p=p: nn.Dropout(float(p)) for p in ("0.3", "0.6")})  # type: ignore[misc]
        return nn.Sequential(nn.Flatten(), drop, nn.Linear(task.channels * task.height * task.width, task.classes))


def test_dropout_is_reproducible(data: str) -> None:
    space = Dropping()
    evaluator = Train(space, data=data, device="cpu", epochs=2)
    proposal = Proposal(space.arch([0]))
    runs = []
    for number in range(2):
        torch.manual_seed(number)
        runs.append(evaluator.evaluate(0, proposal, seed=1, report=lambda *_: None).metrics)
    assert runs[0] == runs[1]


@pytest.mark.parametrize(("side", "channels", "n"), [(1, 1, 16), (1, 5, 17), (3, 2, 3), (8, 1, 2)])
def test_any_input_size_and_number_of_images(side: int, channels: int, n: int, tmp_path: Path) -> None:
    evaluator = trainer(npz(tmp_path / "o.npz", side, channels, n=n))
    evaluation, reports = run(evaluator)
    assert len(reports) == 2 and 0 <= evaluation.metrics["val_acc"] <= 1


def test_cells_without_any_connection_can_be_trained(data: str) -> None:
    evaluator = trainer(data)
    nothing = Proposal(SPACE.arch([0] * 6))
    assert evaluator.evaluate(0, nothing, seed=0, report=lambda *_: None).metrics["val_acc"] == 0.5


def test_bf16_runs_and_is_not_fp32(data: str) -> None:
    full, _ = run(trainer(data, precision="fp32"))
    half, _ = run(trainer(data, precision="bf16"))
    assert half.metrics["val_loss"] != full.metrics["val_loss"]
    assert abs(half.metrics["val_loss"] - full.metrics["val_loss"]) < 0.5


# --- the test images


def test_evaluate_never_looks_at_test_images(data: str, tmp_path: Path) -> None:
    class Poison:
        def __getattribute__(self, name: str) -> Any:
            raise AssertionError(f"evaluate used the test images: {name}")

    other = npz(tmp_path / "other.npz", test_seed=99)
    first, _ = run(trainer(data))
    second, _ = run(trainer(other))
    assert first.metrics == second.metrics
    evaluator = trainer(data)
    evaluator.prepare()
    evaluator.test_batches = Poison()
    assert run(evaluator)[0].metrics == first.metrics


def test_test_measures_the_test_images(data: str, tmp_path: Path) -> None:
    evaluator = trainer(data, epochs=4)
    evaluator.workdir = tmp_path
    evaluation, _ = run(evaluator)
    tested = evaluator.test(Proposal(CELL), evaluation)
    assert evaluation.checkpoint is not None
    network = evaluator.load(CELL, evaluation.checkpoint).eval()
    x, y = separable(30, 2)
    mean, std = (evaluator.data.metadata()[name][0] for name in ("mean", "std"))
    with torch.no_grad():
        logits = network(torch.from_numpy(((x / 255) - mean) / std).float())
    assert tested["test_acc"] == (logits.argmax(1).numpy() == y).mean()
    assert tested["test_loss"] == pytest.approx(cross_entropy(logits, torch.from_numpy(y)).item(), rel=1e-4)
    assert tested == trainer_like(evaluator, data).test(Proposal(CELL), evaluation)


def trainer_like(evaluator: Train, data: str) -> Train:
    """Another instance on the same run folder, as in another process."""
    other = trainer(data)
    other.workdir = evaluator.workdir
    return other


def test_nothing_to_test_without_checkpoint_or_test_images(data: str, tmp_path: Path) -> None:
    evaluator = trainer(data)
    assert evaluator.test(Proposal(CELL), run(evaluator)[0]) == {}
    x, y = separable(2, 0)
    np.savez(tmp_path / "two.npz", x_train=x, y_train=y, x_val=x, y_val=y)
    small = trainer(f"npz:{tmp_path / 'two.npz'}")
    small.workdir = tmp_path
    assert small.test(Proposal(CELL), run(small)[0]) == {}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_test_images_are_attacked_and_shifted(data: str, tmp_path: Path, precision: str) -> None:
    found = {}
    for name, options in {
        "plain": {},
        "nothing": {"attack": "pgd:eps=0,steps=2"},
        "shifted": {"shift": "noise,contrast"},
        "both": {"attack": "pgd:eps=32/255,steps=3", "shift": "noise,contrast"},
    }.items():
        evaluator = trainer(data, epochs=4, precision=precision, **options)
        evaluator.workdir = tmp_path
        evaluation, _ = run(evaluator)
        found[name] = dict(evaluator.test(Proposal(CELL), evaluation))
    plain = found["plain"]
    assert found["nothing"] == plain | {f"test_robust_{name}": plain[f"test_{name}"] for name in ("acc", "loss")}
    assert found["both"]["test_robust_loss"] > plain["test_loss"] + 0.1
    assert {name: found["both"][name] for name in found["shifted"]} == found["shifted"]
    severities = [f"test_severity{severity}_{name}" for severity in range(1, 6) for name in ("acc", "loss")]
    kinds = [f"test_{kind}_{name}" for kind in ("shifted", "noise", "contrast") for name in ("acc", "loss")]
    assert sorted(found["shifted"]) == sorted([*plain, *severities, *kinds])


def test_networks_that_say_numbers_are_attacked(tmp_path: Path) -> None:
    x, y = separable(120, 0)
    np.savez(tmp_path / "numbers.npz", x_train=x, y_train=y + 0.5)
    evaluator = trainer(f"npz:{tmp_path / 'numbers.npz'}", attack="fgsm", shift="blur")
    evaluator.workdir = tmp_path
    tested = evaluator.test(Proposal(CELL), run(evaluator)[0])
    assert tested["test_robust_rmse"] > tested["test_rmse"] and "test_shifted_rmse" in tested


def test_without_test_images_none_are_attacked(tmp_path: Path) -> None:
    x, y = separable(2, 0)
    np.savez(tmp_path / "two.npz", x_train=x, y_train=y, x_val=x, y_val=y)
    with pytest.raises(InputError, match="attack and shift change test images, and these data have none"):
        trainer(f"npz:{tmp_path / 'two.npz'}", attack="fgsm").prepare()


# --- checkpoints


def test_a_checkpoint_reproduces_the_validation_exactly(data: str, tmp_path: Path) -> None:
    evaluator = trainer(data)
    evaluator.workdir = tmp_path
    evaluation, _ = run(evaluator, trial=12)
    assert evaluation.checkpoint == "checkpoints/trial-000012.safetensors"
    assert sorted(f.name for f in (tmp_path / "checkpoints").iterdir()) == [
        "trial-000012.predictions.safetensors", "trial-000012.safetensors",
    ]  # fmt: skip
    other = trainer_like(evaluator, data)
    other.prepare()
    measured = other.measure(other.load(CELL, evaluation.checkpoint), other.val_batches, "val")
    assert measured == {name: evaluation.metrics[name] for name in ("val_acc", "val_loss")}


def test_a_checkpoint_says_what_it_is(data: str, tmp_path: Path) -> None:
    evaluator = trainer(data)
    evaluator.workdir = tmp_path
    evaluation, _ = run(evaluator)
    with safe_open(tmp_path / str(evaluation.checkpoint), "pt") as file:
        metadata: Mapping[str, str] = file.metadata()
        dtypes = {key: file.get_tensor(key).dtype for key in file.keys()}
    assert json.loads(metadata["arch"])["choices"]["1<-0"] == "nor_conv_3x3"
    assert json.loads(metadata["scale"]) == SMALL
    assert json.loads(metadata["task"]) == {"channels": 1, "height": 8, "width": 8, "classes": 2}
    assert json.loads(metadata["classes"]) == ["0", "1"]
    assert json.loads(metadata["mean"]) == pytest.approx(evaluator.data.metadata()["mean"])
    assert re.fullmatch(r"\d+\.\d+\.\d+.*", metadata["nastool"])
    assert {dtype for key, dtype in dtypes.items() if not key.endswith("num_batches_tracked")} == {torch.float32}


@pytest.mark.parametrize("existing", [True, False])
def test_a_full_disk(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: bool) -> None:
    evaluator = trainer(data, epochs=1)
    evaluator.workdir = tmp_path / "run"
    path = tmp_path / "run/checkpoints/trial-000000.safetensors"
    if existing:
        path.parent.mkdir(parents=True)
        path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CannotGoOn) as caught:
        run(evaluator)
    assert str(caught.value) == (
        f"cannot write checkpoint {path}: No space left on device; free some space, then give the same command again"
    )
    assert [f.read_bytes() for f in path.parent.iterdir()] == ([b"old"] if existing else [])


def test_checkpoints_that_do_not_load(data: str, tmp_path: Path) -> None:
    evaluator = trainer(data)
    evaluator.workdir = tmp_path
    evaluation, _ = run(evaluator)
    path = tmp_path / str(evaluation.checkpoint)
    with pytest.raises(InputError, match=r"trial-000000\.safetensors is of another architecture or scale than asked"):
        evaluator.test(Proposal(SPACE.arch([1] * 6)), evaluation)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=r"trial-000000\.safetensors is damaged: evaluate the architecture again"):
        evaluator.test(Proposal(CELL), evaluation)
    path.unlink()
    with pytest.raises(InputError, match=r"no checkpoint .*trial-000000\.safetensors: evaluate the arch"):
        evaluator.test(Proposal(CELL), evaluation)


# --- failures


def test_a_diverging_training_fails_the_trial(data: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("{lr: 1000, grad_clip: 0, warmup_epochs: 0, schedule: constant, weight_decay: 1, batch_size: 16}")
    evaluator = trainer(data, recipe=str(path), epochs=50)
    evaluator.workdir = tmp_path
    with pytest.raises(
        TrialFailed, match=r"^diverged: (training|validation) loss is (nan|inf) in epoch \d+; lower lr$"
    ):
        run(evaluator)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(("poisoned", "what"), [("train_batches", "training"), ("val_batches", "validation")])
def test_which_loss_is_not_finite(data: str, poisoned: str, what: str) -> None:
    evaluator = trainer(data)
    evaluator.prepare()
    getattr(evaluator, poisoned)._shift = torch.full((1, 1, 1, 1), float("nan"))
    with pytest.raises(TrialFailed, match=f"^diverged: {what} loss is nan in epoch 1; lower lr$"):
        run(evaluator)


def test_out_of_memory(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    evaluator = trainer(data)
    monkeypatch.setattr(evaluator, "_fit", fail)
    with pytest.raises(TrialFailed, match=r"^out of memory with batch_size 16; lower it, or the scale$"):
        run(evaluator)


class WithoutNorms(SearchSpace):
    """Networks that drop out and drop paths, and have no batch normalisation."""

    name = "without-norms"

    @dataclass(frozen=True)
    class Scale:
        pass

    def __init__(self) -> None:
        super().__init__([Decision("width", ("4", "8"))])

    def network(self, choose: Choose, task: ImageTask, scale: Any) -> nn.Module:
        def body(width: int) -> nn.Module:
            path = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.Dropout(0.0), DropPath(1.0))
            first = nn.Conv2d(task.channels, width, 3, padding=1)
            return nn.Sequential(first, Residual(path, nn.Identity()), GlobalPool(), nn.Linear(width, task.classes))

        return choose.layer("width", {n: lambda n=n: body(int(n)) for n in ("4", "8")})  # type: ignore[misc]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("parts", [2, 3, 16])
def test_a_split_batch_is_the_same_step(data: str, device: str, parts: int, one_thread: None) -> None:
    """Without batch normalisation, all is the same up to rounding: draws, gradients, losses, what is drawn later."""
    space = WithoutNorms()
    found = []
    for micro_batches in (1, parts):
        evaluator = Train(space, data=data, device=device, precision="fp32", batch_size=13)
        evaluator.prepare()
        evaluator.micro_batches = micro_batches
        recipe = evaluator.recipe.replace(epochs=2)
        with evaluator.reproducible(3):
            network = evaluator.build(space.arch([1]), 3)
            more: dict[str, Any] = {"dropout": 0.3, "drop_path": 0.4, "grad_clip": 1.0, "crop_padding": 1, "flip": True}
            training = evaluator.training(network, dataclasses.replace(recipe, **more), seed=3)
            losses = [loss.item() for _ in range(2) for loss in training.epoch()]
            after = torch.rand(3, device=device)
        found.append((losses, torch.cat([p.detach().flatten() for p in network.parameters()]), after))
        assert not any(part._forward_hooks or part._forward_pre_hooks for part in network.modules())
    whole, split = found
    assert len(whole[0]) > 4 and whole[0] == pytest.approx(split[0], rel=1e-5)
    assert torch.allclose(whole[1], split[1], rtol=1e-4, atol=1e-6)
    assert torch.equal(whole[2], split[2])


def test_an_evaluation_in_parts_says_so(data: str) -> None:
    evaluator = trainer(data)
    whole = run(evaluator)[0].metrics
    assert evaluator.max_micro_batches == 8
    evaluator.micro_batches = 4
    parts = run(evaluator)[0].metrics
    assert parts.keys() - whole.keys() == {"micro_batches"} and parts["micro_batches"] == 4
    evaluator.micro_batches = 1
    assert run(evaluator)[0].metrics == whole


# --- options


def test_budget_is_epochs(data: str) -> None:
    evaluator = trainer(data, epochs=2)
    assert "budget" in Train.provides
    assert len(run(evaluator, budget=3.0)[1]) == 3
    assert len(run(evaluator)[1]) == 2
    assert run(evaluator, budget=2)[0].metrics == run(evaluator)[0].metrics


@pytest.mark.parametrize("budget", [0, 0.5, 2.5, -1, float("nan"), float("inf")])
def test_bad_budgets(data: str, budget: float) -> None:
    with pytest.raises(InputError, match=rf"^budget: need a whole number of epochs >= 1, got {budget}$"):
        run(trainer(data), budget=budget)


def _append(reports: Reports, step: int, metrics: Mapping[str, float]) -> None:
    reports.append((step, dict(metrics)))


@pytest.mark.parametrize("recipe", [{}, {"drop_path": 0.3, "dropout": 0.2}, {"average_after": 1}], ids=str)
def test_a_training_in_parts_is_the_training(data: str, tmp_path: Path, recipe: dict[str, Any]) -> None:
    """Weights, reports and metrics are those of a training that never paused, also where a part was begun twice."""
    evaluator = trainer(data, epochs=6)
    evaluator.recipe = evaluator.recipe.replace(**recipe)
    evaluator.workdir = tmp_path / "whole"
    whole, reports = run(evaluator, seed=5)
    evaluator.workdir = tmp_path / "parts"
    found: Reports = []
    for trial, (fidelity, source) in enumerate([(1, None), (2, 0), (2, 0), (4, 2), (None, 3)]):
        part: Reports = []
        proposal = Proposal(CELL, fidelity=fidelity, continues=source)
        evaluation = evaluator.evaluate(trial, proposal, seed=5 + trial, report=partial(_append, part))
        assert (evaluation.checkpoint is None) == (fidelity is not None) == bool(evaluation.artifacts)
        assert evaluation.metrics["val_acc"] == part[-1][1]["val_acc"]
        found += part if trial != 1 else []
    assert [step for step, _ in found] == [1, 2, 3, 4, 5, 6]
    assert found == reports
    assert evaluation.metrics == whole.metrics
    assert whole.checkpoint is not None and evaluation.checkpoint is not None
    one = load_file(tmp_path / "whole" / whole.checkpoint)
    other = load_file(tmp_path / "parts" / evaluation.checkpoint)
    assert all(torch.equal(one[name], other[name]) for name in one.keys() | other.keys())


def test_a_training_goes_on_from_what_is_there_alone(data: str, tmp_path: Path) -> None:
    evaluator = trainer(data, epochs=3)
    evaluator.workdir = tmp_path
    evaluator.evaluate(0, Proposal(CELL, fidelity=1), seed=0, report=lambda step, metrics: None)
    other = SPACE.from_string("|nor_conv_3x3~0|+|none~0|none~1|+|skip_connect~0|avg_pool_3x3~1|nor_conv_3x3~2|")
    with pytest.raises(CannotGoOn, match=r"paused.safetensors is damaged or of another training"):
        evaluator.evaluate(1, Proposal(other, continues=0), seed=0, report=lambda step, metrics: None)
    found: Reports = []
    anew = evaluator.evaluate(2, Proposal(CELL, continues=7), seed=3, report=partial(_append, found))
    assert [step for step, _ in found] == [1, 2, 3], "what was not kept is trained anew"
    assert run(trainer(data, epochs=3), seed=3)[0].metrics == anew.metrics


@pytest.mark.parametrize("fidelity", [0.5, 1.5, 2, 3])
def test_bad_fidelities(data: str, fidelity: float) -> None:
    with pytest.raises(InputError, match="fidelity: need a whole number of epochs from 1 to 1"):
        trainer(data).evaluate(0, Proposal(CELL, fidelity=fidelity), seed=0, report=lambda step, metrics: None)


def test_recipe_and_what_overrides_it(tmp_path: Path) -> None:
    assert Train(SPACE).recipe == load_recipe("digits")
    assert Train(SPACE, data="cifar10").recipe == load_recipe("cifar10-quick")
    changed = Train(SPACE, recipe="nasbench201", epochs=3, batch_size=9, lr=0.3).recipe
    assert changed == load_recipe("nasbench201").replace(epochs=3, batch_size=9, lr=0.3)
    (tmp_path / "r.yaml").write_text("epochs: 7")
    assert Train(SPACE, recipe=str(tmp_path / "r.yaml")).recipe.epochs == 7


def test_scale() -> None:
    assert Train(SPACE).scale == NasBench201.Scale()
    assert Train(SPACE, scale={"cells": 2}).scale == NasBench201.Scale(16, 2)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": "digit"}, "no data set 'digit'; did you mean 'digits'?"),
        ({"val_fraction": 2.0}, "need 0 < val_fraction < 1, got 2.0"),
        ({"recipe": "digit"}, "no recipe 'digit'; did you mean 'digits'?"),
        ({"epochs": 0}, "epochs: need a whole number from 1 to 100000, got 0"),
        ({"batch_size": 1}, "batch_size: need a whole number from 2 to 65536, got 1"),
        ({"lr": -1.0}, "lr: need a number from 1e-09 to 1000, got -1.0"),
        ({"scale": {"chanels": 8}}, "scale of space nasbench201 has no option 'chanels'; did you mean 'channels'?"),
        ({"scale": {"zzz": 8}}, "scale of space nasbench201 has no option 'zzz'; there are channels, cells"),
        ({"scale": {"cells": 0}}, "scale of space nasbench201: need 1 <= cells <= 10,000, got 0"),
        ({"scale": {"cells": True}}, "scale of space nasbench201: option cells must be int, got True"),
        ({"device": "gpu"}, "device: need auto, cpu, cuda or cuda:N, got 'gpu'"),
        ({"precision": "fp8"}, "precision: need auto, fp32, tf32 or bf16, got 'fp8'"),
        ({"attack": "fgsn"}, "no attack fgsn; did you mean 'fgsm'?"),
        ({"shift": "fog"}, "no shift 'fog'; there are noise, blur, contrast, brightness, all"),
    ],
)
def test_the_constructor_checks(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as caught:
        Train(SPACE, **options)
    assert str(caught.value).startswith(message)


def test_the_constructor_reads_no_data_and_imports_no_torch() -> None:
    evaluator = Train(SPACE, data="npz:/nowhere.npz")
    with pytest.raises(InputError, match=r"cannot read /nowhere\.npz"):
        evaluator.prepare()
    code = (
        "import sys; from nastool.evaluators.train import Train; "
        "from nastool.spaces.nasbench201 import NasBench201; Train(NasBench201()); "
        "print('torch' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"


def test_describe_and_estimate(data: str) -> None:
    evaluator = trainer(data)
    evaluator.prepare()
    facts = evaluator.describe()
    assert facts["device"] == "cpu, 1 threads" and facts["precision"] == "fp32"
    assert (facts["train_images"], facts["val_images"], facts["test_images"]) == (80, 40, 30)
    assert facts["images"] == "1x8x8, 2 classes"
    before = torch.get_rng_state()
    short, long = (evaluator.estimate(Proposal(CELL, budget=budget)) for budget in (1, 1000))
    assert short is not None and long is not None and 0 < 10 * short < long
    assert torch.equal(before, torch.get_rng_state())


def test_the_estimate_is_of_warm_steps_whatever_an_epoch_has(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it has one step, as with few images: that step alone would be the first, which takes longer."""
    clock = iter([0.0, 0.0, *np.arange(10.0, 11.3, 0.25), *np.arange(20.0, 21.6, 0.5), *[30.0] * 100])
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    evaluator = trainer(data, epochs=7, batch_size=4096)
    found = evaluator.estimate(Proposal(CELL))
    assert found == pytest.approx(7 * (1 * 0.25 + 0.5))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_on_a_gpu(data: str, tmp_path: Path, precision: str) -> None:
    evaluator = trainer(data, device="cuda", precision=precision, epochs=4)
    evaluator.workdir = tmp_path
    first, _ = run(evaluator, seed=1)
    assert run(evaluator, seed=1)[0].metrics == first.metrics
    assert first.metrics["val_acc"] >= 0.8
    network = evaluator.load(CELL, str(first.checkpoint))
    assert evaluator.measure(network, evaluator.val_batches, "val") == {
        name: first.metrics[name] for name in ("val_acc", "val_loss")
    }
    assert set(evaluator.test(Proposal(CELL), first)) == {"test_acc", "test_loss"}


# --- threads


def test_threads_are_no_more_than_the_machine_has_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(devices, "usable_cores", lambda: 8)
    for load, workers, most in ((0.0, 1, "8"), (0.1, 2, "4"), (5.2, 1, "3"), (5.2, 2, "1"), (30.0, 1, "1")):
        monkeypatch.setattr("os.getloadavg", lambda load=load: (load, 0.0, 0.0))
        found = devices.slots(workers, "cpu")
        assert [slot["OMP_NUM_THREADS"] for slot in found] == [most] * workers
        assert [slot.get(devices.MOST_THREADS, "1") for slot in found] == [most] * workers
    assert devices.slots(1, "cpu", threads=5) == [{"OMP_NUM_THREADS": "5"}], "as the run began"
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert devices.slots(1, "cpu", threads=5) == [{}], "the user's own"


@pytest.mark.parametrize("seconds, chosen", [({1: 0.25, 2: 1.5, 3: 2.0}, 1), ({1: 1.5, 2: 0.52, 3: 0.5}, 2)])
def test_the_quicker_number_of_threads_is_taken(
    monkeypatch: pytest.MonkeyPatch, one_thread: None, seconds: dict[int, float], chosen: int
) -> None:
    monkeypatch.setattr(module, "_median_step", lambda steps: seconds[torch.get_num_threads()])
    evaluator = Train(NasBench201(), data="digits", train_size=50, scale={"channels": 2, "cells": 1}, device="cpu")
    evaluator.prepare()
    facts = evaluator.choose_threads(3)
    assert facts["threads"] == torch.get_num_threads() == chosen
    assert "ms with 1" in str(facts["steps"])


def test_a_run_goes_on_with_its_threads(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the machine has free by then, so that sums are rounded as before."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(devices, "free_cores", lambda: 2)
    command = ["search", "-s", "random", "--data", "digits", "--epochs", "1", "-E", "train_size=50", "--device", "cpu"]
    command += ["--scale", "channels=2,cells=1", "--out", "a"]
    first = run(*command, "-n", "1")
    assert first.code == 0, first
    with Store.read(Path("a/run.db")) as store:
        chosen = store.get("threads")
    assert chosen in (1, 2) and f"threads {chosen}  steps " in first.err
    with Store.open(Path("a/run.db")) as store:
        store.begin()
        store.put("threads", 2)
        store.commit()
    monkeypatch.setattr(devices, "free_cores", lambda: 1)
    given: list[dict[str, str]] = []
    slots = devices.slots

    def kept(*arguments: Any) -> list[dict[str, str]]:
        given.extend(slots(*arguments))
        return given

    monkeypatch.setattr(devices, "slots", kept)
    assert "note: a began with" not in run(*command, "-n", "2").err
    assert given == [{"OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": ""}] or given == [{"OMP_NUM_THREADS": "2"}]
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert "note: a began with 2 threads a worker; with OMP_NUM_THREADS=1 " in run(*command, "-n", "3").err


# --- what ensembles are chosen by


class TestPredictions:
    @pytest.fixture
    def beside(self, tmp_path: Path) -> Path:
        return checkpoints.predictions_of(tmp_path / checkpoints.name_of(0))

    def test_are_those_that_were_measured(self, data: str, tmp_path: Path, beside: Path) -> None:
        evaluator = trainer(data, epochs=3, split_seed=7)
        evaluator.workdir = tmp_path
        evaluation, _ = run(evaluator, seed=11)
        assert evaluation.checkpoint is not None and beside.is_file()
        found = stored.read(tmp_path / evaluation.checkpoint)
        assert found.probabilities.shape == (40, 2)
        assert metrics.accuracy(found.probabilities, found.labels) == evaluation.metrics["val_acc"]
        assert metrics.nll(found.probabilities, found.labels) == pytest.approx(evaluation.metrics["val_loss"], rel=1e-3)
        assert found.about["seed"] == "11" and found.about["data"] == data
        assert found.about["fingerprint"] == evaluator.data.fingerprint
        assert stored.options(found.about) == {"split_seed": 7}
        bare, _ = run(trainer(data, epochs=3, split_seed=7), seed=11)  # without a folder nothing is kept
        assert bare.metrics == evaluation.metrics and bare.notes == evaluation.notes != {}

    def test_are_left_out_where_that_is_asked_for_or_they_are_large(
        self, data: str, tmp_path: Path, beside: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(stored, "MOST", stored.size(40, 2) - 1)
        for given, there in ((None, False), (False, False), (True, True)):
            evaluator = trainer(data, epochs=1, predictions=given)
            evaluator.workdir = tmp_path
            run(evaluator)
            assert beside.is_file() is there

    def test_numbers_are_none(self, tmp_path: Path) -> None:
        rng = np.random.default_rng(0)
        x, y = rng.integers(0, 255, (80, 1, 8, 8), dtype=np.uint8), rng.random(80)
        np.savez(tmp_path / "numbers.npz", x_train=x, y_train=y, x_test=x[:30], y_test=y[:30])
        named = f"npz:{tmp_path / 'numbers.npz'}"
        evaluator = trainer(named, epochs=1)
        evaluator.workdir = tmp_path
        run(evaluator)
        assert [each.name for each in (tmp_path / "checkpoints").iterdir()] == ["trial-000000.safetensors"]
        with pytest.raises(InputError, match=r"predictions: networks for .* say no classes; leave it out"):
            trainer(named, predictions=True).prepare()

    def test_do_not_make_it_another_search(self) -> None:
        assert "predictions" in Train.local_options
        assert registry.resolve("evaluator", "train", {})[1]["predictions"] is None
