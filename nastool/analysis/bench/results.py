"""Results of the runs in a folder: a row per strategy and table, pairs, curves, and the files that hold them.

Regrets are in accuracy points (100 x the difference of accuracies), as the field prints them.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Literal

import numpy as np

from nastool.analysis.bench import rankings
from nastool.analysis.bench.benchmark import Facts
from nastool.analysis.bench.journal import Content, Key, Record, Strategy
from nastool.analysis.bench.loop import Best, Budget, Run
from nastool.analysis.bench.view import View, parse_seeds
from nastool.analysis.blocks import Block, Heading, Lines, Listing, Plots, Table, markdown
from nastool.analysis.comparison.engine import Cell, Pair, cell, curve, p_value, pairs
from nastool.analysis.figures import curves
from nastool.analysis.figures.curves import Curve
from nastool.analysis.figures.output import save
from nastool.analysis.statistics import bootstrap, holm, median_until
from nastool.core.errors import InputError, why
from nastool.core.files import replacing, write_atomic
from nastool.core.wording import csv_cell

ROUNDING = 1e-9
"""A regret below this is 0."""
POINTS = 300
"""At how many places a curve is computed."""


@dataclass(frozen=True)
class Row:
    """One strategy on one table.

    cells: regrets at each mark; None where no run goes that far; ranks: their mean ranks. recommended: regrets of what
    a model recommends there, by the runs that were asked. seeds: runs that cover the
    whole budget; of these: share that ended on target, median queries until they were there to stay (None: fewer than
    half were). cpu_seconds: per query, median of the runs. failed: share of queries that failed.
    """

    strategy: Strategy
    table: Facts
    label: str
    seeds: int
    cells: tuple[Cell, ...]
    recommended: tuple[Cell, ...]
    ranks: tuple[float, ...]
    reached: float | None
    median_queries: int | None
    cpu_seconds: float
    failed: float

    def to_json(self, view: View) -> dict[str, object]:
        """Without NaN: a standard error of one seed is null."""
        at = []
        for mark, own, rank, advice in zip(view.marks, self.cells, self.ranks, self.recommended, strict=True):
            seeds, regret, error = _numbers(own)
            known = None if own.mean is None else rank
            values = {"seeds": seeds, "regret": regret, "regret_se": error, "rank": known}
            names = "recommended_seeds", "recommended_regret", "recommended_regret_se"
            at.append({mark.unit: mark.at, **values, **dict(zip(names, _numbers(advice), strict=True))})
        return {
            "table": self.table.label,
            "strategy": self.label,
            "options": dict(self.strategy.options),
            "seeds": self.seeds,
            "at": at,
            "target_regret": view.target,
            "reached": self.reached,
            "median_queries": self.median_queries,
            "failed": self.failed,
            "cpu_seconds_per_query": self.cpu_seconds,
        }

    def regret(self, index: int, recommended: bool = False) -> str:
        """ "0.113 ± 0.013"; with the number of seeds where it is another than the row's."""
        own = (self.recommended if recommended else self.cells)[index].mean
        if own is None:
            return "-"
        error = "" if math.isnan(own.error) else f" ± {own.error:.3f}"
        return f"{own.mean:.3f}{error}" + (f" (n={own.n})" if own.n != self.seeds else "")

    def target(self, view: View) -> tuple[str, str]:
        """Median queries to the target, and the share of seeds that reached it."""
        if self.reached is None:
            return "-", "-"
        limit = f">{view.budget.trials:,}" if view.budget.trials is not None else "> budget"
        return limit if self.median_queries is None else f"{self.median_queries:,}", f"{self.reached:.1%}"

    @property
    def cpu(self) -> str:
        micro = 1e6 * self.cpu_seconds
        return f"{micro:,.0f} µs" if micro < 1000 else f"{micro / 1000:,.1f} ms"


