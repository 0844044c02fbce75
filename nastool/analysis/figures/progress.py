"""Best so far: over trials, over time, over cost."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import accumulate

import numpy as np
from numpy.typing import NDArray

from nastool.analysis.figures import style
from nastool.analysis.figures.base import Drawn, Kind
from nastool.engine.study import Study, StudyTrial

Values = NDArray[np.float64]


def over_trials(study: Study) -> list[float]:
    """For each of `told`, how many trials were told by then."""
    return [float(i + 1) for i in range(len(study.told))]


def over_time(study: Study) -> list[float]:
    """Seconds since the first start; pauses between sittings count."""
    start = min((trial.started for trial in study.trials), default=0.0)
    return [max(0.0, (trial.finished or start) - start) for trial in study.told]


def over_cost(study: Study) -> list[float]:
    """Seconds of all evaluations until then, failed ones included."""
    return list(accumulate(trial.seconds for trial in study.told))


def label(study: Study, among: Sequence[Study]) -> str:
    """The strategy, with the options in which it differs from the same strategy in other runs."""
    same = [other.config["strategy"]["options"] for other in among if other.strategy == study.strategy]
    mine = study.config["strategy"]["options"]
    differing = {key: value for key, value in mine.items() if any(other.get(key) != value for other in same)}
    shown = ", ".join(f"{key}={value}" for key, value in differing.items())
    return style.clean(f"{study.strategy} ({shown})" if shown else study.strategy)


def groups(studies: Sequence[Study]) -> list[list[Study]]:
    """Runs that differ in nothing but their seed, together."""
    found: dict[str, list[Study]] = {}
    for study in studies:
        same = {key: value for key, value in study.config.items() if key != "seed"}
        found.setdefault(json.dumps([same, str(study.objective)], sort_keys=True, default=str), []).append(study)
    return list(found.values())


def _steps(x: Sequence[float], y: Sequence[float]) -> tuple[list[float], list[float]]:
    """Only where the curve changes, and its end."""
    kept = [i for i in range(len(y)) if y[i] == y[i] and (i == len(y) - 1 or i == 0 or y[i] != y[i - 1])]
    return [x[i] for i in kept], [y[i] for i in kept]


def _one(study: Study, x: Sequence[float], name: str, title: str, across: str, unit: float) -> Drawn:
    told = study.told
    done = [(at / unit, trial) for at, trial in zip(x, told, strict=True) if trial.value is not None]
    failed = [at / unit for at, trial in zip(x, told, strict=True) if trial.state == "failed"]
    figure, (axes,) = style.new()
    values = [trial.value for _, trial in done if trial.value is not None]
    low, high = style.frame(values, study.objective.goal)
    scored = any(not trial.is_round for _, trial in done)

    def points(chosen: Callable[[StudyTrial], bool], number: int, what: str) -> None:
        kept = [(at, trial.value) for at, trial in done if chosen(trial) and trial.value is not None]
        if kept:
            axes.scatter(
                [at for at, _ in kept],
                [value for _, value in kept],
                s=16 if len(kept) <= 60 else 9 if len(kept) <= 300 else 5,
                color=style.color(number),
                alpha=0.75 if len(kept) <= 300 else 0.35,
                linewidths=0,
                label=what,
                rasterized=len(kept) > style.MANY,
            )

    points(lambda trial: not trial.is_round, 5, "trials")
    points(lambda trial: trial.is_round, 6, "rounds of the policy")
    if done:
        line_x, line_y = _steps([at / unit for at in x], study.best_so_far())
        axes.plot(
            line_x, line_y, color=style.color(0), linewidth=1.7, drawstyle="steps-post", label="best so far", zorder=3
        )
    if failed:
        axes.scatter(
            failed,
            [0.025] * len(failed),
            marker="x",
            s=18,
            color=style.color(1),
            linewidths=1.1,
            transform=axes.get_xaxis_transform(),
            clip_on=False,
            label="failed",
            rasterized=len(failed) > style.MANY,
            zorder=4,
        )
    axes.set_ylim(low, high)
    axes.set_xlim(left=0)
    axes.set_xlabel(across)
    axes.set_ylabel(style.clean(study.objective.metric))
    if name.endswith("trials"):
        style.thousands(axes)
    style.grid(axes)
    style.legend(axes)
    outside = sum(not low <= value <= high for value in values)
    caption = f"Each point is a trial; the line is the best {style.clean(study.objective.metric)} so far."
    if any(trial.is_round for _, trial in done) and scored:
        caption += " Values of rounds are measured while shared weights are still being trained."
    if failed:
        caption += f" Crosses: {len(failed):,} failed."
    if outside:
        caption += f" {outside:,} worse trials lie outside the frame."
    return Drawn(name, title, caption, figure)


def _compare(
    studies: Sequence[Study],
    measure: Callable[[Study], list[float]],
    name: str,
    title: str,
    across: str,
    unit: float,
) -> Drawn:
    figure, (axes,) = style.new(3.4)
    objective = studies[0].objective
    ends: list[float] = []
    several = False
    for number, group in enumerate(groups(studies)):
        shown = {"color": style.color(number), "linestyle": style.dash(number)}
        called = label(group[0], studies)
        curves = []
        for study in group:
            x, y = [at / unit for at in measure(study)], study.best_so_far()
            curves.append((np.array(x), np.array(y)))
            ends += [value for value in y if value == value]
            only = len(group) == 1
            axes.plot(
                *_steps(x, y),
                **shown,
                drawstyle="steps-post",
                linewidth=1.7 if only else 0.7,
                alpha=1 if only else 0.4,
                label=called if only else None,
            )
        if len(group) > 1:
            several = True
            at, mean = _mean(curves)
            text = f"{called}, {len(group)} seeds"
            axes.plot(at, mean, **shown, linewidth=1.9, drawstyle="steps-post", label=style.clean(text, 50))
    low, high = style.frame(ends, objective.goal)
    axes.set_ylim(low, high)
    axes.set_xlim(left=0)
    axes.set_xlabel(across)
    axes.set_ylabel(style.clean(objective.metric))
    if name.endswith("trials"):
        style.thousands(axes)
    style.grid(axes)
    style.legend(axes)
    caption = f"Best {style.clean(objective.metric)} so far of each run."
    if several:
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


def _kind(name: str, title: str, measure: Callable[[Study], list[float]], across: str, timed: bool) -> Kind:
    def draw(studies: Sequence[Study]) -> list[Drawn]:
        begun = [study for study in studies if study.told]
        if not begun:
            return []
        unit, called = style.duration(max(measure(study)[-1] for study in begun)) if timed else (1.0, "")
        text = f"{across} ({called})" if timed else across
        if len(begun) == 1:
            return [_one(begun[0], measure(begun[0]), name, title, text, unit)]
        first = [study for study in begun if study.objective == begun[0].objective]
        return [_compare(first, measure, name, title, text, unit)] if any(s.best for s in first) else []

    return Kind(name, title, draw, shared=True)


KINDS = (
    _kind("best-over-trials", "Best so far, over trials", over_trials, "trials", False),
    _kind("best-over-time", "Best so far, over time", over_time, "time since the first trial began", True),
    _kind("best-over-cost", "Best so far, over cost", over_cost, "cost of all evaluations", True),
)
