"""What a figure is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nastool.engine.study import Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Drawn:
    """A figure, drawn. name: letters, digits and hyphens. caption: what it shows, in a sentence or two."""

    name: str
    title: str
    caption: str
    figure: Figure


@dataclass(frozen=True)
class Kind:
    """A figure that can be drawn. draw: from runs; nothing where they have nothing to show.

    shared: it is one figure of all runs; else it is drawn of one at a time.
    """

    name: str
    title: str
    draw: Callable[[Sequence[Study]], list[Drawn]]
    shared: bool = False
