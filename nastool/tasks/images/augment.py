"""Images resident on a device, served in batches, with batched augmentation.

Every augmentation is a few tensor operations for the whole batch, draws from an explicit generator of the
images' device, and leaves dtype and memory format as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from nastool.core.recipe import Recipe
from nastool.tasks.batches import TensorBatches

if TYPE_CHECKING:
    from nastool.tasks.images.data import ImageData, Images

SLICE = 32 << 20
"""So many bytes at a time are brought into a device's memory format."""


def random_crop(x: Tensor, padding: int, generator: torch.Generator) -> Tensor:
    """Shift each image by up to `padding` pixels in each direction, filling with zeros.

    x: (N, C, H, W), any dtype. The same as padding every side and cropping to H x W at a random place.
    """
    if padding == 0:
        return x
    n, c, h, w = x.shape
    top, left = torch.randint(2 * padding + 1, (2, n, 1), generator=generator, device=x.device)
    padded = F.pad(x, (padding,) * 4)
    if _channels_last(x):  # pixels by number, which takes half the kernel launches
        wide = w + 2 * padding
        pixels = padded.permute(0, 2, 3, 1).reshape(-1, c)
        places = _numbers(n, h, w, padding, x.device) + torch.add(left, top, alpha=wide)[:, :, None]
        return pixels[places].permute(0, 3, 1, 2)
    rows = top + torch.arange(h, device=x.device)
    columns = left + torch.arange(w, device=x.device)
    images, channels = torch.arange(n, device=x.device), torch.arange(c, device=x.device)
    return padded[images[:, None, None, None], channels[:, None, None], rows[:, None, :, None], columns[:, None, None]]


@lru_cache(maxsize=4)
def _numbers(n: int, h: int, w: int, padding: int, device: torch.device) -> Tensor:
    """The numbers of the pixels (n, h, w) of each image's crop at the upper left of the padded one."""
    rows, columns = torch.arange(h, device=device), torch.arange(w, device=device)
    high, wide = h + 2 * padding, w + 2 * padding
    images = torch.arange(n, device=device) * (high * wide)
    return images[:, None, None] + rows[:, None] * wide + columns


def random_flip(x: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror each image left to right with probability 0.5. x: (N, C, H, W), any dtype."""
    flip = torch.rand((len(x), 1, 1, 1), generator=generator, device=x.device) < 0.5
    return torch.where(flip, x.flip(3), x)


def cutout(x: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Zero a square of size x size pixels around a random pixel of each image (DeVries & Taylor 2017).

    x: (N, C, H, W), any dtype. What of the square lies outside the image is cut off, as in the paper.
    """
    if size == 0:
        return x
    n, _, h, w = x.shape

    def inside(length: int) -> Tensor:
        """(N, length) bool: which coordinates the squares cover."""
        start = torch.randint(length, (n, 1), generator=generator, device=x.device) - size // 2
        place = torch.arange(length, device=x.device)
        return (place >= start) & (place < start + size)

    return torch.where((inside(h)[:, :, None] & inside(w)[:, None, :])[:, None], 0, x)


def _channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _resident(x: Tensor, device: torch.device, memory_format: torch.memory_format) -> Tensor:
    """x, of the CPU, in that format on the device, where it takes no more memory meanwhile than afterwards."""
    if device.type == "cpu":
        return x.contiguous(memory_format=memory_format)
    found = torch.empty(x.shape, dtype=x.dtype, device=device, memory_format=memory_format)
    rows = max(1, SLICE * len(x) // max(1, x.nbytes))
    for start in range(0, len(x), rows):
        part = x[start : start + rows]
        found[start : start + rows].copy_(part.contiguous(memory_format=memory_format))
    return found


class ImageBatches(TensorBatches):
    """One part of a data set, resident on a device as uint8; batches are normalised there.

    A batch is images (N, C, H, W) float32, each channel less its mean and divided by its standard deviation,
    and labels (N,) int64.
    """

    def __init__(
        self,
        data: ImageData,
        images: Images,
        device: torch.device,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> None:
        self.x = _resident(torch.from_numpy(images.x), device, memory_format)
        self.y = torch.from_numpy(images.y).to(device)
        super().__init__(self.x, self.y)
        self.at_once = max(1, min(512, 512 * 32 * 32 // math.prod(self.x.shape[2:])))
        mean, std = (torch.from_numpy(v).to(device).reshape(1, -1, 1, 1) for v in (data.mean, data.std))
        self._scale, self._shift = 1 / (255 * std), -mean / std

    def at(self, places: Tensor | slice) -> tuple[Tensor, Tensor]:
        """The images at these places, not augmented, and their labels."""
        return self._normalized(self.x[places]), self.y[places]

    def augmented(self, places: Tensor, recipe: Recipe, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """The same, cropped, mirrored and blanked as the recipe says. Crops are filled with black."""
        x = random_crop(self.x[places], recipe.crop_padding, generator)
        if recipe.flip:
            x = random_flip(x, generator)
        return cutout(self._normalized(x), recipe.cutout, generator), self.y[places]

    def pixels(self, parts: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, in order, as pixels (N, C, H, W) float32 in [0, 1], and labels. parts: as of `in_order`."""
        size = max(1, self.at_once // parts)
        for start in range(0, len(self), size):
            yield self.x[start : start + size].to(self._shift.dtype) / 255, self.y[start : start + size]

    def of_pixels(self, x: Tensor) -> Tensor:
        """Pixels in [0, 1], normalised as networks read them; the gradient goes on to them."""
        return self._normalized(x * 255)

    def _normalized(self, x: Tensor) -> Tensor:
        return torch.addcmul(self._shift, x.to(self._shift.dtype), self._scale)
