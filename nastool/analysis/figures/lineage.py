"""Descent of the trials."""

from __future__ import annotations

from nastool.analysis.figures import style
from nastool.analysis.figures.base import Drawn, Kind
from nastool.engine.study import Study
from nastool.engine.study_trial import StudyTrial


def path_to(study: Study, trial: StudyTrial | None) -> list[StudyTrial]:
    """The trial's ancestors, the first one first, and itself."""
    known = {t.id: t for t in study.trials}
    found: list[StudyTrial] = []
    while trial is not None and len(found) <= len(known):
        found.append(trial)
        # A parent was asked before its child; anything else is a damaged file, and no reason to walk in circles.
        trial = known.get(trial.parent) if trial.parent is not None and trial.parent < trial.id else None
    return found[::-1]


def changes(study: Study, before: StudyTrial, after: StudyTrial) -> list[tuple[str, str, str]]:
    """(decision, option before, option after), of those that differ."""
    return [
        (decision.name, decision.options[a], decision.options[b])
        for decision, a, b in zip(study.space.decisions, before.arch.choices, after.arch.choices, strict=True)
        if a != b
    ]


def genealogy(study: Study) -> list[Drawn]:
    """Every finished trial over its number, joined to its parent; the path to the best in bold."""
    from matplotlib.collections import LineCollection

    values = {trial.id: trial.value for trial in study.trials if trial.value is not None}
    edges = [(t.parent, t.id) for t in study.trials if t.parent in values and t.id in values and t.parent is not None]
    if not edges:
        return []
    figure, (axes,) = style.new(3.6)
    path = path_to(study, study.best)
    drawn, thinned = style.thinned(edges, "trials with a parent")
    segments = [((a, values[a]), (b, values[b])) for a, b in drawn]
    how: style.Look = {"alpha": 0.35 if len(edges) < 600 else 0.15, "rasterized": len(drawn) > style.MANY}
    axes.add_collection(LineCollection(segments, colors=style.MUTED, linewidths=0.6, **how))
    style.points(axes, style.thinned(list(values.items()), "")[0], 5, "trials", alpha=1, zorder=2)
    steps = [trial.id for trial in path if trial.id in values]
    how = {"color": style.color(1), "linewidth": 1.8, "marker": "o", "markersize": 4, "zorder": 3}
    how["rasterized"] = len(steps) > style.MANY
    axes.plot(steps, [values[trial] for trial in steps], label="path to the best", **how)
    axes.set_ylim(*style.frame(list(values.values()), study.objective.goal))
    style.finish(axes, "trial", study.objective.metric, whole=True)
    text = "Each trial is joined to the one it was made from. "
    text += f"The best is {len(steps) - 1} steps from its first ancestor.{thinned}"
    return [Drawn("genealogy", "Genealogy", text, figure)]


KINDS = (Kind("genealogy", "Parents and children, and the path to the best", genealogy),)
