"""What a network is for. A task shapes the network's two ends and is no part of the architecture."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageTask:
    """Image classification: images of shape (channels, height, width), labels 0 .. classes - 1."""

    channels: int
    height: int
    width: int
    classes: int

    def __post_init__(self) -> None:
        sizes = (self.channels, self.height, self.width)
        if min(sizes) < 1 or max(sizes) > 65_536 or not 2 <= self.classes <= 1_000_000:
            raise ValueError(
                "an image task needs channels, height, width from 1 to 65,536 and classes from 2 to 1,000,000, got "
                f"{self.channels}x{self.height}x{self.width}, {self.classes} classes"
            )
