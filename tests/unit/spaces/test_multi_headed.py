"""Space multi-headed: one network whose heads share a backbone, and vote."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from nastool.core.recipe import Recipe
from nastool.core.space import SearchSpace
from nastool.core.values import Proposal
from nastool.deploy import exports, models
from nastool.evaluators.supernet import Supernet
from nastool.evaluators.train import Train
from nastool.nets import networks
from nastool.nets.blocks import Heads, Vote
from nastool.nets.proxies import NAMES, proxies
from nastool.spaces.multi_headed import MultiHeaded
from nastool.spaces.nasbench201 import NasBench201
from nastool.tasks.images.task import ImageTask
from nastool.tasks.supervised import Statistics
from tests.helpers.running import Run
from tests.unit.evaluators.test_train import npz

TASK = ImageTask(3, 8, 8, 4)
SMALL = MultiHeaded.Scale(channels=4, cells=1)


def drawn(heads: int, seed: int = 0, task: ImageTask = TASK) -> Any:
    """A network in which each head reads the images."""
    space = MultiHeaded(heads=heads)
    rng = np.random.default_rng(seed)
    while True:
        arch = space.sample(rng)
        if "#" not in space.canonical(arch).split(" | "):
            torch.manual_seed(seed)
            return networks.build(space, arch, task, SMALL)


def batch(n: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(n, 3, 8, 8, generator=generator), torch.randint(4, (n,), generator=generator)


@pytest.mark.parametrize("seed", range(3))
def test_of_one_head_it_is_the_ordinary_network(seed: int) -> None:
    ordinary, space = NasBench201(), MultiHeaded(heads=1)
    cell = ordinary.sample(np.random.default_rng(seed))
    found: list[nn.Module] = []
    for each, arch in ((ordinary, cell), (space, space.arch([*cell.choices, *cell.choices]))):
        torch.manual_seed(seed)
        found.append(networks.build(each, arch, TASK, each.Scale(channels=4, cells=2)))
    weights = [list(network.state_dict().values()) for network in found]
    assert all(torch.equal(a, b) for a, b in zip(*weights, strict=True))
    for training in (True, False):
        one, other = (network.train(training)(batch()[0]) for network in found)
        assert isinstance(other, Tensor) and torch.equal(one, other)


def test_and_its_training_is_the_ordinary_one(tmp_path: Path) -> None:
    npz(tmp_path / "tiny.npz")
    spaces: list[SearchSpace] = [NasBench201(), MultiHeaded(heads=1)]
    metrics = []
    for space in spaces:
        train = Train(
            space,
            data=f"npz:{tmp_path / 'tiny.npz'}",
            epochs=2,
            batch_size=16,
            scale={"channels": 4, "cells": 1},
            device="cpu",
        )
        train.prepare()
        arch = space.arch([3, 1, 2, 3, 4, 2] * (len(space.decisions) // 6))
        metrics.append(train.evaluate(0, Proposal(arch), seed=7, report=lambda step, metrics: None).metrics)
    assert metrics[0] == metrics[1] and "val_loss" in metrics[0]


def test_heads_share_the_backbone_and_each_teaches_it() -> None:
    network = drawn(3)
    backbone = set(network.backbone.parameters())
    own = [set(head.parameters()) for head in network.heads]
    assert set(network.parameters()) == backbone.union(*own)
    assert sum(map(len, own)) + len(backbone) == len(list(network.parameters())), "nothing else is shared"
    images, labels = batch()
    said = network.train()(images)
    assert isinstance(said, Heads) and len(said.heads) == 3
    for i, head in enumerate(said.heads):
        network.zero_grad()
        cross_entropy(head, labels).backward(retain_graph=True)  # type: ignore[no-untyped-call]
        assert all(p.grad is not None for p in own[i])
        assert all(p.grad is None for j in range(3) if j != i for p in own[j])
        assert sum(float(p.grad.abs().sum()) for p in backbone if p.grad is not None) > 0


@pytest.mark.parametrize("heads", [2, 5])
def test_it_says_the_mean_of_the_heads_and_is_never_worse_than_them_on_average(heads: int) -> None:
    images, labels = batch(64)
    for seed in range(5):
        network = drawn(heads, seed).double()
        said = network.train()(images.double())
        mean = torch.stack(said.heads).softmax(-1).mean(0)
        torch.testing.assert_close(said.mean.softmax(-1), mean)
        torch.testing.assert_close(said.mean.exp(), mean)
        assert cross_entropy(said.mean, labels) <= sum(cross_entropy(head, labels) for head in said.heads) / heads
        network.eval()
        logits = torch.stack([head(network.backbone(images.double())) for head in network.heads])
        torch.testing.assert_close(network(images.double()).exp(), logits.softmax(-1).mean(0))


def test_a_head_that_is_sure_and_wrong_costs_what_the_others_say() -> None:
    said = Vote(False).eval()(torch.zeros(1), torch.tensor([[1000.0, 0.0]]), torch.tensor([[0.0, 1000.0]]))
    torch.testing.assert_close(said, torch.full((1, 2), -math.log(2)))


def test_half_the_loss_is_the_means_and_half_the_heads() -> None:
    images, labels = batch()
    task = ImageTask(3, 8, 8, 4, statistics=Statistics(weights=(1.0, 2.0, 0.5, 1.0)))
    recipe = Recipe(label_smoothing=0.1)
    network = drawn(3).train()
    said = network(images)

    def loss(output: Tensor) -> Tensor:
        return cross_entropy(output, labels, weight=torch.tensor(task.statistics.weights), label_smoothing=0.1)

    step = task.step(network, (images, labels), None, recipe)
    assert step.extra is not None
    torch.testing.assert_close(step.loss, loss(said.mean))
    torch.testing.assert_close(step.loss + step.extra, loss(said.mean) / 2 + sum(map(loss, said.heads)) / 6)


@pytest.mark.parametrize("heads", [2, 5])
def test_heads_learn_as_fast_as_one_alone_and_the_backbone_as_it_would(heads: int) -> None:
    """Where all heads are alike, each has the gradient of a network with one head, and so has the backbone."""
    images, labels = batch()
    images = images.double()
    space = MultiHeaded(heads=heads)
    arch = space.arch([3] * 6 * (heads + 1))
    several: Any
    alone: Any
    several, alone = (networks.build(space, arch, TASK, SMALL).double().train() for _ in range(2))
    for each in (*several.heads, *alone.heads):
        each.load_state_dict(several.heads[0].state_dict())
    alone.backbone.load_state_dict(several.backbone.state_dict())
    step = TASK.step(several, (images, labels), None, Recipe())
    assert step.extra is not None
    (step.loss + step.extra).backward()  # type: ignore[no-untyped-call]
    one = cross_entropy(alone.heads[0](alone.backbone(images)).float(), labels)
    torch.testing.assert_close(step.loss, one)
    one.backward()  # type: ignore[no-untyped-call]
    for head in several.heads:
        for ours, theirs in zip(head.parameters(), alone.heads[0].parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)
    for ours, theirs in zip(several.backbone.parameters(), alone.backbone.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-6)


def test_the_backbone_has_the_gradient_of_what_is_minimised() -> None:
    images, labels = batch()
    network = drawn(3).double().train()
    step = TASK.step(network, (images.double(), labels), None, Recipe())
    assert step.extra is not None
    (step.loss + step.extra).backward()  # type: ignore[no-untyped-call]
    taught = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    network.zero_grad()
    said = network(images.double())
    loss = cross_entropy(said.mean, labels) / 2 + sum(cross_entropy(head, labels) for head in said.heads) / 6
    loss.backward()  # type: ignore[no-untyped-call]
    for name, parameter in network.named_parameters():
        if parameter.grad is not None:
            times = 1 if name.startswith("backbone") else 3
            torch.testing.assert_close(taught[name], times * parameter.grad, rtol=1e-5, atol=1e-6)


def test_weights_that_do_not_learn_are_left_alone() -> None:
    images, labels = batch()
    network = drawn(2).train()
    network.backbone.requires_grad_(False)
    step = TASK.step(network, (images, labels), None, Recipe())
    step.loss.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is None for p in network.backbone.parameters())
    with torch.no_grad():
        assert not TASK.step(network, (images, labels), None, Recipe()).loss.requires_grad


def test_of_numbers_too() -> None:
    task = ImageTask(3, 8, 8, 0, targets=2)
    images, _ = batch()
    wanted = torch.randn(16, 2, generator=torch.Generator().manual_seed(1))
    network = drawn(3, task=task).train()
    said = network(images)
    torch.testing.assert_close(said.mean, torch.stack(said.heads).mean(0))
    step = task.step(network, (images, wanted), None, Recipe())
    assert step.extra is not None
    expected = mse_loss(said.mean, wanted) / 2 + sum(mse_loss(head, wanted) for head in said.heads) / 6
    torch.testing.assert_close(step.loss + step.extra, expected)


def test_heads_may_change_places() -> None:
    space = MultiHeaded(heads=2)
    a, b, c = [3, 0, 0, 0, 0, 1], [0, 0, 0, 2, 0, 0], [1, 1, 1, 1, 1, 1]
    key = space.canonical(space.arch([*a, *b, *c]))
    assert space.canonical(space.arch([*a, *c, *b])) == key
    assert space.canonical(space.arch([*b, *a, *c])) != key
    assert space.canonical(space.arch([*a, *b, *b])) != key


@pytest.mark.parametrize("heads", [0, 101])
def test_bad_numbers_of_heads(heads: int) -> None:
    with pytest.raises(ValueError, match=f"need 1 <= heads <= 100, got {heads}"):
        MultiHeaded(heads=heads)


def test_zero_cost_proxies_are_of_all_heads() -> None:
    images, labels = batch()
    network = drawn(2).double()
    found = proxies(network, lambda output: cross_entropy(output, labels), images.double())
    assert found.keys() == set(NAMES) and all(map(math.isfinite, found.values()))
    with torch.no_grad():
        network.heads[1][-1].weight.zero_()
    assert proxies(network, torch.sum, images.double(), ["synflow"])["synflow"] < found["synflow"]


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("strategy", ["gdas", "random"])
def test_samplers_search_the_heads(strategy: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With weights that all networks share: mixtures of what is drawn, and single networks."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Supernet, "inline", True)
    npz(Path("tiny.npz"))
    command = ["search", "-s", strategy, "--space", "multi-headed", "-P", "heads=2", "--evaluator", "supernet"]
    command += ["--data", "npz:tiny.npz", "--epochs", "2", "-E", "batch_size=16", "--scale", "channels=2,cells=1"]
    command += ["--device", "cpu", "--no-report", "--no-baseline", "--retrain", "0", "-n", "4", "--out", "a"]
    (document,) = run(*command).accepted()
    assert len(document["choices"]) == 18 and 0 <= document["metrics"]["shared_acc"] <= 1


def test_it_becomes_a_file_for_others(tmp_path: Path) -> None:
    """Whoever uses it sees one network."""
    onnxruntime = pytest.importorskip("onnxruntime")
    space = MultiHeaded(heads=3)
    arch = space.arch([3] * 24)
    network = networks.build(space, arch, TASK, SMALL).eval()
    model = models.Model(network, space, arch, SMALL, TASK, (), (), (), tmp_path / "a.safetensors", {})
    images = batch()[0]
    exports.onnx(model, tmp_path / "a.onnx", (images,), raw=True)
    session = onnxruntime.InferenceSession(str(tmp_path / "a.onnx"))
    (said,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    torch.testing.assert_close(torch.from_numpy(said), network(images), rtol=1e-4, atol=1e-4)
