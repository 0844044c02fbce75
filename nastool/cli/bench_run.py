"""The work of `nastool bench`: finding runs that are missing, making them, reporting."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from nastool import __version__
from nastool.analysis import blocks
from nastool.analysis.bench import provenance, rankings, results
from nastool.analysis.bench.benchmark import Facts
from nastool.analysis.bench.journal import Content, Journal, Key, Record, Scorer, SearchRecord, Strategy
from nastool.analysis.bench.loop import Budget, Run
from nastool.analysis.bench.plan import Item, missing, tasks
from nastool.analysis.bench.pool import Describe, Play, Pool, Score, describe
from nastool.analysis.bench.scored import Scored
from nastool.analysis.bench.specs import ScorerSpec, StrategySpec, TableSpec, check
from nastool.analysis.bench.view import SAMPLE, TOP, TRIALS, View, numbers, parse_seeds, whole_numbers
from nastool.cli import common
from nastool.cli.common import say
from nastool.core import invocation
from nastool.core.errors import InputError, NastoolError, Stopped
from nastool.core.typed import fields, fitted
from nastool.core.values import Evaluation
from nastool.engine.interrupts import Interrupts

MAX_REASONS = 5
"""Most failed runs that are told one by one."""
PLAIN_SECONDS = 5.0
"""Without a terminal, at most one line in so many seconds."""


def run(given: Mapping[str, Any]) -> int:
    """Carry the command out. given: its options. Returns the exit code."""
    strategies = [StrategySpec.parse(text) for text in given["strategies"]]
    strategies += [strategy.by(rule) for rule in given["fidelity"] for strategy in strategies]
    tables = [TableSpec.parse(text) for text in given["tables"]]
    scorer = _scorer(given)
    journal = Journal(Path(given["out"]))
    if not strategies and not tables:
        return _report_only(journal, given)
    if not strategies or not tables:
        raise InputError(f"give --{'strategy' if tables else 'table'} as well; neither writes the report anew")
    check(strategies, tables, scorer)
    view = _view(given, None)
    journal.exists()
    with closing(Pool(given["workers"], tables[0])) as pool:
        known = _facts(pool, tables, view)
        if given["dry_run"]:
            return _dry_run(missing(journal.read(), strategies, known, view, given["force"], scorer), given)
        with journal.locked():
            journal.exists()  # again: nobody else can change it from here on
            content = journal.read()
            items = missing(content, strategies, known, view, given["force"], scorer)
            return _bench(journal, content, items, view, pool, given)


def _scorer(given: Mapping[str, Any]) -> ScorerSpec | None:
    """Who scores; None: the tables themselves. InputError: options are given that go with the other alone."""
    of_tables = ("fidelity", "sim_seconds", "at", "at_seconds", "target_regret")
    if given["evaluator"] is not None:
        for name in (name for name in of_tables if given[name] not in (None, ())):
            raise InputError(f"--{name.replace('_', '-')} is for labels of a table: leave it or --evaluator out")
        return ScorerSpec.of(given["evaluator"], given["evaluator_options"])
    of_scorers = [f"-E {name}=" for name in given["evaluator_options"]]
    of_scorers += [f"--{name}" for name in ("sample", "top") if given[name] is not None and given["strategies"]]
    for flag in of_scorers:
        raise InputError(f"{flag} goes with --evaluator NAME, such as supernet")
    return None


def _view(given: Mapping[str, Any], last: View | None) -> View:
    """View that the options ask for; what they leave open is as in the last call."""
    at = None if given["at"] is None else whole_numbers(given["at"], "--at")
    at_seconds = None if given["at_seconds"] is None else numbers(given["at_seconds"], "--at-seconds")
    trials, seconds, seeds, target = (given[name] for name in ("trials", "sim_seconds", "seeds", "target_regret"))
    sample, top = given["sample"], given["top"]
    if last is not None:
        if trials is None and seconds is None:
            trials, seconds = last.budget.trials, last.budget.seconds
            if at is None and at_seconds is None:
                at, at_seconds = last.at, last.at_seconds
        seeds = last.seeds if seeds is None else seeds
        target = last.target if target is None else target
        sample, top = sample or last.sample, top or last.top
    if trials is None and seconds is None:
        trials = TRIALS
    if seeds is None:
        seeds = "100" if given["evaluator"] is None else "5"
    budget = Budget(trials, seconds)
    return View.of(seeds, budget, at, at_seconds, target or 0.0, sample or SAMPLE, top or TOP)


def _facts(pool: Pool, tables: Sequence[TableSpec], view: View) -> list[tuple[TableSpec, Facts]]:
    """The tables, read. InputError: one cannot be used, or not so."""
    facts = describe(pool, tables)
    view.check(facts)
    for i, own in enumerate(facts):
        if own.id in [other.id for other in facts[:i]]:
            raise InputError(f"--table {own.file} is the same table as an earlier one: give it once")
    return list(zip(tables, facts, strict=True))


def _bench(
    journal: Journal, content: Content, items: Sequence[Item], view: View, pool: Pool, given: Mapping[str, Any]
) -> int:
    """Record what is to be run, run it, and say what came of it."""
    count = sum(len(item.seeds) for item in items)
    journal.open()
    for facts in dict.fromkeys(item.facts for item in items):
        if content.tables.get(facts.id) != facts:
            content.tables[facts.id] = facts
            journal.add_table(facts)
    for strategy in {item.strategy.id: Strategy.of(item.strategy) for item in items}.values():
        if strategy.id not in content.strategies:
            content.strategies[strategy.id] = strategy
            journal.add_strategy(strategy)
    for scorer in {item.scorer.id: Scorer.of(item.scorer) for item in items if item.scorer is not None}.values():
        if scorer.id not in content.scorers:
            content.scorers[scorer.id] = scorer
            journal.add_scorer(scorer)
    if count or not content.calls or content.calls[-1].view != view:
        call = provenance.Call.now(view)
        content.calls.append(call)
        journal.add_call(call)
    _say_plan(journal, content, items, view)
    broken = 0
    if count:
        code, broken = _make(journal, content, items, view, pool, given["force"])
        if code:
            return code
    _finish(journal, content, view, given)
    return 1 if broken else 0


def _make(
    journal: Journal, content: Content, items: Sequence[Item], view: View, pool: Pool, force: bool
) -> tuple[int, int]:
    """Make the runs that are missing. Returns the exit code of an interruption, or 0, and how many runs broke."""
    again = f"continue with: {invocation.shown()}"
    sources = {item.strategy.name: provenance.source(item.strategy.name) for item in items}
    count = sum(len(item.seeds) for item in items)
    done = broken = 0

    def first_interrupt() -> None:
        say(f"\n{done} of {count} runs saved in {journal.path}; {again}")
        if pool.busy:
            say(f"finishing {pool.busy} of them; Ctrl-C again stops at once")

    with Interrupts(first_interrupt) as interrupts, _Progress(count) as progress:
        try:
            for event in pool.run(tasks(items, content, view, journal.path, force), lambda: interrupts.stopping):
                if event is not None:
                    task, finished = event
                    assert not isinstance(task, Describe)
                    if finished.evaluation is not None:
                        _keep(journal, content, task, finished.evaluation, sources[task.strategy.name])
                        done += 1
                    else:
                        broken += 1
                        if broken <= MAX_REASONS:
                            what = f"{task.strategy.label} on {task.facts.label}, seed {task.seed}"
                            say(f"no result of {what}: {finished.error}")
                progress.update(done + broken)
        except Stopped as stop:
            progress.__exit__(None, None, None)
            say(f"stopped with {done} of {count} runs saved in {journal.path}; {again}")
            return stop.exit_code, broken
        if interrupts.stopping:
            return 130, broken
    if broken:
        say(f"{broken} of {count} runs have no result; the same command tries them again")
    return 0, broken


def _keep(journal: Journal, content: Content, task: Play | Score, found: Evaluation, source: str) -> None:
    """Record what came of a run."""
    if isinstance(task, Score):
        key = Key(task.strategy.id, task.facts.id, task.seed, task.scorer.id)
        scored = Scored(**fitted(found.notes, fields(Scored)))
        content.searches[key] = SearchRecord(scored, __version__, source)
        journal.add_search(key, content.searches[key])
        return
    key = Key(task.strategy.id, task.facts.id, task.seed)
    run = Run(**fitted(found.notes, fields(Run)))
    content.runs[key] = Record(run, round(found.seconds, 6), __version__, source)
    journal.add_run(key, content.runs[key])


def _say_plan(journal: Journal, content: Content, items: Sequence[Item], view: View) -> None:
    """Say how many runs are there already, and whether a strategy was changed since."""
    seeds = parse_seeds(view.seeds)
    count, whole = sum(len(item.seeds) for item in items), len(items) * len(seeds)
    there = f"{journal.path}: {whole - count:,} of {whole:,} runs are there"
    say(there if count < whole else f"{whole:,} runs to make")
    changed: dict[str, int] = {}
    for item in items:
        source = provenance.source(item.strategy.name)
        for seed in set(seeds) - set(item.seeds):
            key = item.key(seed)
            if (content.runs[key] if item.scorer is None else content.searches[key]).source != source:
                changed[item.strategy.name] = changed.get(item.strategy.name, 0) + 1
    for name, runs in changed.items():
        say(f"note: strategy {name} was changed since {runs:,} of these; --force makes them again")


def _dry_run(items: Sequence[Item], given: Mapping[str, Any]) -> int:
    say(f"{sum(len(item.seeds) for item in items):,} runs to make")
    for item in items:
        strategy, table = item.strategy.label, item.facts.label
        scorer = "" if item.scorer is None else item.scorer.label
        if common.as_json(given["json_flag"]):
            options, by = dict(item.strategy.options), {"evaluator": scorer} if scorer else {}
            common.emit(
                {"table": table, "strategy": strategy, "options": options, **by, "runs_missing": len(item.seeds)}
            )
        else:
            common.show(f"{strategy}{scorer and f' by {scorer}'} on {table}: {len(item.seeds):,} runs")
    return 0


def _report_only(journal: Journal, given: Mapping[str, Any]) -> int:
    if not journal.exists():
        raise InputError(f"no comparison in {journal.path}: give --strategy and --table, or another --out")
    if given["dry_run"] or given["force"]:
        raise InputError("--dry-run and --force need --strategy and --table")
    content = journal.read()
    if not content.calls or not (content.runs or content.searches):
        raise InputError(f"{journal.path} has no finished runs: give --strategy and --table")
    view = _view(given, content.calls[-1].view)
    view.check(list(content.tables.values()))
    _finish(journal, content, view, given)
    return 0


def _finish(journal: Journal, content: Content, view: View, given: Mapping[str, Any]) -> None:
    """Write results, curves and report, and print the summary."""
    found, searched = results.groups(content, view), rankings.rows(content, view)
    if not found and not searched:
        raise NastoolError(f"{journal.path} has no finished run with these seeds")
    rows = {facts: [group.row(view) for group in own] for facts, own in found.items()}
    with journal.reporting():
        say(f"report: {results.write(journal.path, content, found, rows, searched, view, given['format'])}")
    if common.as_json(given["json_flag"]):
        for document in (*(row.to_json(view) for own in rows.values() for row in own), *rankings.to_json(searched)):
            common.emit(document)
    else:
        shown = (*results.summary(rows, view), *rankings.summary(searched))
        sys.stdout.write(blocks.text(shown, color=sys.stdout.isatty()))


class _Progress:
    """Runs done, and the time left: a live line on a terminal, plain lines elsewhere."""

    def __init__(self, total: int) -> None:
        self.total = total
        self._start = self._last = time.monotonic()
        self._live: Any = None

    def __enter__(self) -> _Progress:
        if sys.stderr is not None and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

            columns = TextColumn("runs"), BarColumn(bar_width=20), MofNCompleteColumn()
            console = Console(stderr=True)
            self._live = Progress(
                *columns, TextColumn("{task.description}"), console=console, transient=True, refresh_per_second=4
            )
            self._live.add_task("", total=self.total)
            self._live.start()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def update(self, done: int) -> None:
        now = time.monotonic()
        left = (now - self._start) / done * (self.total - done) if done else 0.0
        text = f"{common.format_seconds(left)} left" if done else ""
        if self._live is not None:
            self._live.update(self._live.task_ids[0], completed=done, description=text)
        elif now - self._last > PLAIN_SECONDS:
            self._last = now
            say(f"runs {done:,}/{self.total:,}  {text}")
