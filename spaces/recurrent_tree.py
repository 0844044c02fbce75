"""Recurrent cells that are binary trees: the space of NAS-RL for language models (Zoph & Le, ICLR 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nastool.core.diagram import Edge, Node, Section
from nastool.core.errors import InputError
from nastool.core.space import Choose, SearchSpace, check_scale
from nastool.core.values import Arch, Decision
from nastool.nets.definitions.recurrent_form import ACTIVATIONS, COMBINATIONS, around

if TYPE_CHECKING:
    from torch import nn

    from nastool.tasks.language.task import LanguageTask


class RecurrentTree(SearchSpace):
    """NAS-RL's cell: a binary tree of combinations and activations, one of which a memory joins.

    Leaf i of B combines W_i x(t) and U_i h(t-1). The nodes are numbered from the leaves, 0 to B - 1, level by level up
    to the root, 2 B - 2, whose value is h(t). The value of node `index.inject` is combined with the memory c(t-1)
    before it is read, and c(t) is what node `index.cell` combines, before its activation.
    """

    name = "recurrent-tree"
    provides = frozenset({"network", "supernet"})
    tasks = frozenset({"language-model"})

    @dataclass(frozen=True)
    class Scale:
        """Size of the network.

        Args:
            hidden: Units of the cell, and numbers that a token is embedded as. The published networks' is not known.
            tied: 1 has the decoder's weights be the embedding's.
            bias: 1 gives the decoder a bias.
        """

        hidden: int = 800
        tied: int = 1
        bias: int = 0

        def __post_init__(self) -> None:
            check_scale(self, switches=("tied", "bias"))

    def __init__(self, *, base: int = 8) -> None:
        """Makes a space.

        Args:
            base: Number of leaves B: 2, 4 or 8, as published, or 16.
        """
        if base not in (2, 4, 8, 16):
            raise InputError(f"space {self.name}: need a base of 2, 4, 8 or 16, got {base}")
        self.base = base
        self.names = [f"node{number}" for number in range(2 * base - 1)]
        decisions = []
        for name in (*self.names, "inject"):
            decisions.append(Decision(f"{name}.combine", COMBINATIONS, name))
            decisions.append(Decision(f"{name}.act", ACTIVATIONS, name))
        numbers = tuple(map(str, range(len(self.names))))
        for what in ("cell", "inject"):
            decisions.append(Decision(f"index.{what}", numbers, "index", tuple(self.names)))
        super().__init__(decisions, base=base)

    def _chosen(self, arch: Arch) -> dict[str, str]:
        return {d.name: d.options[choice] for d, choice in zip(self.decisions, arch.choices, strict=True)}

    def _reader(self, number: int) -> int:
        """The node that combines this one's value with another's."""
        return self.base + number // 2

    # --- equivalence

    def canonical(self, arch: Arch) -> str:
        """The tree as an expression whose terms are sorted, since what combines them is commutative.

        Leaves differ in what they do alone, since each has weights of its own.
        """
        chosen = self._chosen(arch)
        terms: list[list[str]] = [[] for _ in self.names]
        form = ""
        for number, name in enumerate(self.names):
            combined = ", ".join([chosen[f"{name}.combine"], *sorted(terms[number])])
            kept = "c=" if chosen["index.cell"] == str(number) else ""
            form = f"{chosen[f'{name}.act']}({kept}{combined})"
            if chosen["index.inject"] == str(number):
                form = f"{chosen['inject.act']}({chosen['inject.combine']} c, {form})"
            if number < len(self.names) - 1:
                terms[self._reader(number)].append(form)
        return form

    # --- drawings

    def diagram(self, arch: Arch, scale: Scale | None = None) -> list[Section]:
        """The cell, and with a scale the network."""
        chosen = self._chosen(arch)

        def label(name: str, what: str) -> str:
            return f"{what}: {chosen[f'{name}.combine']}, {chosen[f'{name}.act']}"

        nodes = [Node("c", "last memory c(t-1)", "end")]
        edges = []
        last = len(self.names) - 1
        for number, name in enumerate(self.names):
            leaf, value = number < self.base, str(number)
            details = (f"W{number} x(t), U{number} h(t-1)",) if leaf else ()
            kept = ("before activation: c(t)",) if chosen["index.cell"] == value else ()
            nodes.append(Node(value, label(name, value), "linear" if leaf else "cell", (*details, *kept)))
            if chosen["index.inject"] == value:
                nodes.append(Node("inject", label("inject", "inject"), "cell"))
                edges += [Edge("c", "inject"), Edge(value, "inject")]
                value = "inject"
            edges.append(Edge(value, str(self._reader(number)) if number < last else "out"))
        nodes.append(Node("out", "output h(t)", "end"))
        cell = Section("cell", tuple(nodes), tuple(edges))
        return [cell] if scale is None else [cell, around(bool(scale.tied))]

    # --- the network

    def network(self, choose: Choose, task: LanguageTask, scale: Scale) -> nn.Module:
        from nastool.nets.definitions import recurrent
        from nastool.nets.definitions.language import LanguageModel

        cell = recurrent.tree(choose, scale.hidden, scale.hidden, self.base)
        return LanguageModel(task.vocabulary, scale.hidden, cell, tied=bool(scale.tied), bias=bool(scale.bias))
