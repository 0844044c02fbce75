"""Curves: the mean regret of each strategy on one table, as PNG and SVG."""

from __future__ import annotations

import re
import textwrap
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nastool.analysis.bench.benchmark import Facts
from nastool.analysis.bench.loop import Budget
from nastool.analysis.bench.plan import View
from nastool.analysis.bench.statistics import bootstrap
from nastool.analysis.bench.summary import Group
from nastool.analysis.figures.style import COLORS, DASHES
from nastool.core.errors import InputError, why

if TYPE_CHECKING:
    from matplotlib.axes import Axes

POINTS = 300
"""At how many places a curve is computed."""
LINE, GAP = 0.155, 0.05
"""Height of a line of a label, and the space between labels, in inches."""
LINEAR = 0.01
"""Below this regret, in accuracy points, a logarithmic axis becomes linear, so that 0 has its place."""


@dataclass(frozen=True)
class Curve:
    """mean, low, high: regret in accuracy points at each x; low and high bound the mean with 95% confidence."""

    label: str
    seeds: int
    x: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def file_names(tables: Sequence[Facts]) -> dict[Facts, str]:
    """What each table's pictures are called, without their suffix."""
    names = {facts: "curves-" + re.sub(r"[^A-Za-z0-9.]+", "-", facts.label).strip("-")[:100] for facts in tables}
    shared = [name for name, count in Counter(names.values()).items() if count > 1]
    return {facts: f"{name}-{facts.id}" if name in shared else name for facts, name in names.items()}


def curve(group: Group, view: View) -> Curve | None:
    """Of the runs that cover the most: the whole budget, or what the longest have. None: there is none."""
    trials, seconds = view.budget.trials, view.budget.seconds
    runs = [record.run for record in group.records.values()]
    whole = [run for run in runs if run.covers(view.budget)]
    if trials is not None:
        longest = trials if whole else max(run.queries for run in runs)
        kept = whole or [run for run in runs if run.queries == longest]
        x = np.unique(np.linspace(1, max(1, longest), min(longest, POINTS)).round()) if longest else np.zeros(0)
        budgets = [Budget(int(queries), seconds) for queries in x]
    else:
        assert seconds is not None
        kept = whole
        x = np.linspace(0, seconds, POINTS + 1)[1:]
        budgets = [Budget(None, float(at)) for at in x]
    if not kept or not len(x):
        return None
    regrets = np.array([[group.regret(run.best_after(run.cut(budget))) for budget in budgets] for run in kept])
    low, high = bootstrap(regrets, resamples=2000)
    return Curve(group.label, len(kept), x, regrets.mean(axis=0), low, high)


def draw(facts: Facts, own: Sequence[Group], view: View, folder: Path, name: str) -> list[Path]:
    """Write NAME.svg and NAME.png; the same runs give the same SVG. InputError: the disk is full, say."""
    import logging

    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # where it keeps its cache is nobody's concern
    curves = [found for group in own if (found := curve(group, view)) is not None]
    names = [_lines(found.label) for found in curves]
    inches = max(4.2, sum(LINE * len(lines) + GAP for lines in names) + 0.4)
    paths = [folder / f"{name}.svg", folder / f"{name}.png"]
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about letters that the font lacks
        matplotlib.rcdefaults()  # whatever the user's own say, the same picture
        matplotlib.rcParams.update(_style())
        figure = Figure(figsize=(7.2, inches))
        FigureCanvasAgg(figure)
        axes = figure.add_axes((0.085, 0.53 / inches, 0.615, 1 - 1.1 / inches))
        _plot(axes, facts, curves, view)
        _label(axes, curves, names, inches - 1.1)
        _title(axes, facts.label, _caption(curves), inches)
        try:
            figure.savefig(paths[0], metadata={"Date": None})
            figure.savefig(paths[1], dpi=200)
        except OSError as error:
            raise InputError(f"cannot write {folder / name}.svg: {why(error)}") from None
    return paths


def _lines(label: str) -> list[str]:
    """A label in lines that fit beside the axes."""
    return textwrap.wrap(label.replace("(", " ("), 27, break_on_hyphens=False)


def _caption(curves: Sequence[Curve]) -> str:
    counts = sorted({found.seeds for found in curves})
    if not counts:
        return "no runs"
    if counts == [1]:
        return "one seed"
    seeds = f"{counts[0]:,}" if len(counts) == 1 else f"{counts[0]:,} to {counts[-1]:,}"
    return f"mean over {seeds} seeds; bands: 95% bootstrap confidence of the mean"


def _title(axes: Axes, title: str, caption: str, inches: float) -> None:
    """inches: height of the figure."""
    assert axes.figure is not None
    axes.figure.text(0.085, 1 - 0.27 / inches, title, fontsize=10, fontweight="bold", color="#222222")
    axes.figure.text(0.085, 1 - 0.45 / inches, caption, fontsize=8, color="#555555")


