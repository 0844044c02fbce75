"""A network of layers that can grow."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, pad

from nastool.nets.blocks import conv_bn_relu
from nastool.nets.definitions.morph_form import Layer, value_of


class Joined(nn.Module):
    """A layer, and the channels' shares r where it is joined by "add"."""

    def __init__(self, c_in: int, c_out: int, kernel: int, shared: int) -> None:
        """shared: channels that are joined; 0: there is no join by "add"."""
        super().__init__()
        self.conv = conv_bn_relu(c_in, c_out, kernel)
        self.width = c_out
        if shared:
            self.share = nn.Parameter(torch.ones(shared))

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        y: Tensor = self.conv(x)
        if skip is None:
            return y
        share: Tensor = self.share
        if self.training:  # projected gradient descent: r*y + (1 - r)*v stays a convex sum
            share.data.clamp_(0, 1)  # by .data, so that several passes may come before a backward one
        else:
            share = share.clamp(0, 1)  # after the last step; its gradient at 0 and 1 may be 0, so not above
        share = share.to(y.dtype)
        if (missing := self.width - skip.shape[1]) != 0:
            skip = pad(skip, (0, 0, 0, 0, 0, missing))  # a negative one crops
        if missing > 0:
            share = pad(share, (0, missing), value=1.0)
        return torch.lerp(skip.to(y.dtype), y, share[:, None, None])


class Network(nn.Module):
    """Stages of layers, 2x2 max pooling between them, global average pooling, linear."""

    def __init__(self, layers: Sequence[Layer], channels: int, classes: int) -> None:
        """channels: of the images."""
        super().__init__()
        widths = {layer.name: layer.width for layer in layers}
        c_in = channels
        modules = {}
        for layer in layers:
            added = layer.source is not None and layer.join == "add"
            shared = min(layer.width, widths[layer.source]) if layer.source is not None and added else 0
            modules[layer.name] = Joined(c_in, layer.width, layer.kernel, shared)
            c_in = sum(widths[name] for name in value_of(layer))
        self.plan = layers
        self.layers = nn.ModuleDict(modules)
        self.classifier = nn.Linear(c_in, classes)

    def forward(self, images: Tensor) -> Tensor:
        x, stage = images, 1
        values: dict[str, Tensor] = {}
        reads: list[str] = []
        for layer, module in zip(self.plan, self.layers.values(), strict=True):
            if layer.stage != stage:
                stage = layer.stage
                values = {name: max_pool2d(v, 2, ceil_mode=True) for name, v in values.items() if name in reads}
                x = torch.cat([values[name] for name in reads], 1) if len(reads) > 1 else values[reads[0]]
            skip = values[layer.source] if layer.source is not None else None
            value = module(x, skip if layer.join == "add" else None)
            values[layer.name] = value
            reads = value_of(layer)
            x = torch.cat([values[name] for name in reads], 1) if len(reads) > 1 else value
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits
