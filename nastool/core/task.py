"""What a network is for: its inputs, its loss, its metrics, and the data that it learns from. Imports no torch."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple, Protocol, Self, runtime_checkable

from nastool.core.errors import InputError
from nastool.core.recipe import Recipe
from nastool.core.values import Goal, Scalar

if TYPE_CHECKING:
    import torch
    from torch import Tensor

Batch = tuple["Tensor", ...]
"""Tensors whose first dimension is the examples: what a network reads and, last, what it should have said."""
Network = Callable[..., Any]
"""A network, or a function that calls one in the precision that is wanted."""
Part = Literal["train", "val", "test"]

FAMILY = "images"
"""The task of what names none: of spaces, and of checkpoints of earlier versions."""


class Step(NamedTuple):
    """What a task makes of a batch in training."""

    loss: Tensor
    """Mean loss of the batch, a scalar with gradient; the one that is reported."""
    carry: object = None
    """What the next batch continues from, without gradient, such as a hidden state; None: batches stand alone."""
    extra: Tensor | None = None
    """What is minimised besides, such as the loss of an auxiliary classifier; not reported."""
    rate: float = 1.0
    """What the learning rate of the step is multiplied with, such as how long a text is beside others."""


class Task(ABC):
    """What networks are trained for, and the only place that knows their loss and metrics.

    A subclass is a frozen dataclass of numbers and texts: the shapes of a network's two ends, which are no part of the
    architecture. As a class it is a plugin, registered in the group `nastool.tasks`, that reads data.
    """

    name: ClassVar[str]
    """The name it is registered under; spaces name it in `SearchSpace.tasks`."""
    metrics: ClassVar[Mapping[str, Goal]] = {"loss": "min"}
    """What `measure` finds, "loss" among them, and which of more and less is better. Evaluators put the data's part
    before it: val_loss."""
    objective: ClassVar[str] = "loss"
    """The one of `metrics` that a search optimises unless told otherwise."""
    noun: ClassVar[str] = "example"
    """What it calls an example."""
    file: ClassVar[str] = "FILE"
    """What `nastool predict` takes for its networks, as a usage line has it."""
    channels_last: ClassVar[bool] = False
    """Networks for it are faster with tensors (N, C, H, W) in torch's memory format channels_last."""
    datasets: ClassVar[Mapping[str, str]] = {}
    """Names of the data that `load` reads, each with a line about it; "npz:FILE" stands for npz: and any path."""

    kept: ClassVar[tuple[str, ...]] = ()
    """What of `Data.metadata` is read again from a network's file, by name."""

    exact: bool = False
    """Whether its networks' outputs are numbers for which bfloat16 is too coarse, so that "auto" does not take it."""
    data_options: ClassVar[frozenset[str]] = frozenset()
    """Those of a training evaluator's options about data that `load` takes: data_dir, download, split_seed,
    val_fraction, train_size, image_size, max_gigabytes, all_data, target, predict, balance."""

    # --- data

    @classmethod
    def reads(cls, data: str) -> bool:
        """Whether `datasets` has this name."""
        kind, colon, path = data.partition(":")
        return data in cls.datasets or bool(
            colon and path and any(known.partition(":")[:2] == (kind, ":") for known in cls.datasets)
        )

    @classmethod
    def kind(cls) -> str:
        """Name of the task that spaces have networks for: its own, but for data in a file that are for another's."""
        return cls.name

    @classmethod
    def recipe_for(cls, data: str) -> str:
        """Name of the recipe that networks are trained with on this data unless another is given."""
        return "default"

    @classmethod
    def check(cls, data: str, **options: Any) -> None:
        """Raises InputError for what is wrong with `load`'s arguments whatever the files hold. Reads nothing."""
        return

    @classmethod
    def goals(cls, data: str, **options: Any) -> tuple[Mapping[str, Goal], str]:
        """What `measure` finds of networks for this data, and which of it is optimised: `metrics` and `objective`.

        Where that depends on the data, it may look at files, quickly and without torch; of files that cannot be read
        `load` will say so.
        """
        return cls.metrics, cls.objective

    @classmethod
    @abstractmethod
    def load(cls, data: str, **options: Any) -> Data:
        """Reads data and splits it.

        Args:
            data: a name that it `reads`.
            options: those of `data_options` that are not as by default; all_data: validation examples are trained on,
                too, and none are left.

        Raises:
            InputError: whatever can be wrong with the arguments or the files, in one line.
        """

    # --- networks

    @abstractmethod
    def example(self, n: int, device: torch.device | str = "cpu") -> tuple[Tensor, ...]:
        """Inputs of a network, of n examples: shapes and types as they are, values of no meaning."""

    def inputs(self, batch: Batch) -> tuple[Tensor, ...]:
        """What of a batch the network is called with: by default all but the last tensor."""
        return batch[:-1]

    def shapes(self) -> tuple[str, ...]:
        """For readers the shape of each input of one example, such as "3, 32, 32"."""
        return tuple(", ".join(map(str, x.shape[1:])) for x in self.example(1, "meta"))

    def returns(self) -> str:
        """For readers what its networks return, such as "logits (N, 10)"."""
        classes = self.to_json().get("classes")
        return f"logits (N, {classes})" if classes else "outputs"

    def wrong(self, output: object) -> str | None:
        """What a network did wrong that returned this of `example`, in evaluation mode; None: nothing.

        It goes on "the network returns ...".
        """
        import torch

        if isinstance(output, torch.Tensor):
            return None
        what = "nothing" if output is None else f"a {type(output).__name__}"
        return f"{what}, not a tensor: return what it says of each example"

    @abstractmethod
    def step(self, network: Network, batch: Batch, carry: object, recipe: Recipe) -> Step:
        """Runs a network on a training batch.

        Args:
            network: called with the inputs; a network for texts with the carry, too.
            batch: of `Batches.train`.
            carry: of the batch before in the same epoch; None: this is the first.
            recipe: what of the loss is a matter of training, such as label smoothing.
        """

    @abstractmethod
    def measure(self, network: Network, batches: Iterable[Batch]) -> dict[str, float]:
        """The `metrics` of a network on these batches, each a mean over their examples.

        Args:
            network: in evaluation mode, without gradients.
            batches: in order; one that carries a state carries it from one to the next.
        """

    def notes(self, network: Network, batches: Iterable[Batch]) -> Mapping[str, object]:
        """What reports show of a network besides its metrics, as JSON (`Evaluation.notes`). Arguments as `measure`."""
        return {}

    def check_kept(self, about: dict[str, Any]) -> None:
        """Looks at what a file says of the data, in `kept`, and makes what it should be of it.

        Raises:
            ValueError, KeyError or TypeError: It cannot be right.
        """

    def read(self, path: str, about: Mapping[str, Any], max_gigabytes: float) -> tuple[Any, Sequence[Any] | None]:
        """The examples in a file, not normalised, and what each should say, where the file says it, for `predict`.

        Args:
            path: The file.
            about: What a network's file says of its data (`Data.metadata`).
            max_gigabytes: Memory (10^9 bytes) that the file may take.

        Raises:
            InputError: It holds none.
        """
        raise InputError(f"task {self.name} reads no files to predict: use the network from Python")

    def rewards(self, outputs: Sequence[Any], batch: Batch) -> Tensor:
        """How well each of m networks did on one batch, (m,) float64, higher is better: what policies learn from.

        Args:
            outputs: what each network made of the inputs.
            batch: those inputs and what goes with them.
        """
        raise NotImplementedError(f"task {self.name} rewards no networks that share weights")

    def predict(self, network: Network, batches: Iterable[Batch]) -> Tensor:
        """What a network says of each example, on the CPU, such that the mean of several networks' is a prediction."""
        raise NotImplementedError(f"task {self.name} makes no ensembles")

    def measure_mean(self, predictions: Sequence[Tensor], batches: Batches) -> dict[str, float]:
        """The `metrics` of the mean of several networks' predictions, each as of `predict`, of all these examples."""
        raise NotImplementedError(f"task {self.name} makes no ensembles")

    def __str__(self) -> str:
        """What its networks are for: the name and the fields."""
        return f"{self.name} of " + ", ".join(f"{key}={value}" for key, value in self.to_json().items())

    # --- files

    def to_json(self) -> dict[str, Scalar]:
        """Its fields, as files have them."""
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]  # a subclass is a dataclass

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Raises TypeError or ValueError: these are not its fields."""
        return cls(**fields)


@runtime_checkable
class SaysOfFiles(Protocol):
    """A task whose networks say something of a file as a whole; others do of each example in it."""

    def said_of(
        self, network: torch.nn.Module, path: str, about: Mapping[str, Any], max_gigabytes: float, top: int
    ) -> dict[str, Any]:
        """What a network says of a file, as JSON, for `predict`.

        Args:
            network: In evaluation mode, on the CPU.
            path: The file.
            about: What the network's file says of its data (`Data.metadata`).
            max_gigabytes: Memory (10^9 bytes) that the file may take.
            top: Number of guesses that are named, the most probable ones.

        Raises:
            InputError: It is none.
        """
        ...


@runtime_checkable
class Attackable(Protocol):
    """A task whose examples can be changed so that networks fail on them."""

    @classmethod
    def check_robustness(cls, attack: str | None, shift: str | None) -> None:
        """Raises InputError for what is wrong with `robustness`' arguments."""
        ...

    def robustness(
        self, network: Network, batches: Batches, attack: str | None, shift: str | None, parts: int = 1
    ) -> dict[str, float]:
        """The `Task.metrics` of a network on changed examples, each with what was changed before its name: robust_acc.

        Args:
            network: In evaluation mode, where gradients are not forbidden.
            batches: The examples.
            attack: An attack that sees the network's gradients, as NAME:KEY=VALUE,...; None: there is none.
            shift: Kinds of shifts of the data, with commas; None: there are none.
            parts: A batch is the parts-th part of what usually fits.
        """
        ...

    def shifted(self, batches: Batches, shift: str) -> Iterator[Batch]:
        """Every example once, in order, at the highest severity of one of these shifts, which take turns."""
        ...


