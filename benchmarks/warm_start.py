"""Searches on one table that begin with a run on another, against the same searches without it.

usage: warm_start.py SOURCE TARGET [-s bo] [--kinds none real shuffled negated] [--seeds 30] [--trials 100]
                     [--source-trials 100] [--at 5 10 20 50 100] [--below .1] [--out FILE]

SOURCE, TARGET: tables of one space, as of `nastool bench --table`. The source's run is one of `--source-strategy`
(default bo), with the seed of the search and 1,000 more. Kinds of warm start: none; real; shuffled: the results of that
run dealt out to its architectures at random; negated: the worst are the best. Prints for each strategy and kind the
regret (in points, of the architecture with the best label so far) after so many queries, mean and standard error over
seeds; the mean paired difference to none, with a 95% interval of 2,000 bootstrap samples of the seeds; and the queries
until the regret is at most `--below`, median and mean (a search that does not get there counts as one query more). Each
search is a line of FILE, from which a second call goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nastool.analysis.bench.benchmark import Benchmark
from nastool.analysis.bench.loop import Budget, play
from nastool.analysis.bench.specs import StrategySpec, TableSpec
from nastool.core import registry
from nastool.core.strategy import Earlier, Informable, Strategy
from nastool.core.values import Trial

KINDS = ("none", "real", "shuffled", "negated")
SAMPLES = 2000
Floats = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source")
    parser.add_argument("target")
    parser.add_argument("-s", "--strategies", nargs="+", default=["bo"])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--seeds", type=int, default=30)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--trials", type=int, default=100)
    parser.add_argument("--source-strategy", default="bo")
    parser.add_argument("--source-trials", type=int, default=100)
    parser.add_argument("--at", nargs="+", type=int, default=[5, 10, 20, 50, 100])
    parser.add_argument("--below", type=float, default=0.1)
    parser.add_argument("--out", type=Path, default=Path("warm-start.jsonl"))
    given = parser.parse_args()
    source, target = (Benchmark(TableSpec.parse(text)) for text in (given.source, given.target))
    seeds = range(given.first_seed, given.first_seed + given.seeds)
    about = [given.source, given.source_strategy, given.source_trials, given.target]
    there = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.exists() else []
    known = {tuple(line["key"]): line for line in there}
    runs: dict[int, Earlier] = {}
    for seed in seeds:
        for strategy in given.strategies:
            for kind in given.kinds:
                key = (*about, strategy, kind, seed, given.trials)
                if key in known:
                    continue
                if kind != "none" and seed not in runs:
                    runs[seed] = earlier(source, given.source_strategy, given.source_trials, seed)
                known[key] = {"key": key, **search(strategy, target, seed, given.trials, runs.get(seed), kind)}
                with given.out.open("a") as file:
                    file.write(json.dumps(known[key]) + "\n")
    print(f"{source.facts.label} -> {target.facts.label}, {len(seeds)} seeds")
    for strategy in given.strategies:
        rows = {kind: [known[(*about, strategy, kind, seed, given.trials)] for seed in seeds] for kind in given.kinds}
        for kind, own in rows.items():
            print(line_of(f"{strategy} {kind}", own, rows.get("none"), given))


def made(text: str, benchmark: Benchmark, seed: int) -> Strategy:
    spec = StrategySpec.parse(text)
    strategy: Strategy = registry.make("strategy", spec.name, benchmark.space, given={**spec.options, "seed": seed})
    return strategy


def earlier(benchmark: Benchmark, strategy: str, trials: int, seed: int) -> Earlier:
    """What a search on the source measured."""
    told: list[Trial] = []
    play(made(strategy, benchmark, 1000 + seed), benchmark, 1000 + seed, Budget(trials), told)
    done = [trial for trial in told if trial.state == "done"]
    return Earlier(
        np.array([trial.proposal.arch.choices for trial in done]), np.array([trial.losses for trial in done])
    )


def search(
    name: str, benchmark: Benchmark, seed: int, trials: int, run: Earlier | None, kind: str
) -> dict[str, object]:
    """Regret in points after each query, and seconds of the processor."""
    strategy = made(name, benchmark, seed)
    began = time.process_time()
    if kind != "none":
        assert run is not None and isinstance(strategy, Informable)
        rng = np.random.default_rng(seed)
        losses = {"real": run.losses, "negated": -run.losses, "shuffled": rng.permutation(run.losses)}[kind]
        strategy.inform([Earlier(run.choices, losses)])
    found = play(strategy, benchmark, seed, Budget(trials))
    took = time.process_time() - began
    bests = [found.best_after(query) for query in range(1, trials + 1)]
    worst, optimum = benchmark.facts.worst, benchmark.facts.optimum
    regrets = [100 * (optimum - (worst if best is None else best.value)) for best in bests]
    return {"regrets": [round(regret, 4) for regret in regrets], "seconds": round(took, 3)}


def line_of(
    label: str, rows: Sequence[dict[str, object]], base: Sequence[dict[str, object]] | None, given: argparse.Namespace
) -> str:
    regrets, without = curves(rows), None if base is None else curves(base)
    cells = []
    for query in (query for query in given.at if query <= given.trials):
        own = regrets[:, query - 1]
        cell = f"@{query} {own.mean():.3f} ± {own.std(ddof=1) / np.sqrt(len(own)):.3f}"
        if without is not None and rows is not base:
            low, high = interval(own - without[:, query - 1])
            cell += f" ({(own - without[:, query - 1]).mean():+.3f} [{low:+.3f}, {high:+.3f}])"
        cells.append(cell)
    below = regrets <= given.below
    queries = np.where(below.any(axis=1), 1 + below.argmax(axis=1), given.trials + 1)
    seconds = np.mean([float(str(row["seconds"])) for row in rows]) / given.trials
    reached = f"<= {given.below:g}: median {np.median(queries):g}, mean {queries.mean():.1f}"
    return f"{label:<22} {'  '.join(cells)}  {reached}, {below.any(axis=1).mean():.0%}  {1000 * seconds:.1f} ms"


def curves(rows: Sequence[dict[str, object]]) -> Floats:
    return np.array([row["regrets"] for row in rows], dtype=np.float64)


def interval(values: Floats) -> tuple[float, float]:
    draws = np.random.default_rng(0).choice(values, (SAMPLES, len(values))).mean(axis=1)
    low, high = np.quantile(draws, [0.025, 0.975])
    return float(low), float(high)


if __name__ == "__main__":
    main()