def _numbers(own: Cell) -> tuple[int, float | None, float | None]:
    """Seeds, mean and standard error, each None where there is none."""
    mean = own.mean
    return (0, None, None) if mean is None else (mean.n, mean.mean, None if math.isnan(mean.error) else mean.error)


@dataclass(frozen=True)
class Group:
    """The runs of one strategy on one table, by seed, in the order of the view."""

    strategy: Strategy
    table: Facts
    label: str
    records: Mapping[int, Record]

    def regret(self, best: Best | None) -> float:
        """Regret of an incumbent, in accuracy points. None, no query has succeeded: that of the table's worst."""
        return 100 * (self.table.optimum - (self.table.worst if best is None else best.value))

    def rank(self, best: Best | None) -> int:
        """Rank of an incumbent. None, no query has succeeded: the last one's."""
        return self.table.judged if best is None else best.rank

    def covering(self, budget: Budget) -> dict[int, Best | None]:
        """Incumbents at the end of a budget, by seed, of the runs that cover it."""
        runs = ((seed, record.run) for seed, record in self.records.items())
        return {seed: run.best_after(run.cut(budget)) for seed, run in runs if run.covers(budget)}

    def regrets(self, budget: Budget) -> dict[int, float]:
        return {seed: self.regret(best) for seed, best in self.covering(budget).items()}

    def recommended(self, budget: Budget) -> dict[int, float]:
        """Regrets of what a model recommends at the end of a budget, of the runs that cover it and were asked."""
        found: dict[int, float] = {}
        for seed, record in self.records.items():
            run = record.run
            queries = run.cut(budget) if run.covers(budget) else 0
            best = run.recommended_after(queries)
            if best is not None or (queries and run.recommended and run.best_after(queries) is None):
                found[seed] = self.regret(best)
        return found

    def until(self, run: Run, budget: Budget, target: float) -> int | None:
        """The query since which the regret was on target until the budget's end; None: it is not."""
        since: int | None = None
        within = run.cut(budget)
        for best in run.best:
            if best.query > within:
                break
            if self.regret(best) > target + ROUNDING:
                since = None
            elif since is None:
                since = best.query
        return since

    def row(self, view: View) -> Row:
        runs = [record.run for record in self.records.values()]
        whole = [run for run in runs if run.covers(view.budget)]
        until = [self.until(run, view.budget, view.target) for run in whole]
        bests = [self.covering(budget).values() for budget in view.budgets]
        return Row(
            strategy=self.strategy,
            table=self.table,
            label=self.label,
            seeds=len(whole),
            cells=tuple(cell([self.regret(best) for best in found], len(runs)) for found in bests),
            recommended=tuple(cell(list(self.recommended(budget).values()), len(runs)) for budget in view.budgets),
            ranks=tuple(float(np.mean([self.rank(b) for b in found])) if found else math.nan for found in bests),
            reached=sum(count is not None for count in until) / len(until) if until else None,
            median_queries=median_until(until),
            cpu_seconds=median(r.cpu_seconds / max(1, r.run.queries) for r in self.records.values()),
            failed=sum(len(run.failed) for run in runs) / max(1, sum(run.queries for run in runs)),
        )

    def curve(self, view: View) -> Curve | None:
        """Mean regret of the runs that cover the most: the whole budget, or what the longest have."""
        trials, seconds = view.budget.trials, view.budget.seconds
        runs = [record.run for record in self.records.values()]
        kept = [run for run in runs if run.covers(view.budget)]
        if trials is not None:
            longest = trials if kept else max(run.queries for run in runs)
            kept = kept or [run for run in runs if run.queries == longest]
            x = np.unique(np.linspace(1, max(1, longest), min(longest, POINTS)).round()) if longest else np.zeros(0)
            budgets = [Budget(int(queries), seconds) for queries in x]
        else:
            assert seconds is not None
            x = np.linspace(0, seconds, POINTS + 1)[1:]
            budgets = [Budget(None, float(at)) for at in x]
        if not kept or not len(x):
            return None
        regrets = np.array([[self.regret(run.best_after(run.cut(budget))) for budget in budgets] for run in kept])
        return curve(self.label, x, regrets, partial(bootstrap, resamples=2000))


