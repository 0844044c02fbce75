"""Who descends from whom."""

from __future__ import annotations

from collections.abc import Sequence

from nastool.analysis.figures import style
from nastool.analysis.figures.base import Drawn, Kind
from nastool.engine.study import Study, StudyTrial


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


def genealogy(studies: Sequence[Study]) -> list[Drawn]:
    """Every finished trial over its number, joined to its parent; the path to the best in bold."""
    from matplotlib.collections import LineCollection

    (study,) = studies
    values = {trial.id: trial.value for trial in study.trials if trial.value is not None}
    edges = [(t.parent, t.id) for t in study.trials if t.parent in values and t.id in values and t.parent is not None]
    if not edges:
        return []
    figure, (axes,) = style.new(3.6)
    path = path_to(study, study.best)
    segments = [((a, values[a]), (b, values[b])) for a, b in edges]
    axes.add_collection(
        LineCollection(
            segments,
            colors=style.MUTED,
            linewidths=0.6,
            alpha=0.35 if len(edges) < 600 else 0.15,
            rasterized=len(edges) > style.MANY,
        )
    )
    axes.scatter(
        list(values),
        list(values.values()),
        s=12 if len(values) < 400 else 5,
        color=style.color(5),
        linewidths=0,
        zorder=2,
        label="trials",
        rasterized=len(values) > style.MANY,
    )
    steps = [trial for trial in path if trial.id in values]
    axes.plot(
        [trial.id for trial in steps],
        [values[trial.id] for trial in steps],
        color=style.color(1),
        linewidth=1.8,
        marker="o",
        markersize=4,
        zorder=3,
        label="path to the best",
    )
    axes.set_ylim(*style.frame(list(values.values()), study.objective.goal))
    axes.set_xlabel("trial")
    axes.set_ylabel(style.clean(study.objective.metric))
    style.thousands(axes)
    style.grid(axes)
    style.legend(axes)
    text = (
        f"Each trial is joined to the one it was made from. The best is {len(steps) - 1} steps from its first ancestor."
    )
    return [Drawn("genealogy", "Genealogy", text, figure)]


KINDS = (Kind("genealogy", "Parents and children, and the path to the best", genealogy),)
