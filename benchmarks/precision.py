"""Does bfloat16 on a CPU cost accuracy, and how much time does it save? The same trainings in both precisions.

usage: precision.py --cifar10 FILE.npz [--only NAME ...] [--seeds 5]
       precision.py --steps [SPACE ...]

--steps: only the time of training steps, networks of default size, on digits.

FILE has x_train, y_train with at least 16,000 CIFAR-10 training images: 10,000 are trained on, the other 6,000 measure.
Digits are split as in a search; their validation and test images measure together. Architectures are drawn with seed 0;
seed s is that of the initial weights and the batches. Both precisions of a pair run one after the other on one thread,
in turns first; their order of batches is the same. The seconds are those of the training steps.
"""

from __future__ import annotations

import argparse
import math
import platform
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from scipy import stats

from nastool.core import registry
from nastool.core.values import Arch
from nastool.evaluators.train import Train

Setting = tuple[str, str, dict[str, int], int, int, int]
"""Data, space, scale, epochs, batch size, number of architectures."""
SETTINGS: dict[str, Setting] = {
    "cifar10-nasbench201": ("cifar10", "nasbench201", {"channels": 8, "cells": 1}, 4, 128, 2),
    "cifar10-nasbench-macro": ("cifar10", "nasbench-macro", {"channels": 8, "cells": 1, "head": 128}, 3, 128, 1),
    "digits-nasbench201": ("digits", "nasbench201", {"channels": 16, "cells": 1}, 5, 64, 4),
    "digits-nasbench-macro": ("digits", "nasbench-macro", {"channels": 16, "cells": 1, "head": 256}, 5, 64, 2),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cifar10", type=Path)
    parser.add_argument("--steps", nargs="*", metavar="SPACE")
    parser.add_argument("--only", nargs="+", choices=SETTINGS, default=list(SETTINGS))
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print(f"python {platform.python_version()}, torch {torch.__version__}, {torch.cpu.get_capabilities()['cpu_name']}")
    if args.steps is not None:
        images = [name for name in registry.plugins("space") if "images" in registry.load("space", name).tasks]
        for name in args.steps or images:
            steps(name)
        return
    if args.cifar10 is None:
        parser.error("need --cifar10 or --steps")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "cifar10.npz"
        with np.load(args.cifar10) as found:
            parts = {"train": slice(10_000), "val": slice(10_000, 13_000), "test": slice(13_000, 16_000)}
            arrays = {f"{axis}_{part}": found[f"{axis}_train"][at] for part, at in parts.items() for axis in "xy"}
        np.savez(path, **arrays)
        for name in args.only:
            pairs(name, SETTINGS[name], str(path), args.seeds)


def pairs(name: str, setting: Setting, cifar10: str, seeds: int) -> None:
    data, space_name, scale, epochs, batch_size, architectures = setting
    space = registry.make("space", space_name, given={})
    evaluators = {}
    for precision in ("fp32", "bf16"):
        own = Train(
            space,
            data=data if data == "digits" else f"npz:{cifar10}",
            recipe={"cifar10": "cifar10-quick"}.get(data, data),
            epochs=epochs,
            batch_size=batch_size,
            scale=scale,
            device="cpu",
            precision=precision,
        )
        own.prepare()
        evaluators[precision] = own
    rng = np.random.default_rng(0)
    accuracies: dict[str, list[float]] = {"fp32": [], "bf16": []}
    taken: dict[str, list[float]] = {"fp32": [], "bf16": []}
    spreads = []
    for arch in [space.sample(rng) for _ in range(architectures)]:
        for seed in range(seeds):
            for precision in ("fp32", "bf16") if seed % 2 else ("bf16", "fp32"):
                accuracy, seconds = trained(evaluators[precision], arch, seed)
                accuracies[precision].append(accuracy)
                taken[precision].append(seconds)
            print(f"{name} {arch.key} seed {seed}: ", end="")
            print(", ".join(f"{p} {100 * accuracies[p][-1]:.2f}% {taken[p][-1]:.1f} s" for p in taken), flush=True)
        spreads.append(statistics.variance(accuracies["fp32"][-seeds:]))
    differences = [100 * (b - a) for a, b in zip(accuracies["fp32"], accuracies["bf16"], strict=True)]
    n = len(differences)
    half = stats.t.ppf(0.975, n - 1) * statistics.stdev(differences) / math.sqrt(n)
    means = " | ".join(f"{100 * statistics.mean(accuracies[p]):.2f}" for p in accuracies)
    ratio = statistics.geometric_mean(a / b for a, b in zip(taken["fp32"], taken["bf16"], strict=True))
    print(
        f"| {name} | {architectures} x {seeds} | {means} | {100 * math.sqrt(statistics.mean(spreads)):.2f} | "
        f"{statistics.mean(differences):+.2f} ± {half:.2f} | {ratio:.2f} |",
        flush=True,
    )


def steps(space_name: str) -> None:
    """Of three architectures medians over up to 60 steps of each precision, in turns, for up to 12 seconds."""
    space = registry.make("space", space_name, given={})
    rng = np.random.default_rng(1)
    for arch in [space.sample(rng) for _ in range(3)]:
        work = {}
        for precision in ("fp32", "bf16"):
            evaluator = Train(space, data="digits", device="cpu", precision=precision)
            evaluator.prepare()
            work[precision] = evaluator.training(evaluator.build(arch, 0), evaluator.recipe, 0).forever()
            next(work[precision])
        taken: dict[str, list[float]] = {"fp32": [], "bf16": []}
        end = time.monotonic() + 12
        while len(taken["fp32"]) < 60 and time.monotonic() < end:
            for precision, seconds in taken.items():
                start = time.perf_counter()
                next(work[precision])
                seconds.append(time.perf_counter() - start)
        full, half = (statistics.median(seconds) for seconds in taken.values())
        print(f"{space_name} {arch.key}: fp32 {1000 * full:.0f} ms, bf16 {1000 * half:.0f} ms, {full / half:.2f}")


def trained(evaluator: Train, arch: Arch, seed: int) -> tuple[float, float]:
    """Accuracy on all images that are not trained on, and seconds of the training steps."""
    with evaluator.reproducible(seed):
        network = evaluator.build(arch, seed)
        training = evaluator.training(network, evaluator.recipe, seed)
        start = time.perf_counter()
        for _ in range(training.recipe.epochs):
            for _ in training.epoch():
                pass
        seconds = time.perf_counter() - start
        right = total = 0.0
        for part in (evaluator.val_batches, evaluator.test_batches):
            assert part is not None
            right += len(part) * evaluator.measure(network, part, "part")["part_acc"]
            total += len(part)
    return right / total, seconds


if __name__ == "__main__":
    main()
