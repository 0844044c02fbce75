"""The cell space of NAS-Bench-201 (Dong & Yang, ICLR 2020), the topology space of NATS-Bench."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from nastool.core.arrays import Choices
from nastool.core.diagram import Node, Section, chain, times
from nastool.core.encodings import basic
from nastool.core.errors import InvalidArchError
from nastool.core.space import Choose, SearchSpace
from nastool.core.values import Arch, Decision
from nastool.nets.definitions import edges_form
from nastool.nets.definitions.edges_form import EDGES, OPS, drawing, expression

if TYPE_CHECKING:
    from torch import nn

    from nastool.tasks.images.task import ImageTask

ROUTES = ((3,), (0, 4), (1, 5), (0, 2, 5))  # the edges on each way from input to output, the short ways first


class NasBench201(SearchSpace):
    """A cell of 4 nodes and 6 edges with one of 5 operations each: 15,625 members, 6,466 different functions."""

    name = "nasbench201"
    provides = frozenset({"network", "supernet", "table"})
    encodings = ("onehot", "counts", "path", "simplified_path")
    paths_kept = 30  # those of at most 2 operations
    mutation_rate = 0.25

    Scale = edges_form.Scale

    def __init__(self) -> None:
        super().__init__([Decision(f"{target}<-{source}", OPS) for source, target in EDGES])

    # --- the string form |op~0|+|op~0|op~1|+|op~0|op~1|op~2|

    _STRING: ClassVar = re.compile(
        r"\|([^|~]+)~0\|\+\|([^|~]+)~0\|([^|~]+)~1\|\+\|([^|~]+)~0\|([^|~]+)~1\|([^|~]+)~2\|"
    )

    def to_string(self, arch: Arch) -> str:
        ops = [f"{OPS[choice]}~{source}|" for choice, (source, _) in zip(arch.choices, EDGES, strict=True)]
        return f"|{ops[0]}+|{ops[1]}{ops[2]}+|{ops[3]}{ops[4]}{ops[5]}"

    def from_string(self, text: str) -> Arch:
        match = self._STRING.fullmatch(text.strip())
        if match is None:
            raise InvalidArchError(f"not of the form |op~0|+|op~0|op~1|+|op~0|op~1|op~2|: {text.strip()[:120]!r}")
        for decision, op in zip(self.decisions, match.groups(), strict=True):
            if op not in OPS:
                raise InvalidArchError(f"edge {decision.name}: no operation {op!r}; there are {', '.join(OPS)}")
        return self.arch([OPS.index(op) for op in match.groups()])

    # --- equivalence

    def canonical(self, arch: Arch) -> str:
        """The output as an expression of the input (`edges_form.expression`): 6,466 differ."""
        return expression(arch.choices)

    # --- encodings

    def encode_many(self, choices: Choices, kind: str = "onehot") -> NDArray[np.float32]:
        """Besides the kinds that every space has:

        "path": d = 5 + 25 + 125, one bit for each sequence of operations that leads from input to output, the short
            ones first (White et al. 2021), where `none` and `skip_connect` are operations like any other
        "simplified_path": d = 1 + 3 + 9 + 27, how often each sequence of the three others leads from input to
            output; `skip_connect` is left out of a sequence, and `none` cuts it
        """
        if kind == "path":
            return _sequences(choices, letters=[0, 1, 2, 3, 4], starts=[0, 0, 5, 30], width=155).clip(max=1)
        if kind == "simplified_path":
            return _sequences(choices, letters=[_CUT, _LEFT_OUT, 0, 1, 2], starts=[0, 1, 4, 13], width=40)
        return basic(self, choices, kind)

    # --- drawings

    def diagram(self, arch: Arch, scale: edges_form.Scale | None = None) -> list[Section]:
        """The cell, operations on its edges; with a scale also the skeleton."""
        cell = drawing(arch.choices)
        return [cell] if scale is None else [cell, self._skeleton(scale)]

    def _skeleton(self, scale: edges_form.Scale) -> Section:
        """The network, a stage's cells as one node."""
        nodes = [Node("image", "image", "end"), Node("stem", "stem: conv 3x3", "conv", modules=("0",))]
        index = 1
        for stage in range(1, 4):
            if stage > 1:
                label = "residual block, stride 2"
                nodes.append(Node(f"reduction{stage - 1}", label, "conv", modules=(str(index),)))
                index += 1
            cells = tuple(map(str, range(index, index + scale.cells)))
            label = times(f"stage {stage}: cell", scale.cells)
            nodes.append(Node(f"stage{stage}", label, "cell", modules=cells))
            index += scale.cells
        head = tuple(map(str, range(index, index + 4)))
        return chain("network", [*nodes, Node("head", "head: global pooling, linear", "linear", modules=head)])

    # --- the network

    def network(self, choose: Choose, task: ImageTask, scale: edges_form.Scale) -> nn.Module:
        """The published skeleton: 3 stages of `cells` cells, residual reductions between, any input size."""
        from nastool.nets.definitions.edges import Network

        return Network(choose, task.channels, task.outputs, width=scale.channels, cells=scale.cells)


_CUT, _LEFT_OUT = -2, -1


def _sequences(choices: Choices, letters: Sequence[int], starts: Sequence[int], width: int) -> NDArray[np.float32]:
    """Number of routes from input to output that spell each word, (n, width).

    letters: of each operation, or _CUT, _LEFT_OUT. starts: the column of the first word of each length.
    """
    letter = np.array(letters)
    base = letter.max() + 1
    rows = np.arange(len(choices))
    found = np.zeros((len(choices), width), dtype=np.float32)
    for route in ROUTES:
        word, length, open_ = (np.zeros(len(choices), dtype=np.intp) for _ in range(3))
        open_ += 1
        for edge in route:
            read = letter[choices[:, edge]]
            word = np.where(read >= 0, word * base + read, word)
            length += read >= 0
            open_ *= read != _CUT
        found[rows, np.array(starts)[length] + word] += open_
    return found
