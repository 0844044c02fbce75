"""A Ray cluster of a head and some nodes with one CPU each on this machine, in a process of its own.

It says the address in a line, then has a node fail for each line that it reads, and another come in its place, which it
says, too. It ends with its stdin.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

IS_THERE = find_spec("ray") is not None
ROOT = Path(__file__).parents[2]


class Nodes:
    """The cluster, from outside."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdin is not None and process.stdout is not None
        self._asked, self._said = process.stdin, process.stdout
        self.address = self._said.readline().strip()

    def fail(self) -> None:
        """Have a node fail, without a word to anybody, and another come."""
        self._asked.write("\n")
        self._asked.flush()
        assert self._said.readline() == "done\n"


@contextmanager
def ray_nodes(monkeypatch: pytest.MonkeyPatch, count: int = 2) -> Iterator[Nodes]:
    """A cluster whose address is in the environment."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    command = [sys.executable, "-m", "tests.helpers.ray_nodes", str(count)]
    with subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        nodes = Nodes(process)
        monkeypatch.setenv("RAY_ADDRESS", nodes.address)
        yield nodes
        process.communicate(timeout=60)


def main(count: int) -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    make = import_module("ray.cluster_utils").Cluster
    cluster = make(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(count)]
    print(cluster.address, flush=True)
    for _ in sys.stdin:
        cluster.remove_node(nodes.pop(0), allow_graceful=False)
        nodes.append(cluster.add_node(num_cpus=1))
        print("done", flush=True)
    cluster.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
