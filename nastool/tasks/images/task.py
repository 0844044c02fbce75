"""Image classification: networks that say which class an image is of."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from nastool.core.recipe import Recipe
from nastool.core.task import Batch, Batches, Network, Step, Task
from nastool.core.values import Goal

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from nastool.tasks.images.data import ImageData


@dataclass(frozen=True)
class ImageTask(Task):
    """Image classification: networks that say which class an image is of.

    A batch is images (N, channels, height, width) float32 and labels (N,) int64, 0 .. classes - 1; a network's output
    is logits (N, classes), in training with auxiliary classifiers a tuple, theirs last.

    Args:
        channels: Number of channels of an image.
        height: Height in pixels.
        width: Width in pixels.
        classes: Number of classes, at least 2.
    """

    channels: int
    height: int
    width: int
    classes: int

    name = "images"
    metrics: ClassVar[Mapping[str, Goal]] = {"acc": "max", "loss": "min"}
    objective = "acc"
    noun = "image"
    channels_last = True
    data_options = frozenset(
        {"data_dir", "download", "split_seed", "val_fraction", "train_size", "image_size", "max_gigabytes", "all_data"}
    )
    datasets: ClassVar[Mapping[str, str]] = {
        "digits": "1,797 handwritten digits, 1x8x8, 10 classes; built in (scikit-learn)",
        "cifar10": "60,000 photographs, 3x32x32, 10 classes (torchvision)",
        "cifar100": "60,000 photographs, 3x32x32, 100 classes (torchvision)",
        "mnist": "70,000 handwritten digits, 1x28x28, 10 classes (torchvision)",
        "fashion-mnist": "70,000 pieces of clothing, 1x28x28, 10 classes (torchvision)",
        "svhn": "99,289 house numbers, 3x32x32, 10 classes (torchvision)",
        "npz:FILE": "arrays x_train, y_train and optionally x_val, y_val, x_test, y_test, classes",
        "folder:DIR": "one folder of images a class: DIR/CLASS/*.png or DIR/{train,val,test}/CLASS/*.png",
    }

    def __post_init__(self) -> None:
        sizes = (self.channels, self.height, self.width)
        if min(sizes) < 1 or max(sizes) > 65_536 or not 2 <= self.classes <= 1_000_000:
            raise ValueError(
                "an image task needs channels, height, width from 1 to 65,536 and classes from 2 to 1,000,000, got "
                f"{self.channels}x{self.height}x{self.width}, {self.classes} classes"
            )

    def __str__(self) -> str:
        return f"images of {self.channels}x{self.height}x{self.width}, {self.classes:,} classes"

    @classmethod
    def recipe_for(cls, data: str) -> str:
        return {"digits": "digits", "cifar10": "cifar10-quick", "cifar100": "cifar10-quick"}.get(data, "default")

    @classmethod
    def check(cls, data: str, **options: Any) -> None:
        from nastool.tasks.images.data import check_options

        check_options(data, **options)

    @classmethod
    def load(cls, data: str, **options: Any) -> ImageData:
        from nastool.tasks.images.data import load

        return load(data, **options)

    def example(self, n: int, device: torch.device | str = "cpu") -> tuple[Tensor, ...]:
        import torch

        return (torch.zeros(n, self.channels, self.height, self.width, device=device),)

    def step(self, network: Network, batch: Batch, carry: object, recipe: Recipe) -> Step:
        """Mean cross-entropy in nats, smoothed as the recipe says; auxiliary classifiers' count for less."""
        from torch.nn.functional import cross_entropy

        x, y = batch
        output = network(x)
        logits, *auxiliary = output if isinstance(output, tuple) else (output,)
        loss = cross_entropy(logits.float(), y, label_smoothing=recipe.label_smoothing)
        extra = None
        for other in auxiliary:
            more = recipe.auxiliary_weight * cross_entropy(other.float(), y, label_smoothing=recipe.label_smoothing)
            extra = more if extra is None else extra + more
        return Step(loss, extra=extra)

    def measure(self, network: Network, batches: Iterable[Batch]) -> dict[str, float]:
        """Accuracy in [0, 1] and mean cross-entropy in nats, without label smoothing."""
        import torch
        from torch.nn.functional import cross_entropy

        correct: Any = 0
        loss: Any = 0
        count = 0
        for x, y in batches:
            logits = network(x).float()
            correct = correct + (logits.argmax(1) == y).sum()
            loss = loss + cross_entropy(logits, y, reduction="sum").to(torch.float64)
            count += len(y)
        return {"acc": correct.item() / count, "loss": loss.item() / count}

    def rewards(self, outputs: Sequence[Any], batch: Batch) -> Tensor:
        """The accuracy of each, in [0, 1]."""
        import torch

        y = batch[-1]
        right = torch.stack(tuple(outputs)).argmax(2) == y
        return right.sum(1).double() / len(y)

    def predict(self, network: Network, batches: Iterable[Batch]) -> Tensor:
        """The probability of each class, (n, classes) float32, on the CPU."""
        import torch

        return torch.cat([network(x).float().softmax(1).cpu() for x, _ in batches])

    def measure_mean(self, predictions: Sequence[Tensor], batches: Batches) -> dict[str, float]:
        import torch

        labels = torch.cat([y for _, y in batches.in_order()]).cpu()
        mean = torch.stack([each.double() for each in predictions]).mean(0)
        of_label = mean.gather(1, labels[:, None]).clamp_min(torch.finfo(torch.float32).tiny)
        return {"acc": (mean.argmax(1) == labels).double().mean().item(), "loss": -of_label.log().mean().item()}
