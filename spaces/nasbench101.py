"""The cell space of NAS-Bench-101 (Ying et al., ICML 2019): small graphs with an operation at every inner vertex."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np
from numpy.typing import NDArray

from nastool.core.arrays import Choices, Columns
from nastool.core.diagram import Edge, Node, Section, chain, kind_of, times
from nastool.core.encodings import BASIC, basic
from nastool.core.errors import InvalidArchError
from nastool.core.space import Choose, SearchSpace, check_scale
from nastool.core.values import Arch, Decision

if TYPE_CHECKING:
    from torch import nn

    from nastool.tasks.images.task import ImageTask

_K = TypeVar("_K")

OPS = ("conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3")
INNER = range(1, 6)  # vertex 0 is the input
OUTPUT = 6
MAX_EDGES = 9
EDGES = tuple((x, y) for y in range(1, 7) for x in range(y))  # (source, target): bit x + y(y-1)/2 of the table's masks

Masks = Any
"""One int, or an int64 array of many. A graph's mask: bit i is EDGES[i]."""

# --- graphs as masks


def _sources(graph: Masks, target: int) -> Masks:
    """The set of vertices with an edge to target; bit x is vertex x."""
    return (graph >> target * (target - 1) // 2) & ((1 << target) - 1)


def live(graph: Masks) -> Masks:
    """The set of vertices on paths from the input to the output; empty where there is no path."""
    reached, needed = 1, 1 << OUTPUT
    for y in range(1, 7):
        reached = reached | ((_sources(graph, y) & reached) != 0) << y
    for y in range(6, 0, -1):
        needed = needed | _sources(graph, y) * (needed >> y & 1)
    return reached & needed


def prune(graph: Masks) -> Masks:
    """Only the edges on paths from the input to the output."""
    keep, kept = live(graph), 0
    for y in range(1, 7):
        kept = kept | (_sources(graph, y) & keep) * (keep >> y & 1) << y * (y - 1) // 2
    return kept


_pruned = lru_cache(maxsize=4096)(prune)
"""`prune` of an int: whoever mutates a cell asks for the same ones again and again."""

_MASK = 0xFFFFFFFFFFFFFFFF


def _mix(label: Masks, others: Masks) -> Masks:
    """A 64-bit hash; Python integers and uint64 arrays (which wrap around by themselves) give the same."""
    x = ((label * 0x9E3779B97F4A7C15 & _MASK) + others + 1) & _MASK
    x = (x ^ x >> 32) * 0xD6E8FEB86659FD93 & _MASK
    return x ^ x >> 32


def _hash(pruned: Masks, ops: Sequence[Masks]) -> Masks:
    """A hash that isomorphic cells share, after Weisfeiler and Lehman: a graph without cycles needs two sweeps.

    pruned: a pruned graph, an int or a uint64 array; ops: of vertices 1 to 5, of the same kind. Going down, a
    vertex's label takes in its operation and those of its sources; going back, its own and those of its targets.
    """
    sources = [_sources(pruned, y) for y in range(7)]
    down = [_mix(len(OPS), 0)]
    for y, op in enumerate((*ops, len(OPS) + 1), start=1):
        total = 0
        for x in range(y):
            total = total + (sources[y] >> x & 1) * down[x]
        down.append(_mix(op, total))
    back = down[:]
    for x in range(OUTPUT - 1, -1, -1):
        total = 0
        for y in range(x + 1, 7):
            total = total + (sources[y] >> x & 1) * back[y]
        back[x] = _mix(down[x], total)
    return back[0]


def _same_cell(one: int, its_ops: Sequence[int], other: int, other_ops: Sequence[int]) -> bool:
    """Whether two pruned graphs with operations are isomorphic. A hash takes long; counts tell most cells apart."""
    mine = [op for v, op in zip(INNER, its_ops, strict=True) if _sources(one, v)]
    others = [op for v, op in zip(INNER, other_ops, strict=True) if _sources(other, v)]
    if one == other and mine == others:
        return True
    alike = one.bit_count() == other.bit_count() and sorted(mine) == sorted(others)
    return alike and bool(_hash(one, its_ops) == _hash(other, other_ops))


def sources_of(pruned: int) -> dict[int, tuple[int, ...]]:
    """The vertices that each one, and the output, reads."""
    return {y: tuple(x for x in range(y) if _sources(pruned, y) >> x & 1) for y in range(1, OUTPUT + 1)}


_INNER_SETS = [[v for v in INNER if chosen >> v - 1 & 1] for chosen in range(32)]


def _path_edges(inner: Sequence[int]) -> int:
    """The mask of the edges of the path from the input over these vertices to the output."""
    return sum(1 << EDGES.index(edge) for edge in zip((0, *inner), (*inner, OUTPUT), strict=True))


class NasBench101(SearchSpace):
    """Cells of up to 7 vertices and 9 edges, 3 operations: 423,624 different ones.

    A cell is written as all 21 edges that 7 ordered vertices may have and the operations of vertices 1 to 5; the
    output is always vertex 6. What lies on no path from input to output does not count, so a cell has many
    representations, and smaller ones leave vertices out. Members have such a path, and at most 9 edges on such
    paths.
    """

    name = "nasbench101"
    provides = frozenset({"network", "table"})
    encodings = (*BASIC, "path", "adjacency")
    views = ("onehot", "counts", "path")  # the first depends on how vertices are numbered, the last does not
    paths_kept = 40  # those of at most 3 operations
    mutation_rate = 0.0

    @dataclass(frozen=True)
    class Scale:
        """Size of the network.

        Args:
            channels: Channels of the first stack, at least 4; each that follows has twice as many.
            stacks: Number of stacks of cells.
            cells: Cells per stack.
        """

        channels: int = 128
        stacks: int = 3
        cells: int = 3

        def __post_init__(self) -> None:
            check_scale(self)
            if self.channels < 4:
                raise ValueError(f"need channels >= 4, one for each vertex that feeds an output, got {self.channels}")

    def __init__(self) -> None:
        edges = [Decision(f"edge {x}->{y}", ("no", "yes")) for x, y in EDGES]
        super().__init__(edges + [Decision(f"op {v}", OPS) for v in INNER])

    # --- members

    def validate(self, arch: Arch) -> None:
        super().validate(arch)
        count = _pruned(_graph(arch.choices)).bit_count()
        if not count:
            raise InvalidArchError("no path leads from the input (vertex 0) to the output (vertex 6)")
        if count > MAX_EDGES:
            raise InvalidArchError(f"{count} edges lie on paths from input to output, {MAX_EDGES} are allowed")

    def sample(self, rng: np.random.Generator) -> Arch:
        """A member drawn uniformly, by rejection.

        Uniform are the representations, not the cells: a cell with more of them (more vertices left out, less
        symmetry) is drawn more often.
        """
        while True:
            graph = int(rng.integers(1 << len(EDGES)))
            if _is_cell(graph):
                return self._arch(graph, int(rng.integers(len(OPS) ** len(INNER))))

    def sample_new(self, rng: np.random.Generator, seen: Container[_K], key: Callable[[Arch], _K]) -> Arch | None:
        """A member drawn uniformly among those whose key is not in seen.

        Once 1,000 draws in a row have been seen, one representation of each cell stands for all: drawn is a cell
        not seen, each alike, and None says that all cells have been seen.
        """
        for _ in range(1000):
            arch = self.sample(rng)
            if key(arch) not in seen:
                return arch
        cells = self._cells
        for _ in range(1000):
            arch = self.arch(cells[rng.integers(len(cells))])
            if key(arch) not in seen:
                return arch
        left = [arch for arch in map(self.arch, cells) if key(arch) not in seen]
        return left[int(rng.integers(len(left)))] if left else None

    def members(self) -> Iterator[Arch]:
        """Every representation once, in lexicographic order, found as they are asked for: there are 373,754,169."""
        for number in range(1 << len(EDGES)):
            graph = int(f"{number:0{len(EDGES)}b}"[::-1], 2)  # the first decision varies slowest
            if _is_cell(graph):
                yield from (self._arch(graph, code) for code in range(len(OPS) ** len(INNER)))

    def mutate(self, arch: Arch, rng: np.random.Generator) -> Arch:
        """Each of the 21 edges flips with probability 1/21, each operation changes with probability 1/5.

        Drawn again until it is another cell: the field's mutation, except that representations of the same cell
        do not count, since they would waste a trial.
        """
        old_graph, old_ops = _graph(arch.choices), arch.choices[len(EDGES) :]
        old = _pruned(old_graph)
        while True:
            graph, ops = old_graph, list(old_ops)
            for i in (rng.random(len(self._RATES)) < self._RATES).nonzero()[0].tolist():
                if i < len(EDGES):
                    graph ^= 1 << i
                else:
                    ops[i - len(EDGES)] = (ops[i - len(EDGES)] + int(rng.integers(1, len(OPS)))) % len(OPS)
            new = _pruned(graph)
            if 0 < new.bit_count() <= MAX_EDGES and not _same_cell(new, ops, old, old_ops):
                return self.arch([*(graph >> i & 1 for i in range(len(EDGES))), *ops])

    _RATES: ClassVar = np.repeat((1 / len(EDGES), 1 / len(INNER)), (len(EDGES), len(INNER)))

    def _arch(self, graph: int, code: int) -> Arch:
        """code: the operations as the table writes them."""
        ops = (code // 81, code // 27 % 3, code // 9 % 3, code // 3 % 3, code % 3)
        return self.arch([*(graph >> i & 1 for i in range(len(EDGES))), *ops])

    # --- equivalence

    def canonical(self, arch: Arch) -> str:
        """A hash of the pruned cell, equal for isomorphic ones; all 423,624 cells differ in it (tests check)."""
        return f"{_hash(_pruned(_graph(arch.choices)), arch.choices[len(EDGES) :]):016x}"

    def canonical_many(self, choices: Choices) -> list[str]:
        return [f"{value:016x}" for value in self._hashes(choices).tolist()]

    def _hashes(self, choices: Choices) -> NDArray[np.uint64]:
        ops = [column.astype(np.uint64) for column in choices[:, len(EDGES) :].T]
        hashes: NDArray[np.uint64] = _hash(prune(_graphs(choices)).astype(np.uint64), ops)
        return hashes

    @cached_property
    def _cells(self) -> NDArray[np.uint8]:
        """One representation of each cell, (423,624, 26); its inner vertices come first, those left out last."""
        graphs = np.arange(1 << len(EDGES))
        inner = live(graphs) >> 1 & 31
        graphs = graphs[
            (graphs > 0)
            & (prune(graphs) == graphs)
            & (np.bitwise_count(graphs) <= MAX_EDGES)
            & (inner & inner + 1 == 0)
        ]
        shapes = np.unique(_hash(graphs.astype(np.uint64), [np.uint64(0)] * len(INNER)), return_index=True)[1]
        edges = graphs[shapes, None] >> np.arange(len(EDGES)) & 1
        ops = np.indices((len(OPS),) * len(INNER)).reshape(len(INNER), -1).T
        choices = np.hstack([np.repeat(edges, len(ops), axis=0), np.tile(ops, (len(edges), 1))]).astype(np.uint8)
        return choices[np.unique(self._hashes(choices), return_index=True)[1]]

    # --- encodings

    def encode_many(self, choices: Choices, kind: str = "onehot") -> NDArray[np.float32]:
        """Two kinds besides the usual ones.

        "path" (White et al., AAAI 2021): which sequences of operations lead from input to output, d = 364. The
        sequence o_0, o_1, ... is number sum_i 3^i (o_i + 1), so shorter ones come first. Isomorphic cells have
        the same vector. "adjacency": the 21 edges, then the operations' indicator vectors, d = 36; of the
        representation as it is, with what lies on no path.
        """
        if kind == "path":
            return self._encode_paths(choices)
        vectors = basic(self, choices, "onehot" if kind == "adjacency" else kind)
        return np.delete(vectors, np.s_[: 2 * len(EDGES) : 2], axis=1) if kind == "adjacency" else vectors

    _PATH_EDGES: ClassVar = np.array([_path_edges(inner) for inner in _INNER_SETS])
    _PATH_WEIGHTS: ClassVar = np.array([[3 ** s.index(v) if v in s else 0 for s in _INNER_SETS] for v in INNER])

    def _encode_paths(self, choices: Choices) -> NDArray[np.float32]:
        there = _graphs(choices)[:, None] & self._PATH_EDGES == self._PATH_EDGES  # (n, 32)
        number = (choices[:, len(EDGES) :].astype(np.int64) + 1) @ self._PATH_WEIGHTS
        vectors = np.zeros((len(choices), sum(len(OPS) ** k for k in range(len(INNER) + 1))), dtype=np.float32)
        rows, paths = np.nonzero(there)
        vectors[rows, number[rows, paths]] = 1
        return vectors

    # --- the table

    def table_choices(self, columns: Columns) -> Choices:
        """Choices from num_vertices, edge_bits and op_code (base 3, vertex 1 first); or from "arch", where that is."""
        if "arch" in columns:
            arch = columns["arch"]
            if arch.ndim == 2 and arch.shape[1] == len(self.decisions) and arch.dtype.kind in "iu":
                _check_cells(_graphs(arch & 1))  # whoever reads the table looks for other numbers
            return arch
        names = ("num_vertices", "edge_bits", "op_code")
        for name in names:
            if columns[name].dtype.kind not in "iu" or columns[name].ndim != 1:
                raise ValueError(f"{name}: expected integers, one per row, got {columns[name].dtype}")
        count, graph, code = np.stack([columns[name].astype(np.int64) for name in names])
        good = (count >= 2) & (count <= 7) & (graph >= 0) & (code >= 0)
        size = np.clip(count, 2, 7)
        good &= (graph < 1 << size * (size - 1) // 2) & (code < len(OPS) ** (size - 2))
        if not good.all():
            row = int(np.flatnonzero(~good)[0])
            raise ValueError(f"row {row} is no cell: {count[row]} vertices, edges {graph[row]}, operations {code[row]}")
        last = count - 1
        within = graph & (1 << last * (last - 1) // 2) - 1
        graph = within | _sources(graph, last) << OUTPUT * (OUTPUT - 1) // 2
        _check_cells(graph)
        ops = code[:, None] * len(OPS) ** (7 - count[:, None]) // len(OPS) ** np.arange(4, -1, -1) % len(OPS)
        return np.hstack([graph[:, None] >> np.arange(len(EDGES)) & 1, ops]).astype(np.uint8)

    # --- drawings

    def diagram(self, arch: Arch, scale: Scale | None = None) -> list[Section]:
        """The vertices on paths from the cell's input to its output; with a scale also the stacks."""
        graph = prune(_graph(arch.choices))
        ops = dict(zip(INNER, (OPS[choice] for choice in arch.choices[len(EDGES) :]), strict=True))
        there = [v for v in range(OUTPUT + 1) if live(graph) >> v & 1]
        ends = {0: Node("input", "input", "end"), OUTPUT: Node("output", "output", "end")}
        nodes = {v: ends.get(v) or Node(str(v), f"{v}: {ops[v]}", kind_of(ops[v])) for v in there}
        edges = [Edge(nodes[x].name, nodes[y].name) for i, (x, y) in enumerate(EDGES) if graph >> i & 1]
        note = "A vertex adds up what it reads, the output concatenates; the input goes through 1x1 convolutions."
        cell = Section("cell", tuple(nodes.values()), tuple(edges), note=note)
        return [cell] if scale is None else [cell, self._stacks(scale)]

    def _stacks(self, scale: Scale) -> Section:
        """The network, a stack's cells as one node."""
        layers = [Node("image", "image", "end"), Node("stem", "stem: conv 3x3", "conv", modules=("0",))]
        index = 1
        for stack in range(1, scale.stacks + 1):
            if stack > 1:
                layers.append(Node(f"pooling{stack - 1}", "max pooling 2x2", "pool", modules=(str(index),)))
                index += 1
            cells = tuple(map(str, range(index, index + scale.cells)))
            label = times(f"stack {stack}: cell", scale.cells)
            layers.append(Node(f"stack{stack}", label, "cell", modules=cells))
            index += scale.cells
        head = (str(index), str(index + 1))
        return chain("network", [*layers, Node("head", "head: global pooling, linear", "linear", modules=head)])

    # --- the network

    def network(self, choose: Choose, task: ImageTask, scale: Scale) -> nn.Module:
        """Stem, stacks of cells with 2x2 max pooling and twice the channels in between, global pooling, linear.

        As published: inputs are projected by 1x1 convolutions to a vertex's channels, wider sources are cut off to
        them, a vertex applies its operation to the sum, and the output concatenates. Channels depend on the edges, so
        there is no weight-sharing supernet. Not as published: batch normalisation keeps 0.9 of its running
        averages at a step, not 0.997, with which they come too late in a training of less than thousands of steps.
        """
        from nastool.nets.definitions.vertices import Network

        graph = prune(sum(1 << i for i, (x, y) in enumerate(EDGES) if choose.option(f"edge {x}->{y}") == "yes"))
        ops = {v: choose.option(f"op {v}") for v in INNER}
        sizes = {"width": scale.channels, "stacks": scale.stacks, "cells": scale.cells}
        return Network(ops, sources_of(graph), task.channels, task.outputs, **sizes)


def _is_cell(graph: int) -> bool:
    count: int = _pruned(graph).bit_count()
    return 0 < count <= MAX_EDGES


def _check_cells(graphs: NDArray[np.int64]) -> None:
    """ValueError where one is no member's, whatever its operations."""
    edges = np.bitwise_count(prune(graphs))
    bad = np.flatnonzero((edges == 0) | (edges > MAX_EDGES))
    if len(bad):
        raise ValueError(f"row {bad[0]} is no cell: {edges[bad[0]]} edges lie on paths from input to output")


def _graph(choices: Sequence[int]) -> int:
    """The mask of the edges among an architecture's choices."""
    return int("".join(map(str, choices[len(EDGES) - 1 :: -1])), 2)


def _graphs(choices: Choices) -> NDArray[np.int64]:
    """`_graph` of each row."""
    return choices[:, : len(EDGES)].astype(np.int64) @ (1 << np.arange(len(EDGES)))
