"""A network stacked from two cells."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from nastool.core.space import Choose, Members
from nastool.nets import together
from nastool.nets.blocks import (
    Add,
    Concat,
    DropPath,
    FactorizedReduce,
    GlobalPool,
    Join,
    Take,
    TrainingOnly,
    Zero,
    conv,
    conv_bn,
    cross_conv,
    dil_conv,
    pool,
    relu_conv_bn,
    sep_conv,
)
from nastool.nets.definitions.cells_form import INPUTS, Cells
from nastool.nets.launches import are_few
from nastool.nets.networks import active


def operation(name: str, c: int, stride: int, drop: nn.Module) -> nn.Module:
    """(N, c, H, W) -> (N, c, H / stride, W / stride), rounded up."""
    if name == "none":
        return Zero(stride)
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else nn.Sequential(nn.ReLU(), FactorizedReduce(c, c))
    family, *_, size = name.split("_")
    kernel = int(size[0])
    body: nn.Module
    if family in ("avg", "max"):
        body = pool(family, kernel, stride)
    elif family == "sep":
        body = sep_conv(c, kernel, stride)
    elif family == "dil":
        body = dil_conv(c, kernel, stride)
    elif size in ("3x1", "7x1"):
        body = cross_conv(c, kernel, stride)
    else:
        body = relu_conv_bn(c, c, kernel, stride)
    return nn.Sequential(body, drop)


def edge(choose: Choose, form: Cells, kind: str, block: int, slot: int, c: int, drop: nn.Module) -> nn.Module:
    """A cell's states by name -> one of the two terms of a block."""

    def through(state: str) -> nn.Module:
        stride = 2 if kind == "reduce" and state in INPUTS else 1
        options = {op: partial(operation, op, c, stride, drop) for op in form.ops}
        return Take(state, choose.layer(f"{kind}{block}.op{slot}", options))

    states = form.states[: block + 1]
    return choose.layer(f"{kind}{block}.input{slot}", {state: partial(through, state) for state in states})


class Block(nn.Module):
    """A cell's states by name -> a new state: two terms, combined."""

    def __init__(self, choose: Choose, form: Cells, kind: str, block: int, c: int, drop: nn.Module) -> None:
        super().__init__()
        self.first, self.second = (edge(choose, form, kind, block, slot, c, drop) for slot in (1, 2))
        options: dict[str, Callable[[], nn.Module]] = {}
        if form.combine != "concat":
            options["add"] = Add
        if form.combine != "add":
            options["concat"] = lambda: Concat(relu_conv_bn(2 * c, c, 1))
        self.combine = choose.layer(f"{kind}{block}.combine", options) if len(options) > 1 else options[form.combine]()

    def forward(self, states: Mapping[str, Tensor]) -> Tensor:
        out: Tensor = self.combine(self.first(states), self.second(states))
        return out


@dataclass(frozen=True)
class Stack:
    """The cells of a network. kinds: of each. channels: of a state in the first. stem: of the stem."""

    form: Cells
    kinds: tuple[str, ...]
    channels: int
    stem: int

    def width(self, index: int) -> int:
        """Channels of a cell's states; -1, -2: of the stem."""
        return self.channels << self.kinds[: index + 1].count("reduce") if index >= 0 else self.stem

    def outputs(self, index: int, chosen: Mapping[str, str]) -> Collection[str]:
        """Those of a cell's states that are read; -1, -2: the stem has one."""
        return self.form.outputs(chosen, self.kinds[index]) if index >= 0 else ("stem",)

    def weights(self, choose: Choose, index: int, c_out: int) -> Members:
        """Of a 1x1 convolution over a cell's outputs."""
        names = (self.form.fixed[self.kinds[index]] or self.form.states) if index >= 0 else ("stem",)
        return choose.subset(
            partial(self.outputs, index), {name: partial(conv, self.width(index), c_out, 1) for name in names}
        )


