"""A comparison as text, Markdown, HTML or JSON."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from nastool.analysis.comparison.compare import (
    Cell,
    Comparison,
    Curve,
    Section,
    number,
    p_value,
    seeds,
    verdict,
)
from nastool.analysis.comparison.statistics import Mean, Ranks
from nastool.core.errors import short
from nastool.core.wording import visible

FORMAT = "nastool.comparison/1"
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9", "#E69F00")
"""Told apart by colour-blind readers (Okabe & Ito 2008)."""


# --- what all forms share: a sequence of blocks


@dataclass(frozen=True)
class Heading:
    text: str


@dataclass(frozen=True)
class Lines:
    """Sentences, one a line."""

    lines: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """The first column is text, the others are numbers."""

    heads: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Curves:
    """Only HTML draws them."""

    section: Section


Block = Heading | Lines | Table | Curves


def _blocks(found: Comparison) -> Iterator[Block]:
    goal = "higher" if found.objective.goal == "max" else "lower"
    methods, runs = _plural(len(found.methods), "method"), _plural(len(found.gathered.runs), "run")
    yield Heading(f"{found.objective.metric} of {methods}, {runs}; {goal} is better")
    yield Lines((_setting(found),))
    if warnings := tuple(note for note in found.notes if note.startswith("WARNING")):
        yield Lines(warnings)
    for index, section in enumerate(found.sections):
        yield Heading(_title(section))
        yield _means(found, section, with_test=index == 0)
        yield Curves(section)
        if section.pairs[-1]:
            yield _differences(section)
            yield Lines(tuple(verdict(pair, section.mark(-1), found.objective) for pair in section.pairs[-1]))
        if section.ranks is not None:
            yield from _ranking(section, section.ranks)
        if section.counted:
            yield Lines((f"counted as FLOPs: {section.counted}",))
    if not found.sections:
        yield Lines(("no run has a result yet: nothing to compare",))
    if others := tuple(note for note in found.notes if not note.startswith("WARNING")):
        yield Heading("Notes")
        yield Lines(others)
    yield Heading("How to read it")
    yield Lines(_legend(found))


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


def _title(section: Section) -> str:
    if math.isinf(section.marks[-1]):
        return "Final results, trained from scratch"
    return {"trials": "At equal trials", "seconds": "At equal seconds of evaluation", "flops": "At equal FLOPs"}[
        section.axis
    ]


def _means(found: Comparison, section: Section, with_test: bool) -> Table:
    metric = found.test_metric if with_test else None
    heads = ["method", "seeds", *(section.mark(i) for i in range(len(section.marks))), "bootstrap 95%"]
    if metric is not None:
        heads.append(f"{metric}, final")
    rows = []
    for method in found.methods:
        cells = section.cells[method.name]
        row = [method.name, str(len(method.runs)), *map(_cell, cells), _interval(cells[-1].mean)]
        if metric is not None:
            row.append(_plus_minus(found.tests.get(method.name), len(method.runs)))
        rows.append(tuple(row))
    return Table(tuple(heads), tuple(rows))


def _cell(cell: Cell) -> str:
    return _plus_minus(cell.mean, cell.missing + (0 if cell.mean is None else cell.mean.n))


def _plus_minus(own: Mean | None, of: int) -> str:
    """ "0.9161 ±0.0003"; with how many runs it is of, where some are missing."""
    if own is None:
        return "-"
    half = "" if math.isnan(own.low) else f" ±{number(own.high - own.mean, like=own.mean)}"
    return f"{number(own.mean)}{half}" + (f" ({own.n} of {of})" if own.n < of else "")


def _interval(own: Mean | None) -> str:
    return "-" if own is None or math.isnan(own.boot_low) else f"{number(own.boot_low)} to {number(own.boot_high)}"


def _differences(section: Section) -> Table:
    heads = ("first - second", "difference", "bootstrap 95%", "p (Holm)", "effect", "more/equal/less")
    rows = []
    for pair in section.pairs[-1]:
        own = pair.difference
        interval = "-" if math.isnan(own.low) else f"{number(own.low, True)} to {number(own.high, True)}"
        rows.append(
            (
                f"{pair.first} - {pair.second}",
                number(own.mean, True),
                interval,
                p_value(pair.p).removeprefix("p = ").removeprefix("p "),
                f"{own.effect:+.2f}",
                f"{own.wins}/{own.ties}/{own.losses}",
            )
        )
    return Table(heads, tuple(rows))


def _ranking(section: Section, own: Ranks) -> Iterator[Block]:
    order = sorted(range(len(section.ranked)), key=lambda i: own.mean[i])
    yield Table(
        (f"method, by mean rank at {section.mark(-1)}", "mean rank"),
        tuple((section.ranked[i], f"{own.mean[i]:.2f}") for i in order),
    )
    lines = [
        f"Friedman's test that all are the same: {p_value(own.p)} over {own.blocks} blocks (seeds). Mean ranks differ "
        f"at 5% where they lie at least {own.critical:.2f} apart (Nemenyi)."
    ]
    for group in own.alike:
        lines.append("Not told apart: " + ", ".join(section.ranked[i] for i in group) + ".")
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


# --- text


def text(found: Comparison, width: int | None = None, color: bool = False) -> str:
    """For a terminal of so many columns; None: its own width."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    target = io.StringIO()
    console = Console(
        file=target, width=width, force_terminal=color, color_system="auto" if color else None, highlight=False
    )
    for i, block in enumerate(_blocks(found)):
        if isinstance(block, Heading):
            console.print(Text(("\n" if i else "") + visible(block.text), style="bold"))
        elif isinstance(block, Lines):
            for line in block.lines:
                console.print(Text(visible(line), style="bold red" if line.startswith("WARNING") else ""))
        elif isinstance(block, Table):
            least = [max(map(_longest_word, column)) for column in zip(block.heads, *block.rows, strict=True)]
            if sum(least) + 3 * len(least) > console.width:
                for row in block.rows:
                    console.print(Text(f"\n{visible(row[0])}"))
                    for head, cell in zip(block.heads[1:], row[1:], strict=True):
                        console.print(Text(visible(f"  {head}: {cell}")))
                console.print()
                continue
            shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, header_style="")
            for k, head in enumerate(block.heads):
                shown.add_column(Text(visible(head)), justify="right" if k else "left", min_width=least[k])
            for row in block.rows:
                shown.add_row(*(Text(visible(cell)) for cell in row))
            console.print(shown)
    return "\n".join(line.rstrip() for line in target.getvalue().splitlines()) + "\n"


