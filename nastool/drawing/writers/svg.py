"""A scene as a self-contained SVG: no script, no font, no reference to anything outside, a white page of its own."""

from __future__ import annotations

from html import escape
from itertools import pairwise

from nastool.drawing.scene import PAPER, Line, Scene, trimmed

FONTS = "'DejaVu Sans', Verdana, 'Helvetica Neue', Arial, sans-serif"


def write(scene: Scene, title: str) -> str:
    width, height = f"{scene.width:.0f}", f"{scene.height:.0f}"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}" '
        f'role="img" font-family="{escape(FONTS)}" style="max-width:100%;height:auto">',
        f"<title>{escape(title)}</title>",
        f'<rect width="{width}" height="{height}" rx="6" fill="{PAPER}"/>',
    ]
    for line in scene.lines:
        parts += _line(line)
    for box in scene.boxes:
        dashes = ' stroke-dasharray="4 3"' if box.dashed else ""
        parts.append(
            f'<rect x="{_n(box.x)}" y="{_n(box.y)}" width="{_n(box.width)}" height="{_n(box.height)}" '
            f'rx="{_n(box.radius)}" fill="{box.fill}" stroke="{box.stroke}" stroke-width="1.2"{dashes}/>'
        )
    for text in scene.texts:
        weight = ' font-weight="bold"' if text.bold else ""
        anchor = f' text-anchor="{text.anchor}"' if text.anchor != "start" else ""
        parts.append(
            f'<text x="{_n(text.x)}" y="{_n(text.y)}" font-size="{_n(text.size)}" fill="{text.color}"{weight}{anchor} '
            f'xml:space="preserve">{escape(text.text)}</text>'
        )
    return "\n".join([*parts, "</svg>", ""])


def _line(line: Line) -> list[str]:
    dots = [f'<circle cx="{_n(x)}" cy="{_n(y)}" r="2.6" fill="{line.color}"/>' for x, y in line.dots]
    if not line.points:
        return dots
    points, head = trimmed(line)
    way = f"M{_n(points[0][0])} {_n(points[0][1])}"
    for (x0, y0), (x, y) in pairwise(points):
        if line.curved and x != x0:
            middle = _n((y0 + y) / 2)
            way += f"C{_n(x0)} {middle} {_n(x)} {middle} {_n(x)} {_n(y)}"
        else:
            way += f"L{_n(x)} {_n(y)}"
    dashes = ' stroke-dasharray="5 3"' if line.dashed else ""
    spots = " ".join(f"{_n(x)},{_n(y)}" for x, y in head)
    tip = [f'<polygon points="{spots}" fill="{line.color}"/>'] if head else []
    return [f'<path d="{way}" fill="none" stroke="{line.color}" stroke-width="1.3"{dashes}/>', *tip, *dots]


def _n(value: float) -> str:
    """A number without needless digits."""
    return f"{value:.1f}".removesuffix(".0")
