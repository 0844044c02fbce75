"""Recurrent cells of highway connections: the space of ENAS for language models (Pham et al., ICML 2018)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from nastool.core.arrays import Choices
from nastool.core.diagram import Edge, Node, Section
from nastool.core.encodings import BASIC, basic
from nastool.core.errors import InputError, InvalidArchError, short
from nastool.core.space import Choose, SearchSpace, check_scale
from nastool.core.values import Arch, Decision
from nastool.nets.definitions.recurrent_form import ACTIVATIONS, around, ends

if TYPE_CHECKING:
    from torch import nn

    from nastool.tasks.language.task import LanguageTask

PATH_LENGTH = 5
"""Nodes of the longest paths in the path encoding."""


class RecurrentCell(SearchSpace):
    """ENAS' cell: nodes of one activation each, which read earlier ones through highway connections.

    Node 0 joins the input x and the last output h: h + sigmoid(t) (f(z) - h), (z, t) = W [x; h]. Any other reads the
    state s of an earlier one: s + sigmoid(t) (f(z) - s), (z, t) = W s. They are numbered as in
    DARTS' genotypes and in the code that ENAS' authors maintain, where node 0 always has tanh; the paper begins with 1.
    """

    name = "recurrent-cell"
    provides = frozenset({"network", "supernet"})
    tasks = frozenset({"language-model"})
    encodings = (*BASIC, "path")

    @dataclass(frozen=True)
    class Scale:
        """Size of the network.

        Args:
            hidden: Units of the cell, and numbers that a token is embedded as.
            tied: 1 has the decoder's weights be the embedding's.
            bias: 1 gives the decoder a bias, as DARTS does.
            edges: 1 gives weights to each pair of nodes, as the paper does, not to each node, as the maintained code
                and DARTS do; a network alone is the same, but one that shares weights has N (N - 1) / 2 matrices for
                N - 1, each trained by 1 child in as many as there are earlier nodes.
        """

        hidden: int = 800
        tied: int = 1
        bias: int = 0
        edges: int = 0

        def __post_init__(self) -> None:
            check_scale(self, switches=("tied", "bias", "edges"))

    def __init__(self, *, nodes: int = 12, output: Literal["unused", "all"] = "unused") -> None:
        """Makes a space.

        Args:
            nodes: Number of nodes, from 2 to 32, with node 0: 12 in the paper, 9 in the maintained code's and DARTS'
                networks.
            output: Nodes whose mean is put out: "unused", those that no node reads (the paper; DARTS' network for
                ENAS' cell), or "all" but node 0 (the maintained code, DARTS).
        """
        if not 2 <= nodes <= 32 or output not in ("unused", "all"):
            raise InputError(
                f"space {self.name}: need nodes from 2 to 32 and output unused or all, got {nodes}, {short(output)}"
            )
        self.nodes, self.output = nodes, output
        decisions = []
        for number in range(nodes):
            name = f"node{number}"
            if number > 1:
                sources = tuple(map(str, range(number)))
                decisions.append(Decision(f"{name}.input", sources, name, tuple(f"node{source}" for source in sources)))
            decisions.append(Decision(f"{name}.act", ACTIVATIONS, name))
        super().__init__(decisions, nodes=nodes, output=output)

    # --- as the field writes them

    def to_string(self, arch: Arch) -> str:
        """The numbers of the maintained code: the activation of node 0, then input and activation of the others."""
        first, second, *others = arch.choices
        return " ".join(map(str, (first, 0, second, *others)))

    def from_string(self, text: str) -> Arch:
        """Without a number for node 0, as that code has it, its activation is tanh."""
        parts = text.split()
        if not all(part.isdecimal() and len(part) < 4 for part in parts):
            raise InvalidArchError(f"not numbers with spaces between: {short(text.strip())!r}")
        numbers = list(map(int, parts))
        if len(numbers) == 2 * self.nodes - 2:
            numbers.insert(0, ACTIVATIONS.index("tanh"))
        if len(numbers) != 2 * self.nodes - 1:
            raise InvalidArchError(
                f"need input and activation of nodes 1 to {self.nodes - 1}, {2 * self.nodes - 2} numbers, and perhaps "
                f"the activation of node 0 before them, got {len(numbers)} numbers"
            )
        if numbers[1] != 0:
            raise InvalidArchError(f"node 1 reads node 0, got {numbers[1]}")
        return self.arch([numbers[0], *numbers[2:]])

    # --- equivalence

    def _sources(self, choices: NDArray[np.intp]) -> NDArray[np.intp]:
        """Which node each of 1, 2, ... reads, (n, nodes - 1). choices: option indices of n members."""
        return np.concatenate([np.zeros_like(choices[:, :1]), choices[:, 2::2]], axis=1)

    @staticmethod
    def _activations(choices: NDArray[np.intp]) -> NDArray[np.intp]:
        """Of each node, (n, nodes)."""
        return np.concatenate([choices[:, :1], choices[:, 1::2]], axis=1)

    def canonical(self, arch: Arch) -> str:
        """The cell as a tree: "tanh(relu, relu(tanh))" is node 0 with two readers, of which one has a reader.

        Numbers of nodes do not count. Since every node but the first reads one, and all lead to the output, two forms
        are equal if and only if the graphs are isomorphic.
        """
        choices = np.array([arch.choices], dtype=np.intp)
        readers: list[list[str]] = [[] for _ in range(self.nodes)]
        names = [ACTIVATIONS[choice] for choice in self._activations(choices)[0]]
        sources = self._sources(choices)[0].tolist()
        for number in range(self.nodes - 1, -1, -1):
            form = names[number] + (f"({', '.join(sorted(readers[number]))})" if readers[number] else "")
            if number == 0:
                return form
            readers[sources[number - 1]].append(form)
        raise AssertionError

    # --- encodings

    def encode_many(self, choices: Choices, kind: str = "onehot") -> NDArray[np.float32]:
        """Besides the kinds that every space has:

        "path" (White et al. 2021): which sequences of activations lead from node 0 to a node that is put out, one bit
            each, the short ones first; longer ones than PATH_LENGTH nodes are left out. Numbers of nodes do not matter.
        """
        if kind != "path":
            return basic(self, choices, kind)
        wide = choices.astype(np.intp)
        count, rows = len(ACTIVATIONS), np.arange(len(choices))
        sources, activations = self._sources(wide), self._activations(wide)
        starts = np.cumsum([0, 0] + [count**length for length in range(1, PATH_LENGTH + 1)])
        word, length = activations.copy(), np.ones_like(activations)
        unread = np.ones_like(activations, dtype=bool)
        unread[:, 0] = False
        for number in range(1, self.nodes):
            source = sources[:, number - 1]
            word[:, number] += word[rows, source] * count
            length[:, number] += length[rows, source]
            unread[rows, source] &= self.output == "all" and source > 0
        found = np.zeros((len(choices), starts[-1]), dtype=np.float32)
        row, node = np.nonzero(unread & (length <= PATH_LENGTH))
        found[row, starts[length[row, node]] + word[row, node]] = 1
        return found

    # --- drawings

    def diagram(self, arch: Arch, scale: Scale | None = None) -> list[Section]:
        """The cell, and with a scale the network."""
        chosen = {d.name: d.options[choice] for d, choice in zip(self.decisions, arch.choices, strict=True)}
        out = ends(chosen, self.nodes, self.output == "all")
        nodes = [Node("x", "input x(t)", "end"), Node("h", "last output h(t-1)", "end")]
        edges = [Edge("x", "0"), Edge("h", "0")]
        for number in range(self.nodes):
            parts = (f"nodes.{number - 1}",) if number else ("of_input", "of_state", "first")
            label = f"{number}: {chosen[f'node{number}.act']}"
            nodes.append(Node(str(number), label, "linear", modules=tuple(f"recurrent.{part}" for part in parts)))
            if number:
                edges.append(Edge(chosen.get(f"node{number}.input", "0"), str(number)))
        nodes.append(Node("out", "output h(t): mean" if len(out) > 1 else "output h(t)", "end"))
        edges += [Edge(name, "out") for name in out]
        note = "A node that reads s is s + sigmoid(t) (f(z) - s), where (z, t) = W s; node 0 has h for s, W [x; h]."
        cell = Section("cell", tuple(nodes), tuple(edges), note=note)
        return [cell] if scale is None else [cell, around(bool(scale.tied))]

    # --- the network

    def network(self, choose: Choose, task: LanguageTask, scale: Scale) -> nn.Module:
        from nastool.nets.definitions import recurrent
        from nastool.nets.definitions.language import LanguageModel

        hidden = scale.hidden
        cell = recurrent.graph(choose, hidden, hidden, self.nodes, self.output == "all", bool(scale.edges))
        return LanguageModel(task.vocabulary, hidden, cell, tied=bool(scale.tied), bias=bool(scale.bias))
