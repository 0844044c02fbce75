"""Recurrent cells: a graph of highway connections (ENAS) and a binary tree (NAS-RL), run step by step along a text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from nastool.core.space import Choose, Members
from nastool.nets import highways
from nastool.nets.blocks import Add, Variational
from nastool.nets.chosen import Take
from nastool.nets.definitions.recurrent_form import ends, injected
from nastool.nets.depthwise import faster

MODULES: Mapping[str, Callable[[], nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}
State = tuple[Tensor, ...]


class Recurrent(nn.Module):
    """(x (N, T, I), state) -> (y (N, T, H), state): a cell, from one step of the texts to the next.

    A state is a tuple of tensors (N, H), the output of the last step first; None: zeros.
    """

    def __init__(self, inputs: int, width: int, products: int, states: int) -> None:
        """products: of input and state, H each, that a step needs. states: number of tensors of a state."""
        super().__init__()
        self.width, self.states = width, states
        self.of_input = nn.Linear(inputs, products * width, bias=False)
        self.of_state = nn.Linear(width, products * width, bias=False)
        self.between = Variational("nodes")

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        if state is None:
            state = (x.new_zeros(x.shape[0], self.width),) * self.states
        mask = self.between.mask(state[0])
        outputs = []
        for step in self.of_input(x).unbind(1):
            state = self.step(step, state, mask)
            outputs.append(state[0])
        return torch.stack(outputs, 1), state

    def step(self, x: Tensor, state: State, mask: Tensor | None) -> State:
        """The next state. x: (N, products * H), what `of_input` makes of an input. mask: of `through`."""
        raise NotImplementedError


def through(state: Tensor, mask: Tensor | None) -> Tensor:
    """What is read of a state (N, H). mask: (N, H), of dropout."""
    return state if mask is None else state * mask


def highway(before: Tensor, product: Tensor, activation: nn.Module) -> Tensor:
    """s + sigmoid(t) (f(z) - s), where the product (N, 2 H) is z and t side by side."""
    z, gate = product.chunk(2, -1)
    mixed: Tensor = before + gate.sigmoid() * (activation(z) - before)
    return mixed


class Node(nn.Module):
    """A node of a cell: the state of an earlier one, sent through a highway connection."""

    def __init__(self, source: nn.Module, activation: nn.Module, linear: nn.Module) -> None:
        """source: of all earlier states the one. linear: (N, H) -> (N, 2 H)."""
        super().__init__()
        self.source = source
        self.activation = activation
        self.linear = linear

    def forward(self, states: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        before = self.source(*states)
        return highway(before, self.linear(through(before, mask)), self.activation)


class Graph(Recurrent):
    """ENAS' cell: node 0 joins input and last output, each other one reads an earlier one; the mean of some is put out.

    (z, t) = W [x; h] for node 0, W s for the others, in all of them s' = s + sigmoid(t) (f(z) - s), where node 0 has h
    for s.
    """

    def __init__(self, inputs: int, width: int, first: nn.Module, nodes: Sequence[nn.Module], ends: Members) -> None:
        """first: activation of node 0. nodes: 1, 2, ... ends: those that are averaged, by number."""
        super().__init__(inputs, width, products=2, states=1)
        self.first = first
        self.nodes = nn.ModuleList(nodes)
        self.ends = ends

    @faster
    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """All steps in few operations (`highways`): the same, with the same gradients, up to the order of summation."""
        found = highways.chosen(self.first, self.nodes, list(map(int, self.ends.active)))
        if found is None or x.is_meta or torch.compiler.is_compiling() or torch._C._get_tracing_state():
            return super().forward(x, state)
        plan, weights = found
        products = self.of_input(x)
        before = products.new_zeros(len(products), self.width) if state is None else state[0]
        mask = self.between.mask(before)
        outputs, last = highways.run(plan, products, before, [self.of_state.weight, *weights], mask)
        return outputs, (last,)

    def step(self, x: Tensor, state: State, mask: Tensor | None) -> State:
        (h,) = state
        states = [highway(h, x + self.of_state(through(h, mask)), self.first)]
        for node in self.nodes:
            states.append(node(states, mask))
        return (self.ends.mean([states[int(name)] for name in self.ends.active]),)


class Multiply(nn.Module):
    """The product of two tensors, element by element."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x * y


