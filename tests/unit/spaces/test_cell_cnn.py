"""The cell space against what was published about it, and the blocks and schedules that its networks use."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from nastool.core import encodings
from nastool.core.errors import InputError
from nastool.core.values import Arch
from nastool.nets import blocks, networks, regularization
from nastool.nets.costs import count_flops
from nastool.spaces.cell_cnn import CellCNN
from nastool.tasks.images.task import ImageTask

SMALL = ImageTask(3, 8, 8, 5)

VARIANTS: list[tuple[dict[str, Any], dict[str, int]]] = [
    ({}, {}),
    ({}, {"twice": 1, "stem": 1}),
    ({"blocks": 2, "combine": "search", "ops": "nasnet"}, {}),
    ({"blocks": 3, "combine": "concat"}, {"cells": 2}),
    ({"blocks": 4, "ops": "darts", "normal_output": "all", "reduce_output": "all"}, {"cells": 2}),
    ({"blocks": 3, "normal_output": "4", "reduce_output": "0,3"}, {"cells": 2}),
]


def ones(space: CellCNN, arch: Arch) -> set[int]:
    return set(np.flatnonzero(encodings.encode(space, arch, "path")).tolist())


def test_paths_by_hand() -> None:
    """ENAS' operations: sep3 0, sep5 1, avg 2, max 3, skip 4; two blocks, so d = 4 (1 + 5 + 25)."""
    space = CellCNN(blocks=2)
    arch = choices(
        space,
        normal="sep_conv_3x3 0 skip_connect 1 avg_pool_3x3 2 max_pool_3x3 0",  # puts out state 3 alone
        reduce="sep_conv_3x3 0 sep_conv_3x3 0 sep_conv_5x5 0 sep_conv_5x5 2",  # puts out 3 and input 1, as it is
    )
    assert encodings.encode(space, arch, "path").shape == (124,)
    one, two = 4, 4 + 4 * 5  # where the paths of so many operations begin: normal from 0, from 1, reduce from 0, from 1
    normal = {one + 3, two + 5 * 0 + 2, two + 25 + 5 * 4 + 2}
    reduce = {3, one + 5 * 2 + 1, two + 25 * 2 + 5 * 0 + 1}
    assert ones(space, arch) == normal | reduce
    everything = CellCNN(blocks=2, normal_output="all", reduce_output="1,2")
    arch = everything.arch(arch.choices)
    normal |= {one + 0, one + 5 + 4}  # block 1 by itself
    reduce = {3, one + 5 * 2 + 0}
    assert ones(everything, arch) == normal | reduce


@pytest.mark.parametrize(
    ("options", "length", "size"),
    [
        ({}, 4, 3124),
        ({"ops": "darts"}, 3, 2340),
        ({"ops": "nasnet"}, 2, 732),
        ({"ops": "nasnet", "combine": "search"}, 2, 2812),
        ({"blocks": 1, "ops": "nasnet", "combine": "search"}, 1, 108),
        ({"blocks": 9}, 4, 3124),
    ],
)
def test_paths_are_those_that_a_walk_finds(options: dict[str, Any], length: int, size: int) -> None:
    """Backwards from each output, in plain Python; no entry for longer ones."""
    space = CellCNN(**options)
    assert space.path_length == length and size <= 4000
    archs = sample(space, 30)
    vectors = encodings.encode_many(space, np.array([arch.choices for arch in archs]), "path")
    assert vectors.shape == (30, size)
    letters = len(space.ops) * (2 if space.combine == "search" else 1)
    for arch, vector in zip(archs, vectors, strict=True):
        chosen = {d.name: d.options[c] for d, c in zip(space.decisions, arch.choices, strict=True)}
        expected = set()
        for cell, kind in enumerate(("normal", "reduce")):
            for state in space.cells.outputs(chosen, kind):
                for source, path in walk(space, chosen, kind, state):
                    if len(path) <= length:
                        start = 4 * sum(letters**n for n in range(len(path)))
                        number = sum(letter * letters**i for i, letter in enumerate(reversed(path)))
                        expected.add(start + (2 * cell + source) * letters ** len(path) + number)
        assert set(np.flatnonzero(vector).tolist()) == expected


