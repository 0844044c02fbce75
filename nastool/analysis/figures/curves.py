"""Curves of methods that are compared, each with the interval of its mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nastool.analysis.figures import style
from nastool.analysis.figures.base import Drawn

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LINEAR = 0.01
"""Below this regret, in accuracy points, a logarithmic axis becomes linear, so that 0 has its place."""


@dataclass(frozen=True)
class Curve:
    """Mean of a method's runs at each x, and the 95% interval of that mean; NaN for a single run.

    runs: how many it is of.
    """

    name: str
    runs: int
    x: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]


def draw(curves: Sequence[Curve], title: str, caption: str, across: str, value: str, *, regret: bool = False) -> Drawn:
    """Draw means as lines and their intervals as bands.

    Args:
        curves: at least one, each of at least one point.
        title: of the figure.
        caption: what it shows.
        across: what x is.
        value: what the means are.
        regret: 0 is the best, and what comes near it matters: the axis is logarithmic where the curves span much.
    """
    with style.styled():
        return Drawn("curves", title, caption, _figure(curves, across, value, regret))


def _figure(curves: Sequence[Curve], across: str, value: str, regret: bool) -> Figure:
    figure, (axes,) = style.new(3.4)
    faint = min(0.15, 1 / len(curves))
    for number, curve in enumerate(curves):
        color = style.color(number)
        axes.fill_between(curve.x, curve.low, curve.high, color=color, alpha=faint, linewidth=0)
        how: style.Look = {"color": color, "linestyle": style.dash(number), "linewidth": 1.6}
        axes.plot(curve.x, curve.mean, label=style.clean(curve.name, 60), **how)
    axes.set_xlim(0, max(float(curve.x[-1]) for curve in curves))
    style.thousands(axes)
    (_regrets if regret else _values)(axes, curves)
    style.finish(axes, across, value)
    return figure


def _values(axes: Axes, curves: Sequence[Curve]) -> None:
    """Scale the axis to all but the first tenth: the first results of a search are far from the rest."""
    begin = max(float(curve.x[-1]) for curve in curves) / 10
    parts = [
        part[curve.x >= min(begin, curve.x[-1])] for curve in curves for part in (curve.mean, curve.low, curve.high)
    ]
    values = np.concatenate(parts)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    margin = 0.06 * (high - low) or 0.01 * abs(high) or 1.0
    axes.set_ylim(low - margin, high + margin)


def _regrets(axes: Axes, curves: Sequence[Curve]) -> None:
    """Scale the axis up to what the worst has after its first few queries, which would flatten all that follows.

    Logarithmic where the curves span much; then from 0 only if they get near it.
    """
    from matplotlib.ticker import FixedLocator, NullLocator, StrMethodFormatter

    top = 1.1 * max(float(curve.mean[min(len(curve.mean) - 1, len(curve.mean) // 25)]) for curve in curves) or 1.0
    least = min(float(np.fmin(curve.mean, curve.low).min()) for curve in curves)
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
