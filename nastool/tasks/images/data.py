"""Image classification data as numpy arrays: built-in, torchvision's, the user's own files.

Importing this module imports none of torch, torchvision, scikit-learn and PIL; `load` imports what it needs.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from pathlib import Path
from sys import stderr
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nastool.core.errors import InputError, hint, one_line
from nastool.core.files import Limit, path_of
from nastool.core.task import Part
from nastool.core.values import Scalar
from nastool.tasks import splitting
from nastool.tasks.arrays import Arrays as FileArrays
from nastool.tasks.arrays import statistics_of, target_of, uneven
from nastool.tasks.images import arrays as imagearrays
from nastool.tasks.images import folder as imagefolder
from nastool.tasks.images import shapes
from nastool.tasks.images.reading import SizesDiffer, as_grey, common_size, digits, read_images, read_pixels, resize
from nastool.tasks.images.task import ImageTask
from nastool.tasks.splitting import Examples
from nastool.tasks.supervised import Balance, Predicts
from nastool.tasks.tensors import Arrays, TensorData, about_target

if TYPE_CHECKING:
    import torch

    from nastool.tasks.images.augment import ImageBatches

_TORCHVISION = {
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "mnist": "MNIST",
    "fashion-mnist": "FashionMNIST",
    "svhn": "SVHN",
}


class Images(Examples):
    """Images. x: uint8 (N, C, H, W), 0 black .. 255 white; y: see `Examples`."""

    x: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class ImageData(TensorData):
    """A data set, split.

    val is empty only where all of its images are trained on. test is None only where the source has too few images to
    hold any out. note: of the user's own files, what was read and what was left out; of others "".
    """

    name: str
    train: Images
    val: Images
    test: Images | None
    classes: tuple[str, ...]
    task: ImageTask
    targets: tuple[str, ...] = ()
    """Names of the numbers that are said of an image; (): its class is."""
    digest: str = ""
    """16 hexadecimal digits that name all images of the source, their labels and classes, however they are split."""
    note: str = ""

    @cached_property
    def mean(self) -> NDArray[np.float32]:
        """Mean of each channel over the training images, (C,) float32 in [0, 1]."""
        return self._moments[0]

    @cached_property
    def std(self) -> NDArray[np.float32]:
        """Standard deviation of each channel over the training images, (C,) float32, at least 1/255."""
        return self._moments[1]

    def arrays(self, part: Part) -> Arrays | None:
        images: Images | None = getattr(self, part)
        return None if images is None else (images.x, images.y)

    def describe(self) -> dict[str, Scalar]:
        """Facts for run.yaml and the screen."""
        task = self.task
        return {
            "images": f"{task.channels}x{task.height}x{task.width}, {task.said}",
            "train_images": len(self.train),
            "val_images": len(self.val),
            "test_images": len(self.test) if self.test is not None else 0,
            "fingerprint": self.fingerprint,
            "data_digest": self.digest,
            **({"read": self.note} if self.note else {}),
        }

    def metadata(self) -> dict[str, Any]:
        """What a network's file says so that pixels can be fed to it, and its answers named."""
        about = about_target(self.task.statistics, self.classes, self.targets)
        return {**about, "mean": self.mean.tolist(), "std": self.std.tolist()}

    def batches(self, part: Part, device: torch.device) -> ImageBatches | None:
        """A part on a device, in the memory format channels_last; None: there is no such part."""
        import torch

        from nastool.tasks.images.augment import ImageBatches

        images: Images | None = getattr(self, part)
        return None if images is None else ImageBatches(self, images, device, torch.channels_last)

    @cached_property
    def _moments(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        levels = np.arange(256) / 255
        counts = np.stack([np.bincount(channel.ravel(), minlength=256) for channel in _channels(self.train.x)])
        mean = counts @ levels / counts.sum(1)
        variance = (counts * (levels - mean[:, None]) ** 2).sum(1) / counts.sum(1)
        return mean.astype(np.float32), np.maximum(np.sqrt(variance), 1 / 255).astype(np.float32)


def check_options(name: str, *, image_size: int | None = None, **options: Any) -> None:
    """Raise InputError for what is wrong with `load`'s arguments whatever the files hold. Reads nothing."""
    if not ImageTask.reads(name):
        raise InputError(f"no data set {name!r}; {hint(name, ImageTask.datasets)}")
    splitting.check_options(**options)
    if image_size is not None and not 1 <= image_size <= 1024:
        raise InputError(f"need 1 <= image_size <= 1024 (pixels), got {image_size}")


def load(
    name: str,
    *,
    data_dir: str | None = None,
    download: bool = False,
    split_seed: int = 0,
    val_fraction: float | None = None,
    train_size: int | None = None,
    image_size: int | None = None,
    max_gigabytes: float = 8.0,
    all_data: bool = False,
    predict: Predicts = None,
    balance: Balance = None,
    arrays: FileArrays | None = None,
) -> ImageData:
    """Read a data set and split it.

    name: a key of `ImageTask.datasets`, with FILE or DIR replaced by a path.
    data_dir: where torchvision's files are or go, by default ~/.cache/nastool (XDG_CACHE_HOME is obeyed).
    download: fetch what is missing there.
    split_seed: >= 0; decides which training images are for validation and which `train_size` keeps.
    val_fraction: in (0, 1), of the training images; by default 0.1, of fewer than 500 images so much that 50 are for
        validation, but at most 0.25; and 0.25 for digits. Not to be given where the source brings its own.
    train_size: keep only so many training images, at least 2, drawn after the split.
    image_size: resize to so many pixels squared, 1 .. 1024 (bilinear, antialiased); by default only a folder of images
        of several sizes is, see `common_size`.
    max_gigabytes: how much memory (10^9 bytes) the user's own files may unpack to in all, and 32 times what one image
        may, before it is resized.
    all_data: the validation images are training images, too, and none is left for validation.
    predict, balance: see `nastool.tasks.supervised`.
    arrays: the images, whatever the name.

    The test images are the source's, or else a fifth of its images, the same ones whatever the options.
    All draws are stratified: each class in proportion, and in every part where it has the images for it.
    InputError, in one line, for everything that can be wrong with the arguments or the files.
    """
    check_options(
        name if arrays is None else "digits",
        split_seed=split_seed,
        val_fraction=val_fraction,
        train_size=train_size,
        image_size=image_size,
        max_gigabytes=max_gigabytes,
    )
    limit = Limit(max_gigabytes)
    note = ""
    targets: tuple[str, ...] = ()
    kind, _, path = name.partition(":")
    path = str(path_of(path))
    if arrays is not None or kind == "npz":
        arrays = FileArrays.read(path, ["layout"], limit) if arrays is None else arrays
        parts, classes, targets, note = _of_arrays(arrays, predict)
    elif name == "digits":
        parts, classes = _digits()
    elif name == "shapes":
        parts, classes = _shapes()
    elif kind == "folder":
        parts, classes, note = _folder(path, image_size, limit)
    else:
        parts, classes = _torchvision(name, data_dir, download)
    if predict == "numbers" and not targets:
        raise InputError(f"predict=numbers: {name} has classes; numbers are read of npz:FILE")
    if image_size is not None:
        size = (image_size, image_size)
        parts = {p: i if i.x.shape[2:] == size else Images(resize(i.x, *size), i.y) for p, i in parts.items()}
    digest = _digest(parts, classes)
    train, val, test = splitting.split(
        name,
        parts,
        "image",
        split_seed=split_seed,
        val_fraction=val_fraction,
        usual_fraction=0.25 if name == "digits" else None,
        train_size=train_size,
        all_data=all_data,
    )
    statistics = statistics_of(train.y, len(classes), balance)
    if classes and balance is None and (known := uneven(train.y, classes)):
        note = "; ".join(filter(None, [note, known]))
    _, channels, height, width = train.x.shape
    return ImageData(
        name=name,
        train=train.scaled(statistics),
        val=val.scaled(statistics),
        test=None if test is None else test.scaled(statistics),
        classes=classes,
        task=ImageTask(channels, height, width, len(classes), len(targets), statistics),
        targets=targets,
        digest=digest,
        note=note,
    )


def _digest(parts: Mapping[str, Images], classes: tuple[str, ...]) -> str:
    """See `ImageData.digest`."""
    digest = blake2b(repr(classes).encode(errors="surrogatepass"), digest_size=8)
    for name, part in sorted(parts.items()):
        digest.update(f"{name} {part.x.shape}".encode())
        digest.update(np.ascontiguousarray(part.x).data)
        digest.update(np.ascontiguousarray(part.y).data)
    return digest.hexdigest()


# --- sources: each returns its parts ("train", perhaps "val" and "test") and the names of its classes

_Source = tuple[dict[str, Images], tuple[str, ...]]
_Noted = tuple[dict[str, Images], tuple[str, ...], str]
"""The same, and a line on what was read and what was left out."""


def _digits() -> _Source:
    rows = digits()
    pixels = (rows[:, :-1].reshape(-1, 1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    return {"train": Images(pixels, rows[:, -1].astype(np.int64))}, tuple("0123456789")


def _shapes() -> _Source:
    x, y = shapes.draw(sum(shapes.COUNTS.values()))
    ends = np.cumsum([*shapes.COUNTS.values()])
    split = zip(shapes.COUNTS, np.split(x, ends[:-1]), np.split(y, ends[:-1]), strict=True)
    return {part: Images(pixels, labels) for part, pixels, labels in split}, shapes.CLASSES


def _torchvision(name: str, data_dir: str | None, download: bool) -> _Source:
    from torchvision import datasets

    root = path_of(data_dir or f"{os.environ.get('XDG_CACHE_HOME') or '~/.cache'}/nastool")
    kind = getattr(datasets, _TORCHVISION[name])

    def read(train: bool) -> tuple[Images, tuple[str, ...]]:
        part: dict[str, Any] = {"split": "train" if train else "test"} if name == "svhn" else {"train": train}
        with redirect_stdout(stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's, about how the published files were pickled
            source = kind(root, download=download, **part)
        x = np.asarray(source.data)
        y = np.asarray(source.labels if name == "svhn" else source.targets, dtype=np.int64)
        channels_first = x[:, None] if x.ndim == 3 else x if name == "svhn" else x.transpose(0, 3, 1, 2)
        names = tuple(getattr(source, "classes", None) or "0123456789")
        if len(x) != len(y) or not np.isin(y, np.arange(len(names))).all():
            raise ValueError("its labels do not match its images")
        return Images(np.ascontiguousarray(channels_first), y), names

    try:
        (train, classes), (test, _) = read(True), read(False)
    except Exception as error:  # what torchvision raises for a missing or damaged file depends on the format
        if not download:
            raise InputError(
                f"{name} is not in {root} (or is damaged there): give --download, or --data-dir where it is"
            ) from error
        reason = one_line(error)[:120]
        raise InputError(
            f"cannot download {name} to {root}: {reason}; check the network, or empty the folder and retry"
        ) from error
    return {"train": train, "test": test}, classes


def _of_arrays(found: FileArrays, predict: Predicts) -> tuple[dict[str, Images], tuple[str, ...], tuple[str, ...], str]:
    """Parts, the names of classes or of targets, and what was read."""
    path = found.path
    layout = found.others.pop("layout", None)
    for part, x in found.x.items():
        found.x[part] = imagearrays.pixels(f"{path}: {found.names[f'x_{part}']}", x, layout)
    found.check("image")
    target = target_of(found, predict)
    parts = {part: Images(x, target.y[part]) for part, x in found.x.items()}
    read = f"{sum(map(len, parts.values())):,} images of {target.said}"
    return parts, target.classes, target.names, "; ".join([f"{path}: {read}", *found.remarks])


def _channels(x: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    for channel in range(x.shape[1]):
        yield x[:, channel]


# --- folders of images


def _folder(path: str, image_size: int | None, limit: Limit) -> _Noted:
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"no folder {path}: give folder:DIR, with one folder of images a class")
    found = imagefolder.scan(root)
    files = [file for part in found.parts.values() for file, _ in part]
    try:
        pixels, several = read_images(root, files, image_size, limit)
    except SizesDiffer:
        image_size = common_size(files)
        pixels, several = read_images(root, files, image_size, limit)
        size = f"{image_size}x{image_size}"
        found.remarks.append(f"of several sizes, so all are resized to {size}: -E image_size=N decides")
    parts = {}
    start = 0
    for part, labelled in found.parts.items():
        labels = np.array([label for _, label in labelled], dtype=np.int64)
        parts[part] = Images(pixels[start : start + len(labels)], labels)
        start += len(labels)
    remarks = [f"left out: {imagefolder.counted(found.left_out)}"] if found.left_out else []
    if several:
        remarks.append(f"of {several:,} with several frames or pages the first")
    of_parts = " (" + ", ".join(f"{len(images):,} {part}" for part, images in parts.items()) + ")"
    read = f"{len(files):,} images of {len(found.classes)} classes" + (of_parts if len(parts) > 1 else "")
    return parts, found.classes, "; ".join([f"{path}: {read}", *remarks, *found.remarks])


def read_image(path: Path, task: ImageTask, limit: Limit | None = None) -> NDArray[np.uint8]:
    """An image file as a task's networks see it: uint8 (channels, height, width), resized where it has another size.

    A grey image becomes three equal channels, a colour one grey (ITU-R 601), as needed. InputError: it is none.
    """
    array, _ = read_pixels(path, limit or Limit())
    if task.channels == 1 and len(array) == 3:
        array = as_grey(array)
    elif task.channels != len(array):
        if len(array) != 1:
            raise InputError(f"{path} has {len(array)} channels, the network needs {task.channels}")
        array = np.repeat(array, task.channels, 0)
    if array.shape[1:] != (task.height, task.width):
        array = resize(array[None], task.height, task.width)[0]
    return array
