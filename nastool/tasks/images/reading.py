"""One image file as an array, as a viewer shows it. Importing this module does not import PIL."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from nastool.core.errors import InputError, short, why
from nastool.core.files import Limit

if TYPE_CHECKING:
    from PIL.Image import Image

_NO_IMAGES = frozenset({"BUFR", "EPS", "FITS", "GRIB", "HDF5", "IPTC", "MPEG", "WMF"})
"""What PIL knows the names of, and cannot read, reads as measurements, or hands to another program."""
_SHARE = 32
"""Of what a data set may take in memory, one image may take so much less, before it is resized."""


@cache
def suffixes() -> frozenset[str]:
    """The file names' ends, in lower case, that stand for an image that the installed PIL can read."""
    from PIL import Image

    Image.init()
    return frozenset(end for end, kind in Image.registered_extensions().items() if kind in _formats())


@cache
def _formats() -> tuple[str, ...]:
    from PIL import Image

    Image.init()
    return tuple(sorted(Image.OPEN.keys() - _NO_IMAGES))


def read_pixels(path: Path, limit: Limit) -> tuple[NDArray[np.uint8], bool]:
    """The image, uint8 (1, H, W) where its format is a grey one without transparency, else (3, H, W); 255 is white.

    As a viewer shows it: turned as its EXIF data say, transparent parts on white, 16 bits a channel scaled to 8. Its
    kind is what it holds, whatever its name says. Colour profiles are ignored. Of several frames or pages the first.
    The second value: there are several.

    InputError: none, damaged, larger than a 32nd of the limit, numbers that are no colours.
    """
    from PIL import Image, ImageOps

    if os.path.exists(path) and not (path.is_file() or path.is_dir()):
        raise InputError(f"{path} is a device or a pipe: an image must be a file")
    try:
        with _bounded(limit), Image.open(path, formats=_formats()) as image:
            # The other frames of an MPO are a photograph's extras, those of a PSD its layers.
            several = image.format not in ("MPO", "PSD") and getattr(image, "n_frames", 1) > 1
            levels = _levels(image)
            inverted = image.format == "TIFF" and levels != 255 and image.tag_v2.get(262) == 0  # type: ignore[attr-defined]
            image.load()
            pixels = _pixels(ImageOps.exif_transpose(image), levels)
            return 255 - pixels if inverted else pixels, several
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    except Image.DecompressionBombError as error:
        found = re.search(r"\d+", str(error))
        size = 3 * int(found[0] if found else 0)
        raise limit.exceeded(f"{path}: the image", size, _SHARE) from None
    except MemoryError:
        raise InputError(f"{path}: too little memory for this image; make it smaller") from None
    except OSError as error:
        if error.errno is not None:
            raise InputError(f"{path}: {why(error)}") from None
        raise _damaged(path, error) from None
    except Exception as error:  # a damaged file makes PIL's readers fail in many ways
        raise _damaged(path, error) from None


def size_of(path: Path) -> tuple[int, int]:
    """Width and height in pixels of an image, as it is stored. InputError: it is none, or damaged."""
    from PIL import Image

    try:
        with _bounded(Limit()), Image.open(path, formats=_formats()) as image:
            return image.size
    except Exception as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> InputError:
    """What is wrong with a file that PIL cannot read."""
    try:
        with open(path, "rb") as file:
            start = file.read(64)
    except OSError:
        start = b"?"
    if not start:
        reason = "is empty"
    elif start.startswith(b"version https://git-lfs"):
        return InputError(f"{path} is a pointer of Git LFS, no image: fetch the images with git lfs pull")
    else:
        reason = "is cut short" if "truncated" in str(error) else "cannot be read as an image"
    return InputError(f"{path}: {reason}; remove or replace it")


