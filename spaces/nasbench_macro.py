"""The chain space of NAS-Bench-Macro (Su et al., CVPR 2021): which block at each of 8 layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nastool.core.diagram import Node, Section, chain, kind_of, times
from nastool.core.errors import InvalidArchError
from nastool.core.space import Choose, SearchSpace, check_scale
from nastool.core.values import Arch, Decision

if TYPE_CHECKING:
    from torch import nn

    from nastool.tasks.images.task import ImageTask

OPS = ("identity", "mbconv3_e3", "mbconv5_e6")
STAGES = (2, 3, 3)  # layers per stage; each stage's first layer halves the resolution and doubles the width


class NasBenchMacro(SearchSpace):
    """8 layers, each identity, inverted residual 3x3 x 3 or inverted residual 5x5 x 6: 6,561 members."""

    name = "nasbench-macro"
    provides = frozenset({"network", "supernet", "table"})

    @dataclass(frozen=True)
    class Scale:
        """Size of the network.

        Args:
            channels: Channels of the stem; the stages have 2, 4 and 8 times as many.
            cells: Blocks per layer.
            head: Width of the last convolution.
        """

        channels: int = 32
        cells: int = 1
        head: int = 1280

        def __post_init__(self) -> None:
            check_scale(self)

    def __init__(self) -> None:
        super().__init__([Decision(f"layer{i}", OPS) for i in range(1, sum(STAGES) + 1)])

    # --- the benchmark's string form: 8 digits

    def to_string(self, arch: Arch) -> str:
        return "".join(map(str, arch.choices))

    def from_string(self, text: str) -> Arch:
        digits = text.strip()
        if len(digits) != len(self.decisions) or not set(digits) <= {"0", "1", "2"}:
            raise InvalidArchError(f"not {len(self.decisions)} digits out of 0, 1, 2: {digits[:120]!r}")
        return self.arch([int(digit) for digit in digits])

    # --- equivalence

    def canonical(self, arch: Arch) -> str:
        """Layers of one stage after its first all have the same shape, where an identity can stand anywhere.

        Moving it to the end of its stage changes nothing.
        """
        parts, start = [], 0
        for depth in STAGES:
            first, *rest = arch.choices[start : start + depth]
            kept = "".join(str(choice) for choice in rest if choice)
            parts.append(f"{first}{kept:0<{depth - 1}}")
            start += depth
        return "-".join(parts)

    # --- drawings

    def diagram(self, arch: Arch, scale: Scale | None = None) -> list[Section]:
        """The layers; `cells` blocks of one are one node."""
        cells = 1 if scale is None else scale.cells
        nodes = [Node("image", "image", "end"), Node("stem", "stem: conv 3x3", "conv", modules=("0",))]
        starts = {sum(STAGES[:stage]): stage + 1 for stage in range(len(STAGES))}
        for i, choice in enumerate(arch.choices):
            op = OPS[choice]
            details = [f"stage {starts[i]}: stride 2"] if i in starts else []
            kind = "conv" if op == "identity" and i in starts else kind_of(op)  # it has to change the shape
            label = times(f"{i + 1}  {op}", cells)
            modules = map(str, range(1 + i * cells, 1 + (i + 1) * cells))
            nodes.append(Node(str(i + 1), label, kind, tuple(details), tuple(modules)))
        index = 1 + len(arch.choices) * cells
        head = tuple(map(str, range(index, index + 3)))
        nodes.append(Node("head", "head: conv 1x1, global pooling, linear", "linear", modules=head))
        return [chain("network", nodes)]

    # --- the network

    def network(self, choose: Choose, task: ImageTask, scale: Scale) -> nn.Module:
        """Stem, 8 searched layers, 1x1 convolution to `head` channels, global pooling, linear."""
        from nastool.nets.definitions.chain import Network

        scales = {"width": scale.channels, "cells": scale.cells, "head": scale.head}
        return Network(choose, STAGES, task.channels, task.outputs, **scales)
