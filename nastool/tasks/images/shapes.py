"""The built-in data set shapes: outlines of polygons and stars under clutter, made by a few lines of arithmetic."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

CLASSES = (
    *("triangle", "square", "pentagon", "hexagon", "octagon"),
    *("3-pointed star", "4-pointed star", "5-pointed star", "6-pointed star", "8-pointed star"),
)
COUNTS = {"train": 3000, "val": 2000, "test": 2000}
"""Images of each part. Many are not trained on: to make them costs little, and accuracies are surer by them."""
SIZE = 16
"""Pixels of a side."""
_CORNERS = (3, 4, 5, 6, 8)
_LINES = 4
"""Lines of clutter in each image."""
_INNER = 0.42
"""Radius of a star's inner corners, as a share of the outer one."""


def draw(count: int, seed: int = 0) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Makes images, classes in turn: each an outline of random place, size, turn and brightness, lines, and noise.

    Only uniform numbers are drawn, so that all versions of numpy make the same.

    Args:
        count: Number of images, n.
        seed: Seed of all draws, >= 0.

    Returns:
        Images, uint8 (n, 1, SIZE, SIZE), 0 black .. 255 white, and their classes, int64 (n,).
    """
    u = np.random.Generator(np.random.PCG64(seed)).random((count, 5 + 5 * _LINES + SIZE * SIZE))
    labels = np.arange(count) % len(CLASSES)
    shape, ends, bright, noise = np.split(u, np.cumsum([5, 4 * _LINES, _LINES]), axis=1)
    found = np.empty_like(noise)
    for label in range(len(CLASSES)):
        rows = labels == label
        found[rows] = _outline(label, shape[rows])
    for i, line in enumerate(SIZE * ends.reshape(count, _LINES, 2, 2).swapaxes(0, 1)):
        found = np.maximum(found, (0.3 + 0.5 * bright[:, i : i + 1]) * _ink(line[:, 0], line[:, 1]))
    pixels = (255 * (found + 0.2 * (noise - 0.5)).clip(0, 1)).round().astype(np.uint8)
    return pixels.reshape(count, 1, SIZE, SIZE), labels.astype(np.int64)


def _outline(label: int, u: NDArray[np.float64]) -> NDArray[np.float64]:
    """Images (n, pixels) in [0, 1] of a class. u: (n, 5), for size, place (two), turn and brightness."""
    corners, star = _CORNERS[label % len(_CORNERS)], label >= len(_CORNERS)
    points = 2 * corners if star else corners
    radius = 4 + 2.5 * u[:, :1]
    centre = radius + (SIZE - 2 * radius) * u[:, 1:3]
    turn = 2 * np.pi * (u[:, 3:4] + np.arange(points) / points)
    reach = radius * np.where(np.arange(points) % 2, _INNER if star else 1, 1)
    at = centre[:, None] + reach[:, :, None] * np.stack([np.cos(turn), np.sin(turn)], -1)
    ink = _ink(at[:, 0], at[:, 1])
    for i in range(1, points):
        ink = np.maximum(ink, _ink(at[:, i], at[:, (i + 1) % points]))
    return (0.6 + 0.4 * u[:, 4:]) * ink


def _ink(start: NDArray[np.float64], end: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each pixel is covered by a line one pixel wide from start (n, 2) to end (n, 2): (n, pixels) in [0, 1]."""
    middles = np.arange(SIZE) + 0.5
    x, y = (each.ravel() for each in np.meshgrid(middles, middles))
    (ax, ay), (bx, by) = (each.T[:, :, None] for each in (start, end - start))
    along = (((x - ax) * bx + (y - ay) * by) / (bx**2 + by**2).clip(1e-12)).clip(0, 1)
    distance: NDArray[np.float64] = np.hypot(x - ax - along * bx, y - ay - along * by)
    return (1 - distance).clip(0, 1)
