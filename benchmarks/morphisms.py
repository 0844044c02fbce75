"""How well network morphisms keep the function of a network, and how long one takes.

    python benchmarks/morphisms.py [--chains 1000] [--parents 20] [--repeats 5] [--threads 1] [--seed 0]

Four parts. *Evaluation mode*: chains of 20 random morphisms of space morph-cnn, from the start or from a random
member, with random weights, statistics and shares that change between two steps as by training; after each step, and
from the first network to the last in one go, before and after calibration, max |child - parent| / max |parent| of the
logits. *Training mode*: networks trained on scikit-learn's digits, then 1, 5 or 20 morphisms at once; the difference of
the logits in units of their standard deviation, with new statistics calibrated on 512 images or left as initialised.
*Shares*: networks with additive skips trained for 60 epochs, with weight decay on everything and as recipes have it.
*Time*: five morphisms of a network of a million parameters.
"""

from __future__ import annotations

import argparse
import copy
import math
import platform
import time
from collections import defaultdict
from collections.abc import Iterator
from itertools import count

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn import functional

from nastool.core.values import Arch
from nastool.nets import networks
from nastool.spaces.morph_cnn import MorphCNN
from nastool.tasks.images.task import ImageTask

Rng = np.random.Generator


def walk(space: MorphCNN, arch: Arch, length: int, rng: Rng, only: str = "") -> Iterator[tuple[str, Arch]]:
    """Kind and result of random morphisms, one after another: a kind first, then one of this kind. only: of that."""
    for _ in range(length):
        known = {kind: found for kind, found in space.morphisms(arch).items() if found and only in ("", kind)}
        if not known:
            return  # it is as large as the space allows
        kind = list(known)[int(rng.integers(len(known)))]
        arch = known[kind][int(rng.integers(len(known[kind])))]
        yield kind, arch


# --- evaluation mode


def disturb(network: nn.Module, generator: torch.Generator, size: float) -> None:
    """Another network of the same shape, every share in [0, 1], every variance positive."""
    with torch.no_grad():
        for name, value in network.state_dict().items():
            if not value.is_floating_point():
                continue
            noise = torch.randn(value.shape, generator=generator, dtype=torch.float64).to(value.dtype)
            if name.endswith("share"):
                value.uniform_(0, 1, generator=generator)
            elif name.endswith("running_var"):
                value.mul_((size * noise).exp())
            else:
                value.add_(size * noise)


def outputs(network: nn.Module, images: Tensor) -> Tensor:
    with torch.inference_mode():
        found: Tensor = network.eval()(images)
    return found


def chain(space: MorphCNN, dtype: torch.dtype, seed: int, number: int) -> Iterator[tuple[str, float]]:
    """Kind of morphism, or "20 at once", and the largest relative difference, calibrated or not."""
    task, scale = ImageTask(3, 8, 8, 5), space.Scale(channels=2)
    rng, generator = np.random.default_rng((seed, number)), torch.Generator().manual_seed(1000 * number + seed)
    images = torch.randn(4, 3, 8, 8, generator=generator, dtype=torch.float64).to(dtype)

    def build(arch: Arch) -> nn.Module:
        return networks.build(space, arch, task, scale).to(dtype)

    def inherited(before: Arch, after: Arch, parent: nn.Module) -> tuple[nn.Module, float]:
        inheritance = space.inherit(before, after, task, scale)
        assert inheritance.exact, (space.canonical(before), space.canonical(after))
        child = build(after)
        inheritance.apply(child, parent.state_dict())
        was, now = outputs(parent, images), outputs(child, images)
        inheritance.calibrate(child, images)
        largest = torch.stack([now - was, outputs(child, images) - was]).abs().max() / was.abs().max()
        return child, float(largest)

    arch = first = space.sample(rng) if number % 2 else space.start()
    network = build(arch)
    with torch.no_grad():
        for _ in range(5):
            network.train()(images)
    disturb(network, generator, 0.1)
    beginning = network
    for kind, child in walk(space, arch, 20, rng):
        network, found = inherited(arch, child, network)
        yield kind, found
        arch = child
        disturb(network, generator, 0.03)
    yield "20 at once", inherited(first, arch, beginning)[1]


