"""A graph of highway connections (ENAS' recurrent cell) along whole texts, forward and backward, in few operations.

What a node needs of another state is one product, value and gate side by side; nodes that read the same state share one
product with a wider matrix. Backward, the gradients by these products are kept for all steps, so that each matrix gets
its own from one product over the whole text. Nodes whose state reaches no output are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nastool.nets.chosen import Take
from nastool.nets.networks import active

_ATEN: Any = torch.ops.aten
_FORWARD = {"tanh": torch.tanh_, "relu": torch.relu_, "sigmoid": torch.sigmoid_}
_BACKWARD = {
    "tanh": lambda grad, out: _ATEN.tanh_backward.grad_input(grad, out, grad_input=grad),
    "relu": lambda grad, out: _ATEN.threshold_backward.grad_input(grad, out, 0, grad_input=grad),
    "sigmoid": lambda grad, out: _ATEN.sigmoid_backward.grad_input(grad, out, grad_input=grad),
}
_KINDS = {nn.Tanh: "tanh", nn.ReLU: "relu", nn.Sigmoid: "sigmoid", nn.Identity: "identity"}


class Group(NamedTuple):
    """Nodes that read the same state."""

    source: int
    """Place of that state among those of a step; -1: the output of the step before."""
    nodes: tuple[int, ...]
    runs: tuple[tuple[str, int, int], ...]
    """Activations: of the nodes from .. to of the group."""


class Graph(NamedTuple):
    """Which node reads which, in the order in which they are computed."""

    groups: tuple[Group, ...]
    ends: tuple[int, ...]
    """Places of the states that are averaged."""
    nodes: int


@lru_cache(1024)
def graph(sources: tuple[int, ...], activations: tuple[str, ...], ends: tuple[int, ...]) -> Graph:
    """Plan of a graph.

    Args:
        sources: Of each node, the node that it reads, an earlier one; -1, of node 0: the output of the step before.
        activations: Of each node, tanh, relu, sigmoid or identity.
        ends: The nodes that are averaged.
    """
    used = set(ends)
    for node in range(len(sources) - 1, 0, -1):
        if node in used:
            used.add(sources[node])
    place: dict[int, int] = {}
    groups = []
    for source in (-1, *sorted(used)):
        nodes = sorted((n for n in used if sources[n] == source), key=lambda n: activations[n])
        if not nodes:
            continue
        runs: list[tuple[str, int, int]] = []
        for i, node in enumerate(nodes):
            place[node] = len(place)
            begin = runs.pop()[1] if runs and runs[-1][0] == activations[node] else i
            runs.append((activations[node], begin, i + 1))
        kept = tuple(run for run in runs if run[0] != "identity")
        groups.append(Group(place.get(source, -1), tuple(nodes), kept))
    return Graph(tuple(groups), tuple(place[end] for end in ends), len(place))


def chosen(first: nn.Module, nodes: Iterable[Any], ends: Sequence[int]) -> tuple[Graph, list[Tensor]] | None:
    """The graph that modules make now, and the weights of the nodes but 0; None: of others than those known here.

    Args:
        first: Activation of node 0.
        nodes: The others, each with a source, an activation and a linear layer.
        ends: The nodes that are averaged.
    """
    kinds, sources, weights = [_KINDS.get(type(active(first)))], [-1], []
    for node in nodes:
        source, linear = active(node.source), active(node.linear)
        if type(source) is not Take or type(linear) is not nn.Linear:
            return None
        sources.append(source.number)
        kinds.append(_KINDS.get(type(active(node.activation))))
        weights.append(linear.weight)
    if None in kinds:
        return None
    return graph(tuple(sources), tuple(filter(None, kinds)), tuple(ends)), weights


def run(
    plan: Graph, products: Tensor, state: Tensor, weights: Sequence[Tensor], mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Outputs (N, T, H) and the last one, (N, H), in the type of the products.

    Node n has the state s + sigmoid(t) (f(z) - s), where s is the state that it reads and z and t are halves of
    W_n (mask s), to which node 0 adds the product of the input.

    Args:
        plan: Of C nodes.
        products: What node 0 adds, (N, T, 2 H).
        state: The output before the first step, (N, H).
        weights: Of each node, (2 H, H).
        mask: What each state is multiplied with before its product, (N, H).
    """
    products, state = products.transpose(0, 1), state.to(products.dtype)
    mask = None if mask is None else mask.to(products.dtype)
    tensors = (products, state, mask, *weights)
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
        outputs, last = _Highways.apply(plan, *tensors)
    else:
        outputs = _forward(plan, products, state, mask, _joined(plan, weights, products.dtype), keep=False)[0][1:]
        last = outputs[-1]
    return outputs.transpose(0, 1), last


