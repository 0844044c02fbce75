"""Do the strategies reproduce known regrets? NAS-Bench-201, CIFAR-10, mean test accuracy after 200 epochs, no noise.

usage: regret.py [--data DIR] [--seeds 200]

Regret is the table's best accuracy less the best one seen, in accuracy points; every query is charged, the random
ones at the start and duplicates too. Mean +- standard error over seeds 0 ... n-1. What it is compared with stands in
KNOWN.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nastool import registry
from nastool.core import Proposal, Trial
from nastool.evaluators.table import Table

BUDGETS = (50, 100, 150, 300)
KNOWN: tuple[tuple[str, Mapping[str, object], int, str], ...] = (
    ("random", {"replacement": True}, 100, "regret 0.54 +- 0.03"),
    ("evolution", {"population": 10, "tournament": 3, "dedup": False}, 100, "regret 0.26 +- 0.04"),
    ("evolution", {"population": 30, "tournament": 10, "dedup": False}, 300, "at the optimum in >= 90% of seeds"),
    ("evolution", {}, 300, "the defaults"),
)
"""strategy, options, budget, what is known there"""


def regrets(table: Table, name: str, options: Mapping[str, object], seeds: int) -> NDArray[np.float64]:
    """(seeds, queries): accuracy points below the best."""

    def silent(step: int, metrics: Mapping[str, float]) -> None: ...

    def value(proposal: Proposal) -> float:
        return table.evaluate(0, proposal, seed=0, report=silent).metrics[table.objective]

    best = max(value(Proposal(arch)) for arch in table.space.members())
    found = np.zeros((seeds, max(BUDGETS)))
    for seed in range(seeds):
        strategy = registry.make("strategy", name, table.space, given={**options, "seed": seed})
        top = 0.0
        for i in range(found.shape[1]):
            proposal = strategy.ask()
            evaluation = table.evaluate(i, proposal, seed=0, report=silent)
            accuracy = evaluation.metrics[table.objective]
            strategy.tell(Trial(i, proposal, "done", evaluation, (-accuracy,)))
            top = max(top, accuracy)
            found[seed, i] = 100 * (best - top)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("NASTOOL_TEST_DATA"))
    parser.add_argument("--seeds", type=int, default=200)
    args = parser.parse_args()
    if args.data is None:
        parser.error("give --data DIR or set NASTOOL_TEST_DATA")
    space = registry.make("space", "nasbench201", given={})
    table = Table(space, file=str(Path(args.data) / "nasbench201.npz"), dataset="cifar10", metric="test200")
    table.prepare()
    for name, options, budget, known in KNOWN:
        start = time.perf_counter()
        found = regrets(table, name, options, args.seeds)
        shown = ", ".join(f"{key}={value}" for key, value in options.items())
        print(f"{name}({shown}), {args.seeds} seeds, {time.perf_counter() - start:.1f} s")
        for queries in BUDGETS:
            column = found[:, queries - 1]
            error = column.std(ddof=1) / np.sqrt(len(column))
            at_optimum = np.mean(column < 1e-9)
            note = f"   known: {known}" if queries == budget else ""
            print(f"  {queries:>4} queries: {column.mean():.3f} +- {error:.3f}, optimum {at_optimum:.0%}{note}")


if __name__ == "__main__":
    main()
