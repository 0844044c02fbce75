"""Building blocks that several spaces' networks are made of. Plain modules: (N, C, H, W) in and out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from nastool.networks import OneOf


def conv(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Conv2d:
    """Convolution without bias, padded so that output = ceil(input / stride)."""
    return nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, groups=groups, bias=False)


def conv_bn(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(conv(c_in, c_out, kernel, stride, groups), nn.BatchNorm2d(c_out))


def conv_bn_relu(c_in: int, c_out: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
    return nn.Sequential(*conv_bn(c_in, c_out, kernel, stride, groups), nn.ReLU())


def relu_conv_bn(c_in: int, c_out: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.ReLU(), *conv_bn(c_in, c_out, kernel, stride))


class GlobalPool(nn.Module):
    """(N, C, H, W) -> (N, C): the mean over positions."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class Zero(nn.Module):
    """No connection: zeros in the input's shape. `Dag` leaves it out."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x)


class Residual(nn.Module):
    """x -> body(x) + shortcut(x)."""

    def __init__(self, body: nn.Module, shortcut: nn.Module | None = None) -> None:
        super().__init__()
        self.body = body
        self.shortcut = nn.Identity() if shortcut is None else shortcut

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x) + self.shortcut(x)
        return out


class Dag(nn.Module):
    """A cell of nodes 0 .. n: node 0 is the input, every other the sum of its incoming edges, the last the output.

    All nodes have the input's shape; a node without incoming edges is zero.
    """

    def __init__(self, edges: Mapping[tuple[int, int], nn.Module]) -> None:
        """edges: (source, target) -> module, 0 <= source < target."""
        super().__init__()
        self.edges = nn.ModuleDict({f"{target}<-{source}": module for (source, target), module in edges.items()})
        nodes = max(target for _, target in edges)
        self.inputs: Sequence[Sequence[tuple[int, str]]] = [
            [(source, f"{target}<-{source}") for source, t in edges if t == target] for target in range(1, nodes + 1)
        ]

    def forward(self, x: Tensor) -> Tensor:
        states = [x]
        for inputs in self.inputs:
            total: Tensor | None = None
            for source, name in inputs:
                edge = self.edges[name]
                if isinstance(edge, OneOf):
                    edge = edge.active
                if isinstance(edge, Zero):
                    continue
                term: Tensor = edge(states[source])
                total = term if total is None else total + term
            states.append(torch.zeros_like(x) if total is None else total)
        return states[-1]
