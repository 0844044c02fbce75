"""Draws with gradients, all from a given generator: of one option, and of a mixture."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def gumbel(like: Tensor, generator: torch.Generator) -> Tensor:
    """Noise of the standard Gumbel distribution, of the same shape."""
    return -torch.empty_like(like, requires_grad=False).exponential_(generator=generator).log()


def straight_through(alpha: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """Forward a one-hot draw from softmax(alpha), backward the gradient of the softmax with noise and temperature.

    That is softmax((log softmax(alpha) + G) / temperature) with Gumbel noise G, of whose options the largest is drawn
    (Jang et al., ICLR 2017), as GDAS has it. alpha: (n, options), drawn row by row.
    """
    while True:
        soft = ((alpha.log_softmax(-1) + gumbel(alpha, generator)) / temperature).softmax(-1)
        if bool(soft.detach().isfinite().all()):
            break
    hard = torch.zeros_like(soft).scatter(-1, soft.detach().argmax(-1, keepdim=True), 1.0)
    return hard + (soft - soft.detach())  # exactly the draw where that is 0 or 1


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


def dirichlet(concentration: Tensor, generator: torch.Generator) -> Tensor:
    """One point of the simplex for each row of concentrations (n, options), > 0."""
    found: Tensor = _Draw.apply(concentration, generator)
    return found


def from_uniform(concentration: Tensor) -> Tensor:
    """Kullback-Leibler divergence of each row's distribution from that with concentrations of 1, nats, (n,)."""
    total, options = concentration.sum(-1), torch.tensor(float(concentration.shape[-1]))
    own = total.lgamma() - concentration.lgamma().sum(-1) - options.lgamma()
    return own + ((concentration - 1) * (concentration.digamma() - total.digamma()[..., None])).sum(-1)
