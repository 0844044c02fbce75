"""Look of all figures: colours, lines, lettering."""

from __future__ import annotations

import logging
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_Mark = TypeVar("_Mark")
Look = dict[str, Any]
"""Keywords for matplotlib."""
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
"""Told apart by colour-blind readers (Okabe & Ito 2008), without their yellow, which is too pale for lines."""
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)))
TEXT, MUTED, GRID, BACK = "#222222", "#555555", "#dddddd", "#ffffff"
WIDTH = 4.9
"""Width of a figure in inches: its letters are legible on a telephone, where it is as wide as the page."""
MANY = 2000
"""More marks than this are drawn as pixels, also in SVG and PDF."""
MOST = 5_000
"""Most marks of a kind that are drawn."""
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u2028\u2029]")


def clean(text: object, length: int = 40) -> str:
    """Any text as a label: printable, one line, of at most so many characters."""
    shown = _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", " ".join(str(text).split()))
    return shown if len(shown) <= length else shown[: length - 1] + "\N{HORIZONTAL ELLIPSIS}"


def settings() -> Look:
    """matplotlib's settings, beside its defaults."""
    return {
        "font.family": "DejaVu Sans",  # comes with matplotlib, so the picture is the same everywhere
        "font.size": 9,
        "text.color": TEXT,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": TEXT,
        "axes.titlesize": 9,
        "axes.titlelocation": "left",
        "axes.axisbelow": True,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "legend.frameon": False,
        "legend.fontsize": 8.5,
        "legend.handlelength": 2.4,
        "figure.facecolor": BACK,
        "axes.facecolor": "none",
        "svg.hashsalt": "nastool",
        "text.parse_math": False,  # a name with dollar signs is no formula
    }


@contextmanager
def styled(**more: Any) -> Iterator[None]:
    """Figures that are drawn and saved meanwhile look alike, whatever the user's own settings say."""
    import matplotlib

    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # where it keeps its cache is nobody's concern
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about letters that the font lacks
        matplotlib.rcdefaults()
        parameters: Any = matplotlib.rcParams
        parameters.update({**settings(), **more})
        yield


def new(height: float = 3.1, rows: int = 1, columns: int = 1, **how: Any) -> tuple[Figure, list[Axes]]:
    """A figure of this height in inches, and its axes, row by row. how: for `Figure.subplots`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False, **how)
    return figure, list(axes.flat)


def color(number: int) -> str:
    return COLORS[number % len(COLORS)]


def dash(number: int) -> Any:
    """The dash of curve `number`: another one after every round of the colours."""
    return DASHES[number // len(COLORS) % len(DASHES)]


def points(
    axes: Axes, pairs: Sequence[tuple[float, float]], number: int, label: str | None = None, **more: Any
) -> None:
    """Marks in the colour of that number: the more there are, the smaller and paler; very many as pixels."""
    if pairs:
        size = 16 if len(pairs) <= 60 else 9 if len(pairs) <= 300 else 5
        look = {"s": size, "alpha": 0.75 if len(pairs) <= 300 else 0.35, "linewidths": 0, "label": label}
        axes.scatter(*zip(*pairs, strict=True), color=color(number), rasterized=len(pairs) > MANY, **{**look, **more})


def thinned(marks: Sequence[_Mark], what: str) -> tuple[Sequence[_Mark], str]:
    """Marks that are drawn of very many, one in so many; and the caption's sentence on it, "" where all are.

    what: what they are.
    """
    step = -(-len(marks) // MOST)
    if step < 2:
        return marks, ""
    kept = marks[::step]
    return kept, f" Drawn are {len(kept):,} of {len(marks):,} {what}, one in {step:,}."


def grid(axes: Axes) -> None:
    axes.grid(True, axis="y", color=GRID, linewidth=0.6)


def finish(axes: Axes, across: str, value: str, *, whole: bool = False) -> None:
    """Names of both axes, lines across, the legend. whole: x is a number of trials, say."""
    axes.set_xlabel(across)
    axes.set_ylabel(clean(value))
    if whole:
        thousands(axes)
    grid(axes)
    legend(axes)


def thousands(axes: Axes, which: str = "x") -> None:
    """Whole numbers with commas along an axis."""
    from matplotlib.ticker import MaxNLocator, StrMethodFormatter

    axis = axes.xaxis if which == "x" else axes.yaxis
    axis.set_major_locator(MaxNLocator(7, integer=True))
    axis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))


def legend(axes: Axes, columns: int = 4) -> None:
    """The legend above the axes, where there is room on any screen; none for a single entry."""
    labels = axes.get_legend_handles_labels()[1]
    if len(labels) > 1:
        columns = max(1, min(columns, 64 // (max(map(len, labels)) + 7)))
        axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderpad=0.2, borderaxespad=0.2)


def magnitudes(axes: Axes) -> None:
    """Letters for large numbers along the x axis: 250k, 1M."""
    from matplotlib.ticker import EngFormatter, LogLocator, MaxNLocator, NullFormatter

    if axes.get_xscale() == "log":
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))


def frame(values: Sequence[float], goal: str) -> tuple[float, float]:
    """Begin and end of a value axis: without the worst twentieth if that would flatten all the others."""
    ordered = sorted(value for value in values if math.isfinite(value))
    if not ordered:
        return 0.0, 1.0
    low, high = ordered[0], ordered[-1]
    inner = ordered[len(ordered) // 20 :] if goal == "max" else ordered[: len(ordered) - len(ordered) // 20]
    if high - low > 2.5 * (inner[-1] - inner[0]) > 0:
        low, high = inner[0], inner[-1]
    margin = 0.06 * (high - low) or max(1e-3, 0.02 * abs(high))
    return low - margin, high + margin


def duration(longest: float) -> tuple[float, str]:
    """The unit for an axis of seconds: what to divide by, and its name."""
    for size, name in ((172_800.0, "days"), (5_400.0, "hours"), (180.0, "minutes")):
        if longest >= size:
            return {"days": 86_400.0, "hours": 3_600.0, "minutes": 60.0}[name], name
    return 1.0, "seconds"
