"""Networks of cells with an operation on every edge."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from torch import Tensor, nn

from nastool.core.space import Choose
from nastool.nets.blocks import Dag, GlobalPool, Residual, Vote, Zero, conv, conv_bn, relu_conv_bn
from nastool.nets.definitions.edges_form import EDGES


def cell(choose: Choose, c: int, place: str = "") -> Dag:
    """(N, c, H, W) in and out. place: begins the names of its decisions."""
    options: dict[str, Callable[[], nn.Module]] = {
        "none": Zero,
        "skip_connect": nn.Identity,
        "nor_conv_1x1": partial(relu_conv_bn, c, c, 1),
        "nor_conv_3x3": partial(relu_conv_bn, c, c, 3),
        "avg_pool_3x3": partial(nn.AvgPool2d, 3, stride=1, padding=1, count_include_pad=False),
    }
    return Dag({(j, i): choose.layer(f"{place}{i}<-{j}", options) for j, i in EDGES})


def reduction(c: int) -> Residual:
    """Half the height and width, twice the channels."""
    shortcut = nn.Sequential(nn.AvgPool2d(2, ceil_mode=True, count_include_pad=False), conv(c, 2 * c, 1))
    body = nn.Sequential(relu_conv_bn(c, 2 * c, 3, stride=2), relu_conv_bn(2 * c, 2 * c, 3))
    return Residual(body, shortcut)


def first_stages(choose: Choose, channels: int, *, width: int, cells: int, place: str = "") -> list[nn.Module]:
    """Stem, stage of cells, residual reduction, stage: images of so many channels to twice the width.

    width: of the first stage. cells: of each stage.
    """
    layers: list[nn.Module] = [conv_bn(channels, width, 3)]
    layers += [cell(choose, width, place) for _ in range(cells)]
    layers.append(reduction(width))
    return [*layers, *(cell(choose, 2 * width, place) for _ in range(cells))]


def last_stage(choose: Choose, outputs: int, *, width: int, cells: int, place: str = "") -> list[nn.Module]:
    """Residual reduction, stage of cells, pooling, classifier. width: as of `first_stages`."""
    layers: list[nn.Module] = [reduction(2 * width)]
    layers += [cell(choose, 4 * width, place) for _ in range(cells)]
    return [*layers, nn.BatchNorm2d(4 * width), nn.ReLU(), GlobalPool(), nn.Linear(4 * width, outputs)]


class Network(nn.Sequential):
    """3 stages of cells, residual reductions between."""

    def __init__(self, choose: Choose, channels: int, outputs: int, *, width: int, cells: int) -> None:
        """Arguments as of `first_stages` and `last_stage`."""
        first = first_stages(choose, channels, width=width, cells=cells)
        super().__init__(*first, *last_stage(choose, outputs, width=width, cells=cells))


class MultiHeaded(nn.Module):
    """The same whose last stage is there several times, each with decisions of its own; what they say is averaged."""

    def __init__(
        self, choose: Choose, channels: int, outputs: int, *, heads: int, numbers: bool, width: int, cells: int
    ) -> None:
        """numbers: Numbers are said, not logits of classes. Others: as of `Network`."""
        super().__init__()
        places = [f"head{i}." for i in range(1, heads + 1)]
        first = first_stages(choose, channels, place="backbone.", width=width, cells=cells)
        self.backbone = nn.Sequential(*first)
        self.heads = nn.ModuleList(
            nn.Sequential(*last_stage(choose, outputs, place=place, width=width, cells=cells)) for place in places
        )
        self.vote = Vote(numbers)

    def forward(self, images: Tensor) -> Any:
        seen = self.backbone(images)
        return self.vote(seen, *(head(seen) for head in self.heads))
