"""A made-up space for texts, and a made-up task, a regression, with a space for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from nastool.core.recipe import Recipe
from nastool.core.space import Choose, SearchSpace
from nastool.core.task import Batch, Network, Step, Task
from nastool.core.values import Decision
from nastool.tasks.language.task import LanguageTask
from nastool.tasks.tensors import TensorData


class Cells(SearchSpace):
    """Recurrent networks of one layer: which cell?"""

    name = "toy-cells"
    tasks = frozenset({LanguageTask.name})
    provides = frozenset({"network", "supernet"})

    @dataclass(frozen=True)
    class Scale:
        """Size.

        Args:
            units: Width of the hidden state.
        """

        units: int = 12

    def __init__(self) -> None:
        super().__init__([Decision("cell", ("gru", "tanh", "relu"))])

    def network(self, choose: Choose, task: LanguageTask, scale: Scale) -> nn.Module:
        return Recurrent(choose, task, scale.units)


class Recurrent(nn.Module):
    def __init__(self, choose: Choose, task: LanguageTask, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(task.vocabulary, hidden)
        options = {
            "gru": lambda: nn.GRU(hidden, hidden, batch_first=True),
            "tanh": lambda: nn.RNN(hidden, hidden, batch_first=True),
            "relu": lambda: nn.RNN(hidden, hidden, batch_first=True, nonlinearity="relu"),
        }
        self.cell = choose.layer("cell", options)
        self.out = nn.Linear(hidden, task.vocabulary)

    def forward(self, tokens: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        found, last = self.cell(self.embedding(tokens), None if state is None else state.transpose(0, 1).contiguous())
        return self.out(found), last.transpose(0, 1)


@dataclass(frozen=True)
class Curves(Task):
    """Regression of made-up curves: networks that say how high a curve is.

    Args:
        numbers: Number of numbers that a network reads.
    """

    numbers: int

    name = "toy-curves"
    datasets: ClassVar[Mapping[str, str]] = {"toy-curves": "made up"}
    data_options = frozenset({"train_size"})

    @classmethod
    def load(cls, data: str, **options: Any) -> CurveData:
        return CurveData(data, cls(3), options.get("train_size", 120))

    def example(self, n: int, device: torch.device | str = "cpu") -> tuple[Tensor, ...]:
        return (torch.zeros(n, self.numbers, device=device),)

    def step(self, network: Network, batch: Batch, carry: object, recipe: Recipe) -> Step:
        x, y = batch
        return Step(mse_loss(network(x).float(), y))

    def measure(self, network: Network, batches: Iterable[Batch]) -> dict[str, float]:
        errors = torch.cat([(network(x).float() - y).square() for x, y in batches])
        return {"loss": errors.mean().item()}


class CurveData(TensorData):
    def __init__(self, name: str, task: Curves, train_size: int) -> None:
        x = np.random.default_rng(0).uniform(-1, 1, (200, task.numbers)).astype(np.float32)
        y = x[:, 0] * x[:, 1] + x[:, 2]
        super().__init__(name, task, [x[:train_size], y[:train_size]], [x[120:], y[120:]])


class Layers(SearchSpace):
    """Fully connected networks: how wide, and with which activation?"""

    name = "toy-layers"
    tasks = frozenset({Curves.name})

    @dataclass(frozen=True)
    class Scale:
        """Size.

        Args:
            times: Factor of the widths.
        """

        times: int = 8

    def __init__(self) -> None:
        super().__init__([Decision("width", ("1", "2")), Decision("activation", ("tanh", "relu"))])

    def network(self, choose: Choose, task: Curves, scale: Scale) -> nn.Module:
        width = int(choose.option("width")) * scale.times
        first = nn.Linear(task.numbers, width)
        activation = choose.layer("activation", {"tanh": nn.Tanh, "relu": nn.ReLU})
        return nn.Sequential(first, activation, nn.Linear(width, 1), nn.Flatten(0))


POINTS: Mapping[str, str] = {
    "nastool.tasks": "toy-curves = tests.helpers.toys:Curves",
    "nastool.spaces": "toy-cells = tests.helpers.toys:Cells\ntoy-layers = tests.helpers.toys:Layers",
}
"""Entry points of these, by group."""
