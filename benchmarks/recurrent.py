"""How fast ENAS' recurrent cells train with shared weights, and are rewarded, beside a plain loop in the same run.

    python benchmarks/recurrent.py [--threads N] [--repeats R] [--precision fp32,bf16] [--cpu-time]

A cell of 12 nodes, 1,000 hidden units, weights for each pair of nodes, 10,000 words, 64 texts side by side, 35 words
a step. "step": forward, backward, clipping, SGD, another random child each time, in words a second. "child": the reward
of one of 10 random children on one minibatch, in one pass over what they share, in seconds. "plain" is the same network
as public implementations write it: a loop over steps and nodes, each with a product for its value and one for its gate,
and one child after the other. All take turns, several times round; medians, and the smallest and largest of the rounds.
The peak is that of a large matrix product, timed in every turn, too; FLOPs are those of the products alone. With
--cpu-time seconds are those of the process on one thread, for a machine that is busy with other things.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from nastool.core import registry
from nastool.core.recipe import Recipe
from nastool.core.values import Arch
from nastool.nets import devices, precision
from nastool.nets.networks import Supernet
from nastool.nets.onepass import OnePass

PUBLISHED = {"step": 658.0, "child": 1.22}
"""Of carpedm20/ENAS-pytorch, float32, on a machine of this kind: words a second, seconds."""
FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "tanh": torch.tanh,
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "identity": lambda x: x,
}


CPU_TIME = False


class Plain(nn.Module):
    """The supernet without any thought of speed."""

    def __init__(self, nodes: int, hidden: int, vocabulary: int) -> None:
        super().__init__()
        self.nodes = nodes
        self.embedding = nn.Embedding(vocabulary, hidden)
        self.first = nn.ModuleList(nn.Linear(hidden, hidden, bias=False) for _ in range(4))
        pairs = [f"{j}-{i}" for i in range(nodes) for j in range(i)]
        self.value = nn.ModuleDict({pair: nn.Linear(hidden, hidden, bias=False) for pair in pairs})
        self.gate = nn.ModuleDict({pair: nn.Linear(hidden, hidden, bias=False) for pair in pairs})
        self.decoder = nn.Linear(hidden, vocabulary, bias=False)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        self.decoder.weight = self.embedding.weight
        self.child: tuple[list[int], list[str]] = [], []

    def forward(self, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        sources, acts = self.child
        x = self.embedding(tokens)
        h = x.new_zeros(len(tokens), x.shape[2]) if state is None else state
        outputs = []
        for t in range(tokens.shape[1]):
            word = x[:, t]
            gate = torch.sigmoid(self.first[0](word) + self.first[1](h))
            value = FUNCTIONS[acts[0]](self.first[2](word) + self.first[3](h))
            states = [gate * value + (1 - gate) * h]
            for i in range(1, self.nodes):
                before, pair = states[sources[i]], f"{sources[i]}-{i}"
                gate = torch.sigmoid(self.gate[pair](before))
                states.append(gate * FUNCTIONS[acts[i]](self.value[pair](before)) + (1 - gate) * before)
            ends = [state for i, state in enumerate(states) if i not in sources[1:]]
            h = torch.stack(ends).mean(0)
            outputs.append(h)
        return self.decoder(torch.stack(outputs, 1)), h


class Contender:
    """A network, how it is told its child, and what was measured."""

    def __init__(self, name: str, network: nn.Module, select: Callable[[Arch], None], task: Any, bf16: bool) -> None:
        self.name = name
        self.network = network
        self.select = select
        self.task = task
        self.around = (lambda: precision.autocast("cpu")) if bf16 else nullcontext
        self.optimizer = torch.optim.SGD(network.parameters(), lr=1e-3, foreach=True)
        self.times: dict[str, list[float]] = {"step": [], "child": []}

    def step(self, arch: Arch, batch: tuple[Tensor, Tensor]) -> None:
        self.network.train()
        self.select(arch)
        start = clock()
        self.network.zero_grad()

        def called(*inputs: Any) -> Any:
            with self.around():
                return self.network(*inputs)

        self.task.step(called, batch, None, Recipe()).loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 0.25)
        self.optimizer.step()
        self.times["step"].append(batch[0].numel() / (clock() - start))

    def children(self, archs: list[Arch], batch: tuple[Tensor, Tensor]) -> list[float]:
        self.network.eval()
        start = clock()
        with torch.no_grad(), self.around():
            if isinstance(self.network, Supernet):
                with OnePass(self.network).installed() as one_pass:
                    found = one_pass.logits(archs, batch[0], then=lambda out: self.task.rewards([out], batch).item())
            else:
                found = []
                for arch in archs:
                    self.select(arch)
                    logits = self.network(batch[0])[0]
                    found.append(80 / functional.cross_entropy(logits.flatten(0, 1), batch[1].flatten()).exp().item())
        self.times["child"].append((clock() - start) / len(archs))
        return found


def clock() -> float:
    return time.process_time() if CPU_TIME else time.perf_counter()


def peak(dtype: torch.dtype) -> float:
    """FLOP/s of a product."""
    a, b = torch.randn(2240, 2000).to(dtype), torch.randn(4000, 2000).to(dtype)
    best = 0.0
    for _ in range(4):
        start = clock()
        functional.linear(a, b)
        best = max(best, 2 * 2240 * 2000 * 4000 / (clock() - start))
    return best


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):8.3g} ({min(values):.3g} to {max(values):.3g})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("threads", 0), ("repeats", 5), ("nodes", 12), ("hidden", 1000), ("vocabulary", 10_000)):
        parser.add_argument(f"--{name}", type=int, default=default)
    for name, default in (("batch", 64), ("bptt", 35), ("children", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--precision", default="fp32,bf16")
    parser.add_argument("--cpu-time", action="store_true")
    given = parser.parse_args()
    if given.cpu_time:
        global CPU_TIME
        CPU_TIME, given.threads = True, 1
    if given.threads:
        torch.set_num_threads(given.threads)
    devices.keep_memory()
    space = registry.make("space", "recurrent-cell", given={"nodes": given.nodes})
    task = registry.load("task", "language-model")(given.vocabulary)
    torch.manual_seed(0)
    batch = tuple(torch.randint(given.vocabulary, (2, given.batch, given.bptt)))
    contenders = []
    for name in given.precision.split(","):
        network = Supernet(space, task, space.Scale(hidden=given.hidden, edges=1))
        contenders.append(Contender(f"ours {name}", network, network.select, task, name == "bf16"))
        plain = Plain(given.nodes, given.hidden, given.vocabulary)

        def select(arch: Arch, plain: Plain = plain) -> None:
            options = {d.name: d.options[c] for d, c in zip(space.decisions, arch.choices, strict=True)}
            sources = [-1, 0, *(int(options[f"node{i}.input"]) for i in range(2, given.nodes))]
            plain.child = sources, [options[f"node{i}.act"] for i in range(given.nodes)]

        contenders.append(Contender(f"plain {name}", plain, select, task, name == "bf16"))
    rng = np.random.default_rng(0)
    peaks: dict[str, list[float]] = {"fp32": [], "bf16": []}
    for turn in range(given.repeats + 1):
        archs = [space.sample(rng) for _ in range(given.children)]
        for contender in contenders:
            if not turn:  # warm up, with one child
                contender.step(archs[0], batch)
                contender.children(archs[:1], batch)
                contender.times = {"step": [], "child": []}
                continue
            for arch in archs[:2]:
                contender.step(arch, batch)
            contender.children(archs if "ours" in contender.name else archs[:2], batch)
        for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
            peaks[name].append(peak(dtype))
    best = {name: statistics.median(values) for name, values in peaks.items()}
    word = 2 * (4 * given.hidden**2 + (given.nodes - 1) * 2 * given.hidden**2 + given.hidden * given.vocabulary)
    words = given.batch * given.bptt
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(", ".join(f"peak {name} {value / 1e9:.0f} GFLOP/s" for name, value in best.items()))
    print(f"products: {3 * word / 1e6:.0f} MFLOP a word in training, {word * words / 1e9:.0f} GFLOP a child")
    for name in given.precision.split(","):
        step, child = best[name] / (3 * word), word * words / best[name]
        print(f"at the peak of {name}: {step:.0f} words/s ({step / PUBLISHED['step']:.2f} x published), ", end="")
        print(f"{child:.3f} s a child ({PUBLISHED['child'] / child:.2f} x)")
    for contender in contenders:
        kind = contender.name.split()[1]
        step, child = (statistics.median(contender.times[what]) for what in ("step", "child"))
        plain_step, plain_child = (
            statistics.median(next(c for c in contenders if c.name == f"plain {kind}").times[what])
            for what in ("step", "child")
        )
        print(
            f"{contender.name:10s} step {spread(contender.times['step'])} words/s, "
            f"{step / PUBLISHED['step']:.2f} x published, {step / plain_step:.2f} x plain, "
            f"{3 * word * step / best[kind]:.0%} of the peak; child {spread(contender.times['child'])} s, "
            f"{PUBLISHED['child'] / child:.2f} x published, {plain_child / child:.2f} x plain, "
            f"{word * words / child / best[kind]:.0%} of the peak"
        )


if __name__ == "__main__":
    main()
