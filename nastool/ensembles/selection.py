"""Which of many networks to average, chosen by what they predict on samples that judge nothing afterwards.

A selector takes probabilities (members, samples, classes), labels (samples,) and how many members are wanted, and says
which and with what weights. It is deterministic; of equally good members it takes the first. What is compared is the
NLL of the mean, for which only the probability of each label matters, so a step is a pass over (members, samples).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from nastool.core.errors import InputError
from nastool.ensembles import pruning
from nastool.ensembles.metrics import FLOOR, Floats, Labels, Probabilities, of_labels

BLOCK = 1 << 20
"""Numbers that a step works on at a time: what lies in a CPU's cache is quicker."""


@dataclass(frozen=True)
class Selection:
    """An ensemble: which members of a pool, in the order in which they were taken, and how each counts."""

    members: list[int]
    """Rows of the pool, all different."""
    weights: Floats
    """One for each of them, positive; they sum to 1."""


class Selector(Protocol):
    """Chooses at most `size` members; its options are keyword arguments with types and descriptions."""

    def __call__(self, probabilities: Probabilities, labels: Labels, size: int) -> Selection: ...


def uniform(members: list[int]) -> Selection:
    """Members, some perhaps several times: each counts as often as it is named."""
    different = list(dict.fromkeys(members))
    return Selection(different, np.array([members.count(each) for each in different]) / len(members))


def _checked(probabilities: Probabilities, labels: Labels, size: int) -> int:
    """How many are taken, as few as there are. InputError: nothing can be chosen."""
    if probabilities.ndim != 3 or probabilities.shape[1] != len(labels):
        raise InputError(f"probabilities of shape {probabilities.shape} do not fit {len(labels)} labels")
    if min(probabilities.shape) < 1:
        raise InputError("there are no predictions to choose members by")
    if size < 1:
        raise InputError(f"size: need 1 or more members, got {size}")
    return min(size, len(probabilities))


