"""A NAS-Bench-201 cell beside torchvision's resnet18: same evaluator, same recipe, same budget, same data.

usage: reference_network.py --data npz:FILE [--recipe cifar10-quick] [--epochs N] [--seeds 0,1,2] [--scale ...]

Prints, per network, parameters, FLOPs, seconds of training and the accuracies on the validation and test images
(mean +- standard deviation over the seeds). resnet18 is torchvision's, untrained, as it is for ImageNet but for the
number of classes.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from nastool.core.space import Choose, SearchSpace
from nastool.core.values import Arch, Decision, Proposal
from nastool.evaluators.train import Train
from nastool.spaces.nasbench201 import NasBench201
from nastool.tasks.images.task import ImageTask

CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_1x1~2|"
"""The table's best on CIFAR-10: 94.37% after 200 epochs on all of it."""


class ResNet18(SearchSpace):
    """A space of one network, so that it goes through the same evaluator."""

    name = "resnet18"

    @dataclass(frozen=True)
    class Scale:
        pass

    def __init__(self) -> None:
        super().__init__([Decision("network", ("resnet18",))])

    def network(self, choose: Choose, task: ImageTask, scale: Any) -> nn.Module:
        from torchvision.models import resnet18

        model = resnet18(num_classes=task.classes)
        if task.channels != 3:
            model.conv1 = nn.Conv2d(task.channels, 64, 7, 2, 3, bias=False)
        network: nn.Module = model
        return network


def measure(name: str, space: SearchSpace, arch: Arch, options: Mapping[str, Any], seeds: list[int]) -> None:
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        train = Train(space, **options)
        train.workdir = Path(folder)
        train.prepare()
        for i, seed in enumerate(seeds):
            proposal = Proposal(arch)
            found = train.evaluate(i, proposal, seed=seed, report=lambda step, metrics: None)
            rows.append({**found.metrics, "seconds": found.seconds, **train.test(proposal, found)})
            print(f"  {name} seed {seed}: {rows[-1]}", flush=True)
        facts = train.describe()

    def both(metric: str) -> str:
        values = np.array([row[metric] for row in rows])
        spread = f" +- {100 * values.std(ddof=1):.2f}" if len(values) > 1 else " (one seed)"
        return f"{100 * values.mean():.2f}{spread}"

    seconds = np.median([row["seconds"] for row in rows])
    print(
        f"{name}: {rows[0]['params']:,} parameters, {rows[0]['flops']:,} FLOPs; val {both('val_acc')}, "
        f"test {both('test_acc')} %; median {seconds:.0f} s; {dict(facts)}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--recipe", default="cifar10-quick")
    parser.add_argument("--epochs", type=int, default=None)
    parser.add_argument("--seeds", default="0")
    parser.add_argument("--channels", type=int, default=16)
    parser.add_argument("--cells", type=int, default=5)
    args = parser.parse_args()
    options = {"data": args.data, "recipe": args.recipe, "epochs": args.epochs}
    seeds = [int(seed) for seed in args.seeds.split(",")]
    print(f"torch {torch.__version__}, {platform.platform()}, {torch.get_num_threads()} threads; {vars(args)}")
    resnet = ResNet18()
    measure("resnet18", resnet, resnet.arch([0]), options, seeds)
    cells = NasBench201()
    scaled = {**options, "scale": {"channels": args.channels, "cells": args.cells}}
    measure("nasbench201 cell", cells, cells.from_string(CELL), scaled, seeds)


if __name__ == "__main__":
    main()
