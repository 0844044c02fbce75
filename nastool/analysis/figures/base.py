"""Figures, and the kinds of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
    """A figure that can be drawn. draw: of a study, or of a list of them where it is shared; none: nothing to show.

    shared: it is one figure of all runs.
    """

    name: str
    title: str
    draw: Callable[[Any], list[Drawn]]
    shared: bool = False
