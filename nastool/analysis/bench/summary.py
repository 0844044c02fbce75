"""What the runs of a folder say: one line per strategy and table, and the pairs compared.

Regrets are in accuracy points (100 x the difference of accuracies), as the field prints them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import median
from typing import Any

import numpy as np

from nastool.analysis.bench.benchmark import Facts
from nastool.analysis.bench.journal import Content, Key, Record, Strategy
from nastool.analysis.bench.loop import Best, Budget, Run
from nastool.analysis.bench.plan import Mark, View, parse_seeds
from nastool.analysis.bench.statistics import Difference, holm, median_until, paired, standard_error
from nastool.core.options import changed

ROUNDING = 1e-9
"""A regret below this is 0."""


@dataclass(frozen=True)
class Cell:
    """At one mark: over how many seeds, mean regret and its standard error (NaN for one seed), mean rank."""

    seeds: int
    regret: float
    error: float
    rank: float


@dataclass(frozen=True)
class Row:
    """One strategy on one table.

    cells: one a mark, None where no run goes that far. seeds: runs that cover the whole budget; of these: share that
    ended on target, median queries until they were there to stay (None: fewer than half were).
    cpu_seconds: per query, median of the runs. failed: share of queries that failed.
    """

    strategy: Strategy
    table: Facts
    label: str
    seeds: int
    cells: tuple[Cell | None, ...]
    reached: float | None
    median_queries: int | None
    cpu_seconds: float
    failed: float

    def to_json(self, view: View) -> dict[str, Any]:
        """Without NaN: a standard error of one seed is null."""
        marks = []
        for mark, cell in zip(view.marks, self.cells, strict=True):
            values: dict[str, float | None] = {"seeds": 0, "regret": None, "regret_se": None, "rank": None}
            if cell is not None:
                error = None if math.isnan(cell.error) else cell.error
                values = {"seeds": cell.seeds, "regret": cell.regret, "regret_se": error, "rank": cell.rank}
            marks.append({mark.unit: mark.at, **values})
        return {
            "table": self.table.label,
            "strategy": self.label,
            "options": dict(self.strategy.options),
            "seeds": self.seeds,
            "at": marks,
            "target_regret": view.target,
            "reached": self.reached,
            "median_queries": self.median_queries,
            "failed": self.failed,
            "cpu_seconds_per_query": self.cpu_seconds,
        }


@dataclass(frozen=True)
class Pair:
    """Two strategies at one mark. p: corrected by Holm's method over the pairs of that table and mark."""

    first: str
    second: str
    mark: Mark
    difference: Difference
    p: float


@dataclass(frozen=True)
class Group:
    """The runs of one strategy on one table, by seed, in the order of the view."""

    strategy: Strategy
    table: Facts
    label: str
    records: Mapping[int, Record]

    def regret(self, best: Best | None) -> float:
        """Of an incumbent, in accuracy points. None, no query has succeeded: of the table's worst architecture."""
        return 100 * (self.table.optimum - (self.table.worst if best is None else best.value))

    def rank(self, best: Best | None) -> int:
        """Of an incumbent. None, no query has succeeded: the last one's."""
        return self.table.judged if best is None else best.rank

    def covering(self, budget: Budget) -> dict[int, Best | None]:
        """Of the runs that cover the budget, by seed: the incumbent at its end."""
        runs = ((seed, record.run) for seed, record in self.records.items())
        return {seed: run.best_after(run.cut(budget)) for seed, run in runs if run.covers(budget)}

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
        whole = [record.run for record in self.records.values() if record.run.covers(view.budget)]
        until = [self.until(run, view.budget, view.target) for run in whole]
        queries = sum(record.run.queries for record in self.records.values())
        return Row(
            strategy=self.strategy,
            table=self.table,
            label=self.label,
            seeds=len(whole),
            cells=tuple(self._cell(mark.within(view.budget)) for mark in view.marks),
            reached=sum(count is not None for count in until) / len(until) if until else None,
            median_queries=median_until(until),
            cpu_seconds=median(r.cpu_seconds / max(1, r.run.queries) for r in self.records.values()),
            failed=sum(len(record.run.failed) for record in self.records.values()) / max(1, queries),
        )

    def _cell(self, budget: Budget) -> Cell | None:
        bests = self.covering(budget).values()
        if not bests:
            return None
        regrets = np.array([self.regret(best) for best in bests])
        rank = float(np.mean([self.rank(best) for best in bests]))
        return Cell(len(bests), float(regrets.mean()), standard_error(regrets), rank)


def groups(content: Content, view: View) -> dict[Facts, list[Group]]:
    """The folder's runs with the view's seeds, by table and strategy; without those that have none."""
    seeds = parse_seeds(view.seeds)
    labels = _strategy_labels(content.strategies.values())
    names = _table_labels(content.tables.values())
    found: dict[Facts, list[Group]] = {}
    for table in content.tables.values():
        facts = replace(table, label=names[table.id])
        for strategy in content.strategies.values():
            keys = {seed: Key(strategy.id, facts.id, seed) for seed in seeds}
            records = {seed: content.runs[key] for seed, key in keys.items() if key in content.runs}
            if records:
                found.setdefault(facts, []).append(Group(strategy, facts, labels[strategy.id], records))
    return found


def _strategy_labels(strategies: Collection[Strategy]) -> dict[str, str]:
    """By id. Those with the same label, since defaults have changed, are told apart by the options that differ."""
    labels = {}
    for own in strategies:
        others = [other.options for other in strategies if other.label == own.label]
        differ = {k: v for k, v in own.options.items() if any(k not in o or o[k] != v for o in others)}
        labels[own.id] = own.label + (f" [{', '.join(changed(differ, {}))}]" if differ else "")
    return labels


def _table_labels(tables: Collection[Facts]) -> dict[str, str]:
    """By id. Those with the same label, since the file has changed, are told apart by its fingerprint."""
    shared = [label for label, count in Counter(facts.label for facts in tables).items() if count > 1]
    return {f.id: f"{f.label} [{f.fingerprint}]" if f.label in shared else f.label for f in tables}


def compare(own: Sequence[Group], view: View) -> list[Pair]:
    """Every pair of strategies of one table at every mark, over the seeds both have; pairs without any are left out."""
    pairs = []
    for mark in view.marks:
        budget = mark.within(view.budget)
        regrets = {group.label: _regrets(group, budget) for group in own}
        here = []
        for first, second in combinations(regrets, 2):
            both = [seed for seed in regrets[first] if seed in regrets[second]]
            if both:
                values = [np.array([regrets[label][seed] for seed in both]) for label in (first, second)]
                here.append((first, second, paired(*values)))
        corrected = holm([difference.p for _, _, difference in here])
        pairs += [Pair(a, b, mark, difference, p) for (a, b, difference), p in zip(here, corrected, strict=True)]
    return pairs


def _regrets(group: Group, budget: Budget) -> dict[int, float]:
    return {seed: group.regret(best) for seed, best in group.covering(budget).items()}