def walk(
    space: CellCNN, chosen: dict[str, str], kind: str, state: str, after: tuple[int, ...] = ()
) -> Iterator[tuple[int, tuple[int, ...]]]:
    """The input and the operations of each path to a state."""
    if state in "01":
        yield int(state), after
        return
    name = f"{kind}{int(state) - 1}"
    for slot in "12":
        letter = space.ops.index(chosen[f"{name}.op{slot}"])
        letter += len(space.ops) * (chosen.get(f"{name}.combine") == "concat")
        yield from walk(space, chosen, kind, chosen[f"{name}.input{slot}"], (letter, *after))


def test_equivalent_cells_have_the_same_paths() -> None:
    """Whatever the order of blocks and of their inputs, and blocks that lead nowhere."""
    space = CellCNN(blocks=2)
    rng = np.random.default_rng(0)
    found: dict[str, Arch] = {}
    pairs = 0
    for _ in range(800):
        normal = [rng.integers(n) for n in (2, 2, 2, 2, 3, 2, 3, 2)]  # two operations only, so that forms meet
        arch = space.arch([*map(int, normal), *[0] * 8])
        other = found.setdefault(space.canonical(arch), arch)
        pairs += other != arch
        assert ones(space, arch) == ones(space, other)
    assert pairs > 100


@pytest.fixture(params=VARIANTS, ids=str)
def variant(request: pytest.FixtureRequest) -> tuple[CellCNN, CellCNN.Scale]:
    options, scale = request.param
    space = CellCNN(**options)
    return space, space.Scale(**{"channels": 4, "cells": 1, **scale})


def sample(space: CellCNN, count: int) -> list[Arch]:
    rng = np.random.default_rng(2)
    return [space.sample(rng) for _ in range(count)]


def choices(space: CellCNN, **given: str) -> Arch:
    """normal="op input op input ...", reduce=..."""
    chosen = {}
    for kind, text in given.items():
        words = text.split()
        for i, (op, state) in enumerate(zip(words[::2], words[1::2], strict=True)):
            chosen[f"{kind}{i // 2 + 1}.op{i % 2 + 1}"] = op
            chosen[f"{kind}{i // 2 + 1}.input{i % 2 + 1}"] = state
    return space.arch([decision.options.index(chosen[decision.name]) for decision in space.decisions])


def test_size() -> None:
    """Pham et al. 2018: a cell of 5 blocks is one of (5 * 6!)^2 ... = (720 * 5^5)^2 token strings."""
    assert CellCNN().size == (720 * 5**5) ** 4
    assert CellCNN(blocks=4, ops="darts").size == (120 * 8**4) ** 4
    assert CellCNN(ops="nasnet", combine="search").size == (720 * 13**5) ** 4 * 4**5
    assert len(CellCNN().decisions) == 2 * 4 * 5


def test_decisions_refer_to_places() -> None:
    decisions = {decision.name: decision for decision in CellCNN(blocks=2).decisions}
    assert decisions["normal2.input1"].options == ("0", "1", "2")
    assert decisions["normal2.input1"].refers == ("normal:input0", "normal:input1", "normal1")
    assert decisions["normal2.input1"].place == decisions["normal2.op1"].place == "normal2"
    assert not any(decision.is_switch for decision in decisions.values())


@pytest.mark.parametrize(
    "options",
    [
        {"blocks": 0},
        {"blocks": 17},
        {"ops": "other"},
        {"combine": "other"},
        {"normal_output": ""},
        {"normal_output": "7"},
        {"reduce_output": "2,2"},
        {"reduce_output": "2,x"},
    ],
)
def test_bad_options(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="space cell-cnn"):
        CellCNN(**options)


def test_outputs_are_the_states_that_no_block_uses() -> None:
    space = CellCNN(blocks=3)
    arch = choices(
        space,
        normal="sep_conv_3x3 0 sep_conv_3x3 0 max_pool_3x3 2 max_pool_3x3 2 skip_connect 2 max_pool_3x3 0",
        reduce="sep_conv_3x3 0 sep_conv_3x3 1 max_pool_3x3 2 max_pool_3x3 2 skip_connect 3 max_pool_3x3 0",
    )
    chosen = networks.chosen_options(space, arch)
    assert space.cells.outputs(chosen, "normal") == ["1", "3", "4"]
    assert space.cells.outputs(chosen, "reduce") == ["4"]


