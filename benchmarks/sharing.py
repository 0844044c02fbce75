"""Scores with shared weights on NAS-Bench-201 by the order of the images, and ENAS' controller by Adam's epsilon.

How such scores rank and what searches by them find, `nastool bench --evaluator supernet` says.

usage: sharing.py epsilon --table FILE [--seeds 0,1,2]
       sharing.py order --data folder:DIR/sorted --shuffled npz:DIR/shuffled.npz [--seeds 0,1,2] [--epochs 30]
       sharing.py images --data npz:FILE --out DIR [--per-class 60] [--size 64]

epsilon: the controller alone, its rewards the table's validation accuracies after 12 epochs as they are, with either
    place of Adam's epsilon, lr .0035: mean test accuracy of 1,000 cells drawn after so many steps of 10 children.
order: the same shared weights, --cells random cells, the same images as a folder, sorted by class, and as arrays,
    mixed: one score a cell for each; the images in another random order and in that of classes, in batches of the same
    size, too; Spearman's correlations between them.
images: writes these images for it, --per-class for training and as many for validation.

One thread, no GPU.
"""

from __future__ import annotations

import argparse
import platform
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats

from nastool import __version__
from nastool.core import registry
from nastool.core.space import SearchSpace
from nastool.core.values import Arch, Proposal
from nastool.evaluators.supernet import Supernet
from nastool.strategies.enas import ENAS, ENASPolicy


def supernet(given: argparse.Namespace, seed: int) -> Supernet:
    space = registry.make("space", "nasbench201", given={})
    evaluator = Supernet(
        space,
        seed=seed,
        data=given.data,
        image_size=given.image_size,
        train_size=given.train_size,
        recipe=given.recipe,
        epochs=given.epochs,
        batch_size=given.batch_size,
        scale={"channels": given.channels, "cells": 1},
        device="cpu",
    )
    evaluator.prepare()
    return evaluator


def scores(evaluator: Supernet, cells: list[Arch]) -> list[float]:
    """shared_acc of each."""
    found = []
    for cell in cells:
        evaluation = evaluator.evaluate(0, Proposal(cell), seed=0, report=lambda *_: None)
        found.append(float(evaluation.metrics["shared_acc"]))
    return found


def some(space: SearchSpace, count: int, seed: int) -> list[Arch]:
    """Different cells, drawn uniformly."""
    rng = np.random.default_rng([seed, 201])
    found: dict[str, Arch] = {}
    while len(found) < count:
        cell = space.sample(rng)
        found.setdefault(space.canonical(cell), cell)
    return list(found.values())


def epsilon(given: argparse.Namespace) -> None:
    with np.load(given.table) as arrays:
        index = {tuple(row): i for i, row in enumerate(arrays["arch"].tolist())}
        reward, true = arrays["cifar10_val12"] / 100, arrays["cifar10_test200"]
    space = registry.make("space", "nasbench201", given={})
    at = (0, 50, 150, 500)
    found: dict[tuple[bool, int], list[float]] = {}
    for seed in given.seeds:
        for outside in (False, True):
            policy = ENASPolicy(space, ENAS(space, eps_outside=outside, lr=0.0035, relative=False).settings, seed)
            controller, generator = policy.learner.controller, torch.Generator().manual_seed(seed)
            for step in range(max(at) + 1):
                if step in at:
                    drawn = controller.sample(1000, torch.Generator().manual_seed(seed))
                    mean = float(np.mean([true[index[tuple(row)]] for row in drawn.tolist()]))
                    found.setdefault((outside, step), []).append(mean)
                children = controller.sample(10, generator)
                rewards = [float(reward[index[tuple(row)]]) for row in children.tolist()]
                policy.learner.update(children, torch.tensor(rewards))
    for step in at:
        inside, other = np.array(found[False, step]), np.array(found[True, step])
        print(
            f"{step:5d} steps: after {inside.mean():.2f} (sd {inside.std(ddof=1):.2f}), "
            f"before {other.mean():.2f} (sd {other.std(ddof=1):.2f}), difference {np.mean(other - inside):+.2f} "
            f"(standard error {np.std(other - inside, ddof=1) / len(inside) ** 0.5:.2f})"
        )