def groups(content: Content, view: View) -> dict[Facts, list[Group]]:
    """The folder's runs with the view's seeds, by table and strategy; without those that have none."""
    seeds, labels = parse_seeds(view.seeds), content.labels
    found: dict[Facts, list[Group]] = {}
    for facts in content.told_apart:
        for strategy in content.strategies.values():
            keys = {seed: Key(strategy.id, facts.id, seed) for seed in seeds}
            records = {seed: content.runs[key] for seed, key in keys.items() if key in content.runs}
            if records:
                found.setdefault(facts, []).append(Group(strategy, facts, labels[strategy.id], records))
    return found


def compare(own: Sequence[Group], view: View) -> list[tuple[Pair, ...]]:
    """At each mark every pair of strategies of one table, over the seeds both have; pairs without any are left out."""
    return [pairs({group.label: group.regrets(budget) for group in own}, unpaired=False) for budget in view.budgets]


def gains(own: Sequence[Group], view: View) -> list[list[Pair]]:
    """At each mark what a model recommends against the best label, of each strategy, by whose label a pair is named."""
    found = []
    for budget in view.budgets:
        both = {group.label: pairs({"": group.recommended(budget), "label": group.regrets(budget)}) for group in own}
        these = [replace(pair, first=label, second="") for label, two in both.items() for pair in two]
        corrected = holm([pair.p for pair in these])
        found.append([replace(pair, p=p) for pair, p in zip(these, corrected, strict=True)])
    return found


# --- every run at every query

COLUMNS = ("table", "strategy", "seed", "queries", "sim_seconds", "label", "value", "regret", "rank")


def lines(found: Groups, view: View) -> Iterator[tuple[object, ...]]:
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


def write_lines(
    folder: Path, name: str, columns: Sequence[str], rows: Iterable[tuple[object, ...]], kind: Literal["csv", "jsonl"]
) -> Path:
    """NAME.csv or NAME.jsonl, a row at a time; replaces either. InputError: the disk is full, say."""
    path = folder / f"{name}.{kind}"
    try:
        with replacing(path) as binary:
            file = io.TextIOWrapper(binary, encoding="utf-8", newline="")
            if kind == "csv":
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(columns)
                writer.writerows(map(csv_cell, row) for row in rows)
            else:
                file.writelines(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows)
            file.flush()
            file.detach()
        (folder / f"{name}.{'jsonl' if kind == 'csv' else 'csv'}").unlink(missing_ok=True)  # of an earlier call
    except OSError as error:
        raise InputError(f"cannot write {path}: {why(error)}") from None
    return path


# --- curves


def draw(folder: Path, found: Groups, view: View) -> dict[Facts, Plots]:
    """Write the curves of each table as SVG and PNG; the same runs give the same SVG. InputError: the disk is full."""
    names = {facts: "curves-" + re.sub(r"[^A-Za-z0-9.]+", "-", facts.label).strip("-")[:100] for facts in found}
    shared = [name for name, count in Counter(names.values()).items() if count > 1]
    plots = {}
    across = "queries" if view.budget.trials is not None else "simulated seconds of training"
    for facts, own in found.items():
        name = f"{names[facts]}-{facts.id}" if names[facts] in shared else names[facts]
        if shown := [curve for group in own if (curve := group.curve(view)) is not None]:
            seeds = sorted({curve.runs for curve in shown})
            count = f"{seeds[0]:,}" if len(seeds) == 1 else f"{seeds[0]:,} to {seeds[-1]:,}"
            caption = f"Mean over {count} seeds; bands: its 95% interval by the bootstrap."
            caption = "One seed." if seeds == [1] else caption
            drawn = curves.draw(shown, facts.label, caption, across, "regret (accuracy points)", regret=True)
            for kind in ("svg", "png"):
                save(drawn, folder / f"{name}.{kind}")
            plots[facts] = Plots((drawn,), file=f"{name}.svg")
    return plots