@contextmanager
def _bounded(limit: Limit) -> Iterator[None]:
    """PIL refuses images that would take more than their share of the limit, and warns of nothing."""
    from PIL import Image

    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = int(limit.bytes / _SHARE / 3 / 2)  # from twice as many on it is an error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _levels(image: Image) -> int:
    """The number that stands for white. InputError: the file does not say."""
    if image.mode.startswith("I;16"):
        bits = image.tag_v2.get(258, (16,)) if image.format == "TIFF" else (16,)  # type: ignore[attr-defined]
        return (1 << min(bits[0], 16)) - 1
    if image.mode == "I" and image.format in ("PNG", "PPM"):
        return 65535
    if image.mode[0] in "IF":
        kind = "floating-point" if image.mode == "F" else "32-bit or signed"
        raise InputError(f"its pixels are {kind} numbers, none of them known as white; convert it to 8 bits a channel")
    return 255


def _pixels(image: Image, levels: int) -> NDArray[np.uint8]:
    from PIL import Image

    if image.mode[0] == "I":
        values = np.asarray(image).astype(np.float64)
        grey = np.rint(values * (255 / levels)).clip(0, 255).astype(np.uint8)
        hidden = image.info.get("transparency")
        return np.where(values == hidden, np.uint8(255), grey)[None] if isinstance(hidden, int) else grey[None]
    mode = "L" if image.mode in ("1", "L") else "RGB"
    try:
        if image.has_transparency_data:
            drawing = image.convert("RGBA")
            image = Image.new("RGBA", drawing.size, "white")
            image.alpha_composite(drawing)
        array = np.asarray(image.convert(mode))
    except ValueError:
        raise InputError(f"its colours are of mode {short(image.mode)}; convert it to RGB") from None
    return array[None] if mode == "L" else array.transpose(2, 0, 1)


def write_pixels(path: Path, image: NDArray[np.uint8]) -> Path:
    """Writes an image, uint8 (channels, H, W), as its file's name says, folders included. Returns the path."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(path)
    return path


def as_grey(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(3, H, W) -> (1, H, W): ITU-R 601's luma, in PIL's rounding."""
    weights = np.array([19595, 38470, 7471], dtype=np.uint32)
    return ((np.tensordot(weights, image.astype(np.uint32), 1) + 0x8000) >> 16).astype(np.uint8)[None]


def resize(x: NDArray[np.uint8], height: int, width: int) -> NDArray[np.uint8]:
    """uint8 (N, C, H, W) -> (N, C, height, width): bilinear, antialiased."""
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


def read_images(root: Path, paths: list[Path], image_size: int | None, limit: Limit) -> tuple[NDArray[np.uint8], int]:
    """Images of a folder as uint8 (N, C, H, W), C = 1 where all are grey, otherwise 3; how many have several frames.

    Raises:
        SizesDiffer: They have several sizes, and no image_size is given.
    """
    x = np.empty((0, 0, 0, 0), dtype=np.uint8)
    several = 0
    for number, path in enumerate(paths):
        array, has_frames = read_pixels(path, limit)
        several += has_frames
        if image_size is not None and array.shape[1:] != (image_size, image_size):
            array = resize(array[None], image_size, image_size)[0]
        if number == 0 or len(array) > x.shape[1]:  # the first in colour makes all others three channels, too
            limit.check(
                f"{root}: {len(paths):,} images of {'x'.join(map(str, array.shape))}", len(paths) * array.nbytes
            )
        if number == 0:
            x = np.empty((len(paths), *array.shape), dtype=np.uint8)
        elif array.shape[1:] != x.shape[2:]:
            raise SizesDiffer
        elif len(array) > x.shape[1]:
            x = np.repeat(x, len(array), 1)
        x[number] = array
    return x, several


class SizesDiffer(Exception):
    """Images of one folder, not to be resized, have several sizes."""


def common_size(paths: list[Path]) -> int:
    """Height and width in pixels for images of several sizes: the median of their sides, from 8 to 32, in eights."""
    sides = [side for path in paths for side in size_of(path)]
    return int(np.clip(8 * round(float(np.median(sides)) / 8), 8, 32))


def digits() -> NDArray[np.float64]:
    """scikit-learn's digits, (1797, 65): pixels in 0 .. 16, and the label."""
    try:  # its file alone: to import the package takes as long as to import torch
        package = distribution("scikit-learn")
        return np.loadtxt(str(package.locate_file("sklearn/datasets/data/digits.csv.gz")), delimiter=",")
    except (OSError, PackageNotFoundError):
        from sklearn.datasets import load_digits

        return np.column_stack(load_digits(return_X_y=True))
