"""A network of cells with an operation on every edge."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from torch import nn

from nastool.core.space import Choose
from nastool.nets.blocks import Dag, GlobalPool, Residual, Zero, conv, conv_bn, relu_conv_bn


def cell(choose: Choose, edges: Sequence[tuple[int, int]], c: int) -> Dag:
    """(N, c, H, W) in and out."""
    options: dict[str, Callable[[], nn.Module]] = {
        "none": Zero,
        "skip_connect": nn.Identity,
        "nor_conv_1x1": partial(relu_conv_bn, c, c, 1),
        "nor_conv_3x3": partial(relu_conv_bn, c, c, 3),
        "avg_pool_3x3": partial(nn.AvgPool2d, 3, stride=1, padding=1, count_include_pad=False),
    }
    return Dag({(j, i): choose.layer(f"{i}<-{j}", options) for j, i in edges})


def reduction(c: int) -> Residual:
    """Half the height and width, twice the channels."""
    shortcut = nn.Sequential(nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False), conv(c, 2 * c, 1))
    body = nn.Sequential(relu_conv_bn(c, 2 * c, 3, stride=2), relu_conv_bn(2 * c, 2 * c, 3))
    return Residual(body, shortcut)


class Network(nn.Sequential):
    """3 stages of cells, residual reductions between."""

    def __init__(
        self, choose: Choose, edges: Sequence[tuple[int, int]], channels: int, classes: int, *, width: int, cells: int
    ) -> None:
        """edges: (source, target) of a cell. channels: of the images.

        width: of the first stage. cells: of each stage.
        """
        layers: list[nn.Module] = [conv_bn(channels, width, 3)]
        for stage in range(3):
            if stage:
                layers.append(reduction(width))
                width *= 2
            layers += [cell(choose, edges, width) for _ in range(cells)]
        super().__init__(*layers, nn.BatchNorm2d(width), nn.ReLU(), GlobalPool(), nn.Linear(width, classes))
