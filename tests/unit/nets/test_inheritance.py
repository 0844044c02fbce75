"""How weights, momentum and statistics are handed down, on modules made for it and on spaces that do not grow."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nastool.core import registry
from nastool.core.space import SearchSpace, make_scale
from nastool.nets import networks
from nastool.nets.inheritance import Copy, Fill, Inheritance, block, inherited, matching, shapes
from nastool.tasks.images.task import ImageTask


def network(width: int = 4) -> nn.Sequential:
    """A layer of 3 channels, then one of `width`."""
    torch.manual_seed(0)
    first = [nn.Conv2d(2, 3, 3, padding=1, bias=False), nn.BatchNorm2d(3), nn.ReLU()]
    return nn.Sequential(*first, nn.Conv2d(3, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()).double()


# --- where what goes


def test_block_is_every_combination() -> None:
    table = np.arange(20).reshape(4, 5)
    assert table[block([0, 2], range(1, 3))].tolist() == [[1, 2], [11, 12]]
    assert table[block([3, 0])].tolist() == table[[3, 0]].tolist()
    assert table[block([], range(5))].shape == (0, 5)


def test_fills_come_before_copies_and_the_rest_stays() -> None:
    child = nn.Linear(3, 2)
    drawn = child.weight.detach().clone()
    fills = [Fill("weight", block([1], range(3)), 0.0), Fill("weight", (np.array([1]), np.array([2])), 5.0)]
    copies = [
        Copy("weight", block([1], [0]), "old", block([0], [3])),
        Copy("bias", block([0, 1]), "bias", block([1, 0])),
    ]
    Inheritance(fills, copies).apply(child, {"old": torch.arange(4.0).reshape(1, 4), "bias": torch.tensor([7.0, 8.0])})
    assert child.weight[1].tolist() == [3, 0, 5]
    assert torch.equal(child.weight[0], drawn[0])
    assert child.bias.tolist() == [8, 7]


def test_weights_are_converted_to_the_child_s_type_and_the_parent_s_stay() -> None:
    child = nn.Linear(2, 2)
    parent = {"weight": torch.rand(2, 2, dtype=torch.float64), "bias": torch.rand(2, dtype=torch.bfloat16)}
    before = {name: value.clone() for name, value in parent.items()}
    copies = [Copy(name, block(*map(range, v.shape)), name, block(*map(range, v.shape))) for name, v in parent.items()]
    Inheritance([], copies).apply(child, parent)
    assert torch.equal(child.weight, parent["weight"].float()) and torch.equal(child.bias, parent["bias"].float())
    with torch.no_grad():
        child.weight.zero_()
    assert all(torch.equal(parent[name], value) for name, value in before.items())


def test_an_identity_undoes_its_normalisation_at_once() -> None:
    child: Any = network().eval()
    Inheritance([], [], {"1": [0, 2]}).apply(child, {})
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    torch.testing.assert_close(child[1](x)[:, [0, 2]], x[:, [0, 2]], rtol=1e-12, atol=1e-12)
    assert child[1].weight[1] == 1


def test_memory_is_moved_like_the_weights_and_zero_where_they_are_new() -> None:
    parent, child = network(4), network(5)
    inheritance = Inheritance(
        [Fill("3.weight", block([4], range(3), [0], [0]), 1.0)],
        [
            Copy("3.weight", block(range(4), range(3), [0], [0]), "3.weight", block(range(4), range(3), [0], [0])),
            Copy("4.running_mean", block(range(4)), "4.running_mean", block(range(4))),
            Copy("4.weight", block(range(4)), "4.weight", block(range(4))),
        ],
    )
    memory = {name: torch.randn_like(value) for name, value in parent.named_parameters() if name != "4.weight"}
    found = inheritance.expand(memory, child)
    assert list(found) == [name for name, _ in child.named_parameters()], "parameters alone"
    assert torch.equal(found["3.weight"][:4], memory["3.weight"])
    assert not any(found[name].any() for name in ("0.weight", "1.weight", "4.weight", "4.bias"))
    assert not found["3.weight"][4:].any()


# --- names and shapes


def test_matching_takes_what_has_the_same_name_and_shape() -> None:
    parent, child = network(4), network(5)
    with torch.no_grad():
        for value in parent.state_dict().values():
            value.add_(1)
    drawn = {name: value.clone() for name, value in child.state_dict().items()}
    inheritance = matching(shapes(child), shapes(parent))
    assert not inheritance.exact
    assert inheritance.fresh == {"4": [0, 1, 2, 3, 4]} and not inheritance.identity and not inheritance.fills
    inheritance.apply(child, parent.state_dict())
    taken = {name for name in drawn if name.startswith(("0.", "1."))} | {"4.num_batches_tracked"}
    for name, value in child.state_dict().items():
        assert torch.equal(value, parent.state_dict()[name] if name in taken else drawn[name]), name


def test_matching_is_exact_where_nothing_differs() -> None:
    same = {"a": (2, 3), "b": ()}
    assert matching(same, dict(reversed(same.items()))).exact
    for other in ({"a": (2, 3)}, {"a": (3, 2), "b": ()}, {**same, "c": (1,)}):
        assert not matching(same, other).exact
        assert not matching(other, same).exact


SPACES: dict[str, tuple[dict[str, object], dict[str, int]]] = {
    "nasbench201": ({}, {"channels": 4, "cells": 1}),
    "cell-cnn": ({"blocks": 2}, {"channels": 4, "cells": 1}),
    "macro-cnn": ({"layers": 4}, {"channels": 4}),
}


@pytest.mark.parametrize("name", SPACES)
def test_spaces_without_morphisms_hand_down_what_fits(name: str) -> None:
    """After each of some mutations, what has the same name and shape is the parent's, its momentum, too."""
    given, scale_given = SPACES[name]
    space: SearchSpace = registry.make("space", name, given=given)
    task, scale = ImageTask(3, 8, 8, 4), make_scale(space, scale_given)
    rng = np.random.default_rng(0)
    exact = 0
    for _ in range(10):
        before = space.sample(rng)
        after = space.mutate(before, rng)
        parent, child = (networks.build(space, arch, task, scale) for arch in (before, after))
        parent(torch.randn(4, 3, 8, 8))  # statistics
        was = parent.state_dict()
        drawn = {name: value.clone() for name, value in child.state_dict().items()}
        inheritance = inherited(space, before, after, task, scale)
        inheritance.apply(child, was)
        taken = [name for name, value in drawn.items() if name in was and was[name].shape == value.shape]
        assert len(taken) > len(drawn) / 3, "the classifier, the stem, most layers"
        for name, value in child.state_dict().items():
            assert torch.equal(value, was[name] if name in taken else drawn[name]), name
        memory = {name: torch.randn_like(value) for name, value in parent.named_parameters()}
        for name, value in inheritance.expand(memory, child).items():
            assert torch.equal(value, memory[name] if name in taken else torch.zeros_like(value)), name
        exact += inheritance.exact
        assert inheritance.exact == ({n: v.shape for n, v in was.items()} == {n: v.shape for n, v in drawn.items()})
    assert exact < 10


