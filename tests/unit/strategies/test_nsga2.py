"""Strategies that weigh several objectives: nsga2, evolution and random."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from nastool.core import pareto, registry
from nastool.core.strategy import Strategy, takes_several
from nastool.core.values import Evaluation, Proposal, Trial
from nastool.spaces.nasbench_macro import NasBenchMacro
from nastool.strategies.nsga2 import NSGA2

SPACE = NasBenchMacro()
REFERENCE = (1.0, 17.0)


def make(name: str, seed: int) -> Strategy:
    strategy: Strategy = registry.make("strategy", name, SPACE, given={"seed": seed})
    return strategy


def losses_of(proposal: Proposal) -> tuple[float, ...]:
    """Two that pull apart: how far the options are from 1, 0, 2, 0, ..., and their sum."""
    wanted = np.tile([1, 0, 2, 0], 2)
    choices = np.array(proposal.arch.choices)
    return float((choices != wanted).mean()), float(choices.sum())


def searched(strategy: Strategy, trials: int, failing: int = 0) -> list[Trial]:
    found = []
    for i in range(trials):
        proposal = strategy.ask()
        assert proposal is not None
        if failing and i % failing == failing - 1:
            found.append(Trial(i, proposal, "failed", error="no"))
        else:
            found.append(Trial(i, proposal, "done", Evaluation({"a": 1.0}, 1.0), losses_of(proposal)))
        strategy.tell(found[-1])
    return found


def volume(strategy: Strategy, trials: int = 60) -> float:
    return pareto.hypervolume([trial.losses for trial in searched(strategy, trials)], REFERENCE)


def test_it_finds_more_of_the_front_than_random_search() -> None:
    random = np.array([volume(make("random", s)) for s in range(8)])
    for name in ("nsga2", "evolution"):
        found = np.array([volume(make(name, s)) for s in range(8)])
        assert found.mean() > random.mean() + 0.3, name


def test_the_population_is_the_best_of_all_trials() -> None:
    strategy = NSGA2(SPACE, seed=1, population=8)
    trials = searched(strategy, 50, failing=5)
    done = [trial for trial in trials if trial.state == "done"]
    front = {done[i].losses for i in pareto.front([trial.losses for trial in done])}
    assert len(strategy.alive) == 8 and strategy.alive == pareto.ordered(strategy.alive)
    assert {trial.losses for trial in strategy.alive if trial.losses in front}
    assert min(trial.losses[0] for trial in done) == min(trial.losses[0] for trial in strategy.alive), "the ends stay"
    assert min(trial.losses[1] for trial in done) == min(trial.losses[1] for trial in strategy.alive)
    assert len({trial.proposal.arch for trial in trials}) == 50, "none twice"


@pytest.mark.parametrize("third", [False, True])
def test_bo_finds_more_and_goes_on_exactly(third: bool) -> None:
    """Also with three objectives, and where it is told in another process."""

    def told(strategy: Strategy, start: int, end: int, known: list[Trial]) -> list[Trial]:
        for i in range(start, end):
            proposal = strategy.ask()
            assert proposal is not None
            losses = losses_of(proposal)
            losses = (*losses, float(proposal.arch.choices[0])) if third else losses
            failed = Trial(i, proposal, "failed", error="no")
            known.append(failed if i == 4 else Trial(i, proposal, "done", Evaluation({"a": 1.0}, 1.0), losses))
            strategy.tell(known[-1])
        return known

    whole = told(make("bo", 3), 0, 24, [])
    strategy = make("bo", 3)
    begun = told(strategy, 0, 15, [])
    again = make("bo", 3)
    again.load_state_dict(json.loads(json.dumps(strategy.state_dict())), begun)
    assert again.state_dict() == strategy.state_dict()
    assert told(again, 15, 24, begun) == whole
    assert len({trial.proposal.arch for trial in whole}) == 24
    if not third:
        found = pareto.hypervolume([trial.losses for trial in whole if trial.losses], REFERENCE)
        assert found > np.mean([volume(make("random", seed), 24) for seed in range(8)]) + 1


@pytest.mark.parametrize(
    "options",
    [{"population": 1}, {"population": 1001}, {"crossover": 1.1}, {"mutation_rate": -0.1}],
)
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(options))} <= 1"):
        NSGA2(SPACE, **options)


def test_a_small_space_is_searched_to_its_end() -> None:
    from nastool.testing.strategies import TinySpace

    space = TinySpace()
    strategy = NSGA2(space, population=2, crossover=1.0)
    size = len(list(space.members()))
    trials = [strategy.ask() for _ in range(size)]
    assert None not in trials and strategy.ask() is None


def test_which_strategies_weigh_several() -> None:
    able = {name for name in registry.plugins("strategy") if takes_several(registry.load("strategy", name))}
    assert able >= {"nsga2", "evolution", "random", "bo"} and not able & {"enas", "reinforce", "local-search"}
