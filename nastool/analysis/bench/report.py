"""What a comparison leaves to read: results.csv with every run at every query, and report.md with what they say."""

from __future__ import annotations

import csv
import io
import json
import math
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Literal

from nastool.analysis.bench.benchmark import Facts
from nastool.analysis.bench.journal import Content
from nastool.analysis.bench.plan import View, parse_seeds
from nastool.analysis.bench.summary import Cell, Group, Pair, Row
from nastool.core.errors import InputError, why
from nastool.core.files import replacing, write_atomic
from nastool.core.wording import csv_cell

COLUMNS = ("table", "strategy", "seed", "queries", "sim_seconds", "label", "value", "regret", "rank")

# --- every run at every query


def results(found: Mapping[Facts, Sequence[Group]], view: View) -> Iterator[tuple[Any, ...]]:
    """COLUMNS of each run after each of its queries, within the view's budget.

    sim_seconds: None where the table has no times. label: None until a query succeeded; then the architecture with
    the best one is judged: value in [0, 1], regret in accuracy points, rank. Until then, the table's worst is.
    """
    for facts, own in found.items():
        for group in own:
            for seed, record in group.records.items():
                run = record.run
                for first, last, best in run.stretches(run.cut(view.budget)):
                    label = None if best is None else round(best.label, 9)
                    value = round(facts.worst if best is None else best.value, 9)
                    judged = label, value, round(group.regret(best), 9), group.rank(best)
                    for queries in range(first, last + 1):
                        seconds = None if run.spent is None else run.spent[queries - 1]
                        yield facts.label, group.label, seed, queries, seconds, *judged


def write_results(folder: Path, rows: Iterable[tuple[Any, ...]], kind: Literal["csv", "jsonl"]) -> Path:
    """results.csv or results.jsonl, a row at a time; replaces either. InputError: the disk is full, say."""
    path = folder / f"results.{kind}"
    try:
        with replacing(path) as binary:
            file = io.TextIOWrapper(binary, encoding="utf-8", newline="")
            _write_csv(file, rows) if kind == "csv" else _write_lines(file, rows)
            file.flush()
            file.detach()
        (folder / f"results.{'jsonl' if kind == 'csv' else 'csv'}").unlink(missing_ok=True)  # of an earlier call
    except OSError as error:
        raise InputError(f"cannot write {path}: {why(error)}") from None
    return path


def _write_csv(file: IO[str], rows: Iterable[tuple[Any, ...]]) -> None:
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(map(csv_cell, row) for row in rows)


def _write_lines(file: IO[str], rows: Iterable[tuple[Any, ...]]) -> None:
    for row in rows:
        file.write(json.dumps(dict(zip(COLUMNS, row, strict=True))) + "\n")


# --- the report


def write_report(
    folder: Path,
    content: Content,
    view: View,
    rows: Mapping[Facts, Sequence[Row]],
    pairs: Mapping[Facts, Sequence[Pair]],
    curves: Mapping[Facts, Path],
) -> Path:
    """report.md."""
    parts = [_head(content, view)]
    for facts, own in rows.items():
        parts += [_about(facts), f"![Mean regret]({curves[facts].name})", _regrets(own, view), _ranks(own, view)]
        parts.append(_targets(own, view))
        if pairs[facts]:
            parts.append(_differences(pairs[facts], view))
    path = folder / "report.md"
    write_atomic(path, "\n\n".join(parts) + "\n")
    return path


def _head(content: Content, view: View) -> str:
    last = content.sittings[-1]
    packages = ", ".join(f"{name} {number}" for name, number in last["packages"].items() if number)
    versions = Counter(record.nastool for record in content.runs.values())
    made = ", ".join(f"{count:,} by nastool {version}" for version, count in versions.items())
    budget = []
    if view.budget.trials is not None:
        budget.append(f"{view.budget.trials:,} queries")
    if view.budget.seconds is not None:
        budget.append(f"{view.budget.seconds:,.10g} simulated seconds of training")
    seeds = parse_seeds(view.seeds)
    which = f"{len(seeds):,} seeds" + (f" ({seeds[0]} to {seeds[-1]})" if len(seeds) > 1 else f" ({seeds[0]})")
    commands = "\n".join(dict.fromkeys(shlex.join(sitting["command"]) for sitting in content.sittings))
    return f"""# Comparison of strategies

```
{commands}
```

{last["date"]}; nastool {last["nastool"]}, Python {last["python"]}, {packages}; {last["cpu"]}, {last["cores"]} cores,
{last["platform"]}. Runs: {made}.

{which}, at most {" and ".join(budget)} a run. Every query is charged: the random ones at the start, repeated and failed
ones. After n queries a strategy's result is the architecture with the best label so far (the first of equals). Its
regret is how far its true value lies below that of the table's best architecture, in accuracy points (100 x the
difference of accuracies); its rank is 1 + the number of architectures that are truly better. Until a query has
succeeded, the table's worst architecture counts. A run that ends early keeps its last result. Mean ± standard error
over the seeds."""


