"""Images resident on a device, served in batches, with batched augmentation.

Every augmentation is a few tensor operations for the whole batch, draws from an explicit generator of the
images' device, and leaves dtype and memory format as they are.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from nastool.core.recipe import Recipe

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


class ImageBatches:
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
        self._images = images.x
        self.x = _resident(torch.from_numpy(images.x), device, memory_format)
        self.y = torch.from_numpy(images.y).to(device)
        self.device = device
        mean, std = (torch.from_numpy(v).to(device).reshape(1, -1, 1, 1) for v in (data.mean, data.std))
        self._scale, self._shift = 1 / (255 * std), -mean / std

    def __len__(self) -> int:
        return len(self.y)

    def steps(self, batch_size: int) -> int:
        """The number of batches of `train`."""
        return max(1, len(self) // batch_size)

    def train(self, recipe: Recipe, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch in random order, augmented as the recipe says.

        An incomplete last batch is dropped, unless it is the only one. Crops are filled with black.
        generator: of this device.
        """
        order = torch.randperm(len(self), generator=generator, device=self.device)
        for step in range(self.steps(recipe.batch_size)):
            indices = order[step * recipe.batch_size : (step + 1) * recipe.batch_size]
            x = random_crop(self.x[indices], recipe.crop_padding, generator)
            if recipe.flip:
                x = random_flip(x, generator)
            yield cutout(self._normalized(x), recipe.cutout, generator), self.y[indices]

    def batch(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """The images of these indices (n,) int64, of any device, not augmented, and their labels."""
        indices = indices.to(self.device)
        return self._normalized(self.x[indices]), self.y[indices]

    def some(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """n images drawn at random, not augmented; all where there are fewer. generator: of the CPU."""
        return self.batch(torch.randperm(len(self), generator=generator)[:n])

    def minibatches(self, batch_size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Images, not augmented, in an order drawn anew whenever they are used up; without end.

        generator: of the CPU.
        """
        size = min(batch_size, len(self))
        while True:
            order = torch.randperm(len(self), generator=generator)
            for start in range(0, len(order) - size + 1, size):
                yield self.batch(order[start : start + size])

    def in_order(self, batch_size: int | None = None, parts: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, in order, not augmented.

        batch_size: by default 512 of 32x32 pixels, fewer if larger, and of these the parts-th part.
        """
        batch_size = batch_size or max(1, min(512, 512 * 32 * 32 // self.x[0, 0].numel()) // parts)
        for start in range(0, len(self), batch_size):
            batch = slice(start, start + batch_size)
            yield self._normalized(self.x[batch]), self.y[batch]

    def mixed(self, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Every image once, not augmented, in batches for networks whose output depends on the batch.

        The order is that of the images' digests: at random, always the same, and whatever order the files were in
        (folders are sorted by class). Batches are as equal in size as can be, of batch_size to 2 batch_size - 1
        images; one batch where there are fewer images.
        """
        for indices in self._by_digest.tensor_split(self.steps(batch_size)):
            yield self.batch(indices)

    @cached_property
    def _by_digest(self) -> Tensor:
        """The indices of all images, (n,) int64."""
        digests = [blake2b(image.tobytes(), digest_size=8).digest() for image in self._images]
        return torch.tensor(sorted(range(len(self)), key=digests.__getitem__), device=self.device)

    def _normalized(self, x: Tensor) -> Tensor:
        return torch.addcmul(self._shift, x.to(self._shift.dtype), self._scale)
