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
from hashlib import blake2b, blake2s
from pathlib import Path
from sys import stderr
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nastool.errors import InputError, hint, one_line
from nastool.files import read_npz
from nastool.tasks import ImageTask

if TYPE_CHECKING:
    from PIL.Image import Image

DATASETS: Mapping[str, str] = {
    "digits": "1,797 handwritten digits, 1x8x8, 10 classes; built in (scikit-learn)",
    "cifar10": "60,000 photographs, 3x32x32, 10 classes (torchvision)",
    "cifar100": "60,000 photographs, 3x32x32, 100 classes (torchvision)",
    "mnist": "70,000 handwritten digits, 1x28x28, 10 classes (torchvision)",
    "fashion-mnist": "70,000 pieces of clothing, 1x28x28, 10 classes (torchvision)",
    "svhn": "99,289 house numbers, 3x32x32, 10 classes (torchvision)",
    "npz:FILE": "arrays x_train, y_train and optionally x_val, y_val, x_test, y_test, classes",
    "folder:DIR": "one folder of images a class: DIR/CLASS/*.png or DIR/{train,val,test}/CLASS/*.png",
}
"""Name to one-line description of everything that `load` reads."""

_TORCHVISION = {
    "cifar10": "CIFAR10",
    "cifar100": "CIFAR100",
    "mnist": "MNIST",
    "fashion-mnist": "FashionMNIST",
    "svhn": "SVHN",
}
_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".ppm", ".pgm")
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
class ImageData:
    """A data set, split.

    val is empty only where all of its images are trained on. test is None only where the source has too few images to
    hold any out.
    """

    name: str
    train: Images
    val: Images
    test: Images | None
    classes: tuple[str, ...]
    task: ImageTask
    digest: str = ""
    """16 hexadecimal digits that name all images of the source, their labels and classes, however they are split."""

    @cached_property
    def fingerprint(self) -> str:
        """8 hexadecimal digits that name the images, labels and split."""
        digest = blake2s(digest_size=4)
        for part in (self.train, self.val, self.test):
            if part is not None:
                digest.update(np.ascontiguousarray(part.x).data)
                digest.update(np.ascontiguousarray(part.y).data)
        return digest.hexdigest()

    @cached_property
    def mean(self) -> NDArray[np.float32]:
        """Mean of each channel over the training images, (C,) float32 in [0, 1]."""
        return self._moments[0]

    @cached_property
    def std(self) -> NDArray[np.float32]:
        """Standard deviation of each channel over the training images, (C,) float32, at least 1/255."""
        return self._moments[1]

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
    split_seed: int = 0,
    val_fraction: float | None = None,
    train_size: int | None = None,
    image_size: int | None = None,
) -> None:
    """Raise InputError for what is wrong with `load`'s arguments whatever the files hold. Reads nothing."""
    kind, colon, path = name.partition(":")
    if not (name in _TORCHVISION or name == "digits" or (kind in ("npz", "folder") and colon and path)):
        raise InputError(f"no data set {name!r}; {hint(name, DATASETS)}")
    if split_seed < 0:
        raise InputError(f"need split_seed >= 0, got {split_seed}")
    if val_fraction is not None and not 0 < val_fraction < 1:
        raise InputError(f"need 0 < val_fraction < 1, got {val_fraction}")
    if train_size is not None and train_size < 2:
        raise InputError(f"need train_size >= 2, got {train_size}")
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
    all_data: bool = False,
) -> ImageData:
    """Read a data set and split it.

    name: a key of `DATASETS`, with FILE or DIR replaced by a path.
    data_dir: where torchvision's files are or go, by default ~/.cache/nastool (XDG_CACHE_HOME is obeyed).
    download: fetch what is missing there.
    split_seed: >= 0; decides which training images are for validation and which `train_size` keeps.
    val_fraction: in (0, 1), of the training images; by default 0.1, and 0.25 for digits. Not to be given
        where the source brings its own validation images.
    train_size: keep only so many training images, at least 2, drawn after the split.
    image_size: resize to so many pixels squared, 1 .. 1024 (bilinear, antialiased).
    all_data: the validation images are training images, too, and none is left for validation.

    The test images are the source's, or else a fifth of its images, the same ones whatever the options.
    All draws are stratified: each class in proportion, and in every part where it has the images for it.
    InputError, in one line, for everything that can be wrong with the arguments or the files.
    """
    check_options(name, split_seed=split_seed, val_fraction=val_fraction, train_size=train_size, image_size=image_size)
    kind, _, path = name.partition(":")
    path = os.path.expanduser(path)
    if name == "digits":
        parts, classes = _digits()
    elif kind == "npz":
        parts, classes = _npz(path)
    elif kind == "folder":
        parts, classes = _folder(path, image_size)
    else:
        parts, classes = _torchvision(name, data_dir, download)
    if image_size is not None:
        parts = {part: Images(_resize(images.x, image_size, image_size), images.y) for part, images in parts.items()}
    digest = _digest(parts, classes)

    train, val, test = parts["train"], parts.get("val"), parts.get("test")
    if len(train) < 2:
        raise InputError(f"{name}: need at least 2 training images, found {len(train)}")
    if test is None:
        train, test = _split(train, _TEST_FRACTION, np.random.default_rng(_TEST_SEED))
    if val is None:
        fraction = val_fraction or (0.25 if name == "digits" else 0.1)
        train, val = _split(train, fraction, np.random.default_rng([split_seed, 0]))
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
        train = train[_draw(train.y, train_size, np.random.default_rng([split_seed, 1]))]
    _, channels, height, width = train.x.shape
    return ImageData(
        name=name,
        train=train,
        val=val,
        test=test if len(test) else None,
        classes=classes,
        task=ImageTask(channels, height, width, len(classes)),
        digest=digest,
    )


