"""Stratified draws: each class in proportion."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


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
