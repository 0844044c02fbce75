"""A network of blocks one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from torch import nn

from nastool.core.space import Choose
from nastool.nets.blocks import GlobalPool, Residual, conv_bn, conv_bn_relu
from nastool.nets.depthwise import DepthwiseConv2d


def inverted_residual(c_in: int, c_out: int, stride: int, kernel: int, expansion: int) -> nn.Module:
    hidden = expansion * c_in
    body = nn.Sequential(
        conv_bn_relu(c_in, hidden, 1),
        nn.Sequential(DepthwiseConv2d(hidden, kernel, stride), nn.BatchNorm2d(hidden), nn.ReLU()),
        conv_bn(hidden, c_out, 1),
    )
    return Residual(body) if stride == 1 and c_in == c_out else body


def identity(c_in: int, c_out: int, stride: int) -> nn.Module:
    return nn.Identity() if stride == 1 and c_in == c_out else conv_bn(c_in, c_out, 1, stride)


class Network(nn.Sequential):
    """Stem, 8 searched layers, 1x1 convolution, global pooling, linear."""

    def __init__(
        self, choose: Choose, stages: Sequence[int], channels: int, classes: int, *, width: int, cells: int, head: int
    ) -> None:
        """stages: layers of each. channels: of the images. width: of the stem. cells: blocks per layer.

        head: width of the last convolution.
        """
        layers: list[nn.Module] = [conv_bn_relu(channels, width, 3)]
        searched = 0
        for depth in stages:
            for layer in range(depth):
                searched += 1
                for block in range(cells):
                    c_in, stride = (width, 2) if layer == block == 0 else (2 * width, 1)
                    options = {
                        "identity": partial(identity, c_in, 2 * width, stride),
                        "mbconv3_e3": partial(inverted_residual, c_in, 2 * width, stride, 3, 3),
                        "mbconv5_e6": partial(inverted_residual, c_in, 2 * width, stride, 5, 6),
                    }
                    layers.append(choose.layer(f"layer{searched}", options))
            width *= 2
        super().__init__(*layers, conv_bn_relu(width, head, 1), GlobalPool(), nn.Linear(head, classes))
