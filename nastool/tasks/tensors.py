"""Data that are arrays of as many examples each. Imports no torch until they are put on a device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b, blake2s
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nastool.core.task import Batches, Part, Task
from nastool.core.values import Scalar
from nastool.tasks import splitting
from nastool.tasks.arrays import Target, statistics_of, uneven
from nastool.tasks.splitting import FEW, Examples
from nastool.tasks.supervised import Balance, Statistics, Supervised

if TYPE_CHECKING:
    import torch

Arrays = Sequence[NDArray[Any]]
"""What networks read and, last, what they should say; the first dimension is the examples."""
PARTS: tuple[Part, ...] = ("train", "val", "test")


class TensorData:
    """A data set, read and split."""

    name: str
    task: Task
    nouns: ClassVar[str] = "examples"
    """What its examples are called among the facts."""

    def __init__(
        self,
        name: str,
        task: Task,
        train: Arrays,
        val: Arrays,
        test: Arrays | None = None,
        *,
        about: Mapping[str, Any] | None = None,
        digest: str = "",
        note: str = "",
    ) -> None:
        """Keeps arrays.

        Args:
            name: As it was asked for.
            task: What networks for it are for.
            train: Those that weights are trained on.
            val: Those that architectures are chosen by.
            test: Those that are held out of all that; None: there are none.
            about: What a network's file says of the data, besides the task.
            digest: 16 hexadecimal digits that name all examples of the source, however they are split.
            note: What was read and what was left out, in a line.
        """
        self.name = name
        self.task = task
        self._about = about or {}
        self._digest = digest
        self._note = note
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
        sizes = {f"{part}_{self.nouns}": len(arrays[-1]) for part in PARTS if (arrays := self.arrays(part)) is not None}
        said = {"data_digest": self._digest, "read": self._note}
        return {**sizes, "fingerprint": self.fingerprint, **{key: text for key, text in said.items() if text}}

    def metadata(self) -> Mapping[str, Any]:
        """What a network's file should say besides the task."""
        return self._about

    def batches(self, part: Part, device: torch.device) -> Batches | None:
        """A part on a device; None: there is no such part."""
        import torch

        from nastool.tasks.batches import TensorBatches

        arrays = self.arrays(part)
        return None if arrays is None else TensorBatches(*(torch.tensor(array, device=device) for array in arrays))


@dataclass(frozen=True)
class Encoded:
    """What training examples say of how all are read.

    Attributes:
        encode: Makes arrays (N, channels or features, ...) of examples, not normalised; NaN is what is missing.
        mean: Mean of each channel or feature, which is subtracted.
        std: What it is divided by then, > 0.
        about: What a network's file says of that, as JSON.
        note: What was read and what was left out, in a line.
    """

    encode: Callable[[NDArray[Any]], NDArray[Any]]
    mean: NDArray[np.float64]
    std: NDArray[np.float64]
    about: Mapping[str, Any]
    note: str


def supervised(
    name: str,
    x: Mapping[str, NDArray[Any]],
    target: Target,
    make: Callable[..., Supervised],
    learn: Callable[[NDArray[Any]], Encoded],
    content: Iterable[NDArray[Any]],
    *,
    balance: Balance = None,
    **options: Any,
) -> TensorData:
    """Examples as data, split, and normalised by what the training part says.

    Args:
        name: As it was asked for.
        x: Examples by part, of any kind that can be indexed.
        target: What is to be said of them.
        make: Makes the task of the sizes of an example, the numbers of classes and targets, and statistics.
        learn: Called with the training examples.
        content: All that the source holds, for its digest.
        balance: As of `nastool.tasks.supervised`.
        options: Of `splitting.split`.

    Raises:
        InputError: There are too few examples, or the options do not go with them.
    """
    noun: str = getattr(make, "noun", "example")
    parts = {part: Examples(each, target.y[part]) for part, each in x.items()}
    split = splitting.split(name, parts, noun, **options)
    train = split[0]
    encoded, statistics = learn(train.x), statistics_of(train.y, len(target.classes), balance)

    def arrays(part: Examples) -> Arrays:
        found = encoded.encode(part.x)
        mean, std = (each.reshape(-1, *[1] * (found.ndim - 2)) for each in (encoded.mean, encoded.std))
        normalised = np.nan_to_num((found - mean) / std, copy=False).astype(np.float32)
        return normalised, part.scaled(statistics).y

    train_arrays, val, test = (None if part is None else arrays(part) for part in split)
    assert train_arrays is not None and val is not None
    known = uneven(train.y, target.classes) if target.classes and balance is None else ""
    digest = blake2b("\0".join([*target.classes, *target.names]).encode(errors="surrogatepass"), digest_size=8)
    for array in (*content, *target.y.values()):
        plain = "\0".join(array.tolist()).encode() if array.dtype == object else np.ascontiguousarray(array).data
        digest.update(plain)
    normalisation = {"mean": encoded.mean.tolist(), "std": encoded.std.tolist()}
    return TensorData(
        name,
        make(*train_arrays[0].shape[1:], len(target.classes), len(target.names), statistics),
        train_arrays,
        val,
        test,
        about={**about_target(statistics, target.classes, target.names), **normalisation, **encoded.about},
        digest=digest.hexdigest(),
        note="; ".join(filter(None, [encoded.note, known])),
    )


def about_target(statistics: Statistics, classes: Sequence[str], targets: Sequence[str]) -> dict[str, Any]:
    """What a network's file says of what the network says: the classes' names, or the numbers' and their units."""
    if classes:
        return {"classes": tuple(classes)}
    return {"targets": tuple(targets), "target_mean": statistics.mean, "target_std": statistics.std}


def notes(facts: Mapping[str, object]) -> Iterator[str]:
    """What the user should know of the data before anything is trained. facts: of an evaluator's `describe`."""
    for key in ("read", "fitted"):
        if (said := facts.get(key)) is not None:
            yield f"note: {said}"
    for noun in ("image", "example"):
        if note := note_on_few(facts.get(f"val_{noun}s"), noun):
            yield note
    if isinstance(steps := facts.get("training_steps"), int) and steps < FEW_STEPS:
        few = f"{steps} step{'s' * (steps != 1)}"
        yield f"note: a training has only {few}: little is learnt in so few; give more epochs, or a smaller batch_size"


FEW_STEPS = 50
"""In fewer steps most networks learn next to nothing."""


def note_on_few(count: object, noun: str = "image") -> str | None:
    """What the user of so few examples for validation should know before a search; None: nothing."""
    if not isinstance(count, int) or not 0 < count < FEW:
        return None
    coarse = (
        f"so accuracies move in steps of {1 / count:.2g}" if noun == "image" else "which hardly tell networks apart"
    )
    return (
        f"note: only {count} validation {noun}s, {coarse}: "
        f"give more, or a larger part of the training {noun}s with -E val_fraction="
    )
