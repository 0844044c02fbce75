"""What a network costs before it is trained: counted, and measured."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nastool.core.space import Choose, SearchSpace
from nastool.core.values import Decision
from nastool.nets.costs import NetworkCosts
from nastool.spaces.nasbench201 import NasBench201
from nastool.tasks.images.task import ImageTask

TASK = ImageTask(1, 10, 10, 3)


class Toy(SearchSpace):
    """A flattened image of 100 numbers and one network, which a test gives."""

    name = "toy"
    Scale = NasBench201.Scale

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__([Decision("only", ("a", "b"))])
        self.layers = layers

    def network(self, choose: Choose, task: Any, scale: Any) -> nn.Module:
        return nn.Sequential(nn.Flatten(), *self.layers)


def costs(*layers: nn.Module, names: tuple[str, ...] = ("params", "flops", "memory_mb")) -> dict[str, float]:
    space = Toy(*layers)
    return NetworkCosts(space, TASK, None).of(space.arch([0]), names)


class TestMemory:
    def test_of_a_chain_is_what_two_layers_hold(self) -> None:
        """The weights, 100 + 1 for each of 50 outputs, and the buffers; the input, and the largest pair in a row."""
        with torch.device("meta"):
            first, norm, last = nn.Linear(100, 50), nn.BatchNorm1d(50), nn.Linear(50, 3)
        weights = 4 * (101 * 50 + 4 * 50 + 51 * 3) + 8  # and how many batches the normalisation has seen
        alive = 4 * (100 + 50 + 50)
        assert costs(first, norm, last) == {
            "params": 101 * 50 + 2 * 50 + 51 * 3,
            "flops": 2 * (100 * 50 + 50 * 3),
            "memory_mb": pytest.approx((weights + alive) / 1e6, rel=0.02),  # a normalisation has some statistics
        }

    def test_of_what_is_kept_for_later_counts(self) -> None:
        class Kept(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                wide = x.repeat(1, 10)
                return x + wide.view(-1, 10, 100).sum(1)  # a view holds nothing of its own

        def alive(layer: nn.Module) -> float:
            return costs(layer)["memory_mb"] * 1e6

        assert alive(nn.ReLU(inplace=True)) == 4 * 100
        assert alive(nn.ReLU()) == 4 * 200
        assert alive(Kept()) == 4 * (100 + 1000 + 100 + 100)


def test_a_network_that_looks_at_values_is_run_on_the_cpu() -> None:
    class Looks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x if x.sum().item() > 1e9 else 2 * x

    assert costs(Looks(), nn.Linear(100, 2)) == {
        "params": 202,
        "flops": 400,
        "memory_mb": pytest.approx(808e-6 + 808e-6),
    }


class Lying(NasBench201):
    """Its supernet shares what its networks do not."""

    def network(self, choose: Choose, task: ImageTask, scale: Any) -> nn.Module:
        network = super().network(choose, task, scale)
        if hasattr(choose, "chosen"):
            return nn.Sequential(network, nn.Linear(task.classes, task.classes))
        return network


def test_a_supernet_that_gives_something_else_is_not_believed() -> None:
    space, archs = Lying(), list(NasBench201().members())[5000:5006]
    found = NetworkCosts(space, TASK, space.Scale(channels=4, cells=1))
    honest = NetworkCosts(NasBench201(), TASK, space.Scale(channels=4, cells=1))
    assert [found.of(arch, ("params",)) for arch in archs] == [honest.of(arch, ("params",)) for arch in archs]
    assert found._supernet is None and honest._supernet is not None


class TestLatency:
    @pytest.fixture(autouse=True)
    def _threads(self) -> Iterator[None]:
        before = torch.get_num_threads()
        torch.set_num_threads(2)
        yield
        torch.set_num_threads(before)

    def test_is_a_median_with_its_spread_on_so_many_threads(self) -> None:
        seen: list[tuple[int, bool]] = []

        class Watching(nn.Module):
            def forward(self, x: Tensor) -> Tensor:
                seen.append((torch.get_num_threads(), self.training))
                return x

        state = torch.get_rng_state()
        found = costs(Watching(), names=("latency_ms",))
        assert found.keys() == {"latency_ms", "latency_spread_ms"}
        assert found["latency_ms"] > 0 <= found["latency_spread_ms"]
        assert set(seen) == {(1, False)} and len(seen) >= 12
        assert torch.get_num_threads() == 2 and torch.equal(torch.get_rng_state(), state)

    def test_is_longer_for_more_work(self) -> None:
        deep = [nn.Linear(100, 100) for _ in range(60)]
        assert (
            costs(*deep, names=("latency_ms",))["latency_ms"] > 3 * costs(deep[0], names=("latency_ms",))["latency_ms"]
        )
