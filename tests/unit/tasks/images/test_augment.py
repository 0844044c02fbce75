"""nastool.tasks.images.augment: each augmentation against its definition, image by image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nastool.core.recipe import Recipe
from nastool.tasks.images.augment import ImageBatches, cutout, random_crop, random_flip
from nastool.tasks.images.data import ImageData, Images
from nastool.tasks.images.task import ImageTask

FORMATS = [torch.contiguous_format, torch.channels_last]
PLAIN = Recipe(epochs=1, batch_size=4, crop_padding=0, flip=False, cutout=0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def images(n: int = 50, c: int = 3, h: int = 6, w: int = 5) -> Tensor:
    """Pixels >= 1, so that a zero was filled in."""
    return torch.randint(1, 256, (n, c, h, w), generator=generator(7), dtype=torch.uint8)


def shifted(image: Tensor, down: int, right: int) -> Tensor:
    """image (C, H, W) moved by whole pixels, zeros where nothing moved to."""
    out = torch.zeros_like(image)
    _, h, w = image.shape
    for y in range(h):
        for x in range(w):
            if 0 <= y - down < h and 0 <= x - right < w:
                out[:, y, x] = image[:, y - down, x - right]
    return out


def augmentations() -> list[Callable[[Tensor, torch.Generator], Tensor]]:
    return [
        lambda x, g: random_crop(x, 2, g),
        random_flip,
        lambda x, g: cutout(x, 3, g),
    ]


@pytest.mark.parametrize("memory_format", FORMATS)
@pytest.mark.parametrize("augment", augmentations(), ids=["crop", "flip", "cutout"])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_keeps_shape_dtype_and_memory_format(
    augment: Callable[[Tensor, torch.Generator], Tensor],
    memory_format: torch.memory_format,
    dtype: torch.dtype,
) -> None:
    x = images().to(dtype).contiguous(memory_format=memory_format)
    before = x.clone()
    out = augment(x, generator())
    assert (out.shape, out.dtype) == (x.shape, x.dtype)
    assert out.is_contiguous(memory_format=memory_format)
    assert torch.equal(x, before), "the input was changed"


@pytest.mark.parametrize("augment", augmentations(), ids=["crop", "flip", "cutout"])
def test_the_generator_decides_and_the_memory_format_does_not(
    augment: Callable[[Tensor, torch.Generator], Tensor],
) -> None:
    x = images()
    assert torch.equal(augment(x, generator(1)), augment(x, generator(1)))
    assert not torch.equal(augment(x, generator(1)), augment(x, generator(2)))
    last = augment(x.contiguous(memory_format=torch.channels_last), generator(1))
    assert torch.equal(augment(x, generator(1)), last)


@pytest.mark.parametrize("memory_format", FORMATS)
@given(
    h=st.integers(1, 6),
    w=st.integers(1, 6),
    c=st.integers(1, 3),
    padding=st.integers(1, 4),
    seed=st.integers(0, 1000),
)
@settings(max_examples=25)
def test_a_crop_is_a_shifted_copy(
    memory_format: torch.memory_format, h: int, w: int, c: int, padding: int, seed: int
) -> None:
    x = images(3, c, h, w).contiguous(memory_format=memory_format)
    moves = [(y, z) for y in range(-padding, padding + 1) for z in range(-padding, padding + 1)]
    for before, after in zip(x, random_crop(x, padding, generator(seed)), strict=True):
        assert any(torch.equal(after, shifted(before, *move)) for move in moves)


def test_every_shift_occurs_about_equally_often() -> None:
    x = torch.zeros(9000, 1, 3, 3, dtype=torch.uint8)
    x[:, :, 1, 1] = 1
    counts = random_crop(x, 1, generator()).sum(0)[0]
    assert counts.sum() == 9000
    assert (counts - 1000).abs().max() < 150  # 5 standard deviations


def test_no_padding_is_no_crop() -> None:
    x = images()
    assert random_crop(x, 0, generator()) is x


def test_a_flip_mirrors_about_half_of_the_images() -> None:
    x = images(1000)
    out = random_flip(x, generator())
    mirrored = [torch.equal(b, a.flip(2)) for a, b in zip(x, out, strict=True)]
    assert all(m or torch.equal(a, b) for m, a, b in zip(mirrored, x, out, strict=True))
    assert 420 < sum(mirrored) < 580


@pytest.mark.parametrize(("size", "least"), [(1, 1), (2, 1), (3, 4), (4, 4)])
def test_cutout_blanks_one_square_cut_at_the_border(size: int, least: int) -> None:
    x = images(500)
    blank = cutout(x, size, generator()) == 0
    assert torch.equal(torch.where(blank, 0, x), cutout(x, size, generator()))
    areas = set()
    for image in blank:
        assert torch.equal(image[0], image[1]) and torch.equal(image[0], image[2])
        rows, columns = image[0].any(1), image[0].any(0)
        assert torch.equal(image[0], rows[:, None] & columns)
        assert rows.sum() <= size and columns.sum() <= size
        areas.add(int(image[0].sum()))
    assert max(areas) == size * size and min(areas) == least


def test_no_size_is_no_cutout() -> None:
    x = images()
    assert cutout(x, 0, generator()) is x


def part(n: int) -> tuple[ImageData, ImageBatches]:
    """n distinguishable images: image i has the value i everywhere."""
    x = np.broadcast_to(np.arange(n, dtype=np.uint8)[:, None, None, None], (n, 1, 2, 2)).copy()
    all_images = Images(x, np.arange(n))
    data = ImageData("t", all_images, all_images, None, tuple(map(str, range(n))), ImageTask(1, 2, 2, n))
    return data, ImageBatches(data, all_images, torch.device("cpu"))


def test_batches_are_normalized_with_the_training_mean_and_std() -> None:
    data, batches = part(10)
    (x, y), *rest = batches.in_order(100)
    assert not rest and y.tolist() == list(range(10))
    expected = (torch.arange(10) / 255 - float(data.mean[0])) / float(data.std[0])
    assert torch.allclose(x[:, 0, 0, 0], expected, atol=1e-5)
    assert abs(float(x.mean())) < 1e-5 and abs(float(x.std(correction=0)) - 1) < 1e-5


@pytest.mark.parametrize(("n", "batch_size", "sizes"), [(10, 4, [4, 4]), (8, 4, [4, 4]), (3, 4, [3]), (4, 4, [4])])
def test_an_epoch_has_each_image_at_most_once_and_only_full_batches(n: int, batch_size: int, sizes: list[int]) -> None:
    data, batches = part(n)
    recipe = PLAIN.replace(batch_size=batch_size)
    epoch = list(batches.train(recipe, generator()))
    assert [len(y) for _, y in epoch] == sizes and batches.steps(recipe) == len(sizes)
    labels = [int(label) for _, y in epoch for label in y]
    assert len(set(labels)) == len(labels)
    for x, y in epoch:  # images and labels stay together
        pixels = (x[:, 0, 0, 0] * float(data.std[0]) + float(data.mean[0])) * 255
        assert pixels.round().long().tolist() == y.tolist()


def test_epochs_differ_in_order_and_the_generator_decides() -> None:
    _, batches = part(20)
    source = generator(3)
    first, second = ([y.tolist() for _, y in batches.train(PLAIN, source)] for _ in range(2))
    assert first != second
    assert first == [y.tolist() for _, y in batches.train(PLAIN, generator(3))]


@pytest.mark.parametrize("change", [{"crop_padding": 1}, {"flip": True}, {"cutout": 1}])
def test_only_what_the_recipe_says_is_augmented(change: dict[str, int | bool]) -> None:
    x = images(40, 1, 4, 4).numpy()
    all_images = Images(x, np.arange(40))
    data = ImageData("t", all_images, all_images, None, tuple(map(str, range(40))), ImageTask(1, 4, 4, 40))
    batches = ImageBatches(data, all_images, torch.device("cpu"))
    (plain, _), *_ = batches.in_order()

    def changed(recipe: Recipe) -> bool:
        return any(not torch.equal(x, plain[y]) for x, y in batches.train(recipe, generator()))

    assert not changed(PLAIN)
    assert changed(PLAIN.replace(**change))


def test_in_order_covers_everything_in_batches() -> None:
    _, batches = part(10)
    sizes = [(len(x), y.tolist()) for x, y in batches.in_order(4)]
    assert sizes == [(4, [0, 1, 2, 3]), (4, [4, 5, 6, 7]), (2, [8, 9])]


@pytest.mark.parametrize(
    ("n", "size", "sizes"), [(513, 512, [513]), (10, 4, [5, 5]), (9, 2, [3, 2, 2, 2]), (3, 64, [3])]
)
def test_mixed_batches_hold_every_image_once_and_never_one_alone(n: int, size: int, sizes: list[int]) -> None:
    _, batches = part(n)
    found = [y.tolist() for _, y in batches.mixed(size)]
    assert [len(y) for y in found] == sizes
    seen = [label for labels in found for label in labels]
    assert sorted(seen) == list(range(n)) and (seen != list(range(n)) or n < 4)
