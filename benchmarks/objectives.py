"""Accuracy against a device's latency on NAS-Bench-201: how much of the true front's hypervolume strategies find.

    python benchmarks/objectives.py --data DIR [--dataset cifar10] [--device 1080ti_256] [--strategies nsga2,bo]

DIR holds nasbench201.npz and nasbench201_latency.npz, whose columns are the latencies in milliseconds on each device. A
query is one architecture's mean test accuracy after 200 epochs and its latency, without noise. The reference point is
the accuracy's 5% quantile and the largest latency. Prints a Markdown row for each strategy: hypervolume of what it has
queried as a share of that of all 15,625 architectures, mean and standard deviation over seeds.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np

from nastool.core import pareto, registry
from nastool.core.options import resolve, split
from nastool.core.space import by_choices
from nastool.core.values import Objective, SpaceRef, Trial
from nastool.learners.predictors.threads import one_thread

MARKS = (50, 100, 150, 200)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--dataset", default="cifar10")
    parser.add_argument("--device", default="1080ti_256")
    parser.add_argument("--strategies", default="random,evolution,nsga2,bo", help="NAME[:KEY=VALUE],...")
    parser.add_argument("--seeds", type=int, default=30)
    given = parser.parse_args()
    space = by_choices(registry.make_space(SpaceRef("nasbench201")))
    options = {
        "file": str(given.data / "nasbench201.npz"),
        "dataset": given.dataset,
        "metric": "test200",
        "beside": str(given.data / "nasbench201_latency.npz"),
        "columns": f"latency_ms={given.device}",
    }
    table = registry.make("evaluator", "table", space, given=options)
    table.prepare()
    objectives = Objective.parse_all(["test_acc", "latency_ms"])
    rows = np.stack([-table.true_values, table.facts["latency_ms"]], axis=1)
    reference = (float(np.quantile(rows[:, 0], 0.95)), float(rows[:, 1].max()))
    whole = pareto.hypervolume(rows, reference)
    print(f"{given.dataset}, {given.device}: front of {len(pareto.front(rows))}, {given.seeds} seeds")
    print("| strategy |" + "".join(f" {mark} |" for mark in MARKS) + " s a run |\n" + "|---" * (len(MARKS) + 2) + "|")
    for text in given.strategies.split(","):
        name, more = split(text, "--strategies")
        resolved = resolve(f"strategy {name}", registry.load("strategy", name), more)
        found = np.zeros((given.seeds, len(MARKS)))
        began = time.perf_counter()
        for seed in range(given.seeds):
            strategy = registry.make("strategy", name, space, given={**resolved, "seed": seed})
            losses: list[tuple[float, ...]] = []
            for number in range(max(MARKS)):
                proposal = strategy.ask()
                evaluation = table.evaluate(number, proposal, seed=0, report=lambda step, metrics: None)
                losses.append(tuple(each.loss(evaluation.all_metrics) for each in objectives))
                strategy.tell(Trial(number, proposal, "done", evaluation, losses[-1]))
            found[seed] = [pareto.hypervolume(losses[:mark], reference) / whole for mark in MARKS]
        took = (time.perf_counter() - began) / given.seeds
        cells = (
            f" {mean:.4f} ± {spread:.4f} |" for mean, spread in zip(found.mean(0), found.std(0, ddof=1), strict=True)
        )
        print(f"| {text} |" + "".join(cells) + f" {took:.2f} |", flush=True)


if __name__ == "__main__":
    with one_thread():
        main()
