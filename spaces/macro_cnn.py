"""The macro search space of ENAS (Pham et al., ICML 2018): a whole network, layer by layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nastool.core.diagram import Edge, Node, Section, chain, kind_of
from nastool.core.errors import InputError
from nastool.core.space import Choose, SearchSpace, check_scale
from nastool.core.values import Arch, Decision
from nastool.nets.definitions.macro_form import read_after, reductions, skips

if TYPE_CHECKING:
    from torch import nn

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
        decisions = []
        for i in range(1, layers + 1):
            decisions.append(Decision(f"layer{i}.op", OPS, f"layer{i}"))
            for j in range(1, i):
                decisions.append(Decision(f"layer{i}.skip{j}", ("0", "1"), f"layer{i}", ("", f"layer{j}")))
        super().__init__(decisions, layers=layers)

    def diagram(self, arch: Arch, scale: Scale | None = None) -> list[Section]:
        """The layers, with the earlier ones whose outputs join theirs."""
        options = (decision.options[choice] for decision, choice in zip(self.decisions, arch.choices, strict=True))
        chosen = dict(zip((decision.name for decision in self.decisions), options, strict=True))
        nodes = [Node("image", "image", "end"), Node("stem", "stem: conv 3x3", "conv", modules=("stem",))]
        dashed = []
        for i in range(1, self.layers + 1):
            op = chosen[f"layer{i}.op"]
            modules = (f"layers.{i - 1}.operation", f"layers.{i - 1}.merge")
            nodes.append(Node(str(i), f"{i}  {op}", kind_of(op), modules=modules))
            dashed += [Edge(name.removeprefix("layer"), str(i), kind="skip") for name in skips(chosen, i)]
            if i in reductions(self.layers):
                count = len(read_after(chosen, self.layers, i))
                label = "reduction" if count == 1 else f"reduction of {count} outputs"
                nodes.append(Node(f"reduction{i}", label, "conv", modules=(f"layers.{i - 1}.reductions",)))
        nodes.append(Node("head", "head: global pooling, linear", "linear", modules=("head",)))
        how = "concatenated with it" if scale is not None and scale.concat else "added to its own"
        note = f"Dashed: outputs of earlier layers that are {how}." if dashed else ""
        return [chain("network", nodes, dashed, note)]

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
        from nastool.nets.definitions.macro import Network

        return Network(
            choose,
            task.channels,
            task.outputs,
            layers=self.layers,
            width=scale.channels,
            widen=bool(scale.widen),
            concat=bool(scale.concat),
        )
