"""An ensemble: how honest its probabilities are, how far its members differ, and what each one more brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from nastool.analysis.figures import style
from nastool.analysis.figures.base import Drawn

MOST_NAMED = 20
"""Members that are named along the axes."""


def all_of(said: Mapping[str, Any]) -> list[Drawn]:
    """The figures of an ensemble; of one member those that are of more are left out. said: best.json's object."""
    with style.styled():
        found = [_reliability(said["bins"])]
        if len(said["members"]) > 1:
            found += [_by_size(said), _disagreements(said["disagreements"])]
        return found


def _reliability(bins: Mapping[str, Sequence[Sequence[float]]]) -> Drawn:
    figure, axes = style.new(3.9, rows=2, sharex=True, gridspec_kw={"height_ratios": (3, 1)})
    upper, lower = axes
    upper.plot((0, 1), (0, 1), color=style.MUTED, linewidth=0.8, linestyle=(0, (4, 2)))
    for i, (name, rows) in enumerate(bins.items()):
        counts, sure, right = zip(*rows, strict=True)
        upper.plot(sure, right, color=style.color(i), marker="o", markersize=3.5, linewidth=1.4, label=name)
        shares = [count / sum(counts) for count in counts]
        lower.plot(sure, shares, color=style.color(i), marker="o", markersize=2.5, linewidth=1)
    upper.set(xlim=(0, 1.02), ylim=(0, 1.02))
    style.finish(upper, "", "accuracy")
    lower.set_ylim(0, None)
    lower.set_xlabel("confidence")
    lower.set_ylabel("share")
    style.grid(lower)
    text = (
        "Accuracy of the predictions of each confidence, in tenths; honest ones lie on the diagonal. Below: how many."
    )
    return Drawn("reliability", "Reliability", text, figure)


def _by_size(said: Mapping[str, Any]) -> Drawn:
    figure, panels = style.new(2.9, columns=2)
    sizes = range(1, len(said["sizes"]) + 1)
    for axes, name, value in zip(panels, ("error", "NLL"), (_error, _nll), strict=True):
        axes.plot(sizes, [value(each) for each in said["sizes"]], color=style.color(0), marker="o", markersize=3.5)
        alone = value(said["best_single"]["metrics"])
        axes.axhline(alone, color=style.color(1), linewidth=1, linestyle=(0, (4, 2)), label="best single network")
        each = [value(member["metrics"]) for member in said["members"]]
        axes.plot(sizes, each, color=style.MUTED, marker="x", markersize=3.5, linestyle="", label="member alone")
        axes.set_xlabel("members")
        axes.set_ylabel(name)
        style.thousands(axes)
        style.grid(axes)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2)
    text = "Of the first members as they were taken, weighed as in the ensemble (line), and of each of them alone."
    return Drawn("sizes", "Error against size", text, figure)


def _error(measured: Mapping[str, float]) -> float:
    return 1 - measured["accuracy"]


def _nll(measured: Mapping[str, float]) -> float:
    return measured["nll"]


def _disagreements(matrix: Sequence[Sequence[float]]) -> Drawn:
    count = len(matrix)
    figure, (axes,) = style.new(3.4)
    most = max(max(row) for row in matrix) or 1.0
    picture = axes.imshow(matrix, cmap="Blues", vmin=0, vmax=most)
    if count <= 12:
        for i, row in enumerate(matrix):
            for j, value in enumerate(row):
                ink = style.BACK if value > 0.6 * most else style.TEXT
                axes.text(
                    j, i, f"{value:.3f}".lstrip("0") if i != j else "", ha="center", va="center", color=ink, size=7
                )
    every = max(1, -(-count // MOST_NAMED))
    ticks = range(0, count, every)
    axes.set_xticks(ticks, [str(i + 1) for i in ticks])
    axes.set_yticks(ticks, [str(i + 1) for i in ticks])
    axes.set_xlabel("member")
    axes.set_ylabel("member")
    figure.colorbar(picture, ax=axes, label="share of examples")
    text = "How often two members take an example for different classes."
    return Drawn("disagreements", "Diversity", text, figure)