class Cell(nn.Module):
    """The states of the two cells before, by name -> this cell's; each reader knows which are outputs."""

    def __init__(self, choose: Choose, stack: Stack, index: int, twice: bool) -> None:
        super().__init__()
        form, kind, c = stack.form, stack.kinds[index], stack.width(index)
        drop = DropPath((index + 1) / len(stack.kinds))

        def adapt(state: str) -> nn.Module:
            halves = state == "0" and index > 0 and stack.kinds[index - 1] == "reduce"
            join = Join(stack.weights(choose, index - 2 + int(state), c), nn.ReLU(), halves=halves)
            again = [relu_conv_bn(c, c, 1)] if twice and state == "1" else []
            return nn.Sequential(join, nn.BatchNorm2d(c), *again)

        def pass_on() -> nn.Module:
            return FactorizedReduce(c, c) if kind == "reduce" else nn.Identity()

        live = partial(form.live, kind=kind)
        blocks = {str(b + 1): partial(Block, choose, form, kind, b, c, drop) for b in range(1, form.blocks + 1)}
        self.inputs = choose.subset(live, {state: partial(adapt, state) for state in INPUTS})
        self.blocks = choose.subset(live, blocks)
        self.passed_on = choose.subset(partial(stack.outputs, index), dict.fromkeys(INPUTS, pass_on))

    def forward(self, *before: Mapping[str, Tensor]) -> dict[str, Tensor]:
        states = {state: adapt(before[int(state)]) for state, adapt in self.inputs.active.items()}
        for state, block in self.blocks.active.items():
            states[state] = block(states)
        return self._passed_on(states)

    def _passed_on(self, states: dict[str, Tensor]) -> dict[str, Tensor]:
        for state, pass_on in self.passed_on.active.items():
            states[state] = pass_on(states[state])
        return states

    def _waves(self) -> Iterator[list[tuple[str, int, str, nn.Module]]]:
        """Edges that run together, as soon as their states are there: block, slot, state and operation.

        Those with weights wait until there are no others, and then those go first of whose kind there are most.
        """
        blocks: dict[str, Any] = self.blocks.active
        left: list[tuple[str, int, str, nn.Module]] = []
        for name, block in blocks.items():
            for slot, term in enumerate((block.first, block.second)):
                take: Any = active(term)
                left.append((name, slot, take.name, active(take.body)))
        while left:
            waiting = {name for name, *_ in left}
            ready = [edge for edge in left if edge[2] not in waiting]
            largest = max(together.groups([edge[3] for edge in ready]), key=len)
            without = [i for i, edge in enumerate(ready) if not together.has_weights(edge[3])]
            wave = [ready[i] for i in without or largest]
            left = [edge for edge in left if edge not in wave]
            yield wave

    def run_together(self, states: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same in few and large operations. states: the inputs, adapted already."""
        terms: dict[str, dict[int, Tensor]] = {name: {} for name in self.blocks.active}
        blocks: dict[str, Any] = self.blocks.active
        positive: dict[Tensor, Tensor] = {}
        for wave in self._plan:
            found = together.run([edge[3] for edge in wave], [states[edge[2]] for edge in wave], positive)
            for (name, slot, *_), term in zip(wave, found, strict=True):
                terms[name][slot] = term
            for name, _, *_ in wave:
                if len(terms[name]) == 2 and name not in states:
                    states[name] = blocks[name].combine(terms[name][0], terms[name][1])
        return self._passed_on(states)

    def joins(self) -> list[list[nn.Module]]:
        """See `launches.few_launches`."""
        self._plan = list(self._waves())
        return [group for wave in self._plan for group in together.joins([edge[3] for edge in wave])]


def auxiliary_head(weights: Members, height: int, width: int, classes: int) -> nn.Module:
    """DARTS' head: pooling 5x5 with stride 3, 1x1 convolution to 128 channels, 2x2 to 768, BN and ReLU, linear.

    height, width: of its input, 8 there; windows are no larger than that, and positions that are left are averaged.
    """
    window = min(5, height), min(5, width)
    kernel = min(2, (height - window[0]) // 3 + 1), min(2, (width - window[1]) // 3 + 1)
    return TrainingOnly(
        Join(weights, nn.Sequential(nn.ReLU(), nn.AvgPool2d(window, 3))),
        nn.BatchNorm2d(128),
        nn.ReLU(),
        nn.Conv2d(128, 768, kernel, bias=False),
        nn.BatchNorm2d(768),
        nn.ReLU(),
        GlobalPool(),
        nn.Linear(768, classes),
    )


class Network(nn.Module):
    """3x3 convolution and BN; N normal cells, reduction, N normal, reduction, N normal; ReLU, pooling, linear."""

    stack: Stack

    def __init__(
        self,
        choose: Choose,
        form: Cells,
        channels: int,
        classes: int,
        *,
        width: int,
        cells: int,
        stem: int,
        twice: bool = False,
        also: Collection[int] = (),
    ) -> None:
        """channels: of the images. width: of a state in the first stage. cells: normal ones of each of three stages.

        stem: channels of the stem. twice: see `Cell`. also: cells that something reads besides the last one.
        """
        super().__init__()
        kinds = ("normal",) * cells + (("reduce",) + ("normal",) * cells) * 2
        self.stack = stack = Stack(form, kinds, width, stem)
        self.stem = conv_bn(channels, stem, 3)
        self.cells = choose.subset(
            partial(form.live_cells, kinds=kinds, read={len(kinds) - 1, *also}),
            {str(index): partial(Cell, choose, stack, index, twice) for index in range(len(kinds))},
        )
        pooling = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Dropout(0.0))
        bias = nn.Parameter(torch.zeros(classes))
        self.classifier = Join(stack.weights(choose, len(kinds) - 1, classes), pooling, bias=bias)

    def forward(self, images: Tensor) -> Any:
        (last,) = deque(self.outputs(images), maxlen=1)
        return self.classifier(last).flatten(1)

    def outputs(self, images: Tensor) -> Iterator[dict[str, Tensor]]:
        """Those of each cell, in order; {} where nothing reads them."""
        before: dict[str, Tensor] = {"stem": self.stem(images)}
        last = before
        if are_few():
            yield from self._run_together(last)
            return
        cells = self.cells.active
        for index in range(len(self.stack.kinds)):
            before, last = last, cells[str(index)](before, last) if str(index) in cells else {}
            yield last

    def _run_together(self, last: dict[str, Tensor]) -> Iterator[dict[str, Tensor]]:
        """The same with what reads a cell's outputs run as one. last: the stem's output."""
        cells: dict[str, Any] = self.cells.active
        count = len(self.stack.kinds)
        given: dict[int, dict[str, Tensor]] = {index: {} for index in range(count + 2)}
        self._adapt(-1, last, given)
        for index in range(count):
            last = cells[str(index)].run_together(given[index]) if str(index) in cells else {}
            if last:
                self._adapt(index, last, given)
            yield last

    def joins(self) -> list[list[nn.Module]]:
        """See `launches.few_launches`."""
        readers = [self._readers(index) for index in range(-1, len(self.stack.kinds))]
        adapts = [[(adapt[0], adapt[1]) for *_, adapt in each] for each in readers]
        return [group for each in adapts for group in together.adapt_joins(each)]

    def _readers(self, index: int) -> list[tuple[int, str, Any]]:
        """Who brings a cell's outputs, or the stem's (-1), into its form: a cell, its state, by what."""
        cells: dict[str, Any] = self.cells.active
        readers = [(index + 1, "1"), (index + 2, "0")] if index >= 0 else [(0, "0"), (0, "1"), (1, "0")]
        inputs = {i: cells[str(i)].inputs.active for i, _ in readers if str(i) in cells}
        return [(i, state, inputs[i][state]) for i, state in readers if i in inputs and state in inputs[i]]

    def _adapt(self, index: int, outputs: dict[str, Tensor], given: dict[int, dict[str, Tensor]]) -> None:
        readers = self._readers(index)
        if readers:
            found = together.adapt([(adapt[0], adapt[1]) for *_, adapt in readers], outputs)
            for (reader, state, adapt), x in zip(readers, found, strict=True):
                given[reader][state] = adapt[2:](x)


class WithAuxiliary(Network):
    """With a second classifier after the second reduction cell: in training it returns (logits, auxiliary logits)."""

    def __init__(
        self,
        choose: Choose,
        form: Cells,
        channels: int,
        classes: int,
        *,
        cells: int,
        image: tuple[int, int],
        **more: Any,
    ) -> None:
        """image: height and width. more: as of `Network`."""
        self.after = 2 * cells + 1
        super().__init__(choose, form, channels, classes, cells=cells, also=(self.after,), **more)
        height, width = (-(-n // 4) for n in image)
        self.auxiliary = auxiliary_head(self.stack.weights(choose, self.after, 128), height, width, classes)

    def forward(self, images: Tensor) -> Any:
        for index, last in enumerate(self.outputs(images)):
            if index == self.after and self.training:
                auxiliary = self.auxiliary(last)
        logits = self.classifier(last).flatten(1)
        return (logits, auxiliary) if self.training else logits
