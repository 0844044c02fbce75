"""How long commands take that should answer at once. Median wall time of whole processes.

usage: startup.py [--runs 11] [--trials 100000]

Measures `nastool --help`, `nastool sample -n 1000`, and `status` and `top` on a run of that many trials, which a random
search on a made-up table writes first; beside `python -c pass` and `python -c "import torch"` of the same interpreter.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from nastool.core import registry

NASTOOL = str(Path(sys.executable).with_name("nastool"))


def median(command: list[str], runs: int) -> tuple[float, float, float]:
    """Seconds: median, least and most of so many runs, after one that does not count."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:]), min(times[1:]), max(times[1:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--trials", type=int, default=100_000)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        space = registry.make("space", "nasbench201", given={})
        archs = np.array([arch.choices for arch in space.members()], dtype=np.uint8)
        np.savez(folder / "t.npz", arch=archs, val200=np.random.default_rng(0).uniform(50, 90, len(archs)))
        search = [NASTOOL, "search", "-s", "random", "-S", "dedup=false", "--evaluator", "table"]
        search += ["-E", f"file={folder / 't.npz'}", "-n", str(args.trials), "--out", str(folder / "run")]
        subprocess.run(search, check=True, capture_output=True)
        commands = {
            "python -c pass": [sys.executable, "-c", "pass"],
            "nastool --help": [NASTOOL, "--help"],
            "nastool sample -n 1000": [NASTOOL, "sample", "-n", "1000"],
            f"nastool status RUN ({args.trials:,} trials)": [NASTOOL, "status", str(folder / "run")],
            f"nastool top RUN -k 5 ({args.trials:,} trials)": [NASTOOL, "top", str(folder / "run"), "-k", "5"],
            "python -c 'import torch'": [sys.executable, "-c", "import torch"],
        }
        for label, command in commands.items():
            middle, least, most = median(command, args.runs)
            print(f"{label:<42} median {middle:.3f} s  ({least:.3f} to {most:.3f}, {args.runs} runs)")


if __name__ == "__main__":
    main()
