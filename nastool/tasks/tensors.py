"""Data that are arrays of as many examples each. Imports no torch until they are put on a device."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from hashlib import blake2s
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nastool.core.task import Batches, Part, Task
from nastool.core.values import Scalar

if TYPE_CHECKING:
    import torch

Arrays = Sequence[NDArray[Any]]
"""What networks read and, last, what they should say; the first dimension is the examples."""
PARTS: tuple[Part, ...] = ("train", "val", "test")


class TensorData:
    """A data set, read and split."""

    name: str
    task: Task

    def __init__(self, name: str, task: Task, train: Arrays, val: Arrays, test: Arrays | None = None) -> None:
        """Keeps arrays.

        Args:
            name: As it was asked for.
            task: What networks for it are for.
            train: Those that weights are trained on.
            val: Those that architectures are chosen by.
            test: Those that are held out of all that; None: there are none.
        """
        self.name = name
        self.task = task
        self._arrays: dict[Part, Arrays | None] = {"train": train, "val": val, "test": test}

    def arrays(self, part: Part) -> Arrays | None:
        """The arrays of a part; None: there is no such part."""
        return self._arrays[part]

    @cached_property
    def fingerprint(self) -> str:
        """8 hexadecimal digits that name the examples and their split."""
        digest = blake2s(digest_size=4)
        for array in self._all():
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    @property
    def nbytes(self) -> int:
        """Memory that all parts take, bytes."""
        return sum(array.nbytes for array in self._all())

    def _all(self) -> list[NDArray[Any]]:
        return [array for part in PARTS for array in self.arrays(part) or ()]

    def describe(self) -> Mapping[str, Scalar]:
        """Facts for run.yaml and the screen: sizes, and what names the content."""
        sizes = {f"{part}_examples": len(arrays[-1]) for part in PARTS if (arrays := self.arrays(part)) is not None}
        return {**sizes, "fingerprint": self.fingerprint}

    def metadata(self) -> Mapping[str, Any]:
        """Nothing that a network's file should say besides the task."""
        return {}

    def batches(self, part: Part, device: torch.device) -> Batches | None:
        """A part on a device; None: there is no such part."""
        import torch

        from nastool.tasks.batches import TensorBatches

        arrays = self.arrays(part)
        return None if arrays is None else TensorBatches(*(torch.tensor(array, device=device) for array in arrays))
