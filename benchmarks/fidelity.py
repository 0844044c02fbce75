"""Simulated time to a regret, with trainings that end early and without, from comparisons of nastool bench.

usage: fidelity.py [--reference random] [--at SECONDS] DIR...

DIR: folders of comparisons, of one table each, such as
    nastool bench -s random -s evolution --fidelity asha --table ... --seeds 100 --sim-seconds 200000
The target is the mean regret of the reference after so many simulated seconds (default: its budget). Prints for every
strategy when its mean regret over seeds is there to stay, and how many times sooner that is than the reference's and
than the same strategy's with whole trainings, each with a 95% interval of 2,000 bootstrap samples of the seeds. Until a
run has an architecture that was trained to the end, its regret is the table's largest.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nastool.analysis.bench.benchmark import Facts
from nastool.analysis.bench.journal import Content, Journal
from nastool.analysis.bench.loop import Run

SAMPLES, POINTS = 2000, 2000
Floats = NDArray[np.float64]


def curve(run: Run, facts: Facts, grid: Floats) -> Floats:
    """Regret in points at each moment."""
    assert run.spent is not None
    times = [0.0, *(run.spent[best.query - 1] for best in run.best)]
    values = [facts.worst, *(best.value for best in run.best)]
    regrets: Floats = 100 * (facts.optimum - np.array(values, dtype=np.float64))
    return np.asarray(regrets[np.searchsorted(times, grid, side="right") - 1], dtype=np.float64)


def since(curves: Floats, grid: Floats, target: Floats) -> Floats:
    """When means (samples, points) are at most the target (samples,), to stay; infinity: never."""
    above = curves > target[:, None] + 1e-9
    last = above.shape[1] - np.argmax(above[:, ::-1], axis=1)  # behind the last moment above it
    last[~above.any(axis=1)] = 0
    moments: Floats = np.append(grid, np.inf)
    return np.asarray(moments[last], dtype=np.float64)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--reference", default="random")
    parser.add_argument("--at", type=float)
    given = parser.parse_args()
    contents = [Journal(folder).read() for folder in given.folders]
    (facts,) = {tuple(content.tables.values()) for content in contents}.pop()
    found: dict[str, list[Run]] = {}
    for content in contents:
        _take(content, found)
    budgets = {name: min(run.budget.seconds or 0.0 for run in runs) for name, runs in found.items()}
    at = given.at or budgets[given.reference]
    rng = np.random.default_rng(0)

    def means(name: str) -> tuple[Floats, Floats]:
        """(1 + SAMPLES, points): of all seeds, and of samples of them; and the moments."""
        grid = np.linspace(0, budgets[name], POINTS + 1)
        curves = np.array([curve(run, facts, grid) for run in found[name]])
        draws = rng.multinomial(len(curves), np.full(len(curves), 1 / len(curves)), SAMPLES) / len(curves)
        return np.concatenate([curves.mean(axis=0)[None], draws @ curves]), grid

    curves = {name: means(name) for name in found}
    reference, grid = curves[given.reference]
    target = reference[:, np.searchsorted(grid, at, side="right") - 1]
    print(f"{facts.label}: {given.reference} has a mean regret of {target[0]:.3f} after {at:,.0f} s, that is after")
    print(f"{at / (facts.mean_seconds or 1):.0f} whole trainings of {facts.mean_seconds:,.0f} s. Until then it takes")
    times = {name: since(*own, target) for name, own in curves.items()}
    for name in found:
        base = name.partition(" by ")[0]
        own = f"  {shown(times[base] / times[name])} times sooner than {base}" if base != name else ""
        print(f"{name:<28} {len(found[name]):>4} seeds {shown(times[name], 0)} s  "
              f"{shown(at / times[name])} times sooner than {given.reference}{own}")  # fmt: skip


def _take(content: Content, found: dict[str, list[Run]]) -> None:
    for key, record in content.runs.items():
        found.setdefault(content.labels[key.strategy], []).append(record.run)


def shown(values: Floats, digits: int = 1) -> str:
    """The first with the interval that the others give."""
    low, high = np.nanquantile(values[1:], [0.025, 0.975], method="nearest")
    return f"{values[0]:,.{digits}f} [{low:,.{digits}f}, {high:,.{digits}f}]"


if __name__ == "__main__":
    main()
