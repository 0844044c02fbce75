"""A comparison of runs in words: blocks of text, tables and curves; and as JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from nastool.analysis import pages
from nastool.analysis.blocks import Block, Heading, Lines, Plots, Table
from nastool.analysis.comparison.compare import FINAL, Comparison, Section
from nastool.analysis.comparison.engine import Pair, p_value
from nastool.analysis.comparison.gather import Run
from nastool.analysis.figures import curves
from nastool.analysis.statistics import LEVEL, Difference, Mean, Ranks
from nastool.core.values import Objective

FORMAT = "nastool.comparison/1"
TITLES = {
    "trials": "At equal trials",
    "seconds": "At equal seconds of evaluation",
    "flops": "At equal FLOPs",
    FINAL: "Final results, trained from scratch",
}
ACROSS = {"trials": "trials", "seconds": "seconds of evaluation", "flops": "FLOPs"}


# --- in words


def number(value: float, sign: bool = False, like: float | None = None) -> str:
    """ "0.9161", "+0.0012", "1.07e+06". sign: for differences. like: the number that it stands beside, for decimals."""
    size = abs(value if like is None else like)
    form = ".4f" if size == 0 or (5e-5 if sign else 1e-3) <= size < 1e4 else ".4g"
    return f"{value:{'+' if sign else ''}{form}}"


def seeds(own: Difference) -> str:
    """ "10 paired seeds", "10 and 8 seeds, unpaired"."""
    if own.paired:
        return f"{own.n} paired seed{'s' if own.n > 1 else ''}"
    return f"{own.n} and {own.m} seeds, unpaired"


def verdict(pair: Pair, mark: str, objective: Objective) -> str:
    """Sentence that the numbers allow to say."""
    own = pair.difference
    where = f"by {mark}" if mark == FINAL else f"at {mark}"
    if math.isnan(own.p):
        if pair.values is None:
            return f"{pair.first} and {pair.second} {where}: no verdict, since one of them has one seed only."
        x, y = map(number, pair.values)
        return (
            f"{pair.first} and {pair.second} {where}: no verdict from n = 1 seed "
            f"({objective.metric} {x} and {y}, difference {number(own.mean, True)})."
        )
    better = own.mean > 0 if objective.goal == "max" else own.mean < 0
    winner, loser = (pair.first, pair.second) if better else (pair.second, pair.first)
    facts = (
        f"{pair.first} - {pair.second} {number(own.mean, True)} in mean {objective.metric}, 95% interval "
        f"{number(own.low, True)} to {number(own.high, True)}, {p_value(pair.p)}, {seeds(own)}"
    )
    if own.wins == own.losses == 0:
        return f"{pair.first} and {pair.second} are equal {where} on every seed ({seeds(own)})."
    shown, excludes = pair.p < 1 - LEVEL, own.low * own.high > 0
    if shown and excludes and own.effect * own.mean > 0:
        return f"{winner} is better than {loser} {where} ({facts})."
    if shown:
        return f"{pair.first} and {pair.second} {where}: no clear verdict, the test and the means disagree ({facts})."
    power = ""
    if own.least_p >= 1 - LEVEL:
        power = f"; with so few seeds p cannot be below {own.least_p:.3g}"
    return (
        f"No difference is shown between {pair.first} and {pair.second} {where} ({facts}{power}), "
        "which does not make them equal."
    )


# --- as blocks


def blocks(found: Comparison) -> Iterator[Block]:
    goal = "higher" if found.objective.goal == "max" else "lower"
    methods, runs = _plural(len(found.methods), "method"), _plural(len(found.gathered.runs), "run")
    yield Heading(f"{found.objective.metric} of {methods}, {runs}; {goal} is better", level=1)
    yield Lines((_setting(found),))
    if warnings := tuple(note for note in found.notes if note.startswith("WARNING")):
        yield Lines(warnings)
    for index, section in enumerate(found.sections):
        yield Heading(TITLES[section.axis])
        yield _means(found, section, with_test=index == 0)
        if plotted := [curve for curve in section.curves if len(curve.x) > 1]:
            value, across = found.objective.metric, ACROSS[section.axis]
            caption = "Mean of the runs; bands: its 95% interval by Student's t."
            drawn = curves.draw(plotted, f"Best {value} so far", caption, across, f"best {value} so far")
            yield Plots((drawn,), f"{section.axis}-")
        if section.pairs[-1]:
            yield differences(section.pairs[-1])
            yield Lines(tuple(verdict(pair, section.mark(-1), found.objective) for pair in section.pairs[-1]))
        if section.ranks is not None:
            yield from _ranking(section, section.ranks, [method.name for method in found.methods])
        if section.counted:
            yield Lines((f"counted as FLOPs: {section.counted}",))
    if not found.sections:
        yield Lines(("no run has a result yet: nothing to compare",))
    if others := tuple(note for note in found.notes if not note.startswith("WARNING")):
        yield Heading("Notes")
        yield Lines(others)
    yield Heading("How to read it")
    yield Lines(_legend(found))


def html(found: Comparison) -> str:
    """One page that needs nothing else."""
    content = list(blocks(found))
    assert isinstance(content[0], Heading)
    return pages.render("comparison.html", content=content, title=content[0].text, version=None)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _setting(found: Comparison) -> str:
    setting = found.gathered.runs[0].setting
    parts = []
    for kind in ("space", "evaluator"):
        plugged = setting.get(kind) or {}
        shown = ", ".join(f"{k}={v}" for k, v in plugged.get("options", {}).items() if v is not None)
        parts.append(f"{kind} {plugged.get('name')}" + (f" ({shown})" if shown else ""))
    data = setting.get("data")
    return "; ".join(parts) + (f"; data {data}" if data else "")


def _means(found: Comparison, section: Section, with_test: bool) -> Table:
    metric = found.test_metric if with_test else None
    heads = ["method", "seeds", *(section.mark(i) for i in range(len(section.marks))), "bootstrap 95%"]
    if metric is not None:
        heads.append(f"{metric}, final")
    rows = []
    for method in found.methods:
        cells = section.cells[method.name]
        last = cells[-1].mean
        boot = (
            "-" if last is None or math.isnan(last.boot_low) else f"{number(last.boot_low)} to {number(last.boot_high)}"
        )
        row = [method.name, str(len(method.runs)), *(_plus_minus(c.mean, len(method.runs)) for c in cells), boot]
        if metric is not None:
            row.append(_plus_minus(found.tests.get(method.name), len(method.runs)))
        rows.append(row)
    return Table(heads, rows)


def _plus_minus(own: Mean | None, of: int) -> str:
    """ "0.9161 ±0.0003"; with how many runs it is of, where some are missing."""
    if own is None:
        return "-"
    half = "" if math.isnan(own.low) else f" ±{number(own.high - own.mean, like=own.mean)}"
    return f"{number(own.mean)}{half}" + (f" ({own.n} of {of})" if own.n < of else "")


def differences(pairs: Sequence[Pair]) -> Table:
    """Of every two."""
    heads = ("first - second", "difference", "bootstrap 95%", "p (Holm)", "effect", "more/equal/less")
    rows = []
    for pair in pairs:
        own = pair.difference
        interval = "-" if math.isnan(own.low) else f"{number(own.low, True)} to {number(own.high, True)}"
        p = p_value(pair.p).removeprefix("p = ").removeprefix("p ")
        counts = f"{own.wins}/{own.ties}/{own.losses}"
        rows.append(
            (f"{pair.first} - {pair.second}", number(own.mean, True), interval, p, f"{own.effect:+.2f}", counts)
        )
    return Table(heads, rows)


def _ranking(section: Section, own: Ranks, names: list[str]) -> Iterator[Block]:
    order = sorted(range(len(names)), key=lambda i: own.mean[i])
    heads = (f"method, by mean rank at {section.mark(-1)}", "mean rank")
    yield Table(heads, [(names[i], f"{own.mean[i]:.2f}") for i in order])
    lines = [
        f"Friedman's test that all are the same: {p_value(own.p)} over {own.blocks} blocks (seeds). Mean ranks differ "
        f"at 5% where they lie at least {own.critical:.2f} apart (Nemenyi)."
    ]
    for group in own.alike:
        lines.append("Not told apart: " + ", ".join(names[i] for i in group) + ".")
    yield Lines(tuple(lines))


def _legend(found: Comparison) -> tuple[str, ...]:
    lines = [
        "mean of the best value so far ± half of its 95% interval by Student's t, over seeds; bootstrap: percentile "
        "interval of the mean at the last mark",
    ]
    pairs = [pair for section in found.sections for pair in section.pairs[-1]]
    if any(pair.difference.paired for pair in pairs):
        lines.append(
            "paired by seed: Wilcoxon's signed-rank test; effect: rank-biserial correlation, ties left out; counted "
            "are pairs of seeds"
        )
    if any(not pair.difference.paired for pair in pairs):
        lines.append(
            "unpaired, since few seeds match: Mann-Whitney U test; effect: Cliff's delta; counted are all pairs of runs"
        )
    if pairs:
        lines.append(
            "p two-sided, corrected by Holm's method over the pairs of a table; effect from -1 to 1, positive where "
            "the first's values are larger; all this is about one task: no verdict on others"
        )
    if found.test_metric is not None:
        lines.append(
            f"{found.test_metric}: held-out data, of each run's final result after all of its own trials; it chooses "
            "nothing, and is not tested here"
        )
    return tuple(lines)


# --- as JSON


def document(found: Comparison) -> dict[str, Any]:
    """All of it as JSON values; NaN and infinity are null."""

    def run(own: Run) -> dict[str, object]:
        facts = {"run": str(own.path), "seed": own.seed, "state": own.state, "trials": len(own.losses)}
        return {**facts, "failed": own.failed, "final": dict(own.final)}

    methods = [
        {
            "name": method.name,
            "strategy": dict(method.runs[0].strategy),
            "random": method.is_random,
            "runs": [run(own) for own in method.runs],
            "test": asdict(found.tests[method.name]) if method.name in found.tests else None,
        }
        for method in found.methods
    ]
    result = {
        "format": FORMAT,
        "objective": str(found.objective),
        "setting": dict(found.gathered.runs[0].setting),
        "methods": methods,
        "test_metric": found.test_metric,
        "comparisons": [_section(section, found) for section in found.sections],
        "notes": list(found.notes),
    }
    return {key: _finite(value) for key, value in result.items()}


def _section(section: Section, found: Comparison) -> dict[str, object]:
    names = [method.name for method in found.methods]
    random = {method.name for method in found.methods if method.is_random}
    own = section.ranks
    ranking = own and {
        "mean": dict(zip(names, own.mean, strict=True)),
        "blocks": own.blocks,
        "friedman_p": own.p,
        "critical_difference": own.critical,
        "not_told_apart": [[names[i] for i in group] for group in own.alike],
    }
    means = {
        name: [{**(asdict(cell.mean) if cell.mean else {"n": 0}), "without_result": cell.missing} for cell in cells]
        for name, cells in section.cells.items()
    }
    pairs = [
        {
            "at": section.marks[index],
            "first": pair.first,
            "second": pair.second,
            "against_random": not random.isdisjoint((pair.first, pair.second)),
            **asdict(pair.difference),
            "p_holm": pair.p,
            "seeds": seeds(pair.difference),
            "verdict": verdict(pair, section.mark(index), found.objective),
        }
        for index, at_mark in enumerate(section.pairs)
        for pair in at_mark
    ]
    marks, counted = list(section.marks), section.counted or None
    return {"over": section.axis, "counted": counted, "marks": marks, "means": means, "pairs": pairs, "ranks": ranking}


def _finite(value: object) -> object:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
