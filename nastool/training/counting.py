"""A trainer of shared weights without networks, for tests and estimates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from nastool.core.values import Arch

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from nastool.nets.networks import Selection
    from nastool.training.policies import Part


class Counting:
    """A `Trainer` without networks: its steps do nothing, and rewards are made up, for tests and estimates."""

    def __init__(
        self,
        steps: int,
        generator: torch.Generator,
        value: Callable[[Sequence[Arch]], list[float]] = lambda archs: [0.5] * len(archs),
        progress: float = 1.0,
        rounds: int = 1,
    ) -> None:
        """Asked for nothing yet.

        Args:
            steps: Of the weights.
            generator: Source of the round's draws.
            value: The rewards of some architectures.
            progress: Share of all steps taken.
            rounds: Of the whole training.
        """
        self.steps = range(steps)
        self.generator = generator
        self.progress = progress
        self.rounds = rounds
        self.asked: list[int] = []
        """How many rewards each call asked for."""
        self.step: Selection | None = None
        """What the last step of the weights was to run."""
        self.looks = 0
        """How many losses with gradients were asked for; of those a step of the weights ahead each counts as five."""
        self.look: Selection | None = None
        """What the last of these was of."""
        self.predicted = 0
        """Of how many architectures the predictions on all of a part were asked for."""
        self._value = value

    def weights_step(self, selections: Sequence[Selection], gradient: bool = False) -> Tensor:
        self.step = selections[-1]
        return self._zero()

    def loss(self, selection: Selection, part: Part) -> Tensor:
        self.looks, self.look = self.looks + 1, selection
        return self._zero()

    def unrolled(self, selection: Selection, architecture: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        import torch

        self.looks, self.look = self.looks + 5, selection
        return torch.zeros(()), [torch.zeros_like(each) for each in architecture]

    def losses(self, selections: Sequence[Selection], part: Part) -> list[float]:
        return [0.0] * len(selections)

    def mean_losses(self, sets: Sequence[Sequence[Arch]], part: Part) -> list[float]:
        self.predicted += len({arch for each in sets for arch in each})
        return [1 - sum(self._value(each)) / len(each) for each in sets]

    def costs(self) -> Mapping[str, Tensor]:
        return {}

    def rewards(self, selections: Sequence[Arch], part: Part, likelihood: bool = False) -> list[float]:
        self.asked.append(len(selections))
        return self._value(selections)

    def _zero(self) -> Tensor:
        import torch

        return torch.zeros((), requires_grad=True)
