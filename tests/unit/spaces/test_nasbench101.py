"""The space of NAS-Bench-101: what was published, isomorphism, encodings, its table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from nastool.core import encodings
from nastool.core.errors import InputError, InvalidArchError
from nastool.core.values import Arch, Proposal
from nastool.evaluators.table import Table
from nastool.nets import networks
from nastool.nets.definitions.vertices import vertex_channels
from nastool.spaces.nasbench101 import EDGES, OPS, NasBench101, live, prune, sources_of
from nastool.tasks.images.task import ImageTask

SPACE = NasBench101()
CIFAR10 = ImageTask(3, 32, 32, 10)
CELLS = 423_624
Table_ = tuple[NDArray[np.uint8], NDArray[np.float64]]  # choices, accuracies

# Rows of the published data set as its interface prints them: adjacency, operations, trainable parameters, test
# accuracy of one training. The first is the first in hash order; the second the README's Inception-like cell.
PUBLISHED = [
    (
        "0100110 0010000 0001001 0000010 0000010 0000001 0000000",
        "conv3x3 maxpool3x3 conv3x3 conv3x3 conv1x1",
        8_555_530,
        0.9211738705635071,
    ),
    (
        "0111100 0000001 0000001 0000001 0000010 0000001 0000000",
        "conv3x3 conv1x1 maxpool3x3 conv3x3 conv3x3",
        2_694_282,
        0.9311898946762085,
    ),
]


def cell(matrix: str, ops: str = "conv3x3 conv3x3 conv3x3 conv3x3 conv3x3") -> Arch:
    """From rows of an adjacency matrix of 7 vertices and the operations of 1 to 5."""
    rows = matrix.split()
    names = [name.partition("-")[0] for name in OPS]
    return SPACE.arch([*(int(rows[x][y]) for x, y in EDGES), *(names.index(op) for op in ops.split())])


def edges(*pairs: tuple[int, int]) -> int:
    return sum(1 << EDGES.index(pair) for pair in pairs)


def chain(ops: Sequence[int]) -> Arch:
    """input -> these operations -> output."""
    stops = [0, *range(1, len(ops) + 1), 6]
    graph = edges(*pairwise(stops))
    return SPACE.arch([*(graph >> i & 1 for i in range(21)), *ops, *[0] * (5 - len(ops))])


def relabel(arch: Arch, order: Sequence[int]) -> Arch:
    """The same cell with inner vertex order[i] in place i + 1; edges must still go up."""
    place = {0: 0, 6: 6, **{v: i + 1 for i, v in enumerate(order)}}
    moved = {(place[x], place[y]) for (x, y), there in zip(EDGES, arch.choices[:21], strict=True) if there}
    assert moved <= set(EDGES)
    return SPACE.arch([*(int(edge in moved) for edge in EDGES), *(arch.choices[20 + v] for v in order)])


def orders(arch: Arch) -> st.SearchStrategy[list[int]]:
    """Orders of the inner vertices in which every edge goes up."""
    sources = {v: {x for (x, y), there in zip(EDGES, arch.choices, strict=False) if there and y == v} for v in range(6)}

    @st.composite
    def draw_order(draw: st.DrawFn) -> list[int]:
        order: list[int] = []
        while len(order) < 5:
            ready = [v for v in range(1, 6) if v not in order and sources[v] <= {0, *order}]
            order.append(draw(st.sampled_from(ready)))
        return order

    return draw_order()


def archs() -> st.SearchStrategy[Arch]:
    return st.integers(0, 2**32 - 1).map(lambda seed: SPACE.sample(np.random.default_rng(seed)))


def paths(arch: Arch) -> set[tuple[int, ...]]:
    """The operation sequences from input to output, by walking."""
    targets = {x: [y for (a, y), there in zip(EDGES, arch.choices, strict=False) if there and a == x] for x in range(7)}

    def after(vertex: int) -> set[tuple[int, ...]]:
        if vertex == 6:
            return {()}
        own = (arch.choices[20 + vertex],) if vertex else ()
        return {own + rest for target in targets[vertex] for rest in after(target)}

    return after(0)


def number(path: Sequence[int]) -> int:
    return sum(3**i * (op + 1) for i, op in enumerate(path))


@pytest.fixture(scope="module")
def table(benchmark_data: Path) -> Table_:
    with np.load(benchmark_data / "nasbench101.npz") as file:
        columns = dict(file)
    return SPACE.table_choices(columns).astype(np.uint8), columns["test_correct_of_9984"] / 9984


@pytest.fixture(scope="module")
def evaluator(benchmark_data: Path) -> Table:
    evaluator = Table(SPACE, file=str(benchmark_data / "nasbench101.npz"))
    evaluator.prepare()
    return evaluator


class TestMembers:
    @pytest.mark.parametrize(
        "graph, message",
        [
            (0, "no path leads from the input"),
            (edges((0, 1), (1, 2), (3, 6)), "no path leads from the input"),
            (2**21 - 1, "21 edges lie on paths from input to output, 9 are allowed"),
        ],
    )
    def test_rules_are_named(self, graph: int, message: str) -> None:
        arch = SPACE.arch([*(graph >> i & 1 for i in range(21)), 0, 0, 0, 0, 0])
        with pytest.raises(InvalidArchError, match=message):
            SPACE.validate(arch)
        assert not SPACE.is_member(arch)

    def test_dangling_edges_do_not_count(self) -> None:
        graph = edges((0, 6), *((x, y) for x, y in EDGES if y < 6))
        assert graph.bit_count() == 16
        assert prune(graph) == edges((0, 6))
        assert live(graph) == 0b1000001
        SPACE.validate(SPACE.arch([*(graph >> i & 1 for i in range(21)), 0, 0, 0, 0, 0]))

    @given(st.integers(0, 2**21 - 1))
    def test_pruning_keeps_what_lies_on_paths(self, graph: int) -> None:
        pairs = {edge for i, edge in enumerate(EDGES) if graph >> i & 1}

        def reach(start: int, pairs: set[tuple[int, int]]) -> set[int]:
            return {start}.union(*(reach(y, pairs) for x, y in pairs if x == start))

        on_path = reach(0, pairs) & reach(6, {(y, x) for x, y in pairs})
        kept = prune(graph)
        assert kept == edges(*((x, y) for x, y in pairs if {x, y} <= on_path))
        assert prune(kept) == kept
        assert prune(np.array([graph]))[0] == kept

    def test_mutants(self) -> None:
        """The field's rates: 1 of 21 edges and 1 of 5 operations on average, before rejection."""
        rng = np.random.default_rng(0)
        arch = cell(*PUBLISHED[0][:2])
        changed = np.array([SPACE.mutate(arch, rng).choices for _ in range(2000)]) != arch.choices
        assert changed.any(axis=0).all()
        assert 0.9 < changed[:, :21].sum(axis=1).mean() < 1.6
        assert 0.9 < changed[:, 21:].sum(axis=1).mean() < 1.6

    def test_sample_new_runs_out_of_cells(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Three cells stand for all: drawn until none is left, though thousands of representations remain."""
        space = NasBench101()
        some = [chain([0]), chain([1]), chain([2, 2])]
        monkeypatch.setitem(space.__dict__, "_cells", np.array([arch.choices for arch in some], dtype=np.uint8))

        class Seen(set[str]):
            def __contains__(self, form: object) -> bool:
                return super().__contains__(form) or form not in forms

        forms = {space.canonical(arch) for arch in some}
        seen, rng = Seen(), np.random.default_rng(0)
        for _ in some:
            arch = space.sample_new(rng, seen, space.canonical)
            assert arch is not None
            assert space.canonical(arch) not in seen
            seen.add(space.canonical(arch))
        assert space.sample_new(rng, seen, space.canonical) is None


class TestEquivalence:
    def test_every_cell_there_is_has_its_own_form(self) -> None:
        """The space's own enumeration gives the published number of cells; single and many agree."""
        cells = SPACE._cells
        forms = SPACE.canonical_many(cells)
        assert len(set(forms)) == len(cells) == CELLS
        for row in np.random.default_rng(0).integers(CELLS, size=500):
            arch = SPACE.arch(cells[row])
            SPACE.validate(arch)
            assert SPACE.canonical(arch) == forms[row]

    def test_forms_are_the_same_everywhere(self) -> None:
        assert SPACE.canonical(cell(*PUBLISHED[0][:2])) == "6a6142bef175a283"

    @given(st.data(), archs())
    def test_isomorphic_cells_share_form_and_paths(self, data: st.DataObject, arch: Arch) -> None:
        other = relabel(arch, data.draw(orders(arch)))
        assert SPACE.canonical(other) == SPACE.canonical(arch)
        assert (encodings.encode(SPACE, other, "path") == encodings.encode(SPACE, arch, "path")).all()

    @given(archs())
    def test_what_lies_on_no_path_does_not_count(self, arch: Arch) -> None:
        graph = sum(there << i for i, there in enumerate(arch.choices[:21]))
        kept, on_path = prune(graph), live(graph)
        ops = [op if on_path >> v & 1 else 2 - op for v, op in enumerate(arch.choices[21:], start=1)]
        pruned = SPACE.arch([*(kept >> i & 1 for i in range(21)), *ops])
        assert SPACE.canonical(pruned) == SPACE.canonical(arch)
        assert (encodings.encode(SPACE, pruned, "path") == encodings.encode(SPACE, arch, "path")).all()

    def test_the_table_holds_every_cell_once(self, table: Table_) -> None:
        choices = table[0]
        assert choices.shape == (CELLS, 26)
        graphs = choices[:, :21].astype(np.int64) @ (1 << np.arange(21))
        assert (prune(graphs) == graphs).all()
        assert np.bitwise_count(graphs).max() == 9
        assert set(SPACE.canonical_many(choices)) == set(SPACE.canonical_many(SPACE._cells))


class TestEncodings:
    def test_paths_are_numbered_by_length(self) -> None:
        """All 364 sequences of up to 5 operations: the first 40 are those of up to 3."""
        sequences = [ops for k in range(6) for ops in np.ndindex(*[3] * k)]
        vectors = encodings.encode_many(SPACE, np.array([chain(ops).choices for ops in sequences]), "path")
        assert vectors.shape == (364, 364)
        assert (vectors.sum(axis=1) == 1).all()
        assert vectors.argmax(axis=1).tolist() == [number(ops) for ops in sequences]
        assert {ops for ops in sequences if number(ops) < 40} == {ops for ops in sequences if len(ops) <= 3}

    @given(archs())
    def test_ones_are_the_different_paths(self, arch: Arch) -> None:
        assert set(np.flatnonzero(encodings.encode(SPACE, arch, "path")).tolist()) == {
            number(path) for path in paths(arch)
        }

    def test_adjacency(self) -> None:
        arch = cell(*PUBLISHED[0][:2])
        vector = encodings.encode(SPACE, arch, "adjacency")
        assert vector.shape == (36,)
        assert vector[:21].tolist() == list(arch.choices[:21])
        assert vector[21:].reshape(5, 3).argmax(axis=1).tolist() == list(arch.choices[21:])
        assert vector.sum() == 9 + 5

    def test_all_rows_have_paths(self, table: Table_) -> None:
        vectors = encodings.encode_many(SPACE, table[0][::10], "path")
        assert vectors.shape == (len(table[0][::10]), 364)
        assert vectors.any(axis=1).all()


class TestNetworks:
    @pytest.mark.parametrize("matrix, ops, params", [row[:3] for row in PUBLISHED])
    def test_published_parameters(self, matrix: str, ops: str, params: int) -> None:
        with torch.device("meta"):
            network = networks.build(SPACE, cell(matrix, ops), CIFAR10, SPACE.Scale())
        assert networks.count_params(network) == params

    @pytest.mark.parametrize(
        "graph, channels, expected",
        [
            (edges((0, 6)), 8, {}),
            (edges((0, 1), (1, 2), (2, 6)), 16, {1: 16, 2: 16}),
            (edges((0, 1), (0, 2), (1, 3), (2, 3), (3, 6)), 16, {1: 16, 2: 16, 3: 16}),
            (edges((0, 1), (0, 2), (1, 6), (2, 6)), 15, {1: 8, 2: 7}),
            (edges((0, 1), (0, 2), (0, 3), (1, 6), (2, 6), (3, 6)), 8, {1: 3, 2: 3, 3: 2}),
            (edges((0, 1), (1, 2), (1, 3), (2, 6), (3, 6)), 9, {1: 5, 2: 5, 3: 4}),
            (edges((0, 1), (1, 2), (0, 3), (2, 3), (1, 6), (3, 6)), 15, {1: 8, 2: 7, 3: 7}),
        ],
    )
    def test_channels(self, graph: int, channels: int, expected: Mapping[int, int]) -> None:
        """The cases with which the published code tests itself."""
        assert vertex_channels(sources_of(graph), channels) == expected

    def test_wider_sources_are_cut_off(self) -> None:
        """Vertex 1 has 5 channels; of vertices 2 and 3, which take its value, 3 has 4."""
        arch = cell("0100000 0011000 0000001 0000001 0000000 0000000 0000000", "maxpool3x3 " * 5)
        network = networks.build(SPACE, arch, ImageTask(3, 8, 8, 2), SPACE.Scale(channels=9, stacks=1, cells=1)).eval()
        assert isinstance(network, torch.nn.Sequential)
        stem, module = network[0], network[1]
        project: Any = module.projections
        with torch.no_grad():
            x = stem(torch.rand(2, 3, 8, 8))
            projected = project["1"](x)
            pooled = torch.nn.functional.max_pool2d(projected, 5, 1, 2)
            torch.testing.assert_close(module(x), torch.cat([pooled, pooled[:, :4]], 1))

    @settings(max_examples=20, deadline=None)
    @given(archs())
    def test_networks_leave_out_what_lies_on_no_path(self, arch: Arch) -> None:
        graph = prune(sum(there << i for i, there in enumerate(arch.choices[:21])))
        pruned = SPACE.arch([*(graph >> i & 1 for i in range(21)), *arch.choices[21:]])
        with torch.device("meta"):
            nets = [networks.build(SPACE, a, CIFAR10, SPACE.Scale(channels=16)) for a in (arch, pruned)]
        names, others = ([(name, p.shape) for name, p in net.named_parameters()] for net in nets)
        assert names == others

    def test_there_is_no_supernet(self) -> None:
        with pytest.raises(InputError, match="no weight-sharing supernet: 'edge 0->1'"):
            networks.Supernet(SPACE, CIFAR10, SPACE.Scale())

    def test_too_few_channels(self) -> None:
        with pytest.raises(ValueError, match="channels >= 4"):
            SPACE.Scale(channels=3)


class TestTable:
    @staticmethod
    def accuracy(evaluator: Table, arch: Arch) -> float:
        def silent(step: int, metrics: Mapping[str, float]) -> None:
            raise AssertionError("a table has nothing to report")

        return evaluator.evaluate(0, Proposal(arch), seed=0, report=silent).metrics["test_acc"]

    def test_the_reward_is_the_test_accuracy(self, evaluator: Table) -> None:
        assert evaluator.objective == "test_acc"
        assert evaluator.describe()["reward"] == "test"
        assert evaluator.describe()["rows"] == CELLS

    @pytest.mark.parametrize("matrix, ops, accuracy", [(row[0], row[1], row[3]) for row in PUBLISHED])
    def test_published_accuracies(self, evaluator: Table, matrix: str, ops: str, accuracy: float) -> None:
        assert self.accuracy(evaluator, cell(matrix, ops)) == pytest.approx(accuracy, abs=1e-6)

    def test_first_and_best_row(self, table: Table_) -> None:
        assert tuple(table[0][0].tolist()) == cell(*PUBLISHED[0][:2]).choices
        assert table[1].max() == pytest.approx(0.946615, abs=1e-6)

    def test_every_representation_is_found(self, evaluator: Table, table: Table_) -> None:
        """Rows relabelled at random, and any sample."""
        rng = np.random.default_rng(0)
        for row in rng.integers(CELLS, size=2000):
            arch = SPACE.arch(table[0][row])
            place = rng.permutation(range(1, 6))
            other = relabel(arch, sorted(place.tolist(), key=lambda v: (depth(arch, v), place[v - 1])))
            assert self.accuracy(evaluator, other) == table[1][row]
        for _ in range(1000):
            assert 0 < self.accuracy(evaluator, SPACE.sample(rng)) < 1

    def test_rows_that_are_no_cells(self) -> None:
        good = {"num_vertices": [2, 3], "edge_bits": [1, 5], "op_code": [0, 2]}
        columns = {name: np.array(values) for name, values in good.items()}
        assert SPACE.table_choices(columns).tolist() == [list(chain([]).choices), list(chain([2]).choices)]
        assert SPACE.table_choices({"arch": columns["op_code"]}) is columns["op_code"]
        for name, values in {"num_vertices": [2, 8], "edge_bits": [1, 8], "op_code": [0, 3]}.items():
            with pytest.raises(ValueError, match="row 1 is no cell"):
                SPACE.table_choices({**columns, name: np.array(values)})
        with pytest.raises(ValueError, match="expected integers"):
            SPACE.table_choices({**columns, "op_code": np.array([0.0, 1.0])})
        with pytest.raises(ValueError, match="same shape"):
            SPACE.table_choices({**columns, "op_code": np.array([0])})


def depth(arch: Arch, vertex: int) -> int:
    """Edges on the longest way from a vertex without sources: what goes up with every edge."""
    sources = [x for (x, y), there in zip(EDGES, arch.choices, strict=False) if there and y == vertex]
    return 1 + max((depth(arch, x) for x in sources), default=-1)
