"""Layers, each of which reads any earlier ones. Without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """What the decisions say of one layer.

    kind: "conv", "max_pool" or "batch_norm". size, stride: (height, width). filters: of a convolution. inputs: numbers
    of the layers that it reads, from 1, ascending; () for the image.
    """

    kind: str
    size: tuple[int, int]
    stride: tuple[int, int]
    filters: int
    inputs: tuple[int, ...]


def loose_ends(layers: Sequence[Layer]) -> list[int]:
    """The numbers of the layers that no other one reads. The last layer is one of them."""
    read = {j for layer in layers for j in layer.inputs}
    return [i for i in range(1, len(layers) + 1) if i not in read]


def channels_of(layers: Sequence[Layer], image: int) -> list[int]:
    """Of the image and every layer's output."""
    channels = [image]
    for layer in layers:
        c_in = sum(channels[j] for j in layer.inputs or (0,))
        channels.append(layer.filters if layer.kind == "conv" else c_in)
    return channels
