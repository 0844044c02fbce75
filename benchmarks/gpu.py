"""A GPU in nine minutes: does nastool work there, is it right, how fast is it beside a plain PyTorch loop.

    python benchmarks/gpu.py --out DIR [--data npz:FILE] [--minutes 9] [--only PART,...] [--fake]

The parts, the most important first; each is a process with a limit of its own, and what it finds is in DIR/PART.jsonl
as soon as it is found. A second call with the same DIR goes on with what is not finished. DIR/report.md is the table.

tests     the tests marked gpu
agree     the same seed twice, and the CPU beside the GPU, on short trainings: same metrics?
speed     examples a second and the share of the bf16 peak (that of a matrix product, measured in the same process):
          training steps of NAS-Bench-201's all-3x3 cell, DARTS' second cell, a recurrent cell and ENAS' macro and
          micro supernets, and the rewards of a controller's step. Beside each, in turns, the same without a recording
          (CUDA graph), with -E fuse=off, with neither, and an ordinary loop (eager, NCHW, autocast, SGD by foreach,
          children one after another): for ENAS' macro network over one that is written out without any thought of
          speed (benchmarks/supernet.py), otherwise over the same modules. busy: how much of its time the GPU computes
memory    a GPU that is nearly full: does a search whose batch does not fit survive
workers   one worker and two on the same GPU: same metrics, and how much longer or shorter
enas      ENAS' macro search on the images given with --data (else noise of CIFAR-10's shape), for as many rounds as
          fit: the time of each part, and what 310 rounds would take

--fake: everything in small on fake devices (tests/helpers/fake_cuda), where times mean nothing, so a part has no limit.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import itertools
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
LIMITS = {"tests": 150, "agree": 60, "speed": 240, "memory": 60, "workers": 60, "enas": 540}
"""Seconds of each part at most."""
Say = Callable[..., None]


@dataclass(frozen=True)
class Sizes:
    """How large everything is."""

    images: int = 50_000
    batch: int = 128
    channels: int = 36
    cells: int = 5
    layers: int = 12
    blocks: int = 5
    children: int = 20
    seconds: float = 0.7
    """Of each turn of a contender."""
    turns: int = 3
    peak: int = 8192
    """Rows and columns of the matrix product."""
    trials: int = 4
    left: int = 2500
    """MiB that a nearly full GPU has left."""
    full_batch: int = 8192
    nodes: int = 12
    tests: tuple[str, ...] = ("tests", "-n", "8")


FAKE = Sizes(60, 4, 2, 1, 4, 1, 2, 0.0, 1, 32, 2, 84, 64, 2, ("tests/unit/helpers/test_fake_cuda.py", "-k", "draws"))


@dataclass(frozen=True)
class Setting:
    """What a part is given. deadline: of time.monotonic()."""

    sizes: Sizes
    data: str
    out: Path
    deadline: float

    def evaluator(self, kind: str, space: Any, **more: Any) -> Any:
        from nastool.core import registry

        return registry.make("evaluator", kind, space, given={"data": self.data, "device": "cuda", **more})


# --- the parts


def tests(say: Say, setting: Setting) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "gpu",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:benchmark",
        *setting.sizes.tests,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    print(done.stdout)
    lines = done.stdout.splitlines()
    for line in lines:
        if line.startswith(("FAILED", "ERROR")):
            say(failed=line)
    say(result=lines[-1] if lines else done.stderr[-300:], code=done.returncode)


def agree(say: Say, setting: Setting) -> None:
    from nastool.core import registry
    from nastool.core.values import Proposal

    space = registry.make("space", "nasbench201", given={})
    arch = space.arch([3, 3, 1, 2, 3, 4])
    small: dict[str, Any] = {"data": "digits", "recipe": "digits", "epochs": 2}
    small["train_size"] = min(400, setting.sizes.images)
    small["scale"] = {"channels": 8, "cells": 1}

    def trained(exact: bool = False, **how: Any) -> dict[str, float]:
        """exact: nothing is drawn that differs from device to device: one batch, not augmented."""
        evaluator = setting.evaluator("train", space, **{**small, **how})
        if exact:
            alike: dict[str, Any] = {"crop_padding": 0, "flip": False, "cutout": 0, "batch_size": small["train_size"]}
            evaluator.recipe = dataclasses.replace(evaluator.recipe, **alike)
        found = evaluator.evaluate(0, Proposal(arch), seed=1, report=lambda step, metrics: None)
        return {name: found.metrics[name] for name in ("val_acc", "val_loss")}

    for precision in ("fp32", "bf16"):
        first, second = trained(precision=precision), trained(precision=precision)
        say(what=f"the same seed twice, {precision}", first=first, second=second, same=first == second)
    cpu, gpu = trained(True, device="cpu", precision="fp32"), trained(True, precision="fp32")
    apart = {name: abs(cpu[name] - gpu[name]) for name in cpu}
    say(what="CPU and GPU, fp32", first=cpu, second=gpu, same=apart["val_loss"] < 0.01 and apart["val_acc"] < 0.02)


def speed(say: Say, setting: Setting) -> None:
    import torch

    sizes = setting.sizes
    peak = _peak(sizes.peak)
    say(what="peak", tflops=peak)
    for name, make in _cases(setting).items():
        if time.monotonic() > setting.deadline - 10:
            say(what=name, skipped="no time left")
            continue
        torch.cuda.reset_peak_memory_stats()
        contenders, examples, flops = make()
        rates = _race(contenders, examples, sizes, 8.0 if "weights" in name else 0.0)  # children differ
        usual = {who: float(np.median(each)) for who, each in rates.items()}
        ratios = np.array(rates["nastool"]) / rates["plain" if "plain" in rates else "neither"]
        say(
            what=name,
            per_s=usual,
            turns=rates,
            ratio=float(np.median(ratios)),
            spread=[float(ratios.min()), float(ratios.max())],
            share_of_peak=usual["nastool"] * flops / peak / 1e12,
            busy={who: _kernels(step) * usual[who] / examples for who, step in contenders.items()}
            if sizes.peak > 100
            else {},
            gigabytes=torch.cuda.max_memory_allocated() / 1e9,
        )


def memory(say: Say, setting: Setting) -> None:
    import torch

    free, total = torch.cuda.mem_get_info()
    held = torch.empty(max(0, free - (setting.sizes.left << 20)), dtype=torch.uint8, device="cuda")
    say(held=held.numel(), total=total)
    options = [f"-n{setting.sizes.trials // 2}", "-E", f"batch_size={setting.sizes.full_batch}"]
    done = _search(setting, "memory", 16, *options, FAKE_CUDA_MIB=str(setting.sizes.left))
    say(code=done.returncode, error=done.stderr[-300:] if done.returncode else "")
    trials = _trials(setting.out / "memory")
    say(
        trials=[trial["state"] for trial in trials],
        notes=[line for line in done.stderr.splitlines() if "GPU memory" in line],
        survived=done.returncode == 0 and bool(trials) and all(trial["state"] == "done" for trial in trials),
    )
    del held


def workers(say: Say, setting: Setting) -> None:
    seconds, metrics = {}, {}
    for count in (1, 2):
        start = time.perf_counter()
        options = [f"-n{setting.sizes.trials}", f"--workers={count}"]
        done = _search(setting, f"workers{count}", min(16, 2 * setting.sizes.channels), *options)
        seconds[count] = time.perf_counter() - start
        say(
            workers=count,
            code=done.returncode,
            seconds=seconds[count],
            error=done.stderr[-300:] * (done.returncode > 0),
        )
        metrics[count] = [trial["metrics"] for trial in _trials(setting.out / f"workers{count}")]
    say(ratio=seconds[1] / seconds[2], same=metrics[1] == metrics[2] and len(metrics[1]) == setting.sizes.trials)


def enas(say: Say, setting: Setting) -> None:
    """The product's own rounds, with a clock at each part."""
    from nastool.core import registry
    from nastool.core.values import Trial
    from nastool.training.shared import SharedWeights

    sizes = setting.sizes
    space = registry.make("space", "macro-cnn", given={"layers": sizes.layers})
    options: dict[str, Any] = {"recipe": "enas-macro-cifar10", "scale": {"channels": sizes.channels}}
    if sizes.images < 1000:
        options["batch_size"] = sizes.batch
    evaluator = setting.evaluator("supernet", space, **options)
    evaluator.prepare()
    strategy = registry.make(
        "strategy", "enas", space, given={"seed": 0, **({"steps": 2} if sizes.images < 1000 else {})}
    )
    evaluator.make_policy = strategy.make_policy
    spent: dict[str, float] = {}

    def clocked(owner: Any, method: str, name: str) -> None:
        plain = getattr(owner, method)

        def call(*arguments: Any, **named: Any) -> Any:
            evaluator.synchronize()
            start = time.perf_counter()
            found = plain(*arguments, **named)
            evaluator.synchronize()
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - start
            return found

        setattr(owner, method, call)

    clocked(SharedWeights, "epoch", "weights and controller")
    clocked(evaluator, "rewards", "rewards")
    clocked(evaluator, "_score", "score")
    rounds: list[float] = []
    for number in range(310):
        proposal = strategy.ask()
        spent.clear()
        start = time.perf_counter()
        found = evaluator.evaluate(number, proposal, seed=number, report=lambda step, metrics: None)
        rounds.append(time.perf_counter() - start)
        strategy.tell(Trial(number, proposal, "done", found, (-found.metrics["shared_acc"],)))
        spent["weights and controller"] -= spent.get("rewards", 0.0)
        parts = {**spent, "the rest": rounds[-1] - sum(spent.values())}
        usual = float(np.median(rounds[1:] or rounds))
        say(
            round=number + 1, seconds=rounds[-1], parts=parts, metrics=dict(found.metrics), hours_310=310 * usual / 3600
        )
        if time.monotonic() + 1.5 * max(rounds) > setting.deadline or (sizes.images < 1000 and number):
            break


