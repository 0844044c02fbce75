"""Draws of Dirichlet distributions with gradients, from a given generator."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class _Draw(torch.autograd.Function):
    """The implicit gradient of a draw (Figurnov et al., NeurIPS 2018), as of torch.distributions."""

    @staticmethod
    def forward(ctx: Any, concentration: Tensor, generator: torch.Generator) -> Tensor:
        drawn = torch._sample_dirichlet(concentration, generator)
        ctx.save_for_backward(drawn, concentration)
        return drawn

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        drawn, concentration = ctx.saved_tensors
        total = concentration.sum(-1, keepdim=True).expand_as(concentration)
        slope = torch._dirichlet_grad(drawn, concentration, total)
        return slope * (gradient - (drawn * gradient).sum(-1, keepdim=True)), None


def draw(concentration: Tensor, generator: torch.Generator) -> Tensor:
    """One point of the simplex for each row of concentrations (n, options), > 0."""
    found: Tensor = _Draw.apply(concentration, generator)
    return found


def from_uniform(concentration: Tensor) -> Tensor:
    """Kullback-Leibler divergence of each row's distribution from that with concentrations of 1, nats, (n,)."""
    total, options = concentration.sum(-1), torch.tensor(float(concentration.shape[-1]))
    own = total.lgamma() - concentration.lgamma().sum(-1) - options.lgamma()
    return own + ((concentration - 1) * (concentration.digamma() - total.digamma()[..., None])).sum(-1)
