"""Several networks as one module: the mean of the probabilities that they give."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Averaged(nn.Module):
    """Logits of the mean of several networks' probabilities: softmax of it is sum w_m softmax(z_m / T_m), at T.

    Its parameters and buffers are those of the members, by name, after "members.0.", "members.1.", ...
    """

    def __init__(
        self,
        members: Sequence[nn.Module],
        weights: Sequence[float],
        temperatures: Sequence[float],
        temperature: float = 1.0,
    ) -> None:
        """members: return logits (N, classes). weights: one each, > 0, sum 1. temperatures: of each one's logits, > 0.

        temperature: of the logarithm of the mean.
        """
        super().__init__()
        self.members = nn.ModuleList(members)
        self.weights = tuple(weights)
        self.temperatures = tuple(temperatures)
        self.temperature = temperature

    def forward(self, *inputs: Tensor) -> Tensor:
        terms = [
            (member(*inputs) / temperature).log_softmax(1) + torch.tensor(weight).log()
            for member, weight, temperature in zip(self.members, self.weights, self.temperatures, strict=True)
        ]
        return torch.stack(terms).logsumexp(0) / self.temperature
