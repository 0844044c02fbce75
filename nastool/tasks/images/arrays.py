"""Arrays as images and labels: their names, layouts and types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nastool.core.errors import InputError, short
from nastool.tasks.images.folder import PARTS

_KINDS = {
    **dict.fromkeys(("x", "image", "images"), "x"),
    **dict.fromkeys(("y", "label", "labels", "target", "targets"), "y"),
}


def roles(path: str, names: Sequence[str]) -> tuple[dict[str, str], list[str]]:
    """x_train, y_train, ... "classes" and "layout" to the name of the array that is it; and the names of all others.

    Other common names of these are taken where their meaning is plain: X_train, train_images, x_valid, labels_test.
    InputError: two mean the same.
    """
    exact = {"layout", "classes", *(f"{kind}_{part}" for kind in "xy" for part in ("train", "val", "test"))}
    roles = {name: name for name in names if name in exact}
    left_out = []
    for name in names:
        words = name.lower().split("_")
        kinds = [_KINDS[word] for word in words if word in _KINDS]
        parts = [PARTS[word] for word in words if word in PARTS]
        if name in exact:
            continue
        if len(kinds) != 1 or len(parts) > 1 or len(words) != 1 + len(parts):
            left_out.append(name)
            continue
        role = f"{kinds[0]}_{parts[0] if parts else 'train'}"
        if role in roles:
            if parts:
                raise InputError(f"{path}: {roles[role]} and {name} mean the same: keep one")
            left_out.append(name)
        else:
            roles[role] = name
    return roles, left_out


def pixels(what: str, x: NDArray[Any], layout: NDArray[Any] | None) -> NDArray[np.uint8]:
    """Images of any accepted layout and dtype as uint8 (N, C, H, W). layout: "NHWC" or "NCHW", where that is given."""
    if x.ndim not in (3, 4) or 0 in x.shape[1:]:
        raise InputError(f"{what}: need images (N, H, W), (N, H, W, C) or (N, C, H, W), got shape {x.shape}")
    if np.issubdtype(x.dtype, np.floating):
        if not (np.isfinite(x).all() and x.min(initial=0) >= 0 and x.max(initial=1) <= 1):
            raise InputError(f"{what}: need finite values in [0, 1] in {x.dtype} images; divide by 255, or give uint8")
        if 0 < x.max(initial=0) <= 1.01 / 255:
            raise InputError(f"{what}: no value is above 1/255, as if divided by 255 twice; divide once, or give uint8")
        x = (x * x.dtype.type(255)).round().astype(np.uint8)
    if x.dtype != np.uint8:
        remedy = "" if x.dtype.kind not in "iub" else "; save 0 .. 255 as x.astype('uint8')"
        raise InputError(f"{what}: need uint8, or float in [0, 1], got {x.dtype}{remedy}")
    if x.ndim == 3:
        return np.ascontiguousarray(x[:, None])
    if layout is not None and str(layout) not in ("NHWC", "NCHW"):
        raise InputError(f"{what}: array layout must be 'NHWC' or 'NCHW', got {short(layout)!r}")
    first = _channels_come_first(x.shape[1:]) if layout is None else str(layout) == "NCHW"
    if first is None:
        raise InputError(
            f"{what}: shape {x.shape} may be (N, H, W, C) or (N, C, H, W): add an array layout='NHWC' or 'NCHW'"
        )
    return np.ascontiguousarray(x if first else x.transpose(0, 3, 1, 2))


def _channels_come_first(shape: tuple[int, ...]) -> bool | None:
    """Whether images of this shape, three axes, are (C, H, W) and not (H, W, C); None: they may be either."""
    first, middle, last = shape
    if first == middle == last == 1:
        return True
    for meant in (
        (first in (1, 3), last in (1, 3)),  # grey or colour
        (middle == last, first == middle),  # square images
        (first <= 4, last <= 4),
    ):
        if meant[0] != meant[1]:
            return meant[0]
    return None


def labels(what: str, y: NDArray[Any]) -> NDArray[np.int64]:
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or not np.issubdtype(y.dtype, np.integer):
        remedy = ""
        if y.ndim == 2:
            remedy = "; if they are one-hot, save y.argmax(1)"
        elif y.ndim == 1 and y.dtype.kind in "US":
            remedy = "; save classes, y = numpy.unique(y, return_inverse=True)"
        elif y.ndim == 1 and (y.dtype.kind == "b" or (y.dtype.kind == "f" and (y == np.rint(y)).all())):
            remedy = "; save y.astype(int)"
        raise InputError(f"{what}: need whole numbers of shape (N,), got {y.dtype} {y.shape}{remedy}")
    if y.min(initial=0) < 0:
        raise InputError(f"{what}: need labels >= 0, got {y.min()}")
    if y.max(initial=0) > 1_000_000:
        raise InputError(f"{what}: need labels <= 1000000, got {y.max()}")
    return y.astype(np.int64)


def class_names(path: str, names: NDArray[Any]) -> tuple[str, ...]:
    classes = tuple(map(str, names.ravel()))
    if names.ndim != 1 or names.dtype.kind != "U" or len(set(classes)) != len(classes):
        raise InputError(f"{path}: classes must be strings of shape (K,) that differ, got {names.dtype} {names.shape}")
    return classes
