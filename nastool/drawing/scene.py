"""Pictures: shapes with coordinates in pixels, y downwards, that any writer can draw."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, replace

from nastool.core.diagram import TIMES, Cost, Kind, Node

FONT = 12.0
"""Size of labels; DETAIL: of further lines, TITLE: of titles."""
DETAIL, TITLE = 10.0, 14.0
LINE = 1.3
"""Height of a line of text, as a multiple of the font's size."""
INK, SOFT, PAPER, EDGE = "#222222", "#555555", "#ffffff", "#555555"
SKIP_EDGE = "#8a8a8a"

HUES: dict[Kind, str] = {
    "plain": "#777777",
    "end": "#222222",
    "conv": "#0072B2",
    "separable": "#56B4E9",
    "dilated": "#009E73",
    "pool": "#E69F00",
    "skip": "#8a8a8a",
    "norm": "#CC79A7",
    "linear": "#D55E00",
    "cell": "#CC79A7",
    "none": "#aaaaaa",
}
"""Told apart by colour-blind readers (Okabe & Ito 2008)."""


@dataclass(frozen=True)
class Text:
    """x, y: where the baseline begins, is in the middle or ends, as `anchor` says ("start", "middle", "end")."""

    x: float
    y: float
    text: str
    size: float = FONT
    color: str = INK
    bold: bool = False
    anchor: str = "start"

    @property
    def width(self) -> float:
        return text_width(self.text, self.size, self.bold)

    @property
    def left(self) -> float:
        return self.x - {"start": 0.0, "middle": 0.5, "end": 1.0}[self.anchor] * self.width


@dataclass(frozen=True)
class Box:
    """x, y: its upper left corner. fill, stroke: colours. radius: of its corners. dashed: its border."""

    x: float
    y: float
    width: float
    height: float
    fill: str
    stroke: str
    radius: float = 5.0
    dashed: bool = False

    @property
    def right(self) -> float:
        return self.x + self.width

    @property
    def bottom(self) -> float:
        return self.y + self.height


@dataclass(frozen=True)
class Line:
    """A way from one point to the next: straight, or where `curved`, with vertical tangents at both.

    arrow: whether it ends in one. dots: junctions; there may be nothing else.
    """

    points: tuple[tuple[float, float], ...]
    color: str = EDGE
    dashed: bool = False
    arrow: bool = False
    curved: bool = False
    dots: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True)
class Scene:
    """width, height: everything lies within. boxes lie above lines, texts above boxes."""

    width: float
    height: float
    boxes: tuple[Box, ...] = ()
    lines: tuple[Line, ...] = ()
    texts: tuple[Text, ...] = ()

    def moved(self, x: float, y: float) -> Scene:
        """The shapes moved to the right and down; width and height stay."""

        def shift(points: Sequence[tuple[float, float]]) -> tuple[tuple[float, float], ...]:
            return tuple((px + x, py + y) for px, py in points)

        return replace(
            self,
            boxes=tuple(replace(box, x=box.x + x, y=box.y + y) for box in self.boxes),
            lines=tuple(replace(line, points=shift(line.points), dots=shift(line.dots)) for line in self.lines),
            texts=tuple(replace(text, x=text.x + x, y=text.y + y) for text in self.texts),
        )


ARROW = 7.0
"""Length of an arrow's head; it is as wide as 0.8 of that."""


def trimmed(line: Line) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """The line's points without what its arrow covers, and the corners of the arrow's head, if it has one.

    The last piece of a line with an arrow leads straight down, up, to the left or to the right.
    """
    points = list(line.points)
    if not line.arrow:
        return points, []
    (x0, y0), (x, y) = points[-2:]
    if abs(y - y0) >= abs(x - x0):
        s = ARROW if y > y0 else -ARROW
        points[-1] = (x, y - s / 2)
        return points, [(x, y), (x - 0.4 * s, y - s), (x + 0.4 * s, y - s)]
    s = ARROW if x > x0 else -ARROW
    points[-1] = (x - s / 2, y)
    return points, [(x, y), (x - s, y - 0.4 * s), (x - s, y + 0.4 * s)]


