"""DrNAS: Dirichlet neural architecture search (Chen et al., ICLR 2021, arXiv 2006.10355)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nastool.core.space import SearchSpace
from nastool.learners.differentiable import Differentiable, Sampler

if TYPE_CHECKING:
    import torch
    from torch import Tensor


class Dirichlet(Sampler):
    """A draw of the Dirichlet distribution with concentrations elu(alpha) + 1."""

    def __init__(self, anchor: float = 0.001) -> None:
        if not 0 <= anchor <= 1000:
            raise ValueError(f"need 0 <= anchor <= 1000, got {anchor}")
        self.anchor = anchor

    def draw(self, alpha: Tensor, progress: float, generator: torch.Generator) -> Tensor:
        from nastool.learners.draws import dirichlet

        return dirichlet(concentration(alpha), generator)

    def still(self, alpha: Tensor) -> Tensor:
        whole = concentration(alpha)
        return whole / whole.sum(-1, keepdim=True)

    def extra(self, alpha: Tensor, weights: Tensor, costs: Sequence[Tensor] | None, progress: float) -> Tensor | float:
        from nastool.learners.draws import from_uniform

        return self.anchor * from_uniform(concentration(alpha)).sum() if self.anchor else 0.0


def concentration(alpha: Tensor) -> Tensor:
    """Of the distribution; 1 at 0, where all mixtures are alike."""
    import torch

    return torch.nn.functional.elu(alpha) + 1 + 1e-6  # a draw needs what is above 0


class DrNAS(Differentiable):
    """Options are mixed by draws of a Dirichlet distribution, which learns by gradients through the draws.

    Its divergence from the uniform one is added to the loss (`anchor`). Settings: Adam with learning rate 0.0003, betas
    .5 and .999, weight decay 0.001. Deviations: as of darts; channels are not partial, and none grow in between.
    """

    name = "drnas"
    sampler = Dirichlet

    def __init__(self, space: SearchSpace, *, seed: int = 0, anchor: float = 0.001, **more: Any) -> None:
        """Makes a strategy whose options are nearly alike in weight, with any mixture as likely as any other.

        Args:
            anchor: Weight of the divergence from the uniform distribution, nats of each decision, in [0, 1000].
        """
        super().__init__(space, seed=seed, anchor=anchor, **more)
