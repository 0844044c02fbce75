"""Signals: networks that say which class a series of numbers in several channels is of, or numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from nastool.core.errors import InputError
from nastool.core.files import Limit, path_of
from nastool.tasks.supervised import NONE, OPTIONS, Balance, Predicts, Statistics, Supervised

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor

    from nastool.tasks.arrays import Arrays
    from nastool.tasks.tensors import TensorData


@dataclass(frozen=True)
class SignalTask(Supervised):
    """Signals: networks that say which class a series of numbers in several channels is of, or numbers.

    They read signals (N, channels, length) float32, each channel in standard deviations from its mean over the training
    signals; see `Supervised` for what they say.

    Args:
        channels: Number of channels of a signal.
        length: Number of values of a channel.
        classes: Number of classes, at least 2; 0 where numbers are said.
        targets: Number of numbers that are said; 0 where it is a class.
        statistics: Facts of the training data.
    """

    channels: int
    length: int
    classes: int
    targets: int = 0
    statistics: Statistics = field(default=NONE, compare=False, repr=False)

    name = "signals"
    noun = "signal"
    file = "SIGNALS.npz"
    data_options = OPTIONS
    datasets: ClassVar[Mapping[str, str]] = {
        "signals:FILE": "an .npz of series of numbers: x_train (N, channels, length), y_train, and as of npz:FILE"
    }

    def __post_init__(self) -> None:
        if min(self.channels, self.length) < 1 or max(self.channels, self.length) > 10_000_000:
            raise ValueError(f"signals need channels and length of at least 1, got {self.channels}x{self.length}")
        self._check_outputs()

    def __str__(self) -> str:
        return f"signals of {self.channels}x{self.length}, {self.said}"

    @classmethod
    def recipe_for(cls, data: str) -> str:
        return "signals"

    @classmethod
    def says(cls, data: str, **options: Any) -> Literal["classes", "numbers"]:
        if options.get("predict") is not None:
            return super().says(data, **options)
        from nastool.tasks.arrays import says

        return says(str(path_of(data.partition(":")[2])))

    @classmethod
    def check(cls, data: str, **options: Any) -> None:
        from nastool.tasks.splitting import check_options

        check_options(**options)

    @classmethod
    def load(cls, data: str, *, max_gigabytes: float = 8.0, **options: Any) -> TensorData:
        from nastool.tasks.arrays import Arrays

        path = str(path_of(data.partition(":")[2]))
        return cls.of(data, Arrays.read(path, limit=Limit(max_gigabytes)), **options)

    @classmethod
    def of(
        cls, data: str, found: Arrays, *, predict: Predicts = None, balance: Balance = None, **options: Any
    ) -> TensorData:
        """Arrays as signals, split. data: their name. options: of `splitting.split`. InputError: they are none."""
        import numpy as np

        from nastool.tasks.arrays import target_of
        from nastool.tasks.tensors import Encoded, supervised

        for part, x in found.x.items():
            found.x[part] = _signals(f"{found.path}: {found.names.get(f'x_{part}', f'x_{part}')}", x)
        found.check(cls.noun)
        target = target_of(found, predict)
        shape = "x".join(map(str, found.x["train"].shape[1:]))
        read = f"{found.path}: {sum(map(len, found.x.values())):,} signals of {shape}, {target.said}"

        def encode(x: NDArray[np.float32]) -> Encoded:
            mean, std = x.mean((0, 2), dtype=np.float64), x.std((0, 2), dtype=np.float64)
            return Encoded(lambda x: x, mean, np.where(std > 0, std, 1), {}, "; ".join([read, *found.remarks]))

        return supervised(data, found.x, target, cls, encode, found.x.values(), balance=balance, **options)

    def example(self, n: int, device: torch.device | str = "cpu") -> tuple[Tensor, ...]:
        import torch

        return (torch.zeros(n, self.channels, self.length, device=device),)

    def read(self, path: str, about: Mapping[str, Any], max_gigabytes: float) -> tuple[Any, Sequence[Any] | None]:
        """Signals x (N, channels, length) in an .npz file, and y, where it is there."""
        from nastool.tasks.arrays import read_examples

        x, _, truth = read_examples(path, about, (), Limit(max_gigabytes, "--max-gigabytes "))
        x = _signals(path, x)
        if x.shape[1:] != (self.channels, self.length):
            raise InputError(f"{path}: signals are {'x'.join(map(str, x.shape[1:]))}, the network is for {self}")
        return x, truth


def _signals(what: str, x: NDArray[Any]) -> NDArray[np.float32]:
    """Signals as (N, channels, length) float32; those of one channel may be (N, length). InputError: they are none."""
    import numpy as np

    from nastool.tasks.arrays import check_finite

    shape = x.shape
    x = x[:, None] if x.ndim == 2 else x
    if x.ndim != 3 or 0 in x.shape[1:] or x.dtype.kind not in "iuf":
        other = "; images are npz:FILE" if x.ndim == 4 else ""
        raise InputError(f"{what}: need numbers of shape (N, channels, length), got {x.dtype} {shape}{other}")
    check_finite(what, x)
    return x.astype(np.float32)