def _joined(plan: Graph, weights: Sequence[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """Of each group the matrix (2 k H, H): what makes the values of its k nodes, then what makes their gates."""
    found = []
    for group in plan.groups:
        first = weights[group.nodes[0]].detach()
        if len(group.nodes) == 1:
            found.append(first.to(dtype))
            continue
        width = first.shape[1]
        both = first.new_empty((2, len(group.nodes), width, width), dtype=dtype)
        for i, node in enumerate(group.nodes):
            both[:, i].copy_(weights[node].detach().view(2, width, width))
        found.append(both.view(-1, width))
    return found


class _Views(NamedTuple):
    """What a group reads and writes, step by step. k nodes are (N, k, H), or, if it is one, (N, H)."""

    source: tuple[Tensor, ...]
    """(N, H)."""
    read: tuple[Tensor, ...]
    """The same, (N, 1, H) if there are several nodes."""
    to: tuple[Tensor, ...]
    """The states."""
    both: tuple[Tensor, ...]
    """Values and gates, (N, 2 k H)."""
    value: tuple[Tensor, ...]
    gate: tuple[Tensor, ...]
    runs: tuple[tuple[str, tuple[Tensor, ...]], ...]
    """The values of each activation but the identity, (N, k' H)."""


def _views(plan: Graph, outputs: Tensor, states: Tensor, values: Tensor) -> list[_Views]:
    """Of each group. Views are made for all steps at once: one by one they take as long as a small product."""
    width, steps = outputs.shape[2], len(outputs) - 1

    def along(x: Tensor, k: int = 1) -> tuple[Tensor, ...]:
        found = (x if k == 1 else x.view(*x.shape[:-1], k, width)).unbind(0)
        return found if len(found) > 1 else found * steps

    found, place = [], 0
    for group in plan.groups:
        k = len(group.nodes)
        start, middle, end = (width * (2 * place + i * k) for i in range(3))
        source = outputs if group.source < 0 else states[:, :, group.source]
        value = values[..., start:middle]
        found.append(
            _Views(
                along(source),
                along(source if k == 1 else source.unsqueeze(2)),
                along(states[:, :, place] if k == 1 else states[:, :, place : place + k]),
                along(values[..., start:end]),
                along(value, k),
                along(values[..., middle:end], k),
                tuple((name, along(value[..., a * width : b * width])) for name, a, b in group.runs),
            )
        )
        place += k
    return found


def _forward(
    plan: Graph, products: Tensor, state: Tensor, mask: Tensor | None, matrices: Sequence[Tensor], keep: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Outputs (T + 1, N, H), that before the first included; states (T, N, C, H); values and gates (T, N, 2 C H).

    keep: states, values and gates of all steps; else of the last one alone.
    """
    steps, n, width = len(products), *state.shape
    outputs = state.new_empty((steps + 1, n, width))
    outputs[0] = state
    kept = steps if keep else 1
    states = state.new_empty((kept, n, plan.nodes, width))
    values = state.new_empty((kept, n, 2 * plan.nodes * width))
    turns = [(views, matrix.t()) for views, matrix in zip(_views(plan, outputs, states, values), matrices, strict=True)]
    ends = [states[:, :, end].unbind(0) for end in plan.ends]
    for t in range(steps):
        for i, (views, matrix) in enumerate(turns):
            read = views.source[t] if mask is None else views.source[t] * mask
            if i:
                torch.mm(read, matrix, out=views.both[t])
            else:
                torch.addmm(products[t], read, matrix, out=views.both[t])
            for name, value in views.runs:
                _FORWARD[name](value[t])
            torch.lerp(views.read[t], views.value[t], views.gate[t].sigmoid_(), out=views.to[t])
        now, out = t % kept, outputs[t + 1]
        if len(ends) == 1:
            out.copy_(ends[0][now])
        else:
            torch.add(ends[0][now], ends[1][now], out=out)
            for end in ends[2:]:
                out.add_(end[now])
            out.mul_(1 / len(ends))
    return outputs, states, values


class _Highways(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, plan: Graph, products: Tensor, state: Tensor, mask: Tensor | None, *weights: Tensor
    ) -> tuple[Tensor, Tensor]:
        matrices = _joined(plan, weights, products.dtype)
        outputs, states, values = _forward(plan, products, state, mask, matrices, keep=True)
        ctx.save_for_backward(outputs, states, values, mask, *matrices)
        ctx.plan, ctx.dtypes = plan, [weight.dtype for weight in weights]
        return outputs[1:], outputs[-1].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_outputs: Tensor, of_last: Tensor) -> tuple[Any, ...]:
        outputs, states, values, mask, *matrices = ctx.saved_tensors
        plan: Graph = ctx.plan
        steps, n, count, width = states.shape
        products = torch.empty_like(values)  # the gradients by them
        share = states.new_zeros(count, 1)
        share[list(plan.ends)] = 1 / len(plan.ends)
        of_states = torch.empty_like(states[0])
        of_nodes = of_states.unbind(1)
        of_before = of_last
        turns, place = [], 0
        kept, made = (_views(plan, outputs, states, each) for each in (values, products))
        for group, matrix, views, of in zip(plan.groups, matrices, kept, made, strict=True):
            k = len(group.nodes)
            of_new = of_nodes[place] if k == 1 else of_states[:, place : place + k]
            # On a CPU a product with a matrix as it lies takes less time than with one that is to be transposed.
            turns.append((group.source, matrix.t().contiguous().t() if n < width else matrix, views, of, of_new))
            place += k
        for t in range(steps - 1, -1, -1):
            torch.mul((of_before + of_outputs[t])[:, None], share, out=of_states)
            for source, matrix, views, of, of_new in reversed(turns):
                gate, of_gate, of_value = views.gate[t], of.gate[t], of.value[t]
                torch.sub(views.value[t], views.read[t], out=of_gate)
                of_gate.mul_(of_new)
                _ATEN.sigmoid_backward.grad_input(of_gate, gate, grad_input=of_gate)
                torch.mul(of_new, gate, out=of_value)
                of_new.sub_(of_value)
                for (name, value), (_, of_run) in zip(views.runs, of.runs, strict=True):
                    _BACKWARD[name](of_run[t], value[t])
                passed = of_new if of_new.dim() == 2 else of_new.sum(1)
                if mask is not None:
                    passed = torch.mm(of.both[t], matrix).mul_(mask).add_(passed)
                    if source >= 0:
                        of_nodes[source].add_(passed)
                elif source >= 0:
                    of_nodes[source].add_(passed).addmm_(of.both[t], matrix)
                else:
                    passed = torch.addmm(passed, of.both[t], matrix)
            of_before = passed
        of_weights: list[Tensor | None] = [None] * len(ctx.dtypes)
        start = 0
        for group in plan.groups:
            k = len(group.nodes)
            read = outputs[:-1] if group.source < 0 else states[:, :, group.source]
            read = read.flatten(0, 1) if mask is None else (read * mask).flatten(0, 1)
            both = products.view(steps * n, -1)[:, start : start + 2 * k * width]
            start += 2 * k * width
            of_matrix = torch.mm(both.t(), read).view(2, k, width, width)
            for i, node in enumerate(group.nodes):
                of_weights[node] = of_matrix[:, i].reshape(2 * width, width).to(ctx.dtypes[node])
        return None, products[:, :, : 2 * width], of_before, None, *of_weights