def _style() -> Any:
    return {
        "font.family": "DejaVu Sans",  # comes with matplotlib, so the picture is the same everywhere
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": "#555555",
        "axes.labelcolor": "#222222",
        "xtick.color": "#555555",
        "ytick.color": "#555555",
        "svg.hashsalt": "nastool",
        "text.parse_math": False,  # a name with dollar signs is no formula
    }


def _plot(axes: Axes, facts: Facts, curves: Sequence[Curve], view: View) -> None:
    faint = min(0.15, 1 / max(1, len(curves)))
    for i, found in enumerate(curves):
        axes.fill_between(found.x, found.low, found.high, color=_color(i), alpha=faint, linewidth=0)
        dash = DASHES[i // len(COLORS) % len(DASHES)]
        axes.plot(found.x, found.mean, color=_color(i), linestyle=dash, linewidth=1.6)
    axes.set_xlabel("queries" if view.budget.trials is not None else "simulated seconds of training")
    axes.set_ylabel("regret (accuracy points)")
    axes.set_xlim(0, view.budget.trials if view.budget.trials is not None else view.budget.seconds)
    _scale(axes, curves)
    axes.grid(True, axis="y", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)


def _scale(axes: Axes, curves: Sequence[Curve]) -> None:
    """Up to what the worst strategy has after its first few queries, which would flatten all that follows.

    Logarithmic where the curves span much; then from 0 only if they get near it.
    """
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
    if not curves:
        return
    top = 1.1 * max(float(found.mean[min(len(found.mean) - 1, len(found.mean) // 25)]) for found in curves) or 1.0
    least = min(float(np.fmin(found.mean, found.low).min()) for found in curves)
    bottom = 0.0 if least < LINEAR else least / 1.2
    if top > 10 * max(least, LINEAR):
        axes.set_yscale("symlog", linthresh=LINEAR, linscale=0.4)
        steps = (1, 2, 5) if top < 200 * max(bottom, LINEAR) else (1, 3)
        ticks = [0.0, *(step * LINEAR * 10**power for power in range(6) for step in steps)]
        axes.yaxis.set_major_locator(FixedLocator([tick for tick in ticks if bottom <= tick <= top]))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    else:
        bottom = 0.0
    axes.set_ylim(bottom, top)


def _color(number: int) -> str:
    return COLORS[number % len(COLORS)]


def _darker(color: str) -> str:
    """For text, which needs more contrast than lines."""
    return "#" + "".join(f"{int(color[i : i + 2], 16) * 3 // 4:02x}" for i in (1, 3, 5))


def _label(axes: Axes, curves: Sequence[Curve], names: Sequence[Sequence[str]], inches: float) -> None:
    """Name each curve at its right end, moved apart where they would overlap.

    names: their labels' lines. inches: height of the axes.
    """
    heights = [(LINE * len(lines) + GAP) / inches for lines in names]
    transform = axes.transData + axes.transAxes.inverted()
    ends = [float(transform.transform((found.x[-1], found.mean[-1]))[1]) for found in curves]
    order = sorted(range(len(curves)), key=lambda i: ends[i])
    centers = apart([ends[i] for i in order], [heights[i] for i in order], -0.4 / inches, 1 + 0.4 / inches)
    for i, center in zip(order, centers, strict=True):
        line: Any = {"color": _color(i), "linewidth": 0.7, "clip_on": False, "transform": axes.transAxes}
        axes.plot((1.005, 1.04), (ends[i], center), **line)
        text: Any = {"color": _darker(_color(i)), "fontsize": 8.5, "va": "center_baseline", "transform": axes.transAxes}
        axes.text(1.047, center, "\n".join(names[i]), **text)


def apart(centers: Sequence[float], heights: Sequence[float], low: float, high: float) -> list[float]:
    """New centers, near the old ones, for boxes of these heights that do not overlap and lie within [low, high].

    centers: ascending. The heights must fit.
    """
    groups: list[tuple[float, float, list[int]]] = []  # boxes that touch: bottom, height, members
    for i, height in enumerate(heights):
        members, whole = [i], height
        while True:
            middle = sum(centers[k] for k in members) / len(members)
            bottom = min(max(middle - whole / 2, low), high - whole)
            if not groups or groups[-1][0] + groups[-1][1] <= bottom:
                break
            _, below, earlier = groups.pop()
            members, whole = earlier + members, below + whole
        groups.append((bottom, whole, members))
    placed = [0.0] * len(centers)
    for bottom, _, members in groups:
        for i in members:
            placed[i] = bottom + heights[i] / 2
            bottom += heights[i]
    return placed
