"""A task and its data: which class a series of numbers in several channels is of."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch.nn.functional import cross_entropy

from nastool.core.files import read_npz
from nastool.core.task import Step, Task
from nastool.tasks.tensors import TensorData


@dataclass(frozen=True)
class Series(Task):
    """Classification of series: networks map (N, channels, length) float32 to logits (N, classes).

    Args:
        channels: Number of channels.
        length: Number of values in a channel.
        classes: Number of classes.
    """

    channels: int
    length: int
    classes: int

    name = "series"
    metrics: ClassVar = {"acc": "max", "loss": "min"}
    objective = "acc"
    datasets: ClassVar = {"waves": "600 noisy sines, 3 classes", "series:FILE": "x_train, y_train, x_val, y_val"}

    @classmethod
    def load(cls, data: str, **options: object) -> TensorData:
        arrays = waves() if data == "waves" else read_npz(data.removeprefix("series:"))
        train, val = ([arrays[f"x_{part}"], arrays[f"y_{part}"]] for part in ("train", "val"))
        return TensorData(data, cls(*train[0].shape[1:], int(train[1].max()) + 1), train, val)

    def example(self, n: int, device: torch.device | str = "cpu"):
        return (torch.zeros(n, self.channels, self.length, device=device),)

    def step(self, network, batch, carry, recipe) -> Step:
        x, y = batch
        return Step(cross_entropy(network(x).float(), y, label_smoothing=recipe.label_smoothing))

    def measure(self, network, batches) -> dict[str, float]:
        logits, y = (torch.cat(each) for each in zip(*((network(x).float(), y) for x, y in batches), strict=True))
        return {"acc": (logits.argmax(1) == y).double().mean().item(), "loss": cross_entropy(logits, y).item()}

    def rewards(self, outputs, batch):
        return torch.stack([(logits.argmax(1) == batch[-1]).double().mean() for logits in outputs])


def waves() -> dict[str, np.ndarray]:
    rng, y = np.random.default_rng(0), np.arange(600) % 3
    phase = np.linspace(0, 2 * np.pi, 64) * (y[:, None] + 1) + rng.uniform(0, 6, (600, 1))
    x = (np.sin(phase) + rng.normal(0, 0.5, phase.shape))[:, None].astype(np.float32)
    return {"x_train": x[:400], "y_train": y[:400], "x_val": x[400:], "y_val": y[400:]}
