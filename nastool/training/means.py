"""How good the mean prediction of several architectures is, with the weights that they share."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from nastool.core.task import Batch, Batches
from nastool.core.values import Arch

if TYPE_CHECKING:
    from torch import Tensor

    from nastool.training.loop import Training


@dataclass(frozen=True)
class _Mixed:
    """Batches for networks whose output depends on the batch, in place of those in order."""

    batches: Batches
    batch_size: int

    def in_order(self) -> Iterator[Batch]:
        return self.batches.mixed(self.batch_size)


def mean_losses(
    training: Training, batches: Batches, sets: Sequence[Sequence[Arch]], select: Callable[[Arch], None]
) -> list[float] | None:
    """As of `Trainer.mean_losses`; None: the task makes no ensembles.

    Args:
        training: Of the shared weights, whose network is in evaluation mode.
        batches: What is predicted.
        sets: None of them empty.
        select: Has the network run an architecture.
    """
    import torch

    task, mixed = training.task, _Mixed(batches, training.recipe.batch_size)
    said: dict[Arch, Tensor] = {}
    with torch.no_grad():
        for arch in dict.fromkeys(arch for each in sets for arch in each):
            select(arch)
            try:
                said[arch] = task.predict(training.called, mixed.in_order())
            except NotImplementedError:
                return None
    return [task.measure_mean([said[arch] for arch in each], cast(Batches, mixed))["loss"] for each in sets]
