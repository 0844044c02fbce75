"""Runs that one call asks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nastool.analysis.bench.benchmark import Facts
from nastool.analysis.bench.journal import Content, Key
from nastool.analysis.bench.pool import Play, Score
from nastool.analysis.bench.specs import ScorerSpec, StrategySpec, TableSpec
from nastool.analysis.bench.view import View, parse_seeds


@dataclass(frozen=True)
class Item:
    """Strategy x table, with the seeds that have no sufficient run yet. scorer: None: the table's labels."""

    strategy: StrategySpec
    table: TableSpec
    facts: Facts
    seeds: tuple[int, ...]
    scorer: ScorerSpec | None = None

    def key(self, seed: int) -> Key:
        return Key(self.strategy.id, self.facts.id, seed, "" if self.scorer is None else self.scorer.id)


def missing(
    content: Content,
    strategies: Sequence[StrategySpec],
    tables: Sequence[tuple[TableSpec, Facts]],
    view: View,
    force: bool,
    scorer: ScorerSpec | None = None,
) -> list[Item]:
    """Runs that have to be made. force: everything."""
    seeds = parse_seeds(view.seeds)

    def there(key: Key) -> bool:
        if scorer is None:
            return key in content.runs and content.runs[key].run.covers(view.budget)
        return key in content.searches and content.searches[key].search.covers(view.amounts)

    items = (Item(strategy, spec, facts, seeds, scorer) for spec, facts in tables for strategy in strategies)
    return [replace(item, seeds=tuple(s for s in seeds if force or not there(item.key(s)))) for item in items]


def tasks(items: Sequence[Item], content: Content, view: View, folder: Path, force: bool) -> Iterator[Play | Score]:
    """The runs, table by table; within one by seed, so that what an interruption leaves is balanced.

    What a model recommends is asked at the marks of all calls so far, since a longer run replaces a shorter one.

    Searches by an evaluator go strategy by strategy: two that share weights are hardly made at the same time.
    """
    marks = tuple(dict.fromkeys(budget for each in (*(c.view for c in content.calls), view) for budget in each.budgets))
    for facts in dict.fromkeys(item.facts for item in items):
        here = [(item, set(item.seeds)) for item in items if item.facts == facts]
        for seed in dict.fromkeys(seed for item, _ in here for seed in item.seeds):
            for item, seeds in here:
                if seed in seeds and item.scorer is None:
                    yield Play(item.strategy, item.table, facts, seed, view.budget, marks)
    for item in items:
        for seed in item.seeds if item.scorer is not None else ():
            assert item.scorer is not None
            yield Score(item.strategy, item.table, item.facts, seed, item.scorer, view.amounts, folder, force)
