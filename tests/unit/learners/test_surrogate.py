"""Strategies with a model: bananas and bo."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import rankdata

from nastool.core import encodings
from nastool.core.space import SearchSpace
from nastool.core.values import Arch, Evaluation, Trial
from nastool.learners.predictors import ensemble, trees
from nastool.learners.predictors.acquisition import Acquisition
from nastool.learners.regression import quantiles, representatives
from nastool.learners.surrogate import Members, SurrogateStrategy
from nastool.spaces.cell_cnn import CellCNN
from nastool.spaces.nasbench101 import NasBench101
from nastool.spaces.nasbench201 import NasBench201
from nastool.spaces.nasbench_macro import NasBenchMacro
from nastool.strategies.bananas import Bananas
from nastool.strategies.bo import BayesianOptimisation

Make = Callable[..., SurrogateStrategy]
BOTH = pytest.mark.parametrize("make", [Bananas, BayesianOptimisation])


def additive(arch: Arch) -> float:
    """A loss of nasbench-macro with its optimum, 0, at all 2; an earlier layer weighs more."""
    return float(sum((2 - choice) / (i + 1) for i, choice in enumerate(arch.choices)))


def run(strategy: SurrogateStrategy, trials: int, loss: Callable[[Arch], float] = additive) -> list[Trial]:
    """NaN is a failure."""
    done = []
    for i in range(trials):
        proposal = strategy.ask()
        if proposal is None:
            break
        value = loss(proposal.arch)
        if np.isnan(value):
            done.append(Trial(i, proposal, "failed", error="made up"))
        else:
            done.append(Trial(i, proposal, "done", Evaluation({"val_loss": value}, 1.0), (value,)))
        strategy.tell(done[-1])
    return done


@BOTH
@pytest.mark.parametrize("space", [NasBench201(), NasBenchMacro(), NasBench101()], ids=lambda space: space.name)
def test_never_asks_an_equivalent_architecture(make: Make, space: SearchSpace) -> None:
    trials = run(make(space, seed=0, batch=5), 60)
    forms = [space.canonical(trial.proposal.arch) for trial in trials]
    assert len(set(forms)) == 60


@pytest.mark.parametrize("make, trials", [(Bananas, 120), (BayesianOptimisation, 40)])
def test_finds_the_optimum_of_an_easy_function(make: Make, trials: int) -> None:
    space = NasBenchMacro()
    for seed in range(3):
        found = run(make(space, seed=seed), trials)
        assert min(trial.loss for trial in found) == 0, seed


@BOTH
def test_avoids_what_fails(make: Make) -> None:
    """Architectures that would be best, but for failing, are 40% of the space."""
    space = NasBench201()

    def loss(arch: Arch) -> float:
        return float("nan") if arch.choices[0] >= 3 else -float(arch.choices[0])

    trials = run(make(space, seed=0), 60, loss)
    failed = [trial.state == "failed" for trial in trials]
    assert sum(failed[30:]) < 30 * 0.2


@BOTH
def test_goes_on_where_all_results_are_equal(make: Make) -> None:
    assert len(run(make(NasBench201(), seed=0), 40, lambda arch: 0.5)) == 40
    assert len(run(make(NasBench201(), seed=0), 40, lambda arch: float("nan"))) == 40


@BOTH
def test_refuses_bad_options(make: Make) -> None:
    space = NasBenchMacro()
    for options, message in (
        ({"init": 0}, "init >= 1, got 0"),
        ({"batch": 0}, "1 <= batch <= 1000, got 0"),
        ({"batch": 1001}, "1 <= batch <= 1000, got 1001"),
    ):
        with pytest.raises(ValueError, match=message):
            make(space, **options)


# --- bananas


def test_bananas_uses_paths_where_there_are_some_and_says_where_not() -> None:
    assert Bananas(NasBench101()).encoding == Bananas(CellCNN()).encoding == "path"
    assert not Bananas(NasBench101()).notes
    macro = Bananas(NasBenchMacro())
    assert macro.encoding == "onehot"
    assert macro.notes == ("space nasbench-macro has no path encoding: bananas uses onehot",)
    with pytest.raises(ValueError, match="space nasbench-macro has no encoding 'path'; it has onehot, counts"):
        Bananas(NasBenchMacro(), encoding="path")


def test_bananas_mutates_each_decision_at_the_rate_of_the_authors_code() -> None:
    """nasbench201, 0.25 an edge: candidates of one parent differ from it in any number, mostly in 1 to 3."""
    strategy = Bananas(NasBench201(), seed=0, mutation_rate=0.25, batch=10, candidates=1000)
    run(strategy, 10)
    best = strategy.best_trials(1)[0].proposal.arch.choices
    changes = [sum(a != b for a, b in zip(arch.choices, best, strict=True)) for arch in strategy._candidates()[:300]]
    counts = np.bincount(changes, minlength=7)
    assert counts[0] == 0 and min(counts[1], counts[2], counts[3]) > 20 and counts[1:4].sum() > 0.8 * len(changes)


def test_expected_improvement_as_in_the_authors_code_has_a_fifth_of_the_deviation(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: dict[tuple[str, float], Any] = {}
    cases: list[tuple[Acquisition, float]] = [("ei", 1.0), ("ei", 5.0), ("its", 5.0)]
    for acquisition, divisor in cases:

        def record(kind: str, mean: Any, deviation: Any, *rest: Any, key: Any = (acquisition, divisor)) -> Any:
            seen.setdefault(key, deviation)
            return mean

        monkeypatch.setattr("nastool.learners.predictors.acquisition.score", record)
        strategy = Bananas(NasBench201(), seed=0, acquisition=acquisition, ei_divisor=divisor)
        run(strategy, 11)
    np.testing.assert_allclose(seen["ei", 5.0], seen["ei", 1.0] / 5)
    np.testing.assert_allclose(seen["its", 5.0], seen["ei", 1.0])


def test_bananas_with_the_settings_of_the_authors_code() -> None:
    """Of each space that it has; what is given otherwise stays."""

    def settings(space: SearchSpace, **given: Any) -> tuple[Any, ...]:
        strategy = Bananas(space, preset="published", **given)
        return strategy.truncate, strategy.mutation_rate, strategy.ei_divisor

    assert settings(NasBench101()) == (40, 0.0, 5.0)  # all paths of at most 3 operations: 1 + 3 + 9 + 27
    assert settings(NasBench201()) == (30, 0.25, 5.0)  # of at most 2: 5 + 25
    assert settings(CellCNN()) == settings(NasBenchMacro()) == (None, 0.0, 5.0)
    assert settings(NasBench201(), truncate=100, mutation_rate=0.5, ei_divisor=2.0) == (100, 0.5, 2.0)
    assert settings(NasBench201(), encoding="onehot")[0] is None


@pytest.mark.parametrize("pool, old, new", [("mutation", 15, 0), ("random", 0, 15), ("both", 15, 15)])
def test_bananas_candidates_from_elsewhere(pool: Any, old: int, new: int) -> None:
    """Mutants come first; no two candidates are equivalent, nor one to what was asked."""
    space = NasBench101()
    strategy = Bananas(space, seed=0, candidates=15, batch=5, pool=pool)
    run(strategy, 20)
    candidates = strategy._candidates()
    forms = {space.canonical(arch) for arch in candidates}
    assert len(candidates) == len(forms) == old + new and not forms & strategy.seen
    best = np.array(strategy.best_trials(1)[0].proposal.arch.choices)
    changes = [int((np.array(arch.choices) != best).sum()) for arch in candidates]
    assert all(change < 10 for change in changes[:old]) and (not new or np.mean(changes[old:]) > 8)


def test_bananas_draws_what_is_left_of_a_small_space() -> None:
    space = CellCNN(blocks=1, normal_output="2", reduce_output="0")  # 55 that differ
    trials = run(Bananas(space, seed=0, networks=1, epochs=2, pool="random"), 70, lambda arch: float(arch.choices[0]))
    assert len(trials) == 55


def test_bananas_with_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are trained instead of the networks."""
    fits: list[int] = []
    fit = trees.fit

    def counted(inputs: NDArray[np.float32], *rest: Any) -> trees.Trees:
        fits.append(len(inputs))
        return fit(inputs, *rest)

    monkeypatch.setattr(trees, "fit", counted)
    monkeypatch.setattr(ensemble, "fit", None)
    trials = run(Bananas(NasBenchMacro(), seed=0, predictor="trees"), 60)
    assert fits == [10, 20, 30, 40, 50] and min(trial.loss for trial in trials) < min(
        trial.loss for trial in trials[:10]
    )


