"""Examples split into those for training, validation and testing, by stratified draws: each class in proportion."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from nastool.core.errors import InputError
from nastool.core.files import Limit
from nastool.tasks.supervised import Statistics

TEST_FRACTION = 0.2
TEST_SEED = 20_240_229  # fixed: what is held out for testing must not depend on any option
FEW = 50
"""Fewer validation examples hardly tell architectures apart."""


@dataclass(frozen=True, eq=False)
class Examples:
    """What networks read, x (N, ...), and what they should say, y: (N,) int64 labels, or (N, targets) numbers."""

    x: NDArray[Any]
    y: NDArray[Any]

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, indices: NDArray[np.intp]) -> Self:
        return type(self)(self.x[indices], self.y[indices])

    def __add__(self, other: Examples) -> Self:
        return type(self)(np.concatenate([self.x, other.x]), np.concatenate([self.y, other.y]))

    def scaled(self, statistics: Statistics) -> Self:
        """The same with numbers in standard deviations from their means, float32; labels stay."""
        if self.y.ndim == 1:
            return self
        return type(self)(self.x, ((self.y - np.array(statistics.mean)) / np.array(statistics.std)).astype(np.float32))

    @property
    def strata(self) -> NDArray[np.int64]:
        """What each part gets in proportion, (N,): the classes; of numbers nothing."""
        return self.y if self.y.ndim == 1 else np.zeros(len(self.y), dtype=np.int64)


E_ = TypeVar("E_", bound=Examples)


def check_options(
    *,
    split_seed: int = 0,
    val_fraction: float | None = None,
    train_size: int | None = None,
    max_gigabytes: float = 8.0,
    **others: Any,
) -> None:
    """Raises InputError for what is wrong with these whatever the files hold. others: not looked at."""
    if split_seed < 0:
        raise InputError(f"need split_seed >= 0, got {split_seed}")
    if val_fraction is not None and not 0 < val_fraction < 1:
        raise InputError(f"need 0 < val_fraction < 1, got {val_fraction}")
    if train_size is not None and train_size < 2:
        raise InputError(f"need train_size >= 2, got {train_size}")
    Limit(max_gigabytes)


def split(
    name: str,
    parts: Mapping[str, E_],
    noun: str,
    *,
    split_seed: int = 0,
    val_fraction: float | None = None,
    usual_fraction: float | None = None,
    train_size: int | None = None,
    all_data: bool = False,
) -> tuple[E_, E_, E_ | None]:
    """The examples for training, validation and testing; of the last None: too few to hold any out.

    The test examples are the source's, or else a fifth of its training examples, the same ones whatever the options.

    Args:
        name: Name of the data, for messages.
        parts: "train", perhaps "val" and "test".
        noun: What an example is called.
        split_seed: Seed of what is for validation, and of what `train_size` keeps.
        val_fraction: Part of the training examples, in (0, 1), that is for validation; not where there are such.
        usual_fraction: The same where it is not given; None: 0.1, of fewer than 500 examples so much that FEW are for
            validation, but at most 0.25.
        train_size: Number of training examples that are kept, drawn after the split.
        all_data: Those for validation are trained on, too, and none is left.

    Raises:
        InputError: There are too few, or the options do not go with what there is.
    """
    train, val, test = parts["train"], parts.get("val"), parts.get("test")
    if len(train) < 2:
        raise InputError(f"{name}: need at least 2 training {noun}s, found {len(train)}")
    if test is None:
        rest, drawn = held_out(train.strata, TEST_FRACTION, np.random.default_rng(TEST_SEED))
        train, test = train[rest], train[drawn]
    if val is None:
        fraction = val_fraction or usual_fraction or min(0.25, max(0.1, FEW / len(train)))
        rest, drawn = held_out(train.strata, fraction, np.random.default_rng([split_seed, 0]))
        train, val = train[rest], train[drawn]
    elif val_fraction is not None:
        raise InputError(f"{name} brings its own validation {noun}s: leave out val_fraction")
    if not len(val):
        more = f"{noun}s" if train.y.ndim > 1 else f"{noun}s of each class"
        raise InputError(f"{name}: no {noun} is left for validation; give more {more}")
    if all_data:
        train = train + val
        val = val[np.empty(0, dtype=np.intp)]
    if train_size is not None:
        if train_size > len(train):
            raise InputError(f"{name}: need train_size <= {len(train)} (its training {noun}s), got {train_size}")
        train = train[draw(train.strata, train_size, np.random.default_rng([split_seed, 1]))]
    return train, val, test if len(test) else None


def held_out(
    y: NDArray[np.int64], fraction: float, rng: np.random.Generator
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Places of the rest and of a fraction, or of one example of each class if that is more (and can be spared).

    Args:
        y: The labels, (n,).
        fraction: Of the examples, in (0, 1).
        rng: Source of the draws.
    """
    drawn = draw(y, max(round(fraction * len(y)), len(np.unique(y))), rng, leave=1)
    kept = np.ones(len(y), dtype=bool)
    kept[drawn] = False
    return np.flatnonzero(kept), drawn


def draw(y: NDArray[np.int64], count: int, rng: np.random.Generator, leave: int = 0) -> NDArray[np.intp]:
    """Indices of count examples, ascending: each class in proportion (largest remainders).

    Takes at least one of each class where count allows and leaves at least `leave` of each; fewer than count
    are drawn only where that demands it.
    """
    # In random order, so that no class is favoured where remainders tie.
    members = [np.flatnonzero(y == label) for label in rng.permutation(np.unique(y))]
    sizes = np.array([len(m) for m in members])
    most = np.maximum(sizes - leave, 0)
    least = np.minimum(most, 1 if count >= len(sizes) else 0)
    quota = count * sizes / sizes.sum()
    take = np.clip(np.floor(quota).astype(np.intp), least, most)
    count = min(count, int(most.sum()))
    while (short := count - int(take.sum())) != 0:
        step = 1 if short > 0 else -1
        free = take < most if step > 0 else take > least
        take[np.argmax(np.where(free, step * (quota - take), -np.inf))] += step
    drawn = [rng.permutation(m)[:n] for m, n in zip(members, take, strict=True)]
    return np.sort(np.concatenate(drawn))
