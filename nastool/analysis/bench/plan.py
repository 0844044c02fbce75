"""Runs that one call asks for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from nastool.analysis.bench.benchmark import Facts
from nastool.analysis.bench.journal import Content, Key
from nastool.analysis.bench.loop import Budget
from nastool.analysis.bench.pool import Play
from nastool.analysis.bench.specs import StrategySpec, TableSpec
from nastool.analysis.bench.view import View, parse_seeds


@dataclass(frozen=True)
class Item:
    """Strategy x table, with the seeds that have no sufficient run yet."""

    strategy: StrategySpec
    table: TableSpec
    facts: Facts
    seeds: tuple[int, ...]


def missing(
    content: Content,
    strategies: Sequence[StrategySpec],
    tables: Sequence[tuple[TableSpec, Facts]],
    view: View,
    force: bool,
) -> list[Item]:
    """Runs that have to be made. force: everything."""
    seeds = parse_seeds(view.seeds)
    items = []
    for spec, facts in tables:
        for strategy in strategies:
            records = (content.runs.get(Key(strategy.id, facts.id, seed)) for seed in seeds)
            open_seeds = tuple(
                seed
                for seed, record in zip(seeds, records, strict=True)
                if force or record is None or not record.run.covers(view.budget)
            )
            items.append(Item(strategy, spec, facts, open_seeds))
    return items


def tasks(items: Sequence[Item], budget: Budget) -> Iterator[Play]:
    """The runs, table by table; within one by seed, so that what an interruption leaves is balanced."""
    for facts in dict.fromkeys(item.facts for item in items):
        here = [(item, set(item.seeds)) for item in items if item.facts == facts]
        for seed in dict.fromkeys(seed for item, _ in here for seed in item.seeds):
            for item, seeds in here:
                if seed in seeds:
                    yield Play(item.strategy, item.table, facts, seed, budget)