def test_canonical_recognises_order() -> None:
    space = CellCNN(blocks=3)
    one = choices(
        space,
        normal="sep_conv_3x3 0 max_pool_3x3 1 skip_connect 1 max_pool_3x3 0 avg_pool_3x3 2 avg_pool_3x3 3",
        reduce="sep_conv_3x3 0 max_pool_3x3 1 skip_connect 1 max_pool_3x3 0 avg_pool_3x3 2 max_pool_3x3 3",
    )
    other = choices(
        space,
        normal="max_pool_3x3 0 skip_connect 1 max_pool_3x3 1 sep_conv_3x3 0 avg_pool_3x3 2 avg_pool_3x3 3",
        reduce="max_pool_3x3 0 skip_connect 1 max_pool_3x3 1 sep_conv_3x3 0 max_pool_3x3 2 avg_pool_3x3 3",
    )
    assert one != other
    assert space.canonical(one) == space.canonical(other)
    for neighbor in space.neighbors(one):
        assert space.canonical(neighbor) != space.canonical(one)


def test_canonical_forgets_what_leads_nowhere() -> None:
    space = CellCNN(blocks=2, ops="darts", normal_output="3", reduce_output="3")
    used = "sep_conv_3x3 0 none {}"
    forms = {
        space.canonical(
            choices(space, normal=f"{first} {used.format(state)}", reduce=f"none 0 none 0 {used.format(0)}")
        )
        for first in ("none 0 none 1", "skip_connect 0 sep_conv_3x3 1")
        for state in "012"
    }
    assert len(forms) == 1


def test_child_equals_supernet(variant: tuple[CellCNN, CellCNN.Scale]) -> None:
    space, scale = variant
    supernet = networks.Supernet(space, SMALL, scale).double()
    images = torch.rand(4, 3, 8, 8, dtype=torch.float64)
    for arch in sample(space, 4):
        supernet.select(arch)
        child = networks.build(space, arch, SMALL, scale).double()
        child.load_state_dict(supernet.child_state(arch))
        for training in (False, True):
            supernet.train(training)
            child.train(training)
            torch.testing.assert_close(child(images), supernet(images), rtol=1e-9, atol=1e-9)


def test_gradients_are_on_the_active_path_alone(variant: tuple[CellCNN, CellCNN.Scale]) -> None:
    """Those of the supernet's own Parameter objects, so architectures that share an edge share its weights."""
    space, scale = variant
    supernet = networks.Supernet(space, SMALL, scale)
    for arch in sample(space, 3):
        supernet.select(arch)
        supernet.zero_grad(set_to_none=True)
        supernet(torch.rand(4, 3, 8, 8)).sum().backward()
        state = supernet.child_state(arch)
        child = networks.build(space, arch, SMALL, scale)
        expected = {state[name].data_ptr() for name, _ in child.named_parameters()}
        touched = {p.data_ptr() for p in supernet.parameters() if p.grad is not None}
        assert touched <= expected
        if "none" not in space.ops:  # what only `none` reads is executed and gets no gradient
            assert touched == expected


def test_architectures_share_the_parameters_of_an_edge() -> None:
    space = CellCNN(blocks=2)
    reduce = "max_pool_3x3 0 max_pool_3x3 1 max_pool_3x3 0 max_pool_3x3 1"
    one = choices(space, normal="sep_conv_3x3 0 skip_connect 1 sep_conv_5x5 2 skip_connect 1", reduce=reduce)
    other = choices(space, normal="sep_conv_3x3 0 max_pool_3x3 1 sep_conv_5x5 1 skip_connect 1", reduce=reduce)
    supernet = networks.Supernet(space, SMALL, space.Scale(channels=2, cells=1))
    states = [supernet.child_state(arch) for arch in (one, other)]
    key = "cells.members.0.blocks.members.{}.body.0.1.depthwise.weight"
    assert states[0][key.format("2.first")].data_ptr() == states[1][key.format("2.first")].data_ptr()
    assert states[0][key.format("3.first")].data_ptr() != states[1][key.format("3.first")].data_ptr()


