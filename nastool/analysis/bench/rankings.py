"""What searches by an evaluator's scores say together: how the scores rank, and what was found, by the table."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nastool.analysis.bench.benchmark import Facts
from nastool.analysis.bench.journal import Content, Key, Scorer, Strategy
from nastool.analysis.bench.scored import TOP as SHARE
from nastool.analysis.bench.scored import Amounts, Judged, Scored
from nastool.analysis.bench.view import View, parse_seeds
from nastool.analysis.blocks import Block, Heading, Lines, Table
from nastool.analysis.statistics import mean
from nastool.core import defaults
from nastool.core.options import told_apart
from nastool.core.statistics import rank_correlation

COLUMNS = (
    *("table", "strategy", "evaluator", "seed", "spearman", "kendall", "top_spearman", "top_kendall"),
    *("found", "regret", "rank", "candidates", "candidates_mean", "random_mean", "equal_cost"),
    *("cpu_seconds", "seconds"),
)
"""Of a search. found, candidates_mean, random_mean, equal_cost: true accuracies in %; regret: in accuracy points."""
MEASURES = COLUMNS[COLUMNS.index("spearman") :]


def measures(search: Scored, table: Facts, beside: Scored | None = None) -> dict[str, float]:
    """MEASURES of a search; NaN where there is no such number.

    beside: random search by trainings from scratch.
    """

    def correlations(judged: Sequence[Judged]) -> tuple[float, float]:
        found = rank_correlation([one.score for one in judged], [one.value for one in judged])
        return tuple(math.nan if value is None else value for value in (found.spearman, found.kendall))  # type: ignore

    def average(judged: Sequence[Judged]) -> float:
        return 100 * float(np.mean([one.value for one in judged])) if judged else math.nan

    best = search.candidates[0] if search.candidates else None
    found = math.nan if best is None else best.value
    equal = None if beside is None else beside.within(search.cpu_seconds)
    values = (
        *(*correlations(search.sample), *correlations(search.top)),
        *(100 * found, 100 * (table.optimum - found), math.nan if best is None else best.rank),
        *(len(search.candidates), average(search.candidates), average(search.sample)),
        *(math.nan if equal is None else 100 * equal.value, search.cpu_seconds, search.seconds),
    )
    return dict(zip(MEASURES, values, strict=True))


@dataclass(frozen=True)
class Row:
    """One strategy with one evaluator on one table. seeds: the measures of each."""

    strategy: Strategy
    label: str
    scorer: Scorer
    by: str
    seeds: Mapping[int, Mapping[str, float]]

    def shown(self, measure: str, digits: int) -> str:
        """ "0.612 ± 0.013": mean and standard error over the seeds that have it."""
        values = np.array([own[measure] for own in self.seeds.values() if not math.isnan(own[measure])])
        if not len(values):
            return "-"
        found = mean(values)
        return f"{found.mean:,.{digits}f}" + ("" if math.isnan(found.error) else f" ± {found.error:,.{digits}f}")

    def to_json(self, table: Facts) -> dict[str, object]:
        """Means and standard errors; null where there is none."""
        found: dict[str, object] = {"table": table.label, "strategy": self.label, "evaluator": self.by}
        found |= {"options": dict(self.strategy.options), "evaluator_options": dict(self.scorer.options)}
        found["seeds"] = len(self.seeds)
        for measure in MEASURES:
            values = np.array([own[measure] for own in self.seeds.values() if not math.isnan(own[measure])])
            own = mean(values) if len(values) else None
            found[measure] = None if own is None else own.mean
            found[f"{measure}_se"] = None if own is None or math.isnan(own.error) else own.error
        return found


Rows = Mapping[Facts, Sequence[Row]]


def rows(content: Content, view: View) -> Rows:
    """The folder's searches with the view's seeds, by table; without those that have none."""
    labels, found = content.labels, dict[Facts, list[Row]]()
    for table in content.told_apart:
        for scorer in content.scorers.values():
            alike = (other.options for other in content.scorers.values() if other.name == scorer.name)
            differ = told_apart(scorer.options, alike)
            by = f"{scorer.name}({differ})" if differ else scorer.name
            for strategy in content.strategies.values():
                keys = {seed: Key(strategy.id, table.id, seed, scorer.id) for seed in parse_seeds(view.seeds)}
                searches = {seed: content.searches[key].search for seed, key in keys.items() if key in content.searches}
                own = {
                    seed: measures(search.cut(view.amounts), table, _beside(content, table, scorer, seed))
                    for seed, search in searches.items()
                }
                if own:
                    found.setdefault(table, []).append(Row(strategy, labels[strategy.id], scorer, by, own))
    return found


def _beside(content: Content, table: Facts, scorer: Scorer, seed: int) -> Scored | None:
    """The longest random search by trainings from scratch with that seed; None: there is none, or it is one itself."""
    if scorer.name == defaults.TRAINING:
        return None
    found = [
        record.search
        for key, record in content.searches.items()
        if (key.table, key.seed) == (table.id, seed)
        and content.strategies[key.strategy].name == defaults.BASELINE
        and content.scorers[key.scorer].name == defaults.TRAINING
    ]
    return max(found, key=lambda search: search.cpu_seconds, default=None)


def lines(of: Rows) -> Iterator[tuple[object, ...]]:
    """COLUMNS of every search; None where there is no such number."""
    for table, own in of.items():
        for row in own:
            for seed, found in row.seeds.items():
                values = (None if math.isnan(value) else round(value, 6) for value in found.values())
                yield table.label, row.label, row.by, seed, *values


def to_json(of: Rows) -> Iterator[dict[str, object]]:
    """Each row as JSON."""
    for table, own in of.items():
        yield from (row.to_json(table) for row in own)


RANKING = {"Spearman": ("spearman", 3), "Kendall": ("kendall", 3)}
IN_TOP = {"top 10% Spearman": ("top_spearman", 3), "top 10% Kendall": ("top_kendall", 3)}
FOUND = {"found, %": ("found", 2), "regret": ("regret", 2), "rank": ("rank", 0)}
BESIDE = {"candidates, %": ("candidates_mean", 2), "random, %": ("random_mean", 2), "equal cost, %": ("equal_cost", 2)}
COST = {"CPU s": ("cpu_seconds", 1), "wall s": ("seconds", 1)}


def _table(own: Sequence[Row], *columns: Mapping[str, tuple[str, int]]) -> Table:
    shown = {head: how for part in columns for head, how in part.items()}
    name = (lambda row: row.label) if len({row.by for row in own}) == 1 else (lambda row: f"{row.label} by {row.by}")
    heads = ["strategy", "seeds", *shown]
    return Table(heads, [[name(row), f"{len(row.seeds)}", *(row.shown(*how) for how in shown.values())] for row in own])


def _ranked(own: Sequence[Row]) -> list[Row]:
    """Rows with scores of a sample."""
    return [row for row in own if not all(math.isnan(found["random_mean"]) for found in row.seeds.values())]


def summary(of: Rows) -> Iterator[Block]:
    """Summary for a terminal."""
    for table, own in of.items():
        yield Heading(
            f"{table.label}: scores of {', '.join(dict.fromkeys(row.by for row in own))} against {table.truth}"
        )
        yield _table(_ranked(own), RANKING, IN_TOP)
        yield _table(own, FOUND, BESIDE, COST)


def report(own: Sequence[Row]) -> list[Block]:
    """The searches of one table for report.md."""
    scorers = {row.by: row.scorer.label for row in own}
    lines = tuple(f"Scores: {label}." if len(scorers) == 1 else f"{by}: {label}." for by, label in scorers.items())
    found: list[Block] = [Lines(lines), Heading("Ranking by scores", 3), _table(_ranked(own), RANKING, IN_TOP)]
    return [*found, Heading("What was found", 3), _table(own, FOUND, BESIDE, COST)]


def method(amounts: Amounts) -> str:
    """What was done, for the report."""
    return (
        "Labels are the scores of an evaluator that reads no table; a table judges afterwards. Ranking: rank "
        f"correlation of the scores of {amounts.sample:,} architectures drawn uniformly, no two equivalent, with their "
        f"true values; and the same of {amounts.top:,} drawn from the truly best {SHARE:.0%} of the table. Found: true "
        "accuracy of the architecture with the best score, its regret against the table's best in accuracy points, and "
        "its rank, 1 + the number of architectures that are truly better; candidates: mean of all that were scored "
        "with the final weights; random: mean of the uniformly drawn ones; equal cost: true accuracy of what random "
        "search by trainings from scratch (-s random --evaluator train in this folder, same seed) had found, by its "
        "own validation data, after the same CPU seconds, where it was that long. CPU and wall time are those of the "
        "search on one thread, the training of shared weights included, without reading data and without scoring the "
        "samples. "
        f"Strategies without a policy score {amounts.trials:,} architectures. Mean ± standard error over the seeds."
    )