def _digest(parts: Mapping[str, Images], classes: tuple[str, ...]) -> str:
    """See `ImageData.digest`."""
    digest = blake2b(repr(classes).encode(errors="surrogatepass"), digest_size=8)
    for name, part in sorted(parts.items()):
        digest.update(f"{name} {part.x.shape}".encode())
        digest.update(np.ascontiguousarray(part.x).data)
        digest.update(np.ascontiguousarray(part.y).data)
    return digest.hexdigest()


FEW = 50
"""Fewer validation images hardly tell architectures apart."""


def note_on_few(val_images: object) -> str | None:
    """What the user of so few validation images should know before a search; None: nothing."""
    if not isinstance(val_images, int) or not 0 < val_images < FEW:
        return None
    return (
        f"note: only {val_images} validation images, so accuracies move in steps of {1 / val_images:.2g}: "
        "give more, or a larger part of the training images with -E val_fraction="
    )


# --- splitting


def _split(images: Images, fraction: float, rng: np.random.Generator) -> tuple[Images, Images]:
    """The rest and a stratified fraction, or one image of each class if that is more (and can be spared)."""
    count = max(round(fraction * len(images)), len(np.unique(images.y)))
    drawn = _draw(images.y, count, rng, leave=1)
    kept = np.ones(len(images), dtype=bool)
    kept[drawn] = False
    return images[np.flatnonzero(kept)], images[drawn]


def _draw(y: NDArray[np.int64], count: int, rng: np.random.Generator, leave: int = 0) -> NDArray[np.intp]:
    """Indices of count images, ascending: each class in proportion (largest remainders).

    Takes at least one of each class where count allows and leaves at least `leave` of each; fewer than count
    are drawn only where that demands it.
    """
    # In random order, so that no class is favoured where remainders tie.
    members = [np.flatnonzero(y == label) for label in rng.permutation(np.unique(y))]
    sizes = np.array([len(m) for m in members])
    most = np.maximum(sizes - leave, 0)
    least = np.minimum(most, 1 if count >= len(sizes) else 0)
    quota = count * sizes / sizes.sum()
    take = np.clip(np.floor(quota).astype(np.intp), least, most)
    count = min(count, int(most.sum()))
    while (short := count - int(take.sum())) != 0:
        step = 1 if short > 0 else -1
        free = take < most if step > 0 else take > least
        take[np.argmax(np.where(free, step * (quota - take), -np.inf))] += step
    drawn = [rng.permutation(m)[:n] for m, n in zip(members, take, strict=True)]
    return np.sort(np.concatenate(drawn))


# --- sources: each returns its parts ("train", perhaps "val" and "test") and the names of its classes

_Source = tuple[dict[str, Images], tuple[str, ...]]


