"""NAS-RL's asynchronous replicas on NAS-Bench-201, beside the serial loop; and how busy they keep workers.

    python benchmarks/replicas.py quality --table nasbench201.npz [--dataset cifar10] [--seeds 30] [--batch 1]
    python benchmarks/replicas.py throughput [--children 2000]

The clock is simulated in both: children take log-normal times with standard deviation 1 (in logarithms), and the
strategy is told of them in the order in which they end. Results of architectures are the table's mean test accuracies
after 200 epochs.

`quality` prints a Markdown row for each way: the mean regret in accuracy points after so many children and its standard
error over the seeds, the same of its difference from the serial loop with the same seeds, and by how many updates
gradients came late on average. `throughput` prints the share of workers' time spent on children until the last one has
begun, for replicas and for a barrier: one batch of as many children as there are workers, all of which are waited for.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from nastool.core import registry
from nastool.core.space import by_choices
from nastool.core.values import Arch, Proposal, SpaceRef
from nastool.strategies.reinforce import Reinforce
from nastool.testing.strategies import TinySpace
from tests.helpers.workers import Workers

MARKS = (50, 100, 150)
REPLICAS = 4
WAYS = {
    "serial": (1, {}),
    **{
        f"4 replicas, {rule}": (REPLICAS, {"replicas": REPLICAS, "staleness": rule})
        for rule in ("weigh", "scale", "drop")
    },
    "4 workers, whatever comes next": (REPLICAS, {}),
}
"""Workers for each child of a batch, and options."""


def quality(table: Path, dataset: str, seeds: int, batch: int) -> None:
    space = by_choices(registry.make_space(SpaceRef("nasbench201")))
    given = {"file": str(table), "dataset": dataset, "metric": "test200"}
    evaluator = registry.make("evaluator", "table", space, given=given)
    evaluator.prepare()

    @cache
    def loss(arch: Arch) -> float:
        return -float(evaluator.evaluate(0, Proposal(arch), seed=0, report=lambda *_: None).metrics["test_acc"])

    best = float(np.max(evaluator.true_values))
    print(f"{dataset}, batch={batch}, {seeds} seeds")
    print("| |" + "".join(f" {mark} children |" for mark in MARKS) + " less serial | late | CPU s a run |")
    print("|---" * (len(MARKS) + 4) + "|")
    serial = np.zeros((seeds, len(MARKS)))
    for name, (workers, options) in WAYS.items():
        found, late = np.zeros((seeds, len(MARKS))), []
        began = time.process_time()
        for seed in range(seeds):
            strategy = Reinforce(space, seed=seed, batch=batch, **options)
            search = Workers(strategy, workers * (1 if name == "serial" else batch), loss)
            losses = [trial.loss for trial in search.search(max(MARKS))]
            found[seed] = [100 * (best + min(losses[:mark])) for mark in MARKS]
            late += list(strategy.late.elements())
        taken = (time.process_time() - began) / seeds
        serial = found if name == "serial" else serial
        shown = [*map(_mean, found.T), "" if name == "serial" else _mean(found[:, -1] - serial[:, -1])]
        print(f"| {name} | {' | '.join(shown)} | {f'{np.mean(late):.2f}' if late else ''} | {taken:.1f} |", flush=True)


def _mean(values: np.ndarray) -> str:
    return f"{values.mean():.3f} ± {values.std(ddof=1) / len(values) ** 0.5:.3f}"


def throughput(children: int) -> None:
    print(f"{children:,} children\n| workers | replicas | children each | busy |\n|---|---|---|---|")
    for workers in (4, 16, 64):
        ways = [(workers, 1), (workers, 8), (workers // 4, 8), (workers // 4, 4), (1, workers)]
        for replicas, batch in dict.fromkeys(ways):
            strategy = Reinforce(TinySpace(), dedup=False, hidden=4, replicas=replicas, batch=batch)
            search = Workers(strategy, workers, lambda arch: float(arch.choices[0]))
            search.search(children)
            name = f"{replicas}" if (replicas, batch) != (1, workers) else "1 (barrier)"
            print(f"| {workers} | {name} | {batch} | {search.busy:.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    of_quality = commands.add_parser("quality")
    of_quality.add_argument("--table", type=Path, required=True)
    of_quality.add_argument("--dataset", default="cifar10")
    of_quality.add_argument("--seeds", type=int, default=30)
    of_quality.add_argument("--batch", type=int, default=1)
    commands.add_parser("throughput").add_argument("--children", type=int, default=2000)
    given = vars(parser.parse_args())
    {"quality": quality, "throughput": throughput}[given.pop("command")](**given)


if __name__ == "__main__":
    main()
