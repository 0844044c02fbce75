"""How good the mean of several networks' predictions is, how far they disagree, and how to calibrate it.

`probabilities` are (members, samples, classes), rows in [0, 1] that sum to 1; `mixture` is (samples, classes), the mean
of members or one of them; `labels` are (samples,) classes. Logarithms are natural, NLL is in nats per sample.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Probabilities = NDArray[np.floating[Any]]
Labels = NDArray[np.integer[Any]]
Floats = NDArray[np.float64]

FLOOR = 1e-12
"""Least probability that a label counts with, so that one wrong certainty does not make an NLL infinite."""
COLDEST, HOTTEST = 0.02, 50.0
"""Temperatures lie between; separable predictions would be best at 0."""


def mixture_of(probabilities: Probabilities, weights: Sequence[float] | Floats | None = None) -> Floats:
    """Mean of members' probabilities, (samples, classes); weights sum to 1, by default all are alike."""
    if weights is None:
        return np.asarray(np.mean(probabilities, axis=0, dtype=np.float64))
    each = np.asarray(weights, np.float64)
    return np.asarray(np.einsum("m,mnc->nc", each, probabilities.astype(np.float64, copy=False)))


def of_labels(probabilities: Probabilities, labels: Labels) -> Probabilities:
    """The probability that each member gives to each sample's label, (members, samples), as float32 or wider."""
    found = probabilities[:, np.arange(len(labels)), labels]
    return found.astype(np.float32) if found.dtype == np.float16 else found


def _nlls(of_label: Probabilities) -> Floats:
    return -np.log(np.maximum(of_label, FLOOR), dtype=np.float64)


def accuracy(mixture: Probabilities, labels: Labels) -> float:
    """Fraction of samples whose likeliest class is the label; of equally likely ones the first counts."""
    return float(np.mean(mixture.argmax(-1) == labels))


def nll(mixture: Probabilities, labels: Labels) -> float:
    """Negative log-likelihood, the mean over samples."""
    return float(_nlls(mixture[np.arange(len(labels)), labels]).mean())


def brier(mixture: Probabilities, labels: Labels) -> float:
    """Brier score in [0, 2]: the squared distance to the one-hot label, summed over classes, mean over samples."""
    of_label = mixture[np.arange(len(labels)), labels].astype(np.float64)
    return float(np.mean(np.square(mixture, dtype=np.float64).sum(-1) - 2 * of_label + 1))


@dataclass(frozen=True)
class Bins:
    """Samples by confidence, the probability of the likeliest class; empty bins are left out. Arrays of (bins,)."""

    counts: NDArray[np.int64]
    confidences: Floats
    """Mean confidence of each bin's samples."""
    accuracies: Floats
    """How many of each bin's samples are right, in [0, 1]."""

    @property
    def ece(self) -> float:
        """Expected calibration error in [0, 1]: sum of n_b/n |accuracy - confidence| (Naeini et al., AAAI 2015)."""
        return float(np.dot(self.counts / self.counts.sum(), np.abs(self.accuracies - self.confidences)))


def binned(mixture: Probabilities, labels: Labels, bins: int = 15, *, adaptive: bool = False) -> Bins:
    """Samples by confidence, in `bins` equally wide bins (lo, hi] of [0, 1].

    adaptive: bins of as many samples each, up to one, instead (Nguyen & O'Connor, EMNLP 2015).
    """
    sure = np.asarray(mixture.max(-1), np.float64)
    right = mixture.argmax(-1) == labels
    if adaptive:
        order = np.argsort(sure, kind="stable")
        ranks = np.empty(len(sure), np.int64)
        ranks[order] = np.arange(len(sure))
        which = ranks * bins // len(sure)
    else:
        which = np.clip(np.ceil(np.round(sure * bins, 9)).astype(np.int64) - 1, 0, bins - 1)  # .7 is of (.6, .7]
    counts = np.bincount(which, minlength=bins)
    full = counts > 0
    sums = (np.bincount(which, values, bins)[full] for values in (sure, right))
    confidences, accuracies = (total / counts[full] for total in sums)
    return Bins(counts[full], confidences, accuracies)


