"""Diagrams: graphs of labelled nodes, the same for pictures, dot and text. Imports neither torch nor numpy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from nastool.core.space import SearchSpace
    from nastool.core.values import Arch

Kind = Literal["plain", "end", "conv", "separable", "dilated", "pool", "skip", "norm", "linear", "cell", "none"]
"""What a node or an operation on an edge is: it gets its colour from that.

"end": an input or output. "plain": a sum, a concatenation, a state. "none": no operation; such edges are left out.
"""
TIMES = "\N{MULTIPLICATION SIGN}"
LONGEST = 80
"""Characters of a label that are drawn."""


@dataclass(frozen=True)
class Cost:
    """shape: of the result for one example, such as (16, 32, 32), () if unknown. params: trainable. flops: for one."""

    shape: tuple[int, ...]
    params: int
    flops: int


@dataclass(frozen=True)
class Node:
    """A box.

    name: unique in its section; edges refer to it. details: further lines.
    modules: paths of the network's modules that it stands for, in the order in which they run (one may also be
        of a container such as a ModuleList): with a task the shape of the last one's result is shown, and parameters
        and FLOPs of all. A node named as the task calls an example, such as "image", has its shape.
    cost: what was found of these.
    """

    name: str
    label: str
    kind: Kind = "plain"
    details: tuple[str, ...] = ()
    modules: tuple[str, ...] = ()
    cost: Cost | None = None


@dataclass(frozen=True)
class Edge:
    """source, target: names of nodes. label, kind: an operation on the way; kind "skip" is drawn lighter."""

    source: str
    target: str
    label: str = ""
    kind: Kind = "plain"


@dataclass(frozen=True)
class Section:
    """One graph of a drawing.

    nodes: in an order in which all edges lead forward, with names that differ; ValueError otherwise.
    form: "graph" is drawn in layers from top to bottom, "chain" as a column of nodes with other edges beside it.
    note: a sentence below the title.
    """

    title: str
    nodes: tuple[Node, ...]
    edges: tuple[Edge, ...]
    form: Literal["graph", "chain"] = "graph"
    note: str = ""

    def __post_init__(self) -> None:
        place = {node.name: i for i, node in enumerate(self.nodes)}
        if len(place) < len(self.nodes):
            raise ValueError(f"{self.title}: nodes need names that differ")
        for edge in self.edges:
            if not place.get(edge.source, len(place)) < place.get(edge.target, -1):
                raise ValueError(f"{self.title}: no edge can lead from {edge.source!r} to {edge.target!r}")


@dataclass(frozen=True)
class Diagram:
    """title, subtitle: of the whole drawing."""

    title: str
    subtitle: str
    sections: tuple[Section, ...]


def chain(title: str, nodes: Sequence[Node], more: Iterable[Edge] = (), note: str = "") -> Section:
    """A section of nodes one after another, with more edges."""
    following = (Edge(one.name, two.name) for one, two in pairwise(nodes))
    return Section(title, tuple(nodes), (*following, *more), "chain", note)


_KINDS: tuple[tuple[str, Kind], ...] = (
    (r"none|zero|zeroize", "none"),
    (r"skip.*|identity|id", "skip"),
    (r".*pool.*", "pool"),
    (r".*dil.*", "dilated"),
    (r".*(sep|mbconv|depthwise|inverted).*", "separable"),
    (r".*conv.*", "conv"),
    (r".*norm.*|bn", "norm"),
    (r".*(linear|classifier|head|fc|dense).*", "linear"),
    (r".*cell.*", "cell"),
)


def kind_of(operation: str) -> Kind:
    """Kind of an operation, by the names that the field uses: "sep_conv_3x3" is "separable"; "plain": it is none."""
    return next((kind for pattern, kind in _KINDS if re.fullmatch(pattern, operation.lower())), "plain")


def times(label: str, count: int) -> str:
    """The label of several alike, one after another."""
    return f"{label} {TIMES}{count}" if count > 1 else label


def drawn(section: Section) -> Section:
    """Without edges that do nothing, and with texts that can be drawn: one line, not too long, printable."""
    names: dict[str, str] = {}
    for node in section.nodes:
        name = printable(node.name)
        while name in names.values():
            name += "'"
        names[node.name] = name
    nodes = [
        replace(node, name=names[node.name], label=printable(node.label), details=tuple(map(printable, node.details)))
        for node in section.nodes
    ]
    edges = [
        Edge(names[edge.source], names[edge.target], printable(edge.label), edge.kind)
        for edge in section.edges
        if edge.kind != "none"
    ]
    note = printable(section.note, 300)
    return replace(section, title=printable(section.title), note=note, nodes=tuple(nodes), edges=tuple(edges))


def printable(text: str, longest: int = LONGEST) -> str:
    shown = "".join(c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


@runtime_checkable
class Drawable(Protocol):
    """A space that says what drawings of its architectures show."""

    def diagram(self, arch: Arch, scale: object = None) -> Sequence[Section]:
        """Graphs of labelled boxes, made without importing torch.

        Args:
            arch: what is drawn.
            scale: an instance of the space's `Scale`, None where no network is asked for. With it a node may name
                modules of the network (`Node.modules`), whose shapes, parameters and FLOPs are then shown; where no
                node does, the traced network is drawn as well.
        """
        ...


def sections(space: SearchSpace, arch: Arch, scale: object = None) -> Sequence[Section]:
    """What is drawn of an architecture, as of `Drawable.diagram`; of other spaces the options chosen."""
    return space.diagram(arch, scale) if isinstance(space, Drawable) else [by_decisions(space, arch)]


def by_decisions(space: SearchSpace, arch: Arch) -> Section:
    """Diagram for spaces that say nothing more: the options chosen that matter, and the places that they stand for.

    A place (layer, block) is a node with its options, and so is a decision without one.
    """
    from nastool.core.space import chosen  # late: with numpy

    details: dict[str, list[str]] = {}
    refers: list[tuple[str, str]] = []
    for decision, choice in chosen(space, arch):
        option = decision.options[choice]
        place = decision.place or decision.name
        lines = details.setdefault(place, [])
        if decision.refers:
            if decision.refers[choice]:
                refers.append((decision.refers[choice], place))
        elif decision.place:
            lines.append(f"{decision.name.removeprefix(decision.place).lstrip('.:/ ')}: {option}")
        else:
            lines.append(option)
    inputs = dict.fromkeys(source for source, _ in refers if source not in details)
    order = {name: i for i, name in enumerate((*inputs, *details))}
    edges = tuple(Edge(*pair) for pair in dict.fromkeys(refers) if order[pair[0]] < order[pair[1]])
    nodes = [Node(name, name, "end") for name in inputs]
    for name, lines in details.items():
        kinds = [kind for line in lines if (kind := kind_of(line.rpartition(" ")[2])) not in ("plain", "none")]
        nodes.append(Node(name, name, kinds[0] if kinds else "plain", tuple(lines)))
    return Section("decisions", tuple(nodes), edges, "chain")


def sources_of(section: Section) -> Mapping[str, list[Edge]]:
    """Node -> the edges that lead to it."""
    found: dict[str, list[Edge]] = {node.name: [] for node in section.nodes}
    for edge in section.edges:
        found[edge.target].append(edge)
    return found
