"""What strategies make of earlier runs of the same space."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from nastool.core import registry
from nastool.core.arrays import Choices
from nastool.core.limits import Limits, limited
from nastool.core.space import SearchSpace
from nastool.core.strategy import Earlier, Informable, Strategy
from nastool.core.values import Arch, Evaluation, Trial
from nastool.learners import multi_fidelity, prior
from nastool.learners.fidelities import made
from nastool.learners.prior import Prior, weighed
from nastool.learners.regression import Floats
from nastool.spaces.cell_cnn import CellCNN
from nastool.spaces.nasbench201 import NasBench201
from nastool.spaces.nasbench_macro import NasBenchMacro
from nastool.strategies.evolution import RegularizedEvolution

Loss = Callable[[Arch], float]
MACRO = NasBenchMacro()
STRATEGIES: Mapping[str, Mapping[str, Any]] = {
    "bananas": {"networks": 2, "epochs": 30},
    "bo": {},
    "evolution": {},
    "pnas": {"candidates": 200},
    "seminas": {"init": 10, "batch": 10, "unlabelled": 30, "epochs": 10, "joint_epochs": 2, "hidden": 8, "steps": 20},
}
EACH = pytest.mark.parametrize("name", STRATEGIES)


def loss(arch: Arch) -> float:
    """Of nasbench-macro; its optimum, 0, is at all 2, and an earlier layer weighs more."""
    return float(sum((2 - choice) / (i + 1) for i, choice in enumerate(arch.choices)))


def earlier(of: Loss = loss, count: int = 60, seed: int = 0, space: SearchSpace = MACRO) -> Earlier:
    """A random search."""
    rng = np.random.default_rng(seed)
    archs = [space.sample(rng) for _ in range(count)]
    return Earlier(np.array([arch.choices for arch in archs]), np.array([[of(arch)] for arch in archs]))


def made_by(name: str, *runs: Earlier, seed: int = 0, space: SearchSpace = MACRO) -> Strategy:
    strategy: Strategy = registry.make("strategy", name, space, given={"seed": seed, **STRATEGIES[name]})
    if runs:
        assert isinstance(strategy, Informable)
        strategy.inform(runs)
    return strategy


def run(strategy: Strategy, trials: int, of: Loss = loss, first: int = 0) -> list[Trial]:
    done = []
    for i in range(first, first + trials):
        proposal = strategy.ask()
        assert proposal is not None
        value = of(proposal.arch)
        done.append(Trial(i, proposal, "done", Evaluation({"val_loss": value}, 1.0), (value,)))
        strategy.tell(done[-1])
    return done


def queries(name: str, *runs: Earlier, most: int = 60) -> float:
    """Mean number of queries until the optimum, of five seeds."""
    found = []
    for seed in range(5):
        strategy = made_by(name, *runs, seed=seed)
        found.append(next((n for n in range(1, most + 1) if run(strategy, 1, first=n)[0].loss == 0), most + 1))
    return float(np.mean(found))


class TestWeights:
    @given(st.integers(1, 3), st.integers(0, 2**31))
    def test_they_are_the_posterior_mean(self, runs: int, seed: int) -> None:
        """Against the definition: of N(1 / runs, SPREAD^2) and of residuals of variance REST, by one least squares."""
        rng = np.random.default_rng(seed)
        own, targets, points = rng.normal(size=(9, runs)), rng.normal(size=9), rng.normal(size=(4, runs))
        center = own.mean(axis=0)
        rows = np.concatenate([(own - center) / np.sqrt(prior.REST), np.eye(runs) / prior.SPREAD])
        wanted = np.concatenate([targets / np.sqrt(prior.REST), np.full(runs, 1 / runs) / prior.SPREAD])
        weights = np.linalg.lstsq(rows, wanted)[0]
        mean = weighed(own, targets)  # type: ignore[arg-type]
        np.testing.assert_allclose(mean(points), (points - center) @ weights, atol=1e-9)  # type: ignore[arg-type]

    @pytest.mark.parametrize("sign, low, high", [(1, 0.9, 1.1), (0, -0.2, 0.2), (-1, -1.1, -0.8)])
    def test_own_results_decide(self, sign: int, low: float, high: float) -> None:
        rng = np.random.default_rng(0)
        own = rng.normal(size=(60, 1)).astype(np.float32)
        targets = sign * own[:, 0] if sign else rng.normal(size=60)
        one = np.ones((1, 1), np.float32)
        mean = weighed(own, targets.astype(np.float64))
        assert low <= float((mean(one) - mean(one - 1))[0]) <= high

    def test_the_run_that_is_borne_out_counts(self) -> None:
        rng = np.random.default_rng(0)
        own = rng.normal(size=(40, 2)).astype(np.float32)
        mean = weighed(own, own[:, 1].astype(np.float64))
        base = mean(np.zeros((1, 2), np.float32))
        first, second = (float((mean(np.eye(2, dtype=np.float32)[i : i + 1]) - base)[0]) for i in (0, 1))
        assert abs(first) < 0.1 and second > 0.9


class TestPrior:
    def test_predicts_in_the_unit_of_own_results(self) -> None:
        """Of an earlier run in another unit, whose order is the same."""
        known = Prior(MACRO, [earlier(lambda arch: 10 ** -loss(arch) * -100)])
        rng = np.random.default_rng(1)
        own, others = (np.array([MACRO.sample(rng).choices for _ in range(n)]) for n in (20, 200))
        value: Callable[[Choices], Floats] = lambda rows: np.array([50 - 7 * loss(MACRO.arch(row)) for row in rows])  # noqa: E731
        found = known.mean(own, value(own))(others)
        assert spearmanr(found, value(others))[0] > 0.9
        assert np.abs(found - value(others)).mean() < 0.6 * np.abs(value(others) - value(own).mean()).mean()

    def test_noise_is_told_from_what_is_known(self) -> None:
        """Of shuffled results the model says next to nothing."""
        real = earlier()
        shuffled = Earlier(real.choices, np.random.default_rng(0).permutation(real.losses))
        rows = earlier(seed=9, count=300).choices
        spread = [Prior(MACRO, [each]).predictions(rows)[0].std() for each in (real, shuffled)]
        assert spread[1] < 0.3 * spread[0]

    def test_begins_with_the_best_of_each_in_turn(self) -> None:
        """Each second trial; what is equivalent counts once, and what is beyond a limit not at all."""
        one, other = earlier(seed=1), earlier(lambda arch: -loss(arch), seed=2)
        first = [Prior(MACRO, [one, other]).first(number) for number in range(8)]
        assert first[1::2] == [None] * 4
        best = one.choices[np.argsort(one.losses[:, 0])], other.choices[np.argsort(other.losses[:, 0])]
        expected = [best[0][0], best[1][0], best[0][1], best[1][1]]
        assert [arch and arch.choices for arch in first[::2]] == [tuple(row) for row in expected]
        space = NasBench201()
        again = earlier(lambda arch: 0.0, 300, space=space)
        found = list(Prior(space, [again, again]).best())
        forms = [space.canonical(space.arch(row)) for row in again.choices]
        assert [space.canonical(arch) for arch in found] == list(dict.fromkeys(forms))

    def test_of_several_objectives_those_that_are_good_in_all_come_first(self) -> None:
        losses = np.array([[0.0, 9.0], [1.0, 1.0], [2.0, 2.0], [9.0, 3.0]])
        choices = np.array([MACRO.sample(np.random.default_rng(i)).choices for i in range(4)])
        known = Prior(MACRO, [Earlier(choices, losses)])
        assert known.first(0) == MACRO.arch(choices[1])
        assert [each.shape for each in known.predictions(choices)] == [(4, 1), (4, 1)]


class TestSearches:
    @pytest.mark.parametrize("name, most", [("bo", 8), ("bananas", 20)])
    def test_the_same_table_is_known_at_once(self, name: str, most: int) -> None:
        """The optimum of 6,561, which is not among the earlier results."""
        assert earlier().losses.min() > 0.5
        assert queries(name, earlier()) <= most < queries(name)

    def test_evolution_begins_with_the_best(self) -> None:
        known = earlier()
        trials = run(made_by("evolution", known), 20)
        assert sorted(trial.loss for trial in trials[::2]) == sorted(known.losses[:, 0])[:10]
        assert all(trial.proposal.parent is None for trial in trials)

    @pytest.mark.parametrize("kind", ["negated", "shuffled"])
    def test_one_that_misleads_costs_little(self, kind: str) -> None:
        """Not many more queries than without it."""
        real = earlier()
        losses = -real.losses if kind == "negated" else np.random.default_rng(1).permutation(real.losses)
        assert queries("bo", Earlier(real.choices, losses)) <= queries("bo") + 5

    @EACH
    def test_each_makes_something_of_it(self, name: str) -> None:
        """And nothing is random but by the seed."""
        first, again, without = (run(made_by(name, *known), 15) for known in ((earlier(),), (earlier(),), ()))
        assert first == again and first != without

    def test_it_is_not_said_to_be_random_search(self) -> None:
        assert [made_by("bo", *known).random_trials for known in ((), (earlier(),))] == [10, 0]  # type: ignore[attr-defined]

    def test_several_objectives(self) -> None:
        two: Callable[[Arch], tuple[float, ...]] = lambda arch: (loss(arch), float(sum(arch.choices)))  # noqa: E731
        known = earlier()
        known = Earlier(known.choices, np.array([two(MACRO.arch(row)) for row in known.choices]))
        strategy = made_by("bo", known)
        for i in range(12):
            proposal = strategy.ask()
            assert proposal is not None
            strategy.tell(Trial(i, proposal, "done", Evaluation({"val_loss": 0.0}, 1.0), two(proposal.arch)))
        assert len(strategy.processes) == 2  # type: ignore[attr-defined]

    def test_within_limits(self) -> None:
        """What the earlier runs found beyond them is not proposed."""
        space = limited(NasBench201(), Limits.parse(["params<=100"]))
        known = earlier(lambda arch: -float(sum(arch.choices)), space=NasBench201())
        space.limits.allow = lambda arch: sum(arch.choices) < 12  # type: ignore[attr-defined]
        trials = run(made_by("evolution", known, space=space), 20, lambda arch: -float(sum(arch.choices)))
        assert all(sum(trial.proposal.arch.choices) < 12 for trial in trials)
        assert trials[0].proposal.arch == Prior(space, [known]).first(0) and trials[0].loss == -11

    @pytest.mark.parametrize("rule", ["asha:eta=3,minimum=1", "median"])
    def test_around_early_ends(self, rule: str) -> None:
        strategy = (multi_fidelity.ByLevels if "asha" in rule else multi_fidelity.Watched)(
            made_by("bo"),
            made(rule),  # type: ignore[arg-type]
        )
        strategy.inform([earlier()])
        if isinstance(strategy, multi_fidelity.ByLevels):
            strategy.climb([1.0, 9.0])
        proposal = strategy.ask()
        assert proposal is not None and proposal.arch == Prior(MACRO, [earlier()]).first(0)

    def test_in_a_large_space(self) -> None:
        """Candidates are mutants, of what was measured here."""
        space = CellCNN(blocks=2)
        value: Loss = lambda arch: float(np.mean(np.array(arch.choices) != 1))  # noqa: E731
        known = earlier(value, 100, space=space)
        trials = run(made_by("bo", known, space=space), 14, value)
        without = run(made_by("bo", space=space), 14, value)
        assert min(t.loss for t in trials) < min(t.loss for t in without)


@EACH
@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("cut", [0, 3, 17])
def test_resumes_exactly(name: str, cut: int, trained: bool) -> None:
    known = replace(earlier(), trained=trained)
    strategy = made_by(name, known)
    before = run(strategy, cut)
    state = strategy.state_dict()
    after = run(strategy, 12, first=cut)
    resumed = made_by(name, known)
    resumed.load_state_dict(state, before)
    assert run(resumed, 12, first=cut) == after


def test_evolution_follows_a_proxy_as_far_as_its_own_results_bear_it_out() -> None:
    parent, rng = MACRO.arch([1] * 8), np.random.default_rng(0)

    def evolution(of: Loss | None) -> tuple[int, float]:
        """How many of the first population a proxy chose, and the mean loss of children then."""
        strategy = made_by("evolution", *([] if of is None else [replace(earlier(of), trained=False)]))
        assert isinstance(strategy, RegularizedEvolution)
        run(strategy, strategy.population)
        children = [strategy._child(parent) for _ in range(100)]
        return strategy.followed, float(np.mean([loss(child) for child in children if child is not None]))

    (_, alone), (led, right), (misled, reversed_) = map(evolution, (None, loss, lambda arch: -loss(arch)))
    assert led == 18 and misled < 10, "three in four of the first 8, and those after them"
    assert right < alone - 0.1
    assert reversed_ < alone, "it learns that the worse by it are better"
    assert evolution(lambda arch: rng.random())[1] == pytest.approx(alone, abs=0.1)


def test_a_proxy_without_differences_is_no_reason_for_anything() -> None:
    strategy = made_by("evolution", replace(earlier(lambda arch: 1.0), trained=False))
    assert len(run(strategy, 40)) == 40


def test_trust_is_where_results_agree_and_gone_where_they_do_not() -> None:
    known = Prior(MACRO, [replace(earlier(), trained=False)])
    archs = [MACRO.sample(np.random.default_rng(i)) for i in range(30)]
    choices, losses = np.array([arch.choices for arch in archs]), np.array([loss(arch) for arch in archs])
    for here in (False, True):
        draws = [
            [known.trust(choices, sign * losses, np.random.default_rng(i), here=here) for i in range(50)]
            for sign in (1, -1)
        ]
        assert min(draws[0]) > 0 > max(draws[1])
