"""Exact Gaussian process regression: Rasmussen & Williams, "Gaussian Processes for Machine Learning", 2006.

The kernel is a sum over several views of an architecture (its choices, its paths, ...), each with an amplitude and its
own length scales, all found by maximising the marginal likelihood: a view that explains nothing fades out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import block_diag, cholesky
from scipy.linalg.lapack import dpotri, dtrtri
from scipy.optimize import minimize

from nastool.learners.predictors.threads import one_thread

Floats = NDArray[np.float64]
_F = TypeVar("_F", np.float32, np.float64)
_JITTER = 1e-6
COMMON, INDIVIDUAL = 1.0, 0.5
"""Prior standard deviations of the logarithm of a view's length scales: of what they share, and of each."""


@dataclass(frozen=True)
class View:
    """One feature vector of every architecture, and which of its columns share a length scale.

    groups: (d,), for each column the number of its group, 0 ... ; scale: (d,), what columns are multiplied with so
    that squared distances within a group are about 1 for two random architectures.
    """

    groups: NDArray[np.intp]
    scale: Floats

    @classmethod
    def of(cls, sample: NDArray[np.float32], groups: NDArray[np.intp]) -> View:
        """sample: (n, d), features of random architectures, n >= 2."""
        spread = np.bincount(groups, weights=2 * sample.astype(np.float64).var(axis=0))
        return cls(groups, 1 / np.sqrt(np.where(spread > 1e-12, spread, 1.0))[groups])

    @property
    def lengths(self) -> int:
        """How many length scales it has."""
        return int(self.groups.max()) + 1


class GaussianProcess:
    """k(x, x') = sum over views v of a_v exp(-1/2 sum over groups g of w_vg |x_vg - x'_vg|^2), plus noise s.

    `theta` holds the logarithms: for each view a_v, then its w_vg; last s. `fit` finds their most probable values
    under log-normal priors (maximum a posteriori), for targets of about unit variance and zero mean.
    """

    def __init__(self, views: Sequence[View], noise: float = 0.02) -> None:
        """views: at least one. noise: the prior's median of the noise's variance, > 0."""
        self.views = tuple(views)
        mean: list[float] = []
        blocks: list[Floats] = []
        for view in self.views:
            mean += [math.log(1 / len(self.views)), *[math.log(2 / view.lengths)] * view.lengths]
            blocks += [np.eye(1), COMMON**2 + INDIVIDUAL**2 * np.eye(view.lengths)]
        self.prior_mean = np.array([*mean, math.log(noise)])
        covariance = block_diag(*blocks, np.eye(1))
        self.prior_deviation = np.sqrt(np.diag(covariance))
        self.prior_precision: Floats = np.linalg.inv(covariance)
        self.theta = self.prior_mean

    # --- the kernel

    def _split(self, theta: Floats) -> list[tuple[float, Floats]]:
        """(amplitude, weights (groups,)) of each view."""
        found, start = [], 0
        for view in self.views:
            end = start + 1 + view.lengths
            found.append((float(np.exp(theta[start])), np.exp(theta[start + 1 : end])))
            start = end
        return found

    def kernel(self, left: Sequence[NDArray[_F]], right: Sequence[NDArray[_F]]) -> NDArray[_F]:
        """Covariances without noise, (n, m), in the inputs' precision. left, right: for each view (n, d) and (m, d)."""
        total: NDArray[_F] | None = None
        for view, (amplitude, weights), x, z in zip(self.views, self._split(self.theta), left, right, strict=True):
            scale = (view.scale * np.sqrt(weights)[view.groups]).astype(x.dtype)
            product = _exponents(x * scale, z * scale)
            np.exp(product, out=product)
            product *= x.dtype.type(amplitude)
            total = product if total is None else np.add(total, product, out=total)
        assert total is not None
        return total

    @property
    def variance(self) -> float:
        """k(x, x), without noise."""
        return sum(amplitude for amplitude, _ in self._split(self.theta))

    @property
    def noise(self) -> float:
        return float(np.exp(self.theta[-1])) + _JITTER

    # --- hyper-parameters

    def fit(self, inputs: Sequence[NDArray[np.float32]], targets: Floats, again: bool = False) -> None:
        """Set `theta` from observations: the better of two climbs (L-BFGS), from the current one and the prior's mean.

        Args:
            inputs: For each view (n, d).
            targets: (n,).
            again: The current theta was fitted to as many of much the same: a shorter climb from there is enough.
        """
        distances = [self._distances(view, x) for view, x in zip(self.views, inputs, strict=True)]
        bound = 4 * self.prior_deviation
        with one_thread():
            found = [
                minimize(
                    self._loss,
                    start,
                    args=(distances, targets),
                    jac=True,
                    method="L-BFGS-B",
                    bounds=list(zip(self.prior_mean - bound, self.prior_mean + bound, strict=True)),
                    options={"maxiter": 10 if again else 50},
                )
                for start in (self.theta, self.prior_mean)[: 1 if again else 2]
            ]
        self.theta = min(found, key=lambda result: result.fun).x

    @staticmethod
    def _distances(view: View, inputs: NDArray[np.float32]) -> Floats:
        """(groups, n, n): squared distances, scaled."""
        found = np.empty((view.lengths, len(inputs), len(inputs)))
        for group, own in enumerate(found):
            x = inputs[:, view.groups == group] * view.scale[view.groups == group]
            norms = np.einsum("ij,ij->i", x, x)
            np.add(norms[:, None], norms, out=own)
            own -= 2 * x @ x.T
            np.maximum(own, 0, out=own)
        return found

    def _loss(self, theta: Floats, distances: Sequence[Floats], targets: Floats) -> tuple[float, Floats]:
        """Negative log posterior of theta but for a constant, and its gradient (R&W eq. 5.8, 5.9)."""
        parts, slopes = [], []
        for (amplitude, weights), distance in zip(self._split(theta), distances, strict=True):
            part = np.tensordot(-0.5 * weights, distance, 1)
            np.exp(part, out=part)
            part *= amplitude
            parts.append(part)
            slopes.append(-0.5 * weights)
        noise = float(np.exp(theta[-1]))
        covariance = sum(parts[1:], start=parts[0].copy())
        covariance[np.diag_indices_from(covariance)] += noise + _JITTER
        factor = cholesky(covariance, lower=True, overwrite_a=True, check_finite=False)
        inverse = _inverse(factor)
        solved = inverse @ targets
        off = theta - self.prior_mean
        pull = self.prior_precision @ off
        loss = 0.5 * targets @ solved + np.log(np.diag(factor)).sum() + 0.5 * off @ pull
        outer = np.subtract(inverse, np.outer(solved, solved), out=inverse)
        gradient = []
        for part, slope, distance in zip(parts, slopes, distances, strict=True):
            weighted = outer * part
            gradient += [0.5 * weighted.sum(), *(0.5 * slope * np.tensordot(distance, weighted, 2))]
        gradient.append(0.5 * noise * np.trace(outer))
        return float(loss), np.array(gradient) + pull

    # --- predictions

    def predict(
        self, inputs: Sequence[NDArray[np.float32]], targets: Floats, points: Sequence[NDArray[np.float32]]
    ) -> Belief:
        """What is believed about m points given observations. inputs, targets: as in `fit`; points: each (m, d)."""
        with one_thread():
            exact = [x.astype(np.float64) for x in inputs]  # rounding in float32 can exceed the noise
            covariance = self.kernel(exact, exact)
            covariance[np.diag_indices_from(covariance)] += self.noise
            factor = cholesky(covariance, lower=True, overwrite_a=True, check_finite=False)
            whitening, _ = dtrtri(factor, lower=1)  # zero above the diagonal, as factor is
            whitened = (whitening @ targets).astype(np.float32)
            # A product in float32 is much faster than solving for so many right-hand sides.
            half = whitening.astype(np.float32) @ self.kernel(inputs, points)
            variance = self.variance - np.einsum("ij,ij->j", half, half)
            return Belief(self, points, (half.T @ whitened).astype(np.float64), _positive(variance), [half])

    def denoised(
        self, inputs: Sequence[NDArray[np.float32]], targets: Floats, most: float = math.inf
    ) -> tuple[Floats, Floats]:
        """What observations would have been without noise: means and standard deviations, (n,).

        With A the covariance of the observations and s the variance of their noise, y - s A^-1 y and the root of the
        diagonal of s I - s^2 A^-1 (Rasmussen & Williams eq. 2.25, 2.26 for the observed points).

        Args:
            inputs, targets: As of `fit`.
            most: Largest s; what `noise` has more of belongs to each point itself, as a function without any length.
        """
        with one_thread():
            exact = [x.astype(np.float64) for x in inputs]
            covariance = self.kernel(exact, exact)
            covariance[np.diag_indices_from(covariance)] += self.noise
            factor = cholesky(covariance, lower=True, overwrite_a=True, check_finite=False)
            inverse = _inverse(factor)
            noise = min(self.noise, most)
            variance = noise - noise**2 * np.diag(inverse)
            return targets - noise * (inverse @ targets), np.sqrt(np.maximum(variance, 0))


