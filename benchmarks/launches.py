"""How many kernels a GPU is asked for, counted on a fake one, so no GPU is needed; and how long the host takes to ask.

    python -m tests.helpers.fake_cuda benchmarks/launches.py [--children N] [--ops] [--host]

Training steps (forward, backward, optimiser, augmentation) of NAS-Bench-201's all-3x3 cell and of ENAS' macro and micro
supernets by their published recipes, and the rewards of a controller's step, in bfloat16 on batches of 128 images of
3x32x32; also with -E fuse=off, where layers run one by one and children one after another. Counted are kernels, memsets
and copies within the device; what cuDNN does is one launch for each result. Supernets: mean and standard deviation of N
children drawn uniformly (seed 0). --ops: by operation. --host: instead of the counts, milliseconds of a training step
in which a launch takes no time and no kernel runs: what torch and nastool take themselves, with fuse=auto and off in
turns, medians of 5 turns of N children.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import torch

if TYPE_CHECKING:
    from tests.helpers.fake_cuda.shadow import Shadow

NETWORKS = {
    "NAS-Bench-201, all 3x3": ("nasbench201", "nasbench201"),
    "ENAS macro": ("macro-cnn", "enas-macro-cifar10"),
    "ENAS micro": ("cell-cnn", "enas-micro-cifar10"),
}
"""Space and recipe."""
REWARDED = {"ENAS macro": 20, "ENAS micro": 10}
"""How many children a step of the controller rewards, as published."""


def evaluator(name: str, folder: Path, fuse: str, count: int = 300) -> Any:
    """count: of images, half of them for training."""
    from nastool.core import registry

    images = folder / f"{count}.npz"
    if not images.exists():
        rng = np.random.default_rng(0)
        x = rng.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        np.savez(images, x_train=x, y_train=np.arange(count) % 10)
    space, recipe = NETWORKS[name]
    given = {"data": f"npz:{images}", "recipe": recipe, "batch_size": 128, "device": "cuda", "fuse": fuse}
    kind = "train" if space == "nasbench201" else "supernet"
    made = registry.make(
        "evaluator", kind, registry.make("space", space, given={}), given={**given, "val_fraction": 0.5}
    )
    made.prepare()
    return made


def steps(shadow: Shadow, own: Any, children: int) -> list[Counter[str]]:
    """Launches by operation of a training step of each child; of NAS-Bench-201's cell, of each of so many steps."""

    space, rng = own.space, np.random.default_rng(0)
    alone = space.name == "nasbench201"
    all_3x3 = [decision.options.index("nor_conv_3x3") for decision in space.decisions] if alone else []
    network = own.build(space.arch(all_3x3), 0) if alone else own.supernet()
    training = own.training(network, own.recipe, 0)
    found = []
    for _ in range(children):
        if not alone:
            network.select(space.sample(rng))
        epoch = training.epoch()
        shadow.forget()
        next(epoch)
        if shadow.syncs:
            raise AssertionError(f"the host waits within a step: {shadow.syncs}")
        found.append(Counter(shadow.launches))
    return found


def rewards(shadow: Shadow, own: Any, children: int) -> Counter[str]:
    """Launches by operation of the rewards of so many children, after the first ones of a phase."""
    rng = np.random.default_rng(0)
    network = own.supernet()
    archs = [own.space.sample(rng) for _ in range(children)]
    batch = own.val_batches.batch(torch.arange(128))
    with own.frozen(network):
        for values in (True, False):  # of the first ones it is compared whether what runs at once is the same
            shadow.values = values
            shadow.forget()
            own.rewards(network, archs, batch)
    return Counter(shadow.launches)


