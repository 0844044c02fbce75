"""Text that goes on a terminal: harmless, and of a known width."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Glyphs:
    """What bars and curves are made of. curve: from low to high."""

    full: str
    empty: str
    curve: str
    ellipsis: str


UNICODE = Glyphs("━", "─", "▁▂▃▄▅▆▇█", "…")
ASCII = Glyphs("#", "-", "_.-=^", "~")


def glyphs_for(encoding: str | None) -> Glyphs:
    """Those that a stream of this encoding can show."""
    return UNICODE if (encoding or "").lower().replace("-", "").startswith("utf") else ASCII


def clean(text: object) -> str:
    """text as one line that cannot move the cursor: every character takes one or two cells."""
    from rich.cells import get_character_cell_size

    plain = unicodedata.normalize("NFC", str(text))
    if plain.isascii() and plain.isprintable():
        return plain
    found = (" " if c.isspace() else c if c.isprintable() else "?" for c in plain)
    return "".join(c for c in found if get_character_cell_size(c))


def plainly(text: str) -> str:
    """The same in ASCII, for terminals that know nothing else."""
    return text.translate({0x2192: ">", 0x2026: "~"}).encode("ascii", "replace").decode()


def cells(text: str) -> int:
    """How many cells clean text takes, at most: a terminal may join some characters to one."""
    if text.isascii():
        return len(text)
    from rich.cells import get_character_cell_size

    return sum(map(get_character_cell_size, text))


def clip(text: str, width: int, glyphs: Glyphs = UNICODE) -> str:
    """Clean text, cut to so many cells."""
    if cells(text) <= width:
        return text
    if width < 1:
        return ""
    kept, used = [], cells(glyphs.ellipsis)
    for character in text:
        used += cells(character)
        if used > width:
            break
        kept.append(character)
    return "".join(kept) + glyphs.ellipsis


def sparkline(values: Sequence[float], width: int, glyphs: Glyphs = UNICODE) -> str:
    """The last `width` values as a curve, from the least of them to the greatest; "" without any finite one."""
    shown = [value for value in values if math.isfinite(value)][-width:] if width > 0 else []
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    top = len(glyphs.curve) - 1
    if high <= low:
        return glyphs.curve[top // 2] * len(shown)
    # Halved first, so that the difference of two very large numbers stays finite.
    return "".join(glyphs.curve[round((v / 2 - low / 2) / (high / 2 - low / 2) * top)] for v in shown)
