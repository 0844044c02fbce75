"""Sections on a page: which beside each other, which below, chains in how many columns, so that all is read best."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import product

from nastool.core.diagram import Diagram, Section
from nastool.drawing.columns import column
from nastool.drawing.layered import fits, layered
from nastool.drawing.scene import DETAIL, FONT, LINE, SOFT, TITLE, Scene, Text, cut_to, text_width

PAGES = ((718.0, 1047.0), (1047.0, 718.0))
"""Width and height of A4 with margins, upright and across, in pixels of 1/96 inch."""
MARGIN, GAP = 16.0, 28.0
"""Around the page; between sections."""
NARROWEST = 320.0
"""Of the text of a section or page."""
MOST_COLUMNS = 6


def arranged(diagram: Diagram) -> Scene:
    """The whole drawing."""
    variants = [list(_variants(section)) for section in diagram.sections]
    if len(variants) > 4:
        variants = [scenes[:1] for scenes in variants]
    best = _page(diagram, [])
    least: tuple[float, ...] | None = None
    for numbers in product(*(range(len(scenes)) for scenes in variants)):
        scenes = [own[number] for own, number in zip(variants, numbers, strict=True)]
        for rows in _partitions(len(scenes)):
            page = _page(diagram, [[scenes[i] for i in row] for row in rows])
            scale = _scale(page)
            badness = (-round(scale, 1), sum(numbers), -scale, page.width * page.height)
            if least is None or badness < least:
                best, least = page, badness
    return best


def _scale(scene: Scene) -> float:
    """Factor by which it has to become smaller to fit on a page."""
    return max(min(1.0, width / scene.width, height / scene.height) for width, height in PAGES)


def _variants(section: Section) -> Iterator[Scene]:
    """The simplest first."""
    if section.form == "graph" and fits(section):
        yield _titled(section, layered(section))
        return
    seen = set()
    for columns in range(1, MOST_COLUMNS + 1):
        scene = column(section, columns)
        size = (scene.width, scene.height)
        if size not in seen:
            seen.add(size)
            yield _titled(section, scene)


def _partitions(count: int) -> Iterator[list[range]]:
    """Ways to put so many sections in rows, in their order; of more than five only some."""
    if count > 5:
        for per_row in (1, 2, 3, 4, 6):
            yield [range(i, min(i + per_row, count)) for i in range(0, count, per_row)]
        return
    for breaks in range(1 << max(0, count - 1)):
        starts = [0, *(i for i in range(1, count) if breaks >> i - 1 & 1)]
        yield [range(a, b) for a, b in zip(starts, [*starts[1:], count], strict=True)]


def _page(diagram: Diagram, rows: Sequence[Sequence[Scene]]) -> Scene:
    inner = max((sum(s.width for s in row) + GAP * (len(row) - 1) for row in rows), default=0.0)
    width = max(inner, NARROWEST)
    title = wrapped(diagram.title, width, TITLE, bold=True)
    texts = [*_block(title, 0.0, TITLE, bold=True)]
    y = len(title) * TITLE * LINE + 3
    if diagram.subtitle:
        lines = [line for part in diagram.subtitle.split("\n") for line in wrapped(part, width, DETAIL)]
        texts += _block(lines, y, DETAIL, SOFT)
        y += len(lines) * DETAIL * LINE
    y += 14
    placed = [Scene(width, y, texts=tuple(texts))]
    for row in rows:
        x = 0.0
        for scene in row:
            placed.append(scene.moved(x, y))
            x += scene.width + GAP
        y += max(scene.height for scene in row) + GAP
    inside = [scene.moved(MARGIN, MARGIN) for scene in placed]
    return Scene(
        width + 2 * MARGIN,
        (y - GAP if rows else y) + 2 * MARGIN,
        tuple(box for scene in inside for box in scene.boxes),
        tuple(line for scene in inside for line in scene.lines),
        tuple(text for scene in inside for text in scene.texts),
    )


def _titled(section: Section, scene: Scene) -> Scene:
    """The drawing with the section's title and note above."""
    width = max(scene.width, NARROWEST)
    title = wrapped(section.title, width, FONT, bold=True)
    note = wrapped(section.note, width, DETAIL) if section.note else []
    top = len(title) * FONT * LINE
    texts = [*_block(title, 0.0, FONT, bold=True), *_block(note, top, DETAIL, SOFT)]
    top += len(note) * DETAIL * LINE + 8
    moved = scene.moved(0, top)
    return Scene(width, top + scene.height, moved.boxes, moved.lines, (*texts, *moved.texts))


def _block(lines: Sequence[str], y: float, size: float, color: str = "#222222", bold: bool = False) -> list[Text]:
    return [
        Text(0.0, y + i * size * LINE + size * (LINE + 0.72) / 2, line, size, color, bold)
        for i, line in enumerate(lines)
    ]


def wrapped(text: str, width: float, size: float, bold: bool = False) -> list[str]:
    """The text in lines that are no wider, broken at spaces, else after | + , and so on; what cannot be is cut."""
    lines = [""]
    for word in re.findall(r"\S+?(?:[|+,/;]|(?=\s)|$)\s*", text):
        if text_width((lines[-1] + word).rstrip(), size, bold) > width and lines[-1]:
            lines.append("")
        lines[-1] += word
    return [cut_to(line.rstrip(), width, size, bold) for line in lines]
