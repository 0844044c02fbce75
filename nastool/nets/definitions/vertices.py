"""A network of cells with an operation at every inner vertex."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nastool.nets.blocks import GlobalPool, conv_bn_relu

OUTPUT = 6  # 0 is the input


def vertex_channels(sources: Mapping[int, Sequence[int]], channels: int) -> dict[int, int]:
    """Channels of every live inner vertex of a cell whose output has so many, as published.

    Vertices that feed the output share its channels, the first ones taking one more where that leaves a
    remainder; every other has as many as the widest of its targets. sources: of each vertex those that it reads, on
    paths from the input to the output.
    """
    feeding = [x for x in sources[OUTPUT] if x]
    width = {x: channels // len(feeding) + (i < channels % len(feeding)) for i, x in enumerate(feeding)}
    for x in reversed(range(1, OUTPUT)):
        if x not in width and (targets := [y for y in range(x + 1, OUTPUT) if x in sources[y]]):
            width[x] = max(width[y] for y in targets)
    return dict(sorted(width.items()))


def operation(name: str, c: int) -> nn.Module:
    if name == "maxpool3x3":
        return nn.MaxPool2d(3, stride=1, padding=1)
    return conv_bn_relu(c, c, 3 if name == "conv3x3-bn-relu" else 1)


class Cell(nn.Module):
    """(N, c_in, H, W) -> (N, c_out, H, W)."""

    def __init__(self, c_in: int, c_out: int, ops: Mapping[int, str], sources: Mapping[int, Sequence[int]]) -> None:
        """ops: vertex -> operation. sources: of each vertex and the output those it reads, 0 for the input."""
        super().__init__()
        self.sources = sources
        self.inner = vertex_channels(sources, c_out)
        fed = {v: c for v, c in {**self.inner, OUTPUT: c_out}.items() if 0 in sources[v]}
        self.projections = nn.ModuleDict({str(v): conv_bn_relu(c_in, c, 1) for v, c in fed.items()})
        self.ops = nn.ModuleDict({str(v): operation(ops[v], c) for v, c in self.inner.items()})

    def forward(self, x: Tensor) -> Tensor:
        values: dict[int, Tensor] = {}
        for v, channels in self.inner.items():
            terms = [values[u][:, :channels] for u in self.sources[v] if u]
            if 0 in self.sources[v]:
                terms.append(self.projections[str(v)](x))
            values[v] = self.ops[str(v)](sum(terms[1:], terms[0]))
        parts = [values[v] for v in self.sources[OUTPUT] if v]
        if 0 not in self.sources[OUTPUT]:
            return torch.cat(parts, 1)
        projected: Tensor = self.projections[str(OUTPUT)](x)
        return projected + torch.cat(parts, 1) if parts else projected


class Network(nn.Sequential):
    """Stem, stacks of cells with 2x2 max pooling and twice the channels in between, global pooling, linear."""

    def __init__(
        self,
        ops: Mapping[int, str],
        sources: Mapping[int, Sequence[int]],
        channels: int,
        classes: int,
        *,
        width: int,
        stacks: int,
        cells: int,
    ) -> None:
        """ops, sources: see `Cell`. channels: of the images. width: of the first stack. cells: of each stack."""
        layers: list[nn.Module] = [conv_bn_relu(channels, width, 3)]
        for stack in range(stacks):
            if stack:
                layers.append(nn.MaxPool2d(2, ceil_mode=True))
            for cell in range(cells):
                c_out = 2 * width if stack and not cell else width
                layers.append(Cell(width, c_out, ops, sources))
                width = c_out
        super().__init__(*layers, GlobalPool(), nn.Linear(width, classes))