PARTS: Mapping[str, Callable[[Say, Setting], None]] = {
    "tests": tests,
    "agree": agree,
    "speed": speed,
    "memory": memory,
    "workers": workers,
    "enas": enas,
}


# --- what the parts are made of


def _peak(size: int) -> float:
    """TFLOP/s of a bf16 matrix product, the best of ten."""
    import torch

    a, b = (torch.randn(size, size, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    times = []
    for _ in range(10):
        torch.cuda.synchronize()
        start = time.perf_counter()
        a @ b
        torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return float(2 * size**3 / min(times) / 1e12)


OURS = {
    "nastool": (True, True),
    "not recorded": (True, False),
    "fuse=off": (False, True),
    "neither": (False, False),
}
"""Whether layers that are alike run as one, and whether a step is recorded."""
Contenders = Mapping[str, Callable[[], None]]
Case = Callable[[], tuple[Contenders, int, float]]
"""What each contender does once, how many examples that is, and FLOPs an example."""


def _cases(setting: Setting) -> dict[str, Case]:
    from nastool.core import registry, zoo
    from nastool.nets.costs import count_flops

    sizes, batch = setting.sizes, setting.sizes.batch

    def space(name: str, **options: Any) -> Any:
        return registry.make("space", name, given=options)

    def alone(owner: Any, choices: Any, size: int, recipe: str, more: Mapping[str, Any] = {}, **scale: int) -> Case:
        """Training one network. more: of the evaluator."""

        def make() -> tuple[Contenders, int, float]:
            options: dict[str, Any] = {"recipe": recipe, "batch_size": size, "scale": scale, **more}
            evaluator = setting.evaluator("train", owner, **options)
            evaluator.prepare()
            arch = owner.arch(choices)
            flops = 3.0 * count_flops(evaluator.build(arch, 0), evaluator.task)
            examples, contenders = size, {}
            if "images" in owner.tasks:
                contenders["plain"] = _Plain(evaluator, evaluator.build(arch, 0)).step
            else:
                examples *= evaluator.recipe.text.bptt
            for name, (evaluator.fuse, evaluator.replays) in OURS.items():
                training = evaluator.training(evaluator.build(arch, 0), evaluator.recipe, seed=0)
                contenders[name] = partial(next, _endless(training))
            return contenders, examples, flops

        return make

    def shared(owner: Any, rewards: bool, **scale: int) -> Case:
        """Training a supernet, a child for each step; or the rewards of the children of a controller's step."""

        def make() -> tuple[Contenders, int, float]:
            import torch

            from benchmarks.supernet import Plain

            evaluator = setting.evaluator("supernet", owner, batch_size=batch, scale=scale)
            evaluator.prepare()
            rng = np.random.default_rng(0)
            children = [owner.sample(rng) for _ in range(200)]
            flops = [count_flops(evaluator.build(arch, 0), evaluator.task) for arch in children[:5]]
            if owner.name == "macro-cnn" and sizes.layers == 12:
                plain = _Plain(evaluator, Plain().cuda())
                plain.select = lambda arch: setattr(plain.network, "child", _as_plain(owner, arch))
            else:
                plain = _Plain(evaluator, evaluator.supernet())
                plain.select = plain.network.select
            group = children[: sizes.children]
            x, y = evaluator.train_batches.batch(torch.arange(batch))
            turn = itertools.count()

            def plain_step() -> None:
                plain.select(children[next(turn) % len(children)])
                plain.step()

            contenders = {"plain": (lambda: plain.rewards(group, x, y)) if rewards else plain_step}
            for name, (evaluator.fuse, replays) in OURS.items():
                if not replays:
                    continue  # children differ: nothing is recorded
                network = evaluator.supernet()
                if rewards:
                    own = copy.copy(evaluator)
                    contenders[name] = partial(own.rewards, network, group, (x, y))
                    continue
                training = evaluator.training(network, evaluator.recipe, seed=0)
                contenders[name] = partial(next, _endless(training, partial(_select, network, children)))
            mean = float(np.mean(flops))
            return contenders, batch * len(group) if rewards else batch, mean if rewards else 3.0 * mean

        return make

    macro, micro = space("macro-cnn", layers=sizes.layers), space("cell-cnn", blocks=sizes.blocks)
    darts = zoo.PUBLISHED["darts-v2"]
    cells = space(darts.space, **darts.options)
    named = [decision.options.index(darts.choices[decision.name]) for decision in cells.decisions]
    scale = darts.scale if sizes.images >= 1000 else {"channels": sizes.channels, "cells": 1}
    channels = 16 if sizes.images >= 1000 else sizes.channels
    nb201 = space("nasbench201")
    recurrent = space("recurrent-cell", nodes=sizes.nodes)
    text = {"data": "sentences", "train_size": None if sizes.images >= 1000 else 3000}
    drawn = recurrent.sample(np.random.default_rng(0)).choices
    all_3x3 = [decision.options.index("nor_conv_3x3") for decision in nb201.decisions]
    return {
        "NAS-Bench-201, all 3x3": alone(nb201, all_3x3, 2 * batch, "nasbench201", channels=channels, cells=sizes.cells),
        "DARTS' second cell": alone(cells, named, batch, "default", {}, **scale),
        "a recurrent cell, tokens": alone(recurrent, drawn, 64, "text", text, hidden=16 * channels),
        "ENAS macro, weights": shared(macro, False, channels=sizes.channels),
        f"ENAS macro, rewards of {sizes.children}": shared(macro, True, channels=sizes.channels),
        "ENAS micro, weights": shared(micro, False, channels=sizes.channels, cells=2 if sizes.cells > 1 else 1),
        f"ENAS micro, rewards of {sizes.children}": shared(
            micro, True, channels=sizes.channels, cells=2 if sizes.cells > 1 else 1
        ),
    }


class _Plain:
    """An ordinary training loop."""

    def __init__(self, evaluator: Any, network: Any) -> None:
        import torch

        self.network = network.to(memory_format=torch.contiguous_format)
        self.optimizer = torch.optim.SGD(
            network.parameters(), 1e-3, 0.9, nesterov=True, weight_decay=5e-4, foreach=True
        )
        self.select: Callable[[Any], object] = lambda arch: None
        images, size = evaluator.train_batches, evaluator.recipe.batch_size

        def batches() -> Iterator[Any]:
            while True:
                order = torch.randperm(len(images), device="cuda")
                for indices in order.split(size):  # type: ignore[no-untyped-call]  # torch's stub
                    if len(indices) == min(size, len(images)):
                        x, y = images.batch(indices)
                        yield _crop_and_flip(x.contiguous()), y

        self.batches = batches()

    def step(self) -> None:
        import torch
        from torch.nn.functional import cross_entropy

        self.network.train()
        x, y = next(self.batches)
        with torch.autocast("cuda", torch.bfloat16):
            output = self.network(x)
        logits = output[0] if isinstance(output, tuple) else output
        loss = cross_entropy(logits.float(), y)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 5.0)
        self.optimizer.step()

    def rewards(self, children: Any, x: Any, y: Any) -> None:
        import torch

        self.network.eval()
        x = x.contiguous()
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16):
            for child in children:
                self.select(child)
                (self.network(x).argmax(1) == y).sum().item()


