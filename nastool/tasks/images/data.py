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

from nastool.core.errors import InputError, hint, one_line, short
from nastool.core.files import Limit, npz_names, path_of, read_npz
from nastool.core.task import Part
from nastool.core.values import Scalar
from nastool.tasks.images import arrays as imagearrays
from nastool.tasks.images import folder as imagefolder
from nastool.tasks.images.reading import SizesDiffer, as_grey, common_size, digits, read_images, read_pixels, resize
from nastool.tasks.images.task import ImageTask
from nastool.tasks.splitting import draw, held_out
from nastool.tasks.tensors import Arrays, TensorData

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
_TEST_FRACTION = 0.2
_TEST_SEED = 20_240_229  # fixed: the held-out test images must not depend on any option


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images. x: uint8 (N, C, H, W), 0 black .. 255 white; y: int64 (N,), 0 <= y < classes."""

    x: NDArray[np.uint8]
    y: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, indices: NDArray[np.intp]) -> Images:
        return Images(self.x[indices], self.y[indices])


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
            "images": f"{task.channels}x{task.height}x{task.width}, {task.classes} classes",
            "train_images": len(self.train),
            "val_images": len(self.val),
            "test_images": len(self.test) if self.test is not None else 0,
            "fingerprint": self.fingerprint,
            "data_digest": self.digest,
            **({"read": self.note} if self.note else {}),
        }

    def metadata(self) -> dict[str, Any]:
        """What a network's file says so that pixels can be fed to it, and its answers named."""
        return {"classes": self.classes, "mean": self.mean.tolist(), "std": self.std.tolist()}

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


def check_options(
    name: str,
    *,
    data_dir: str | None = None,
    download: bool = False,
    split_seed: int = 0,
    val_fraction: float | None = None,
    train_size: int | None = None,
    image_size: int | None = None,
    max_gigabytes: float = 8.0,
) -> None:
    """Raise InputError for what is wrong with `load`'s arguments whatever the files hold. Reads nothing."""
    if not ImageTask.reads(name):
        raise InputError(f"no data set {name!r}; {hint(name, ImageTask.datasets)}")
    if split_seed < 0:
        raise InputError(f"need split_seed >= 0, got {split_seed}")
    if val_fraction is not None and not 0 < val_fraction < 1:
        raise InputError(f"need 0 < val_fraction < 1, got {val_fraction}")
    if train_size is not None and train_size < 2:
        raise InputError(f"need train_size >= 2, got {train_size}")
    if image_size is not None and not 1 <= image_size <= 1024:
        raise InputError(f"need 1 <= image_size <= 1024 (pixels), got {image_size}")
    Limit(max_gigabytes)


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

    The test images are the source's, or else a fifth of its images, the same ones whatever the options.
    All draws are stratified: each class in proportion, and in every part where it has the images for it.
    InputError, in one line, for everything that can be wrong with the arguments or the files.
    """
    check_options(
        name,
        split_seed=split_seed,
        val_fraction=val_fraction,
        train_size=train_size,
        image_size=image_size,
        max_gigabytes=max_gigabytes,
    )
    limit = Limit(max_gigabytes)
    note = ""
    kind, _, path = name.partition(":")
    path = str(path_of(path))
    if name == "digits":
        parts, classes = _digits()
    elif kind == "npz":
        parts, classes, note = _npz(path, limit)
    elif kind == "folder":
        parts, classes, note = _folder(path, image_size, limit)
    else:
        parts, classes = _torchvision(name, data_dir, download)
    if image_size is not None:
        size = (image_size, image_size)
        parts = {p: i if i.x.shape[2:] == size else Images(resize(i.x, *size), i.y) for p, i in parts.items()}
    digest = _digest(parts, classes)

    train, val, test = parts["train"], parts.get("val"), parts.get("test")
    if len(train) < 2:
        raise InputError(f"{name}: need at least 2 training images, found {len(train)}")
    if test is None:
        rest, drawn = held_out(train.y, _TEST_FRACTION, np.random.default_rng(_TEST_SEED))
        train, test = train[rest], train[drawn]
    if val is None:
        of_few = min(0.25, max(0.1, FEW / len(train)))
        fraction = val_fraction or (0.25 if name == "digits" else of_few)
        rest, drawn = held_out(train.y, fraction, np.random.default_rng([split_seed, 0]))
        train, val = train[rest], train[drawn]
    elif val_fraction is not None:
        raise InputError(f"{name} brings its own validation images: leave out val_fraction")
    if not len(val):
        raise InputError(f"{name}: no image is left for validation; give more images of each class")
    if all_data:
        train = Images(np.concatenate([train.x, val.x]), np.concatenate([train.y, val.y]))
        val = val[np.empty(0, dtype=np.intp)]
    if train_size is not None:
        if train_size > len(train):
            raise InputError(f"{name}: need train_size <= {len(train)} (its training images), got {train_size}")
        train = train[draw(train.y, train_size, np.random.default_rng([split_seed, 1]))]
    _, channels, height, width = train.x.shape
    return ImageData(
        name=name,
        train=train,
        val=val,
        test=test if len(test) else None,
        classes=classes,
        task=ImageTask(channels, height, width, len(classes)),
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


def notes(facts: Mapping[str, object]) -> Iterator[str]:
    """What the user should know of the data before anything is trained. facts: of an evaluator's `describe`."""
    for key in ("read", "fitted"):
        if (said := facts.get(key)) is not None:
            yield f"note: {said}"
    if note := note_on_few(facts.get("val_images")):
        yield note
    if isinstance(steps := facts.get("training_steps"), int) and steps < FEW_STEPS:
        few = f"{steps} step{'s' * (steps != 1)}"
        yield f"note: a training has only {few}: little is learnt in so few; give more epochs, or a smaller batch_size"


