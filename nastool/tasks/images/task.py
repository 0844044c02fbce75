"""Images: networks that say which class an image is of, or numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from nastool.core.errors import InputError
from nastool.core.files import Limit, path_of
from nastool.tasks.supervised import NONE, OPTIONS, Statistics, Supervised

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from nastool.core.task import Batch, Batches, Network
    from nastool.tasks.arrays import Arrays
    from nastool.tasks.images.data import ImageData


@dataclass(frozen=True)
class ImageTask(Supervised):
    """Images: networks that say which class an image is of, or numbers.

    They read images (N, channels, height, width) float32; see `Supervised` for what they say.

    Args:
        channels: Number of channels of an image.
        height: Height in pixels.
        width: Width in pixels.
        classes: Number of classes, at least 2; 0 where numbers are said.
        targets: Number of numbers that are said; 0 where it is a class.
        statistics: Facts of the training data.
    """

    channels: int
    height: int
    width: int
    classes: int
    targets: int = 0
    statistics: Statistics = field(default=NONE, compare=False, repr=False)

    name = "images"
    noun = "image"
    file = "IMAGE"
    channels_last = True
    largest = 255.0
    data_options = OPTIONS | {"data_dir", "download", "image_size"}
    datasets: ClassVar[Mapping[str, str]] = {
        "digits": "1,797 handwritten digits, 1x8x8, 10 classes; built in (scikit-learn)",
        "shapes": "7,000 outlines of polygons and stars under clutter, 1x16x16, 10 classes; built in, made",
        "cifar10": "60,000 photographs, 3x32x32, 10 classes (torchvision)",
        "cifar100": "60,000 photographs, 3x32x32, 100 classes (torchvision)",
        "mnist": "70,000 handwritten digits, 1x28x28, 10 classes (torchvision)",
        "fashion-mnist": "70,000 pieces of clothing, 1x28x28, 10 classes (torchvision)",
        "svhn": "99,289 house numbers, 3x32x32, 10 classes (torchvision)",
        "npz:FILE": "images as arrays x_train, y_train and optionally x_val, y_val, x_test, y_test, classes",
        "folder:DIR": "one folder of images a class: DIR/CLASS/*.png or DIR/{train,val,test}/CLASS/*.png",
    }

    def __post_init__(self) -> None:
        sizes = (self.channels, self.height, self.width)
        if min(sizes) < 1 or max(sizes) > 65_536:
            raise ValueError(
                "an image task needs channels, height, width from 1 to 65,536, got "
                f"{self.channels}x{self.height}x{self.width}"
            )
        self._check_outputs()

    def __str__(self) -> str:
        return f"images of {self.channels}x{self.height}x{self.width}, {self.said}"

    @classmethod
    def recipe_for(cls, data: str) -> str:
        recipes = {"digits": "digits", "shapes": "shapes", "cifar10": "cifar10-quick", "cifar100": "cifar10-quick"}
        return recipes.get(data, "default")

    @classmethod
    def says(cls, data: str, **options: Any) -> Literal["classes", "numbers"]:
        if options.get("predict") is not None or not data.startswith("npz:"):
            return super().says(data, **options)
        from nastool.tasks.arrays import says

        return says(str(path_of(data.removeprefix("npz:"))))

    @classmethod
    def check(cls, data: str, **options: Any) -> None:
        from nastool.tasks.images.data import check_options

        check_options(data, **options)

    @classmethod
    def load(cls, data: str, **options: Any) -> ImageData:
        from nastool.tasks.images.data import load

        return load(data, **options)

    @classmethod
    def of(cls, data: str, found: Arrays, **options: Any) -> ImageData:
        """Arrays as images, split. data: their name. InputError: they are none."""
        from nastool.tasks.images.data import load

        return load(data, arrays=found, **options)

    @classmethod
    def check_robustness(cls, attack: str | None, shift: str | None) -> None:
        from nastool.tasks.images.robustness import attack_of, shifts_of

        if attack is not None:
            attack_of(attack)
        if shift is not None:
            shifts_of(shift)

    def robustness(
        self, network: Network, batches: Batches, attack: str | None, shift: str | None, parts: int = 1
    ) -> dict[str, float]:
        from nastool.tasks.images.augment import ImageBatches
        from nastool.tasks.images.robustness import measured

        assert isinstance(batches, ImageBatches)
        return measured(self, network, batches, attack, shift, parts)

    def shifted(self, batches: Batches, shift: str) -> Iterator[Batch]:
        from nastool.tasks.images.augment import ImageBatches
        from nastool.tasks.images.robustness import in_turn

        assert isinstance(batches, ImageBatches)
        return in_turn(batches, shift)

    def example(self, n: int, device: torch.device | str = "cpu") -> tuple[Tensor, ...]:
        import torch

        return (torch.zeros(n, self.channels, self.height, self.width, device=device),)

    def read(self, path: str, about: Mapping[str, Any], max_gigabytes: float) -> tuple[Any, Sequence[Any] | None]:
        """Images x in an .npz file, as for training, and y, where it is there."""
        from nastool.tasks.arrays import read_examples
        from nastool.tasks.images.arrays import pixels

        x, others, truth = read_examples(path, about, ["layout"], Limit(max_gigabytes, "--max-gigabytes "))
        images = pixels(path, x, others.get("layout"))
        if images.shape[1] != self.channels:
            raise InputError(f"{path}: its images have {images.shape[1]} channels, the network needs {self.channels}")
        return images, truth
