"""Evolution where there is little to mutate, and where weights are handed down."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy import stats

from nastool.core import registry
from nastool.core.space import SearchSpace
from nastool.core.values import Decision, Evaluation, Proposal, Trial
from nastool.evaluators.train import Train
from nastool.nets import checkpoints
from nastool.nets.inheritance import inherited
from nastool.spaces.nasbench_macro import NasBenchMacro
from nastool.strategies.evolution import RegularizedEvolution
from nastool.testing.strategies import TinySpace
from nastool.training.loop import Training
from tests.unit.evaluators.test_train import npz


class OneMember(TinySpace):
    """A space without neighbors."""

    def __init__(self) -> None:
        SearchSpace.__init__(self, [Decision("a", ("x",))])


def test_the_best_of_a_tournament_has_a_child() -> None:
    """Of ten draws from ten the best one's rank is 0.49 on average: the sum of ((10 - r) / 10)^10 for r from 1 on."""
    strategy = RegularizedEvolution(NasBenchMacro(), seed=0, population=10, tournament=10)
    rng, ranks = np.random.default_rng(0), []
    for i in range(150):
        proposal = strategy.ask()
        assert proposal is not None
        if proposal.parent is not None:
            ranks.append([trial.id for trial in sorted(strategy.alive, key=lambda t: t.loss)].index(proposal.parent))
        loss = float(rng.random())
        strategy.tell(Trial(i, proposal, "done", Evaluation({"val_loss": loss}, 1.0), (loss,)))
    assert len(ranks) == 140 and 0.3 < np.mean(ranks) < 0.7


@pytest.mark.parametrize("rate", [0.0, 1e-15, 0.5, 1.0])
def test_every_mutation_rate_ends_and_changes_something(rate: float) -> None:
    space = NasBenchMacro()
    strategy = RegularizedEvolution(space, seed=0, population=2, mutation_rate=rate, dedup=False)
    archs = []
    for i in range(10):
        proposal = strategy.ask()
        assert proposal is not None
        archs.append(proposal.arch)
        if proposal.parent is not None:
            assert proposal.arch != archs[proposal.parent]
        strategy.tell(Trial(i, proposal, "done", Evaluation({"val_loss": 1.0}, 1.0), (1.0,)))


@pytest.mark.parametrize("rate", [0.0, 0.5])
@pytest.mark.parametrize("dedup", [True, False])
def test_a_space_of_one_is_no_trap(rate: float, dedup: bool) -> None:
    strategy = RegularizedEvolution(OneMember(), seed=0, population=1, mutation_rate=rate, dedup=dedup)
    for i in range(3):
        proposal = strategy.ask()
        if proposal is None:
            assert dedup and i == 1, "with dedup it ends when it has seen everything"
            return
        strategy.tell(Trial(i, proposal, "done", Evaluation({"val_loss": 1.0}, 1.0), (1.0,)))
    assert not dedup


def chain(space: SearchSpace, count: int, **options: Any) -> NDArray[np.intp]:
    """So many mutants, each of the one before, and what they began with: option indices (count + 1, decisions)."""
    strategy = RegularizedEvolution(space, seed=0, population=1, dedup=False, **options)
    choices = []
    for i in range(count + 1):
        proposal = strategy.ask()
        assert proposal is not None
        choices.append(proposal.arch.choices)
        strategy.tell(Trial(i, proposal, "done", Evaluation({"val_loss": 1.0}, 1.0), (1.0,)))
    return np.array(choices)


@pytest.mark.parametrize("space", ["cell-cnn:nasnet", "cell-cnn:enas", "macro-cnn"])
def test_inputs_and_operations_mutate_alike(space: str) -> None:
    """Real et al. (2019): hidden state or operation, each half of the time; then decisions and options uniformly."""
    name, _, ops = space.partition(":")
    cells: SearchSpace = registry.make("space", name, given={"ops": ops} if ops else {})
    moves = np.diff(chain(cells, 4000), axis=0)
    assert ((moves != 0).sum(axis=1) == 1).all()
    counts = (moves != 0).sum(axis=0)
    refers = np.array([bool(decision.refers) for decision in cells.decisions])
    assert stats.binomtest(int(counts[refers].sum()), 4000, 0.5).pvalue > 1e-3
    assert stats.chisquare(counts[refers]).pvalue > 1e-3 and stats.chisquare(counts[~refers]).pvalue > 1e-3
    column = int(np.flatnonzero(~refers)[0])
    size = len(cells.decisions[column].options)
    options = np.bincount(moves[:, column] % size, minlength=size)[1:]
    assert stats.chisquare(options).pvalue > 1e-3


