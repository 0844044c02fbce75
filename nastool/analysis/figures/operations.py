"""Options that a search chooses, over time and in its best architectures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nastool.analysis.figures import style
from nastool.analysis.figures.base import Drawn, Kind
from nastool.analysis.figures.families import Family, families, scored, shares, totals, weights
from nastool.engine.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FEWEST = 8
"""Trials below which shares say nothing."""
ROWS, COLUMNS = 40, 24
"""Most rows and columns of a table of shares."""
PANELS = 4
CURVES = 9
"""Most options in a panel; the rarer ones are left out."""


def over_time(study: Study) -> list[Drawn]:
    """The share of each option over windows of trials."""
    trials = scored(study)
    if len(trials) < FEWEST:
        return []
    found = families(study.space)[:PANELS]
    count = max(2, min(24, len(trials) // 6))
    choices, active = weights(study.space, trials)
    windows = np.array_split(np.arange(len(trials)), count)
    middle = [float(np.mean([trials[i].id for i in window])) for window in windows]
    tables = [np.array([totals(family, choices[w], active[w]) for w in windows]) for family in found]
    figure = curves(found, middle, tables, "trial")
    if figure is None:
        return []
    text = f"Share of each option among {count} windows of about {len(trials) // count:,} trials, over all decisions "
    return [Drawn("operations", "Options over time", text + "that offer it and matter.", figure)]


def curves(
    found: Sequence[Family], at: Sequence[float], tables: Sequence[NDArray[np.float64]], across: str
) -> Figure | None:
    """A panel for each family. tables: of each, (len(at), options): shares."""
    shown = [(f, t) for f, t in zip(found, tables, strict=True) if not np.isnan(t).all()]
    if not shown:
        return None
    figure, panels = style.new(0.4 + 1.95 * len(shown), rows=len(shown), sharex=True)
    for axes, (family, table) in zip(panels, shown, strict=True):
        names = [style.clean(name, 24) for name in (("on",) if family.switches else family.columns)]
        often = np.nansum(table, axis=0)
        kept = sorted(sorted(range(len(names)), key=lambda k: (-often[k], k))[:CURVES])
        for k in kept:
            how: style.Look = {"color": style.color(k), "linestyle": style.dash(k), "linewidth": 1.5}
            axes.plot(at, 100 * table[:, k], label=names[k], **how)
        axes.set_ylim(0, max(5.0, min(100.0, 115 * float(np.nanmax(table)))))
        axes.set_ylabel("%")
        if len(shown) > 1:
            axes.set_title(style.clean(family.title))
        style.grid(axes)
        size = 8 if max(len(names[k]) for k in kept) < 18 else 7
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), fontsize=size, handlelength=2)
    panels[-1].set_xlabel(across)
    style.thousands(panels[-1])
    return figure


def best_decisions(study: Study) -> list[Drawn]:
    """Options of each decision among the best tenth."""
    ranked = study.ranked
    best = ranked[: max(5, len(ranked) // 10)]
    if len(best) < 3:
        return []
    choices, active = weights(study.space, best)
    found = []
    for number, family in enumerate(families(study.space)[:PANELS]):
        table = shares(family, choices, active)
        if np.isnan(table).all():
            continue
        figure, cut = table_figure(family, table)
        text = f"Of the best {len(best):,} architectures (of {len(ranked):,}), how many chose the option, in %"
        text += "; empty where the decision mattered in none." if np.isnan(table).any() else "."
        name = "best-decisions" + (f"-{number + 1}" if number else "")
        title = "What the best have in common" + named(family, study)
        found.append(Drawn(name, title, text + cut, figure))
    return found


def named(family: Family, study: Study) -> str:
    """The family, for a title; nothing where there is no other."""
    return f": {style.clean(family.title)}" if len(families(study.space)) > 1 else ""


def table_figure(family: Family, table: NDArray[np.float64]) -> tuple[Figure, str]:
    """Shares as shades, with numbers where they fit. The sentence says what was left out, if anything."""
    from matplotlib.patches import Rectangle

    rows, columns = min(len(family.rows), ROWS), min(len(family.columns), COLUMNS)
    cut = ""
    if (rows, columns) != table.shape:
        cut = f" Shown are {rows} of {table.shape[0]} rows and {columns} of {table.shape[1]} columns."
    longest = max(len(style.clean(name, 22)) for name in family.columns[:columns])
    slanted = columns * longest > 52
    height = 0.35 + 0.235 * rows + (0.06 * longest if slanted else 0.22)
    figure, (axes,) = style.new(height)
    cells = [(row, column) for row in range(rows) for column in range(columns) if not np.isnan(table[row, column])]
    for row, column in cells:
        share = float(table[row, column])
        shade: style.Look = {"facecolor": style.color(0), "alpha": 0.04 + 0.71 * share, "linewidth": 0}
        axes.add_patch(Rectangle((column + 0.03, row + 0.05), 0.94, 0.9, **shade))
        if columns <= 12:
            how: style.Look = {
                "ha": "center",
                "va": "center",
                "fontsize": 8,
                "color": style.TEXT if share < 0.62 else style.BACK,
            }
            axes.text(column + 0.5, row + 0.52, f"{100 * share:.0f}", **how)
    axes.set_xlim(0, columns)
    axes.set_ylim(rows, 0)
    turned: style.Look = {"rotation": 40, "ha": "left", "rotation_mode": "anchor"} if slanted else {}
    labels = [style.clean(name, 22) for name in family.columns[:columns]]
    axes.set_xticks([k + 0.5 for k in range(columns)], labels, **turned)
    axes.set_yticks([k + 0.5 for k in range(rows)], [style.clean(n, 26) for n in family.rows[:rows]])
    axes.tick_params(length=0, top=False, labeltop=True, labelbottom=False)
    axes.spines[:].set_visible(False)
    return figure, cut


KINDS = (
    Kind("operations", "Share of each option, over windows of trials", over_time),
    Kind("best-decisions", "What the best tenth chose, decision by decision", best_decisions),
)