# --- the report


Rows = Mapping[Facts, Sequence[Row]]
Groups = Mapping[Facts, Sequence[Group]]


def report(
    content: Content, found: Groups, of: Rows, searched: rankings.Rows, view: View, plots: Mapping[Facts, Plots]
) -> str:
    """report.md. of: the rows of each table; searched: those of searches by an evaluator's scores."""
    shown = _head(content, view)
    heads = [f"{mark} queries" if mark.unit == "queries" else str(mark) for mark in view.marks]
    for facts, own in found.items():
        rows, at_marks = of[facts], range(len(view.marks))
        shown += _about(facts)
        shown += [plots[facts]] if facts in plots else []
        shown.append(Heading("Regret", 3))
        regrets = [[row.label, f"{row.seeds:,}", *(row.regret(i) for i in at_marks)] for row in rows]
        shown.append(Table(["strategy", "seeds", *heads], regrets))
        shown.append(Heading("Regret of what a model recommends", 3))
        advice = [[row.label, *(row.regret(i, recommended=True) for i in at_marks)] for row in rows]
        shown += [Table(["strategy", *heads], advice), Lines((RECOMMENDED,))]
        if differences := _differences(gains(own, view)):
            shown.append(Table(["recommended - best label", *heads], differences))
        shown.append(Heading("Mean rank", 3))
        shown.append(Table(["strategy", *heads], [[r.label, *map(_rank, r.ranks)] for r in rows]))
        target = "the optimum" if view.target == 0 else f"a regret of at most {view.target:g}"
        shown.append(Heading(f"Queries to {target}", 3))
        targets = [[row.label, *row.target(view), f"{row.failed:.1%}", row.cpu] for row in rows]
        shown.append(Table(["strategy", "median queries", "reached", "failed queries", "CPU time per query"], targets))
        shown.append(Lines((TARGETS,)))
        if differences := _differences(compare(own, view)):
            shown += [Heading("Differences of regret", 3), Table(["first - second", *heads], differences)]
            shown.append(Lines((DIFFERENCES,)))
    for facts, searches in searched.items():
        shown += [*_about(facts, labels=False), *rankings.report(searches)]
    return markdown(shown)


TARGETS = (
    "The median counts the seeds that never got there, or did not stay until the end. CPU time is that of strategy "
    "and loop on one thread, without reading the table."
)
DIFFERENCES = (
    "Negative: the first is better. Mean over the seeds that both have, paired; 95% bootstrap interval; p of "
    "Wilcoxon's signed-rank test, corrected by Holm's method over the pairs of a column."
)
RECOMMENDED = (
    "Of the architectures measured so far the one that a Gaussian process, fitted to the run's labels and their noise, "
    "expects most of; with fewer than 10 the one with the best label. -: the run was not asked at this mark; --force "
    "makes it anew. Negative differences: better than the best label; p is corrected over the strategies."
)
METHOD = (
    "Every query is charged: the random ones at the start, repeated and failed ones. After n queries a strategy's "
    "result is the architecture with the best label so far (the first of equals). Its regret is how far its true value "
    "lies below that of the table's best architecture, in accuracy points (100 x the difference of accuracies); its "
    "rank is 1 + the number of architectures that are truly better. Until a query has succeeded, the table's worst "
    "architecture counts. A run that ends early keeps its last result. Mean ± standard error over the seeds."
)