def _digits() -> _Source:
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)  # float64 (1797, 64), 0 .. 16
    pixels = (x.reshape(-1, 1, 8, 8) * (255 / 16)).round().astype(np.uint8)
    return {"train": Images(pixels, y.astype(np.int64))}, tuple("0123456789")


def _torchvision(name: str, data_dir: str | None, download: bool) -> _Source:
    from torchvision import datasets

    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nastool"
    root = Path(data_dir).expanduser() if data_dir else cache
    kind = getattr(datasets, _TORCHVISION[name])

    def read(train: bool) -> tuple[Images, tuple[str, ...]]:
        part: dict[str, Any] = {"split": "train" if train else "test"} if name == "svhn" else {"train": train}
        with redirect_stdout(stderr), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # numpy's, about how the published files were pickled
            source = kind(root, download=download, **part)
        x = np.asarray(source.data)
        y = np.asarray(source.labels if name == "svhn" else source.targets, dtype=np.int64)
        channels_first = x if name == "svhn" else _channels_first(x)
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


def _npz(path: str) -> _Source:
    arrays = read_npz(path, ("x_train", "y_train", "x_val", "y_val", "x_test", "y_test", "classes"))
    for key in ("x_train", "y_train"):
        if key not in arrays:
            found = ", ".join(arrays) or "nothing"
            raise InputError(f"{path}: no array {key!r}; need x_train and y_train, found {found}")
    for key in arrays:
        twin = ("y" if key.startswith("x") else "x") + key[1:]
        if key != "classes" and twin not in arrays:
            raise InputError(f"{path}: {key} is there without {twin}")
    parts = {
        key[2:]: Images(_pixels(f"{path}: {key}", array), _labels(f"{path}: y{key[1:]}", arrays["y" + key[1:]]))
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
        classes = _class_names(path, arrays["classes"])
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
    return parts, classes


def _pixels(what: str, x: NDArray[Any]) -> NDArray[np.uint8]:
    """Images of any accepted layout and dtype as uint8 (N, C, H, W)."""
    if x.ndim not in (3, 4) or 0 in x.shape[1:]:
        raise InputError(f"{what}: need images (N, H, W), (N, H, W, C) or (N, C, H, W), got shape {x.shape}")
    if np.issubdtype(x.dtype, np.floating):
        if not (np.isfinite(x).all() and x.min(initial=0) >= 0 and x.max(initial=1) <= 1):
            raise InputError(f"{what}: need finite values in [0, 1] in {x.dtype} images; divide by 255, or give uint8")
        x = (x * x.dtype.type(255)).round().astype(np.uint8)
    if x.dtype != np.uint8:
        raise InputError(f"{what}: need uint8, or float in [0, 1], got {x.dtype}")
    return np.ascontiguousarray(_channels_first(x))


def _labels(what: str, y: NDArray[Any]) -> NDArray[np.int64]:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        raise InputError(f"{what}: need whole numbers of shape (N,), got {y.dtype} {y.shape}")
    if y.min(initial=0) < 0:
        raise InputError(f"{what}: need labels >= 0, got {y.min()}")
    if y.max(initial=0) > 1_000_000:
        raise InputError(f"{what}: need labels <= 1000000, got {y.max()}")
    return y.astype(np.int64)


def _class_names(path: str, names: NDArray[Any]) -> tuple[str, ...]:
    classes = tuple(map(str, names.ravel()))
    if names.ndim != 1 or names.dtype.kind != "U" or len(set(classes)) != len(classes):
        raise InputError(f"{path}: classes must be strings of shape (K,) that differ, got {names.dtype} {names.shape}")
    return classes


def _channels_first(x: NDArray[Any]) -> NDArray[Any]:
    """(N, H, W), (N, H, W, C) or (N, C, H, W) as (N, C, H, W); the shorter of the two axes is C."""
    if x.ndim == 3:
        return x[:, None]
    return x if x.shape[1] < x.shape[3] else x.transpose(0, 3, 1, 2)


def _channels(x: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    for channel in range(x.shape[1]):
        yield x[:, channel]


def _size(x: NDArray[np.uint8]) -> str:
    return "x".join(map(str, x.shape[1:]))


# --- folders of images


def _folder(path: str, image_size: int | None) -> _Source:
    root = Path(path)
    if not root.is_dir():
        raise InputError(f"no folder {path}: give folder:DIR, with one folder of images a class")
    roots = {part: root / part for part in ("train", "val", "test") if (root / part).is_dir()}
    if "train" not in roots:
        roots = {"train": root}
    classes = tuple(_class_folders(roots["train"]))
    if len(classes) < 2:
        raise InputError(f"{roots['train']}: need at least 2 classes, one folder of images each, found {len(classes)}")
    paths: dict[str, list[Path]] = {}
    labels: dict[str, list[int]] = {}
    for part, folder in roots.items():
        paths[part], labels[part] = [], []
        for name in _class_folders(folder):
            if name not in classes:
                raise InputError(f"{folder / name}: no class {name!r} in {roots['train']}")
            files = sorted(f for f in (folder / name).iterdir() if f.suffix.lower() in _SUFFIXES)
            if not files:
                raise InputError(f"{folder / name}: no image in this class folder ({' '.join(_SUFFIXES)})")
            paths[part] += files
            labels[part] += [classes.index(name)] * len(files)
        if not paths[part]:
            raise InputError(f"{folder}: no class folder in it; fill it, or remove it")
    pixels = _read_images([file for part in paths for file in paths[part]], image_size)
    parts = {}
    start = 0
    for part, files in paths.items():
        parts[part] = Images(pixels[start : start + len(files)], np.array(labels[part], dtype=np.int64))
        start += len(files)
    return parts, classes


def _class_folders(folder: Path) -> list[str]:
    return sorted(f.name for f in folder.iterdir() if f.is_dir() and not f.name.startswith("."))


def _read_images(paths: list[Path], image_size: int | None) -> NDArray[np.uint8]:
    """uint8 (N, C, H, W); C = 1 where all are grey, otherwise 3."""
    arrays: list[NDArray[np.uint8]] = []
    for path in paths:
        array = _read(path)
        if image_size is not None:
            array = _resize(array[None], image_size, image_size)[0]
        elif arrays and array.shape[1:] != arrays[0].shape[1:]:
            (h, w), (first_h, first_w) = array.shape[1:], arrays[0].shape[1:]
            raise InputError(
                f"{path} is {w}x{h} pixels but {paths[0]} {first_w}x{first_h}: resize all to NxN with "
                "-E image_size=N (in Python evaluator_options={'image_size': N})"
            )
        arrays.append(array)
    channels = max(len(array) for array in arrays)
    return np.stack([np.broadcast_to(array, (channels, *array.shape[1:])) for array in arrays])


def _read(path: Path) -> NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return _as_array(image)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise InputError(f"{path}: {error.strerror}") from error
        raise InputError(f"{path}: cannot be read as an image; remove or replace it") from error


def read_image(path: Path, task: ImageTask) -> NDArray[np.uint8]:
    """An image file as a task's networks see it: uint8 (channels, height, width), resized where it has another size.

    A grey image becomes three equal channels, a colour one grey (ITU-R 601), as needed. InputError: it is none.
    """
    array = _read(path)
    if task.channels == 1 and len(array) == 3:
        array = np.rint(np.tensordot([0.299, 0.587, 0.114], array, 1))[None].astype(np.uint8)
    elif task.channels != len(array):
        if len(array) != 1:
            raise InputError(f"{path} has {len(array)} channels, the network needs {task.channels}")
        array = np.repeat(array, task.channels, 0)
    if array.shape[1:] != (task.height, task.width):
        array = _resize(array[None], task.height, task.width)[0]
    return array


def _as_array(image: Image) -> NDArray[np.uint8]:
    """uint8 (1, H, W) for a grey image, (3, H, W) for any other."""
    if image.mode in ("1", "L"):
        return np.asarray(image.convert("L"))[None]
    if image.mode[0] in "IF":
        raise InputError(f"image of mode {image.mode}; convert it to 8 bits a channel")
    if image.mode == "P":
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB")).transpose(2, 0, 1)


def _resize(x: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """uint8 (N, C, H, W) -> (N, C, height, width)."""
    import torch
    from torch.nn.functional import interpolate

    chunks = [
        interpolate(torch.from_numpy(chunk.copy()).float(), (height, width), mode="bilinear", antialias=True)
        .round()
        .clamp(0, 255)
        .to(torch.uint8)
        .numpy()
        for chunk in np.array_split(x, max(1, len(x) // 1000))
    ]
    return np.concatenate(chunks)
