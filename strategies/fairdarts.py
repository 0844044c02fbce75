"""FairDARTS (Chu et al., ECCV 2020, arXiv 1911.12126)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nastool.core.space import SearchSpace
from nastool.learners.differentiable import Differentiable, Sampler

if TYPE_CHECKING:
    from torch import Tensor


class Sigmoid(Sampler):
    """The sigmoid of each alpha by itself: options do not compete."""

    def __init__(self, separation: float = 10.0) -> None:
        if not 0 <= separation <= 1000:
            raise ValueError(f"need 0 <= separation <= 1000, got {separation}")
        self.separation = separation

    def still(self, alpha: Tensor) -> Tensor:
        return alpha.sigmoid()

    def extra(self, alpha: Tensor, weights: Tensor, costs: Sequence[Tensor] | None, progress: float) -> Tensor | float:
        return -self.separation * (weights - 0.5).square().mean()


class FairDARTS(Differentiable):
    """Options are added up, each with a weight between 0 and 1 of its own, which is pushed to either end.

    Without a softmax a skip connection does not win by what others lose. The push is the paper's zero-one loss.
    Settings: Adam with learning rate 0.0003, betas .5 and .999, weight decay 0.001. Deviations: as of darts; of each
    decision one option is derived, the likelier the larger its weight, where the paper keeps up to two edges of a node
    whose weight is above a threshold.
    """

    name = "fairdarts"
    sampler = Sigmoid

    def __init__(self, space: SearchSpace, *, seed: int = 0, separation: float = 10.0, **more: Any) -> None:
        """Makes a strategy whose options have weights near one half.

        Args:
            separation: Weight of the zero-one loss, in [0, 1000]: minus the mean squared distance from one half.
        """
        super().__init__(space, seed=seed, separation=separation, **more)
