"""What is to be said first of a search: whether its policy learned, scores rank, and what it found beats chance."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nastool.core import statistics
from nastool.core.space import SearchSpace
from nastool.core.values import Arch, Objective, Trial
from nastool.learners.sharing import collapse

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
    text = f"what was found is {'' if better else 'not shown to be '}better than random: {metric} on average {means}"
    text += f", one-sided {how} p = {p:.2g} (shown is p < {SHOWN:g})"
    if least >= SHOWN:
        text += f"; so few cannot show it, p is at least {least:.2g}: give --retrain {ENOUGH}"
    if not held_out:
        text += "; without test images it is judged by those that the search chose by, which shows nothing"
    return {**result, "p": p, "better": better, "says": text}


def verdicts(
    space: SearchSpace, trials: Sequence[Trial], derived: Sequence[Arch], report: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """What is said first of a search with shared weights, in this order; as JSON.

    Args:
        space: That was searched.
        trials: All of the search's.
        derived: Its best architectures, best first.
        report: What was compared after it: "ranking", "verdict".

    Returns:
        "about" policy, collapse, ranking or random; "says" it in a sentence; "shown": whether that is good news, None:
        it was not measured. Without a policy nothing is said of it, without signs of a collapse nothing of that.
    """
    rounds = [trial for trial in trials if trial.proposal.policy is not None and trial.evaluation is not None]
    return [
        *([_of_policy(rounds[-1])] if rounds else []),
        *({"about": "collapse", "shown": False, "says": sign} for sign in _signs(space, rounds, derived)),
        _of_ranking(report.get("ranking")),
        _against_random(report.get("verdict")),
    ]


def _of_policy(last: Trial) -> dict[str, Any]:
    assert last.evaluation is not None
    found = last.evaluation.metrics
    if "gain" not in found:
        return {"about": "policy", "shown": None, "says": "whether the policy learned was not measured"}
    gain, error = found["gain"], found["gain_se"]
    low, high = gain - 1.96 * error, gain + 1.96 * error
    says = f"the policy {'learned' if low > 0 else 'is not shown to have learned'}: rewards of its children are "
    says += f"{abs(gain):.3f} {'above' if gain >= 0 else 'below'} those of uniform ones, with the same weights"
    says += f" (95% interval {low:.3f} to {high:.3f})"
    return {"about": "policy", "shown": low > 0, "says": says, "gain": gain, "interval": [low, high]}


def _signs(space: SearchSpace, rounds: Sequence[Trial], derived: Sequence[Arch]) -> list[str]:
    entropy, candidates, preferred = None, None, None
    for trial in rounds:
        assert trial.evaluation is not None
        entropy, learnt = trial.evaluation.metrics.get("entropy"), trial.evaluation.learnt
        asked: Any = trial.proposal.policy
        wanted = (asked.get("options") or {}).get("candidates")
        if learnt is not None and learnt.candidates is not None and wanted is not None:
            candidates = (len(learnt.candidates), wanted)
        shares: Any = trial.evaluation.notes.get("frequencies")
        preferred = None if shares is None else space.arch([int(np.argmax(row)) for row in shares])
    signs = collapse(space, derived, entropy, candidates, preferred)
    return [f"the search may have collapsed: {sign}" for sign in signs]


def _of_ranking(ranking: Mapping[str, Any] | None) -> dict[str, Any]:
    if ranking is None:
        return {"about": "ranking", "shown": None, "says": "whether scores rank was not checked: --check-ranking 20"}
    p, with_ = ranking.get("p"), ranking["with"]
    shown = p is not None and p < SHOWN
    found = statistics.Ranking(ranking["architectures"], ranking["spearman"], ranking["kendall"])
    says = f"scores {'rank' if shown else 'are not shown to rank'}: {found}, against {with_}"
    return {"about": "ranking", "shown": shown, "says": says + (f" (p = {p:.2g})" if p is not None else "")}


def _against_random(found: Mapping[str, Any] | None) -> dict[str, Any]:
    if found is None:
        says = f"whether what was found beats random was not measured: --retrain {ENOUGH}"
        return {"about": "random", "shown": None, "says": says}
    return {"about": "random", "shown": found["better"] if found["p"] is not None else None, "says": found["says"]}
