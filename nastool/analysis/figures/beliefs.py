"""Beliefs of a strategy: a policy's probabilities, a model's expectations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nastool.analysis.figures import style
from nastool.analysis.figures.base import Drawn, Kind
from nastool.analysis.figures.families import families, of_frequencies
from nastool.analysis.figures.operations import PANELS, curves, named, table_figure
from nastool.core.statistics import rank_correlation
from nastool.engine.study import Study
from nastool.engine.study_trial import StudyTrial

SIGNS = {
    "reward": "reward",
    "gain": "gain: reward of the policy's children less that of uniform ones",
    "entropy": "entropy (nats)",
    "switch_rate": "rate of skip connections",
}
Frequencies = Sequence[Sequence[float]]


def rounds(study: Study) -> list[StudyTrial]:
    """Finished rounds of a policy, in the order finished."""
    return [trial for trial in study.finished if trial.is_round and trial.state == "done"]


def frequencies(study: Study) -> list[tuple[int, Frequencies]]:
    """(round, or else trial; how often the policy draws each option of each decision), of those that say so."""
    sizes = [len(decision.options) for decision in study.space.decisions]
    rows = list(enumerate(rounds(study), 1)) or [(trial.id, trial) for trial in study.trials]
    found: list[tuple[int, Frequencies]] = []
    for number, trial in rows:
        given = trial.frequencies
        if isinstance(given, list | tuple) and [len(row) for row in given if isinstance(row, list | tuple)] == sizes:
            found.append((number, given))
    return found


def expectations(study: Study) -> list[tuple[float, float]]:
    """(expected, measured) of the finished trials that a model proposed, in the order asked."""
    return [(t.expected, t.value) for t in study.trials if t.expected is not None and t.value is not None]


def signs(study: Study) -> list[Drawn]:
    """Reward, gain, entropy and the like, round by round."""
    done = rounds(study)
    known = [name for name in SIGNS if any(name in trial.metrics for trial in done)]
    if len(done) < 2 or not known:
        return []
    figure, panels = style.new(0.4 + 1.35 * len(known), rows=len(known), sharex=True)
    for number, (axes, name) in enumerate(zip(panels, known, strict=True)):
        y = [trial.metrics.get(name, math.nan) for trial in done]
        axes.plot(range(1, len(y) + 1), y, color=style.color(number), linewidth=1.6, marker="o", markersize=2.5)
        axes.set_title(SIGNS[name])
        style.grid(axes)
    panels[-1].set_xlabel("round")
    style.thousands(panels[-1])
    most = sum(math.log(len(decision.options)) for decision in study.space.decisions)
    text = "How the policy learns, round by round."
    if "entropy" in known:
        text += f" A policy that has made no choice at all has an entropy of {most:.1f} nats."
    return [Drawn("policy", "The policy", text, figure)]


def preferences(study: Study) -> list[Drawn]:
    """Shares of the options that the policy draws, over rounds or trials."""
    known = frequencies(study)
    if len(known) < 2:
        return []
    found = families(study.space)[:PANELS]
    tables = []
    for family in found:
        cells = [of_frequencies(family, given) for _, given in known]
        tables.append(np.array([[np.nanmean(c)] if family.switches else np.nansum(c, axis=0) / len(c) for c in cells]))
    what = "round" if rounds(study) else "trial"
    figure = curves(found, [number for number, _ in known], tables, what)
    text = f"How often the policy draws each option, {what} by {what}, over all decisions that offer it."
    return [] if figure is None else [Drawn("policy-options", "What the policy prefers", text, figure)]


def last_round(study: Study) -> list[Drawn]:
    """The policy's last known probabilities, decision by decision."""
    known = frequencies(study)
    if not known:
        return []
    number, given = known[-1]
    when = f"after round {number}" if rounds(study) else f"before trial {number}"
    found = []
    for k, family in enumerate(families(study.space)[:PANELS]):
        figure, cut = table_figure(family, of_frequencies(family, given))
        text = f"Probability of each option in %, estimated from draws {when}."
        name = "policy-decisions" + (f"-{k + 1}" if k else "")
        found.append(Drawn(name, "The policy's choices" + named(family, study), text + cut, figure))
    return found


def staleness(study: Study) -> list[Drawn]:
    """By how many updates gradients came late, of a policy with replicas: how often each."""
    noted: list[Any] = [trial.trial.proposal.notes.get("staleness") for trial in study.trials]
    given = next((counts for counts in reversed(noted) if isinstance(counts, dict)), {})
    counts = sorted((int(k), n) for k, n in given.items() if k.isdecimal() and len(k) < 10 and isinstance(n, int))
    total = sum(count for _, count in counts)
    if total < 1:
        return []
    figure, (axes,) = style.new(2.4)
    axes.bar(*zip(*counts, strict=True), color=style.color(0))
    style.finish(axes, "updates late", "gradients", whole=True)
    mean = sum(updates * count for updates, count in counts) / total
    text = f"By how many updates of the policy each of {total:,} gradients came late: {mean:.2f} on average."
    return [Drawn("staleness", "Staleness of gradients", text, figure)]


def expected(study: Study) -> list[Drawn]:
    """Expected against measured."""
    pairs = expectations(study)
    if len(pairs) < 3:
        return []
    figure, (axes,) = style.new(3.6)
    cut = len(pairs) - len(pairs) // 3
    thinned = ""
    low, high = style.frame([value for pair in pairs for value in pair], study.objective.goal)
    for number, (part, what) in enumerate(((pairs[:cut], "earlier"), (pairs[cut:], "last third"))):
        shown, said = style.thinned(part, f"of the {what}")
        thinned += said
        style.points(axes, shown, (5, 1)[number], what, zorder=2 + number)
    axes.plot((low, high), (low, high), color=style.MUTED, linewidth=0.8, linestyle=style.DASHES[1], label="equal")
    axes.set_xlim(low, high)
    axes.set_ylim(low, high)
    metric = style.clean(study.objective.metric)
    style.finish(axes, f"expected {metric}", f"measured {metric}")
    axes.grid(True, axis="x", color=style.GRID, linewidth=0.6)
    text = f"What the model expected of {len(pairs):,} architectures before they were measured.{thinned} " + agreement(
        study
    )
    outside = sum(not (low <= a <= high and low <= b <= high) for a, b in pairs)
    if outside:
        text += f" {outside:,} lie outside the frame."
    return [Drawn("expected", "Expected and measured", text, figure)]


def agreement(study: Study) -> str:
    """Spearman's correlation of expected and measured values, in a sentence."""
    pairs = expectations(study)
    late = pairs[len(pairs) - len(pairs) // 3 :]
    shown = []
    for what, part in (("over all", pairs), ("over the last third", late)):
        rho = rank_correlation([a for a, _ in part], [b for _, b in part]).spearman if len(part) > 2 else None
        shown.append(f"{'undefined' if rho is None else f'{rho:.2f}'} {what}")
    return f"Spearman's rank correlation: {', '.join(shown)}."


KINDS = (
    Kind("policy", "A policy's reward and entropy, round by round", signs),
    Kind("policy-options", "What a policy prefers, over rounds or trials", preferences),
    Kind("policy-decisions", "A policy's probabilities at the end, decision by decision", last_round),
    Kind("staleness", "By how many updates gradients of replicas came late", staleness),
    Kind("expected", "What a model expected against what was measured", expected),
)
