"""Which states of a recurrent cell are read, and by what. Without torch."""

from __future__ import annotations

from collections.abc import Mapping

from nastool.core.diagram import Node, Section, chain

ACTIVATIONS = ("tanh", "relu", "sigmoid", "identity")
"""In the order of their numbers in the code that ENAS' authors maintain."""
COMBINATIONS = ("add", "elem_mult")


def ends(chosen: Mapping[str, str], nodes: int, every: bool) -> list[str]:
    """The nodes of a graph that are averaged: those that none reads, or every one but node 0. chosen: of a space."""
    names = [str(number) for number in range(1, nodes)]
    if nodes == 1:
        return ["0"]
    read = set() if every else {chosen[f"node{name}.input"] for name in names[1:]}
    return [name for name in names if name not in read]


def injected(chosen: Mapping[str, str]) -> list[str]:
    """The node of a tree that the cell's memory joins."""
    return [chosen["index.inject"]]


def around(tied: bool) -> Section:
    """The network around a cell, drawn. tied: the decoder's weights are the embedding's."""
    nodes = (
        Node("token", "token", "end"),
        Node("embedding", "embedding", "linear", modules=("embedding",)),
        Node("cell", "cell", "cell", modules=("recurrent",)),
        Node("decoder", "decoder: the embedding's weights" if tied else "decoder", "linear", modules=("decoder",)),
    )
    return chain("network", nodes, note="Costs are those of one token; the cell goes from each token to the next.")