def _nlls_with(of_label: Probabilities, total: Probabilities, count: int) -> Floats:
    """(members,): NLL of the mean when each of the pool joins `count` others whose probabilities sum to total."""
    members, samples = of_label.shape
    rows = max(1, BLOCK // samples)
    found = np.empty(members)
    for start in range(0, members, rows):
        joined = of_label[start : start + rows] + total
        np.maximum(joined, FLOOR, out=joined)
        found[start : start + rows] = -np.log(joined, out=joined).mean(1, dtype=np.float64)
    return np.asarray(found + np.log(count + 1))


def forward(probabilities: Probabilities, labels: Labels, size: int, *, replacement: bool = False) -> Selection:
    """Begins with the best member and adds the one with which the NLL of the mean is least, again and again.

    Caruana et al., ICML 2004; ForwardSelect of Zaidi et al., NeurIPS 2021.

    Args:
        replacement: A member may be added again, which gives it more weight; then there may be fewer different ones.
    """
    if replacement:
        _checked(probabilities, labels, size)
        of_label = of_labels(probabilities, labels)
        taken: list[int] = []
        total = np.zeros_like(of_label[0])
        for count in range(size):
            taken.append(int(_nlls_with(of_label, total, count).argmin()))
            total += of_label[taken[-1]]
        return uniform(taken)
    return beam(probabilities, labels, size, width=1)


def beam(probabilities: Probabilities, labels: Labels, size: int, *, width: int = 5) -> Selection:
    """As forward without replacement, but goes on from the `width` best sets of each size.

    Args:
        width: Number of sets, >= 1; 1 is forward.
    """
    return _beam(probabilities, labels, size, width, 0.0)


def diversity(
    probabilities: Probabilities, labels: Labels, size: int, *, strength: float = 1.0, width: int = 1
) -> Selection:
    """As beam, for the NLL minus `strength` times how far members are from their mean, the mean of |p_m - p|^2.

    Args:
        strength: How much a distance counts, >= 0; 0 is beam.
        width: Number of sets to go on from, >= 1.
    """
    if not strength >= 0:
        raise InputError(f"strength: need a number >= 0, got {strength:g}")
    return _beam(probabilities, labels, size, width, strength)


def _inner(flat: Probabilities, samples: int, other: Probabilities | None = None) -> Floats:
    """(members,): mean over samples of the inner product of each one's probabilities with others; None: its own."""
    rows = max(1, BLOCK // flat.shape[1])
    found = np.empty(len(flat))
    with_ = None if other is None else _wide(other)
    for start in range(0, len(flat), rows):
        block = _wide(flat[start : start + rows])
        found[start : start + rows] = np.einsum("ij,ij->i", block, block) if with_ is None else block @ with_
    return found / samples


def _wide(values: Probabilities) -> Probabilities:
    """In float32 or wider. Half precision is converted by torch, many times faster than by numpy."""
    if values.dtype != np.float16:
        return values
    import torch

    return torch.from_numpy(values).float().numpy()


@dataclass(frozen=True)
class _Set:
    """A set that a beam goes on from."""

    members: tuple[int, ...]
    total: Probabilities
    """(samples,): sum of the probabilities of labels."""
    products: Floats | None
    """(pool,): mean over samples of the inner product of each one's probabilities with the sum of ours."""


def _beam(probabilities: Probabilities, labels: Labels, size: int, width: int, strength: float) -> Selection:
    size = _checked(probabilities, labels, size)
    if width < 1:
        raise InputError(f"width: need 1 or more sets, got {width}")
    of_label = of_labels(probabilities, labels)
    pool, samples = of_label.shape
    flat = probabilities.reshape(pool, -1)
    squares = _inner(flat, samples) if strength else None
    sets = [_Set((), np.zeros_like(of_label[0]), None if squares is None else np.zeros(pool))]
    for count in range(size):
        scores = np.full((len(sets), pool), np.inf)
        for row, each in zip(scores, sets, strict=True):
            row[:] = _nlls_with(of_label, each.total, count)
            if squares is not None and each.products is not None:
                # mean |p_m - p|^2 = mean |p_m|^2 - |p|^2, and |sum + p_j|^2 = |sum|^2 + 2 sum.p_j + |p_j|^2
                own = list(each.members)
                summed = each.products[own].sum() + 2 * each.products + squares
                row -= strength * ((squares[own].sum() + squares) / (count + 1) - summed / (count + 1) ** 2)
            row[list(each.members)] = np.inf
        best: dict[frozenset[int], _Set] = {}
        for place in np.argsort(scores, axis=None, kind="stable"):
            if len(best) == width or not np.isfinite(scores.flat[place]):
                break
            before, member = sets[place // pool], int(place % pool)
            members = (*before.members, member)
            if frozenset(members) in best:
                continue
            products = before.products
            if products is not None:
                products = products + _inner(flat, samples, flat[member])
            best[frozenset(members)] = _Set(members, before.total + of_label[member], products)
        sets = list(best.values())
    return uniform(list(sets[0].members))


def top(probabilities: Probabilities, labels: Labels, size: int) -> Selection:
    """Those with the least NLL by themselves."""
    size = _checked(probabilities, labels, size)
    return uniform(_ranked(of_labels(probabilities, labels))[:size])


def _ranked(of_label: Probabilities) -> list[int]:
    """The pool, the best first."""
    return [int(each) for each in np.argsort(_nlls_with(of_label, np.zeros_like(of_label[0]), 0), kind="stable")]


def quick_greedy(probabilities: Probabilities, labels: Labels, size: int) -> Selection:
    """Goes through the members once, the best first, and keeps each with which the NLL of the mean falls.

    There may be fewer than `size` in the end.
    """
    size = _checked(probabilities, labels, size)
    of_label = of_labels(probabilities, labels)
    kept: list[int] = []
    total, least = np.zeros_like(of_label[0]), np.inf
    for member in _ranked(of_label):
        loss = _nlls_with(of_label[member : member + 1], total, len(kept))[0]
        if loss < least:
            kept.append(member)
            total, least = total + of_label[member], loss
        if len(kept) == size:
            break
    return uniform(kept)


def stacking(probabilities: Probabilities, labels: Labels, size: int, *, iterations: int = 1000) -> Selection:
    """The convex combination with the least NLL: of the whole pool first, then of the `size` with most weight in it.

    The weights are those of a mixture whose parts are given, found by expectation maximisation: each becomes the mean
    of its share in the likelihood, so the NLL never rises and no learning rate is needed (Smyth & Wolpert, Machine
    Learning 1999).

    Args:
        iterations: Most steps, >= 1; fewer where the NLL falls by less than 1e-7.
    """
    size = _checked(probabilities, labels, size)
    if iterations < 1:
        raise InputError(f"iterations: need 1 or more, got {iterations}")
    of_label = np.maximum(of_labels(probabilities, labels), FLOOR)
    weights = _mixing(of_label, iterations)
    chosen = np.argsort(-weights, kind="stable")[:size]
    weights = _mixing(of_label[chosen], iterations)
    kept = weights > 0
    return Selection([int(each) for each in chosen[kept]], weights[kept] / weights[kept].sum())


def _mixing(of_label: Probabilities, iterations: int) -> Floats:
    members, samples = of_label.shape
    weights = np.full(members, 1 / members)
    before = np.inf
    for _ in range(iterations):
        mixed = weights.astype(of_label.dtype) @ of_label
        loss = -float(np.log(mixed).mean(dtype=np.float64))
        if before - loss < 1e-7:
            break
        before = loss
        weights *= of_label @ (1 / mixed) / samples
        weights /= weights.sum()
    return weights


def prs(probabilities: Probabilities, labels: Labels, size: int, *, weighted: bool = False, seed: int = 0) -> Selection:
    """Members drawn at random, what other ways of pruning have to beat (Bian et al., arXiv 1910.00370).

    Args:
        weighted: Each counts by its weight in the convex combination of the pool with the least NLL; else all alike.
        seed: Of the draw.
    """
    size = _checked(probabilities, labels, size)
    drawn = np.random.default_rng(seed).permutation(len(probabilities))[:size]
    return _pruned(drawn.tolist(), _weights(probabilities, labels, weighted))


def pap(probabilities: Probabilities, labels: Labels, size: int, *, weighted: bool = False) -> Selection:
    """Drops members without which the mean is more accurate (`pruning.by_accuracy`), so there may be fewer than `size`.

    Args:
        weighted: As of prs.
    """
    size, weights = _checked(probabilities, labels, size), _weights(probabilities, labels, weighted)
    return _pruned(pruning.by_accuracy(probabilities, labels, size, weights), weights)


def pie(
    probabilities: Probabilities,
    labels: Labels,
    size: int,
    *,
    weighted: bool = False,
    alpha: float = 0.5,
    seed: int = 0,
) -> Selection:
    """Adds the member with the best trade-off of diversity and accuracy, by entropies (`pruning.by_entropy`).

    Args:
        weighted: As of prs.
        alpha: How much diversity counts beside accuracy, in [0, 1].
        seed: Of the member that it begins with.
    """
    size, rng = _checked(probabilities, labels, size), np.random.default_rng(seed)
    kept = pruning.by_entropy(probabilities.argmax(2), labels, size, alpha, rng)
    return _pruned(kept, _weights(probabilities, labels, weighted))


def _weights(probabilities: Probabilities, labels: Labels, weighted: bool) -> Floats:
    """Of all members, summing to 1."""
    if not weighted:
        return np.full(len(probabilities), 1 / len(probabilities))
    found = np.zeros(len(probabilities))
    mixed = stacking(probabilities, labels, len(probabilities))
    found[mixed.members] = mixed.weights
    return found


def _pruned(kept: list[int], weights: Floats) -> Selection:
    """Those that are kept, but for members without weight; all alike if that leaves none."""
    counting = [each for each in kept if weights[each] > 0]
    return Selection(counting, weights[counting] / weights[counting].sum()) if counting else uniform(kept)


SELECTORS: Mapping[str, Selector] = {
    "forward": forward,
    "beam": beam,
    "quick-greedy": quick_greedy,
    "top": top,
    "stacking": stacking,
    "diversity": diversity,
    "prs": prs,
    "pap": pap,
    "pie": pie,
}
"""By the names that users give them."""