def host_seconds(shadow: Shadow, own: Mapping[str, Any], children: int) -> dict[str, list[float]]:
    """Of a step, by turns. own: evaluators of one space."""
    found: dict[str, list[float]] = {fuse: [] for fuse in own}
    trainings = {}
    for fuse, evaluator in own.items():
        evaluator.replays = False
        space, rng = evaluator.space, np.random.default_rng(0)
        alone = space.name == "nasbench201"
        network = evaluator.build(space.arch([3] * 6), 0) if alone else evaluator.supernet()
        drawn = [space.sample(rng) for _ in range(children)]
        trainings[fuse] = evaluator.training(network, evaluator.recipe, 0), network, [] if alone else drawn
    with nothing_computed(shadow):
        for turn in range(6):
            for fuse, (training, network, drawn) in trainings.items():
                steps, start = training.forever(), 0.0
                for number in range(children + 1):
                    if drawn:
                        network.select(drawn[number % children])
                    next(steps)  # the first begins an epoch
                    start = start or time.perf_counter()
                if turn:
                    found[fuse].append((time.perf_counter() - start) / children)
                training.done = 0
    return found


@contextmanager
def nothing_computed(shadow: Shadow) -> Iterator[None]:
    """Meanwhile tensors hold anything; convolutions, which have no kernel without cuDNN, give some of their shapes."""

    def convolution(x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, *_: Any) -> Any:
        sizes = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
        shape = [(size + 2 * p - d * (k - 1) - 1) // s + 1 for size, k, s, p, d in sizes]
        return x.new_empty(len(x), len(weight), *shape).contiguous(memory_format=torch.channels_last)

    def backward(gradient: Any, x: Any, weight: Any, *more: Any) -> Any:
        of_x, of_weight, _ = more[-1]
        return torch.empty_like(x) if of_x else None, torch.empty_like(weight) if of_weight else None, None

    library: Any = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]  # torch's stub
    mode: Any = shadow
    mode.__exit__(None, None, None)
    with torch.backends.cudnn.flags(enabled=False), patch("torch.backends.cudnn.flags", lambda **_: nullcontext()):
        for name, function in (("convolution", convolution), ("convolution_backward", backward)):
            library.impl(name, function, "CUDA")
        yield
    library._destroy()
    mode.__enter__()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--children", type=int, default=20)
    parser.add_argument("--ops", action="store_true")
    parser.add_argument("--host", action="store_true")
    args = parser.parse_args()
    from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

    from tests.helpers.fake_cuda import active

    if not active():
        sys.exit("run it on a fake device: python -m tests.helpers.fake_cuda benchmarks/launches.py")
    shadow: Any = _get_current_dispatch_mode_stack()[0]
    with tempfile.TemporaryDirectory() as folder:
        for name in NETWORKS if args.host else ():
            torch.set_num_threads(1)
            both = {fuse: evaluator(name, Path(folder), fuse, 10_000) for fuse in ("auto", "off")}
            taken = host_seconds(shadow, both, args.children)
            times = [f"fuse={fuse} {1000 * np.median(of):.1f} ms" for fuse, of in taken.items()]
            ratios = np.array(taken["off"]) / taken["auto"]
            spread = f"{np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f})"
            print(f"{name}, the host's part of a training step: {', '.join(times)}, ratio {spread}")
        for name in () if args.host else NETWORKS:
            for fuse in ("auto", "off"):
                shadow.values = True
                own = evaluator(name, Path(folder), fuse)
                shadow.values = False  # they do not matter
                found = steps(shadow, own, 2 if own.space.name == "nasbench201" else args.children)
                totals = [counts.total() for counts in found]
                print(f"{name}, a training step, fuse={fuse}: {np.mean(totals):,.0f} (sd {np.std(totals):.0f})")
                if args.ops:
                    for op, count in sum(found, Counter()).most_common(20):
                        print(f"    {count / len(found):8.1f}  {op}")
                if name in REWARDED:
                    counts = rewards(shadow, own, REWARDED[name])
                    print(f"{name}, rewards of {REWARDED[name]} children, fuse={fuse}: {counts.total():,}")
    print(f"torch {torch.__version__}, CUDA {torch.version.cuda}")


if __name__ == "__main__":
    main()
