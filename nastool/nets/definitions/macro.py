"""A network of layers that outputs of earlier ones join."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from torch import Tensor, nn

from nastool.core.space import Choose, Members
from nastool.nets import together
from nastool.nets.blocks import FactorizedReduce, GlobalPool, Join, Separable, Sum, conv, conv_bn, conv_bn_relu, pool
from nastool.nets.definitions.macro_form import merged, read_after, reductions
from nastool.nets.launches import are_few


def separable(c: int, kernel: int) -> list[nn.Module]:
    return [Separable(c, c, kernel), nn.BatchNorm2d(c), nn.ReLU()]


def operation(choose: Choose, layer: int, c: int, first: bool) -> nn.Module:
    """first: a ReLU before all else."""

    def after_1x1(*body: nn.Module) -> nn.Module:
        return nn.Sequential(*([nn.ReLU()] if first else []), *conv_bn_relu(c, c, 1), *body)

    options: dict[str, Callable[[], nn.Module]] = {
        "conv_3x3": lambda: after_1x1(*conv_bn_relu(c, c, 3)),
        "sep_conv_3x3": lambda: after_1x1(*separable(c, 3)),
        "conv_5x5": lambda: after_1x1(*conv_bn_relu(c, c, 5)),
        "sep_conv_5x5": lambda: after_1x1(*separable(c, 5)),
        "avg_pool_3x3": lambda: after_1x1(pool("avg", 3)),
        "max_pool_3x3": lambda: after_1x1(pool("max", 3)),
    }
    return choose.layer(f"layer{layer}.op", options)


class Layer(nn.Module):
    """The previous layer's output; all that are to be read, by layer -> the same, this layer's included."""

    def __init__(self, choose: Choose, layer: int, layers: int, c: int, c_next: int, concat: bool) -> None:
        """layer: its number, from 1 to `layers`. c, c_next: channels of this layer and the next."""
        super().__init__()
        self.name = f"layer{layer}"
        self.operation = operation(choose, layer, c, concat)
        up_to_here = [f"layer{j}" for j in range(1, layer + 1)]
        self.merge: nn.Module | None = None
        if layer > 1:
            part = partial(conv, c, c, 1) if concat else nn.Identity
            parts = choose.subset(partial(merged, layer=layer), dict.fromkeys(up_to_here, part))
            self.merge = nn.Sequential(Join(parts, nn.ReLU()) if concat else Sum(parts), nn.BatchNorm2d(c))
        self.reductions: Members | None = None
        if layer in reductions(layers):
            reduce = partial(FactorizedReduce, c, c_next)
            rest = partial(read_after, layers=layers, reduction=layer)
            self.reductions = choose.subset(rest, dict.fromkeys(up_to_here, reduce))

    def forward(self, x: Tensor, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        outputs = {**outputs, self.name: self.operation(x)}
        if self.merge is not None:
            outputs[self.name] = self.merge(outputs)
        if are_few():
            return self._reduced(outputs)
        if self.reductions is not None:
            outputs = {name: reduce(outputs[name]) for name, reduce in self.reductions.active.items()}
        return outputs

    def _reduced(self, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The same with all reductions at once."""
        if self.reductions is None:
            return outputs
        active = self.reductions.active
        return dict(zip(active, together.run(list(active.values()), [outputs[name] for name in active]), strict=True))

    def joins(self) -> list[list[nn.Module]]:
        """See `launches.few_launches`."""
        return list(together.joins(list(self.reductions.active.values()))) if self.reductions is not None else []


class Network(nn.Module):
    """3x3 convolution and BN, the layers, global pooling, dropout, linear."""

    def __init__(
        self, choose: Choose, channels: int, classes: int, *, layers: int, width: int, widen: bool, concat: bool
    ) -> None:
        """channels: of the images. width: of the first layers; widen: twice as many after each reduction.

        concat: a layer concatenates and projects what it reads, else it adds.
        """
        super().__init__()
        self.stem = conv_bn(channels, width, 3)
        widths = [width << widen * sum(n > m for m in reductions(layers)) for n in range(1, layers + 2)]
        self.layers = nn.ModuleList(
            Layer(choose, i, layers, widths[i - 1], widths[i], concat) for i in range(1, layers + 1)
        )
        self.head = nn.Sequential(GlobalPool(), nn.Dropout(0.0), nn.Linear(widths[layers - 1], classes))

    def forward(self, images: Tensor) -> Tensor:
        x: Tensor = self.stem(images)
        outputs: dict[str, Tensor] = {}
        for number, layer in enumerate(self.layers, 1):
            outputs = layer(x, outputs)
            x = outputs[f"layer{number}"]
        logits: Tensor = self.head(x)
        return logits