def test_what_leads_nowhere_is_not_built() -> None:
    """The normal cell reads only the cell before the previous one: every second cell is left out, and its block 1."""
    space = CellCNN(blocks=2, normal_output="3", reduce_output="3")
    normal = "sep_conv_3x3 1 sep_conv_3x3 1 sep_conv_3x3 0 skip_connect 0"
    arch = choices(space, normal=normal, reduce="sep_conv_3x3 1 sep_conv_3x3 1 skip_connect 1 skip_connect 0")
    network = networks.build(space, arch, SMALL, space.Scale(channels=4, cells=3))
    cells: Any = network.cells
    assert list(cells.members) == ["0", "2", "4", "6", "8", "10"]
    assert list(cells.members["10"].blocks.members) == ["3"]
    assert list(cells.members["10"].inputs.members) == ["0"]
    network(torch.rand(2, 3, 8, 8)).sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_parameters_counted_by_hand() -> None:
    """One block, N R N R N with 2, 4, 4, 8, 8 channels: stem, then inputs 0 and 1 and the operations of each cell."""
    space = CellCNN(blocks=1)
    arch = choices(space, normal="sep_conv_3x3 0 skip_connect 1", reduce="max_pool_3x3 0 skip_connect 1")
    network = networks.build(space, arch, ImageTask(3, 8, 8, 10), space.Scale(channels=2, cells=1, stem=1))
    cells = [8 + 8 + 52, 16 + 16 + 24, 16 + 24 + 120, 48 + 48 + 80, 48 + 80 + 304]
    assert networks.count_params(network) == (54 + 4) + sum(cells) + (80 + 10)


def test_output_channels_are_those_of_the_unused_states() -> None:
    """Zoph et al. 2018: a cell's output has (number of unused states) * F channels."""
    space = CellCNN()
    arch = sample(space, 1)[0]
    chosen = networks.chosen_options(space, arch)
    with torch.device("meta"):
        network: Any = networks.build(space, arch, SMALL, space.Scale(channels=6, cells=1))
    weights = [part.weight for part in network.classifier.parts.active.values()]
    assert sum(weight.shape[1] for weight in weights) == len(space.cells.outputs(chosen, "normal")) * 6 * 4


@pytest.mark.parametrize("task", [ImageTask(3, 20, 12, 7), ImageTask(1, 33, 31, 3), ImageTask(2, 1, 2, 2)], ids=str)
def test_a_cell_is_rebuilt_for_any_task(task: ImageTask) -> None:
    space = CellCNN()
    for arch in sample(space, 2):
        for scale in (space.Scale(channels=3, cells=1, auxiliary=1), space.Scale(channels=5, cells=2, auxiliary=1)):
            network = networks.build(space, arch, task, scale)
            images = torch.rand(2, task.channels, task.height, task.width)
            logits, auxiliary = network(images)
            assert logits.shape == auxiliary.shape == (2, task.classes)
            assert network.eval()(images).shape == (2, task.classes)


def test_auxiliary_head_is_for_training_alone() -> None:
    space = CellCNN()
    arch = sample(space, 1)[0]
    task = ImageTask(3, 32, 32, 10)
    with torch.device("meta"):
        plain = networks.build(space, arch, task, space.Scale(channels=4, cells=1))
        network = networks.build(space, arch, task, space.Scale(channels=4, cells=1, auxiliary=1))
    assert networks.count_params(network) == networks.count_params(plain)
    assert count_flops(network, task) == count_flops(plain, task)
    chosen = networks.chosen_options(space, arch)
    projection = 16 * len(space.cells.outputs(chosen, "reduce")) * 128 + 2 * 128
    head = sum(p.numel() for p in network.parameters()) - networks.count_params(network)
    assert head == projection + 2 * 2 * 128 * 768 + 2 * 768 + 768 * 10 + 10, "DARTS' head, on 8x8"


