"""Every space on a CUDA device: the CPU's results, and nothing that makes the host wait within a step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import yaml

from nastool.core import registry
from nastool.core.space import SearchSpace
from tests.helpers import fake_cuda as fake

if TYPE_CHECKING:
    from tests.helpers.fake_cuda.shadow import Shadow

pytestmark = pytest.mark.gpu
SMALL: dict[str, dict[str, Any]] = {
    "cell-cnn": {"blocks": 2},
    "macro-cnn": {"layers": 4},
    "recurrent-cell": {"nodes": 3},
    "recurrent-tree": {"base": 2},
}


TORCH_S_OWN = {"stacked-rnn"}
"""Spaces of torch's own recurrent layers, whose kernels for a GPU fake devices do not have."""


def spaces(provides: str) -> list[str]:
    own = [name for name, plugin in registry.plugins("space").items() if plugin.owner == "nastool"]
    own = [name for name in own if not fake.active() or name not in TORCH_S_OWN]
    return [name for name in own if provides in registry.load("space", name).provides]


@cache
def data_for(space: SearchSpace) -> dict[str, Any]:
    """Data that its networks are for, which are hardly augmented."""
    if "images" in space.tasks:
        return {"data": "digits", "train_size": 24, "recipe": "cifar10-quick", "lr": 0.02}
    rng, folder = np.random.default_rng(0), tempfile.mkdtemp()
    if "language-model" in space.tasks:
        for part, lines in (("train", 10), ("valid", 2)):
            words = rng.choice(["a", "b", "c", "d"], (lines, 8))
            Path(f"{folder}/{part}.txt").write_text("".join(f"{' '.join(line)}\n" for line in words))
        return {"data": f"text:{folder}", "lr": 0.02, "batch_size": 2}
    shape = (60, 7) if "tabular" in space.tasks else (60, 2, 24)
    np.savez(f"{folder}/a.npz", x_train=rng.normal(size=shape), y_train=np.arange(60) % 3)
    return {"data": f"{min(space.tasks)}:{folder}/a.npz", "train_size": 24, "lr": 0.001}


def evaluator(kind: str, space: SearchSpace, device: str, precision: str = "fp32") -> Any:
    """Of one batch without augmentation, so that draws, which differ from device to device, do not count."""
    known = {"channels": 4, "cells": 1, "nodes": 1, "hidden": 4}
    scale = {name: value for name, value in known.items() if name in space.Scale.__dataclass_fields__}
    given = {"batch_size": 2000, "epochs": 2, "scale": scale, "device": device, "precision": precision}
    return registry.make("evaluator", kind, space, given={**given, **data_for(space)})


def losses(own: Any, network: torch.nn.Module, select: Callable[[int], None] = lambda step: None) -> list[float]:
    import dataclasses

    recipe = dataclasses.replace(own.recipe, crop_padding=0, flip=False, cutout=0, dropout=0, drop_path=0)
    training = own.training(network, recipe, 0)
    with own.reproducible(0):
        return [loss.item() for _ in range(2) for loss in training.epoch(select)]


@pytest.mark.parametrize("name", spaces("network"))
def test_training(name: str) -> None:
    space = registry.make("space", name, given=SMALL.get(name, {}))
    arch = space.sample(np.random.default_rng(1))
    found: dict[tuple[str, str], Any] = {}
    for device, precision in (("cpu", "fp32"), ("cuda", "fp32"), ("cuda", "bf16")):
        own = evaluator("train", space, device, precision)
        own.prepare()
        network = own.build(arch, 0)
        assert {p.device.type for p in network.parameters()} == {device}
        found[device, precision] = (*losses(own, network), own.measure(network, own.val_batches, "val")["val_loss"])
    assert found["cuda", "fp32"] == pytest.approx(found["cpu", "fp32"], rel=2e-3)
    assert found["cuda", "bf16"] == pytest.approx(found["cpu", "fp32"], rel=0.1)


@pytest.mark.parametrize("precision", ["fp32"] if fake.active() else ["fp32", "bf16"])
@pytest.mark.parametrize("name", spaces("network"))
def test_a_training_that_is_recorded(name: str, precision: str) -> None:
    """Nothing differs from one that is not, draws included; devices that record nothing go on as ever."""
    import dataclasses

    space = registry.make("space", name, given=SMALL.get(name, {}))
    arch = space.sample(np.random.default_rng(1))
    found = []
    epochs = 6 if "language-model" in space.tasks else 1 if fake.active() else 3  # texts are two steps that differ
    for replays in (True, False):
        own = evaluator("train", space, "cuda", precision)
        own.prepare()
        own.replays = replays
        recipe = dataclasses.replace(own.recipe, batch_size=2 if "language-model" in space.tasks else 4, epochs=50)
        network = own.build(arch, 0)
        training = own.training(network, dataclasses.replace(recipe, dropout=0.2, drop_path=0.2), 0)
        with own.reproducible(0):
            losses = [loss.item() for _ in range(epochs) for loss in training.epoch()]
            found.append([*losses, own.measure(network, own.val_batches, "val")["val_loss"], torch.rand(()).item()])
        assert (training._replayed is not None) == replays
        if replays:
            assert (training._replayed._recording is None) == fake.active(), training._replayed.refused
            assert (training._replayed.refused is not None) == fake.active()
    assert found[0] == found[1]


