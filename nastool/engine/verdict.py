"""Whether what a search found is better than random architectures."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nastool.core import statistics
from nastool.core.values import Objective

SHOWN = 0.05
"""Probability below which chance does as well for what was found to be called better than random."""
ENOUGH = next(k for k in itertools.count(1) if 1 / math.comb(2 * k, k) < SHOWN)
"""Number of each that can show it."""


def verdict(
    found: Sequence[Mapping[str, float]], random: Sequence[Mapping[str, float]], objective: Objective
) -> dict[str, Any]:
    """Whether what was found is better than random architectures that were trained the same; as JSON.

    found, random: the metrics of each network. Judged by what the objective is called on test data; where there is
    none, by the objective itself, which proves nothing, since the search chose by the same images. Better is what a
    permutation test of the means, one-sided, finds with p < SHOWN. "says" is all of it in a sentence.
    """
    metric = objective.metric.replace("val_", "test_", 1) if objective.metric.startswith("val_") else objective.metric
    held_out = metric != objective.metric and any(metric in metrics for metrics in [*found, *random])
    if not held_out:
        metric = objective.metric
    mine, theirs = ([float(m[metric]) for m in metrics if metric in m] for metrics in (found, random))
    result: dict[str, Any] = {"metric": metric, "held_out": held_out, "found": mine, "random": theirs}
    sizes = f"{len(mine)} found", f"{len(theirs)} random"
    if min(len(mine), len(theirs)) < 2:
        says = f"{' against '.join(sizes)}: too few for a verdict; give more --retrain"
        return {**result, "p": None, "better": False, "says": says}
    signed = [np.array(values) * (1 if objective.goal == "max" else -1) for values in (mine, theirs)]
    p, least = statistics.permutation(signed[0], signed[1]), 1 / math.comb(len(mine) + len(theirs), len(mine))
    ahead = float(signed[0].mean() - signed[1].mean())
    better = held_out and ahead > 0 and p < SHOWN
    means = " against ".join(f"{np.mean(v):.4f} ({size})" for v, size in zip((mine, theirs), sizes, strict=True))
    how = "exact permutation test" if 1 / least <= statistics.PERMUTATIONS else "permutation test"
    text = f"{metric} on average {means}: {'' if better else 'not shown to be '}better than random"
    text += f" (one-sided {how}: p = {p:.2g}, shown is p < {SHOWN:g})"
    if least >= SHOWN:
        text += f"; so few cannot show it, p is at least {least:.2g}: give --retrain {ENOUGH}"
    if not held_out:
        text += "; without test images it is judged by those that the search chose by, which shows nothing"
    return {**result, "p": p, "better": better, "says": text}
