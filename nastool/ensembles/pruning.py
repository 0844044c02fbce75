"""Which members of an ensemble can go: sub-architecture ensemble pruning, SAEP (Bian et al., arXiv 1910.00370).

Published are steps of a search, each on the ensemble so far: PRS drops one member at random with probability 1/2, PAP
drops those that spoil the accuracy, PIE all but one. A step of each is what is kept of n for a `size` of n - 1, n and
n - 1.
"""

from __future__ import annotations

import numpy as np

from nastool.core.errors import InputError
from nastool.ensembles.metrics import Floats, Labels, Probabilities, accuracy, mixture_of

LEAST = 2
"""Fewest members that pruning by accuracy leaves."""


def joint(x: Labels, y: Labels) -> Floats:
    """How often each pair of classes is said of the same sample, as shares of 1, (classes, classes)."""
    classes = int(max(x.max(), y.max())) + 1
    counts = np.bincount(x.astype(np.int64) * classes + y, minlength=classes**2)
    return counts.reshape(classes, classes) / len(x)


def entropy(shares: Floats) -> float:
    """Of a distribution, nats."""
    some = shares[shares > 0]
    return float(-(some * np.log(some)).sum())


def _information(pairs: Floats) -> float:
    """Mutual information I(X; Y), nats."""
    return entropy(pairs.sum(1)) + entropy(pairs.sum(0)) - entropy(pairs)


def mutual_information(x: Labels, y: Labels) -> float:
    """I(X; Y) / sqrt(H(X) H(Y)), in [0, 1]; 0 where one always says the same."""
    pairs = joint(x, y)
    both = entropy(pairs.sum(1)) * entropy(pairs.sum(0))
    return _information(pairs) / float(np.sqrt(both)) if both > 0 else 0.0


def variation_of_information(x: Labels, y: Labels) -> float:
    """1 - I(X; Y) / H(X, Y), in [0, 1]; 0 where they say the same, 1 where they are independent."""
    pairs = joint(x, y)
    whole = entropy(pairs)
    return 1 - _information(pairs) / whole if whole > 0 else 0.0


def tradeoff(x: Labels, y: Labels, labels: Labels, alpha: float = 0.5) -> float:
    """TDAC, the trade-off of diversity and accuracy: alpha VI(X, Y) + (1 - alpha) (MI(X, L) + MI(Y, L)) / 2.

    0 where both say the same everywhere, accurate or not.
    """
    if np.array_equal(x, y):
        return 0.0
    accurate = (mutual_information(x, labels) + mutual_information(y, labels)) / 2
    return alpha * variation_of_information(x, y) + (1 - alpha) * accurate


def by_accuracy(probabilities: Probabilities, labels: Labels, size: int, weights: Floats) -> list[int]:
    """PAP: without the members whose removal, of each alone, raises the accuracy of the mean; at least two remain.

    Of more than `size` those are kept whose removal costs most. The authors' code has the sign the other way round: it
    keeps those that spoil the accuracy.

    Args:
        probabilities, labels: As of a selector.
        size: How many are kept at most.
        weights: How much each member counts, (members,).

    Returns:
        Members, those that matter most first.
    """
    mean = mixture_of(probabilities, weights)
    whole = accuracy(mean, labels)
    lost = np.array([whole - accuracy(mean - w * each, labels) for w, each in zip(weights, probabilities, strict=True)])
    order: list[int] = np.argsort(-lost, kind="stable").tolist()
    return order[: min(size, max(LEAST, int((lost >= 0).sum())))]


def by_entropy(said: Labels, labels: Labels, size: int, alpha: float, rng: np.random.Generator) -> list[int]:
    """PIE: begins with a random member, and adds the one with the largest sum of trade-offs with those it has.

    Args:
        said: The class that each member takes each sample for, (members, samples).
        labels: (samples,).
        size: How many are kept; at most all.
        alpha: How much diversity counts beside accuracy, in [0, 1]: see `tradeoff`.
        rng: Source of the first.

    Raises:
        InputError: alpha is out of its range.
    """
    if not 0 <= alpha <= 1:
        raise InputError(f"alpha: need a number in [0, 1], got {alpha:g}")
    kept = [int(rng.integers(len(said)))]
    worth = np.zeros(len(said))
    accurate = np.array([mutual_information(each, labels) for each in said]) / 2
    while len(kept) < min(size, len(said)):
        last = kept[-1]
        worth[last] = -np.inf
        for i in np.flatnonzero(np.isfinite(worth) & (said != said[last]).any(1)):
            diverse = variation_of_information(said[i], said[last])
            worth[i] += alpha * diverse + (1 - alpha) * (accurate[i] + accurate[last])
        kept.append(int(worth.argmax()))
    return kept
