"""Two cells that a network is stacked from: the space of NASNet, ENAS micro, AmoebaNet and DARTS."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2s
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from nastool.core.diagram import Edge, Node, Section, chain, kind_of, times
from nastool.core.encodings import BASIC, basic
from nastool.core.errors import InputError, short
from nastool.core.space import Choose, SearchSpace, check_scale
from nastool.core.values import Arch, Decision
from nastool.nets.definitions.cells_form import INPUTS, Cells

if TYPE_CHECKING:
    from torch import nn

    from nastool.tasks.images.task import ImageTask

OPS: Mapping[str, tuple[str, ...]] = {
    "enas": ("sep_conv_3x3", "sep_conv_5x5", "avg_pool_3x3", "max_pool_3x3", "skip_connect"),
    "nasnet": (
        "skip_connect",
        "conv_1x3_3x1",
        "conv_1x7_7x1",
        "dil_conv_3x3",
        "avg_pool_3x3",
        "max_pool_3x3",
        "max_pool_5x5",
        "max_pool_7x7",
        "conv_1x1",
        "conv_3x3",
        "sep_conv_3x3",
        "sep_conv_5x5",
        "sep_conv_7x7",
    ),
    "darts": (
        "none",
        "max_pool_3x3",
        "avg_pool_3x3",
        "skip_connect",
        "sep_conv_3x3",
        "sep_conv_5x5",
        "dil_conv_3x3",
        "dil_conv_5x5",
    ),
}
KINDS = ("normal", "reduce")
MAX_PATHS = 4000
"""Entries of the path encoding at most; of longer paths there are too many."""
ROWS = 1000
"""Encoded at a time: what a path encoding needs on its way is many times as large as the result."""


class CellCNN(SearchSpace):
    """A normal and a reduction cell of B blocks, each of two inputs, an operation on either and their combination.

    The states of a cell are numbered as in DARTS' genotypes: 0 is the output of the cell before the previous one, 1
    that of the previous one, 2 .. B+1 are the blocks 1 .. B. A block decides: input, operation, input, operation; a
    policy draws both inputs first.
    """

    name = "cell-cnn"
    provides = frozenset({"network", "supernet"})
    encodings = (*BASIC, "path")

    @dataclass(frozen=True)
    class Scale:
        """Size of the network.

        Args:
            channels: Channels of each state in the first of three stages; the next have 2 and 4 times as many.
            cells: Normal cells per stage; a reduction cell stands between two stages.
            stem: Channels of the first convolution, in multiples of `channels`.
            auxiliary: 1 adds a second classifier after 2/3 of the cells, that there is only in training: then the
                network returns (logits, auxiliary logits).
            twice: 1 sends the previous cell's output through two 1x1 convolutions, ReLU and BN with each, as ENAS' code
                does.
        """

        channels: int = 36
        cells: int = 5
        stem: int = 3
        auxiliary: int = 0
        twice: int = 0

        def __post_init__(self) -> None:
            check_scale(self, switches=("auxiliary", "twice"))

    def __init__(
        self,
        *,
        blocks: int = 5,
        ops: Literal["enas", "nasnet", "darts"] = "enas",
        combine: Literal["add", "concat", "search"] = "add",
        normal_output: str = "unused",
        reduce_output: str = "unused",
    ) -> None:
        """Makes a space.

        Args:
            blocks: Blocks B of a cell, from 1 to 16.
            ops: Operations: ENAS' 5, NASNet's 13 or DARTS' 8.
            combine: How a block combines its inputs; "search" makes it a decision of its own, as in NASNet. A
                concatenation is followed by a 1x1 convolution to the channels of a state.
            normal_output: States that a normal cell concatenates: "unused" (those that no block of the architecture
                reads), "all" (the blocks), or numbers, such as 2,3,4,5. Blocks and cells that lead nowhere are left out
                of the network.
            reduce_output: States that a reduction cell concatenates, written like normal_output.
        """
        if not 1 <= blocks <= 16:
            raise InputError(f"space {self.name}: need 1 <= blocks <= 16, got {blocks}")
        if ops not in OPS or combine not in ("add", "concat", "search"):
            raise InputError(f"space {self.name}: no ops {short(ops)!r} or no combine {short(combine)!r}")
        self.blocks = blocks
        self.states = tuple(map(str, range(blocks + 2)))
        self.ops = OPS[ops]
        self.combine = combine
        fixed = {
            "normal": self._fixed_output("normal_output", normal_output),
            "reduce": self._fixed_output("reduce_output", reduce_output),
        }
        self.cells = Cells(blocks, self.ops, combine, fixed)
        decisions = []
        for kind in KINDS:
            places = [f"{kind}:input0", f"{kind}:input1", *(f"{kind}{b}" for b in range(1, blocks + 1))]
            for b in range(1, blocks + 1):
                block = f"{kind}{b}"
                for slot in "12":
                    decisions.append(
                        Decision(f"{block}.input{slot}", self.states[: b + 1], block, tuple(places[: b + 1]))
                    )
                    decisions.append(Decision(f"{block}.op{slot}", self.ops, block))
                if combine == "search":
                    decisions.append(Decision(f"{block}.combine", ("add", "concat"), block))
        super().__init__(
            decisions,
            blocks=blocks,
            ops=ops,
            combine=combine,
            normal_output=normal_output,
            reduce_output=reduce_output,
        )
        self._column = {decision.name: i for i, decision in enumerate(self.decisions)}
        self._letters = len(self.ops) * (2 if combine == "search" else 1)
        lengths = range(1, blocks + 1)
        self.path_length = max(n for n in lengths if n == 1 or self._paths_up_to(n) <= MAX_PATHS)
        """Operations of the longest paths in the path encoding."""

    def _paths_up_to(self, length: int) -> int:
        """Of so many operations, from either input of either cell."""
        sequences: int = sum(self._letters**n for n in range(length + 1))
        return len(KINDS) * len(INPUTS) * sequences

    def _fixed_output(self, option: str, text: str) -> tuple[str, ...] | None:
        """The states that every architecture's cell concatenates; None: that depends."""
        if text == "unused":
            return None
        if text == "all":
            return self.states[2:]
        numbers = text.split(",")
        if not set(numbers) <= set(self.states) or len(set(numbers)) < len(numbers):
            raise InputError(
                f"space {self.name}: {option} must be unused, all or different numbers from 0 to "
                f"{self.blocks + 1} with commas between, got {short(text)!r}"
            )
        return tuple(numbers)

    @cached_property
    def policy_order(self) -> tuple[int, ...]:
        """Each block: both inputs, both operations, the combination, as NASNet's and ENAS' controllers do."""
        rank = {"input": 0, "op": 1, "combine": 2}
        blocks = list(dict.fromkeys(decision.place for decision in self.decisions))

        def key(i: int) -> tuple[int, int]:
            decision = self.decisions[i]
            return blocks.index(decision.place), rank[decision.name.rpartition(".")[2].rstrip("12")]

        return tuple(sorted(range(len(self.decisions)), key=key))

    # --- equivalence

    def canonical(self, arch: Arch) -> str:
        """The expressions of each cell's outputs, hashed.

        Recognises the order of a block's two (input, operation) pairs, the order of blocks, blocks that lead to no
        output, and what `none` reads. The order of outputs does not count either: it only permutes channels.
        """
        options = (decision.options[choice] for decision, choice in zip(self.decisions, arch.choices, strict=True))
        chosen = dict(zip((decision.name for decision in self.decisions), options, strict=True))
        cells = []
        for kind in KINDS:
            forms = list(INPUTS)
            for block in range(1, self.blocks + 1):
                name = f"{kind}{block}"
                pairs = [(chosen[f"{name}.op{slot}"], forms[int(chosen[f"{name}.input{slot}"])]) for slot in "12"]
                terms = sorted(op if op == "none" else f"{op}({source})" for op, source in pairs)
                combine = chosen.get(f"{name}.combine", self.combine)
                forms.append(blake2s(f"{combine} {' '.join(terms)}".encode(), digest_size=8).hexdigest())
            cells.append(" ".join(sorted(forms[int(state)] for state in self.cells.outputs(chosen, kind))))
        return " | ".join(cells)

    # --- encodings

    def encode_many(self, choices: NDArray[np.integer[Any]], kind: str = "onehot") -> NDArray[np.float32]:
        """Besides the kinds that every space has:

        "path" (White et al. 2021, as for DARTS' space): which sequences of operations lead from an input of a cell to
            a state that it puts out, one bit for each cell, input and sequence; the short ones first, and of these the
            normal cell's, input 0 before input 1. `none` and `skip_connect` are operations like any other; where
            blocks decide how they combine, an operation before a concatenation is another one than before an
            addition. Paths of more than `path_length` operations are left out, so that d is at most MAX_PATHS
            (more only where the paths of one operation are). The order of blocks, and of the two inputs of a block,
            does not matter.
        """
        if kind != "path":
            return basic(self, choices, kind)
        parts = [self._encode_paths(choices[i : i + ROWS]) for i in range(0, max(1, len(choices)), ROWS)]
        return np.concatenate(parts)

    def _encode_paths(self, choices: NDArray[np.integer[Any]]) -> NDArray[np.float32]:
        cells = [self._paths(choices.astype(np.intp), kind) for kind in KINDS]
        found = [np.stack(same_length, axis=1) for same_length in zip(*cells, strict=True)]
        return np.concatenate([bits.reshape(len(choices), -1) for bits in found], axis=1).astype(np.float32)

    def _paths(self, choices: NDArray[np.intp], kind: str) -> list[NDArray[np.bool_]]:
        """For each length of a path, from 0: (n, 2, number of sequences), which lead from either input to an output.

        A sequence is the number whose digits are its operations, the first one first.
        """
        n, letters = len(choices), self._letters
        rows = np.arange(n)
        reach = [np.zeros((n, len(self.states), 2, letters**length), bool) for length in range(self.path_length + 1)]
        reach[0][:, 0, 0] = reach[0][:, 1, 1] = True
        unread = np.ones((n, len(self.states)), dtype=bool)
        for block in range(1, self.blocks + 1):
            name = f"{kind}{block}"
            combined = choices[:, self._column[f"{name}.combine"]] if self.combine == "search" else 0
            for slot in "12":
                source = choices[:, self._column[f"{name}.input{slot}"]]
                letter = choices[:, self._column[f"{name}.op{slot}"]] + len(self.ops) * combined
                unread[rows, source] = False
                for before, after in pairwise(reach):
                    longer = after[:, block + 1].reshape(n, 2, -1, letters)  # a view
                    longer[rows, :, :, letter] |= before[rows, source]
        fixed = self.cells.fixed[kind]
        out = unread if fixed is None else np.isin(self.states, fixed)[None]
        return [np.any(paths & out[:, :, None, None], axis=1) for paths in reach]

    # --- drawings

    def diagram(self, arch: Arch, scale: Scale | None = None) -> list[Section]:
        """Both cells, operations on the edges, without what leads nowhere; with a scale also the network."""
        options = (decision.options[choice] for decision, choice in zip(self.decisions, arch.choices, strict=True))
        chosen = dict(zip((decision.name for decision in self.decisions), options, strict=True))
        cells = [self._drawn_cell(chosen, kind) for kind in KINDS]
        return cells if scale is None else [*cells, self._drawn_network(chosen, scale)]

    def _drawn_cell(self, chosen: Mapping[str, str], kind: str) -> Section:
        live = self.cells.live(chosen, kind)
        labels = {"0": "0: cell before last", "1": "1: last cell"}
        nodes = [Node(state, labels[state], "end") for state in INPUTS if state in live]
        edges = []
        for block in range(1, self.blocks + 1):
            name, state = f"{kind}{block}", str(block + 1)
            if state not in live:
                continue
            combine = chosen.get(f"{name}.combine", self.combine)
            nodes.append(Node(state, f"{state}: {combine}"))
            for slot in "12":
                op = chosen[f"{name}.op{slot}"]
                edges.append(Edge(chosen[f"{name}.input{slot}"], state, op, kind_of(op)))
        outputs = self.cells.outputs(chosen, kind)
        nodes.append(Node("out", "output: concat" if len(outputs) > 1 else "output", "end"))
        edges += [Edge(state, "out") for state in outputs]
        left_out = [state for state in self.states[2:] if state not in live]
        note = f"Not built, since they lead nowhere: {', '.join(left_out)}." if left_out else ""
        return Section("normal cell" if kind == "normal" else "reduction cell", tuple(nodes), tuple(edges), note=note)

    def _drawn_network(self, chosen: Mapping[str, str], scale: Scale) -> Section:
        """A stage's cells as one node."""
        nodes = [Node("image", "image", "end"), Node("stem", "stem: conv 3x3", "conv", modules=("stem",))]
        kinds = ["normal"] * scale.cells + (["reduce"] + ["normal"] * scale.cells) * 2
        there = self.cells.live_cells(chosen, kinds, [len(kinds) - 1])
        for stage in range(3):
            first = stage * (scale.cells + 1)
            if stage and str(first - 1) in there:
                module = f"cells.members.{first - 1}"
                nodes.append(Node(f"reduction{stage}", "reduction cell", "cell", modules=(module,)))
            indices = [i for i in range(first, first + scale.cells) if str(i) in there]
            if indices:
                modules = tuple(f"cells.members.{i}" for i in indices)
                label = times(f"stage {stage + 1}: normal cell", len(indices))
                nodes.append(Node(f"stage{stage + 1}", label, "cell", modules=modules))
        head = "head: ReLU, global pooling, linear"
        nodes.append(Node("head", head, "linear", modules=("classifier",)))
        return chain("network", nodes, note="A cell also reads the one before the last. Shapes are of one state.")

    # --- the network

    def network(self, choose: Choose, task: ImageTask, scale: Scale) -> nn.Module:
        """3x3 convolution and BN; N normal cells, reduction, N normal, reduction, N normal; ReLU, pooling, linear.

        As published (Zoph et al. 2018, Pham et al. 2018, Liu et al. 2019): an operation is ReLU, convolution, BN,
        separable convolutions twice; the two inputs of a cell are brought to its channels by ReLU, 1x1 convolution and
        BN, or a factorised reduction where the input is larger; a reduction cell's operations on its inputs have stride
        2, and it doubles the channels. Weights belong to a block, its slot, the input and the operation. The supernet
        is built like the final network (ENAS' search code reduces in front of a reduction cell, whose strides are 1).

        Where the published networks differ from each other, here all do the same: each input gets one 1x1 convolution
        (ENAS: two in a row on the second, `twice=1`; ENAS, NASNet: none where the channels fit); `skip_connect` with
        stride 2 is a ReLU and a factorised reduction (ENAS: no ReLU; NASNet: a strided 1x1 convolution); `dil_conv` is
        separable (DARTS); a ReLU precedes the last pooling (DARTS: none). An output that is a reduction cell's input
        takes a factorised reduction. `DropPath` is on every edge but `skip_connect` and `none` (DARTS: also on
        `skip_connect` with stride 2). The auxiliary classifier reads the second reduction cell (ENAS: the cell after
        it; NASNet: the one before).
        """
        from nastool.nets.definitions.cells import Network, WithAuxiliary

        sizes = {"width": scale.channels, "cells": scale.cells, "stem": scale.stem * scale.channels}
        more: dict[str, Any] = {**sizes, "twice": bool(scale.twice)}
        if scale.auxiliary:
            image = task.height, task.width
            return WithAuxiliary(choose, self.cells, task.channels, task.outputs, image=image, **more)
        return Network(choose, self.cells, task.channels, task.outputs, **more)

    def lean(self, scale: Scale) -> Scale:
        return replace(scale, auxiliary=0)
