"""Best so far: over trials, over time, over cost."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from nastool.analysis.figures import style
from nastool.analysis.figures.base import Drawn, Kind
from nastool.core.options import told_apart
from nastool.engine.study import Study

Values = NDArray[np.float64]
ALIKE = 0.02
"""Share of an axis by which the points of two figures may differ that look the same."""


def over_trials(study: Study) -> list[float]:
    """Number of trials that were finished by each of `finished`."""
    return [float(i + 1) for i in range(len(study.finished))]


def over_time(study: Study) -> list[float]:
    """Seconds since the first start; pauses count."""
    start = min((trial.started for trial in study.trials), default=0.0)
    return [max(0.0, (trial.finished or start) - start) for trial in study.finished]


def over_cost(study: Study) -> list[float]:
    """Seconds of all evaluations until then, failed ones included."""
    return list(accumulate(trial.seconds for trial in study.finished))


def label(study: Study, among: Sequence[Study]) -> str:
    """The strategy, with the options in which it differs from the same strategy in other runs."""
    differing = told_apart(study.variant, [other.variant for other in among if other.strategy == study.strategy])
    return style.clean(f"{study.strategy} ({differing})" if differing else study.strategy)


def groups(studies: Sequence[Study]) -> list[list[Study]]:
    """Runs that differ in nothing but their seed, together."""
    found: dict[str, list[Study]] = {}
    for study in studies:
        same = {key: value for key, value in study.config.items() if key != "seed"}
        found.setdefault(json.dumps([same, str(study.objective)], sort_keys=True, default=str), []).append(study)
    return list(found.values())


def _steps(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    """Points where a curve changes, and its end."""
    kept = [i for i in range(len(y)) if y[i] == y[i] and (i == len(y) - 1 or i == 0 or y[i] != y[i - 1])]
    return [x[i] for i in kept], [y[i] for i in kept]


def _one(study: Study, x: Sequence[float], name: str, title: str, across: str) -> Drawn:
    """The trials of one run as points, and the best so far as a line."""
    metric, goal = style.clean(study.objective.metric), study.objective.goal
    done = [(at, t.value, t.is_round) for at, t in zip(x, study.finished, strict=True) if t.value is not None]
    failed = [(at, 0.025) for at, trial in zip(x, study.finished, strict=True) if trial.state == "failed"]
    figure, (axes,) = style.new()
    low, high = style.frame([value for _, value, _ in done], goal)
    shown, thinned = style.thinned(done, "trials")
    scored, rounds = ([(at, value) for at, value, is_round in shown if is_round is wanted] for wanted in (False, True))
    style.points(axes, scored, 5, "trials")
    style.points(axes, rounds, 6, "rounds of the policy")
    if done:
        how: style.Look = {"color": style.color(0), "linewidth": 1.7, "drawstyle": "steps-post", "zorder": 3}
        axes.plot(*_steps(x, study.best_so_far()), label="best so far", **how)
    crosses: style.Look = {"marker": "x", "s": 18, "linewidths": 1.1, "alpha": 1, "clip_on": False, "zorder": 4}
    style.points(axes, style.thinned(failed, "")[0], 1, "failed", transform=axes.get_xaxis_transform(), **crosses)
    axes.set_ylim(low, high)
    axes.set_xlim(left=0)
    style.finish(axes, across, metric, whole=name.endswith("trials"))
    outside = sum(not low <= value <= high for _, value, _ in done)
    caption = f"Each point is a trial; the line is the best {metric} so far.{thinned}"
    if rounds and scored:
        caption += " Values of rounds are measured while shared weights are still being trained."
    if failed:
        caption += f" Crosses: {len(failed):,} failed."
    if outside:
        caption += f" {outside:,} worse trials lie outside the frame."
    return Drawn(name, title, caption, figure)


def _compare(
    studies: Sequence[Study], xs: Callable[[Study], Sequence[float]], name: str, title: str, across: str
) -> Drawn:
    """The best so far of several runs; of those that differ in their seed alone the mean as well."""
    figure, (axes,) = style.new(3.4)
    objective = studies[0].objective
    found = groups(studies)
    for number, group in enumerate(found):
        shown: style.Look = {"color": style.color(number), "linestyle": style.dash(number), "drawstyle": "steps-post"}
        called = label(group[0], studies)
        curves = [(np.array(xs(study)), np.array(study.best_so_far())) for study in group]
        if len(group) == 1:
            axes.plot(*_steps(xs(group[0]), group[0].best_so_far()), **shown, linewidth=1.7, label=called)
            continue
        for x, y in curves:
            axes.plot(*_steps(x.tolist(), y.tolist()), **shown, linewidth=0.7, alpha=0.4)
        axes.plot(*_mean(curves), **shown, linewidth=1.9, label=style.clean(f"{called}, {len(group)} seeds", 50))
    ends = [value for study in studies for value in study.best_so_far() if value == value]
    axes.set_ylim(*style.frame(ends, objective.goal))
    axes.set_xlim(left=0)
    style.finish(axes, across, objective.metric, whole=name.endswith("trials"))
    caption = f"Best {style.clean(objective.metric)} so far of each run."
    if len(found) < len(studies):
        caption += " Thin: single seeds. Thick: their mean, as far as all have come."
    return Drawn(name, title, caption, figure)


def _mean(curves: Sequence[tuple[Values, Values]]) -> tuple[Values, Values]:
    """The mean of step curves, where all of them have a value."""
    whole = [(x[~np.isnan(y)], y[~np.isnan(y)]) for x, y in curves]
    if any(not len(x) for x, _ in whole):
        return np.zeros(0), np.zeros(0)
    start, end = max(x[0] for x, _ in whole), min(x[-1] for x, _ in whole)
    at = np.linspace(start, max(start, end), 400)
    return at, np.mean([y[np.searchsorted(x, at, side="right") - 1] for x, y in whole], axis=0)


def _shown(studies: Sequence[Study]) -> list[Study]:
    """Those that one figure can show: begun, and with the objective of the first."""
    begun = [study for study in studies if study.finished]
    return [study for study in begun if study.objective == begun[0].objective]


def _kind(name: str, title: str, measure: Callable[[Study], list[float]], across: str, timed: bool) -> Kind:
    def draw(studies: Sequence[Study]) -> list[Drawn]:
        shown = _shown(studies)
        if not shown:
            return []
        unit, called = style.duration(max(measure(study)[-1] for study in shown)) if timed else (1.0, "")
        text = f"{across} ({called})" if timed else across

        def xs(study: Study) -> list[float]:
            return [at / unit for at in measure(study)]

        if sum(bool(study.finished) for study in studies) == 1:
            return [_one(shown[0], xs(shown[0]), name, title, text)]
        return [_compare(shown, xs, name, title, text)] if any(study.best for study in shown) else []

    return Kind(name, title, draw, shared=True)


_OVER: Mapping[str, tuple[Callable[[Study], list[float]], str]] = {
    "trials": (over_trials, "trials"),
    "time": (over_time, "time since the first trial began"),
    "cost": (over_cost, "cost of all evaluations"),
}
KINDS = tuple(
    _kind(f"best-over-{name}", f"Best so far, over {name}", measure, across, timed=name != "trials")
    for name, (measure, across) in _OVER.items()
)


def alike(studies: Sequence[Study]) -> dict[str, list[str]]:
    """Names of the figures here that differ, each with what it looks the same over: "time", "cost".

    Where every trial costs the same, say, or only one runs at a time, they differ in the numbers along the axis alone.
    """
    found: dict[str, list[str]] = {}
    shapes: dict[str, Values] = {}
    shown = _shown(studies)
    for name, (measure, _) in _OVER.items():
        x = [np.array(measure(study)) for study in shown]
        shape = np.concatenate(x) / (max(each[-1] for each in x) or 1.0) if x else np.zeros(0)
        same = next((kept for kept, other in shapes.items() if np.allclose(shape, other, rtol=0, atol=ALIKE)), None)
        if same is None:
            shapes[name], found[f"best-over-{name}"] = shape, []
        else:
            found[f"best-over-{same}"].append(name)
    return found
