"""The spaces against what was published about them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nastool.core import encodings
from nastool.core.errors import InvalidArchError
from nastool.core.space import SearchSpace
from nastool.core.values import Arch
from nastool.nets import networks
from nastool.nets.costs import count_flops
from nastool.nets.definitions.edges_form import OPS
from nastool.spaces.nasbench201 import NasBench201
from nastool.spaces.nasbench_macro import NasBenchMacro
from nastool.tasks.images.task import ImageTask

PUBLISHED: dict[str, Any] = json.loads((Path(__file__).parents[2] / "reference" / "published.json").read_text())
CIFAR10 = ImageTask(3, 32, 32, 10)


def params_and_macs(space: SearchSpace, arch: Arch) -> tuple[int, int]:
    """Of the published network; multiply-adds of convolutions and linear layers, as both tables count."""
    with torch.device("meta"):
        network = networks.build(space, arch, CIFAR10, space.Scale())
    flops = count_flops(network, CIFAR10)
    assert flops % 2 == 0
    return networks.count_params(network), flops // 2


class TestNasBench201:
    space = NasBench201()
    facts = PUBLISHED["nasbench201"]

    def test_path_encoding(self) -> None:
        """155 = 5 + 25 + 125 bits, short paths first: the first 30 are those of one or two operations."""
        text = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|avg_pool_3x3~0|nor_conv_1x1~1|none~2|"
        path = encodings.encode(self.space, self.space.from_string(text), "path")
        assert path.shape == (155,)
        words = [(4,), (3, 2), (0, 0), (3, 1, 0)]  # options along 0-3, 0-1-3, 0-2-3, 0-1-2-3
        starts = {1: 0, 2: 5, 3: 30}
        expected = [starts[len(word)] + int("".join(map(str, word)), 5) for word in words]
        assert sorted(np.flatnonzero(path)) == sorted(expected)
        simplified = encodings.encode(self.space, self.space.from_string(text), "simplified_path")
        assert np.flatnonzero(simplified).tolist() == [1 + 2, 4 + 3]  # pool; conv3x3 conv1x1: the others hold a none
        assert simplified.sum() == 2

    def test_simplified_paths_of_equal_functions_are_equal(self) -> None:
        choices = np.array([arch.choices for arch in self.space.members()])
        paths = encodings.encode_many(self.space, choices, "simplified_path")
        first: dict[str, int] = {}
        for i, form in enumerate(self.space.canonical_many(choices)):
            assert (paths[i] == paths[first.setdefault(form, i)]).all()

    def test_size_and_simplification(self) -> None:
        archs = list(self.space.members())
        assert len(archs) == self.space.size == self.facts["members"]
        assert len({self.space.canonical(arch) for arch in archs}) == self.facts["different_after_simplification"]

    def test_simplification_never_merges_different_functions(self) -> None:
        """Members with one canonical form compute the same on random weights that a choice of operation fixes."""
        rng = np.random.default_rng(0)
        mixing = rng.normal(size=(5, 6, 6))
        start = rng.normal(size=6)

        def output(arch: Arch) -> bytes:
            nodes = [start]
            edges = iter(arch.choices)
            for target in range(1, 4):
                total = np.zeros(6)
                for source in range(target):
                    op = next(edges)
                    x = nodes[source]
                    # tanh keeps zero at zero, as the operations do; identity for skip_connect
                    total = total + (np.zeros(6) if op == 0 else x if op == 1 else np.tanh(mixing[op] @ x))
                nodes.append(total)
            return np.round(nodes[-1], 9).tobytes() if np.abs(nodes[-1]).max() > 1e-12 else b""

        by_form: dict[str, set[bytes]] = {}
        for arch in self.space.members():
            by_form.setdefault(self.space.canonical(arch), set()).add(output(arch))
        assert all(len(outputs) == 1 for outputs in by_form.values())

    @pytest.mark.parametrize("name", ["all_skip", "best_cifar10"])
    def test_published_networks(self, name: str) -> None:
        fact = self.facts[name]
        params, macs = params_and_macs(self.space, self.space.from_string(fact["string"]))
        assert params == fact["params"]
        assert macs == fact.get("multiply_adds_32", macs)

    def test_sample_of_the_table(self, benchmark_data: Path) -> None:
        """Parameters and multiply-adds of 25 rows; benchmarks/networks.py does all."""
        with np.load(benchmark_data / "nasbench201.npz") as table:
            for row in np.random.default_rng(1).integers(15625, size=25):
                found = params_and_macs(self.space, self.space.arch(table["arch"][row]))
                assert found == (table["params10_formula"][row], table["macs32"][row])

    def test_string_form(self) -> None:
        text = self.facts["best_cifar10"]["string"]
        assert self.space.to_string(self.space.from_string(text)) == text
        with pytest.raises(InvalidArchError, match=r"3<-2.*no operation 'conv'"):
            self.space.from_string("|none~0|+|none~0|none~1|+|none~0|none~1|conv~2|")
        with pytest.raises(InvalidArchError, match="not of the form"):
            self.space.from_string("|none~0|+|none~0|none~1|")

    def test_none_cuts_and_skip_passes(self) -> None:
        """A cell of skips alone adds up the paths: 4 from input to output."""
        from nastool.nets.blocks import Dag, Zero

        edges = {(j, i): torch.nn.Identity() for i in range(1, 4) for j in range(i)}
        x = torch.rand(1, 2, 3, 3)
        torch.testing.assert_close(Dag(edges)(x), 4 * x)
        assert (Dag({edge: Zero() for edge in edges})(x) == 0).all()
        assert OPS[0] == "none"


class TestNasBenchMacro:
    space = NasBenchMacro()
    facts = PUBLISHED["nasbench_macro"]

    def test_size(self) -> None:
        assert self.space.size == self.facts["members"]

    def test_published_network(self) -> None:
        fact = self.facts["02012100"]
        assert params_and_macs(self.space, self.space.from_string("02012100")) == (
            fact["params"],
            fact["multiply_adds"],
        )

    def test_sample_of_the_table(self, benchmark_data: Path) -> None:
        table = json.loads((benchmark_data / "nasbench_macro_cifar10.json").read_text())
        keys = sorted(table)
        for i in np.random.default_rng(2).integers(len(keys), size=25):
            row = table[keys[i]]
            assert params_and_macs(self.space, self.space.from_string(keys[i])) == (
                row["params"],
                row["flops"],
            )

    def test_canonical_merges_what_the_table_holds_equal(self, benchmark_data: Path) -> None:
        """The benchmark trained one of each class: equal forms have equal accuracies, seed by seed."""
        table = json.loads((benchmark_data / "nasbench_macro_cifar10.json").read_text())
        by_form: dict[str, set[tuple[float, ...]]] = {}
        for key, row in table.items():
            by_form.setdefault(self.space.canonical(self.space.from_string(key)), set()).add(tuple(row["test_acc"]))
        assert len(by_form) == 3**2 * (3 * 7) ** 2
        assert all(len(rows) == 1 for rows in by_form.values())

    def test_depth_scale_repeats_blocks(self) -> None:
        arch = self.space.from_string("22222222")
        with torch.device("meta"):
            shallow = networks.build(self.space, arch, CIFAR10, self.space.Scale())
            deep = networks.build(self.space, arch, CIFAR10, self.space.Scale(cells=2))
        assert networks.count_params(deep) > 1.5 * networks.count_params(shallow)