@pytest.mark.parametrize("given", [{"mutation_rate": -0.1}, {"mutation_rate": 1.1}, {"ei_divisor": 0}])
def test_bananas_refuses_what_is_out_of_range(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="need 0 <= mutation_rate <= 1, 0"):
        Bananas(NasBench201(), **given)


def test_bananas_truncates_paths() -> None:
    space = NasBench101()
    arch = space.sample(np.random.default_rng(0))
    short = Bananas(space, truncate=40)._encode(np.array([arch.choices]))
    assert short.shape == (1, 40)
    np.testing.assert_array_equal(short[0], encodings.encode(space, arch, "path")[:40])


def test_bananas_candidates_are_new_mutants_of_the_best() -> None:
    space = NasBench201()
    strategy = Bananas(space, seed=0, candidates=15)
    trials = run(strategy, 30)
    best = min(trials, key=lambda trial: trial.loss)
    candidates = strategy._candidates()
    assert len(candidates) == 15
    forms = {space.canonical(arch) for arch in candidates}
    assert len(forms) == 15
    assert not forms & {space.canonical(trial.proposal.arch) for trial in trials}
    neighbors = set(space.neighbors(best.proposal.arch))
    assert sum(arch in neighbors for arch in candidates) >= 5


def test_bananas_is_trained_on_no_more_than_max_points(monkeypatch: pytest.MonkeyPatch) -> None:
    """So a proposal costs the same however many results there are: the best half of so many, and some of the rest."""
    seen: list[NDArray[np.float64]] = []
    fit = ensemble.fit

    def watched(inputs: NDArray[np.float32], targets: NDArray[np.float64], *rest: Any, **more: Any) -> Any:
        assert len(inputs) == len(targets)
        seen.append(targets)
        return fit(inputs, targets, *rest, **more)

    monkeypatch.setattr(ensemble, "fit", watched)
    for given, most in ((None, 300), (20, 20)):
        strategy = Bananas(NasBench101(), seed=0, init=400, epochs=1, max_points=given)
        trials = run(strategy, 401)
        best = sorted(-trial.loss for trial in trials[:400])[-most // 2 :]
        assert len(seen[-1]) == most and set(best) <= set(seen[-1].tolist()) and seen[-1].min() < best[0]
    strategy = Bananas(NasBench101(), seed=0, init=300, epochs=1)
    run(strategy, 301)
    np.testing.assert_array_equal(seen[-1], [-trial.loss for trial in strategy.finished[:300]])
    with pytest.raises(ValueError, match="10 <= max_points <= 5,000, got 9"):
        Bananas(NasBench101(), max_points=9)


# --- bo


def test_quantiles_are_of_mean_ranks() -> None:
    values = np.random.default_rng(0).integers(0, 9, 50).astype(float)
    np.testing.assert_allclose(quantiles(values), ndtri((rankdata(values) - 0.5) / 50))


def test_representatives_hold_the_best_and_the_extremes() -> None:
    losses = np.random.default_rng(0).permutation(1000).astype(float)
    kept = representatives(losses, 100)
    assert len(set(kept.tolist())) == 100
    assert (np.diff(kept) > 0).all()
    assert set(range(50)) <= set(losses[kept])
    assert losses[kept].max() == 999
    assert representatives(losses, 1000).tolist() == list(range(1000))


def test_bo_with_few_points_still_works() -> None:
    trials = run(BayesianOptimisation(NasBenchMacro(), seed=0, max_points=20), 60)
    assert min(trial.loss for trial in trials) < 0.5


def test_bo_spreads_what_is_measured_at_the_same_time() -> None:
    """What is being measured is taken into account: proposals differ, and not by one decision only."""
    space = NasBench201()
    strategy = BayesianOptimisation(space, seed=0)
    run(strategy, 20)
    out = [strategy.ask() for _ in range(4)]
    assert len({space.canonical(proposal.arch) for proposal in out if proposal}) == 4


def test_bo_selects_no_two_equivalent_ones_at_once() -> None:
    space = NasBenchMacro()
    strategy = BayesianOptimisation(space, seed=0, batch=200)
    run(strategy, 20)
    found = strategy.select(200)
    assert len(found) == len({space.canonical(proposal.arch) for proposal in found}) == 200


@pytest.mark.parametrize("cls", [BayesianOptimisation, Bananas])
def test_what_a_model_expects_is_related_to_what_is_measured(cls: type[BayesianOptimisation | Bananas]) -> None:
    trials = run(cls(NasBenchMacro(), seed=0, init=20), 80)
    assert not any(trial.proposal.notes for trial in trials[:20])
    modelled: list[Any] = [(trial.proposal.notes["expected"], trial.loss) for trial in trials[20:]]
    measured = [trial.loss for trial in trials]
    assert all(isinstance(expected, float) and -1e9 < expected < 1e9 for expected, _ in modelled)
    errors = [abs(expected - loss) for expected, loss in modelled if expected is not None]
    blind = [abs(np.mean(measured[:i]) - measured[i]) for i in range(20, 80)]
    assert np.mean(errors) < np.mean(blind)


def test_members_know_what_has_been_seen() -> None:
    space = NasBenchMacro()
    members = Members(space)
    assert len(members.choices) == 6561
    assert members.group.max() + 1 == 3969
    arch = space.sample(np.random.default_rng(0))
    form = space.canonical(arch)
    left = members.unseen({form})
    gone = sorted(set(range(6561)) - set(left.tolist()))
    assert [space.canonical(space.arch(members.choices[i])) for i in gone] == [form] * len(gone)


# --- against published tables


@pytest.mark.slow
def test_bo_reaches_the_best_measured_regret(benchmark_data: Path) -> None:
    """Mean over 50 seeds on NAS-Bench-201, CIFAR-10: at most .11/.04/.01 points after 50/100/150 queries."""
    columns = np.load(os.fspath(benchmark_data / "nasbench201.npz"))
    accuracy = dict(zip(map(tuple, columns["arch"].tolist()), columns["cifar10_test200"].tolist(), strict=True))
    best = max(accuracy.values())
    regrets = []
    for seed in range(50):
        trials = run(BayesianOptimisation(NasBench201(), seed=seed), 150, lambda arch: -accuracy[arch.choices])
        regrets.append(best + np.minimum.accumulate([trial.loss for trial in trials]))
    mean = np.mean(regrets, axis=0)
    assert mean[49] <= 0.11
    assert mean[99] <= 0.04
    assert mean[149] <= 0.01
