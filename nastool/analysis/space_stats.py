"""What a space holds: its size, its decisions, and what its architectures cost, of a sample."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nastool.core import registry
from nastool.core.archfile import ArchDocument, about
from nastool.core.costs import SPREAD, Costs
from nastool.core.errors import InputError, hint
from nastool.core.limits import Limits
from nastool.core.quantities import Condition
from nastool.core.space import SearchSpace
from nastool.core.task import FAMILY, Task
from nastool.core.values import Arch, SpaceRef
from nastool.core.wording import format_number
from nastool.engine import sources
from nastool.nets.costs import NetworkCosts

QUANTILES = {"min": 0.0, "p5": 0.05, "p25": 0.25, "median": 0.5, "p75": 0.75, "p95": 0.95, "max": 1.0}
BARS = "▁▂▃▄▅▆▇█"
BINS = 16
MEASURED, MEASURING = 30, 10.0
"""Most architectures of which the latency is measured, and most seconds of that, after 5 of them."""


@dataclass(frozen=True)
class Spread:
    """How a cost is distributed.

    Attributes:
        samples: Number of architectures.
        quantiles: By the names of `QUANTILES`.
        counts: Of equal parts of the range from the least to the most.
        noise: Of a latency, the median part of it that lies between the quartiles of its runs; None: it is counted.
    """

    samples: int
    quantiles: Mapping[str, float]
    counts: Sequence[int]
    noise: float | None = None

    @classmethod
    def of(cls, values: Sequence[float], noise: float | None = None) -> Spread:
        found = np.quantile(np.array(values, dtype=float), list(QUANTILES.values()), method="nearest")
        counts, _ = np.histogram(values, BINS)
        return cls(len(values), dict(zip(QUANTILES, found.tolist(), strict=True)), counts.tolist(), noise)


@dataclass(frozen=True)
class SpaceStats:
    """What a space holds.

    Attributes:
        space: It.
        task: What its networks are for.
        scale: Their size.
        costs: Name -> how it is distributed.
        shares: Each limit -> the share of the architectures within it; of several, last, all together.
        rare: Where none drawn is within, what else was found; else "".
        device: Where the latency was measured.
        threads: With how many CPU threads.
    """

    space: SearchSpace
    task: Task
    scale: Any
    costs: Mapping[str, Spread]
    shares: Mapping[str, tuple[float, int]]
    rare: str
    device: str
    threads: int

    def to_json(self) -> dict[str, Any]:
        """The same as a JSON object."""
        decisions = [{"name": each.name, "options": list(each.options)} for each in self.space.decisions]
        costs: dict[str, dict[str, float]] = {}
        for name, spread in self.costs.items():
            noise = {} if spread.noise is None else {"spread": spread.noise}
            costs[name] = {"samples": spread.samples, **spread.quantiles, **noise}
        return {
            **about(self.space),
            "size": self.space.size,
            "decisions": decisions,
            "task": {"name": self.task.name, **self.task.to_json()},
            "scale": asdict(self.scale),
            **costs,
            "device": self.device,
            "latency_threads": self.threads,
            "rare": self.rare or None,
            "limits": [{"limit": text, "share": share, "samples": n} for text, (share, n) in self.shares.items()],
        }

    def lines(self, bars: bool = True) -> list[str]:
        """The same for a terminal. bars: whether it has characters for them."""
        kinds = Counter(len(decision.options) for decision in self.space.decisions)
        options = ", ".join(f"{number} of {count}" for count, number in sorted(kinds.items()))
        sizes = " ".join(f"{name}={value}" for name, value in vars(self.scale).items())
        size = f"{self.space.size:,}" if self.space.size < 1e15 else f"{self.space.size:.3g}"
        found = [
            f"{self.space.ref}: {size} combinations of {len(self.space.decisions)} decisions ({options} options)",
            f"networks for {self.task}" + (f"; {sizes}" if sizes else ""),
            "",
        ]
        heads = ["", "least", "5%", "25%", "half", "75%", "95%", "most", *(["least  ..  most"] if bars else [])]
        rows = [heads]
        for name, spread in self.costs.items():
            numbers = [format_number(value) for value in spread.quantiles.values()]
            rows.append([name, *numbers, *([_bars(spread.counts)] if bars else [])])
        widths = [max(len(row[i]) for row in rows) for i in range(len(heads))]
        for name, *numbers in rows:
            cells = [number.rjust(width) for number, width in zip(numbers, widths[1:], strict=True)]
            found.append("  ".join([name.ljust(widths[0]), *cells]).rstrip())
        of = ", ".join(f"{name} of {spread.samples:,}" for name, spread in self.costs.items())
        found += ["", f"architectures drawn uniformly: {of}"]
        if (latency := self.costs.get("latency_ms")) is not None:
            threads = f", {self.threads} thread{'s' * (self.threads > 1)}" if self.device == "cpu" else ""
            found.append(f"latency: one {self.task.noun} on {self.device}{threads}; runs spread by {latency.noise:.0%}")
        found += [f"within {text}: {100 * part:.3g}% of {n:,}" for text, (part, n) in self.shares.items()]
        return [*found, *([self.rare] if self.rare else [])]


def _bars(counts: Sequence[int]) -> str:
    most = max(counts)
    return "".join(" " if not count else BARS[(len(BARS) - 1) * count // most] for count in counts)


def of(
    space: str,
    options: Mapping[str, object],
    data: str | None,
    input: str | Sequence[int] | None,
    classes: int,
    scale: Mapping[str, int] | str | None,
) -> tuple[SearchSpace, Task, Any]:
    """A space as users name it, with a task and a scale for its networks; arguments as of `nastool.space_stats`.

    Raises:
        InputError: Something of it is none.
    """
    own = registry.make_space(SpaceRef.of(space, {name: str(value) for name, value in options.items()}))
    if data is not None and input is not None:
        raise InputError("both data and input are given: keep one")
    if data is None and input is None and FAMILY not in own.tasks:
        raise InputError(f"space {own.name}: say what its networks are for, with --data NAME or --input SHAPE")
    size = sources.size_of(ArchDocument(own, own.arch([])), scale)
    if data is None:
        return own, registry.task_of(own, input or "3x32x32", classes), size
    return own, registry.task_for(data).load(data).task, size


def space_stats(
    space: SearchSpace,
    task: Task,
    scale: Any,
    *,
    limits: Sequence[str] = (),
    samples: int = 1000,
    seed: int = 0,
    device: str = "cpu",
    threads: int = 1,
    latency: bool = True,
) -> SpaceStats:
    """Return what a space holds, of architectures that are drawn uniformly.

    Args:
        space: Any.
        task: What its networks are for.
        scale: An instance of its `Scale`.
        limits: Conditions on costs, of which the share within is found.
        samples: Number of architectures that are drawn; of some of them the latency is measured.
        seed: Of the draws.
        device: Where the latency is measured.
        threads: CPU threads with which it is measured.
        latency: Whether it is measured, also where no limit is on it.

    Raises:
        InputError: A limit is none, or on no cost.
    """
    wanted = Limits.parse(limits)
    counted = NetworkCosts(space, task, scale, device, threads)
    costs = Costs(counted.of)
    for condition in wanted.conditions:
        if condition.metric not in costs.names:
            near = hint(condition.metric, sorted(costs.names))
            raise InputError(f"--limit {condition}: nothing of this name is known before training; {near}")
    measures = latency or "latency_ms" in wanted.names
    quick = list(dict.fromkeys(["params", "flops", *(name for name in wanted.names if name != "latency_ms")]))
    rng = np.random.default_rng(seed)
    archs = [space.sample(rng) for _ in range(samples)]
    measured: list[Arch] = []
    start = time.monotonic()
    for arch in archs[:MEASURED] if measures else ():
        if len(measured) >= 5 and time.monotonic() - start > MEASURING:
            break
        costs.of(arch, [*quick, "latency_ms"])
        measured.append(arch)
    counts = [costs.of(arch, quick) for arch in archs]
    spreads = {name: Spread.of([each[name] for each in counts]) for name in quick}
    if measured:
        found = [costs.of(arch, ["latency_ms"]) for arch in measured]
        noise = float(np.median([each[SPREAD] / each["latency_ms"] for each in found]))
        spreads["latency_ms"] = Spread.of([each["latency_ms"] for each in found], noise)

    def share(conditions: Sequence[Condition]) -> tuple[float, int]:
        slow = any(each.metric == "latency_ms" for each in conditions)
        judged = measured if slow else archs
        within = [all(each.holds(costs.of(arch, [each.metric])) for each in conditions) for arch in judged]
        return float(np.mean(within)), len(judged)

    shares = {str(each): share([each]) for each in wanted.conditions}
    if len(wanted.conditions) > 1:
        shares[str(wanted)] = share(wanted.conditions)
    rare = ""
    if wanted.conditions and not shares[str(wanted)][0]:
        wanted.costs = costs
        found_one, has = wanted.nearest(space)
        rare = f"one that was found by steps to neighbors has {has}" if found_one else f"the nearest found has {has}"
    return SpaceStats(space, task, scale, spreads, shares, rare, device, threads)
