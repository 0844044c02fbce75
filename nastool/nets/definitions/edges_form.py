"""NAS-Bench-201's cell: 4 nodes, 6 edges with an operation each. Without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nastool.core.diagram import Edge, Node, Section, kind_of
from nastool.core.space import check_scale

OPS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # (source, target), in the order of the string form


@dataclass(frozen=True)
class Scale:
    """Size of the network.

    Args:
        channels: Channels of the first stage; each of the two that follow has twice as many.
        cells: Cells per stage.
    """

    channels: int = 16
    cells: int = 5

    def __post_init__(self) -> None:
        check_scale(self)


def expression(choices: Sequence[int]) -> str:
    """The output as an expression of the input "x", by the benchmark's own rules (6,466 differ).

    `skip_connect` passes its source through, `none` and every operation on a zero node give zero ("#"), the
    terms of a sum are sorted. (A trained BN's shift of a zero map is ignored.) Equal forms compute the
    same function; the converse does not hold, since sums are not flattened and their zeros stay.
    """
    nodes = ["x"]
    terms: list[str] = []
    for choice, (source, target) in zip(choices, EDGES, strict=True):
        inner = nodes[source]
        if OPS[choice] == "none" or inner == "#":
            terms.append("#")
        else:
            terms.append(inner if OPS[choice] == "skip_connect" else f"({inner})@{choice}")
        if source == target - 1:
            nodes.append("+".join(sorted(terms)))
            terms = []
    return nodes[-1]


def drawing(choices: Sequence[int], title: str = "cell") -> Section:
    """The cell, operations on its edges."""
    ops = [OPS[choice] for choice in choices]
    fed = {target for op, (_, target) in zip(ops, EDGES, strict=True) if op != "none"}
    labels = {0: "0: input", 1: "1", 2: "2", 3: "3: output"}
    edges = tuple(Edge(str(j), str(i), op, kind_of(op)) for op, (j, i) in zip(ops, EDGES, strict=True))
    there = {"0", "3", *(end for edge in edges if edge.kind != "none" for end in (edge.source, edge.target))}
    nodes = tuple(
        Node(str(i), label, "plain" if i in (1, 2) else "end", () if i in fed or not i else ("zeros",))
        for i, label in labels.items()
        if str(i) in there
    )
    edges = tuple(edge for edge in edges if edge.kind != "none")
    return Section(title, nodes, edges, note="Operations are on the edges; a node adds up what it reads.")