def _head(content: Content, view: View) -> list[Block]:
    last = content.calls[-1]
    packages = ", ".join(f"{name} {number}" for name, number in last.packages.items() if number)
    versions = Counter(record.nastool for record in content.runs.values())
    versions.update(record.nastool for record in content.searches.values())
    made = ", ".join(f"{count:,} by nastool {version}" for version, count in versions.items())
    trials, seconds = view.budget.trials, view.budget.seconds
    budget = [f"{trials:,} queries"] if trials is not None else []
    budget += [f"{seconds:,.10g} simulated seconds of training"] if seconds is not None else []
    seeds = parse_seeds(view.seeds)
    which = f"{len(seeds):,} seeds" + (f" ({seeds[0]} to {seeds[-1]})" if len(seeds) > 1 else f" ({seeds[0]})")
    where = f"nastool {last.nastool}, Python {last.python}, {packages}; {last.cpu}, {last.cores} cores"
    return [
        Heading("Comparison of strategies", 1),
        Listing("\n".join(dict.fromkeys(shlex.join(call.command) for call in content.calls))),
        Lines((f"{last.date}; {where}, {last.platform}. Runs: {made}.",)),
        *([Lines((f"{which}, at most {' and '.join(budget)} a run. {METHOD}",))] if content.runs else []),
        *([Lines((f"{which}. {rankings.method(view.amounts)}",))] if content.searches else []),
    ]


def _about(facts: Facts, labels: bool = True) -> list[Block]:
    times = "" if facts.mean_seconds is None else f"; a training took {facts.mean_seconds:,.1f} s on average"
    unjudged = f" ({facts.rows - facts.judged:,} of them without a true value)" if facts.judged < facts.rows else ""
    labelled = f"Labels: {facts.metric}. " if labels else ""
    text = (
        f"{facts.file} (fingerprint {facts.fingerprint}): {facts.rows:,} architectures{unjudged}{times}. "
        f"{labelled}True values: {facts.truth}; the best is {100 * facts.optimum:.3f}%."
    )
    return [Heading(facts.label, 2), Lines((text,))]


def _rank(rank: float) -> str:
    return "-" if math.isnan(rank) else f"{rank:,.1f}"


def _differences(at_marks: Sequence[Sequence[Pair]]) -> list[list[str]]:
    """ "-0.318 [-0.358, -0.279], p < 0.001" of each pair, at each mark."""
    found = [{(pair.first, pair.second): pair for pair in at_mark} for at_mark in at_marks]
    rows = []
    for names in dict.fromkeys(name for at_mark in found for name in at_mark):
        cells = []
        for pair in (at_mark.get(names) for at_mark in found):
            if pair is None:
                cells.append("-")
                continue
            own = pair.difference
            interval = "" if math.isnan(own.low) else f" [{own.low:+.3f}, {own.high:+.3f}]"
            cells.append(f"{own.mean:+.3f}{interval}, {p_value(pair.p)}")
        rows.append([" - ".join(filter(None, names)), *cells])
    return rows


def summary(found: Rows, view: View) -> Iterator[Block]:
    """Summary for a terminal."""
    heads = ["strategy", *(head for mark in view.marks for head in (str(mark), "recommended")), "median", "reached"]
    for facts, own in found.items():
        yield Heading(
            f"{facts.label}: regret in accuracy points after queries or seconds, of the best label and as recommended"
        )
        regrets = [[row.regret(i, which) for i in range(len(view.marks)) for which in (False, True)] for row in own]
        yield Table(heads, [[row.label, *shown, *row.target(view)] for row, shown in zip(own, regrets, strict=True)])


def write(
    folder: Path,
    content: Content,
    found: Groups,
    rows: Rows,
    searched: rankings.Rows,
    view: View,
    kind: Literal["csv", "jsonl"],
) -> Path:
    """Write results, curves and report into the folder. Returns the report's path. InputError: the disk is full."""
    if found:
        write_lines(folder, "results", COLUMNS, lines(found, view), kind)
    if searched:
        write_lines(folder, "searches", rankings.COLUMNS, rankings.lines(searched), kind)
    path = folder / "report.md"
    write_atomic(path, report(content, found, rows, searched, view, draw(folder, found, view)))
    return path