FEW = 50
"""Fewer validation images hardly tell architectures apart."""
FEW_STEPS = 50
"""In fewer steps most networks learn next to nothing."""


def note_on_few(val_images: object) -> str | None:
    """What the user of so few validation images should know before a search; None: nothing."""
    if not isinstance(val_images, int) or not 0 < val_images < FEW:
        return None
    return (
        f"note: only {val_images} validation images, so accuracies move in steps of {1 / val_images:.2g}: "
        "give more, or a larger part of the training images with -E val_fraction="
    )


# --- sources: each returns its parts ("train", perhaps "val" and "test") and the names of its classes

_Source = tuple[dict[str, Images], tuple[str, ...]]
_Noted = tuple[dict[str, Images], tuple[str, ...], str]
"""The same, and a line on what was read and what was left out."""


def _digits() -> _Source:
    rows = digits()
    pixels = (rows[:, :-1].reshape(-1, 1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    return {"train": Images(pixels, rows[:, -1].astype(np.int64))}, tuple("0123456789")


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


def _npz(path: str, limit: Limit) -> _Noted:
    names, left_out = imagearrays.roles(path, npz_names(path))
    found = read_npz(path, names.values(), limit)
    arrays = {role: found[name] for role, name in names.items()}
    for key in ("x_train", "y_train"):
        if key not in arrays:
            there = ", ".join([*names.values(), *left_out]) or "nothing"
            raise InputError(f"{path}: no array {key!r}; need x_train and y_train, found {there}")
    layout = arrays.pop("layout", None)
    for key in arrays:
        twin = ("y" if key.startswith("x") else "x") + key[1:]
        if key != "classes" and twin not in arrays:
            raise InputError(f"{path}: {key} is there without {twin}")
    parts = {
        key[2:]: Images(
            imagearrays.pixels(f"{path}: {names[key]}", array, layout),
            imagearrays.labels(f"{path}: {names['y' + key[1:]]}", arrays["y" + key[1:]]),
        )
        for key, array in arrays.items()
        if key.startswith("x_")
    }
    train = parts["train"]
    for part, images in parts.items():
        if len(images.x) != len(images.y):
            raise InputError(f"{path}: x_{part} has {len(images.x)} images but y_{part} {len(images.y)} labels")
        if not len(images):
            raise InputError(f"{path}: x_{part} holds no image")
        if images.x.shape[1:] != train.x.shape[1:]:
            raise InputError(f"{path}: images of x_{part} are {_size(images.x)}, those of x_train {_size(train.x)}")

    present = np.unique(train.y)
    if "classes" in arrays:
        classes = imagearrays.class_names(path, arrays["classes"])
        source = f"{path}: classes names {len(classes)}"
    else:
        missing = np.flatnonzero(present != np.arange(len(present)))
        if missing.size:
            raise InputError(
                f"{path}: no training image has label {missing[0]}, but there are higher ones; number the "
                "labels 0, 1, 2, ... without gaps, or name all in an array 'classes'"
            )
        classes = tuple(map(str, range(len(present))))
        source = f"{path}: y_train has {len(classes)}"
    if len(classes) < 2:
        raise InputError(f"{source}; need at least 2 classes")
    for part, images in parts.items():
        if images.y.max() >= len(classes):
            raise InputError(f"{source}: need labels < {len(classes)}, got {images.y.max()} in y_{part}")
    others = [name for name in names.values() if name not in names]
    read = f"{sum(map(len, parts.values())):,} images of {len(classes)} classes"
    remarks = [f"read from {', '.join(others)}"] * bool(others)
    remarks += [f"left out: array {', '.join(short(name, 30) for name in left_out)}"] * bool(left_out)
    return parts, classes, "; ".join([f"{path}: {read}", *remarks])


def _channels(x: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    for channel in range(x.shape[1]):
        yield x[:, channel]


def _size(x: NDArray[np.uint8]) -> str:
    return "x".join(map(str, x.shape[1:]))


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
