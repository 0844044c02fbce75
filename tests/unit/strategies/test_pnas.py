"""PNAS: what grows from what, exhaustively on small spaces."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from nastool.core.space import SearchSpace
from nastool.core.values import Arch, Evaluation, Trial
from nastool.spaces.cell_cnn import CellCNN
from nastool.spaces.layerwise_cnn import LayerwiseCNN
from nastool.spaces.nasbench101 import NasBench101
from nastool.spaces.nasbench201 import NasBench201
from nastool.spaces.nasbench_macro import NasBenchMacro
from nastool.strategies.pnas import PNAS, Growth
from nastool.testing.strategies import TinySpace


def larger(space: SearchSpace, parent: tuple[int, ...], most: int = 10_000) -> list[tuple[int, ...]]:
    found = Growth(space).larger(np.array(parent), most, np.random.default_rng(0))
    return [tuple(row) for row in found.tolist()]


def run(strategy: PNAS, trials: int) -> list[Trial]:
    """An additive loss, of which the last option of each decision is the best; a failure now and then."""
    done = []
    for i in range(trials):
        proposal = strategy.ask()
        if proposal is None:
            break
        loss = -float(sum(choice / (k + 1) for k, choice in enumerate(proposal.arch.choices)))
        if i % 9 == 5:
            done.append(Trial(i, proposal, "failed", error="made up"))
        else:
            done.append(Trial(i, proposal, "done", Evaluation({"val_loss": loss}, 1.0), (loss,)))
        strategy.tell(done[-1])
    return done


def test_every_architecture_is_reached_by_as_many_parts_as_it_has() -> None:
    """nasbench-macro: size n has binomial(8, n) 2^n architectures, each once enlarged out of the size before."""
    space = NasBenchMacro()
    growth = Growth(space)
    members = np.array([arch.choices for arch in space.members()])
    assert np.bincount(growth.sizes(members)).tolist() == [1, 16, 112, 448, 1120, 1792, 1792, 1024, 256]
    level = {growth.base}
    for size in range(1, 4):
        level = {row for parent in level for row in larger(space, parent) if growth.sizes(np.array([row]))[0] == size}
        assert level == {tuple(row) for row in members[growth.sizes(members) == size].tolist()}


def test_a_decision_that_changes_nothing_comes_with_a_second_one() -> None:
    """nasbench201, from a cell without any operation: each edge alone, and those that do nothing with another one."""
    space = NasBench201()
    empty = space.canonical(space.arch((0,) * 6))
    members = np.array([arch.choices for arch in space.members()])
    present = (members > 0).sum(axis=1)

    def silent(row: list[int], edge: int) -> bool:
        return space.canonical(space.arch([op if i == edge else 0 for i, op in enumerate(row)])) == empty

    expected = {tuple(row) for row in members[present == 1].tolist()}
    for row in members[present == 2].tolist():
        if any(silent(row, edge) for edge in np.flatnonzero(row).tolist()):
            expected.add(tuple(row))
    assert set(larger(space, (0,) * 6)) == expected and (0, 3, 0, 0, 0, 3) in expected
    assert Growth(space).sizes(members).tolist() == present.tolist()


def test_vertices_are_added_with_two_edges() -> None:
    """nasbench101, from no edge at all, which is no member: input to output, and one vertex between."""
    space = NasBench101()
    archs = [space.arch(row) for row in larger(space, Growth(space).base)]
    edges = {arch.choices[:21] for arch in archs if space.is_member(arch)}
    assert sorted(map(sum, edges)) == [1] + 25 * [2]
    assert len({space.canonical(space.arch((*graph, 0, 0, 0, 0, 0))) for graph in edges}) == 2


def test_blocks_of_a_cell_are_added_one_after_another() -> None:
    """Of one block two inputs, five operations for each slot: 100 ways, one of which is the block that passes on."""
    space = CellCNN(blocks=2)
    growth = Growth(space)
    assert len(growth.parts) == 4
    found = larger(space, growth.base)
    assert len(found) == 2 * 99 and {sum(row[i] != growth.base[i] for i in range(4)) > 0 for row in found} == {
        True,
        False,
    }
    first = next(row for row in found if row[:4] != growth.base[:4])
    second = larger(space, first)
    assert all(row[:4] == first[:4] for row in second)
    assert len(second) == (3 * 5) ** 2 - 1 + 99  # the normal cell's second block, or the other cell's first


def test_an_empty_block_passes_on_the_one_before() -> None:
    space = CellCNN(blocks=3)
    base = dict(zip((d.name for d in space.decisions), Growth(space).base, strict=True))
    assert [space.states[base[f"normal{b}.input1"]] for b in (1, 2, 3)] == ["1", "2", "3"]
    assert {space.ops[base[f"reduce{b}.op{slot}"]] for b in (1, 2, 3) for slot in "12"} == {"skip_connect"}


def test_layers_are_added_with_a_greater_depth() -> None:
    space = LayerwiseCNN(layers=2, min_layers=1, skips=False)
    names = [decision.name for decision in space.decisions]
    found = [dict(zip(names, row, strict=True)) for row in larger(space, Growth(space).base)]
    assert {"depth": 1, "layer2.filters": 3} in [{k: v for k, v in row.items() if v} for row in found]


def test_a_random_choice_where_there_is_too_much() -> None:
    space = CellCNN(blocks=5)
    growth = Growth(space)
    found = larger(space, growth.base, most=50)
    assert 0 < len(found) <= 50 and set(growth.sizes(np.array(found)).tolist()) == {1}


def test_sizes_follow_each_other_and_begin_again() -> None:
    space = NasBenchMacro()
    strategy = PNAS(space, seed=0, beam=5)
    trials = run(strategy, 60)
    sizes = strategy.growth.sizes(np.array([trial.proposal.arch.choices for trial in trials]))
    assert sizes.tolist() == [size for size in range(1, 9) for _ in range(5)] + [
        s for s in range(1, 5) for _ in range(5)
    ]
    for size in range(2, 9):  # each is one part larger than one of the measured size before
        before = {trial.proposal.arch.choices for trial in trials[5 * size - 10 : 5 * size - 5]}
        for trial in trials[5 * size - 5 : 5 * size]:
            choices = trial.proposal.arch.choices
            assert any((*choices[:i], 0, *choices[i + 1 :]) in before for i in range(8) if choices[i])
    assert min(trial.loss for trial in trials if trial.losses) < min(
        trial.loss for trial in trials[:10] if trial.losses
    )


def test_workers_do_not_wait() -> None:
    """While all of a size are running there are more of it, then one part more on what is known; never less."""
    strategy = PNAS(NasBenchMacro(), seed=0, beam=4)
    asked = [strategy.ask() for _ in range(12)]  # all of one part
    for i, proposal in enumerate(asked[:8]):
        assert proposal is not None
        strategy.tell(Trial(i, proposal, "done", Evaluation({"val_loss": float(i)}, 1.0), (float(i),)))
    asked += [strategy.ask() for _ in range(8)]
    rows = np.array([proposal.arch.choices for proposal in asked if proposal is not None])
    assert strategy.growth.sizes(rows).tolist() == 12 * [1] + 8 * [2]


def test_the_whole_of_a_small_space_in_the_end() -> None:
    space = NasBenchMacro()
    assert PNAS(space).notes == ()
    tiny = PNAS(TinySpace(), beam=1)
    assert tiny.notes == ("no option of space tiny stands for nothing: pnas grows from the first ones",)
    found: set[Arch] = {trial.proposal.arch for trial in run(tiny, 10)}
    assert len(found) == 6


@pytest.mark.parametrize("given", [{"beam": 0}, {"beam": 1001}, {"beam": 20, "candidates": 19}, {"max_points": 9}])
def test_refuses_what_is_out_of_range(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="need 1 <= beam <= 1,000"):
        PNAS(NasBenchMacro(), **given)