# --- calibration


def statistics(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each channel."""
    return x.mean((0, 2, 3)), x.var((0, 2, 3))


def test_calibration_sets_new_channels_and_no_others() -> None:
    child: Any = network().train()
    images = 3 + torch.randn(8, 2, 5, 5, dtype=torch.float64)
    before = {name: value.clone() for name, value in child.state_dict().items()}
    inheritance = Inheritance([], [], {"1": [0]}, {"1": [2], "4": [1, 3]})
    inheritance.calibrate(child, images)
    mean, variance = statistics(child[0](images))
    norm = child[1]
    assert torch.equal(norm.running_mean != before["1.running_mean"], torch.tensor([True, False, True]))
    torch.testing.assert_close(norm.running_mean[[0, 2]], mean[[0, 2]])
    torch.testing.assert_close(norm.running_var[[0, 2]], variance[[0, 2]])
    torch.testing.assert_close(norm.weight, torch.stack([(variance[0] + norm.eps).sqrt(), *torch.ones(2).double()]))
    torch.testing.assert_close(norm.bias, torch.stack([mean[0], *torch.zeros(2).double()]))
    with torch.no_grad():
        seen = copy.deepcopy(child).train()[:4](images)  # what the second one sees in training, the first calibrated
        mean, variance = statistics(seen)
    torch.testing.assert_close(child[4].running_mean[[1, 3]], mean[[1, 3]])
    torch.testing.assert_close(child[4].running_var[[1, 3]], variance[[1, 3]])
    for name in ("0.weight", "3.weight", "4.weight", "4.bias", "1.num_batches_tracked"):
        assert torch.equal(child.state_dict()[name], before[name]), name


def test_an_identity_stays_one_in_either_mode() -> None:
    child = network()
    images = 3 + torch.randn(8, 2, 5, 5, dtype=torch.float64)
    Inheritance([], [], {"1": [0, 1, 2]}).calibrate(child, images)
    x = child[0](images)
    torch.testing.assert_close(child.eval()[1](x), x)
    mean = x.mean((0, 2, 3), keepdim=True)
    expected = mean + (200 / 199) ** 0.5 * (x - mean)  # the batch's variance is divided by n, the running one by n - 1
    torch.testing.assert_close(child.train()[1](x), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_calibration_leaves_the_mode_and_no_hooks(training: bool) -> None:
    child = network().train(training)
    broken = torch.randn(2, 9, 5, 5, dtype=torch.float64)
    inheritance = Inheritance([], [], {}, {"1": [0]})
    inheritance.calibrate(child, broken[:, :2])
    with pytest.raises(RuntimeError):
        inheritance.calibrate(child, broken)
    for module in child.modules():
        assert module.training == training
        assert not module._forward_pre_hooks and not module._forward_hooks
    assert not any(value.grad_fn for value in child.state_dict().values())


def test_calibration_needs_more_than_one_value() -> None:
    child = network()
    before = {name: value.clone() for name, value in child.state_dict().items()}
    Inheritance([], [], {"1": [0]}, {"1": [1], "4": [0]}).calibrate(child, torch.ones(1, 2, 1, 1, dtype=torch.float64))
    assert all(torch.equal(value, before[name]) for name, value in child.state_dict().items())
