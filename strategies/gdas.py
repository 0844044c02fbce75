"""GDAS: one sampled operation an edge (Dong & Yang, CVPR 2019, arXiv 1910.04465)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nastool.core.space import SearchSpace
from nastool.learners.differentiable import Differentiable, Sampler

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class OneHot(Sampler):
    """A one-hot draw by Gumbel's trick with the gradient of the tempered softmax: one option of each decision runs."""

    alone = True

    def __init__(self, temperature: float = 10.0, last_temperature: float = 0.1) -> None:
        for name, value in (("temperature", temperature), ("last_temperature", last_temperature)):
            if not 0.001 <= value <= 1000:
                raise ValueError(f"need 0.001 <= {name} <= 1000, got {value}")
        self.first, self.last = temperature, last_temperature

    def draw(self, alpha: Tensor, progress: float, generator: torch.Generator) -> Tensor:
        from nastool.learners.draws import straight_through

        return straight_through(alpha, self.first + (self.last - self.first) * progress, generator)


class GDAS(Differentiable):
    """One architecture is drawn and run in each step; probabilities of options learn by straight-through gradients.

    So a step takes the memory and time of one architecture. Settings are those of the authors' code: temperature from
    10 to 0.1, linearly; Adam with learning rate 0.0003, betas .5 and .999, weight decay 0.001, for 250 epochs of half
    of CIFAR-10. Deviations: as of darts. What is alone before a batch normalisation, which takes its weight out again,
    has next to no gradient: operations learn where the outputs of several are added, as in cells.
    """

    name = "gdas"
    sampler = OneHot
    single = 0.0
    updates = 97_750

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int = 0,
        temperature: float = 10.0,
        last_temperature: float = 0.1,
        **more: Any,
    ) -> None:
        """Makes a strategy whose options are nearly alike in probability.

        Args:
            temperature: Of the softmax whose gradient is taken, at first, in [0.001, 1000].
            last_temperature: The same at the end; in between it changes linearly.
        """
        super().__init__(space, seed=seed, temperature=temperature, last_temperature=last_temperature, **more)
