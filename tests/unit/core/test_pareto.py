"""Fronts, crowding, hypervolume and the knee."""

from __future__ import annotations

import builtins
import math
from typing import Any

import numpy as np
import pytest

from nastool.core import pareto
from nastool.core.errors import InputError
from nastool.core.values import Arch, Evaluation, Proposal, SpaceRef, Trial

THREE = [(1, 5), (2, 3), (4, 1)]


def test_published_figures() -> None:
    """Three points and a reference, worked out by hand."""
    assert pareto.hypervolume(THREE, (6, 6)) == 17
    assert pareto.crowding(THREE).tolist() == [math.inf, 2, math.inf]
    assert pareto.knee(THREE) == 1
    assert pareto.knee([(0, 99), (10, 10), (11, 5), (13, 3), (30, 2), (40, 1)]) == 3, "a useless end does not matter"
    assert pareto.knee([(1, 1)]) == 0 and pareto.knee([(1, 2), (2, 1)]) == 0
    assert pareto.hypervolume([*THREE, (3, 3), (7, 0), (2, 3)], (6, 6)) == 17, "dominated, beyond, and twice"
    assert pareto.hypervolume([(7, 7)], (6, 6)) == 0


def test_a_trial_that_failed_is_behind_all_others() -> None:
    losses = [(2, 5), (math.inf, math.inf), (1, 5), (2, 3), (4, 1), (9, 9), (2, 3)]
    assert pareto.ranks(losses).tolist() == [1, 3, 0, 0, 0, 2, 0]
    assert pareto.front(losses) == [2, 3, 4], "by the first objective, of equal ones the first"
    assert pareto.front([(math.inf, math.inf)]) == []


@pytest.mark.parametrize("objectives", [1, 2, 3])
def test_fronts_are_what_domination_says(objectives: int) -> None:
    losses = np.random.default_rng(objectives).integers(6, size=(60, objectives)).astype(float)
    left, expected = set(range(60)), np.zeros(60)
    for rank in range(60):
        best = {i for i in left if not any(pareto.dominates(tuple(losses[j]), tuple(losses[i])) for j in left)}
        expected[list(best)] = rank
        left -= best
    assert pareto.ranks(losses).tolist() == expected.tolist()
    front = pareto.front(losses)
    assert {tuple(losses[i]) for i in front} == {tuple(losses[i]) for i in np.flatnonzero(expected == 0)}
    assert len({tuple(losses[i]) for i in front}) == len(front)


def test_hypervolume_is_the_share_of_random_points() -> None:
    rng = np.random.default_rng(0)
    losses, points = rng.random((8, 2)), rng.random((200_000, 2))
    share = (losses[:, None] <= points).all(axis=2).any(axis=0).mean()
    assert pareto.hypervolume(losses, (1, 1)) == pytest.approx(share, abs=0.004)


def test_three_objectives_need_moocore(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "moocore":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    assert pareto.hypervolume([(7, 7, 7)], (6, 6, 6)) == 0
    with pytest.raises(InputError, match=r"3 objectives is computed by moocore: pip install 'nastool\[objectives\]'"):
        pareto.hypervolume([(1, 2, 3)], (6, 6, 6))


def test_moocore_agrees() -> None:
    pytest.importorskip("moocore")
    assert pareto.hypervolume([(1, 2, 3), (2, 1, 3)], (4, 4, 4)) == pytest.approx(6 + 6 - 4)


def test_trials_by_front_then_the_most_alone_then_the_earlier() -> None:
    proposal = Proposal(Arch(SpaceRef("s"), (0,)))

    def ordered(*losses: tuple[float, ...]) -> list[int]:
        trials = [Trial(i, proposal, "done", Evaluation({}, 0.0), each) for i, each in enumerate(losses)]
        return [trial.id for trial in pareto.ordered(trials)]

    assert ordered((9, 9), (1, 5), (2, 3), (2.1, 2.9), (4, 1)) == [1, 4, 3, 2, 0]
    assert ordered((2,), (1,), (2,)) == [1, 0, 2]
    assert ordered() == []
