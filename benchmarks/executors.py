"""What an executor adds to trials that cost nothing: `python benchmarks/executors.py processes ray`.

Prints how many trials a second of the coordinator's processor time is enough for, with one worker; in turns, so that
ratios say what the way to the worker costs. Executors are named as for --executor.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import numpy as np

from nastool.core.values import Proposal
from nastool.engine.executors.base import Drive, Setting
from nastool.engine.executors.jobs import EvaluatorSpec, Finished, Job
from nastool.engine.run import make_executor
from nastool.spaces.nasbench_macro import NasBenchMacro

TRIALS, TURNS = 1000, 5


def measured(name: str, spec: EvaluatorSpec) -> float:
    """Trials in a second of processor time."""
    space = NasBenchMacro()
    left = iter([Job(i, Proposal(space.sample(np.random.default_rng(i))), i) for i in range(TRIALS)])
    with closing(make_executor(name, spec, spec.build(), Setting())) as executor:
        executor.open()
        began = time.process_time()
        done = sum(isinstance(event, Finished) for event in Drive(executor, lambda: next(left, None)))
        assert done == TRIALS
        return TRIALS / (time.process_time() - began)


def main(names: list[str]) -> None:
    space = NasBenchMacro()
    archs = np.array([arch.choices for arch in space.members()], dtype=np.uint8)
    with tempfile.TemporaryDirectory(dir=".") as folder:
        table = Path(folder).absolute() / "table.npz"
        np.savez(table, allow_pickle=False, arch=archs, val=np.linspace(0, 100, len(archs)))
        spec = EvaluatorSpec(space.ref, "table", {"file": str(table)}, workdir=table.parent)
        found = {name: [] for name in names}
        for _ in range(TURNS):
            for name in names:
                found[name].append(measured(name, spec))
        for name, rates in found.items():
            median = statistics.median(rates)
            ratio = median / statistics.median(found[names[0]])
            print(f"{name}: {median:.0f} trials/s ({min(rates):.0f} to {max(rates):.0f}), {ratio:.2f} of {names[0]}")


if __name__ == "__main__":
    main(sys.argv[1:])