def order(given: argparse.Namespace) -> None:
    for seed in given.seeds:
        first = supernet(given, seed)
        cells = some(first.space, given.cells, seed)
        in_order = scores(first, cells)
        shared = first._shared
        assert shared is not None
        given_data, given.data = given.data, given.shuffled
        second = supernet(given, seed)
        given.data = given_data
        second._shared = shared
        shuffled = scores(second, cells)
        another, by_class = [], []
        mixed = torch.randperm(len(first.val_batches), generator=torch.Generator().manual_seed(seed))
        as_class = torch.argsort(first.val_batches.batch(torch.arange(len(first.val_batches)))[1], stable=True)
        for cell in cells:
            shared.network.select(cell)
            for indices, found in ((mixed, another), (as_class, by_class)):
                correct = 0
                with first.frozen(shared.network):
                    for part in indices.tensor_split(first.val_batches.steps(first.recipe.batch_size)):
                        x, y = first.val_batches.batch(part)
                        correct += int((shared.network(x).argmax(1) == y).sum())
                found.append(correct / len(mixed))
        print(
            f"seed {seed}: {len(first.val_batches)} images in batches of {first.recipe.batch_size} or more, "
            f"{len(cells)} cells, mean score {np.mean(in_order):.3f} (sd {np.std(in_order):.3f})"
        )
        for name, other in (
            ("the folder shuffled", shuffled),
            ("another random order", another),
            ("the order of classes (as before)", by_class),
        ):
            rho = stats.spearmanr(in_order, other).statistic
            print(f"  Spearman with {name}: {rho:.3f} (mean score {np.mean(other):.3f})", flush=True)


def images(given: argparse.Namespace) -> None:
    from PIL import Image

    with np.load(given.data.removeprefix("npz:")) as arrays:
        x, y = arrays["x_train"], arrays["y_train"]
    out = Path(given.out)
    arrays_of: dict[str, Any] = {}
    for part, first in (("train", 0), ("val", given.per_class)):
        chosen = np.concatenate([np.flatnonzero(y == c)[first : first + given.per_class] for c in range(10)])
        sized = []
        for number, i in enumerate(chosen):
            image = Image.fromarray(x[i]).resize((given.size, given.size), Image.Resampling.BICUBIC)
            path = out / "sorted" / part / f"class{y[i]}"
            path.mkdir(parents=True, exist_ok=True)
            image.save(path / f"{number:05d}.png")
            sized.append(np.asarray(image))
        mixed = np.random.default_rng(0).permutation(len(chosen))
        arrays_of |= {f"x_{part}": np.stack(sized)[mixed], f"y_{part}": y[chosen][mixed]}
    np.savez(out / "shuffled.npz", **arrays_of)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=["epsilon", "order", "images"])
    parser.add_argument("--table")
    parser.add_argument("--data", default="digits")
    parser.add_argument("--shuffled")
    parser.add_argument("--out", default=".")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--cells", type=int, default=200)
    parser.add_argument("--channels", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--image-size", type=int)
    parser.add_argument("--train-size", type=int)
    parser.add_argument("--recipe", default="supernet-cifar10-quick")
    parser.add_argument("--per-class", type=int, default=60)
    parser.add_argument("--size", type=int, default=64)
    given = parser.parse_args()
    given.seeds = [int(seed) for seed in given.seeds.split(",")]
    torch.set_num_threads(1)
    print(
        f"nastool {__version__}, Python {platform.python_version()}, torch {torch.__version__}, numpy {np.__version__}"
    )
    {"epsilon": epsilon, "order": order, "images": images}[given.what](given)


if __name__ == "__main__":
    main()
