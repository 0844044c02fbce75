"""The macro search space of ENAS (Pham et al., ICML 2018): a whole network, layer by layer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from nastool.core.diagram import Edge, Node, Section, chain, kind_of
from nastool.core.errors import InputError
from nastool.core.space import Choose, SearchSpace, check_scale
from nastool.core.values import Arch, Decision

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nastool.nets.networks import Subset
    from nastool.tasks.images.task import ImageTask

OPS = ("conv_3x3", "sep_conv_3x3", "conv_5x5", "sep_conv_5x5", "avg_pool_3x3", "max_pool_3x3")


class MacroCNN(SearchSpace):
    """ENAS macro: each of L layers chooses one of 6 operations and which earlier layers' outputs join its own.

    6^L 2^(L(L-1)/2) members, 1.6e29 for L = 12. Decisions per layer, in the order of the paper's controller: the
    operation, then a switch for each earlier layer.
    """

    name = "macro-cnn"
    provides = frozenset({"network", "supernet"})

    @dataclass(frozen=True)
    class Scale:
        """Size of the network.

        The defaults are those of the authors' search; their final network has channels=96, widen=1, concat=1.

        Args:
            channels: Channels of the first stage.
            widen: 1 doubles the channels at both reductions.
            concat: 1 concatenates a layer's inputs and projects them.
        """

        channels: int = 36
        widen: int = 0
        concat: int = 0

        def __post_init__(self) -> None:
            check_scale(self, switches=("widen", "concat"))

    def __init__(self, *, layers: int = 12) -> None:
        """Makes a space.

        Args:
            layers: Layers L of a network, from 4 to 100.
        """
        if not 4 <= layers <= 100:
            raise InputError(f"space {self.name}: need 4 <= layers <= 100, got {layers}")
        self.layers = layers
        self.reductions = (layers // 3, 2 * (layers // 3))
        decisions = []
        for i in range(1, layers + 1):
            decisions.append(Decision(f"layer{i}.op", OPS, f"layer{i}"))
            for j in range(1, i):
                decisions.append(Decision(f"layer{i}.skip{j}", ("0", "1"), f"layer{i}", ("", f"layer{j}")))
        super().__init__(decisions, layers=layers)

    def skips(self, chosen: Mapping[str, str], layer: int) -> list[str]:
        """The earlier layers whose outputs join that of this one."""
        return [f"layer{j}" for j in range(1, layer) if chosen[f"layer{layer}.skip{j}"] == "1"]

    def read_after(self, chosen: Mapping[str, str], reduction: int) -> set[str]:
        """The layers up to a reduction that are read beyond it: it reduces these outputs and no others."""
        later = range(reduction + 1, self.layers + 1)
        read = {f"layer{reduction}", *(name for layer in later for name in self.skips(chosen, layer))}
        return read - {f"layer{layer}" for layer in later}

    def diagram(self, arch: Arch, scale: Scale | None = None) -> list[Section]:
        """The layers, with the earlier ones whose outputs join theirs."""
        options = (decision.options[choice] for decision, choice in zip(self.decisions, arch.choices, strict=True))
        chosen = dict(zip((decision.name for decision in self.decisions), options, strict=True))
        nodes = [Node("image", "image", "end"), Node("stem", "stem: conv 3x3", "conv", modules=("stem",))]
        skips = []
        for i in range(1, self.layers + 1):
            op = chosen[f"layer{i}.op"]
            modules = (f"layers.{i - 1}.operation", f"layers.{i - 1}.merge")
            nodes.append(Node(str(i), f"{i}  {op}", kind_of(op), modules=modules))
            skips += [Edge(name.removeprefix("layer"), str(i), kind="skip") for name in self.skips(chosen, i)]
            if i in self.reductions:
                count = len(self.read_after(chosen, i))
                label = "reduction" if count == 1 else f"reduction of {count} outputs"
                nodes.append(Node(f"reduction{i}", label, "conv", modules=(f"layers.{i - 1}.reductions",)))
        nodes.append(Node("head", "head: global pooling, linear", "linear", modules=("head",)))
        how = "concatenated with it" if scale is not None and scale.concat else "added to its own"
        note = f"Dashed: outputs of earlier layers that are {how}." if skips else ""
        return [chain("network", nodes, skips, note)]

    def network(self, choose: Choose, task: ImageTask, scale: Scale) -> nn.Module:
        """3x3 convolution and BN, L layers, global pooling, dropout (off unless trained with it), linear.

        As in the authors' code (melodyguan/enas, general_child.py): an operation is a 1x1 convolution, BN and ReLU,
        then a convolution, BN and ReLU, or a pooling; the skips are added (`concat=1`: concatenated with it, ReLU, 1x1
        convolution), then BN. After L // 3 and 2 (L // 3) layers a factorised reduction of its own halves each earlier
        layer's output that is still to be read. `concat=1` also begins each operation with a ReLU, as the authors'
        final network does.

        Not as in that code: skip j of a layer reads the output of layer j, as in the paper, where the code reads its
        input; the final network keeps separable convolutions and poolings, for which the code has dense convolutions
        and nothing.
        """
        from torch import nn

        from nastool.nets import blocks, together

        space = self

        def width(layer: int) -> int:
            return scale.channels << scale.widen * sum(layer > reduction for reduction in space.reductions)

        def operation(layer: int) -> nn.Module:
            c = width(layer)

            def after_1x1(*body: nn.Module) -> nn.Module:
                first = [nn.ReLU()] if scale.concat else []
                return nn.Sequential(*first, *blocks.conv_bn_relu(c, c, 1), *body)

            def separable(kernel: int) -> nn.Module:
                return after_1x1(blocks.Separable(c, c, kernel), nn.BatchNorm2d(c), nn.ReLU())

            options: dict[str, Callable[[], nn.Module]] = {
                "conv_3x3": lambda: after_1x1(*blocks.conv_bn_relu(c, c, 3)),
                "sep_conv_3x3": lambda: separable(3),
                "conv_5x5": lambda: after_1x1(*blocks.conv_bn_relu(c, c, 5)),
                "sep_conv_5x5": lambda: separable(5),
                "avg_pool_3x3": lambda: after_1x1(blocks.pool("avg", 3)),
                "max_pool_3x3": lambda: after_1x1(blocks.pool("max", 3)),
            }
            return choose.layer(f"layer{layer}.op", options)

        class Layer(nn.Module):
            """The previous layer's output; all that are to be read, by layer -> the same, this layer's included."""

            def __init__(self, layer: int) -> None:
                super().__init__()
                c = width(layer)
                self.name = f"layer{layer}"
                self.operation = operation(layer)
                up_to_here = [f"layer{j}" for j in range(1, layer + 1)]
                self.merge: nn.Module | None = None
                if layer > 1:
                    part = partial(blocks.conv, c, c, 1) if scale.concat else nn.Identity
                    parts = choose.subset(
                        lambda chosen: [self.name, *space.skips(chosen, layer)], dict.fromkeys(up_to_here, part)
                    )
                    merge = blocks.Join(parts, nn.ReLU()) if scale.concat else blocks.Sum(parts)
                    self.merge = nn.Sequential(merge, nn.BatchNorm2d(c))
                self.reductions: Subset | None = None
                if layer in space.reductions:
                    self.reductions = choose.subset(
                        lambda chosen: space.read_after(chosen, layer),
                        dict.fromkeys(up_to_here, partial(blocks.FactorizedReduce, c, width(layer + 1))),
                    )

            def forward(self, x: Tensor, outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
                outputs = {**outputs, self.name: self.operation(x)}
                if self.merge is not None:
                    outputs[self.name] = self.merge(outputs)
                if self.reductions is not None:
                    active = self.reductions.active
                    reduced = together.run(list(active.values()), [outputs[name] for name in active])
                    outputs = dict(zip(active, reduced, strict=True))
                return outputs

            def joins(self) -> list[list[nn.Module]]:
                """See `launches.few_launches`."""
                return (
                    list(together.joins(list(self.reductions.active.values()))) if self.reductions is not None else []
                )

        class Network(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.stem = blocks.conv_bn(task.channels, scale.channels, 3)
                self.layers = nn.ModuleList(Layer(layer) for layer in range(1, space.layers + 1))
                head = nn.Linear(width(space.layers), task.classes)
                self.head = nn.Sequential(blocks.GlobalPool(), nn.Dropout(0.0), head)

            def forward(self, images: Tensor) -> Tensor:
                x: Tensor = self.stem(images)
                outputs: dict[str, Tensor] = {}
                for number, layer in enumerate(self.layers, 1):
                    outputs = layer(x, outputs)
                    x = outputs[f"layer{number}"]
                logits: Tensor = self.head(x)
                return logits

        return Network()
