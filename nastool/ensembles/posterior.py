"""A posterior over architectures in which decisions are independent, and sets of architectures drawn from it.

Neural ensemble search via Bayesian sampling: Shu et al., UAI 2022, arXiv 2109.02533. In numpy; whatever is drawn comes
from a given generator.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Choices = NDArray[np.int64]
BETAS, EPS = (0.9, 0.999), 1e-8
"""Of Adam."""


@dataclass(frozen=True)
class Factorised:
    """q(a) = prod_i q_i(a_i): independent distributions over the options of each decision.

    Attributes:
        shares: (decisions, most options), each row a distribution; options that a decision lacks have share 0.
    """

    shares: Floats

    @classmethod
    def uniform(cls, options: Sequence[int]) -> Factorised:
        """Every option alike. options: how many each decision has, each at least 1."""
        found = np.arange(max(options)) < np.array(options)[:, None]
        return cls(found / found.sum(1, keepdims=True))

    @classmethod
    def of_logits(cls, logits: Floats) -> Factorised:
        """The softmax of each row; -inf where a decision lacks an option."""
        raised = np.exp(logits - logits.max(1, keepdims=True))
        return cls(raised / raised.sum(1, keepdims=True))

    def entropy(self) -> float:
        """Nats: 0 where one architecture is certain."""
        return float(_entropies(self.shares).sum())

    def mode(self) -> tuple[int, ...]:
        """The likeliest architecture: option indices."""
        return tuple(self.shares.argmax(1).tolist())

    def log_prob(self, choices: Choices) -> Floats:
        """Of architectures (n, decisions), nats, (n,)."""
        with np.errstate(divide="ignore"):
            found: Floats = np.log(self.shares[np.arange(len(self.shares)), choices]).sum(1)
        return found

    def sample(self, count: int, rng: np.random.Generator) -> Choices:
        """Independent draws (count, decisions): the Monte Carlo sampler."""
        bounds = self.shares.cumsum(1)
        drawn = rng.random((count, len(bounds), 1)) * bounds[:, -1:]
        found: Choices = (drawn >= bounds).sum(2)
        return found


def _entropies(shares: Floats) -> Floats:
    """Of each row, nats."""
    found: Floats = -(shares * np.log(np.where(shares > 0, shares, 1))).sum(1)
    return found


# --- fitting


def on_table(log_likelihoods: Floats, sweeps: int = 200) -> tuple[Factorised, list[float]]:
    """The factorised distribution nearest to p(a|D) ~ exp(l(a)), where l is known of every architecture.

    Coordinate ascent, from the uniform distribution: a decision's distribution becomes the best one with the others as
    they are, q_i(o) ~ exp E[l | a_i = o]. A local optimum.

    Args:
        log_likelihoods: l(a) in nats, an axis for each decision; finite.
        sweeps: How often it goes through all decisions, in order.

    Returns:
        The distribution, and after each sweep the evidence lower bound E[l] + entropy, which never falls; with a
        uniform prior that bounds the logarithm of the sum of exp(l) over all architectures.

    Raises:
        ValueError: A log likelihood is not finite.
    """
    if not np.isfinite(log_likelihoods).all():
        raise ValueError("a log likelihood is not finite")
    rows = [np.full(n, 1 / n) for n in log_likelihoods.shape]
    bounds = []
    for _ in range(sweeps):
        for i in range(len(rows)):
            expected = log_likelihoods
            for j in reversed(range(len(rows))):
                if j != i:
                    expected = np.tensordot(expected, rows[j], (j, 0))
            raised = np.exp(expected - expected.max())
            rows[i] = raised / raised.sum()
        bounds.append(float(rows[-1] @ expected) + sum(float(_entropies(row[None])[0]) for row in rows))
    most = max(map(len, rows))
    return Factorised(np.stack([np.pad(row, (0, most - len(row))) for row in rows])), bounds


def elbo_gradient(logits: Floats, choices: Choices, log_likelihoods: Floats) -> Floats:
    """An estimate of the gradient of the evidence lower bound E_q[l] + entropy by the logits of q.

    The expectation is that under q, by the score function, each draw's baseline being the mean of the others, which
    leaves it without bias; the entropy's part is exact.

    Args:
        logits: (decisions, most options); -inf where a decision lacks an option.
        choices: Draws from q, (n, decisions), at least 2.
        log_likelihoods: l of each, (n,), nats.

    Returns:
        An array like the logits, 0 where these are -inf.
    """
    q = Factorised.of_logits(logits).shares
    n = len(choices)
    advantage = (log_likelihoods - log_likelihoods.mean()) * n / (n - 1)
    chosen = choices[:, :, None] == np.arange(q.shape[1])
    found: Floats = np.einsum("n,ndo->do", advantage / n, chosen - q) + entropy_gradient(q)
    return found


def entropy_gradient(shares: Floats) -> Floats:
    """The gradient of the entropy by the logits, of a distribution in each row."""
    logs = np.log(np.where(shares > 0, shares, 1))
    found: Floats = -shares * (logs + _entropies(shares)[:, None])
    return found


class Ascent:
    """Adam uphill (Kingma & Ba, ICLR 2015), on one array."""

    def __init__(self, shape: tuple[int, ...], lr: float) -> None:
        self.lr = lr
        self.taken = 0
        self.first, self.second = np.zeros(shape), np.zeros(shape)

    def step(self, values: Floats, gradient: Floats) -> Floats:
        """The values after a step."""
        self.taken += 1
        b1, b2 = BETAS
        self.first += (1 - b1) * (gradient - self.first)
        self.second += (1 - b2) * (gradient**2 - self.second)
        scale = np.sqrt(self.second / (1 - b2**self.taken)) + EPS
        moved: Floats = values + self.lr * self.first / (1 - b1**self.taken) / scale
        return moved


def fitted(
    options: Sequence[int],
    draw: Callable[[Factorised], Choices],
    log_likelihood: Callable[[Choices], Floats],
    steps: int,
    lr: float,
) -> Factorised:
    """The posterior where a log likelihood is measured only of what is drawn: stochastic ascent of the lower bound.

    Args:
        options: How many each decision has.
        draw: At least 2 architectures of a distribution, option indices (n, decisions).
        log_likelihood: Theirs, nats, (n,); what all have in common may change from call to call.
        steps: Number of steps of Adam from the uniform distribution, >= 0.
        lr: Its learning rate, of logits; falls to 0 in a straight line, so that the noise of the last steps is small.
    """
    with np.errstate(divide="ignore"):
        logits = np.log(Factorised.uniform(options).shares)
    there = np.isfinite(logits)
    ascent = Ascent(logits.shape, lr)
    for step in range(steps):
        ascent.lr = lr * (1 - step / steps)
        choices = draw(Factorised.of_logits(logits))
        gradient = elbo_gradient(logits, choices, log_likelihood(choices))
        logits = np.where(there, ascent.step(np.where(there, logits, 0.0), gradient), -np.inf)
    return Factorised.of_logits(logits)


# --- sets by Stein variational gradient descent with regularised diversity


def mixture_score(shares: Floats, spread: float) -> Callable[[Floats], Floats]:
    """The gradient of log p at particles (n, decisions * options), p being the posterior's continuous relaxation.

    A decision's vector has a mixture of normal distributions around the options' unit vectors, with the options' shares
    as weights and the same standard deviation `spread` in each direction.
    """
    with np.errstate(divide="ignore"):
        logs = np.log(shares)

    def score(particles: Floats) -> Floats:
        x = particles.reshape(len(particles), *shares.shape)
        weighed = logs + x / spread**2  # |x - unit_o|^2 is 2 x_o less than what all options have in common
        near = np.exp(weighed - weighed.max(2, keepdims=True))
        near /= near.sum(2, keepdims=True)
        found: Floats = ((near - x) / spread**2).reshape(particles.shape)
        return found

    return score


def kernel(particles: Floats) -> tuple[Floats, Floats]:
    """exp(-|x_i - x_j|^2 / h), (n, n), and its gradients by x_j, (n, n, dimensions).

    h is the median of the squared distances of different particles over log(n + 1) (Liu & Wang, NeurIPS 2016), and
    counts as constant; 1 where that is 0.
    """
    n = len(particles)
    apart = particles[:, None] - particles
    squares = (apart**2).sum(2)
    width = float(np.median(squares[np.triu_indices(n, 1)])) / np.log(n + 1) if n > 1 else 1.0
    width = width or 1.0
    values = np.exp(-squares / width)
    return values, 2 / width * apart * values[:, :, None]


def stein_direction(particles: Floats, scores: Floats, delta: float) -> Floats:
    """Where particles go, (n, dimensions): SVGD-RD, with a diversity that is worth `delta`.

    phi_i = 1/n sum_j [k_ij score_j + (1 + 2 delta) grad_{x_j} k_ij]. The target is the q with the least
    KL(q | p) + n delta E[k(x, x')] over pairs; its second term adds -2 delta/n sum_j grad_{x_i} k_ij, and of a kernel
    of x_i - x_j alone grad_{x_i} k = -grad_{x_j} k, hence the one factor. delta = 0 is plain SVGD (Liu & Wang), -1/2
    seeks the mode alone, less attracts.

    Args:
        particles: (n, dimensions).
        scores: The gradient of log p at each.
        delta: Any number.
    """
    values, gradients = kernel(particles)
    found: Floats = (values @ scores + (1 + 2 * delta) * gradients.sum(1)) / len(particles)
    return found


def stein_set(
    posterior: Factorised,
    size: int,
    delta: float,
    rng: np.random.Generator,
    *,
    steps: int = 200,
    lr: float = 0.05,
    spread: float = 1.0,
) -> Choices:
    """A set of architectures (size, decisions) by SVGD-RD; two may be the same.

    Particles begin at random, move along `stein_direction`, and are decoded: of each decision the nearest unit vector.

    Args:
        posterior: What they are drawn from.
        size: Number of particles.
        delta: As of `stein_direction`.
        rng: Source of where they begin.
        steps: Number of steps.
        lr: Of Adam, falling to 0 in a straight line.
        spread: As of `mixture_score`.
    """
    shares = posterior.shares
    there = np.tile((shares > 0).ravel(), (size, 1))
    particles = np.where(there, rng.normal(size=there.shape), 0.0)
    score = mixture_score(shares, spread)
    ascent = Ascent(particles.shape, lr)
    for step in range(steps):
        ascent.lr = lr * (1 - step / steps)
        particles = ascent.step(particles, stein_direction(particles, score(particles), delta))
    found: Choices = np.where(there, particles, -np.inf).reshape(size, *shares.shape).argmax(2)
    return found


def distinct(
    chosen: Sequence[tuple[int, ...]],
    size: int,
    draw: Callable[[], tuple[int, ...]],
    key: Callable[[tuple[int, ...]], object],
    tries: int = 1000,
) -> list[tuple[int, ...]]:
    """So many of the architectures, no two alike: what repeats an earlier one is drawn again.

    Args:
        chosen: Option indices of architectures.
        size: How many are wanted.
        draw: One more.
        key: What those that are alike have in common.
        tries: So many draws in vain end it, with fewer architectures than are wanted.
    """
    found: dict[object, tuple[int, ...]] = {}
    for each in chosen[:size]:
        found.setdefault(key(each), each)
    while len(found) < size and tries:
        other = draw()
        tries -= key(other) in found
        found.setdefault(key(other), other)
    return list(found.values())