def _crop_and_flip(x: Any) -> Any:
    import torch
    from torch.nn.functional import pad

    padded = pad(x, (4, 4, 4, 4))
    top, left = torch.randint(9, (2,)).tolist()  # one for the whole batch: the cheapest there is
    x = padded[:, :, top : top + x.shape[2], left : left + x.shape[3]]
    return torch.where(torch.rand(len(x), 1, 1, 1, device=x.device) < 0.5, x.flip(3), x)


def _as_plain(space: Any, arch: Any) -> list[tuple[int, list[int]]]:
    """An architecture of macro-cnn for `benchmarks.supernet.Plain`."""
    layers: list[tuple[int, list[int]]] = []
    kinds = {"conv_3x3": 0, "sep_conv_3x3": 1, "conv_5x5": 2, "sep_conv_5x5": 3, "avg_pool_3x3": 4, "max_pool_3x3": 5}
    for decision, choice in zip(space.decisions, arch.choices, strict=True):
        if decision.name.endswith(".op"):
            layers.append((kinds[decision.options[choice]], []))
        else:
            layers[-1][1].append(choice)
    return layers


def _select(network: Any, children: Sequence[Any], step: int) -> None:
    network.select(children[step % len(children)])


def _endless(training: Any, prepare: Callable[[int], None] = lambda step: None) -> Iterator[Any]:
    while True:
        yield from training.epoch(prepare)
        training.done = 0  # the learning rate does not matter here, but must exist


