"""Made-up tasks that are no images, and spaces for them: a text whose state is carried on, and a regression."""

from __future__ import annotations

import string
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from nastool.core.recipe import Recipe
from nastool.core.space import Choose, SearchSpace
from nastool.core.task import Batch, Batches, Network, Part, Step, Task
from nastool.core.values import Decision, Goal, Scalar
from nastool.tasks.tensors import TensorData


@dataclass(frozen=True)
class Texts(Task):
    """Language modelling of a made-up text: networks that say which letter comes next.

    A batch is letters (N, length) int64 and those after them; a network's output is logits (N, length, letters) and
    its hidden state, with which it is called for the next batch.

    Args:
        letters: Number of different letters.
        length: Number of letters of each line of a batch.
    """

    letters: int
    length: int

    name = "toy-texts"
    metrics: ClassVar[Mapping[str, Goal]] = {"loss": "min", "ppl": "min"}
    objective = "ppl"
    datasets: ClassVar[Mapping[str, str]] = {"toy-text": "made up", "toy-text:LENGTH": "in pieces of another length"}

    @classmethod
    def load(cls, data: str, **options: Any) -> TextData:
        return TextData(data, cls(len(string.ascii_lowercase[:6]), int(data.partition(":")[2] or 5)))

    def example(self, n: int, device: torch.device | str = "cpu") -> tuple[Tensor, ...]:
        return (torch.zeros(n, self.length, dtype=torch.long, device=device),)

    def step(self, network: Network, batch: Batch, carry: Any, recipe: Recipe) -> Step:
        letters, after = batch
        logits, state = network(letters, carry)
        loss = cross_entropy(logits.flatten(0, 1).float(), after.flatten(), label_smoothing=recipe.label_smoothing)
        return Step(loss, state.detach(), extra=0.001 * logits.float().square().mean())

    def measure(self, network: Network, batches: Iterable[Batch]) -> dict[str, float]:
        total, count, state = 0.0, 0, None
        for letters, after in batches:
            logits, state = network(letters, state)
            total += cross_entropy(logits.flatten(0, 1).float(), after.flatten(), reduction="sum").item()
            count += after.numel()
        return {"loss": total / count, "ppl": float(np.exp(total / count))}

    def rewards(self, outputs: Sequence[Any], batch: Batch) -> Tensor:
        after = batch[-1].flatten()
        return torch.stack([-cross_entropy(logits.flatten(0, 1).float(), after) for logits, _ in outputs]).double()


class TextData:
    """Letters of which each is its predecessor's, or the one's before, successor in a fixed random order."""

    def __init__(self, name: str, task: Texts) -> None:
        self.name = name
        self.task = task
        self.fingerprint = "70707070"
        rng = np.random.default_rng(0)
        after = rng.permutation(task.letters)
        text = [0, 1]
        for other in rng.random(1500) < 0.1:
            text.append(int(after[text[-1] if not other else text[-2]]))
        self.parts = {"train": text[:1000], "val": text[1000:1250], "test": text[1250:]}
        self.nbytes = 8 * len(text)

    def describe(self) -> Mapping[str, Scalar]:
        return {"letters": self.task.letters, "fingerprint": self.fingerprint}

    def metadata(self) -> Mapping[str, Any]:
        return {"alphabet": string.ascii_lowercase[: self.task.letters]}

    def batches(self, part: Part, device: torch.device) -> Batches:
        return TextBatches(torch.tensor(self.parts[part], device=device), self.task.length)


class TextBatches:
    """A text as so many lines beside each other, piece by piece."""

    def __init__(self, text: Tensor, length: int) -> None:
        self.text = text
        self.length = length

    def __len__(self) -> int:
        return len(self.text) - 1

    def _pieces(self, lines: int) -> Iterator[Batch]:
        size = len(self) // lines
        letters, after = (self.text[i : i + lines * size].view(lines, size) for i in (0, 1))
        for start in range(0, size, self.length):
            yield letters[:, start : start + self.length], after[:, start : start + self.length]

    def steps(self, recipe: Recipe) -> int:
        return -(-(len(self) // recipe.batch_size) // self.length)

    def train(self, recipe: Recipe, generator: torch.Generator) -> Iterator[Batch]:
        return self._pieces(recipe.batch_size)

    def in_order(self, batch_size: int | None = None, parts: int = 1) -> Iterator[Batch]:
        return self._pieces(1)

    def mixed(self, batch_size: int) -> Iterator[Batch]:
        return self._pieces(1)

    def minibatches(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        while True:
            yield from self._pieces(batch_size)

    def some(self, n: int, generator: torch.Generator) -> Batch:
        return next(self._pieces(n))


class Cells(SearchSpace):
    """Recurrent networks of one layer: which cell?"""

    name = "toy-cells"
    tasks = frozenset({Texts.name})
    provides = frozenset({"network", "supernet"})

    @dataclass(frozen=True)
    class Scale:
        """Size.

        Args:
            hidden: Width of the hidden state.
        """

        hidden: int = 12

    def __init__(self) -> None:
        super().__init__([Decision("cell", ("gru", "tanh", "relu"))])

    def network(self, choose: Choose, task: Texts, scale: Scale) -> nn.Module:
        return Recurrent(choose, task, scale.hidden)


class Recurrent(nn.Module):
    def __init__(self, choose: Choose, task: Texts, hidden: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(task.letters, hidden)
        options = {
            "gru": lambda: nn.GRU(hidden, hidden, batch_first=True),
            "tanh": lambda: nn.RNN(hidden, hidden, batch_first=True),
            "relu": lambda: nn.RNN(hidden, hidden, batch_first=True, nonlinearity="relu"),
        }
        self.cell = choose.layer("cell", options)
        self.out = nn.Linear(hidden, task.letters)

    def forward(self, letters: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
        found, state = self.cell(self.embedding(letters), state)
        return self.out(found), state


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
    "nastool.tasks": "toy-texts = tests.helpers.toys:Texts\ntoy-curves = tests.helpers.toys:Curves",
    "nastool.spaces": "toy-cells = tests.helpers.toys:Cells\ntoy-layers = tests.helpers.toys:Layers",
}
"""Entry points of these, by group."""
