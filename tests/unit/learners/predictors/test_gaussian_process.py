"""The Gaussian process against scikit-learn's, and the acquisition functions against their definitions."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import integrate, optimize, stats
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel

from nastool.learners.predictors.acquisition import score
from nastool.learners.predictors.gaussian_process import GaussianProcess, View


def points(n: int, d: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(size=(n, d)).astype(np.float32)


def view(d: int, groups: list[int] | None = None) -> View:
    return View(np.array(groups or [0] * d), np.ones(d))


def test_posterior_is_scikit_learns() -> None:
    x, y, new = points(30, 3, 0), np.random.default_rng(1).normal(size=30), points(50, 3, 2)
    process = GaussianProcess([view(3, [0, 0, 1])])
    process.theta = np.log([1.7, 0.5, 2.0, 0.1])
    belief = process.predict([x], y, [new])
    kernel = ConstantKernel(1.7, "fixed") * RBF([0.5**-0.5, 0.5**-0.5, 2.0**-0.5], "fixed")
    other = GaussianProcessRegressor(kernel, alpha=0.1 + 1e-6, optimizer=None).fit(x, y)
    expected = other.predict(new, return_std=True)
    np.testing.assert_allclose(belief.mean, expected[0], atol=1e-4)
    np.testing.assert_allclose(belief.deviation, expected[1], atol=1e-4)


def test_without_noise_is_the_posterior_at_the_observed_points() -> None:
    x, y = points(30, 3, 0), np.random.default_rng(1).normal(size=30)
    process = GaussianProcess([view(3)])
    process.theta = np.log([1.7, 0.5, 0.4])
    belief = process.predict([x], y, [x])
    means, deviations = process.denoised([x], y)
    np.testing.assert_allclose(means, belief.mean, atol=1e-4)
    np.testing.assert_allclose(deviations, belief.deviation, atol=1e-4)


def test_noise_beyond_the_most_is_a_function_without_length() -> None:
    x, y = points(30, 3, 0), np.random.default_rng(1).normal(size=30)
    process = GaussianProcess([view(3)])
    process.theta = np.log([1.7, 0.5, 0.4])
    own = process.kernel([x], [x]).astype(np.float64) + (process.noise - 0.1) * np.eye(30)
    gain = own @ np.linalg.inv(own + 0.1 * np.eye(30))
    means, deviations = process.denoised([x], y, most=0.1)
    np.testing.assert_allclose(means, gain @ y, atol=1e-4)
    np.testing.assert_allclose(deviations, np.sqrt(np.diag(own - gain @ own)), atol=1e-4)
    assert (deviations < 0.1**0.5).all(), "there is a measurement of each"


def test_views_add_up() -> None:
    x, z = points(20, 2, 0), points(20, 5, 1)
    both = GaussianProcess([view(2), view(5)])
    both.theta = np.log([0.3, 1.0, 0.9, 0.2, 0.1])
    first, second = GaussianProcess([view(2)]), GaussianProcess([view(5)])
    first.theta, second.theta = np.log([0.3, 1.0, 0.1]), np.log([0.9, 0.2, 0.1])
    total = first.kernel([x], [x]) + second.kernel([z], [z])
    np.testing.assert_allclose(both.kernel([x, z], [x, z]), total, rtol=1e-5, atol=1e-6)
    assert both.variance == pytest.approx(1.2)


def test_believing_is_observing_what_was_predicted() -> None:
    x, y, new = points(20, 3, 0), np.random.default_rng(1).normal(size=20), points(30, 3, 2)
    process = GaussianProcess([view(3)])
    belief = process.predict([x], y, [new])
    before = belief.mean.copy()
    for point in (4, 9):
        belief.believe(point)
    again = process.predict([np.concatenate([x, new[[4, 9]]])], np.concatenate([y, before[[4, 9]]]), [new])
    np.testing.assert_allclose(again.mean, before, atol=1e-4)
    np.testing.assert_allclose(belief.deviation, again.deviation, atol=1e-3)


def test_marginal_likelihood_is_scikit_learns_but_for_the_prior() -> None:
    x, y = points(25, 3, 0), np.random.default_rng(1).normal(size=25)
    process = GaussianProcess([view(3)])
    distances = [process._distances(process.views[0], x)]

    def likelihood(theta: NDArray[np.float64]) -> float:
        off = theta - process.prior_mean
        return -process._loss(theta, distances, y)[0] + 0.5 * float(off @ process.prior_precision @ off)

    def expected(amplitude: float, weight: float, noise: float) -> float:
        kernel = ConstantKernel(amplitude) * RBF(weight**-0.5)
        other = GaussianProcessRegressor(kernel, alpha=noise + 1e-6, optimizer=None).fit(x, y)
        return float(other.log_marginal_likelihood(other.kernel_.theta))

    ours = likelihood(np.log([1.0, 1.0, 0.1])) - likelihood(np.log([2.0, 0.3, 0.4]))
    assert ours == pytest.approx(expected(1.0, 1.0, 0.1) - expected(2.0, 0.3, 0.4), rel=1e-6)


def test_gradient_of_the_loss() -> None:
    x, z, y = points(15, 4, 0), points(15, 2, 1), np.random.default_rng(2).normal(size=15)
    process = GaussianProcess([view(4, [0, 1, 1, 2]), view(2)])
    distances = [process._distances(v, features) for v, features in zip(process.views, (x, z), strict=True)]
    for seed in range(3):
        theta = process.prior_mean + np.random.default_rng(seed).normal(size=len(process.prior_mean))
        numeric = optimize.approx_fprime(theta, lambda t: process._loss(t, distances, y)[0], 1e-6)
        np.testing.assert_allclose(process._loss(theta, distances, y)[1], numeric, atol=1e-3)


def test_fit_finds_which_view_matters() -> None:
    x, noise = points(80, 1, 0), points(80, 1, 1)
    y = np.sin(2 * x[:, 0].astype(np.float64))
    process = GaussianProcess([view(1), view(1)])
    process.fit([x, noise], (y - y.mean()) / y.std())
    amplitudes = [amplitude for amplitude, _ in process._split(process.theta)]
    assert amplitudes[0] > 5 * amplitudes[1]
    assert process.noise < 0.02


def test_scaled_distances_are_about_one() -> None:
    sample = 7 * points(2000, 4, 0)
    sample[:, 3] = 5  # a constant feature says nothing and does no harm
    groups = np.array([0, 0, 1, 2])
    scaled = sample * View.of(sample, groups).scale
    difference = (scaled[:1000] - scaled[1000:]) ** 2
    assert np.isfinite(scaled).all()
    assert difference[:, :2].sum(axis=1).mean() == pytest.approx(1, abs=0.1)
    assert difference[:, 2].mean() == pytest.approx(1, abs=0.15)


def test_the_most_extreme_hyper_parameters_are_no_trouble() -> None:
    """At their bounds: large amplitudes, long length scales, little noise; and points that are there twice."""
    x, y = np.repeat(points(150, 5, 0), 2, axis=0), np.random.default_rng(1).normal(size=300)
    process = GaussianProcess([view(5), view(5, [0, 1, 2, 3, 4])])
    for signs in ((1, -1, -1), (-1, 1, -1), (1, 1, 1)):
        amplitude, length, noise = 4 * np.array(signs)
        process.theta = process.prior_mean + np.array([amplitude, length, amplitude, *[length] * 5, noise])
        belief = process.predict([x, x], y, [x, x])
        belief.believe(3)
        assert np.isfinite(belief.mean).all()
        assert np.isfinite(belief.deviation).all()


# --- acquisition


def test_expected_improvement_is_the_integral() -> None:
    mean, deviation, best = np.array([0.2, -1.0, 3.0]), np.array([0.5, 2.0, 0.1]), 0.4
    found = score("ei", mean, deviation, best, np.random.default_rng(0))
    for m, s, value in zip(mean, deviation, found, strict=True):
        density = stats.norm(m, s).pdf
        expected, _ = integrate.quad(lambda y, d=density: (y - best) * d(y), best, m + 12 * s)
        assert value == pytest.approx(expected, rel=1e-6)


def test_probability_of_improvement_and_confidence_bound() -> None:
    mean, deviation = np.array([0.2, -1.0]), np.array([0.5, 2.0])
    rng = np.random.default_rng(0)
    np.testing.assert_allclose(score("pi", mean, deviation, 0.4, rng), 1 - stats.norm(mean, deviation).cdf(0.4))
    np.testing.assert_allclose(score("ucb", mean, deviation, 0.4, rng, beta=2), mean + 2 * deviation)


def test_thompson_sampling_is_greedy_without_spread_and_independent_with_it() -> None:
    mean = np.linspace(0, 1, 2000)
    certain = score("its", mean, np.zeros(2000), 0.5, np.random.default_rng(0))
    np.testing.assert_array_equal(certain, mean)
    draws = (score("its", mean, np.full(2000, 0.3), 0.5, np.random.default_rng(0)) - mean) / 0.3
    assert stats.kstest(draws, "norm").pvalue > 1e-3
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.1


@pytest.mark.parametrize("kind", ["its", "ei", "pi", "ucb"])
def test_no_spread_is_no_trouble(kind: str) -> None:
    mean = np.array([0.1, 0.5, 0.7])
    found = score(kind, mean, np.zeros(3), 0.5, np.random.default_rng(0))  # type: ignore[arg-type]
    assert np.isfinite(found).all()
    assert found.argmax() == 2
