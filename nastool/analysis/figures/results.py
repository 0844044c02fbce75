"""Single trials: how they learnt, what they cost, how the best did when trained from scratch."""

from __future__ import annotations

from collections.abc import Sequence

from nastool.analysis.figures import style
from nastool.analysis.figures.base import Drawn, Kind
from nastool.engine.study import Study, StudyTrial

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


def learning(studies: Sequence[Study]) -> list[Drawn]:
    """Learning curves of the best, among those of the others."""
    (study,) = studies
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
        axes.plot(
            *points(trial),
            color=style.color(number),
            linewidth=1.6,
            marker="o",
            markersize=2.5,
            label=f"trial {trial.id}",
        )
    axes.set_xlabel("epoch")
    axes.set_ylabel(style.clean(metric))
    style.thousands(axes)
    style.grid(axes)
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        how = {"ncols": 5, "handlelength": 1.4, "borderpad": 0.2, "borderaxespad": 0.2}
        axes.legend(handles[::-1], labels[::-1], loc="lower left", bbox_to_anchor=(0, 1), **how)
    text = "The best trials in colour" + (", the others in grey." if others else ".")
    return [Drawn("learning-curves", "Learning curves", text, figure)]


def tradeoff(studies: Sequence[Study]) -> list[Drawn]:
    """The objective against the number of parameters, with the trials that no other one beats in both."""
    (study,) = studies
    size = next((n for n in ("params", "flops") if any(n in t.metrics for t in study.trials)), None)
    done = [t for t in study.trials if t.value is not None and size in t.metrics]
    if size is None or len({t.metrics[size] for t in done}) < 3 or study.objective.metric == size:
        return []
    front: list[StudyTrial] = []
    for trial in sorted(done, key=lambda t: (t.metrics[size], t.trial.loss)):
        if not front or trial.trial.loss < front[-1].trial.loss:
            front.append(trial)
    figure, (axes,) = style.new()
    axes.scatter(
        [t.metrics[size] for t in done],
        [_value(t) for t in done],
        s=12 if len(done) < 400 else 5,
        color=style.color(5),
        alpha=0.75 if len(done) < 400 else 0.35,
        linewidths=0,
        label="trials",
        rasterized=len(done) > style.MANY,
    )
    axes.plot(
        [t.metrics[size] for t in front],
        [_value(t) for t in front],
        color=style.color(0),
        linewidth=1.4,
        marker="o",
        markersize=3,
        drawstyle="steps-post",
        label="not beaten in both",
        zorder=3,
    )
    sizes = sorted(t.metrics[size] for t in done)
    if sizes[0] > 0 and sizes[-1] / sizes[0] > 20:
        axes.set_xscale("log")
    axes.set_ylim(*style.frame([_value(t) for t in done], study.objective.goal))
    axes.set_xlabel("parameters" if size == "params" else "floating-point operations of one image")
    axes.set_ylabel(style.clean(study.objective.metric))
    style.magnitudes(axes)
    style.grid(axes)
    style.legend(axes)
    text = f"{len(front)} of {len(done):,} trials are not beaten by another that is both smaller and better."
    return [Drawn("size", "Value and size", text, figure)]


def _value(trial: StudyTrial) -> float:
    assert trial.value is not None
    return trial.value


def found_among(study: Study) -> int:
    """How many of the networks trained at the end are what the search found; those after them were drawn at random."""
    if study.retrained is None:
        return 0
    count = 0
    for trial, best in zip(study.retrained.trials, study.ranked, strict=False):
        if trial.arch != best.arch:
            break
        count += 1
    return count


def retrained(studies: Sequence[Study]) -> list[Drawn]:
    """What was trained from scratch at the end: the found ones beside random ones."""
    (study,) = studies
    inner = study.retrained
    if inner is None:
        return []
    found = found_among(study)
    groups = [
        ("found", [t.value for t in inner.trials[:found] if t.value is not None]),
        ("random", [t.value for t in inner.trials[found:] if t.value is not None]),
    ]
    groups = [(name, values) for name, values in groups if values]
    if sum(len(values) for _, values in groups) < 2:
        return []
    figure, (axes,) = style.new(0.75 + 0.55 * len(groups))
    for row, (name, values) in enumerate(groups):
        axes.scatter(
            values, [row] * len(values), s=34, color=style.color(0 if name == "found" else 6), alpha=0.75, linewidths=0
        )
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
