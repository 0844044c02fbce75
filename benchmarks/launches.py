"""How many kernels a GPU is asked for: counted on a fake one, so no GPU is needed, and nothing is timed.

    python -m tests.helpers.fake_cuda benchmarks/launches.py [--children N] [--ops]

Training steps (forward, backward, optimiser, augmentation) of NAS-Bench-201's all-3x3 cell and of ENAS' macro and micro
supernets by their published recipes, and the rewards of a controller's step, in bfloat16 on batches of 128 images of
3x32x32; also with -E fuse=off, where layers run one by one and children one after another. Counted are kernels, memsets
and copies within the device; what cuDNN does is one launch for each result. Supernets: mean and standard deviation of N
children drawn uniformly (seed 0). --ops: by operation.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


def evaluator(name: str, folder: Path, fuse: str) -> Any:
    from nastool.core import registry

    images = folder / "images.npz"
    if not images.exists():
        rng = np.random.default_rng(0)
        x = rng.integers(0, 256, (300, 32, 32, 3), dtype=np.uint8)
        np.savez(images, x_train=x, y_train=np.arange(300) % 10)
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--children", type=int, default=20)
    parser.add_argument("--ops", action="store_true")
    args = parser.parse_args()
    from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

    from tests.helpers.fake_cuda import active

    if not active():
        sys.exit("run it on a fake device: python -m tests.helpers.fake_cuda benchmarks/launches.py")
    shadow: Any = _get_current_dispatch_mode_stack()[0]
    with tempfile.TemporaryDirectory() as folder:
        for name in NETWORKS:
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