class Combined(nn.Module):
    """A node of a tree: two tensors combined, without and with the activation of that."""

    def __init__(self, combine: nn.Module, activation: nn.Module) -> None:
        super().__init__()
        self.combine = combine
        self.activation = activation

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        combined = self.combine(x, y)
        return combined, self.activation(combined)


class Tree(Recurrent):
    """NAS-RL's cell: leaves combine input and last output, each other node two before it; the last one is put out.

    Of one node the value is combined with the memory and is what its reader gets; what one combines, before its
    activation, is the next memory.
    """

    def __init__(
        self,
        inputs: int,
        width: int,
        nodes: Sequence[nn.Module],
        inject: nn.Module,
        injected: Members,
        memory: nn.Module,
    ) -> None:
        """nodes: leaves, then level by level. injected: the one that `inject` is for. memory: of all nodes the one."""
        super().__init__(inputs, width, products=(len(nodes) + 1) // 2, states=2)
        self.nodes = nn.ModuleList(nodes)
        self.inject = inject
        self.injected = injected
        self.memory = memory

    def step(self, x: Tensor, state: State, mask: Tensor | None) -> State:
        h, memory = state
        leaves = (len(self.nodes) + 1) // 2
        pairs = zip(x.chunk(leaves, -1), self.of_state(through(h, mask)).chunk(leaves, -1), strict=True)
        operands = [part for pair in pairs for part in pair]  # node k takes 2 k and 2 k + 1, and what it makes is added
        combined = []
        for number, node in enumerate(self.nodes):
            before, value = node(*operands[2 * number : 2 * number + 2])
            combined.append(before)
            if str(number) in self.injected.active:
                value = self.inject(value, memory)[1]
            operands.append(value)
        return operands[-1], self.memory(*combined)


# --- from what a space asks

COMBINE: Mapping[str, Callable[[], nn.Module]] = {"add": Add, "elem_mult": Multiply}


def graph(choose: Choose, inputs: int, width: int, nodes: int, every: bool, edges: bool) -> Graph:
    """nodes: with node 0. every: whether all others are averaged. edges: each pair of nodes has weights of its own."""

    def linear() -> nn.Module:
        return nn.Linear(width, 2 * width, bias=False)

    def node(number: int) -> Node:
        names = [str(other) for other in range(number)]
        name = f"node{number}"
        source = choose.inputs(f"{name}.input", names) if number > 1 else Take(0)
        activation = choose.layer(f"{name}.act", MODULES)
        own = choose.layer(f"{name}.input", dict.fromkeys(names, linear)) if edges and number > 1 else linear()
        return Node(source, activation, own)

    first = choose.layer("node0.act", MODULES)
    found = [node(number) for number in range(1, nodes)]
    rule = partial(ends, nodes=nodes, every=every)
    names = [str(number) for number in range(nodes)]
    return Graph(inputs, width, first, found, choose.subset(rule, dict.fromkeys(names, nn.Identity)))


def tree(choose: Choose, inputs: int, width: int, base: int) -> Tree:
    """base: number of leaves."""

    def combined(name: str) -> Combined:
        return Combined(choose.layer(f"{name}.combine", COMBINE), choose.layer(f"{name}.act", MODULES))

    names = [str(number) for number in range(2 * base - 1)]
    nodes = [combined(f"node{name}") for name in names]
    taken = choose.subset(injected, dict.fromkeys(names, nn.Identity))
    return Tree(inputs, width, nodes, combined("inject"), taken, choose.inputs("index.cell", names))