class Batches(Protocol):
    """One part of a data set, resident on a device."""

    def __len__(self) -> int:
        """Number of examples."""
        ...

    def steps(self, recipe: Recipe) -> int:
        """Number of batches of an epoch, at least 1."""
        ...

    def train(self, recipe: Recipe, generator: torch.Generator) -> Iterator[Batch]:
        """The `steps` batches of one epoch, as the recipe says. generator: of this device."""
        ...

    def in_order(self, batch_size: int | None = None, parts: int = 1) -> Iterator[Batch]:
        """Every example once, in order, as it is. batch_size: by default what fits, and of it the parts-th part."""
        ...

    def mixed(self, batch_size: int) -> Iterator[Batch]:
        """Every example once, as it is, always in the same order, for networks whose output depends on the batch.

        Batches are as equal in size as can be, of batch_size to 2 batch_size - 1 examples; one where there are fewer.
        """
        ...

    def minibatches(self, batch_size: int, generator: torch.Generator) -> Iterator[Batch]:
        """Batches without end, of examples as they are, for a policy. generator: of the CPU."""
        ...

    def some(self, n: int, generator: torch.Generator) -> Batch:
        """n examples as they are, drawn at random; all where there are fewer. generator: of the CPU."""
        ...


class Data(Protocol):
    """A data set, read and split."""

    @property
    def name(self) -> str:
        """As it was asked for."""
        ...

    @property
    def task(self) -> Task:
        """What networks for this data are for."""
        ...

    @property
    def fingerprint(self) -> str:
        """8 hexadecimal digits that name the examples and their split."""
        ...

    @property
    def nbytes(self) -> int:
        """Memory that `batches` of all parts take on a device, bytes."""
        ...

    def describe(self) -> Mapping[str, Scalar]:
        """Facts for run.yaml and the screen, such as sizes; see `Evaluator.describe`."""
        ...

    def metadata(self) -> Mapping[str, Any]:
        """What a trained network's file says of the data besides the task, JSON only, such as the classes' names."""
        ...

    def batches(self, part: Part, device: torch.device) -> Batches | None:
        """A part on a device; of "val" perhaps without examples; of "test" None where there is no such part."""
        ...
