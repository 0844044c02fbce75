"""How long the predictors take to fit and predict, on one thread.

usage: predictors.py [--runs 11] [--reference-runs 3] [--only ensemble trees iteration growth] [--max-points 20000]

ensemble: the neural ensemble of BANANAS (5 networks of 10 x 20, 150 epochs), fit + prediction of 100 candidates; and,
    in turns with it, the same recipe written plainly, network after network with eager PyTorch, as public
    implementations have it.
trees: extremely randomised trees, fit + prediction of 100 candidates.
iteration: what the strategies `bananas` and `bo` take from one batch to the next, candidates and all.
growth: the same for more and more results, per trial.

Inputs are path encodings of random NAS-Bench-201 cells, and random bits, which leave no input unused: the slowest case.
The first run of each does not count. Times are wall times: let nothing else run. The rate of float32 matrix products of
the same minute says how fast the machine was.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nastool.core import encodings, registry
from nastool.core.space import SearchSpace
from nastool.core.values import Evaluation, Proposal, Trial
from nastool.learners.predictors import ensemble, trees
from nastool.learners.predictors.threads import one_thread
from nastool.learners.surrogate import SurrogateStrategy
from nastool.strategies.bo import REFIT

Inputs = NDArray[np.float32]
Targets = NDArray[np.float64]
CANDIDATES = 100


def main() -> None:
    sections: dict[str, Callable[[argparse.Namespace], None]] = {
        "ensemble": ensemble_section,
        "trees": trees_section,
        "iteration": iteration_section,
        "growth": growth_section,
    }
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--reference-runs", type=int, default=3, help="of the plain implementation; 0: leave it out")
    parser.add_argument("--max-points", type=int, default=20_000, help="where growth ends")
    parser.add_argument("--only", nargs="+", choices=sections, default=list(sections), help="sections")
    args = parser.parse_args()
    print(header())
    with one_thread():
        for name in args.only:
            print(f"\n{name}: float32 matrix products reach {peak():.0f} GFLOP/s (1024^3, one thread)")
            sections[name](args)


def header() -> str:
    import torch

    versions = f"python {platform.python_version()}, numpy {np.__version__}, torch {torch.__version__}"
    return f"{versions}; {processor()}, 1 thread"


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def peak() -> float:
    """GFLOP/s of float32 products of 1024 x 1024 matrices; the best of 10."""
    matrix = np.random.default_rng(0).random((1024, 1024), np.float32)
    out = np.empty_like(matrix)
    return 2 * 1024**3 / min(seconds(lambda: np.dot(matrix, matrix, out=out), 10)) / 1e9


def seconds(run: Callable[[], object], runs: int, discard: int = 1) -> list[float]:
    """Wall time of each run, after some that do not count."""
    times = []
    for _ in range(discard + runs):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return times[discard:]


def row(name: str, times: list[float]) -> str:
    middle, least, most = (1000 * value for value in (statistics.median(times), min(times), max(times)))
    return f"  {name:<58} median {middle:8.1f} ms  ({least:.1f} to {most:.1f}, {len(times)} runs)"


# --- inputs


def cells(n: int) -> Inputs:
    """(n, 155): path encodings of random NAS-Bench-201 cells."""
    space = registry.make("space", "nasbench201", given={})
    encoded: Inputs = encodings.encode_many(space, np.random.default_rng(n).integers(0, 5, (n, 6)), "path")
    return encoded


def bits(n: int, d: int) -> Inputs:
    return np.random.default_rng(n).integers(0, 2, (n, d)).astype(np.float32)


def targets(inputs: Inputs) -> Targets:
    """A linear function and noise."""
    rng = np.random.default_rng(0)
    values: Targets = inputs @ rng.normal(size=inputs.shape[1])
    values += 0.1 * values.std() * rng.normal(size=len(values))
    return values


# --- the neural ensemble


def ensemble_section(args: argparse.Namespace) -> None:
    kinds: dict[str, Callable[[int], Inputs]] = {
        "paths of cells, d = 155": cells,
        "random bits, d = 155": lambda n: bits(n, 155),
        "random bits, d = 364": lambda n: bits(n, 364),
    }
    for kind, draw in kinds.items():
        for n in (50, 100, 150):
            print(row(f"{kind}, n = {n}", seconds(batched(draw(n + CANDIDATES)), args.runs)))
    if args.reference_runs:
        inputs = cells(150 + CANDIDATES)
        own, other = batched(inputs), plain(inputs)
        own_times, other_times = [], []
        own()
        for _ in range(args.reference_runs):
            other_times += seconds(other, 1, discard=0)
            own_times += seconds(own, 3, discard=0)
        print(row("plain PyTorch, network after network, d = 155, n = 150", other_times))
        print(row("this one, in turns with it", own_times))
        print(f"  ratio of the medians: {statistics.median(other_times) / statistics.median(own_times):.1f}")


def batched(inputs: Inputs) -> Callable[[], object]:
    y = targets(inputs)[:-CANDIDATES]
    x, candidates = inputs[:-CANDIDATES], inputs[-CANDIDATES:]
    return lambda: ensemble.fit(x, y, np.random.default_rng(0)).predict(candidates)


def plain(inputs: Inputs) -> Callable[[], object]:
    """The recipe without any care for speed."""
    import torch
    from torch import nn

    torch.set_num_threads(1)
    values = targets(inputs)[:-CANDIDATES]
    x, candidates = torch.from_numpy(inputs[:-CANDIDATES]), torch.from_numpy(inputs[-CANDIDATES:])
    y = torch.from_numpy((values - values.mean()) / values.std()).float()[:, None]

    def train_one() -> torch.Tensor:
        layers: list[nn.Module] = []
        for width in [inputs.shape[1]] + 9 * [20]:
            layers += [nn.Linear(width, 20), nn.ReLU()]
        network = nn.Sequential(*layers, nn.Linear(20, 1))
        for parameter in network.parameters():
            nn.init.xavier_uniform_(parameter) if parameter.ndim == 2 else nn.init.zeros_(parameter)
        optimizer = torch.optim.Adam(network.parameters(), lr=0.01, betas=(0.9, 0.99), eps=1e-7)
        for _ in range(150):
            for rows in torch.randperm(len(x)).split(32):
                optimizer.zero_grad()
                nn.functional.l1_loss(network(x[rows]), y[rows]).backward()
                optimizer.step()
        with torch.no_grad():
            prediction: torch.Tensor = network(candidates)
        return prediction

    return lambda: [train_one() for _ in range(5)]


# --- trees


def trees_section(args: argparse.Namespace) -> None:
    for n in (50, 150, 300):
        print(row(f"paths of cells, d = 155, n = {n}", seconds(grown(cells(n + CANDIDATES)), args.runs)))


def grown(inputs: Inputs) -> Callable[[], object]:
    y = targets(inputs)[:-CANDIDATES]
    x, candidates = inputs[:-CANDIDATES], inputs[-CANDIDATES:]
    return lambda: trees.fit(x, y, np.random.default_rng(0)).predict(candidates)


# --- whole strategies


def iteration_section(args: argparse.Namespace) -> None:
    for n in (50, 100, 150):
        times = seconds(iteration("bananas", "nasbench201", n), args.runs)
        print(row(f"bananas, nasbench201, {n} results, 10 of 100", times))
    for n in (100, 300):
        for refit in (False, True):
            times = seconds(iteration("bo", "nasbench201", n, refit), args.runs)
            what = "hyper-parameters fitted anew" if refit else "same hyper-parameters"
            print(row(f"bo, nasbench201, {n} results, all others, {what}", times))


def growth_section(args: argparse.Namespace) -> None:
    for space in ("nasbench201", "nasbench101"):
        cells_there = 2000 if space == "nasbench201" else 20_000  # of 6,466, so that the best have new neighbors
        for name, refit in (("bananas", False), ("bo", False), ("bo", True)):
            for n in (100, 300, 2000, 20_000):
                if n <= min(args.max_points, cells_there):
                    times = seconds(iteration(name, space, n, refit), 3)
                    batch = registry.load("strategy", name)(registry.make("space", space, given={})).batch
                    what = ", fitted anew" if refit else ""
                    print(row(f"{name}, {space}, {n} results{what}, per trial", [value / batch for value in times]))


def iteration(name: str, space_name: str, n: int, refit: bool = False) -> Callable[[], object]:
    """Choosing the next batch after n results: random architectures, and made-up losses that follow from them.

    refit: bo fits its hyper-parameters in this iteration, as it does whenever there are 15% more results.
    """
    space: SearchSpace = registry.make("space", space_name, given={})
    strategy: SurrogateStrategy = registry.make("strategy", name, space, given={})
    rng = np.random.default_rng(0)
    weights = rng.normal(size=len(encodings.encode(space, space.sample(rng))))
    earlier = int(n / REFIT)
    for i in range(n):
        if refit and i == earlier:
            strategy.select(1)
        arch = space.sample_new(rng, strategy.seen, space.canonical)
        assert arch is not None
        loss = float(encodings.encode(space, arch) @ weights + 0.1 * rng.normal())
        strategy.remember(Proposal(arch))
        strategy.tell(Trial(i, Proposal(arch), "done", Evaluation({"val_loss": loss}, 1.0), (loss,)))

    state = strategy.state_dict()

    def select() -> None:
        if refit:
            strategy.load_state_dict(state, [])
        assert len(strategy.select(strategy.batch)) == strategy.batch

    return select


if __name__ == "__main__":
    main()
