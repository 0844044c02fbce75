"""A factorised posterior over architectures, and sets drawn from it."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from nastool.ensembles.posterior import (
    Ascent,
    Choices,
    Factorised,
    Floats,
    distinct,
    elbo_gradient,
    entropy_gradient,
    fitted,
    kernel,
    mixture_score,
    on_table,
    stein_direction,
    stein_set,
)

SHARES = np.array([[0.5, 0.3, 0.2], [0.25, 0.75, 0.0]])
"""Of a decision with three options and one with two."""


def made_up(shape: tuple[int, ...] = (3, 2, 4), seed: int = 0) -> Floats:
    """Log likelihoods that are no sum over decisions."""
    return 2 * np.random.default_rng(seed).normal(size=shape)


def bound(logits: Floats, log_likelihoods: Floats) -> float:
    """The evidence lower bound, by the sum over all architectures."""
    q = Factorised.of_logits(logits)
    every = np.array(list(product(*map(range, log_likelihoods.shape))))
    return float(np.exp(q.log_prob(every)) @ log_likelihoods[tuple(every.T)]) + q.entropy()


def logits_for(log_likelihoods: Floats, seed: int = 1) -> Floats:
    """At random, -inf where there is no option."""
    drawn = np.random.default_rng(seed).normal(size=(log_likelihoods.ndim, max(log_likelihoods.shape)))
    there = np.arange(drawn.shape[1]) < np.array(log_likelihoods.shape)[:, None]
    return np.where(there, drawn, -np.inf)


def hamming(members: Choices) -> float:
    """In how many decisions two members differ, the mean over pairs."""
    n = len(members)
    return float(np.mean([(members[i] != members[j]).sum() for i in range(n) for j in range(i)]))


class TestFactorised:
    """A distribution and what is asked of it."""

    def test_numbers_of_options_may_differ(self) -> None:
        np.testing.assert_array_equal(
            Factorised.uniform([2, 4]).shares, [[0.5, 0.5, 0.0, 0.0], [0.25, 0.25, 0.25, 0.25]]
        )

    def test_probabilities_of_all_architectures_sum_to_one(self) -> None:
        q = Factorised(SHARES)
        every = np.array(list(product(range(3), range(2))))
        p = np.exp(q.log_prob(every))
        assert p.sum() == pytest.approx(1)
        assert q.entropy() == pytest.approx(-(p * np.log(p)).sum())
        assert q.mode() == tuple(every[p.argmax()].tolist())

    def test_draws_are_as_frequent_as_they_are_likely(self) -> None:
        """A chi-squared test of Monte Carlo draws, over all architectures."""
        q = Factorised(SHARES)
        drawn = q.sample(20_000, np.random.default_rng(3))
        every = np.array(list(product(range(3), range(2))))
        counts = [(drawn == each).all(1).sum() for each in every]
        expected = np.exp(q.log_prob(every)) * len(drawn)
        assert stats.chisquare(counts, expected).pvalue > 0.01
        wrong = Factorised.uniform([3, 2]).log_prob(every)
        assert stats.chisquare(counts, np.exp(wrong) * len(drawn)).pvalue < 1e-6

    def test_a_missing_option_is_never_drawn(self) -> None:
        assert Factorised(SHARES).sample(5000, np.random.default_rng(0))[:, 1].max() == 1


class TestOnATable:
    """Coordinate ascent where every log likelihood is known."""

    def test_the_bound_never_falls_and_no_coordinate_can_be_better(self) -> None:
        table = made_up()
        q, bounds = on_table(table)
        assert min(np.diff(bounds)) > -1e-12
        with np.errstate(divide="ignore"):
            logits = np.log(q.shares)
        assert bounds[-1] == pytest.approx(bound(logits, table))
        assert bounds[-1] < np.log(np.exp(table).sum())
        rng = np.random.default_rng(0)
        for i in range(table.ndim):
            other = logits.copy()
            other[i] += rng.normal(size=other.shape[1])
            assert bound(other, table) < bounds[-1]

    def test_independent_decisions_are_found_exactly(self) -> None:
        table = np.array([1.0, 0.0, -2.0])[:, None] + np.array([0.5, 3.0])
        q, bounds = on_table(table, sweeps=1)
        assert bounds[0] == pytest.approx(np.log(np.exp(table).sum()))
        with np.errstate(divide="ignore"):
            logits = np.log(q.shares)
        every = np.array(list(product(range(3), range(2))))
        np.testing.assert_allclose(np.exp(q.log_prob(every)), np.exp(table.ravel()) / np.exp(table).sum())
        assert np.isneginf(logits[1, 2])

    def test_a_log_likelihood_that_is_no_number_is_refused(self) -> None:
        with pytest.raises(ValueError, match="not finite"):
            on_table(np.array([[0.0, np.nan]]))

    @pytest.mark.parametrize(
        ("sharpness", "elbo", "evidence", "mode"),
        [(1, 100.9448, 101.5075, (3, 3, 3, 3, 3, 3)), (5, 474.7999, 475.4670, (3, 3, 3, 1, 3, 3))],
    )
    def test_nasbench201(
        self, sharpness: int, elbo: float, evidence: float, mode: tuple[int, ...], benchmark_data: Path
    ) -> None:
        """Golden numbers: l(a) is the test accuracy on CIFAR-10 in percent, times `sharpness`."""
        with np.load(benchmark_data / "nasbench201.npz") as columns:
            accuracy = np.zeros((5,) * 6)
            accuracy[tuple(columns["arch"].T)] = columns["cifar10_test200"]
        table = sharpness * accuracy
        q, bounds = on_table(table)
        assert bounds[-1] == pytest.approx(elbo, abs=5e-5)
        assert np.log(np.exp(table - table.max()).sum()) + table.max() == pytest.approx(evidence, abs=5e-5)
        assert min(np.diff(bounds)) > -1e-10
        assert q.mode() == mode
        if sharpness == 5:
            assert accuracy[mode] == pytest.approx(94.363, abs=5e-4)
            expected = accuracy
            for row in reversed(q.shares):
                expected = expected @ row
            assert float(expected) == pytest.approx(93.976, abs=5e-4)


class TestGradient:
    """Stochastic ascent where a log likelihood is measured of what is drawn."""

    def test_the_entropys_gradient_is_that_of_finite_differences(self) -> None:
        logits, nothing = logits_for(made_up()), np.zeros((3, 2, 4))
        found = entropy_gradient(Factorised.of_logits(logits).shares)
        for i, o in zip(*np.where(np.isfinite(logits)), strict=True):
            up, down = logits.copy(), logits.copy()
            up[i, o], down[i, o] = up[i, o] + 1e-5, down[i, o] - 1e-5
            slope = (bound(up, nothing) - bound(down, nothing)) / 2e-5
            assert found[i, o] == pytest.approx(slope, abs=1e-8)

    def test_it_is_without_bias(self) -> None:
        """The mean over many estimates of few draws each is the gradient of the bound under q, not of a fixed set."""
        table = made_up()
        logits = logits_for(table)
        q = Factorised.of_logits(logits)
        rng = np.random.default_rng(0)
        found = []
        for _ in range(20_000):
            choices = q.sample(3, rng)
            found.append(elbo_gradient(logits, choices, table[tuple(choices.T)]))
        mean, error = np.mean(found, 0), np.std(found, 0) / np.sqrt(len(found))
        for i, o in zip(*np.where(np.isfinite(logits)), strict=True):
            up, down = logits.copy(), logits.copy()
            up[i, o], down[i, o] = up[i, o] + 1e-4, down[i, o] - 1e-4
            slope = (bound(up, table) - bound(down, table)) / 2e-4
            assert abs(mean[i, o] - slope) < 4 * error[i, o]
        assert (mean[~np.isfinite(logits)] == 0).all()

    def test_what_all_have_in_common_does_not_count(self) -> None:
        table = made_up()
        logits = logits_for(table)
        choices = Factorised.of_logits(logits).sample(4, np.random.default_rng(0))
        values = table[tuple(choices.T)]
        np.testing.assert_allclose(elbo_gradient(logits, choices, values), elbo_gradient(logits, choices, values + 100))

    def test_it_ends_near_the_exact_posterior(self) -> None:
        table = np.array([1.0, 0.0, -2.0])[:, None] + np.array([0.5, 3.0, 1.0]) + made_up((3, 3)) / 4
        rng = np.random.default_rng(0)
        found = fitted(table.shape, lambda q: q.sample(20, rng), lambda choices: table[tuple(choices.T)], 300, 0.1)
        with np.errstate(divide="ignore"):
            reached = bound(np.log(found.shares), table)
        exact, bounds = on_table(table)
        assert bounds[-1] - 0.1 < reached <= bounds[-1]
        assert found.mode() == exact.mode()

    def test_no_steps_leave_it_uniform(self) -> None:
        found = fitted([2, 3], lambda q: q.sample(2, np.random.default_rng(0)), lambda c: np.zeros(len(c)), 0, 0.1)
        np.testing.assert_array_equal(found.shares, Factorised.uniform([2, 3]).shares)


class TestStein:
    """SVGD with regularised diversity."""

    @pytest.mark.parametrize("delta", [-1.0, -0.5, 0.0, 0.3, 2.0])
    def test_one_factor_is_the_published_update(self, delta: float) -> None:
        """Plain SVGD, less the gradient of n delta E[k(x, x')], is SVGD whose repulsion counts 1 + 2 delta times."""
        rng = np.random.default_rng(0)
        particles, scores = rng.normal(size=(2, 5, 7))
        n = len(particles)
        values, by_second = kernel(particles)
        by_first = -by_second
        published = np.array(
            [
                sum(values[i, j] * scores[j] + by_second[i, j] for j in range(n)) / n
                - 2 * delta / n * by_first[i].sum(0)
                for i in range(n)
            ]
        )
        assert np.abs(stein_direction(particles, scores, delta) - published).max() < 1e-12

    def test_the_kernels_gradients_are_those_of_finite_differences(self) -> None:
        particles = np.random.default_rng(0).normal(size=(3, 2))
        values, gradients = kernel(particles)
        width = -((particles[0] - particles[1]) ** 2).sum() / np.log(values[0, 1])
        for i, j, d in product(range(3), range(3), range(2)):
            moved = particles[j].copy()
            moved[d] += 1e-6
            after = np.exp(-((particles[i] - moved) ** 2).sum() / width)
            assert gradients[i, j, d] == pytest.approx((after - values[i, j]) / 1e-6, abs=1e-5)

    def test_particles_in_one_place_do_not_divide_by_zero(self) -> None:
        values, gradients = kernel(np.zeros((3, 2)))
        assert (values == 1).all()
        assert (gradients == 0).all()

    def test_the_score_is_the_gradient_of_the_relaxations_log_density(self) -> None:
        x = np.random.default_rng(0).normal(size=SHARES.size)

        def log_density(x: Floats) -> float:
            far = ((x.reshape(SHARES.shape)[:, None] - np.eye(3)) ** 2).sum(2)
            return float(np.log((SHARES * np.exp(-far / (2 * 0.7**2))).sum(1)).sum())

        found = mixture_score(SHARES, 0.7)(x[None])[0]
        for i, step in enumerate(1e-5 * np.eye(x.size)):
            assert found[i] == pytest.approx((log_density(x + step) - log_density(x - step)) / 2e-5, abs=1e-6)

    def test_one_particle_climbs_the_gradient(self) -> None:
        particle = np.random.default_rng(0).normal(size=(1, 6))
        score = mixture_score(SHARES, 1.0)(particle)
        np.testing.assert_array_equal(stein_direction(particle, score, 5.0), score)
        q = Factorised(SHARES)
        assert all(tuple(stein_set(q, 1, 9.0, np.random.default_rng(seed))[0]) == q.mode() for seed in range(5))

    def test_members_are_further_apart_the_more_diversity_is_worth(self) -> None:
        """From pure mode seeking on: the mean Hamming distance of what particles are decoded to, over 10 seeds."""
        q = Factorised(np.random.default_rng(0).dirichlet([0.6] * 5, 6))
        apart = [
            np.mean([hamming(stein_set(q, 3, delta, np.random.default_rng(seed))) for seed in range(10)])
            for delta in (-0.5, 0.0, 1.0, 4.0)
        ]
        assert apart[0] < 0.6
        assert (np.diff(apart) > 0.2).all()

    def test_members_take_no_option_that_is_not_there(self) -> None:
        sets = [stein_set(Factorised(SHARES), 4, 5.0, np.random.default_rng(seed)) for seed in range(5)]
        assert np.concatenate(sets)[:, 1].max() == 1

    def test_adam_climbs(self) -> None:
        ascent, x = Ascent((2,), 0.1), np.array([5.0, -3.0])
        for _ in range(300):
            x = ascent.step(x, -2 * (x - 1))
        np.testing.assert_allclose(x, 1, atol=0.05)


class TestDistinct:
    """A set without repetitions."""

    def test_what_repeats_is_drawn_again(self) -> None:
        draws = iter([(1, 1), (0, 1), (2, 0)])
        found = distinct([(0, 1), (0, 1), (1, 1)], 3, lambda: next(draws), lambda each: each)
        assert found == [(0, 1), (1, 1), (2, 0)]

    def test_what_is_equivalent_repeats(self) -> None:
        draws = iter([(0, 1), (3, 3)])
        assert distinct([(0, 1), (1, 0)], 2, lambda: next(draws), lambda each: tuple(sorted(each))) == [(0, 1), (3, 3)]

    def test_where_there_are_not_so_many_it_ends(self) -> None:
        assert distinct([(0,), (0,)], 3, lambda: (0,), lambda each: each) == [(0,)]
