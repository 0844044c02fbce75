"""Networks with several heads that vote: multi-headed neural ensemble search, Narayanan et al., arXiv 2107.04369."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from nastool.core.diagram import Edge, Kind, Node, Section, times
from nastool.core.space import Choose, SearchSpace
from nastool.core.values import Arch, Decision
from nastool.nets.definitions import edges_form
from nastool.nets.definitions.edges_form import EDGES, OPS, drawing, expression

if TYPE_CHECKING:
    from torch import nn

    from nastool.tasks.images.task import ImageTask


class MultiHeaded(SearchSpace):
    """NAS-Bench-201's network whose last stage is there once for each head, with a cell of its own; they are averaged.

    One network is an ensemble that is trained once: the heads share stem and first two stages, the backbone, whose cell
    is searched, too. It says the mean of its heads' probabilities; what is minimised is half the loss of that mean and
    half the mean of the heads' losses, since the first alone lets heads rely on each other. The gradient of what each
    of M heads has of its own is M times that loss's, as large as one network's. With one head it is the ordinary
    network. Any strategy searches it. From the paper's abstract; where networks part, their cells, the loss and its
    gradients are choices of this implementation.
    """

    name = "multi-headed"
    provides = frozenset({"network", "supernet"})

    Scale = edges_form.Scale

    def __init__(self, *, heads: int = 3) -> None:
        """Makes a space.

        Args:
            heads: Number of heads, in [1, 100].
        """
        if not 1 <= heads <= 100:
            raise ValueError(f"need 1 <= heads <= 100, got {heads}")
        places = ["backbone", *(f"head{i}" for i in range(1, heads + 1))]
        super().__init__(
            [Decision(f"{place}.{target}<-{source}", OPS, place) for place in places for source, target in EDGES],
            heads=heads,
        )
        self.heads = heads

    def _cells(self, arch: Arch) -> list[tuple[int, ...]]:
        """Choices of the backbone's cell and of each head's."""
        return [arch.choices[i : i + len(EDGES)] for i in range(0, len(arch.choices), len(EDGES))]

    def canonical(self, arch: Arch) -> str:
        """Those of the cells, as of nasbench201; heads may change places."""
        backbone, *heads = map(expression, self._cells(arch))
        return " | ".join([backbone, *sorted(heads)])

    def diagram(self, arch: Arch, scale: edges_form.Scale | None = None) -> list[Section]:
        """The cells; with a scale also the skeleton."""
        backbone, *heads = self._cells(arch)
        cells = [drawing(each, f"head {i}: cell") for i, each in enumerate(heads, 1)]
        return [drawing(backbone, "backbone: cell"), *cells, *([] if scale is None else [self._skeleton(scale)])]

    def _skeleton(self, scale: edges_form.Scale) -> Section:
        """The network, a stage's cells as one node: the backbone, and from it each head."""
        k = scale.cells
        nodes, edges = [Node("image", "image", "end")], []

        def add(source: str, name: str, label: str, kind: Kind, modules: Iterable[str]) -> str:
            nodes.append(Node(name, label, kind, modules=tuple(modules)))
            edges.append(Edge(source, name))
            return name

        stages = [[f"backbone.{start + i}" for i in range(k)] for start in (1, k + 2)]
        last = add("image", "stem", "stem: conv 3x3", "conv", ["backbone.0"])
        last = add(last, "stage1", times("stage 1: cell", k), "cell", stages[0])
        last = add(last, "reduction1", "residual block, stride 2", "conv", [f"backbone.{k + 1}"])
        backbone = add(last, "stage2", times("stage 2: cell", k), "cell", stages[1])
        ends = []
        for i in range(self.heads):
            modules = [f"heads.{i}.{j}" for j in range(k + 5)]
            last = add(backbone, f"head{i + 1}.reduction2", "residual block, stride 2", "conv", modules[:1])
            last = add(last, f"head{i + 1}.stage3", times("stage 3: cell", k), "cell", modules[1 : k + 1])
            ends.append(add(last, f"head{i + 1}", "head: global pooling, linear", "linear", modules[k + 1 :]))
        nodes.append(Node("vote", "mean of the heads", modules=("vote",)))
        edges += [Edge(end, "vote") for end in ends]
        return Section("network", tuple(nodes), tuple(edges))

    def network(self, choose: Choose, task: ImageTask, scale: edges_form.Scale) -> nn.Module:
        """The skeleton of nasbench201: 3 stages of `cells` cells, residual reductions between, any input size."""
        from nastool.nets.definitions.edges import MultiHeaded

        sizes = {"width": scale.channels, "cells": scale.cells}
        numbers = task.classes == 0
        return MultiHeaded(choose, task.channels, task.outputs, heads=self.heads, numbers=numbers, **sizes)
