"""Arrays as images: their layouts and types."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from nastool.core.errors import InputError, short


def pixels(what: str, x: NDArray[Any], layout: NDArray[Any] | None) -> NDArray[np.uint8]:
    """Images of any accepted layout and dtype as uint8 (N, C, H, W). layout: "NHWC" or "NCHW", where that is given."""
    if x.ndim not in (3, 4) or 0 in x.shape[1:]:
        flat = "; signals are signals:FILE, tables tabular:FILE" if x.ndim == 2 else ""
        raise InputError(f"{what}: need images (N, H, W), (N, H, W, C) or (N, C, H, W), got shape {x.shape}{flat}")
    if np.issubdtype(x.dtype, np.floating):
        if not (np.isfinite(x).all() and x.min(initial=0) >= 0 and x.max(initial=1) <= 1):
            other = "; signals are signals:FILE" if x.ndim == 3 else ""
            raise InputError(
                f"{what}: need finite values in [0, 1] in {x.dtype} images; divide by 255, or give uint8{other}"
            )
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
