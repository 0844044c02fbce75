"""SNAS: stochastic neural architecture search (Xie et al., ICLR 2019, arXiv 1812.09926)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from nastool.core.space import SearchSpace
from nastool.learners.differentiable import Differentiable, Sampler

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LEAST = 1e-30
"""Weights smaller than this have this one's density."""


class Concrete(Sampler):
    """A draw of the Concrete distribution (Maddison et al., ICLR 2017): softmax((log alpha + G) / temperature)."""

    mean = 1.0
    spread = 0.01

    def __init__(
        self,
        temperature: float = 1.0,
        last_temperature: float = 0.03,
        resource: float = 0.0,
        estimator: str = "sample",
    ) -> None:
        for name, value in (("temperature", temperature), ("last_temperature", last_temperature)):
            if not 0.001 <= value <= 1000:
                raise ValueError(f"need 0.001 <= {name} <= 1000, got {value}")
        if not 0 <= resource <= 1000:
            raise ValueError(f"need 0 <= resource <= 1000, got {resource}")
        self.first, self.last = temperature, last_temperature
        self.resource, self.estimator = resource, estimator
        self.counts_costs = resource > 0

    def temperature(self, progress: float) -> float:
        return self.first + (self.last - self.first) * progress

    def draw(self, alpha: Tensor, progress: float, generator: torch.Generator) -> Tensor:
        from nastool.learners.draws import gumbel

        return ((alpha + gumbel(alpha, generator)) / self.temperature(progress)).softmax(-1)

    def extra(self, alpha: Tensor, weights: Tensor, costs: Sequence[Tensor] | None, progress: float) -> Tensor | float:
        if costs is None:
            return 0.0
        if self.estimator == "expectation":
            return self.resource * expected(alpha.softmax(-1), costs).sum()
        if self.estimator == "policy":
            drawn = weights.detach()
            density = log_density(alpha, drawn, self.temperature(progress))
            return self.resource * (density * mixed(drawn, costs)).sum()
        return self.resource * mixed(weights, costs).sum()


def mixed(weights: Tensor, costs: Sequence[Tensor]) -> Tensor:
    """The cost of each decision's mixture, (n,): the mean logarithm of its parameters, multiply-adds and numbers moved.

    Args:
        weights: (n, options).
        costs: For each decision (places, options, 3), as of `Trainer.costs`; sums below 1 count as 1.
    """
    import torch

    return torch.stack(
        [(cost * row[:, None]).sum(1).clamp(min=1).log().mean() for row, cost in zip(weights, costs, strict=True)]
    )


def expected(shares: Tensor, costs: Sequence[Tensor]) -> Tensor:
    """The mean of `mixed` over one option each, drawn with these probabilities. Arguments as of `mixed`."""
    import torch

    return torch.stack(
        [(row * cost.clamp(min=1).log().mean((0, 2))).sum() for row, cost in zip(shares, costs, strict=True)]
    )


def log_density(log_alpha: Tensor, z: Tensor, temperature: float) -> Tensor:
    """Logarithm of the Concrete density, (n,) (Maddison et al., ICLR 2017, equation 10).

    Args:
        log_alpha: (n, K), not normalised.
        z: Points of the simplex, (n, K).
        temperature: > 0.
    """
    k, log_z = z.shape[-1], z.clamp(min=LEAST).log()
    whole = (log_alpha - temperature * log_z).logsumexp(-1)
    each = (log_alpha - (temperature + 1) * log_z).sum(-1)
    return math.lgamma(k) + (k - 1) * math.log(temperature) + each - k * whole


class SNAS(Differentiable):
    """Options are mixed by draws of the Concrete distribution, ever nearer to one option, and learn with the weights.

    Both learn from the same minibatch of the training data, as in the authors' code, whose training data are all of
    CIFAR-10's, and whose validation data are the test set. Here a part of the training data is held out, by which
    nothing but the candidates is scored. Settings are those of the published script: logits that begin near 1, a
    temperature that falls linearly from 1 to 0.03, Adam with learning rate 0.0003 (their branch for one GPU takes plain
    SGD), betas .5 and .999, weight decay 0.001; `resource` was 0.0015 there. Every decision takes its likeliest
    option, `none` included, so the likeliest architecture is the published one where a space decides about each edge,
    as nasbench201 does. cell-cnn does not: a block has two inputs, where SNAS' cell has 14 edges, of which none, some
    or all live. Other deviations: as of darts.
    """

    name = "snas"
    sampler = Concrete
    single = 0.0
    updates = 117_150
    levels = 1
    none = True

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        last_temperature: float = 0.03,
        resource: float = 0.0,
        estimator: Literal["sample", "policy", "expectation"] = "sample",
        **more: Any,
    ) -> None:
        """Makes a strategy whose options are nearly alike in probability.

        Args:
            temperature: Of the Concrete distribution, at first, in [0.001, 1000].
            last_temperature: The same at the end; in between it changes linearly.
            resource: Weight of what an architecture costs, in [0, 1000]: of each decision the mean logarithm of
                parameters, multiply-adds and numbers that are read and written, a mean over the cells.
            estimator: How the cost's gradient is taken: sample, through the drawn weights; policy, as the cost of the
                draw times the gradient of its log density; expectation, of the mean cost of single options.
        """
        own: dict[str, Any] = {"temperature": temperature, "last_temperature": last_temperature, "resource": resource}
        super().__init__(space, seed=seed, estimator=estimator, **own, **more)
