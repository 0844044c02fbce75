"""Local search climbs, and starts anew at a local optimum."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from nastool.core.values import Arch, Evaluation, Trial
from nastool.spaces.nasbench_macro import NasBenchMacro
from nastool.strategies.local_search import LocalSearch

SPACE = NasBenchMacro()


def hill(arch: Arch) -> float:
    """A loss with its only optimum, 0, at all 2; choices of 1 are worse than of 0."""
    return float(sum((4.0, 5.0, 0.0)[choice] for choice in arch.choices))


def run(strategy: LocalSearch, trials: int, loss: Callable[[Arch], float] = hill) -> list[Trial]:
    done = []
    for i in range(trials):
        proposal = strategy.ask()
        assert proposal is not None
        value = loss(proposal.arch)
        done.append(Trial(i, proposal, "done", Evaluation({"val_loss": value}, 1.0), (value,)))
        strategy.tell(done[-1])
    return done


def test_climbs_to_the_top() -> None:
    for seed in range(5):
        trials = run(LocalSearch(SPACE, seed=seed), 10 + 8 * 16)
        assert min(trial.loss for trial in trials) == 0


def test_best_improvement_measures_all_neighbors_then_moves_to_the_best() -> None:
    trials = run(LocalSearch(SPACE, seed=1, improvement="best", init=1), 18)
    start = trials[0]
    expected = {SPACE.canonical(arch) for arch in SPACE.neighbors(start.proposal.arch)}
    expected -= {SPACE.canonical(start.proposal.arch)}
    around, following = trials[1 : 1 + len(expected)], trials[1 + len(expected)]
    assert {trial.proposal.parent for trial in around} == {start.id}
    assert {SPACE.canonical(trial.proposal.arch) for trial in around} == expected
    best = min(around, key=lambda trial: trial.loss)
    assert best.loss < start.loss
    assert following.proposal.parent == best.id


def test_first_improvement_moves_at_once() -> None:
    trials = run(LocalSearch(SPACE, seed=2, init=3), 60)
    center = min(trials[:3], key=lambda trial: trial.loss)
    for trial in trials[3:]:
        if trial.proposal.parent is None:
            break  # a local optimum: it starts anew
        assert trial.proposal.parent == center.id
        changed = sum(a != b for a, b in zip(trial.proposal.arch.choices, center.proposal.arch.choices, strict=True))
        assert changed == 1
        if trial.loss < center.loss:
            center = trial
    assert center.loss < trials[3].loss


def test_starts_anew_at_a_local_optimum_and_never_repeats() -> None:
    def two_hills(arch: Arch) -> float:
        return min(hill(arch), 1 + float(sum(arch.choices)))

    trials = run(LocalSearch(SPACE, seed=0, init=4), 400, two_hills)
    forms = [SPACE.canonical(trial.proposal.arch) for trial in trials]
    assert len(set(forms)) == len(forms)
    starts = [trial.id for trial in trials if trial.proposal.parent is None]
    assert starts[:4] == [0, 1, 2, 3]
    later = starts[4:]
    assert len(later) >= 4
    assert later[:4] == list(range(later[0], later[0] + 4)), "each climb begins with so many random ones"
    assert min(trial.loss for trial in trials) == 0


def test_all_starts_failed_is_no_end() -> None:
    strategy = LocalSearch(SPACE, seed=0, init=2)
    for i in range(30):
        proposal = strategy.ask()
        assert proposal is not None
        assert proposal.parent is None
        strategy.tell(Trial(i, proposal, "failed", error="made up"))


def test_a_late_result_moves_it_too() -> None:
    """With two workers: a neighbor of an earlier center that is better than the present one."""
    strategy = LocalSearch(SPACE, seed=3, init=1)
    start = strategy.ask()
    assert start is not None
    strategy.tell(Trial(0, start, "done", Evaluation({}, 1.0), (9.0,)))
    out = [strategy.ask() for _ in range(3)]
    for i, loss in ((1, 5.0), (2, 7.0), (3, 2.0)):
        proposal = out[i - 1]
        assert proposal is not None
        strategy.tell(Trial(i, proposal, "done", Evaluation({}, 1.0), (loss,)))
    following = strategy.ask()
    assert following is not None
    assert following.parent == 3


def test_refuses_bad_options() -> None:
    with pytest.raises(ValueError, match="init >= 1, got 0"):
        LocalSearch(SPACE, init=0)