def _about(facts: Facts) -> str:
    times = "" if facts.mean_seconds is None else f"; a training took {facts.mean_seconds:,.1f} s on average"
    unjudged = f" ({facts.rows - facts.judged:,} of them without a true value)" if facts.judged < facts.rows else ""
    return (
        f"## {facts.label}\n\n"
        f"`{facts.file}` (fingerprint {facts.fingerprint}): {facts.rows:,} architectures{unjudged}{times}. "
        f"Labels: {facts.metric}. True values: {facts.truth}; the best is {100 * facts.optimum:.3f}%."
    )


def _regrets(rows: Sequence[Row], view: View) -> str:
    lines = [[row.label, f"{row.seeds:,}", *(regret_cell(cell, row) for cell in row.cells)] for row in rows]
    return "### Regret\n\n" + _markdown(["strategy", "seeds", *_marks(view)], lines)


def regret_cell(cell: Cell | None, row: Row) -> str:
    """ "0.113 ± 0.013"; with the number of seeds where it is another than the row's."""
    if cell is None:
        return "-"
    error = "" if math.isnan(cell.error) else f" ± {cell.error:.3f}"
    return f"{cell.regret:.3f}{error}" + (f" (n={cell.seeds})" if cell.seeds != row.seeds else "")


def _ranks(rows: Sequence[Row], view: View) -> str:
    lines = [[row.label, *("-" if cell is None else f"{cell.rank:,.1f}" for cell in row.cells)] for row in rows]
    return "### Mean rank\n\n" + _markdown(["strategy", *_marks(view)], lines)


def _targets(rows: Sequence[Row], view: View) -> str:
    target = "the optimum" if view.target == 0 else f"a regret of at most {view.target:g}"
    heads = ["strategy", "median queries", "reached", "failed queries", "CPU time per query"]
    lines = [[row.label, *target_cells(row, view), f"{row.failed:.1%}", cpu_cell(row)] for row in rows]
    return (
        f"### Queries to {target}\n\n{_markdown(heads, lines)}\n\n"
        "The median counts the seeds that never got there, or did not stay until the end. CPU time is that of strategy "
        "and loop on one thread, without reading the table."
    )


def target_cells(row: Row, view: View) -> tuple[str, str]:
    """Median queries to the target, and the share of seeds that reached it."""
    if row.reached is None:
        return "-", "-"
    limit = f">{view.budget.trials:,}" if view.budget.trials is not None else "> budget"
    return limit if row.median_queries is None else f"{row.median_queries:,}", f"{row.reached:.1%}"


def cpu_cell(row: Row) -> str:
    micro = 1e6 * row.cpu_seconds
    return f"{micro:,.0f} µs" if micro < 1000 else f"{micro / 1000:,.1f} ms"


def _differences(pairs: Sequence[Pair], view: View) -> str:
    found = {(pair.first, pair.second, pair.mark): pair for pair in pairs}
    lines = []
    for first, second in dict.fromkeys((pair.first, pair.second) for pair in pairs):
        own = [found.get((first, second, mark)) for mark in view.marks]
        lines.append([f"{first} - {second}", *("-" if pair is None else difference_cell(pair) for pair in own)])
    return (
        f"### Differences of regret\n\n{_markdown(['first - second', *_marks(view)], lines)}\n\n"
        "Negative: the first is better. Mean over the seeds that both have, paired; 95% bootstrap interval; p of "
        "Wilcoxon's signed-rank test, corrected by Holm's method over the pairs of a column."
    )


def difference_cell(pair: Pair) -> str:
    """ "-0.318 [-0.358, -0.279], p < 0.001"."""
    difference = pair.difference
    interval = "" if math.isnan(difference.low) else f" [{difference.low:+.3f}, {difference.high:+.3f}]"
    p = "p < 0.001" if pair.p < 0.0005 else f"p = {pair.p:.3f}"
    return f"{difference.mean:+.3f}{interval}, {p}"


def _marks(view: View) -> list[str]:
    """Heads of columns: "50 queries", "5,000 s"."""
    return [f"{mark} queries" if mark.unit == "queries" else str(mark) for mark in view.marks]


def _markdown(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table: the first column to the left, the others to the right."""
    rule = ["---", *["---:"] * (len(heads) - 1)]
    cells = [heads, rule, *([cell.replace("|", "\\|") for cell in line] for line in lines)]
    return "\n".join("| " + " | ".join(line) + " |" for line in cells)
