"""Gaussian processes over the architectures of a space: how they see these, and what they make of noisy results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from nastool.core import encodings
from nastool.core.arrays import Choices
from nastool.core.limits import whole
from nastool.core.space import SearchSpace

if TYPE_CHECKING:
    from nastool.learners.predictors.gaussian_process import View

Floats = NDArray[np.float64]
Features = list[NDArray[np.float32]]
"""Vectors of n architectures, (n, d), for each encoding."""

FEWEST = 10
"""Of fewer results nothing is believed but what was measured."""
FIT_POINTS, MOST_POINTS = 300, 500
"""Most results that a fit of the hyper-parameters sees, and that the process sees."""
CUT = 0.5
"""How many standard deviations, told from the median deviation, below the median results are cut off."""
NOISE, MOST_NOISE = 0.1, 0.3
"""The noise's variance as a share of that of the results: what is thought of it before, and the most that it can be."""
SURE = 5
"""So many repeated results weigh as much as MOST_NOISE does."""


def encode(space: SearchSpace, choices: Choices, kinds: Sequence[str]) -> Features:
    """Encodings of the kinds given, of architectures given by their option indices, (n, decisions)."""
    return [encodings.encode_many(space, choices, kind) for kind in kinds]


def views(space: SearchSpace, kinds: Sequence[str]) -> list[View]:
    """How a process sees each of these encodings: scaled by what a fixed sample of the whole space looks like."""
    from nastool.learners.predictors.gaussian_process import View  # it takes scipy, which listing strategies need not

    rng, drawn = np.random.default_rng(0), whole(space)
    sample = encode(space, np.array([drawn.sample(rng).choices for _ in range(500)]), kinds)
    options = [len(decision.options) for decision in space.decisions]
    groups = {"onehot": np.repeat(np.arange(len(options)), options)}
    return [
        View.of(features, groups.get(kind, np.zeros(features.shape[1], dtype=np.intp)))
        for kind, features in zip(kinds, sample, strict=True)
    ]


class Believed(NamedTuple):
    """What is believed of measured architectures, without the noise of their measurement.

    which: (m,), places of the results that the process saw. losses: (m,), expected ones; deviations: (m,), the standard
    deviations of what these may be.
    """

    which: NDArray[np.intp]
    losses: Floats
    deviations: Floats


def believed(space: SearchSpace, choices: Choices, losses: Floats) -> Believed | None:
    """What results would be without noise, by a Gaussian process over the encodings that the space recommends.

    The noise's variance is fitted with the other hyper-parameters, so results that similar architectures do not bear
    out are doubted. Single results do not tell noise from what an architecture has of its own, so the process may call
    noise what it fails to see: at most MOST_NOISE of the results' variance is taken for it, or more where architectures
    with several results show more (`most_noise`). Losses above their median by more than CUT standard deviations count
    as that: among the best a space is smoother than as a whole. Of more than MOST_POINTS results it sees so many, as of
    `representatives`.

    Args:
        choices: Option indices of the architectures measured, (n, decisions).
        losses: Results, (n,), finite; lower is better.

    Returns:
        None: of fewer than FEWEST results, or of results that are equal, nothing can be said.
    """
    if len(losses) < FEWEST:
        return None
    from nastool.learners.predictors.gaussian_process import GaussianProcess

    median = float(np.median(losses))
    kept = np.minimum(losses, median + CUT * 1.4826 * float(np.median(np.abs(losses - median))))
    which, fitted = representatives(losses, MOST_POINTS), representatives(losses, FIT_POINTS)
    center, scale = float(kept[which].mean()), float(kept[which].std())
    if scale <= 1e-12 * max(1.0, abs(center)):
        return None
    targets, kinds = (kept - center) / scale, encodings.views(space)
    process = GaussianProcess(views(space, kinds), noise=NOISE)
    process.fit(encode(space, choices[fitted], kinds), targets[fitted])
    means, deviations = process.denoised(
        encode(space, choices[which], kinds), targets[which], most_noise(choices, targets)
    )
    return Believed(which, center + scale * means, scale * deviations)


def most_noise(choices: Choices, targets: Floats) -> float:
    """The most that the noise's variance can be: MOST_NOISE, or more where repeated results differ by more.

    Their pooled variance is weighed by its degrees of freedom, MOST_NOISE as if it had SURE. Repeated results that are
    more alike say little: a table gives the same one again.

    Args:
        choices: Of the architectures measured, (n, decisions).
        targets: Results, (n,), of about unit variance.
    """
    _, which = np.unique(choices, axis=0, return_inverse=True)
    counts = np.bincount(which)
    freedom = len(targets) - len(counts)
    squares = np.square(targets - (np.bincount(which, targets) / counts)[which]).sum()
    return max(MOST_NOISE, float(SURE * MOST_NOISE + squares) / (SURE + freedom))


def representatives(losses: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """Results that a model is fitted to, ascending: all, or the best half of count and an even choice of the rest."""
    order = np.argsort(losses, kind="stable")
    if len(order) <= count:
        return np.arange(len(order))
    best, rest = order[: count // 2], order[count // 2 :]
    even = np.linspace(0, len(rest) - 1, count - len(best)).astype(np.intp)
    return np.sort(np.concatenate([best, rest[even]]))


def quantiles(values: Floats) -> Floats:
    """The standard normal quantile of each value's rank; equal values share their mean rank."""
    from scipy.special import ndtri

    _, position, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - counts / 2  # from 0 to n, in the middle of those that share it
    return np.asarray(ndtri(ranks / len(values))[position])