def _longest_word(text: str) -> int:
    return max(map(len, text.split()), default=0)


# --- Markdown


def markdown(found: Comparison) -> str:
    parts = []
    for i, block in enumerate(_blocks(found)):
        if isinstance(block, Heading):
            parts.append(("## " if i else "# ") + _plain(block.text))
        elif isinstance(block, Lines):
            parts.append("\n".join(f"- {_plain(line)}" for line in block.lines))
        elif isinstance(block, Table):
            rule = ("---", *["---:"] * (len(block.heads) - 1))
            cells = [tuple(map(_plain, block.heads)), rule, *(tuple(map(_plain, row)) for row in block.rows)]
            parts.append("\n".join("| " + " | ".join(row) + " |" for row in cells))
    return "\n\n".join(parts) + "\n"


def _plain(text: str) -> str:
    """Text that Markdown leaves alone."""
    text = re.sub(r"[\\`*<>|\[\]]|(?<!\w)_|_(?!\w)", lambda found: "\\" + found[0], text)
    return " ".join(text.split())


# --- HTML

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #fff; max-width: 62em; margin: 2em auto;
  padding: 0 1em; }
h1 { font-size: 1.4em; } h2 { font-size: 1.1em; margin-top: 2em; border-bottom: 1px solid #ccc; }
table { border-collapse: collapse; margin: 1em 0; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25em .8em; border-bottom: 1px solid #ddd; font-weight: normal; }
th { color: #666; border-bottom-color: #888; } th:first-child, td:first-child { text-align: left; padding-left: 0; }
.wide { overflow-x: auto; } .warning { color: #a00; font-weight: bold; } svg { max-width: 100%; height: auto; }
svg text { font: 12px system-ui, sans-serif; fill: #444; }
"""


def html(found: Comparison) -> str:
    """One page that needs nothing else."""
    parts = []
    title = ""
    for block in _blocks(found):
        if isinstance(block, Heading):
            parts.append(f"<h{2 if title else 1}>{escape(block.text)}</h{2 if title else 1}>")
            title = title or block.text
        elif isinstance(block, Lines):
            for line in block.lines:
                mark = ' class="warning"' if line.startswith("WARNING") else ""
                parts.append(f"<p{mark}>{escape(line)}</p>")
        elif isinstance(block, Table):
            head = "".join(f"<th>{escape(cell)}</th>" for cell in block.heads)
            rows = "".join(
                "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>\n" for row in block.rows
            )
            parts.append(
                f'<div class="wide"><table><thead><tr>{head}</tr></thead>\n<tbody>\n{rows}</tbody></table></div>'
            )
        else:
            parts.append(_svg(block.section, found.objective.metric))
    body = "\n".join(filter(None, parts))
    return (
        '<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style></head>\n<body>\n{body}\n</body>\n</html>\n"
    )


WIDTH, HEIGHT, LEFT, BELOW, RIGHT = 760, 320, 70, 40, 200


def _svg(section: Section, metric: str) -> str:
    """Mean best value so far, with its interval, of each method; "" without curves of two points."""
    curves = [curve for curve in section.curves if len(curve.x) > 1]
    if not curves:
        return ""
    end = max(float(curve.x[-1]) for curve in curves)
    # The first results of a search are far from the rest: what is drawn begins with the second tenth.
    low, high = _range(curves, end / 10)
    pad = (high - low) * 0.06 or abs(high) * 0.01 or 1.0
    low, high = low - pad, high + pad

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * value / end

    def y(value: float) -> float:
        clipped = min(max(value, low), high)
        return 10 + (HEIGHT - BELOW - 10) * (high - clipped) / (high - low)

    def points(xs: Sequence[float], ys: Sequence[float]) -> str:
        return " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in zip(xs, ys, strict=True))

    bottom, right = HEIGHT - BELOW, WIDTH - RIGHT
    parts = [f'<path d="M{LEFT},10 V{bottom} H{right}" fill="none" stroke="#888"/>']
    for part in (0.0, 0.5, 1.0):
        value, at = low + part * (high - low), end * part
        parts.append(f'<text x="{LEFT - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{number(value)}</text>')
        parts.append(f'<text x="{x(at):.1f}" y="{bottom + 16}" text-anchor="middle">{_short(at)}</text>')
    middle = (LEFT + right) / 2
    parts.append(f'<text x="{middle:.0f}" y="{HEIGHT - 6}" text-anchor="middle">{escape(_axis(section))}</text>')
    for i, curve in enumerate(curves):
        color, xs = COLORS[i % len(COLORS)], curve.x.tolist()
        if not math.isnan(float(curve.low[-1])):
            area = points([*xs, *reversed(xs)], [*curve.high.tolist(), *reversed(curve.low.tolist())])
            parts.append(f'<polygon points="{area}" fill="{color}" fill-opacity="0.12"/>')
        parts.append(
            f'<polyline points="{points(xs, curve.mean.tolist())}" fill="none" stroke="{color}" stroke-width="1.8"/>'
        )
        parts.append(f'<rect x="{right + 14}" y="{14 + 20 * i}" width="14" height="3" fill="{color}"/>')
        parts.append(f'<text x="{right + 34}" y="{20 + 20 * i}">{escape(short(curve.name, 26))}</text>')
    label = escape(f"mean best {metric} so far against {_axis(section)}", quote=True)
    return (
        f'<svg viewBox="0 0 {WIDTH} {max(HEIGHT, 30 + 20 * len(curves))}" width="{WIDTH}" role="img" '
        f'aria-label="{label}" xmlns="http://www.w3.org/2000/svg">' + "".join(parts) + "</svg>"
    )


def _range(curves: Sequence[Curve], begin: float) -> tuple[float, float]:
    values = [
        float(value)
        for curve in curves
        for values in (curve.mean, curve.low, curve.high)
        for value in values[curve.x >= min(begin, float(curve.x[-1]))]
        if not math.isnan(value)
    ]
    return min(values), max(values)


def _axis(section: Section) -> str:
    return {"trials": "trials", "seconds": "seconds of evaluation", "flops": "FLOPs"}.get(section.axis, section.axis)


def _short(value: float) -> str:
    return f"{float(f'{value:.3g}'):,.0f}" if value < 1e7 else f"{value:.3g}"


# --- JSON


def document(found: Comparison) -> dict[str, Any]:
    """All of it as JSON values; NaN and infinity are null."""
    result: dict[str, Any] = {
        "format": FORMAT,
        "objective": str(found.objective),
        "setting": dict(found.gathered.runs[0].setting),
        "methods": [
            {
                "name": method.name,
                "strategy": dict(method.runs[0].strategy),
                "random": method.is_random,
                "runs": [
                    {
                        "run": str(run.path),
                        "seed": run.seed,
                        "state": run.state,
                        "trials": len(run.losses),
                        "failed": run.failed,
                        "final": dict(run.final),
                    }
                    for run in method.runs
                ],
                "test": _json(found.tests.get(method.name)),
            }
            for method in found.methods
        ],
        "test_metric": found.test_metric,
        "comparisons": [_section_json(section, found) for section in found.sections],
        "notes": list(found.notes),
    }
    plain: dict[str, Any] = _finite(result)
    return plain


def _section_json(section: Section, found: Comparison) -> dict[str, Any]:
    ranking = None
    if section.ranks is not None:
        own = section.ranks
        ranking = {
            "mean": dict(zip(section.ranked, own.mean, strict=True)),
            "blocks": own.blocks,
            "friedman_p": own.p,
            "critical_difference": own.critical,
            "not_told_apart": [[section.ranked[i] for i in group] for group in own.alike],
        }
    return {
        "over": section.axis,
        "counted": section.counted or None,
        "marks": list(section.marks),
        "means": {
            name: [{**(_json(cell.mean) or {"n": 0}), "without_result": cell.missing} for cell in cells]
            for name, cells in section.cells.items()
        },
        "pairs": [
            {
                "at": section.marks[index],
                "first": pair.first,
                "second": pair.second,
                "against_random": pair.against_random,
                **asdict(pair.difference),
                "p_holm": pair.p,
                "seeds": seeds(pair.difference),
                "verdict": verdict(pair, section.mark(index), found.objective),
            }
            for index, pairs in enumerate(section.pairs)
            for pair in pairs
        ],
        "ranks": ranking,
    }


def _json(own: Mean | None) -> dict[str, Any] | None:
    return None if own is None else asdict(own)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value
