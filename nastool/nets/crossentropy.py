"""The cross-entropy of many rows of logits over a large vocabulary, which on a CPU stays within its caches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

IN_CACHE = 2**18
"""So many logits are gone through at once."""


def mean_loss(logits: Tensor, targets: Tensor, smoothing: float = 0.0) -> Tensor:
    """Mean cross-entropy of the rows whose targets are not negative, in nats, a float32 scalar with gradient.

    Args:
        logits: (n, V), in any precision.
        targets: (n,) int64.
        smoothing: Of labels, in [0, 1).
    """
    if logits.device.type != "cpu" or smoothing or not (torch.is_grad_enabled() and logits.requires_grad):
        return functional.cross_entropy(logits.float(), targets, label_smoothing=smoothing)
    loss: Tensor = _Mean.apply(logits, targets)
    return loss


def losses(logits: Tensor, targets: Tensor) -> Tensor:
    """-log of the probability of each target, (n,) float32, 0 where it is negative; without gradient."""
    if logits.device.type != "cpu":
        return functional.cross_entropy(logits.float(), targets, reduction="none")
    with torch.no_grad():
        parts = [functional.cross_entropy(logits[i].float(), targets[i], reduction="none") for i in _parts(logits)]
    return torch.cat(parts)


def _parts(logits: Tensor) -> Iterator[slice]:
    rows = max(1, IN_CACHE // logits.shape[1])
    return (slice(start, start + rows) for start in range(0, len(logits), rows))


class _Mean(torch.autograd.Function):
    """The gradient is made along with the loss, while the logits are at hand."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        counts = targets >= 0
        total = int(counts.sum())
        found = logits.new_empty(len(logits), dtype=torch.promote_types(logits.dtype, torch.float32))
        gradient = torch.empty_like(logits)
        for part in _parts(logits):
            x, at = logits[part].to(found.dtype, copy=True), targets[part].clamp(min=0)[:, None]
            x -= x.amax(1, keepdim=True)
            own = x.gather(1, at)
            scale = x.exp_().sum(1, keepdim=True)
            found[part] = (scale.log() - own)[:, 0]
            weight = counts[part, None].to(x.dtype) / total
            x *= weight / scale
            x.scatter_add_(1, at, -weight)
            gradient[part] = x
        ctx.save_for_backward(gradient)
        return found.mul_(counts).sum() / total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_loss: Tensor) -> tuple[Tensor, None]:
        (gradient,) = ctx.saved_tensors
        return gradient if of_loss == 1 else gradient * of_loss.to(gradient.dtype), None
