"""A network of layers that read any earlier ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from nastool.nets.definitions.layerwise_form import Layer, channels_of, loose_ends


def concatenate(parts: Sequence[Tensor]) -> Tensor:
    """Along channels; the smaller are padded with zeros to the largest height and width."""
    height, width = (max(part.shape[axis] for part in parts) for axis in (2, 3))
    padded = []
    for part in parts:
        rows, columns = height - part.shape[2], width - part.shape[3]
        sides = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        padded.append(pad(part, sides) if rows or columns else part)
    return torch.cat(padded, 1)


def operation(layer: Layer, c_in: int, c_out: int) -> nn.Module:
    same = (layer.size[0] // 2, layer.size[1] // 2)
    if layer.kind == "max_pool":
        return nn.MaxPool2d(layer.size, layer.stride, same)
    if layer.kind == "batch_norm":
        return nn.BatchNorm2d(c_in)
    conv = nn.Conv2d(c_in, c_out, layer.size, layer.stride, same, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(c_out), nn.ReLU())


class Network(nn.Module):
    """The layers, then what no layer reads concatenated, global average pooling, linear."""

    def __init__(self, layers: Sequence[Layer], channels: int, classes: int) -> None:
        """channels: of the images."""
        super().__init__()
        self.reads = [layer.inputs or (0,) for layer in layers]
        widths = channels_of(layers, channels)
        c_ins = [sum(widths[j] for j in reads) for reads in self.reads]
        self.operations = nn.ModuleList(map(operation, layers, c_ins, widths[1:]))
        self.ends = loose_ends(layers)
        self.classifier = nn.Linear(sum(widths[i] for i in self.ends), classes)

    def forward(self, images: Tensor) -> Tensor:
        outputs = [images]
        for reads, apply in zip(self.reads, self.operations, strict=True):
            outputs.append(apply(concatenate([outputs[j] for j in reads])))
        features = concatenate([outputs[i] for i in self.ends]).mean((2, 3))
        logits: Tensor = self.classifier(features)
        return logits
