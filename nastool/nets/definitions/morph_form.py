"""Layers that may be joined with earlier ones. Without torch."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Layer:
    """A layer that is there.

    name: "stage1_layer2". stage, slot: from 1. kernel: side. width: channels. source: the earlier layer that it is
    joined with, None where with none. from_stage_input: that is the last layer of the stage before. join: "concat" or
    "add".
    """

    name: str
    stage: int
    slot: int
    kernel: int
    width: int
    source: str | None = None
    from_stage_input: bool = False
    join: str = ""


def value_of(layer: Layer) -> list[str]:
    """The layers whose values, one after another along channels, whoever comes after the layer reads."""
    return [layer.name, layer.source] if layer.source is not None and layer.join == "concat" else [layer.name]
