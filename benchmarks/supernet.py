"""How fast a supernet trains and scores, beside a plain formulation of the same in the same run.

    python benchmarks/supernet.py [--threads N] [--seconds S] [--precision fp32,bf16]

Macro: 12 layers, 36 channels; micro: 8 cells (6 normal, 2 reduction), 36 channels; batches of 128 images of 32x32, one
uniformly drawn child each. "weights step": forward, backward, clipping, SGD with momentum, in images a second.
"controller step": the accuracies of 10 children on one batch, ours in one pass, in seconds, without the controller's
own time, given separately. The plain formulations are eager PyTorch in NCHW, as public implementations are: the macro
one (TDeVries/enas_pytorch's structure: every earlier layer reduced at both reductions, by AvgPool2d(1, 2) and 1x1
convolutions; depthwise convolutions without pointwise ones) is written out here, the micro one is our own network in
that format. All are timed in turns, several times round; the medians count. The peak is that of a 3x3 convolution with
36 channels in channels_last, timed in every turn, too.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nastool.core import registry
from nastool.learners.controller import Controller
from nastool.learners.policy_gradient import PolicyGradient
from nastool.nets import devices, networks
from nastool.nets.networks import Supernet, use_batch_statistics
from nastool.nets.onepass import OnePass
from nastool.tasks.images.task import ImageTask

BATCH, CHANNELS, CHILDREN = 128, 36, 10
TASK = ImageTask(3, 32, 32, 10)


class Plain(nn.Module):
    """ENAS' macro supernet without any thought of speed."""

    def __init__(self, layers: int = 12) -> None:
        super().__init__()
        c = CHANNELS

        def norm() -> nn.Module:
            return nn.BatchNorm2d(c, track_running_stats=False)

        def branch(op: nn.Module, norms: bool) -> nn.Module:
            after = [norm(), nn.ReLU()] if norms else []
            return nn.Sequential(nn.Conv2d(c, c, 1, bias=False), norm(), nn.ReLU(), op, *after)

        def options() -> nn.ModuleList:
            convolutions = [(3, 1), (3, c), (5, 1), (5, c)]
            made = [branch(nn.Conv2d(c, c, k, 1, k // 2, groups=g, bias=False), True) for k, g in convolutions]
            return nn.ModuleList([*made, branch(nn.AvgPool2d(3, 1, 1), False), branch(nn.MaxPool2d(3, 1, 1), False)])

        self.stem = nn.Sequential(nn.Conv2d(3, c, 3, 1, 1, bias=False), norm())
        self.options = nn.ModuleList(options() for _ in range(layers))
        self.norms = nn.ModuleList(norm() for _ in range(layers))
        self.reductions = nn.ModuleDict(
            {f"{at}-{i}": PlainReduction() for at in (layers // 3, 2 * (layers // 3)) for i in range(at)}
        )
        self.head = nn.Linear(c, 10)
        self.child: list[tuple[int, list[int]]] = []

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        outputs: list[Tensor] = []
        for i, (op, skips) in enumerate(self.child):
            x = self.options[i][op](x)  # type: ignore[index]  # torch's stub
            for j, on in enumerate(skips):
                if on:
                    x = x + outputs[j]
            x = self.norms[i](x)
            outputs.append(x)
            if f"{i + 1}-0" in self.reductions:
                outputs = [self.reductions[f"{i + 1}-{j}"](output) for j, output in enumerate(outputs)]
                x = outputs[-1]
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


class PlainReduction(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        c = CHANNELS
        self.first = nn.Sequential(nn.AvgPool2d(1, 2), nn.Conv2d(c, c // 2, 1, bias=False))
        self.second = nn.Sequential(nn.AvgPool2d(1, 2), nn.Conv2d(c, c // 2, 1, bias=False))
        self.norm = nn.BatchNorm2d(c, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        shifted = functional.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]
        out: Tensor = self.norm(torch.cat([self.first(x), self.second(shifted)], 1))
        return out


class Contender:
    """A network, how it is told its child, and the children it is timed on."""

    def __init__(self, name: str, network: nn.Module, select: Callable[[Any], None], children: list[Any], **how: Any):
        self.name = name
        self.select = select
        self.children = children
        self.format = how.get("memory_format", torch.channels_last)
        self.bf16 = how.get("bf16", False)
        self.one_pass = OnePass(network) if how.get("one_pass") and isinstance(network, Supernet) else None
        self.network = network.to(memory_format=self.format)
        parameters = list(network.parameters())
        self.parameters = parameters
        self.optimizer = torch.optim.SGD(parameters, lr=1e-3, momentum=0.9, nesterov=True, foreach=True)
        self.x = torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=self.format)
        self.y = torch.randint(10, (BATCH,))
        self.weights: list[float] = []
        self.scores: list[float] = []

    def train(self, turn: int) -> None:
        """One weights step on each of `CHILDREN` children; the same ones for all contenders."""
        self.network.train()
        start = time.perf_counter()
        for i in range(CHILDREN):
            self.select(self.children[(turn * CHILDREN + i) % len(self.children)])
            with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
                logits = self.network(self.x)
            loss = functional.cross_entropy(logits.float(), self.y)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
            nn.utils.clip_grad_norm_(self.parameters, 5.0)
            self.optimizer.step()
        self.weights.append(CHILDREN * BATCH / (time.perf_counter() - start))

    def score(self, turn: int) -> None:
        self.network.eval()
        children = [self.children[(turn * CHILDREN + i) % len(self.children)] for i in range(CHILDREN)]
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            if self.one_pass is not None:
                with self.one_pass.installed():
                    logits = self.one_pass.logits(children, self.x)
                (torch.stack(logits).argmax(2) == self.y).sum(1).tolist()
            else:
                with torch.inference_mode():
                    for child in children:
                        self.select(child)
                        (self.network(self.x).argmax(1) == self.y).sum().item()
        self.scores.append(time.perf_counter() - start)


def peak() -> float:
    """GFLOP/s of a 3x3 convolution, 36 channels, channels_last, forward."""
    x = torch.randn(BATCH, CHANNELS, 32, 32).contiguous(memory_format=torch.channels_last)
    conv = nn.Conv2d(CHANNELS, CHANNELS, 3, 1, 1, bias=False).to(memory_format=torch.channels_last)
    best = float("inf")
    with torch.inference_mode():
        for _ in range(10):
            start = time.perf_counter()
            conv(x)
            best = min(best, time.perf_counter() - start)
    return float(2 * 9 * CHANNELS**2 * 1024 * BATCH / best / 1e9)


def contenders(
    space_name: str, scale: dict[str, int], precisions: list[str], rng: np.random.Generator
) -> list[Contender]:
    space = registry.make("space", space_name, given={})
    children = [space.sample(rng) for _ in range(100)]
    found = []

    def ours() -> Supernet:
        network = Supernet(space, TASK, space.Scale(**scale))
        use_batch_statistics(network)
        return network

    if space_name == "macro-cnn":
        plain = Plain()

        def as_lists(arch: Any) -> None:
            chosen = networks.chosen_options(space, arch)
            ops = space.decisions[0].options
            plain.child = [
                (ops.index(chosen[f"layer{i}.op"]), [int(chosen[f"layer{i}.skip{j}"]) for j in range(1, i)])
                for i in range(1, space.layers + 1)
            ]

        found.append(Contender("plain", plain, as_lists, children, memory_format=torch.contiguous_format))
    else:
        network = ours()
        found.append(Contender("plain", network, network.select, children, memory_format=torch.contiguous_format))
    for precision in precisions:
        network = ours()
        found.append(Contender(precision, network, network.select, children, bf16=precision == "bf16", one_pass=True))
    return found


def controller_seconds(space_name: str) -> float:
    """What the controller itself takes of a step: 10 children drawn, one update."""
    space = registry.make("space", space_name, given={})
    generator = torch.Generator().manual_seed(0)
    learner = PolicyGradient(Controller(space, tanh_constant=1.5, generator=generator), switch_target=0.4)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        children = learner.controller.sample(CHILDREN, generator)
        learner.update(children, torch.rand(CHILDREN, generator=generator))
        times.append(time.perf_counter() - start)
    return float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--precision", default="fp32,bf16")
    parser.add_argument("--only", choices=["macro", "micro"])
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    devices.keep_memory()
    print(f"{platform.processor() or platform.machine()}, {given.threads} threads, torch {torch.__version__}")
    jobs = {
        "macro": ("macro-cnn", {"channels": CHANNELS}),
        "micro": ("cell-cnn", {"channels": CHANNELS, "cells": 2, "stem": 1}),
    }
    for title, (space_name, scale) in jobs.items():
        if given.only not in (None, title):
            continue
        racers = contenders(space_name, scale, given.precision.split(","), np.random.default_rng(0))
        peaks = []
        for turn in range(-1, given.turns):
            for racer in racers:
                racer.train(max(turn, 0))
                racer.score(max(turn, 0))
            peaks.append(peak())
            if turn < 0:  # to warm up
                for racer in racers:
                    racer.weights.clear()
                    racer.scores.clear()
        low, high = min(peaks), max(peaks)
        print(f"\n{title}: {given.turns} turns, peak {np.median(peaks):.0f} GFLOP/s ({low:.0f} to {high:.0f})")
        print(f"controller's own time: {controller_seconds(space_name):.3f} s")
        base = racers[0]
        for racer in racers:
            ratios = np.array(racer.weights) / np.array(base.weights)
            faster = np.array(base.scores) / np.array(racer.scores)
            print(
                f"  {racer.name:<6} weights step {np.median(racer.weights):7.1f} images/s "
                f"({np.median(ratios):.2f}x, {ratios.min():.2f} to {ratios.max():.2f})   "
                f"controller step {np.median(racer.scores):6.3f} s "
                f"({np.median(faster):.2f}x, {faster.min():.2f} to {faster.max():.2f})   "
                f"{np.median(racer.weights) / np.median(peaks):.2f} images/s per GFLOP/s of the peak"
            )


if __name__ == "__main__":
    main()
