"""Recurrent cells of highway connections in few operations: the same as step by step, with the same gradients."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from nastool.core import registry
from nastool.nets import highways
from nastool.nets.blocks import Variational
from nastool.nets.definitions.recurrent import Graph
from nastool.nets.networks import Supernet
from tests.helpers.fake_cuda.shadow import Shadow

pytestmark = pytest.mark.usefixtures("one_thread")
KINDS = ["tanh", "relu", "sigmoid", "identity"]


@contextmanager
def step_by_step() -> Iterator[None]:
    """Meanwhile cells run as they are defined."""
    fast = Graph.forward
    del Graph.forward
    try:
        yield
    finally:
        Graph.forward = fast  # type: ignore[method-assign]


def supernet(hidden: int = 8, vocabulary: int = 11, nodes: int = 7, **options: Any) -> Supernet:
    torch.manual_seed(0)
    space = registry.make("space", "recurrent-cell", given={"nodes": nodes, **options.pop("space", {})})
    task = registry.load("task", "language-model")(vocabulary)
    network = Supernet(space, task, space.Scale(hidden=hidden, **options))
    for module in network.modules():
        if isinstance(module, Variational) and module.place == "nodes":
            module.probability = 0.4
    return network


def trained(network: Supernet, tokens: Tensor, state: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor | None]]:
    """Logits and state of the selected child, and the gradients of its parameters."""
    torch.manual_seed(1)
    network.zero_grad()
    logits, (after,), *_ = network(tokens, (state,))
    (logits.square().sum() + after.sum()).backward()
    return logits.detach(), after.detach(), {name: p.grad for name, p in network.named_parameters()}


@pytest.mark.parametrize("edges", [0, 1])
@pytest.mark.parametrize("output", ["unused", "all"])
@pytest.mark.parametrize("training", [False, True])
def test_it_is_the_cell_step_by_step(edges: int, output: str, training: bool) -> None:
    network = supernet(edges=edges, space={"output": output}).train(training)
    rng = np.random.default_rng(0)
    for _ in range(12):
        network.select(network.space.sample(rng))
        given = torch.randint(11, (3, 5)), torch.randn(3, 8)
        found = trained(network, *given)
        with step_by_step():
            right = trained(network, *given)
        with torch.no_grad():  # where no states are kept
            torch.manual_seed(1)
            torch.testing.assert_close(network(given[0], (given[1],))[0], found[0])
        for one, other in zip(found[:2], right[:2], strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
        assert [name for name, grad in found[2].items() if grad is None] == [
            name for name, grad in right[2].items() if grad is None
        ]
        for name, grad in found[2].items():
            if grad is not None:
                torch.testing.assert_close(grad, right[2][name], atol=1e-4, rtol=1e-5, msg=name)


def test_only_what_the_child_has_gets_a_gradient() -> None:
    network = supernet(edges=1, nodes=6)
    network.select(network.space.sample(np.random.default_rng(0)))
    _, _, grads = trained(network, torch.randint(11, (2, 3)), torch.zeros(2, 8))
    own = [grad for name, grad in grads.items() if grad is not None and "linear" in name]
    assert len(own) == 5  # of 15 edges one for each node but the first
    assert all(bool(grad.any()) for grad in own)


def drawn(rng: random.Random, nodes: int) -> tuple[tuple[int, ...], tuple[str, ...]]:
    return (-1, *(rng.randrange(i) for i in range(1, nodes))), tuple(rng.choice(KINDS) for _ in range(nodes))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("ends", [(3,), (0, 2), (1, 2, 3)])
def test_gradients_are_those_of_finite_differences(masked: bool, ends: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    plan = highways.graph(*drawn(random.Random(0), 4), ends)
    inputs = [torch.randn(*shape, dtype=torch.double) for shape in ((2, 3, 6), (2, 3), *[(6, 3)] * 4)]
    mask = torch.tensor([[0.0, 2, 2], [2, 0, 2]], dtype=torch.double) if masked else None
    for tensor in inputs:
        tensor.requires_grad_()

    def called(products: Tensor, state: Tensor, *weights: Tensor) -> tuple[Tensor, Tensor]:
        return highways.run(plan, products, state, weights, mask)

    assert torch.autograd.gradcheck(called, inputs)


def test_nodes_that_reach_no_output_are_left_out() -> None:
    plan = highways.graph((-1, 0, 0, 2), ("tanh", "relu", "tanh", "tanh"), (1,))
    assert plan.nodes == 2
    weights = [torch.randn(4, 2, requires_grad=True) for _ in range(4)]
    torch.autograd.backward(highways.run(plan, torch.randn(1, 2, 4), torch.zeros(1, 2), weights)[0].sum())
    assert [weight.grad is not None for weight in weights] == [True, True, False, False]


def test_nodes_that_read_the_same_share_a_product() -> None:
    plan = highways.graph((-1, 0, 0, 0, 1), ("tanh", "relu", "tanh", "relu", "identity"), (2, 3, 4))
    assert [len(group.nodes) for group in plan.groups] == [1, 3, 1]
    assert plan.groups[1].runs == (("relu", 0, 2), ("tanh", 2, 3))


def test_a_long_text_is_its_parts() -> None:
    network = supernet().eval()
    network.select(network.space.sample(np.random.default_rng(3)))
    tokens = torch.randint(11, (2, 12))
    with torch.no_grad():
        whole, (last,) = network(tokens)
        first, state = network(tokens[:, :5])
        second, (end,) = network(tokens[:, 5:], state)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(end, last, atol=1e-6, rtol=1e-6)


def test_bfloat16_is_near() -> None:
    network = supernet(hidden=64)
    network.select(network.space.sample(np.random.default_rng(1)))
    given = torch.randint(11, (4, 10)), torch.zeros(4, 64)
    right = trained(network, *given)
    with torch.autocast("cpu", torch.bfloat16):
        found = trained(network, *given)
    for name, grad in found[2].items():
        if grad is not None:
            other = right[2][name]
            assert grad.dtype == torch.float32 and other is not None
            assert float((grad - other).norm() / other.norm()) < 0.05, name


def test_soft_choices_run_step_by_step() -> None:
    network = supernet(nodes=3)
    arch = network.space.sample(np.random.default_rng(1))
    network.select(arch)
    tokens = torch.randint(11, (2, 3))
    right = network.eval()(tokens)[0]
    name = network.space.decisions[0].options[arch.choices[0]]
    network.select({network.space.decisions[0].name: {name: torch.tensor(1.0)}})
    torch.testing.assert_close(network(tokens)[0], right, atol=1e-5, rtol=1e-5)


@pytest.mark.gpu
def test_launches_of_a_step(fake_cuda: Shadow) -> None:
    """Of forward and backward, 12 nodes: for each step of a text, with 4 to 8 states that are read."""
    network = supernet(nodes=12).cuda()
    network.select(network.space.sample(np.random.default_rng(0)))

    def launches(length: int) -> int:
        tokens, state = torch.randint(11, (2, length), device="cuda"), torch.zeros(2, 8, device="cuda")
        trained(network, tokens, state)
        fake_cuda.forget()
        trained(network, tokens, state)
        return sum(fake_cuda.launches.values())

    fast = launches(6) - launches(5)
    with step_by_step():
        plain = launches(6) - launches(5)
    print(fast, plain)
    assert fast <= 150 and plain >= 2 * fast
