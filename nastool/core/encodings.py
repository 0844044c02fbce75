"""Architectures as vectors, for models that predict what they are worth."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from nastool.core.arrays import Choices

if TYPE_CHECKING:
    from nastool.core.space import SearchSpace
    from nastool.core.values import Arch

BASIC = ("onehot", "counts")
"""Kinds of vectors that every space has."""


@runtime_checkable
class Encoded(Protocol):
    """A space with kinds of vectors of its own."""

    encodings: tuple[str, ...]
    """All its kinds, the basic ones among them."""

    def encode_many(self, choices: Choices, kind: str) -> NDArray[np.float32]:
        """As `encode_many` below; kinds that are not its own it leaves to `basic`."""
        ...


@runtime_checkable
class Viewed(Protocol):
    """A space that says which kinds go together."""

    views: tuple[str, ...]
    """Those that together describe an architecture well, for models that can look at several at once."""


@runtime_checkable
class Published(Protocol):
    """A space with the settings of the code that came with its path encoding (White et al. 2021)."""

    paths_kept: int
    """How many entries of "path" that code keeps, the first ones."""
    mutation_rate: float
    """Probability with which each decision of a mutant changes there; 0: mutants are as the space makes them."""


def kinds(space: SearchSpace) -> tuple[str, ...]:
    """Kinds of vectors that the space has."""
    return space.encodings if isinstance(space, Encoded) else BASIC


def views(space: SearchSpace) -> tuple[str, ...]:
    """Kinds that together describe an architecture, as of `Viewed`; by default the basic ones."""
    return space.views if isinstance(space, Viewed) else BASIC


def encode(space: SearchSpace, arch: Arch, kind: str = "onehot") -> NDArray[np.float32]:
    """The vector of one architecture, shape (d,). ValueError: the space has no such kind."""
    vector: NDArray[np.float32] = encode_many(space, np.array([arch.choices]), kind)[0]
    return vector


def encode_many(space: SearchSpace, choices: Choices, kind: str = "onehot") -> NDArray[np.float32]:
    """The vectors of n architectures, shape (n, d).

    Args:
        space: of which they are members.
        choices: option indices, shape (n, decisions).
        kind: one of `kinds`.

    Raises:
        ValueError: the space has no such kind.
    """
    return space.encode_many(choices, kind) if isinstance(space, Encoded) else basic(space, choices, kind)


def basic(space: SearchSpace, choices: Choices, kind: str) -> NDArray[np.float32]:
    """Vectors of the kinds that every space has, as of `encode_many`.

    "onehot": the decisions' indicator vectors one after another; d = number of options of all decisions.
    "counts": how many decisions chose each option name; d = number of different names.
    """
    sizes = [len(decision.options) for decision in space.decisions]
    starts = np.cumsum((0, *sizes[:-1]))
    onehot = np.zeros((len(choices), sum(sizes)), dtype=np.float32)
    np.put_along_axis(onehot, choices.astype(np.intp) + starts, 1, axis=1)
    if kind == "onehot":
        return onehot
    if kind == "counts":
        names = [option for decision in space.decisions for option in decision.options]
        different = list(dict.fromkeys(names))
        return onehot @ np.array([[name == other for other in different] for name in names], dtype=np.float32)
    raise ValueError(f"space {space.name} has no encoding {kind!r}; it has {', '.join(kinds(space))}")