def disagreements(probabilities: Probabilities, labels: Labels | None = None) -> Floats:
    """How often two members' likeliest classes differ, for each pair, (members, members), 0 on the diagonal.

    labels: Divide each pair's by 1 - the mean of its two accuracies (Zaidi et al., NeurIPS 2021): networks that err as
        often in other places have about 2. A pair without errors does not disagree: 0.
    """
    said = probabilities.argmax(-1)
    differ = np.array([(said != one).mean(-1, dtype=np.float64) for one in said])
    if labels is None:
        return differ
    right = (said == labels).mean(-1)
    wrong = 1 - (right[:, None] + right) / 2
    return np.asarray(np.divide(differ, wrong, out=np.zeros_like(differ), where=wrong > 0))


def mean_of_pairs(matrix: Floats) -> float:
    """Mean over pairs of different members; 0 for one member."""
    members = len(matrix)
    return float(matrix[np.triu_indices(members, 1)].mean()) if members > 1 else 0.0


def oracle_nll(probabilities: Probabilities, labels: Labels) -> float:
    """NLL if on each sample the member spoke that is best there: no choice among members is better."""
    return float(_nlls(of_labels(probabilities, labels).max(0)).mean())


def member_nlls(probabilities: Probabilities, labels: Labels) -> Floats:
    """NLL of each member, (members,)."""
    return np.asarray(_nlls(of_labels(probabilities, labels)).mean(1))


def jensen_gap(probabilities: Probabilities, labels: Labels, weights: Sequence[float] | Floats | None = None) -> float:
    """The members' mean NLL minus the NLL of their mean, never negative (Jensen's inequality)."""
    alone = np.average(member_nlls(probabilities, labels), weights=None if weights is None else np.asarray(weights))
    return float(alone) - nll(mixture_of(probabilities, weights), labels)


def measured(
    probabilities: Probabilities,
    labels: Labels,
    weights: Sequence[float] | Floats | None = None,
    mixture: Probabilities | None = None,
) -> dict[str, float]:
    """All metrics of an ensemble by name.

    mixture: What it says, if that is not the weighted mean, such as this at another temperature.
    """
    said = mixture_of(probabilities, weights) if mixture is None else mixture
    return {
        "accuracy": accuracy(said, labels),
        "nll": nll(said, labels),
        "brier": brier(said, labels),
        "ece_10": binned(said, labels, 10).ece,
        "ece_15": binned(said, labels, 15).ece,
        "ece_adaptive": binned(said, labels, 15, adaptive=True).ece,
        "disagreement": mean_of_pairs(disagreements(probabilities)),
        "normalised_disagreement": mean_of_pairs(disagreements(probabilities, labels)),
        "oracle_nll": oracle_nll(probabilities, labels),
        "jensen_gap": jensen_gap(probabilities, labels, weights),
    }


def at_temperature(probabilities: Probabilities, temperature: float | Floats) -> Floats:
    """softmax(log p / T) over the last axis. T: a positive number, or (members,), one for each member."""
    each = np.asarray(temperature, np.float64)
    logs = np.log(np.maximum(probabilities, FLOOR), dtype=np.float64) / each.reshape(
        each.shape + (1,) * (2 * each.ndim)
    )
    powers = np.exp(logs - logs.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True), np.float64)


def temperature_of(mixture: Probabilities, labels: Labels) -> float:
    """The temperature with the least NLL (Guo et al., ICML 2017), in [COLDEST, HOTTEST].

    The NLL is convex in 1/T, so Newton's method finds its only minimum; where a step leaves what is left of the
    interval, it is halved.
    """
    logs = np.log(np.maximum(mixture, FLOOR), dtype=np.float64)
    of_label = logs[np.arange(len(labels)), labels].mean()
    low, high, inverse = 1 / HOTTEST, 1 / COLDEST, 1.0
    for _ in range(60):
        powers = np.exp(inverse * (logs - logs.max(-1, keepdims=True)))
        powers /= powers.sum(-1, keepdims=True)
        means = (powers * logs).sum(-1)
        slope = float(means.mean() - of_label)
        curvature = float(((powers * logs**2).sum(-1) - means**2).mean())
        low, high = (low, inverse) if slope > 0 else (inverse, high)
        step = inverse - slope / curvature if curvature > 0 else low - 1
        after = step if low < step < high else (low + high) / 2
        if abs(after - inverse) <= 1e-10 * inverse:
            break
        inverse = after
    return 1 / inverse