def evaluation_mode(chains: int, seed: int) -> None:
    space = MorphCNN(stages=3, layers=5, max_width=4)
    found: dict[tuple[str, torch.dtype], list[float]] = defaultdict(list)
    for dtype in (torch.float32, torch.float64):
        start = time.perf_counter()
        for number in range(chains):
            for kind, value in chain(space, dtype, seed, number):
                found[kind, dtype].append(value)
        print(f"{chains} chains in {dtype}: {time.perf_counter() - start:.0f} s", flush=True)
    print("\nEvaluation mode: max |child - parent| / max |parent|\n")
    print("| morphism | times | float32 median | max | float64 median | max |\n|---|---|---|---|---|---|")
    for kind in [*space.morphisms(space.start()), "20 at once"]:
        both = [np.array(found[kind, dtype]) for dtype in (torch.float32, torch.float64)]
        texts = [f"{np.median(values):.1e} | {values.max():.1e}" for values in both]
        print(f"| {kind} | {len(both[0]):,} | {' | '.join(texts)} |")


# --- training mode


class Digits:
    def __init__(self, seed: int) -> None:
        images, labels = load_digits(return_X_y=True)
        images = (images - images.mean()) / images.std()
        self.task = ImageTask(1, 8, 8, 10)
        self.images = torch.from_numpy(images.reshape(-1, 1, 8, 8)).float()
        self.labels = torch.from_numpy(labels)
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        chosen = torch.randperm(len(self.images), generator=self.generator)[:count]
        return self.images[chosen], self.labels[chosen]

    def train(self, network: nn.Module, steps: int, everything: bool = False) -> None:
        """everything: weight decay on all parameters, which is what recipes did once."""
        """The recipe morphism-digits without its label smoothing."""
        spared = [] if everything else list(networks.undecayed(network, norms=False))
        decayed = [p for p in network.parameters() if all(p is not other for other in spared)]
        groups = [{"params": decayed, "weight_decay": 5e-4}, {"params": spared, "weight_decay": 0.0}]
        optimizer = torch.optim.SGD(groups, momentum=0.9, nesterov=True)
        network.train()
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = 0.025 * (1 + math.cos(math.pi * step / steps))
            images, labels = self.draw(64)
            optimizer.zero_grad()
            functional.cross_entropy(network(images), labels).backward()  # type: ignore[no-untyped-call]  # torch's stub
            nn.utils.clip_grad_norm_(network.parameters(), 5.0)
            optimizer.step()


def logits(network: nn.Module, images: Tensor) -> Tensor:
    """In training mode; the network's statistics stay as they are."""
    with torch.no_grad():
        found: Tensor = copy.deepcopy(network).train()(images)
    return found


def training_mode(parents: int, seed: int) -> None:
    """Of every two parents, one is a random member and one grown from the start in two trained steps of five each."""
    space = MorphCNN(stages=3, layers=5)
    scale = space.Scale(channels=4)
    found: dict[tuple[str, int, bool], list[tuple[float, float]]] = defaultdict(list)
    for number in range(parents):
        rng, digits = np.random.default_rng((seed, number)), Digits(1000 * number + seed)

        def inherited(
            before: Arch, after: Arch, parent: nn.Module, calibrate: bool = True, digits: Digits = digits
        ) -> nn.Module:
            child = networks.build(space, after, digits.task, scale)
            inheritance = space.inherit(before, after, digits.task, scale)
            inheritance.apply(child, parent.state_dict())
            if calibrate:
                inheritance.calibrate(child, digits.draw(512)[0])
            return child

        arch = space.sample(rng) if number % 2 else space.start()
        network = networks.build(space, arch, digits.task, scale)
        digits.train(network, 100)
        for _ in range(0 if number % 2 else 2):
            *_, (_, child) = walk(space, arch, 5, rng)
            network, arch = inherited(arch, child, network), child
            digits.train(network, 100)
        for name, length, only in (("1 deeper", 1, "deeper"), ("5 random", 5, ""), ("20 random", 20, "")):
            for _ in range(5):
                grown = [child for _, child in walk(space, arch, length, rng, only)]
                if not grown:
                    continue
                for calibrate in (True, False):
                    after = inherited(arch, grown[-1], network, calibrate)
                    for batch in (64, 128):
                        images = digits.draw(batch)[0]
                        was = logits(network, images)
                        error = (logits(after, images) - was) / was.std()
                        rms, largest = float(error.square().mean().sqrt()), float(error.abs().max())
                        found[name, batch, calibrate].append((rms, largest))
    print(f"\nTraining mode, {parents} parents: difference of logits in standard deviations of the parent's\n")
    print("| morphisms | batch | calibrated | times | root mean square: median | max | largest: median | max |")
    print("|---|---|---|---|---|---|---|---|")
    for (name, batch, calibrate), pairs in found.items():
        values = np.array(pairs)
        texts = [f"{np.median(column):.4f} | {column.max():.4f}" for column in values.T]
        print(
            f"| {name} | {batch} | {'yes' if calibrate else 'no'} | {len(values)} | {' | '.join(texts)} |", flush=True
        )


