"""Small folders of pictures to learn from, one folder a class: `python -m tests.helpers.pictures DIR [KIND] [SEED]`."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

Drawn = Callable[[ImageDraw.ImageDraw, float, float, float, int, int], None]
"""Draws a class' thing: the middle x, y, its radius, the width of a line in pixels, the colour."""


def _circle(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, width: int, colour: int) -> None:
    draw.ellipse((x - r, y - r, x + r, y + r), outline=colour, width=width)


def _cross(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, width: int, colour: int) -> None:
    draw.line((x - r, y - r, x + r, y + r), colour, width)
    draw.line((x - r, y + r, x + r, y - r), colour, width)


def _square(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, width: int, colour: int) -> None:
    draw.rectangle((x - r, y - r, x + r, y + r), outline=colour, width=width)


def _stripes(angle: float) -> Drawn:
    """Parallel lines all over the picture, at an angle in degrees."""

    def draw_them(draw: ImageDraw.ImageDraw, x: float, y: float, r: float, width: int, colour: int) -> None:
        across, along = math.radians(angle + 90), math.radians(angle)
        for i in range(-12, 13):
            mx, my = x + i * r * math.cos(across), y + i * r * math.sin(across)
            dx, dy = 200 * math.cos(along), 200 * math.sin(along)
            draw.line((mx - dx, my - dy, mx + dx, my + dy), colour, width)

    return draw_them


KINDS: dict[str, dict[str, Drawn]] = {
    "shapes": {"circle": _circle, "cross": _cross, "square": _square},  # light on dark
    "stripes": {"falling": _stripes(45), "level": _stripes(0), "upright": _stripes(90)},
}


def write(folder: Path, kind: str = "shapes", seed: int = 0, each: int = 36) -> Path:
    """Writes PNGs of 28 to 64 pixels a side into folder/CLASS: things of any colour and place, and noise.

    Args:
        folder: To be made.
        kind: Of `KINDS`.
        seed: Of all draws.
        each: Number of pictures of a class.

    Returns:
        The folder.
    """
    rng = np.random.default_rng(seed)
    for name, thing in KINDS[kind].items():
        (folder / name).mkdir(parents=True)
        for number in range(each):
            width, height = map(int, rng.integers(28, 65, 2))
            layers = []
            r = rng.uniform(0.22, 0.4) * min(width, height)
            x, y = rng.uniform(r, width - r), rng.uniform(r, height - r)
            thick = max(2, round(r / 4))
            below, above = rng.integers(0, 110, 3), rng.integers(130, 256, 3)
            for channel in range(3):
                layer = Image.new("L", (width, height), int(below[channel]))
                thing(ImageDraw.Draw(layer), x, y, r if kind == "shapes" else r / 2, thick, int(above[channel]))
                layers.append(np.asarray(layer, dtype=float))
            pixels = np.stack(layers, 2) + rng.normal(0, 15, (height, width, 3))
            if kind == "stripes":  # dark on light
                pixels = 255 - pixels
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{number:03}.png")
    return folder


if __name__ == "__main__":
    folder, kind, seed = [*sys.argv[1:], "shapes", "0"][:3] if len(sys.argv) != 3 else [*sys.argv[1:], "0"]
    write(Path(folder), kind, int(seed))
