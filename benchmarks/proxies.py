"""How well zero-cost proxies rank NAS-Bench-201's cells, and what a prior by one is worth to a search.

    python benchmarks/proxies.py find --store FILE --data npz:cifar.npz -n 1000
    python benchmarks/proxies.py find --store FILE --data npz:cifar.npz --only synflow -n 6466
    python benchmarks/proxies.py rank --store FILE --table nasbench201.npz
    python benchmarks/proxies.py search --store FILE --table nasbench201.npz --strategy evolution --prior synflow params

`find` computes the proxies of cells that are drawn uniformly, no two equivalent, in networks of the published size on
one minibatch of 64, with one seed of weights, and appends a line a cell to FILE; the same command goes on where it was
ended. `rank`: rank correlations with the published mean test accuracy after 200 epochs, of the cells of which
each is known, overall and among the best tenth of them, with standard errors by 1,000 bootstrap samples. A cell through
which no signal goes counts as the worst. `search`: how many queries strategies need until the best label's architecture
is within .1 points of the table's best, with and without a prior, which for each seed is found of 500 other cells.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import stats

from nastool.analysis.bench.benchmark import Benchmark
from nastool.analysis.bench.loop import Budget, play
from nastool.analysis.bench.specs import StrategySpec, TableSpec
from nastool.core.strategy import Earlier, Informable
from nastool.core.values import Arch, Proposal
from nastool.engine.prior import SAMPLE, sample
from nastool.evaluators.zero_cost import ZeroCost
from nastool.nets.costs import NetworkCosts
from nastool.nets.proxies import proxies
from nastool.spaces.nasbench201 import NasBench201
from nastool.tasks.images.task import ImageTask

SPACE = NasBench201()
PROXIES = ("synflow", "naswot", "zen", "jacob_cov", "snip", "grad_norm", "params", "flops")
COSTS = NetworkCosts(SPACE, ImageTask(3, 32, 32, 10), SPACE.Scale())
BATCH = 64
DATA_SETS = ("cifar10", "cifar100")
KINDS = ("spearmanr", "kendalltau")
AT = (10, 20, 50, 100)
COLUMNS = (
    "queries to .1: median (quartiles)",
    "mean, capped",
    "reached",
    "ratio of medians to none's (95%)",
    f"regret after {', '.join(map(str, AT))}",
)

Floats = NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    for name, command in (("find", find), ("rank", rank), ("search", search)):
        own = commands.add_parser(name)
        own.add_argument("--store", type=Path, required=True)
        own.set_defaults(run=command)
        if name == "find":
            own.add_argument("--data", default="npz:cifar.npz")
            own.add_argument("--only", help="one proxy alone")
            own.add_argument("-n", type=int, default=1000)
            own.add_argument("--seed", type=int, default=0)
            own.add_argument("--seconds", type=float, default=math.inf, help="after which it ends")
        else:
            own.add_argument("--table", required=True)
            own.add_argument("--data-set", nargs="+", default=DATA_SETS)
        if name == "search":
            own.add_argument("--strategy", nargs="+", default=["evolution", "bo"])
            own.add_argument("--prior", nargs="+", default=["synflow"])
            own.add_argument("--seeds", type=int, default=30)
            own.add_argument("--trials", type=int, default=300)
    args = parser.parse_args()
    args.run(args)


# --- proxies


def find(args: argparse.Namespace) -> None:
    known = read(args.store)
    evaluator = ZeroCost(
        SPACE,
        data=args.data,
        train_size=2000,
        batch_size=BATCH,
        device="cpu",
        proxy=args.only or "synflow",
        all_proxies=args.only is None,
        seed=args.seed,
    )
    evaluator.prepare()
    began = time.monotonic()
    with args.store.open("a", encoding="utf-8") as file:
        for arch in sample(SPACE, args.n, args.seed):
            wanted = {args.only} if args.only else set(PROXIES)
            if wanted <= known.get(SPACE.canonical(arch), {}).keys():
                continue
            if time.monotonic() - began > args.seconds:
                break
            started, cpu = time.perf_counter(), time.process_time()
            values = found(evaluator, arch, args.only)
            spent = {"seconds": time.perf_counter() - started, "cpu": time.process_time() - cpu}
            line = {"choices": arch.choices, "all": args.only is None, "values": values, **spent}
            file.write(json.dumps(line) + "\n")
            file.flush()


def found(evaluator: ZeroCost, arch: Arch, only: str | None) -> dict[str, float | None]:
    """The proxies of one cell; None: no signal goes through it. only: synflow, with nothing counted beside it."""
    with evaluator.reproducible(0):
        if only == "synflow":
            (inputs,) = evaluator.task.example(1, "cpu")
            values = proxies(evaluator.build(arch, 0), torch.sum, inputs, (only,))
        else:
            values = evaluator.found(Proposal(arch), 0)
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def lines(store: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in store.read_text().splitlines()] if store.exists() else []


def read(store: Path) -> dict[str, dict[str, float]]:
    """Of each cell, by its canonical form, the proxies that there are; -inf where no signal goes through."""
    known: dict[str, dict[str, float]] = {}
    for line in lines(store):
        known.setdefault(SPACE.canonical(SPACE.arch(line["choices"])), {}).update(read_values(line))
    return known


def read_values(line: dict[str, Any]) -> dict[str, float]:
    found: dict[str, float | None] = line["values"]
    return {name: -math.inf if value is None else value for name, value in found.items()}


# --- ranks


def rank(args: argparse.Namespace) -> None:
    whole = [line for line in lines(args.store) if line["all"]]
    seconds = np.array([[line["seconds"], line["cpu"]] for line in whole], dtype=float)
    print(f"all proxies of {len(whole)} cells; seconds each, mean and 95%: {seconds[:, 0].mean():.2f}, ", end="")
    print(f"{q95(seconds[:, 0]):.2f}; of CPU time {seconds[:, 1].mean():.2f}, {q95(seconds[:, 1]):.2f}\n")
    known: dict[str, dict[Arch, float]] = {name: {} for name in PROXIES}
    for line in lines(args.store):
        arch = SPACE.arch(line["choices"])  # type: ignore[arg-type]
        own = {**read_values(line), **COSTS.of(arch, ("params", "flops"))}
        for name in own.keys() & known.keys():
            known[name][arch] = own[name]
    for data_set in args.data_set:
        benchmark = table(args.table, data_set)
        print(f"| {data_set} | cells | Spearman | Kendall | best tenth: Spearman | Kendall |")
        print("|---|---:|---:|---:|---:|---:|")
        for name, of_cells in known.items():
            values = np.array(list(of_cells.values()))
            truth = np.array([benchmark.table.true_value(Proposal(arch)) for arch in of_cells])
            best = truth >= np.quantile(truth, 0.9)
            cells = [shown(kind, values[of], truth[of]) for of in (truth > -1, best) for kind in KINDS]
            print(f"| {name} | {len(of_cells)} | {' | '.join(cells)} |", flush=True)
        print()


def q95(values: Floats) -> float:
    return float(np.quantile(values, 0.95))


def shown(kind: str, values: Floats, truth: Floats, samples: int = 1000) -> str:
    """A correlation with its bootstrap standard error."""
    values, truth = (stats.rankdata(each) for each in (values, truth))
    correlation = getattr(stats, kind)
    rng, size = np.random.default_rng(0), len(truth)
    again = [correlation(values[i], truth[i])[0] for i in rng.integers(size, size=(samples, size))]
    return f"{correlation(values, truth)[0]:.3f} ± {np.nanstd(again):.3f}"


def table(file: str, data_set: str) -> Benchmark:
    return Benchmark(TableSpec.parse(f"nasbench201:file={file},dataset={data_set}"))


# --- searches


def search(args: argparse.Namespace) -> None:
    known = read(args.store)
    for data_set in args.data_set:
        benchmark = table(args.table, data_set)
        for text in args.strategy:
            spec = StrategySpec.parse(text)
            print(
                f"| {spec.label}, {data_set}, {args.seeds} seeds | {' | '.join(COLUMNS)} |\n|---|---|---:|---:|---|---|"
            )
            before: Floats | None = None
            for name in ("none", *args.prior):
                priors = [None if name == "none" else prior(known, name, seed) for seed in range(args.seeds)]
                made = [run(spec, benchmark, seed, own, args.trials) for seed, own in enumerate(priors)]
                queries, regrets = np.array([each[0] for each in made]), np.array([each[1] for each in made])
                before = queries if before is None else before
                print(f"| {name} | {described(queries, before, args.trials)} | {means(regrets)} |", flush=True)
            print()


def prior(known: dict[str, dict[str, float]], name: str, seed: int) -> Earlier:
    """A proxy of SAMPLE random cells of which it is known, as a search finds it."""
    archs, values = list[Arch](), list[float]()
    for arch in sample(SPACE, 6000, seed):
        if name == "params":
            values.append(COSTS.of(arch, (name,))[name])
        elif name in (own := known.get(SPACE.canonical(arch), {})):
            values.append(own[name])
        else:
            continue
        archs.append(arch)
        if len(archs) == SAMPLE:
            break
    return earlier(archs, np.array(values))


def earlier(archs: Sequence[Arch], values: Floats) -> Earlier:
    values = np.where(np.isfinite(values), values, values[np.isfinite(values)].min())
    return Earlier(np.array([arch.choices for arch in archs], dtype=np.intp), -values[:, None], trained=False)


def run(
    spec: StrategySpec, benchmark: Benchmark, seed: int, own: Earlier | None, trials: int
) -> tuple[float, list[float]]:
    """How many queries it took (inf: more than there were), and the regret after AT."""
    strategy = spec.build(benchmark.space, seed)
    if own is not None:
        assert isinstance(strategy, Informable)
        strategy.inform([own])
    benchmark.start(seed)
    made = play(strategy, benchmark, seed, Budget(trials))
    best = benchmark.facts.optimum
    reached = next((each.query for each in made.best if best - each.value <= 0.001), math.inf)
    return reached, [100 * (best - each.value) for at in AT if (each := made.best_after(at)) is not None]


def described(queries: Floats, before: Floats, trials: int) -> str:
    low, middle, high = np.quantile(queries, [0.25, 0.5, 0.75], method="inverted_cdf")
    rng, size = np.random.default_rng(0), len(queries)
    which = rng.integers(size, size=(2000, size))
    ratios = median(queries[which]) / np.minimum(median(before[which]), trials)
    ends = np.quantile(ratios, [0.025, 0.975], method="inverted_cdf")
    ratio = f"{median(queries) / median(before):.2f} ({ends[0]:.2f} to {ends[1]:.2f})"
    reached = np.isfinite(queries).mean()
    return (
        f"{middle:.0f} ({low:.0f} to {high:.0f}) | {np.minimum(queries, trials).mean():.0f} | {reached:.0%} | {ratio}"
    )


def median(queries: Floats) -> Floats:
    return np.asarray(np.quantile(queries, 0.5, axis=-1, method="inverted_cdf"))


def means(regrets: Floats) -> str:
    return ", ".join(f"{value:.2f}" for value in regrets.mean(axis=0))


if __name__ == "__main__":
    main()