@pytest.mark.parametrize("name", spaces("supernet"))
def test_shared_weights(name: str) -> None:
    """Both phases, in the network of all options."""
    space = registry.make("space", name, given=SMALL.get(name, {}))
    rng = np.random.default_rng(0)
    children = [space.sample(rng) for _ in range(3)]
    found: dict[str, Any] = {}
    for device in ("cpu", "cuda"):
        own = evaluator("supernet", space, device)
        own.prepare()
        network = own.supernet()
        trained = losses(own, network, lambda step, network=network: network.select(children[0]))  # type: ignore[misc]
        batch = next(iter(own.val_batches.mixed(2000)))
        rewards = own.rewards(network, children, batch)
        found[device] = (*trained, *rewards)
    assert found["cuda"] == pytest.approx(found["cpu"], rel=2e-3)


@pytest.mark.parametrize("strategy", ["darts", "gdas"])
@pytest.mark.parametrize("name", ["macro-cnn", "nasbench201", "recurrent-cell"])
def test_mixtures(name: str, strategy: str) -> None:
    """Weights of options stay on the CPU, wherever the network is, and have the gradients that they have there."""
    import dataclasses

    space = registry.make("space", name, given=SMALL.get(name, {}))
    searcher = registry.make("strategy", strategy, space, given={})
    found: dict[str, Any] = {}
    for device in ("cpu", "cuda"):
        own = evaluator("supernet", space, device)
        own.prepare()
        shared = own._load()
        policy = searcher.make_policy(space, dataclasses.asdict(searcher.settings), 0)
        batch = next(iter(own.val_batches.mixed(2000)))
        shared.parts["val"].minibatches = lambda *_, batch=batch: iter([batch])
        shared._minibatches, shared.generator = {}, torch.Generator().manual_seed(0)
        loss = policy._look_ahead(shared)
        assert loss.device.type == device and all(a.device.type == "cpu" for a in policy.alpha.values())
        moments = policy._moments["m"].values()
        found[device] = [loss.item(), *torch.cat([value.flatten() for value in moments]).tolist()]
    assert found["cuda"] == pytest.approx(found["cpu"], rel=0.02, abs=2e-3)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_host_never_waits_within_a_step(precision: str, request: pytest.FixtureRequest) -> None:
    """And with fuse=off there is more to launch."""
    fake_cuda: Shadow | None = request.getfixturevalue("fake_cuda") if fake.active() else None
    space = registry.make("space", "nasbench201", given={})
    arch = space.arch([space.decisions[0].options.index("nor_conv_3x3")] * 6)
    launches = {}
    for fuse in ("auto", "off"):
        given = {"data": "digits", "train_size": 40, "recipe": "cifar10-quick", "batch_size": 10, "device": "cuda"}
        given |= {"scale": {"channels": 4, "cells": 1}, "precision": precision, "fuse": fuse}
        own = registry.make("evaluator", "train", space, given=given)
        own.prepare()
        training = own.training(own.build(arch, 0), own.recipe, 0)
        with own.reproducible(0):
            steps = training.epoch()
            next(steps)
            if fake_cuda is None:
                torch.cuda.set_sync_debug_mode("error")
                try:
                    next(steps), next(steps)
                finally:
                    torch.cuda.set_sync_debug_mode("default")
                continue
            fake_cuda.forget()
            next(steps), next(steps)
        assert not fake_cuda.syncs
        launches[fuse] = sum(fake_cuda.launches.values())
    assert not launches or launches["off"] > 1.2 * launches["auto"]


def test_a_search_on_two_gpus(fake_machine: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    """A worker on each, in the order that the user gave; the same trials as by one."""
    command = [sys.executable, "-m", "nastool", "search", "-s", "random", "--space", "nasbench201", "--data", "digits"]
    command += ["--epochs", "1", "-n", "3", "--scale", "channels=2,cells=1", "-E", "train_size=50"]
    environment = {**os.environ, **fake_machine(devices=2), "NASTOOL_SEARCH_REPORT": "0"}
    environment["CUDA_VISIBLE_DEVICES"] = "1,GPU-00"
    found: list[dict[str, float]] = []
    said: list[list[str]] = []
    for workers in ("1", "2"):
        run = [*command, "--workers", workers, "--out", workers]
        done = subprocess.run(run, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        lines = [json.loads(line) for line in (tmp_path / workers / "trials.jsonl").read_text().splitlines()]
        found.append({json.dumps(line["choices"]): line["metrics"]["val_loss"] for line in lines})
        assert "device Fake GPU 1" in done.stderr and "bf16" in done.stderr
        said.append([line for line in done.stderr.splitlines() if line.startswith("note: ")])
        facts = yaml.safe_load((tmp_path / workers / "run.yaml").read_text())["provenance"]["evaluator"]
        assert facts.get("devices") == (None if workers == "1" else "Fake GPU 1, Fake GPU 0")
    assert found[0] == found[1] and len(found[0]) == 3
    differ = "note: the workers' GPUs are of different models, which round differently: Fake GPU 1, Fake GPU 0"
    assert [differ in notes for notes in said] == [False, True]
