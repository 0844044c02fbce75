"""The gradient of DARTS' second order: of the loss after a step of the weights (Liu et al., ICLR 2019, section 2.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

LENGTH = 0.01
"""Norm of the change of the weights over which the second derivative is taken."""


def unrolled(
    train: Callable[[], Tensor],
    val: Callable[[], Tensor],
    weights: Sequence[Tensor],
    architecture: Sequence[Tensor],
    *,
    lr: float,
    pull: Sequence[Tensor | float],
) -> tuple[Tensor, list[Tensor]]:
    """The validation loss at the weights w' that a step of the training loss leads to, and its gradients.

    With d the gradient of that loss by w', and e = 0.01 / |d|, these are, as of the paper's equations 7 and 8,

        (the validation loss at w')  -  lr / (2 e) ((the training loss at w + e d) - (the same at w - e d)),

    each by the architecture. The weights are afterwards what they were, bit for bit.

    Args:
        train: Makes the training loss, always of the same examples, with gradients.
        val: Makes the validation loss.
        weights: Of the network; changed in place, and put back.
        architecture: What the gradients are by.
        lr: Of the step of the weights.
        pull: What the step adds to each weight's gradient: decay and momentum.

    Returns:
        The loss, without gradients, and the gradient by each of `architecture`.
    """
    own = [weight.detach().clone() for weight in weights]

    def gradients(loss: Tensor, inputs: Sequence[Tensor]) -> list[Tensor]:
        found = torch.autograd.grad(loss, list(inputs), allow_unused=True)
        return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]

    @torch.no_grad()
    def move(by: Sequence[Tensor], share: float) -> None:
        for weight, start, change in zip(weights, own, by, strict=True):
            weight.copy_(start + share * change)

    try:
        ahead = [-lr * (g + more) for g, more in zip(gradients(train(), weights), pull, strict=True)]
        move(ahead, 1.0)
        loss = val()
        found = gradients(loss, [*architecture, *weights])
        direct, along = found[: len(architecture)], found[len(architecture) :]
        share = LENGTH / max(float(torch.stack([g.norm() for g in along]).norm()), 1e-30)
        move(along, share)
        above = gradients(train(), architecture)
        move(along, -share)
        below = gradients(train(), architecture)
    finally:
        with torch.no_grad():
            for weight, start in zip(weights, own, strict=True):
                weight.copy_(start)
    curved = [lr * (a - b) / (2 * share) for a, b in zip(above, below, strict=True)]
    return loss.detach(), [d - c for d, c in zip(direct, curved, strict=True)]
