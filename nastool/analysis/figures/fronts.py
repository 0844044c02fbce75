"""Several objectives: the front, and how much of the space of values was left behind over the trials."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nastool.analysis.figures import style
from nastool.analysis.figures.base import Drawn, Kind
from nastool.analysis.figures.progress import label
from nastool.core import pareto
from nastool.core.errors import InputError
from nastool.core.values import Objective
from nastool.core.wording import format_number
from nastool.engine.study import Study
from nastool.engine.study_trial import StudyTrial


def box_of(studies: Sequence[Study]) -> pareto.Box | None:
    """The box of all that these runs have measured; None: nothing yet."""
    losses = [trial.trial.losses for study in studies for trial in study.trials if trial.trial.losses]
    return pareto.Box.around(losses) if losses else None


def reference(box: pareto.Box, objectives: Sequence[Objective]) -> str:
    """The reference point in words: "val_acc 0.1, latency_ms 31.5"."""
    pairs = zip(objectives, box.reference, strict=True)
    return ", ".join(f"{style.clean(each.metric)} {format_number(each.value(loss))}" for each, loss in pairs)


def drawn_front(study: Study) -> list[Drawn]:
    """The first objective against each of the others: all trials, and those that no other beats, which lead to them."""
    front = study.front()
    if len(study.objectives) < 2 or not front:
        return []
    first, *others = study.objectives
    done = [trial for trial in study.trials if trial.trial.losses]
    shown, thinned = style.thinned(done, "trials")
    best, compromise = {trial.id for trial in front}, study.knee()
    outside: set[int] = set()
    figure, panels = style.new(3.4 * len(others), rows=len(others))
    for place, (axes, other) in enumerate(zip(panels, others, strict=True), 1):

        def at(trials: Sequence[StudyTrial], place: int = place, other: Objective = other) -> list[tuple[float, float]]:
            pairs = ((trial.trial.losses[place], trial.trial.losses[0]) for trial in trials)
            return [(other.value(x), first.value(y)) for x, y in pairs]

        style.points(axes, at([trial for trial in shown if trial.id not in best]), 5, "trials")
        marks = at(front)
        if len(others) == 1:
            look: style.Look = {"color": style.color(0), "linewidth": 1.2, "zorder": 3}
            up = [(x, y) for (_, y), (x, _) in zip(marks[1:], marks[:-1], strict=True)]
            corners = [corner for pair in zip(marks[1:], up, strict=True) for corner in reversed(pair)]
            axes.plot(*zip(*[marks[0], *corners], strict=True), **look)
        how: style.Look = {"s": 30, "color": style.color(0), "zorder": 4, "label": "the front"}
        axes.scatter(*zip(*marks, strict=True), **how).set_urls([f"#trial-{trial.id}" for trial in front])
        if compromise is not None:
            star: style.Look = {"s": 110, "marker": "*", "color": style.color(1), "zorder": 5, "label": "its knee"}
            axes.scatter(*zip(*at([compromise]), strict=True), **star).set_urls([f"#trial-{compromise.id}"])
        axes.set_ylim(*style.frame([value for _, value in at(done)], first.goal))
        axes.set_xlim(*style.frame([value for value, _ in at(done)], other.goal))
        style.finish(axes, style.clean(other.metric), first.metric)
        (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
        outside.update(
            t.id for t, (x, y) in zip(done, at(done), strict=True) if not (left <= x <= right and low <= y <= high)
        )
        if max(map(abs, axes.get_xlim())) >= 10_000:
            style.magnitudes(axes)
    what = "both" if len(others) == 1 else "all objectives"
    caption = f"{len(front):,} of {len(done):,} trials are not beaten by another in {what}; a mark leads to its trial."
    if compromise is not None:
        range_of = "in units of the front's interquartile range"
        caption += f" Its knee, trial {compromise.id}, has the least sum of losses, each {range_of}."
    if outside:
        caption += f" {len(outside):,} trials lie outside the frame."
    return [Drawn("front", "The front", caption + thinned, figure)]


def hypervolumes(studies: Sequence[Study]) -> list[Drawn]:
    """The share of the box between best and worst values that the trials dominate, as they came."""
    begun = [study for study in studies if len(study.objectives) > 1 and study.finished]
    shown = [study for study in begun if study.objectives == begun[0].objectives]
    box = box_of(shown)
    if box is None:
        return []
    figure, (axes,) = style.new()
    lowest = 1.0
    for number, study in enumerate(shown):
        try:
            shares = box.so_far([trial.trial.losses for trial in study.finished])
        except InputError:  # the package for so many objectives is missing, which the text says
            return []
        look: style.Look = {"color": style.color(number), "linestyle": style.dash(number), "drawstyle": "steps-post"}
        called = label(study, shown) if len(shown) > 1 else ""
        axes.plot(range(1, len(shares) + 1), shares, linewidth=1.7, label=called, **look)
        lowest = min(lowest, next((share for share in shares[len(shares) // 10 :] if share > 0), 1.0))
    axes.set_ylim(max(0.0, math.floor(20 * lowest - 1) / 20), 1.0)
    axes.set_xlim(left=0)
    style.finish(axes, "trials", "hypervolume", whole=True)
    caption = (
        "The share of the box between the best and the worst values that the trials so far leave behind. "
        f"Reference point: {reference(box, shown[0].objectives)}."
    )
    return [Drawn("hypervolume", "Hypervolume", caption, figure)]


KINDS = (
    Kind("front", "Several objectives: the trials that no other beats", drawn_front),
    Kind("hypervolume", "Several objectives: hypervolume over trials", hypervolumes, shared=True),
)