# Widths of the characters from space to tilde in DejaVu Sans, in hundredths of the font's size. It is the widest of the
# fonts that a viewer may take instead, so what fits in it fits.
_WIDTHS = (
    "32 40 46 84 64 95 78 27 39 39 50 84 32 36 32 34 64 64 64 64 64 64 64 64 64 64 34 34 84 84 84 53 100 68 69 70 77 63"
    " 58 77 75 29 29 66 56 86 75 79 60 79 69 63 61 73 68 99 69 61 69 39 34 39 84 50 50 61 63 55 63 62 35 63 63 28 28 58"
    " 28 97 63 61 63 63 41 52 39 63 59 82 59 59 52 64 34 64 84"
)
_ASCII = dict(zip(map(chr, range(32, 127)), (int(width) / 100 for width in _WIDTHS.split()), strict=True))
_BOLD = 1.13


def text_width(text: str, size: float, bold: bool = False) -> float:
    """Width of a text in pixels, at most."""
    total = 0.0
    for character in text:
        if character in _ASCII:
            total += _ASCII[character]
        elif unicodedata.combining(character) == 0:
            total += 1.1 if unicodedata.east_asian_width(character) in "WF" else 0.9
    return total * size * (_BOLD if bold else 1.0)


def cut_to(text: str, width: float, size: float, bold: bool = False) -> str:
    """The text, or its beginning with an ellipsis, so that it fits."""
    if text_width(text, size, bold) <= width:
        return text
    while text and text_width(f"{text}…", size, bold) > width:
        text = text[:-1]
    return f"{text}…"


def tint(color: str, share: float = 0.16) -> str:
    """The colour on white, this share of it."""
    parts = (int(color[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 + (part - 255) * share):02x}" for part in parts)


# --- boxes with text


def shape_text(shape: Sequence[int]) -> str:
    return TIMES.join(map(str, shape))


def compact(number: float) -> str:
    """ "950", "12.3 k", "4.56 M"."""
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 0.9995 * limit:
            scaled = number / limit
            digits = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
            return f"{scaled:.{digits}f} {unit}"
    return f"{number:.0f}"


def cost_text(cost: Cost) -> str:
    parts = [shape_text(cost.shape)] if cost.shape else []
    parts += [f"{compact(cost.params)} params"] if cost.params else []
    parts += [f"{compact(cost.flops)} FLOPs"] if cost.flops else []
    return "  ".join(parts)


def lines_of(node: Node) -> list[tuple[str, float, str, bool]]:
    """Text, size, colour and weight of a box's lines."""
    lines = [(node.label, FONT, INK, False)]
    lines += [(line, DETAIL, SOFT, False) for line in node.details]
    if node.cost is not None and cost_text(node.cost):
        lines.append((cost_text(node.cost), DETAIL, SOFT, False))
    return lines


def size_of(node: Node) -> tuple[float, float]:
    """Width and height of a node's box."""
    lines = lines_of(node)
    width = max(text_width(text, size, bold) for text, size, _, bold in lines)
    return max(34.0, width + 20), sum(size * LINE for _, size, _, _ in lines) + 10


def box_of(node: Node, x: float, y: float, width: float, height: float) -> tuple[Box, list[Text]]:
    """The box at this place, with its lines in the middle."""
    hue = HUES[node.kind]
    fill = PAPER if node.kind in ("end", "skip", "none") else tint(hue)
    if node.kind == "plain":
        fill = "#f3f3f3"
    box = Box(x, y, width, height, fill, hue, 5.0, node.kind == "skip")
    lines = lines_of(node)
    top = y + (height - sum(size * LINE for _, size, _, _ in lines)) / 2
    texts = []
    for text, size, color, bold in lines:
        texts.append(Text(x + width / 2, top + size * (LINE + 0.72) / 2, text, size, color, bold, "middle"))
        top += size * LINE
    return box, texts