def _race(contenders: Contenders, examples: int, sizes: Sizes, warm: float) -> dict[str, list[float]]:
    """Examples a second of each, in turns, after some steps that do not count. warm: for how many seconds at least."""
    import torch

    rates: dict[str, list[float]] = {name: [] for name in contenders}
    for step in contenders.values():
        start = time.perf_counter()
        for number in itertools.count(1):
            step()
            if not sizes.seconds or (number >= 10 and time.perf_counter() - start > warm):
                break
    for _ in range(sizes.turns):
        for name, step in contenders.items():
            torch.cuda.synchronize()
            start, steps = time.perf_counter(), 0
            while True:
                step()
                steps += 1
                if steps % 10 == 0:
                    torch.cuda.synchronize()
                if time.perf_counter() - start >= sizes.seconds:
                    break
            torch.cuda.synchronize()
            rates[name].append(examples * steps / (time.perf_counter() - start))
    return rates


def _kernels(step: Callable[[], None], steps: int = 5) -> float:
    """Seconds that the GPU computes in a step."""
    import torch
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as found:
        for _ in range(steps):
            step()
        torch.cuda.synchronize()
    return float(sum(event.self_device_time_total for event in found.key_averages()) / steps / 1e6)


def _search(setting: Setting, name: str, channels: int, *options: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nastool", "search", "-s", "random", "--space", "nasbench201", "--epochs", "1"]
    command += ["--data", setting.data, "--scale", f"channels={channels},cells=1", "--device", "cuda", "--seed", "0"]
    environment = {**os.environ, "NASTOOL_SEARCH_REPORT": "0", **more}
    command += ["--retrain", "0", "--out", name, "--force", *options]
    return subprocess.run(command, cwd=setting.out, env=environment, capture_output=True, text=True)


def _trials(folder: Path) -> list[dict[str, Any]]:
    from nastool.engine.study import Study

    trials = [each.trial for each in Study.read(folder).trials]
    return [
        {"state": trial.state, "metrics": dict(trial.evaluation.metrics) if trial.evaluation else {}}
        for trial in trials
    ]


def _noise(path: Path, sizes: Sizes) -> str:
    """Images of CIFAR-10's shape that mean nothing, with `images` for training."""
    if not path.exists():
        rng = np.random.default_rng(0)
        arrays: dict[str, Any] = {}
        for part, count in (("train", sizes.images), ("test", sizes.images // 5)):
            arrays[f"x_{part}"] = rng.integers(256, size=(count, 32, 32, 3), dtype=np.uint8)
            arrays[f"y_{part}"] = np.arange(count) % 10
        np.savez(path, **arrays)
    return f"npz:{path}"


# --- running the parts, and the table


@contextmanager
def _lines(path: Path) -> Iterator[Say]:
    with path.open("a") as file:

        def say(**record: Any) -> None:
            file.write(json.dumps(record) + "\n")
            file.flush()

        yield say


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def _run_part(name: str, setting: Setting) -> None:
    with _lines(setting.out / f"{name}.jsonl") as say:
        PARTS[name](say, setting)
        say(finished=True)


def _facts() -> dict[str, str]:
    import torch

    gpu = torch.cuda.get_device_properties(0)
    cudnn = torch.backends.cudnn.version()  # type: ignore[no-untyped-call]  # torch's stub
    return {
        "date": time.strftime("%Y-%m-%d"),
        "GPU": f"{gpu.name}, {gpu.total_memory / 1e9:.0f} GB, compute capability {gpu.major}.{gpu.minor}",
        "versions": f"Python {platform.python_version()}, torch {torch.__version__}, CUDA {torch.version.cuda}, "
        f"cuDNN {cudnn}, numpy {np.__version__}",
        "CPU": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def table(out: Path) -> str:
    """The report, in Markdown, of what is found so far."""
    found = {name: _read(out / f"{name}.jsonl") for name in PARTS}
    facts = _read(out / "facts.jsonl")
    lines = ["# On a GPU", ""]
    if facts:
        lines += [*(f"- {key}: {value}" for key, value in facts[-1].items()), ""]
    for name, records in found.items():
        state = "" if any("finished" in record for record in records) else " (not finished)"
        lines += [f"## {name}{state}", ""]
        if name == "speed":
            lines += _speed_table(records)
            continue
        if name == "enas":
            records = [record for record in records if "round" in record][-1:] + [r for r in records if "stopped" in r]
        for record in records:
            shown = {key: value for key, value in record.items() if key != "finished"}
            if shown:
                lines.append("- " + "; ".join(f"{key}: {_short(value)}" for key, value in shown.items()))
        lines.append("")
    return "\n".join(lines)


def _speed_table(records: list[dict[str, Any]]) -> list[str]:
    peak = next((record["tflops"] for record in records if "tflops" in record), None)
    lines = [] if peak is None else [f"Measured peak of bf16 matrix products: {peak:.1f} TFLOP/s.", ""]
    names = [*OURS, "plain"]
    lines += ["| examples/s (busy) | " + " | ".join(names) + " | ratio to the last (spread) | of the peak | memory |"]
    lines += ["|---|" + "---:|" * 8]
    for record in records:
        if "stopped" in record:
            lines.append(f"| stopped: {record['stopped']} |" + " |" * 8)
        if "ratio" in record:
            low, high = record["spread"]
            shown = [f"{record['per_s'][who]:,.0f}" if who in record["per_s"] else "" for who in names]
            busy = [f" ({record['busy'][who]:.0%})" if who in record["busy"] else "" for who in names]
            lines.append(
                f"| {record['what']} | {' | '.join(map(str.__add__, shown, busy))} | {record['ratio']:.2f} "
                f"({low:.2f} to {high:.2f}) | {record['share_of_peak']:.1%} | {record['gigabytes']:.1f} GB |"
            )
    return [*lines, ""]


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_short(each)}" for key, each in value.items())
    return str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--data", help="images, as of nastool search; npz:FILE with CIFAR-10, say")
    parser.add_argument("--minutes", type=float, default=9.0)
    parser.add_argument("--only", default=",".join(PARTS))
    parser.add_argument("--fake", action="store_true")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    args = parser.parse_args()
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    sizes = FAKE if args.fake else Sizes()
    deadline = time.monotonic() + 60 * args.minutes
    if args.part == "facts":
        with _lines(out / "facts.jsonl") as say:
            say(**_facts())
        return
    if args.part:
        _run_part(args.part, Setting(sizes, args.data, out, deadline))
        return
    environment = dict(os.environ, PYTHONPATH=f"{ROOT}:{os.environ.get('PYTHONPATH', '')}")
    if args.fake:
        sys.path.insert(0, str(ROOT))
        from tests.helpers.fake_cuda import environment as fake_environment

        environment = {**environment, **fake_environment(mib=512)}
    data = args.data or _noise(out / "noise.npz", sizes)
    for name in ["facts", *args.only.split(",")]:
        path, left = out / f"{name}.jsonl", deadline - time.monotonic()
        if any("finished" in record for record in _read(path)) or left < 1:
            continue
        limit = left if args.fake else min(LIMITS.get(name, 60), left)
        command = [sys.executable, __file__, "--out", str(out), "--data", data, "--part", name]
        command += ["--minutes", str(limit / 60), *["--fake"] * args.fake]
        start = time.monotonic()
        try:
            with (out / f"{name}.log").open("w") as log:
                done = subprocess.run(command, stdout=log, stderr=log, env=environment, timeout=limit)
            problem = {"stopped": f"exit code {done.returncode}, see {name}.log"} if done.returncode else None
        except subprocess.TimeoutExpired:
            problem = {"stopped": f"after {limit:.0f} s"}
        if problem:
            with _lines(path) as say:
                say(**problem)
        print(f"{name}: {time.monotonic() - start:.0f} s{', ' + problem['stopped'] if problem else ''}", flush=True)
        (out / "report.md").write_text(table(out))
    print(table(out))


if __name__ == "__main__":
    main()