# --- shares


def shares(repeats: int, epochs: int, seed: int) -> None:
    """Of networks of four layers a stage that are all joined with the one before by "add", trained on two thirds."""
    space = MorphCNN(stages=2, layers=4)
    scale = space.Scale(channels=4)
    arch = space.start()
    for kind in ("deeper",) * 6 + ("add",) * 4:
        arch = space.morphisms(arch)[kind][0]
    print(f"\nShares after {epochs} epochs, mean +- standard deviation over {repeats} seeds: {space.canonical(arch)}\n")
    print("| weight decay on | mean share | least share | validation accuracy |\n|---|---|---|---|")
    for everything in (True, False):
        found = []
        for number in range(repeats):
            digits = Digits(1000 * number + seed)
            torch.manual_seed(1000 * number + seed)
            order = torch.randperm(len(digits.images), generator=digits.generator)
            held_out, kept = order[:599], order[599:]
            images, labels = digits.images[held_out], digits.labels[held_out]
            digits.images, digits.labels = digits.images[kept], digits.labels[kept]
            network = networks.build(space, arch, digits.task, scale)
            digits.train(network, epochs * (len(kept) // 64), everything)
            values = torch.cat([v.clamp(0, 1) for name, v in network.state_dict().items() if name.endswith("share")])
            right = (outputs(network, images).argmax(1) == labels).double().mean()
            found.append([float(values.mean()), float(values.min()), 100 * float(right)])
        texts = [f"{m:.3f} ± {s:.3f}" for m, s in zip(np.mean(found, 0), np.std(found, 0, ddof=1), strict=True)]
        print(f"| {'everything' if everything else 'weights and norms'} | {' | '.join(texts)} |", flush=True)


# --- time


def cost(seed: int) -> None:
    """From the start at the default scale to a million parameters, and five morphisms more."""
    space, task = MorphCNN(), ImageTask(3, 32, 32, 10)
    scale, rng = space.Scale(), np.random.default_rng(seed)

    def params(arch: Arch) -> int:
        with torch.device("meta"):
            return networks.count_params(networks.build(space, arch, task, scale))

    walks = (arch for _ in count() for _, arch in walk(space, space.start(), 100, rng))
    parent = next(arch for arch in walks if 900_000 < params(arch) < 1_100_000)
    *_, (_, child) = walk(space, parent, 5, rng)
    state = networks.build(space, parent, task, scale).state_dict()
    images = torch.randn(512, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    times = defaultdict(list)
    for _ in range(5):
        begin = time.perf_counter()

        def lap(name: str) -> None:
            nonlocal begin
            now = time.perf_counter()
            times[name].append(1000 * (now - begin))
            begin = now

        network = networks.build(space, child, task, scale).to(memory_format=torch.channels_last)
        lap("build")
        inheritance = space.inherit(parent, child, task, scale)
        lap("inherit")
        inheritance.apply(network, state)
        lap("apply")
        inheritance.calibrate(network, images)
        lap("calibrate on 512 images of 32x32")
        network(images[:64]).sum().backward()
        lap("for comparison: forward and backward, batch of 64")
    print(f"\nTime: {params(parent):,} to {params(child):,} parameters, {torch.get_num_threads()} threads")
    print(f"{space.canonical(parent)}  ->  {space.canonical(child)}")
    for name, values in times.items():
        print(f"  {name}: {np.median(values):.1f} ms ({min(values):.1f} to {max(values):.1f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--chains", type=int, default=1000)
    parser.add_argument("--parents", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(given.seed)
    print(f"torch {torch.__version__}, {platform.platform()}, {given.threads} threads; {vars(given)}")
    evaluation_mode(given.chains, given.seed)
    training_mode(given.parents, given.seed)
    shares(given.repeats, 60, given.seed)
    cost(given.seed)


if __name__ == "__main__":
    main()