def test_what_is_known_is_drawn_again_before_it_is_mutated_on() -> None:
    """All 24 neighbors of a parent come first, where a walk on from those that are known leaves them sooner."""
    kept = []
    for redraws in (0, 1000):
        space = registry.make("space", "nasbench201", given={})
        strategy = RegularizedEvolution(space, seed=0, population=1, redraws=redraws)
        parent = strategy.ask()
        assert parent is not None
        strategy.tell(Trial(0, parent, "done", Evaluation({"val_loss": 1.0}, 1.0), (1.0,)))
        forms = {space.canonical(other) for other in space.neighbors(parent.arch)} - {space.canonical(parent.arch)}
        found = [strategy.ask() for _ in forms]  # none is told: it stays the parent
        kept.append(sum(each is not None and space.canonical(each.arch) in forms for each in found) / len(forms))
    assert kept[0] < 0.9 and kept[1] == 1


def test_a_mutation_rate_is_the_probability_of_a_change() -> None:
    space = registry.make("space", "nasbench201", given={})
    changes = (np.diff(chain(space, 3000, mutation_rate=0.25), axis=0) != 0).sum(axis=1)
    mean = 6 * 0.25 / (1 - 0.75**6)  # given that one does change
    assert changes.mean() == pytest.approx(mean, abs=4 * changes.std() / 3000**0.5)


# --- inherit: weights are handed down


class Beginnings(Train):
    """Remembers the weights that each training begins with."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.begun: list[dict[str, torch.Tensor]] = []
        self.loss: list[float] = []

    def _begin(self, *arguments: Any) -> Training:
        training = super()._begin(*arguments)
        self.begun.append({name: value.clone() for name, value in training.network.state_dict().items()})
        self.loss.append(self.measure(training.network, self.val_batches, "val")["val_loss"])
        return training


@pytest.mark.parametrize(
    ("name", "options", "scale"),
    [
        ("nasbench201", {}, {"channels": 2, "cells": 1}),
        ("morph-cnn", {"stages": 2, "layers": 3, "max_width": 2}, {"channels": 2}),
    ],
)
def test_children_begin_with_their_parents_weights(
    tmp_path: Path, one_thread: None, name: str, options: dict[str, Any], scale: dict[str, int]
) -> None:
    space = registry.make("space", name, given=options)
    evaluator = Beginnings(space, data=npz(tmp_path / "tiny.npz"), scale=scale, device="cpu", epochs=2, batch_size=16)
    evaluator.workdir = tmp_path
    strategy = RegularizedEvolution(space, seed=0, population=4, tournament=4, inherit=True)
    archs, losses, exact = [], [], 0
    for i in range(14):
        proposal = strategy.ask()
        assert proposal is not None and proposal.inherit
        evaluation = evaluator.evaluate(i, proposal, seed=i, report=lambda *_: None)
        archs.append(proposal.arch)
        losses.append(evaluation.metrics["val_loss"])
        begun, parent = evaluator.begun[i], proposal.parent
        assert (parent is None) == (i < 4)
        if parent is not None:
            assert parent in strategy.wanted()
            kept = load_file(tmp_path / checkpoints.name_of(parent))
            fitting = {key for key, value in kept.items() if key in begun and begun[key].shape == value.shape}
            assert fitting
            if name == "nasbench201":
                assert all(torch.equal(begun[key], kept[key]) for key in fitting)
            elif inherited(space, archs[parent], proposal.arch, evaluator.task, evaluator.scale).exact:
                exact += 1
                assert evaluator.loss[i] == pytest.approx(losses[parent], rel=1e-4)
        strategy.tell(Trial(i, proposal, "done", evaluation, (losses[i],)))
    assert name == "nasbench201" or exact, "some mutations are morphisms"


def test_wanted_are_those_alive() -> None:
    for inherit in (True, False):
        strategy = RegularizedEvolution(NasBenchMacro(), seed=0, population=3, inherit=inherit)
        assert strategy.needs == ({"warm-start"} if inherit else set())
        assert list(strategy.wanted()) == []
        alive: list[int] = []
        for i in range(8):
            proposal = strategy.ask()
            assert proposal is not None and proposal.inherit == inherit
            if i == 5:
                strategy.tell(Trial(i, proposal, "failed", error="made up"))
            else:
                strategy.tell(Trial(i, proposal, "done", Evaluation({"val_loss": 1.0}, 1.0), (1.0,)))
                alive = [*alive, i][-3:]
            assert list(strategy.wanted()) == (alive if inherit else [])


def test_handing_down_changes_nothing_but_that() -> None:
    """The same proposals otherwise."""

    def proposals(inherit: bool) -> list[Proposal]:
        strategy = RegularizedEvolution(NasBenchMacro(), seed=1, population=3, inherit=inherit)
        found = []
        for i in range(12):
            proposal = strategy.ask()
            assert proposal is not None
            found.append(proposal)
            strategy.tell(Trial(i, proposal, "done", Evaluation({"val_loss": 1.0}, 1.0), (float(-i % 5),)))
        return found

    pairs = list(zip(proposals(True), proposals(False), strict=True))
    assert all(a.arch == b.arch and a.parent == b.parent and a.inherit and not b.inherit for a, b in pairs)
