"""Blocks that comparisons and reports are made of; templates show them as HTML, this module as text and Markdown."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from nastool.analysis.figures.base import Drawn
from nastool.core.wording import visible


@dataclass(frozen=True)
class Heading:
    """A title. level: 1 for that of the whole."""

    kind: ClassVar = "heading"
    text: str
    level: int = 2


@dataclass(frozen=True)
class Lines:
    """Sentences, each a paragraph of its own."""

    kind: ClassVar = "lines"
    lines: tuple[str, ...]


@dataclass(frozen=True)
class Listing:
    """Commands, word for word."""

    kind: ClassVar = "listing"
    text: str


class Code(str):
    """A cell of a table that is set as code."""

    __slots__ = ()
    form = "code"


class Link(str):
    """A cell of a table that leads to `target`, the id of something on the page."""

    form = "link"

    def __new__(cls, text: str, target: str) -> Link:
        found = super().__new__(cls, text)
        found.target = target
        return found

    target: str


class Changes(tuple[tuple[str, str], ...]):
    """A cell of a table that lists (name, what became of it)."""

    __slots__ = ()
    form = "changes"


Cell = str | Changes


@dataclass(frozen=True)
class Table:
    """Rows of cells. The first column is text; numeric: so are the others not."""

    kind: ClassVar = "table"
    heads: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numeric: bool = True


@dataclass(frozen=True)
class Plots:
    """Figures side by side. prefix: of the ids in them. file: a picture of the first beside a Markdown file."""

    kind: ClassVar = "plots"
    figures: tuple[Drawn, ...]
    prefix: str = ""
    file: str = ""


Block = Heading | Lines | Listing | Table | Plots


def text(blocks: Iterable[Block], width: int | None = None, color: bool = False) -> str:
    """Blocks for a terminal of so many columns; None: its own width."""
    from rich import box
    from rich.console import Console
    from rich.table import Table as RichTable
    from rich.text import Text

    target = io.StringIO()
    system: Literal["auto"] | None = "auto" if color else None
    console = Console(file=target, width=width, force_terminal=color, color_system=system, highlight=False)

    def say(line: str, style: str = "") -> None:
        console.print(Text(visible(line), style=style))

    for i, block in enumerate(blocks):
        if isinstance(block, Heading):
            say(("\n" if i else "") + block.text, "bold")
        elif isinstance(block, Lines):
            for line in block.lines:
                say(line, "bold red" if line.startswith("WARNING") else "")
        elif isinstance(block, Table):
            rows = [[visible(cell) for cell in row] for row in block.rows]
            widths = _widths(list(zip(map(visible, block.heads), *rows, strict=True)), console.width - 3 * len(rows[0]))
            if widths is None:
                for row in rows:
                    say(f"\n{row[0]}")
                    for head, cell in zip(block.heads[1:], row[1:], strict=True):
                        say(f"  {head}: {cell}")
                console.print()
                continue
            shown = RichTable(box=box.SIMPLE_HEAD, pad_edge=False, header_style="")
            for k, head in enumerate(block.heads):
                shown.add_column(Text(visible(head)), justify="right" if k else "left", width=widths[k])
            for row in rows:
                shown.add_row(*map(Text, row))
            console.print(shown)
    return "\n".join(line.rstrip() for line in target.getvalue().splitlines()) + "\n"


def _widths(columns: Sequence[Sequence[str]], room: int) -> list[int] | None:
    """Width of each column, of so much room, the first one broken before numbers are; None: a word would be cut."""
    widths = [max(map(len, column)) for column in columns]
    least = [max((len(word) for cell in column for word in cell.split()), default=0) for column in columns]
    if sum(least) > room:
        return None
    widths[0] = max(least[0], widths[0] - max(0, sum(widths) - room))
    while sum(widths) > room:
        widths[max((k for k in range(len(widths)) if widths[k] > least[k]), key=widths.__getitem__)] -= 1
    return widths


def markdown(blocks: Iterable[Block]) -> str:
    parts = []
    for block in blocks:
        if isinstance(block, Heading):
            parts.append(f"{'#' * block.level} {_plain(block.text)}")
        elif isinstance(block, Lines):
            parts.append("\n".join(f"{'- ' if len(block.lines) > 1 else ''}{_plain(line)}" for line in block.lines))
        elif isinstance(block, Listing):
            parts.append(f"```\n{block.text}\n```")
        elif isinstance(block, Table):
            rule = ["---", *["---:"] * (len(block.heads) - 1)]
            cells = [list(map(_plain, block.heads)), rule, *(list(map(_plain, map(str, row))) for row in block.rows)]
            parts.append("\n".join("| " + " | ".join(row) + " |" for row in cells))
        elif block.file:
            parts.append(f"![{_plain(block.figures[0].title)}]({block.file})")
    return "\n\n".join(parts) + "\n"


def _plain(text: str) -> str:
    """Text that Markdown leaves alone."""
    text = re.sub(r"[\\`*<>|\[\]]|(?<!\w)_|_(?!\w)", lambda found: "\\" + found[0], text)
    return " ".join(text.split())
