"""Networks for rows of a table: MLPs and residual ones, perhaps with a linear path beside (`spaces/tabular_net.py`)."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class Block(nn.Module):
    """x + f(x), where f is batch normalisation, linear, ReLU, dropout, linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm1d(width), nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(0.0), nn.Linear(hidden, width)
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x + self.layers(x)
        return y


class Beside(nn.Module):
    """The sum of a network's output and of a linear layer's."""

    def __init__(self, network: nn.Module, features: int, outputs: int) -> None:
        super().__init__()
        self.network = network
        self.linear = nn.Linear(features, outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.network(x) + self.linear(x)
        return y


def mlp(features: int, width: int, blocks: int, outputs: int) -> nn.Sequential:
    """`blocks` times linear, ReLU, dropout; then a linear layer."""
    widths = [features] + [width] * blocks
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(0.0)]
    return nn.Sequential(*layers, nn.Linear(widths[-1], outputs))


def resnet(features: int, width: int, blocks: int, hidden: int, outputs: int) -> nn.Sequential:
    """A linear layer, `blocks` residual blocks, then batch normalisation, ReLU and a linear layer."""
    stem, body = nn.Linear(features, width), [Block(width, hidden) for _ in range(blocks)]
    return nn.Sequential(stem, *body, nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, outputs))
