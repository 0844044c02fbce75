"""Are the networks the published ones? Parameters and multiply-adds of every architecture against the tables.

usage: networks.py [--data DIR] [--every N] [--processes N]

Each network is built on the meta device at the published scale for 3x32x32 images and 10 classes. Parameters are
counted there; then it is given memory and one image passes through it while torch counts floating-point operations.
Both tables count the multiply-adds of convolutions and linear layers: half of our FLOPs. NAS-Bench-101 has
parameters only, known here for two cells. DIR (NASTOOL_TEST_DATA) holds nasbench201.npz and
nasbench_macro_cifar10.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import torch

from nastool.core import registry
from nastool.nets import networks
from nastool.nets.costs import count_flops
from nastool.tasks.images.task import ImageTask

TASK = ImageTask(3, 32, 32, 10)
Row = tuple[str, tuple[int, ...], int, int | None]
"""space, choices, published parameters, published multiply-adds where known"""

NASBENCH101 = {"10100110001001100100102001": 8_555_530, "11010010000000101110101200": 2_694_282}
"""Choices of the data set's first row in hash order and of its README's Inception-like cell: trainable parameters."""


def check(row: Row) -> bool:
    """Whether our network has the published numbers; prints it if not."""
    torch.set_num_threads(1)
    name, choices, params, macs = row
    space = registry.make("space", name, given={})
    with torch.device("meta"):
        network = networks.build(space, space.arch(choices), TASK, space.Scale())
    ours = networks.count_params(network), count_flops(network.to_empty(device="cpu"), TASK) / 2
    right = ours == (params, ours[1] if macs is None else macs)
    if not right:
        print(f"{name} {choices}: {ours[0]} parameters, {ours[1]} multiply-adds; published {params}, {macs}")
    return right


def rows(data: Path) -> list[Row]:
    with np.load(data / "nasbench201.npz") as t:
        columns = zip(t["arch"].tolist(), t["params10_formula"].tolist(), t["macs32"].tolist(), strict=True)
        found: list[Row] = [("nasbench201", tuple(arch), params, macs) for arch, params, macs in columns]
    table = json.loads((data / "nasbench_macro_cifar10.json").read_text())
    found += [("nasbench-macro", tuple(map(int, k)), row["params"], row["flops"]) for k, row in table.items()]
    return found + [("nasbench101", tuple(map(int, k)), params, None) for k, params in NASBENCH101.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("NASTOOL_TEST_DATA"), required=False)
    parser.add_argument("--every", type=int, default=1, help="check every N-th row only")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    args = parser.parse_args()
    if args.data is None:
        parser.error("give --data DIR or set NASTOOL_TEST_DATA")
    todo = [row for i, row in enumerate(rows(Path(args.data))) if row[3] is None or i % args.every == 0]
    start = time.perf_counter()
    with multiprocessing.get_context("spawn").Pool(args.processes) as pool:
        right = pool.map(check, todo, chunksize=50)
    for name in sorted({row[0] for row in todo}):
        own = [ok for ok, row in zip(right, todo, strict=True) if row[0] == name]
        print(f"{name}: {sum(own):,} of {len(own):,} networks have the published numbers")
    print(f"{time.perf_counter() - start:.0f} s on {args.processes} processes, torch {torch.__version__}")
    raise SystemExit(0 if all(right) else 1)


if __name__ == "__main__":
    main()
