"""Text that goes on a terminal: harmless, and of a known width; a view as one line of a log."""

from __future__ import annotations

import math
import os
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, TextIO

from nastool.cli.common import format_seconds

if TYPE_CHECKING:
    from nastool.cli.live.view import View

CURVE = "▁▂▃▄▅▆▇█"
_PLAIN = str.maketrans("━─…→" + CURVE, "#-~>" + "__..-=^^")


def suitable(stream: TextIO | None) -> bool:
    """Whether a live region can be drawn there: on a terminal that a person looks at and that can move its cursor."""
    if not getattr(stream, "isatty", bool)():  # in a notebook it may be any object
        return False
    if os.environ.get("TERM", "").lower() in ("dumb", "unknown", ""):
        return False
    return not (
        os.environ.get("CI") or os.environ.get("TTY_COMPATIBLE") == "0" or os.environ.get("TTY_INTERACTIVE") == "0"
    )


def clean(text: object) -> str:
    """One line that cannot move the cursor: every character takes one or two cells."""
    plain = unicodedata.normalize("NFC", str(text))
    if plain.isascii() and plain.isprintable():
        return plain
    from rich.cells import get_character_cell_size

    found = (" " if c.isspace() else c if c.isprintable() else "?" for c in plain)
    return "".join(c for c in found if get_character_cell_size(c))


def plainly(text: str) -> str:
    """The same in ASCII, for terminals that know nothing else."""
    return text.translate(_PLAIN).encode("ascii", "replace").decode()


def cells(text: str) -> int:
    """Number of cells that clean text takes, at most: a terminal may join some characters to one."""
    if text.isascii():
        return len(text)
    from rich.cells import get_character_cell_size

    return sum(map(get_character_cell_size, text))


def sparkline(values: Sequence[float], width: int) -> str:
    """The last `width` values as a curve, from the least of them to the greatest; "" without any finite one."""
    shown = [value for value in values if math.isfinite(value)][-width:] if width > 0 else []
    if not shown:
        return ""
    low, high = min(shown), max(shown)
    top = len(CURVE) - 1
    if high <= low:
        return CURVE[top // 2] * len(shown)
    # Halved first, so that the difference of two very large numbers stays finite.
    return "".join(CURVE[round((v / 2 - low / 2) / (high / 2 - low / 2) * top)] for v in shown)


def count(view: View) -> str:
    """Trials done, of how many."""
    return str(view.done) if view.total is None else f"{view.done}/{view.total}"


def time_left(view: View) -> list[str]:
    """The time to the last trial and what comes then, and the time to the end of everything, as far as known."""
    then = f", then {clean(view.then)}" if view.then else ""
    found = [] if view.left is None else [f"{format_seconds(view.left)} left{then}"]
    return found if view.until is None else [*found, f"ends within {format_seconds(view.until)}"]


def line(view: View) -> str:
    """A view as one line for a log."""
    parts = [f"{view.noun} {count(view)}"]
    if view.best is not None and view.best.row.value is not None:
        parts.append(f"best {clean(view.metric)} {view.best.row.value:.4f} (#{view.best.row.id})")
        parts += filter(None, [view.best.beside])
    if view.stopped:
        parts.append(f"{view.stopped} stopped early")
    if view.failed:
        parts.append(f"{view.failed} failed")
    if view.per_hour is not None:
        parts.append(f"{view.per_hour:,.0f} {view.noun}/h")
    parts += time_left(view)
    return "  ".join(parts)


def at_work(view: View) -> str:
    """The running trials, for the end of such a line; "": there are none."""
    parts = [f"#{r.id} {r.progress}".rstrip() for r in view.running]
    return f"  running {', '.join(parts)}" if parts else ""
