"""Single trials: how they learnt, what they cost, how the best did when trained from scratch."""

from __future__ import annotations

from nastool.analysis.figures import style
from nastool.analysis.figures.base import Drawn, Kind
from nastool.engine.study import Study
from nastool.engine.study_trial import StudyTrial

BEST = 5
FAINT = 150
"""Curves of other trials."""


def curve_metric(study: Study) -> str | None:
    """The metric that learning curves are drawn of: the objective, if it was reported meanwhile."""
    names = {name for trial in study.trials for _, metrics in trial.curve for name in metrics}
    if study.objective.metric in names:
        return study.objective.metric
    preferred = [name for name in ("val_acc", "train_acc", "val_loss", "train_loss") if name in names]
    return preferred[0] if preferred else min(names, default=None)


def learning(study: Study) -> list[Drawn]:
    """Learning curves of the best, among those of the others."""
    metric = curve_metric(study)
    if metric is None:
        return []

    def points(trial: StudyTrial) -> tuple[list[int], list[float]]:
        kept = [(step, metrics[metric]) for step, metrics in trial.curve if metric in metrics]
        return [step for step, _ in kept], [value for _, value in kept]

    best = [trial for trial in study.ranked if trial.curve][:BEST]
    chosen = {trial.id for trial in best}
    others = [trial for trial in study.trials if trial.curve and trial.id not in chosen]
    others = others[:: max(1, -(-len(others) // FAINT))]
    if max((len(points(trial)[0]) for trial in [*best, *others]), default=0) < 2:
        return []
    figure, (axes,) = style.new()
    for trial in others:
        axes.plot(*points(trial), color=style.MUTED, linewidth=0.6, alpha=0.3)
    for number, trial in reversed(list(enumerate(best))):
        how: style.Look = {"color": style.color(number), "linewidth": 1.6, "marker": "o", "markersize": 2.5}
        axes.plot(*points(trial), label=f"trial {trial.id}", **how)
    style.finish(axes, "epoch", metric, whole=True)
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        how = {"ncols": 5, "handlelength": 1.4, "borderpad": 0.2, "borderaxespad": 0.2}
        axes.legend(handles[::-1], labels[::-1], loc="lower left", bbox_to_anchor=(0, 1), **how)
    text = "The best trials in colour" + (", the others in grey." if others else ".")
    return [Drawn("learning-curves", "Learning curves", text, figure)]


def tradeoff(study: Study) -> list[Drawn]:
    """The objective against the number of parameters, with the trials that no other one beats in both."""
    size = next((n for n in ("params", "flops") if n in study.measured), None)
    if size is None or study.objective.metric == size:
        return []
    measured = [(t.metrics.get(size), t.value) for t in study.trials]
    pairs = [(x, value) for x, value in measured if x is not None and value is not None]
    sign = -1 if study.objective.goal == "max" else 1
    ordered = sorted(pairs, key=lambda pair: (pair[0], sign * pair[1]))
    sizes = [x for x, _ in ordered]
    if len(set(sizes)) < 3:
        return []
    front: list[tuple[float, float]] = []
    for x, value in ordered:
        if not front or sign * value < sign * front[-1][1]:
            front.append((x, value))
    figure, (axes,) = style.new()
    shown, thinned = style.thinned(pairs, "trials")
    style.points(axes, shown, 5, "trials")
    how: style.Look = {"color": style.color(0), "linewidth": 1.4, "marker": "o", "markersize": 3, "zorder": 3}
    how["rasterized"] = len(front) > style.MANY
    axes.plot(*zip(*front, strict=True), drawstyle="steps-post", label="not beaten in both", **how)
    if sizes[0] > 0 and sizes[-1] / sizes[0] > 20:
        axes.set_xscale("log")
    axes.set_ylim(*style.frame([value for _, value in pairs], study.objective.goal))
    across = "parameters" if size == "params" else "floating-point operations of one image"
    style.finish(axes, across, study.objective.metric)
    style.magnitudes(axes)
    text = (
        f"{len(front):,} of {len(pairs):,} trials are not beaten by another that is both smaller and better.{thinned}"
    )
    return [Drawn("size", "Value and size", text, figure)]


def found_among(study: Study) -> int:
    """Number of networks trained at the end that the search found; those after them were drawn at random."""
    if study.retrained is None:
        return 0
    count = 0
    for trial, best in zip(study.retrained.trials, study.ranked, strict=False):
        if trial.arch != best.arch:
            break
        count += 1
    return count


def retrained(study: Study) -> list[Drawn]:
    """Networks trained from scratch at the end: the found ones beside random ones."""
    inner = study.retrained
    if inner is None:
        return []
    found = found_among(study)
    parts = (("found", inner.trials[:found]), ("random", inner.trials[found:]))
    measured = [(name, [t.value for t in trials if t.value is not None]) for name, trials in parts]
    groups = [(name, values) for name, values in measured if values]
    if sum(len(values) for _, values in groups) < 2:
        return []
    figure, (axes,) = style.new(0.75 + 0.55 * len(groups))
    for row, (name, values) in enumerate(groups):
        style.points(axes, [(value, row) for value in values], 0 if name == "found" else 6, s=34, alpha=0.75)
    axes.set_yticks(range(len(groups)), [f"{name} ({len(values)})" for name, values in groups])
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set_xlabel(f"{style.clean(inner.objective.metric)}, trained from scratch")
    axes.grid(True, axis="x", color=style.GRID, linewidth=0.6)
    text = "All of these were trained from scratch by the same recipe, on the same data."
    return [Drawn("retrained", "Trained from scratch", text, figure)]


KINDS = (
    Kind("learning-curves", "Learning curves of the best, among the others", learning),
    Kind("size", "The objective against the number of parameters", tradeoff),
    Kind("retrained", "What was found beside random architectures, trained from scratch", retrained),
)