@dataclass
class Belief:
    """Mean and variance (m,) of the noise-free function at m points."""

    process: GaussianProcess
    points: Sequence[NDArray[np.float32]]
    mean: Floats
    variance: Floats
    _explained: list[NDArray[np.float32]]
    """Blocks (n, m) whose product with themselves, summed up, is what observations took off the covariance."""

    @property
    def deviation(self) -> Floats:
        return np.asarray(np.sqrt(self.variance))

    def believe(self, point: int) -> None:
        """Condition on an observation of one of the points that equals its mean: the means stay, variances shrink."""
        with one_thread():
            covariance = self.process.kernel([x[point : point + 1] for x in self.points], self.points)[0]
            for block in self._explained:
                covariance -= block[:, point] @ block
        covariance /= np.float32(np.sqrt(self.variance[point] + self.process.noise))
        self.variance = _positive(self.variance - covariance**2)
        self._explained.append(covariance[None])


def _inverse(factor: Floats) -> Floats:
    """Of the matrix whose lower Cholesky factor is given; LAPACK's own routine needs a third of what solving takes."""
    below, _ = dpotri(factor, lower=1)  # zero above the diagonal, as factor is
    inverse: Floats = below + below.T
    inverse[np.diag_indices_from(inverse)] /= 2
    return inverse


def _positive(variance: NDArray[np.floating[Any]]) -> Floats:
    """Without what rounding leaves below zero."""
    return np.maximum(variance.astype(np.float64), 1e-10)


def _exponents(x: NDArray[_F], z: NDArray[_F]) -> NDArray[_F]:
    """-1/2 |x - z|^2 for all pairs of rows, (n, m), by one product: x z - |x|^2 / 2 - |z|^2 / 2."""
    left = np.empty((len(x), x.shape[1] + 2), x.dtype)
    right = np.empty((len(z), z.shape[1] + 2), z.dtype)
    left[:, :-2], left[:, -2], left[:, -1] = x, -0.5 * np.einsum("ij,ij->i", x, x), 1
    right[:, :-2], right[:, -2], right[:, -1] = z, 1, -0.5 * np.einsum("ij,ij->i", z, z)
    return left @ right.T
