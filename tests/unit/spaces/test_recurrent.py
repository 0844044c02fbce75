"""Recurrent cells: the published ones, and what they compute next to plain loops over the equations."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.special import expit
from torch import Tensor, nn

from nastool.core import archfile, encodings, registry, zoo
from nastool.core.errors import InputError, InvalidArchError
from nastool.core.space import SearchSpace
from nastool.core.values import Arch
from nastool.nets import networks
from tests.helpers.running import Run

pytestmark = pytest.mark.usefixtures("one_thread")
Numbers = NDArray[np.float64]
FUNCTIONS: Mapping[str, Callable[[Numbers], Numbers]] = {
    "tanh": np.tanh,
    "relu": lambda x: np.maximum(x, 0),
    "sigmoid": expit,
    "identity": lambda x: x,
}
COMBINE: Mapping[str, Callable[[Numbers, Numbers], Numbers]] = {"add": np.add, "elem_mult": np.multiply}


def space_of(name: str, **given: Any) -> SearchSpace:
    space: SearchSpace = registry.make("space", name, given=given)
    return space


def cell_of(space: SearchSpace, arch: Arch, vocabulary: int = 7, **scale: int) -> Any:
    """The recurrent part of a network, in evaluation mode."""
    network = networks.build(space, arch, registry.load("task", "language-model")(vocabulary), space.Scale(**scale))
    return network.get_submodule("recurrent").eval()


def chosen(space: SearchSpace, arch: Arch) -> dict[str, str]:
    return {d.name: d.options[choice] for d, choice in zip(space.decisions, arch.choices, strict=True)}


def numbers(tensor: Tensor) -> Numbers:
    return tensor.detach().double().numpy()


# --- plain references


def plain_graph(cell: Any, options: Mapping[str, str], nodes: int, output: str, x: Numbers, h: Numbers) -> Numbers:
    """h(t) of one step; x (N, I), h (N, H)."""
    joined = np.concatenate([numbers(cell.of_input.weight), numbers(cell.of_state.weight)], 1)
    states: list[Numbers] = []
    for node in range(nodes):
        source = int(options.get(f"node{node}.input", 0))
        before = states[source] if node else h
        weight = numbers(cell.nodes[node - 1].linear.weight) if node else joined
        product = (before if node else np.concatenate([x, h], 1)) @ weight.T
        width = h.shape[1]
        gate = FUNCTIONS["sigmoid"](product[:, width:])
        states.append(gate * FUNCTIONS[options[f"node{node}.act"]](product[:, :width]) + (1 - gate) * before)
    read = {int(options.get(f"node{node}.input", 0)) for node in range(1, nodes)}
    ends = [state for node, state in enumerate(states) if (node if output == "all" else node not in read)]
    return np.array(sum(ends) / len(ends))


def plain_tree(
    cell: Any, options: Mapping[str, str], base: int, x: Numbers, h: Numbers, c: Numbers
) -> tuple[Numbers, Numbers]:
    """h(t) and c(t) of one step."""
    width = h.shape[1]
    memory: list[Numbers] = []

    def node(number: int, one: Numbers, two: Numbers) -> Numbers:
        before = COMBINE[options[f"node{number}.combine"]](one, two)
        if options["index.cell"] == str(number):
            memory.append(before)
        value = FUNCTIONS[options[f"node{number}.act"]](before)
        if options["index.inject"] == str(number):
            value = FUNCTIONS[options["inject.act"]](COMBINE[options["inject.combine"]](value, c))
        return value

    level = []
    for leaf in range(base):
        rows = slice(leaf * width, (leaf + 1) * width)
        terms = x @ numbers(cell.of_input.weight[rows]).T, h @ numbers(cell.of_state.weight[rows]).T
        level.append(node(leaf, *terms))
    number = base
    while len(level) > 1:
        above = []
        for pair in range(len(level) // 2):
            above.append(node(number, level[2 * pair], level[2 * pair + 1]))
            number += 1
        level = above
    return level[0], memory[0]


@pytest.mark.parametrize("name", ["recurrent-cell", "recurrent-tree"])
def test_cells_equal_plain_references(name: str) -> None:
    """200 random architectures over 4 steps, from a state, to 1e-5."""
    rng = np.random.default_rng(0)
    torch.manual_seed(0)
    for number in range(200):
        nodes, output, base = int(rng.integers(2, 13)), ("unused", "all")[number % 2], 2 ** int(rng.integers(1, 4))
        graph = name == "recurrent-cell"
        space = space_of(name, **({"nodes": nodes, "output": output} if graph else {"base": base}))
        arch = space.sample(rng)
        cell = cell_of(space, arch, hidden=5)
        for parameter in cell.parameters():
            nn.init.normal_(parameter, std=0.6)
        x, state = torch.randn(3, 4, 5), tuple(torch.randn(3, 5) for _ in range(1 if graph else 2))
        with torch.no_grad():
            found, last = cell(x, state)
        options, plain = chosen(space, arch), tuple(map(numbers, state))
        for step in range(4):
            given = numbers(x[:, step])
            if graph:
                plain = (plain_graph(cell, options, nodes, output, given, *plain),)
            else:
                plain = plain_tree(cell, options, base, given, *plain)
            bound = 1e-5 * max(1.0, float(np.abs(plain[0]).max()))
            assert np.abs(numbers(found[:, step]) - plain[0]).max() < bound, options
        for tensor, wanted in zip(last, plain, strict=True):
            assert np.abs(numbers(tensor) - wanted).max() < 1e-5 * max(1.0, float(np.abs(wanted).max()))


@pytest.mark.parametrize("name", ["recurrent-cell", "recurrent-tree"])
def test_a_carried_state_equals_one_long_sequence(name: str) -> None:
    space = space_of(name)
    task = registry.load("task", "language-model")(11)
    network = networks.build(space, space.sample(np.random.default_rng(3)), task, space.Scale(hidden=6)).double().eval()
    tokens = torch.randint(11, (2, 12), generator=torch.Generator().manual_seed(0))
    whole, last = network(tokens)
    state, parts = None, []
    for part in torch.split(tokens, [5, 1, 6], 1):
        logits, state = network(part, state)
        parts.append(logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(state, last, rtol=0, atol=1e-12)
    assert not torch.allclose(network(tokens[:, 5:])[0], whole[:, 5:]), "the state matters"


# --- golden numbers


def published(name: str) -> tuple[SearchSpace, Arch, Mapping[str, int]]:
    document = archfile.from_json(zoo.document(name))
    return document.space, document.arch, document.extra["scale"]


def scalar_cell(space: SearchSpace, arch: Arch, of_input: list[float], of_state: list[float]) -> Any:
    cell = cell_of(space, arch, hidden=1).double()
    with torch.no_grad():
        cell.of_input.weight.copy_(torch.tensor(of_input)[:, None])
        cell.of_state.weight.copy_(torch.tensor(of_state)[:, None])
    return cell


def one(value: float) -> Tensor:
    return torch.tensor([[value]], dtype=torch.float64)


def test_the_published_base_8_cell_in_numbers() -> None:
    space, arch, _ = published("nas-cell")
    cell = scalar_cell(space, arch, [0.1 * (i + 1) for i in range(8)], [0.1 * (8 - i) for i in range(8)])
    with torch.no_grad():
        y, _ = cell(torch.ones(1, 3, 1).double())
        assert y.flatten().tolist() == pytest.approx([0.042744, 0.073225, 0.095294], abs=1e-6)
        memories, state = [], None
        for _ in range(3):
            _, state = cell(torch.ones(1, 1, 1).double(), state)
            memories.append(state[1].item())
        assert memories == pytest.approx([0.054056, 0.092271, 0.119834], abs=1e-6)
        _, (h, c) = cell(torch.ones(1, 1, 1).double(), (one(0.5), one(0.2)))
        assert (h.item(), c.item()) == pytest.approx((0.249050, 0.306823), abs=1e-6)
    assert sum(p.numel() for p in cell_of(space, arch, hidden=3).parameters()) == 8 * 3 * (3 + 3)


def test_the_paper_s_example_of_base_2_in_numbers() -> None:
    space = space_of("recurrent-tree", base=2)
    options = {"node0": "add tanh", "node1": "elem_mult relu", "node2": "elem_mult sigmoid", "inject": "add relu"}
    wanted = {"index.cell": "1", "index.inject": "0"}
    for name, text in options.items():
        wanted[f"{name}.combine"], wanted[f"{name}.act"] = text.split()
    arch = space.arch([decision.options.index(wanted[decision.name]) for decision in space.decisions])
    cell = scalar_cell(space, arch, [0.1, 0.3], [0.2, 0.4])
    with torch.no_grad():
        _, (h, c) = cell(torch.ones(1, 1, 1).double(), (one(0.5), one(0.2)))
    assert (h.item(), c.item()) == pytest.approx((0.505960, 0.060000), abs=1e-6)


@pytest.mark.parametrize(("name", "params"), [("enas-lm", 20_800_000), ("darts-rnn", 22_960_000)])
def test_published_networks_have_as_many_parameters(name: str, params: int) -> None:
    space, arch, scale = published(name)
    with torch.device("meta"):
        network = networks.build(space, arch, registry.load("task", "language-model")(10_000), space.Scale(**scale))
    assert networks.count_params(network) == params


def test_published_cells_are_those_of_the_published_strings() -> None:
    for name, text in (
        ("enas-lm", "0 2 1 0 2 1 2 2 4 0 5 0 3 2 6 2"),
        ("darts-rnn", "0 2 1 1 1 1 1 3 2 0 5 2 3 0 5 1"),
    ):
        space, arch, _ = published(name)
        assert archfile.read_text(text, space).arch == arch
        assert archfile.to_string(space, arch) == f"0 {text}"
    space, arch, _ = published("enas-rnn")
    assert list(cell_of(space, arch, hidden=2).ends.active) == ["2", "5", "6", "9", "10", "11"], "DARTS' list"


def test_tied_weights_are_one() -> None:
    space, arch, _ = published("enas-lm")
    task = registry.load("task", "language-model")(9)
    networks_of = [networks.build(space, arch, task, space.Scale(hidden=4, tied=tied)) for tied in (0, 1)]
    apart, tied = (network.state_dict(keep_vars=True) for network in networks_of)
    assert tied["decoder.weight"] is tied["embedding.weight"]
    assert apart["decoder.weight"] is not apart["embedding.weight"]
    assert [networks.count_params(each) for each in networks_of] == [8 * 32 + 64 + 2 * 36, 8 * 32 + 64 + 36]


def test_cells_are_shown_with_their_costs_a_token(run: Run) -> None:
    shown = run("show", "zoo:enas-lm", "--input", "10000", "--to", "text")
    assert shown.code == 0
    assert "20,800,000 parameters, 41.6 M FLOPs for one token" in shown.out
    assert re.search(r"1: sigmoid +← 0\n +800, 1,280,000 params", shown.out)
    drawn = run("show", "zoo:nas-cell", "--to", "text")
    assert (
        re.search(r"inject: add, tanh +← c \+ 8\n", drawn.out) and "12: elem_mult, identity  ← inject + 9" in drawn.out
    )
    run("show", "zoo:enas-lm", "--input", "3x32x32").refused("--input '3x32x32': write VOCABULARY in numbers")
    (stats,) = run(
        *("space", "stats", "recurrent-tree", "--input", "50", "--scale", "hidden=4", "-n", "5", "--no-latency"),
        *("--limit", "params<=400", "--limit", "flops<=1"),
    ).accepted()
    assert stats["params"]["min"] == stats["params"]["max"] == 50 * 4 + 8 * 4 * 8
    assert [each["share"] for each in stats["limits"]] == [0, 0, 0]


# --- dropout


def test_one_mask_is_between_nodes_at_all_steps() -> None:
    """It is drawn once for a batch, on what matrices read of states, and not on the highway."""
    space = space_of("recurrent-cell", nodes=4)
    cell = cell_of(space, space.sample(np.random.default_rng(0)), hidden=6).train()
    cell.between.probability = 0.5
    x = torch.randn(2, 5, 6)
    torch.manual_seed(1)
    y, _ = cell(x)
    torch.manual_seed(1)
    mask = cell.between.mask(x[:, 0])
    assert set(mask.unique().tolist()) == {0.0, 2.0}
    cell.between.probability = 0.0
    state = (x.new_zeros(2, 6),)
    for step in range(5):
        state = cell.step(cell.of_input(x[:, step]), state, mask)
        torch.testing.assert_close(state[0], y[:, step])


# --- the space


def test_sizes_are_those_of_the_papers_spaces() -> None:
    assert space_of("recurrent-cell").size == 4**12 * math.factorial(11)
    assert space_of("recurrent-tree").size == (2 * 4) ** (15 + 1) * 15**2


def test_isomorphic_graphs_are_one() -> None:
    """Nodes renumbered: another string, the same form, and the same function with weights that move along."""
    space = space_of("recurrent-cell", nodes=5)
    first = space.from_string("0 1 0 2 1 3 2 0")  # type: ignore[attr-defined]
    again = space.from_string("0 2 0 1 1 0 2 3")  # type: ignore[attr-defined]
    assert first != again and space.canonical(first) == space.canonical(again)
    cells = [cell_of(space, arch, hidden=4) for arch in (first, again)]
    order = {0: 1, 1: 0, 2: 3, 3: 2}
    weights = cells[0].state_dict()
    moved = {key: value for key, value in weights.items() if not key.startswith("nodes")}
    moved |= {f"nodes.{order[i]}.linear.weight": weights[f"nodes.{i}.linear.weight"] for i in range(4)}
    cells[1].load_state_dict(moved)
    x = torch.randn(2, 3, 4)
    torch.testing.assert_close(cells[0](x)[0], cells[1](x)[0])


def test_forms_of_small_graphs_are_as_many_as_trees() -> None:
    """Rooted trees of 4 nodes in one of 4 colours each, counted by how many readers node 0 has."""
    space = space_of("recurrent-cell", nodes=4)
    assert space.size == 4**4 * 6
    chain, fork, pair, star = 4**4, 4 * 4 * math.comb(5, 2), 4 * 4 * 16, 4 * math.comb(6, 3)
    assert len({space.canonical(arch) for arch in space.members()}) == chain + fork + pair + star


def test_trees_are_equal_up_to_the_order_of_what_is_combined() -> None:
    space = space_of("recurrent-tree", base=2)
    arch = space.sample(np.random.default_rng(0))
    options = chosen(space, arch)
    swapped = dict(options)
    for what in ("combine", "act"):
        swapped[f"node0.{what}"], swapped[f"node1.{what}"] = options[f"node1.{what}"], options[f"node0.{what}"]
    turn = {"0": "1", "1": "0", "2": "2"}
    swapped |= {name: turn[options[name]] for name in ("index.cell", "index.inject")}
    other = space.arch([decision.options.index(swapped[decision.name]) for decision in space.decisions])
    assert space.canonical(arch) == space.canonical(other)
    assert arch != other
    assert space.canonical(arch) not in {space.canonical(each) for each in space.neighbors(arch)}


def test_paths_lead_from_the_first_node_to_what_is_put_out() -> None:
    unused, every = (space_of("recurrent-cell", nodes=4, output=output) for output in ("unused", "all"))
    text = "0 0 1 1 2 0 3"  # node 0 tanh; 1 relu, which 2 reads: sigmoid; 3 reads 0: identity
    for space, wanted in ((unused, {(0, 3), (0, 1, 2)}), (every, {(0, 3), (0, 1, 2), (0, 1)})):
        arch = archfile.read_text(text[:1] + " 0 1 1 2 0 3", space).arch
        found = np.flatnonzero(encodings.encode(space, arch, "path"))
        words = [sum(4**n for n in range(1, len(word))) + int("".join(map(str, word)), 4) for word in wanted]
        assert found.tolist() == sorted(words)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 2 1 0", "need input and activation of nodes 1 to 3, 6 numbers"),
        ("0 1 0 1 0 1 0", "node 1 reads node 0"),
        ("a b", "not numbers"),
        ("0 0 9 0 1 0 1", "node1.act"),
    ],
)
def test_wrong_strings_say_what_is_wrong(text: str, message: str) -> None:
    space = space_of("recurrent-cell", nodes=4)
    with pytest.raises(InvalidArchError, match=message):
        archfile.read_text(text, space)


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("recurrent-cell", {"nodes": 1}),
        ("recurrent-cell", {"output": "some"}),
        ("recurrent-tree", {"base": 3}),
    ],
)
def test_bad_options_are_named(name: str, given: Mapping[str, Any]) -> None:
    with pytest.raises(InputError, match=f"space {name}: need"):
        space_of(name, **given)


def test_soft_choices_that_choose_one_are_that_one() -> None:
    """Also of inputs, on which depends what is averaged; in between, the mean of the cases' terms."""
    space = space_of("recurrent-cell", nodes=4)
    supernet = networks.Supernet(space, registry.load("task", "language-model")(6), space.Scale(hidden=3)).eval()
    arch = archfile.read_text("0 1 1 2 0 3", space).arch
    tokens = torch.randint(6, (2, 3))
    supernet.select(arch)
    hard = supernet(tokens)[0]
    options = networks.chosen_options(space, arch)
    for decision in space.decisions:
        weights = {option: torch.tensor(float(option == options[decision.name])) for option in decision.options}
        supernet.select({**options, decision.name: weights})
        torch.testing.assert_close(supernet(tokens)[0], hard)
    cell: Any = supernet.network.recurrent
    state = (torch.randn(2, 3),)
    supernet.select({**options, "node2.input": {"0": torch.tensor(0.25), "1": torch.tensor(0.75)}})
    outputs = [torch.randn(2, 3) for _ in cell.ends.active]
    assert list(cell.ends.active) == ["1", "2", "3"], "node 2 reads node 1 or not"
    wanted = (0.25 * outputs[0] + outputs[1] + outputs[2]) / 2.25
    torch.testing.assert_close(cell.ends.mean(outputs), wanted)
    assert cell.step(cell.of_input(torch.randn(2, 3)), state, None)[0].shape == (2, 3)


def test_weights_are_nodes_or_pairs_of_nodes() -> None:
    space = space_of("recurrent-cell", nodes=5)
    task = registry.load("task", "language-model")(6)
    count = {}
    for edges in (0, 1):
        supernet = networks.Supernet(space, task, space.Scale(hidden=2, edges=edges))
        count[edges] = sum(
            name.endswith("linear.weight") or ".linear.options" in name for name in supernet.state_dict()
        )
        arch = space.sample(np.random.default_rng(0))
        supernet.select(arch)
        child = networks.build(space, arch, task, space.Scale(hidden=2, edges=edges)).eval()
        child.load_state_dict(supernet.eval().child_state(arch))
        tokens = torch.randint(6, (2, 4))
        torch.testing.assert_close(child(tokens)[0], supernet(tokens)[0])
    assert count == {0: 4, 1: 1 + 2 + 3 + 4}
