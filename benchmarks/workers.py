"""What it takes to start worker processes, until each says that its evaluator is prepared. Several versions in turn.

usage: workers.py [--runs 9] [--workers 1 2 8] [--kinds table train] [--trees FOLDER ...]

Each measurement is a process of its own: it starts so many workers of the executor `processes` at once, for a made-up
table or for trainings on digits, and ends them. Processor time is that of all its processes, beyond what it takes
itself without workers. Memory is the proportional share (PSS, Linux) of what it has started, while all are ready. With
the folders of several versions of the source, all are measured one after the other in each run.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path


def held(process: int) -> float:
    """Megabytes of the processes below one."""
    share = 0.0
    for child in Path(f"/proc/{process}/task/{process}/children").read_text().split():
        lines = Path(f"/proc/{child}/smaps_rollup").read_text().splitlines()
        share += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024 + held(int(child))
    return share


def start(kind: str, workers: int) -> None:
    """Start so many here and end them; prints the seconds that it took, and megabytes."""
    import numpy as np

    from nastool.core import registry
    from nastool.engine.executors.base import Setting
    from nastool.engine.executors.jobs import EvaluatorSpec
    from nastool.engine.executors.processes import Processes

    space = registry.make("space", "nasbench201", given={})
    with tempfile.TemporaryDirectory() as folder:
        archs = np.array([arch.choices for arch in space.members()][:100], dtype=np.uint8)
        np.savez(f"{folder}/t.npz", allow_pickle=False, arch=archs, val200=np.linspace(50, 90, 100))
        options = {"data": "digits", "device": "cpu"} if kind == "train" else {"file": f"{folder}/t.npz"}
        spec = EvaluatorSpec(space.ref, kind, options)
        evaluator = spec.build()
        began, memory = time.perf_counter(), 0.0
        if workers:
            executor = Processes.make(spec, evaluator, Setting(workers=workers))
            for slot in executor._slots:
                slot._running()
            for slot in executor._slots:
                slot.open(print)
            seconds, memory = time.perf_counter() - began, held(os.getpid())
            executor.close()
            began = time.perf_counter() - seconds
    print(json.dumps([time.perf_counter() - began, memory]))


def measured(tree: str, kind: str, workers: int) -> tuple[float, float, float]:
    """Seconds, those of processors of the whole process, megabytes."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment |= {"PYTHONPATH": tree, "OMP_NUM_THREADS": "1"}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, __file__, "--here", kind, str(workers)]
    told = subprocess.run(command, env=environment, cwd="/", check=True, capture_output=True).stdout
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds, memory = json.loads(told)
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, memory


def row(label: str, columns: Sequence[Sequence[float]]) -> str:
    return f"| {label} | " + " | ".join(
        f"{statistics.median(each):.3f} ({min(each):.3f} to {max(each):.3f})" for each in columns
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 8])
    parser.add_argument("--kinds", nargs="+", default=["table", "train"])
    parser.add_argument("--trees", nargs="+", default=[str(Path(__file__).resolve().parent.parent)])
    parser.add_argument("--here", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.here:
        return start(args.here[0], int(args.here[1]))
    cases = list(product(args.kinds, [0, *args.workers], args.trees))
    found: dict[tuple[str, int, str], list[tuple[float, float, float]]] = {case: [] for case in cases}
    for _ in range(args.runs):
        for kind, workers, tree in cases:
            found[kind, workers, tree].append(measured(tree, kind, workers))
    print("| workers | processor s | s | MB |\n| --- | --- | --- | --- |")
    for kind, workers, tree in cases:
        if workers:
            seconds, processors, memory = zip(*found[kind, workers, tree], strict=True)
            none = statistics.median(each[1] for each in found[kind, 0, tree])
            print(row(f"{workers} {kind}, {tree}", [[each - none for each in processors], seconds, memory]), "|")


if __name__ == "__main__":
    main()