# --- blocks


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 1), (2, 3)])
@pytest.mark.parametrize("channels", [1, 2, 5])
def test_halve_sees_even_and_odd_positions(size: tuple[int, int], channels: int) -> None:
    x, weight = torch.rand(2, 3, *size), torch.rand(channels, 3, 1, 1)
    out = blocks.halve(x, weight)
    full = nn.functional.pad(nn.functional.conv2d(x, weight), (0, 1, 0, 1))
    even = (channels + 1) // 2
    height, width = ((n + 1) // 2 for n in size)
    assert out.shape == (2, channels, height, width)
    torch.testing.assert_close(out[:, :even], full[:, :even, ::2, ::2][:, :, :height, :width])
    torch.testing.assert_close(out[:, even:], full[:, even:, 1::2, 1::2][:, :, :height, :width])


@pytest.mark.parametrize("size", [(8, 8), (7, 5), (1, 1)])
@pytest.mark.parametrize("ops", ["enas", "nasnet", "darts"])
def test_strides_round_up(ops: Any, size: tuple[int, int]) -> None:
    from nastool.nets.definitions.cells import operation

    x = torch.rand(2, 3, *size)
    for name in CellCNN(ops=ops).ops:
        assert operation(name, 3, 1, nn.Identity())(x).shape == x.shape
        assert operation(name, 3, 2, nn.Identity())(x).shape == (2, 3, *((n + 1) // 2 for n in size))


def test_join_is_one_convolution_of_the_concatenation() -> None:
    parts = {name: blocks.conv(3, 4, 1) for name in "abc"}
    join = blocks.Join(networks.Subset(lambda chosen: ("a", "c"), parts, networks.Selected()), nn.ReLU())
    tensors = {name: torch.randn(2, 3, 5, 5) for name in "abc"}
    expected = sum(parts[name](tensors[name].relu()) for name in "ac")
    torch.testing.assert_close(join(tensors), expected)


def test_drop_path_drops_whole_images() -> None:
    drop = blocks.DropPath(1.0)
    x = torch.ones(20_000, 2, 3, 1)
    assert drop(x) is x, "keep = 1 changes nothing"
    drop.probability = 0.3
    assert drop.eval()(x) is x
    torch.manual_seed(0)
    out = drop.train()(x)
    assert (out == out[:, :1, :1]).all()
    assert sorted(out.unique().tolist()) == pytest.approx([0, 1 / 0.7])
    assert out.mean().item() == pytest.approx(1, abs=0.02)


def test_regularize_sets_every_probability() -> None:
    """ENAS: the path's probability grows linearly with depth; identities are never dropped."""
    space = CellCNN(blocks=2)
    reduce = "max_pool_3x3 0 sep_conv_3x3 1 skip_connect 0 skip_connect 1"
    arch = choices(space, normal="sep_conv_3x3 0 skip_connect 1 max_pool_3x3 2 skip_connect 1", reduce=reduce)
    network = networks.build(space, arch, SMALL, space.Scale(channels=2, cells=1))
    drops = [module for module in network.modules() if isinstance(module, blocks.DropPath)]
    assert [drop.depth for drop in drops] == [0.2, 0.4, 0.6, 0.8, 1.0]
    regularization.regularize(network, dropout=0.2, drop_path=0.4, by_depth=True)
    probabilities = [drop.probability for drop in drops]
    assert all(a < b for a, b in pairwise(probabilities))
    assert probabilities[-1] == 0.4
    assert [m.p for m in network.modules() if isinstance(m, nn.Dropout)] == [0.2]
    regularization.regularize(network, dropout=0, drop_path=0.4, by_depth=False)
    assert {drop.probability for drop in drops} == {0.4}
    for module in network.modules():
        if isinstance(module, nn.Sequential) and any(isinstance(m, blocks.DropPath) for m in module.children()):
            assert not isinstance(module[0], nn.Identity | blocks.FactorizedReduce)
    for bad in (-0.1, 1.0):
        with pytest.raises(ValueError, match="drop_path"):
            regularization.regularize(network, dropout=0, drop_path=bad, by_depth=True)


@pytest.mark.parametrize("size", [(8, 8), (5, 6), (1, 7), (1, 1)])
@pytest.mark.parametrize("kernel, stride", [(3, 1), (3, 2), (5, 1)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_max_pooling_without_gradients_is_the_same(
    size: tuple[int, int], kernel: int, stride: int, dtype: torch.dtype
) -> None:
    for memory_format in (torch.channels_last, torch.contiguous_format):
        x = torch.randn(3, 4, *size).to(dtype).contiguous(memory_format=memory_format)
        before = x.clone()
        plain = torch.nn.functional.max_pool2d(x, kernel, stride, kernel // 2)
        assert torch.equal(blocks.pool("max", kernel, stride)(x), plain)
        assert torch.equal(x, before)
        x.requires_grad_()
        blocks.pool("max", kernel, stride)(x).sum().backward()
        assert x.grad is not None
