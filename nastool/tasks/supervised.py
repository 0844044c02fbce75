"""Tasks that say one thing of each example: which class it is of, or numbers. Imports neither torch nor numpy."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from nastool.core.errors import TrialFailed
from nastool.core.recipe import Recipe
from nastool.core.task import Batch, Batches, Network, Step, Task
from nastool.core.values import Goal, Scalar

if TYPE_CHECKING:
    from torch import Tensor

Predicts = Literal["classes", "numbers"] | None
"""What is said of an example; None: what the data look like."""
Balance = Literal["measure", "weigh"] | None
"""What is done about classes of different sizes: balanced accuracy, that and a weighted loss, or nothing."""
OPTIONS = frozenset({"split_seed", "val_fraction", "train_size", "max_gigabytes", "all_data", "predict", "balance"})
"""Options of data for all such tasks."""
MOST_SHOWN = 30
"""Number of classes that a confusion matrix has at most."""


@dataclass(frozen=True)
class Statistics:
    """Facts of the training data that losses and metrics need, and that are no part of what a network is for.

    Attributes:
        weights: How much each class counts in the training loss; (): all alike.
        balanced: Whether balanced accuracy is measured.
        mean: Mean of each target, which networks say less it, divided by `std`; (): 0.
        std: Standard deviation of each; (): 1.
    """

    weights: tuple[float, ...] = ()
    balanced: bool = False
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()


NONE = Statistics()


class Supervised(Task):
    """What all of them share. A subclass is a frozen dataclass with the fields below, the last two by default.

    A batch is what networks read and, last, labels (N,) int64 from 0 to classes - 1, or numbers (N, targets) float32 in
    standard deviations from their means. A network's output is (N, `outputs`): logits, or these numbers; in training
    with auxiliary classifiers a tuple, theirs last, and with several heads `nets.blocks.Heads`.

    Attributes:
        classes: Number of classes; 0 where numbers are said.
        targets: Number of numbers that are said of each example; 0 where it is a class.
        statistics: Facts of the training data; no part of the task's identity.
    """

    classes: int
    targets: int
    statistics: Statistics
    metrics: ClassVar[Mapping[str, Goal]] = {"acc": "max", "loss": "min"}
    objective = "acc"
    of_numbers: ClassVar[Mapping[str, Goal]] = {"rmse": "min", "mae": "min", "r2": "max", "loss": "min"}
    """The metrics where numbers are said."""
    kept = ("classes", "mean", "std", "targets", "target_mean", "target_std", "columns", "target")
    largest: ClassVar[float] = 1.0
    """Inputs are divided by it before they are normalised: 255 for pixels."""

    @property
    def outputs(self) -> int:
        """Width of a network's output."""
        return self.targets or self.classes

    @property
    def exact(self) -> bool:  # type: ignore[override]  # others say it of all
        """Numbers are wanted with more than 3 digits."""
        return self.targets > 0

    def _check_outputs(self) -> None:
        """Raises ValueError: neither classes nor targets, or both, or too many."""
        if self.targets if self.classes else not 1 <= self.targets <= 1_000_000:
            raise ValueError(f"need either classes or targets, got {self.classes} and {self.targets}")
        if self.classes and not 2 <= self.classes <= 1_000_000:
            raise ValueError(f"need classes from 2 to 1,000,000, got {self.classes}")

    @property
    def said(self) -> str:
        """What a network says, in words."""
        return f"{self.targets:,} target{'s' * (self.targets != 1)}" if self.targets else f"{self.classes:,} classes"

    def to_json(self) -> dict[str, Scalar]:
        """Its fields, as files have them: without the facts of the data, and targets only where there are some."""
        found = {each.name: getattr(self, each.name) for each in dataclasses.fields(self)}  # type: ignore[arg-type]
        del found["statistics"]
        return found if self.targets else {name: value for name, value in found.items() if name != "targets"}

    @classmethod
    def goals(cls, data: str, **options: Any) -> tuple[Mapping[str, Goal], str]:
        """Of numbers their errors, and the first is the objective; with balance, balanced accuracy is."""
        if cls.says(data, **options) == "numbers":
            return cls.of_numbers, "rmse"
        if options.get("balance") is not None:
            return {**cls.metrics, "balanced_acc": "max"}, "balanced_acc"
        return cls.metrics, cls.objective

    @classmethod
    def says(cls, data: str, **options: Any) -> Literal["classes", "numbers"]:
        """What networks for this data say; it may look at files for it."""
        return "numbers" if options.get("predict") == "numbers" else "classes"

    def check_kept(self, about: dict[str, Any]) -> None:
        for key in ("mean", "std", "target_mean", "target_std"):
            about[key] = tuple(map(float, about.get(key, ())))
        if len(about["mean"]) != len(about["std"]) or len(about.get("classes", ())) != self.classes:
            raise ValueError("names or statistics are not as many as classes or channels")
        if len(about["mean"]) != self.example(1, "meta")[0].shape[1]:
            raise ValueError("statistics are not as many as channels")
        if not len(about.get("targets", ())) == len(about["target_mean"]) == len(about["target_std"]) == self.targets:
            raise ValueError("names or statistics are not as many as targets")
        if min(*about["std"], *about["target_std"], 1.0) < 1e-20:
            raise ValueError("a standard deviation is 0")
        if not all(isinstance(each, str) for each in (*about.get("classes", ()), *about.get("targets", ()))):
            raise ValueError("a name is no text")

    # --- training

    def step(self, network: Network, batch: Batch, carry: object, recipe: Recipe) -> Step:
        """Mean cross-entropy in nats, smoothed as the recipe says, or mean squared error, in variances of the target.

        Auxiliary classifiers' count for less. Of a network with several heads half of what is minimised is the mean's
        loss, which is reported, and half the mean of the heads' losses; each head learns as fast as one alone would
        (`Heads.learn_alike`).
        """
        from nastool.nets.blocks import Heads

        *inputs, y = batch
        output = network(*inputs)
        if isinstance(output, Heads):
            output.learn_alike()
            loss = self._loss(output.mean, y, recipe)
            alone = [self._loss(each, y, recipe) for each in output.heads]
            return Step(loss, extra=(sum(alone[1:], alone[0]) / len(alone) - loss) / 2)
        first, *auxiliary = output if isinstance(output, tuple) else (output,)
        loss = self._loss(first, y, recipe)
        extra = None
        for other in auxiliary:
            more = recipe.auxiliary_weight * self._loss(other, y, recipe)
            extra = more if extra is None else extra + more
        return Step(loss, extra=extra)

    def _loss(self, output: Tensor, y: Tensor, recipe: Recipe) -> Tensor:
        from torch.nn.functional import cross_entropy, mse_loss

        output = self._checked(output, y).float()
        if self.targets:
            return mse_loss(output, y)
        weights = output.new_tensor(self.statistics.weights) if self.statistics.weights else None
        return cross_entropy(output, y, weight=weights, label_smoothing=recipe.label_smoothing)

    def _checked(self, output: Tensor, y: Tensor) -> Tensor:
        """The output. TrialFailed: it has another shape than it should."""
        if tuple(output.shape) != (len(y), self.outputs):
            needed = f"({len(y)}, {self.outputs})"
            raise TrialFailed(f"the network returned shape {tuple(output.shape)}, need {needed}: task.outputs wide")
        return output

    # --- measuring

    def measure(self, network: Network, batches: Iterable[Batch]) -> dict[str, float]:
        """Of classes acc in [0, 1] and loss, the mean cross-entropy in nats, without weights and label smoothing.

        With balance also balanced_acc, the mean over the classes of the accuracy on each, in [0, 1]. Of numbers rmse
        and mae in the target's units, r2, at most 1, and loss, the mean squared error in variances of the target; of
        several targets means over them (of rmse the root of the mean square).
        """
        import torch
        from torch.nn.functional import cross_entropy

        if self.targets:
            outputs, targets = [], []
            for *inputs, y in batches:
                outputs.append(self._checked(network(*inputs), y).double())
                targets.append(y.double())
            return self._errors(torch.cat(outputs), torch.cat(targets))
        correct: Any = 0
        loss: Any = 0
        count = 0
        of_classes: Any = 0
        for *inputs, y in batches:
            logits = self._checked(network(*inputs), y).float()
            right = logits.argmax(1) == y
            correct = correct + right.sum()
            loss = loss + cross_entropy(logits, y, reduction="sum").to(torch.float64)
            count += len(y)
            if self.statistics.balanced:
                of_classes = of_classes + self._by_class(right, y)
        found = {"acc": correct.item() / count, "loss": loss.item() / count}
        return found | ({"balanced_acc": _balanced(of_classes)} if self.statistics.balanced else {})

    def _by_class(self, right: Tensor, y: Tensor) -> Tensor:
        """How many of each class are right, and how many there are, (2, classes)."""
        import torch

        counted = torch.stack([right, torch.ones_like(right)]).long()
        return counted.new_zeros(2, self.classes).index_add_(1, y, counted)

    def _errors(self, outputs: Tensor, targets: Tensor) -> dict[str, float]:
        """The metrics of numbers. outputs, targets: (n, targets) float64, in standard deviations."""
        std = targets.new_tensor(self.statistics.std or (1.0,) * self.targets)
        square = (outputs - targets).square().mean(0)
        variance = targets.var(0, correction=0)
        explained = (1 - square / variance).where(variance > 0, 0)  # of a constant nothing can be explained
        return {
            "rmse": (std.square() * square).mean().sqrt().item(),
            "mae": (std * (outputs - targets).abs().mean(0)).mean().item(),
            "r2": explained.mean().item(),
            "loss": square.mean().item(),
        }

    def notes(self, network: Network, batches: Iterable[Batch]) -> dict[str, object]:
        """The confusion matrix: for each class how many of its examples are taken for each; {} of many classes."""
        import torch

        if not 2 <= self.classes <= MOST_SHOWN:
            return {}
        total: Any = 0
        for *inputs, y in batches:
            places = y * self.classes + network(*inputs).argmax(1)
            total = total + y.new_zeros(self.classes**2).index_add_(0, places, torch.ones_like(places))
        return {"confusion": total.reshape(self.classes, self.classes).tolist()}

    def rewards(self, outputs: Sequence[Any], batch: Batch) -> Tensor:
        """The accuracy of each, in [0, 1], balanced where that is measured; of numbers 1 / (1 + loss), in (0, 1]."""
        import torch

        y = batch[-1]
        found = torch.stack(tuple(outputs))
        if self.targets:
            return 1 / (1 + (found.double() - y.double()).square().mean((1, 2)))
        right = found.argmax(2) == y
        if self.statistics.balanced:
            return torch.tensor([_balanced(self._by_class(each, y)) for each in right], dtype=torch.float64)
        return right.sum(1).double() / len(y)

    def predict(self, network: Network, batches: Iterable[Batch]) -> Tensor:
        """The probability of each class, (n, classes), or the numbers, (n, targets); float32, on the CPU."""
        import torch

        outputs = [network(*self.inputs(batch)).float() for batch in batches]
        return torch.cat([(each if self.targets else each.softmax(1)).cpu() for each in outputs])

    def measure_mean(self, predictions: Sequence[Tensor], batches: Batches) -> dict[str, float]:
        import torch

        truth = torch.cat([batch[-1] for batch in batches.in_order()]).cpu()
        mean = torch.stack([each.double() for each in predictions]).mean(0)
        if self.targets:
            return self._errors(mean, truth.double())
        of_label = mean.gather(1, truth[:, None]).clamp_min(torch.finfo(torch.float32).tiny)
        right = mean.argmax(1) == truth
        found = {"acc": right.double().mean().item(), "loss": -of_label.log().mean().item()}
        return found | ({"balanced_acc": _balanced(self._by_class(right, truth))} if self.statistics.balanced else {})


def _balanced(counts: Tensor) -> float:
    """The mean of the accuracies on those classes that occur. counts: as of `Supervised._by_class`."""
    right, there = counts.double()
    return float((right / there)[there > 0].mean())
