"""How long commands take that should answer at once, and what they hold. Whole processes, several versions in turn.

usage: startup.py [--runs 11] [--trials 100000] [--nastool PROGRAM ...]

Measures `nastool --help`, `nastool sample -n 1000`, `status` and `top` on a run of that many trials, which a random
search on a made-up table writes first, an `eval` of a tiny network and a search of two; beside `python -c pass`, an
import of torch and one with an optimiser, of the same interpreter. Memory is the most that the command's own process
held, without its workers. With programs of several versions, all are measured one after the other in each run.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from nastool.core import registry

NASTOOL = str(Path(sys.executable).with_name("nastool"))
TINY = "--data digits --epochs 1 --scale channels=4,cells=1 --device cpu"


def measure(command: list[str]) -> tuple[float, float, float]:
    """Seconds that a command takes, those of processors, and the most megabytes that its own process holds (Linux)."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    start, before, held = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN), 0
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment) as process:
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            lines = status.read_text().splitlines() if status.exists() else []
            held = max([held, *(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))])
            time.sleep(0.002)
    assert process.returncode == 0, command
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, processor, held / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=11)
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--nastool", nargs="+", default=[NASTOOL])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        os.chdir(name)
        space = registry.make("space", "nasbench201", given={})
        archs = np.array([arch.choices for arch in space.members()], dtype=np.uint8)
        np.savez("t.npz", arch=archs, val200=np.random.default_rng(0).uniform(50, 90, len(archs)))
        table = f"search -s random -S dedup=false --evaluator table -E file=t.npz -n {args.trials}"
        for i, program in enumerate(args.nastool):
            subprocess.run([program, *table.split(), "--out", f"run{i}"], check=True, capture_output=True)
        with open("a.json", "w") as file:
            subprocess.run([args.nastool[0], "sample", "-n", "1"], check=True, stdout=file)
        commands = {"python -c pass": [sys.executable, "-c", "pass"]}
        optimizer = "import torch; torch.optim.SGD([torch.zeros(1)], lr=1)"
        commands |= {f"python -c '{code}'": [sys.executable, "-c", code] for code in ("import torch", optimizer)}
        lines = ["--help", "sample -n 1000", "status run{i}", "top run{i} -k 5", f"eval a.json {TINY}"]
        for line in (*lines, f"search -s random -n 2 {TINY} --force --out s{{i}}"):
            for i, program in enumerate(args.nastool):
                commands[f"{program} {line.format(i=i)}"] = [program, *line.format(i=i).split()]
        found: dict[str, list[tuple[float, float, float]]] = {label: [] for label in commands}
        for _ in range(args.runs + 1):
            for label, command in commands.items():
                found[label].append(measure(command))
    for label, (_, *values) in found.items():  # the first does not count
        seconds, processor, held = zip(*values, strict=True)
        spread = f"({min(seconds):.3f} to {max(seconds):.3f}, {args.runs} runs)"
        middle = [statistics.median(each) for each in (seconds, processor, held)]
        print("{:7.3f} s {}  {:6.2f} s of processors  {:4.0f} MB  {}".format(middle[0], spread, *middle[1:], label))


if __name__ == "__main__":
    main()
