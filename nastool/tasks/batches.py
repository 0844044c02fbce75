"""Examples that are tensors, resident on a device, in batches."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from hashlib import blake2b

import torch
from torch import Tensor

from nastool.core.recipe import Recipe
from nastool.core.task import Batch


class TensorBatches:
    """One part of a data set; batches hold its tensors at the same places.

    A subclass overrides `at` where a batch is not what lies on the device, and `augmented` for training.
    """

    at_once = 512
    """Number of examples of a batch of `in_order`, by default."""

    def __init__(self, *tensors: Tensor) -> None:
        """Keeps tensors of as many examples each.

        Args:
            tensors: On one device; what networks read and, last, what they should say.
        """
        self.tensors = tensors
        self.device = tensors[0].device

    def __len__(self) -> int:
        return len(self.tensors[-1])

    def at(self, places: Tensor | slice) -> Batch:
        """The examples at these places, as they are. places: (n,) int64 on the device, or a slice."""
        return tuple(tensor[places] for tensor in self.tensors)

    def augmented(self, places: Tensor, recipe: Recipe, generator: torch.Generator) -> Batch:
        """The same for training, changed at random as the recipe says: by default not at all."""
        return self.at(places)

    def batch(self, places: Tensor) -> Batch:
        """The same. places: of any device."""
        return self.at(places.to(self.device))

    def steps(self, recipe: Recipe) -> int:
        """Number of batches of `train`."""
        return max(1, len(self) // recipe.batch_size)

    def train(self, recipe: Recipe, generator: torch.Generator) -> Iterator[Batch]:
        """One epoch in random order, augmented as the recipe says.

        An incomplete last batch is dropped, unless it is the only one. generator: of this device.
        """
        order = torch.randperm(len(self), generator=generator, device=self.device)
        for step in range(self.steps(recipe)):
            yield self.augmented(order[step * recipe.batch_size : (step + 1) * recipe.batch_size], recipe, generator)

    def some(self, n: int, generator: torch.Generator) -> Batch:
        """n examples drawn at random, as they are; all where there are fewer. generator: of the CPU."""
        return self.batch(torch.randperm(len(self), generator=generator)[:n])

    def minibatches(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """Examples as they are, in an order drawn anew whenever they are used up; without end.

        generator: of the CPU.
        """
        size = min(batch_size, len(self))
        while True:
            order = torch.randperm(len(self), generator=generator)
            for start in range(0, len(order) - size + 1, size):
                yield self.batch(order[start : start + size])

    def in_order(self, batch_size: int | None = None, parts: int = 1) -> Iterator[Batch]:
        """Every example once, in order, as it is. batch_size: by default the parts-th part of `at_once`."""
        batch_size = batch_size or max(1, self.at_once // parts)
        for start in range(0, len(self), batch_size):
            yield self.at(slice(start, start + batch_size))

    def mixed(self, batch_size: int) -> Iterator[Batch]:
        """Every example once, as it is, in batches for networks whose output depends on the batch.

        The order is that of the digests of what networks read: at random, always the same, and whatever order the
        examples were in (by class, perhaps). Batches are as equal in size as can be, of batch_size to 2 batch_size - 1
        examples; one batch where there are fewer.
        """
        for places in self._by_digest.tensor_split(max(1, len(self) // batch_size)):
            yield self.at(places)

    @cached_property
    def _by_digest(self) -> Tensor:
        """The places of all examples, (n,) int64."""
        digests = [blake2b(example.tobytes(), digest_size=8).digest() for example in self.tensors[0].cpu().numpy()]
        return torch.tensor(sorted(range(len(self)), key=digests.__getitem__), device=self.device)
