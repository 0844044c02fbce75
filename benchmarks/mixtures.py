"""Processor time and memory of a step of strategies with mixtures of options, beside one architecture.

usage: mixtures.py --data npz:FILE [--image-size 16] [--train-size 1000] [--channels 8] [--batch-size 64] [--steps 20]

For nasbench201 and for cell-cnn with DARTS' operations and 4 blocks, one cell a stage: the mean processor time of a
step of the weights and of one of the architecture, ms, and the most bytes that a step keeps for its backward pass, MB,
of 10 steps (of order=2 those of all its passes together). "enas" is a step of the weights with one architecture, drawn
uniformly; in place of a step of the architecture are 10 rewards, which its policy asks for once in about 10 steps. One
thread, no GPU.
"""

from __future__ import annotations

import argparse
import dataclasses
import platform
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nastool import __version__
from nastool.core import registry
from nastool.evaluators.supernet import Supernet
from nastool.training.policies import Trainer
from nastool.training.shared import SharedWeights

STRATEGIES = ("enas", "gdas", "darts", "darts order=2", "snas", "drnas", "fairdarts")
SPACES: Mapping[str, Mapping[str, Any]] = {"nasbench201": {}, "cell-cnn": {"ops": "darts", "blocks": 4}}


def kept(shared: SharedWeights, work: Callable[[], object]) -> int:
    """Bytes of all that is no parameter and is kept for a backward pass meanwhile; each storage once."""
    own = {parameter.untyped_storage().data_ptr() for parameter in shared.network.parameters()}
    sizes: dict[int, int] = {}
    alive: list[Tensor] = []

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            sizes[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        work()
    return sum(sizes.values())


def measured(given: argparse.Namespace, space_name: str, name: str) -> list[float]:
    """Milliseconds of a step of the weights, of the architecture; megabytes of either."""
    space = registry.make("space", space_name, given=SPACES[space_name])
    evaluator = Supernet(
        space,
        data=given.data,
        image_size=given.image_size,
        train_size=given.train_size,
        recipe="supernet-cifar10-quick",
        batch_size=given.batch_size,
        scale={"channels": given.channels, "cells": 1},
        device="cpu",
    )
    evaluator.prepare()
    shared, rng = evaluator._load(), np.random.default_rng(0)
    strategy, _, order = name.partition(" order=")
    searcher = registry.make("strategy", strategy, space, given={"order": int(order)} if order else {})
    policy = searcher.make_policy(space, dataclasses.asdict(searcher.settings), 0)
    found: list[float] = []

    def weights(trainer: Trainer) -> None:
        if strategy == "enas":
            trainer.weights_step([space.sample(rng)])
        else:
            policy._train(trainer, searcher.settings.levels == 1)

    def architecture(trainer: Trainer) -> None:
        if strategy == "enas":
            trainer.rewards([space.sample(rng) for _ in range(10)], "val")
        elif searcher.settings.levels == 2:
            policy._look_ahead(trainer)

    def drive(trainer: Trainer) -> Mapping[str, float]:
        for work in (weights, architecture):
            taken = []
            for step in range(given.steps + 1):
                start = time.process_time()
                work(trainer)
                taken += [time.process_time() - start] if step else []
            found.append(1000 * float(np.mean(taken)))
        for work in (weights, architecture):
            found.append(max(kept(shared, lambda work=work: work(trainer)) for _ in range(10)) / 1e6)  # type: ignore[misc]  # a lambda with a default
        raise StopIteration  # the round is not finished

    try:
        shared.epoch(0, torch.Generator().manual_seed(0), drive)
    except StopIteration:
        pass
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    for name, value in (("image-size", 16), ("train-size", 1000), ("channels", 8), ("batch-size", 64), ("steps", 20)):
        parser.add_argument(f"--{name}", type=int, default=value)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"nastool {__version__}, torch {torch.__version__}, Python {platform.python_version()}, one thread")
    for space in SPACES:
        print(f"\n{space}\n\n| strategy | weights, ms | architecture, ms | weights, MB | architecture, MB |")
        print("|---|---:|---:|---:|---:|")
        for name in STRATEGIES:
            print(
                f"| {name} | " + " | ".join(f"{value:.1f}" for value in measured(given, space, name)) + " |", flush=True
            )


if __name__ == "__main__":
    main()
