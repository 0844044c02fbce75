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
        if min(self.channels, self.height, self.width) < 1 or self.classes < 2:
            raise ValueError(f"an image task needs channels, height, width >= 1 and classes >= 2, got {self}")
