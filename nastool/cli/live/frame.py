"""A view as lines of text: none wider and no more of them than there is room for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from nastool.cli.common import format_number, format_seconds
from nastool.cli.live.text import ASCII, UNICODE, Glyphs, cells, clean, clip, plainly, sparkline
from nastool.cli.live.view import Drawings, Row, View

if TYPE_CHECKING:
    from rich.text import Text

LABEL = 10
"""Width of the column of labels."""
BAR = 40
FACTS = 45
"""Room for what stands behind the bar."""
CURVE = 24
WIDE = 110
"""From this width on, the drawing stands beside the last trials."""
TABLE = 56
"""Width of the last trials then."""
Piece = tuple[str, str]
"""Text and its style."""
Line = list[Piece]


def lines(view: View, width: int, height: int, glyphs: Glyphs = UNICODE) -> list[Line]:
    """The view in at most `height` lines of at most `width` cells."""
    if height < 1 or width < 1:
        return []
    found = _lines(view, width, height, glyphs)
    return [[(plainly(text), style) for text, style in line] for line in found] if glyphs is ASCII else found


def _lines(view: View, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    top = _top(view, width, glyphs)
    middle = [_rounds(view, width, glyphs), _failures(view, width, glyphs), _machine(view, width, glyphs)]
    rest = [line for line in middle if line]
    if height <= len(top):
        return top[:height]
    # Where there is little room, what tells most comes first: a running trial, then rounds and failures.
    running = _running(view, width, max(1, (height - len(top)) // 4), glyphs)[: height - len(top)]
    rest = rest[: height - len(top) - len(running)]
    room = height - len(top) - len(running) - len(rest)
    drawing = _drawing(view, width, glyphs)
    if width >= WIDE:
        return [*top, *running, *rest, *_beside(_table(view, TABLE, room, glyphs), drawing[:room], TABLE + 2)]
    if len(drawing) + 4 > room:
        drawing = []
    return [*top, *drawing, *running, *rest, *_table(view, width, room - len(drawing), glyphs)]


def blocks(views: Sequence[View], width: int, height: int, glyphs: Glyphs = UNICODE) -> list[Line]:
    """Several views, one below the other, with the room divided among them."""
    found: list[Line] = []
    for number, view in enumerate(views):
        found += lines(view, width, (height - len(found)) // (len(views) - number), glyphs)
    return found


def styled(found: Sequence[Line]) -> Text:
    """The lines for rich; no text in them is taken for markup."""
    from rich.text import Text

    joined = Text(no_wrap=True, overflow="crop", end="")
    for number, line in enumerate(found):
        joined.append("\n" if number else "")
        for text, style in line:
            joined.append(text, style or None)
    return joined


def plain(view: View) -> str:
    """The view as one line for a log."""
    parts = [f"{view.noun} {_count(view)}"]
    if view.best is not None and view.best.row.value is not None:
        parts.append(f"best {clean(view.metric)} {view.best.row.value:.4f} (#{view.best.row.id})")
    if view.failed:
        parts.append(f"{view.failed} failed")
    if view.per_hour is not None:
        parts.append(f"{view.per_hour:,.0f} {view.noun}/h")
    if view.left is not None:
        parts.append(_left(view, view.left))
    return "  ".join(parts)


def at_work(view: View) -> str:
    """What is running, for the end of such a line; "": nothing."""
    parts = [f"#{r.id}" + ("" if r.step is None else f" step {r.step}") for r in view.running]
    return f"  running {', '.join(parts)}" if parts else ""


def _silence(silent: tuple[str, float]) -> str:
    how, seconds = silent
    return f"{how} for {format_seconds(seconds)}"


def _count(view: View) -> str:
    return f"{view.done}/{view.total}" if view.total is not None else str(view.done)


def _left(view: View, seconds: float) -> str:
    return f"{format_seconds(seconds)} left" + (f", then {clean(view.then)}" if view.then else "")


def _fit(label: str, pieces: Sequence[Piece], width: int, glyphs: Glyphs) -> Line:
    """A label and those of the pieces that fit beside it; the first is cut where it must be."""
    head = clip(f"{label:<{LABEL}}", width, glyphs)
    line: Line = [(head, "dim")]
    used = cells(head)
    for number, (text, style) in enumerate(pieces):
        text = clean(text)
        gap = 2 if number else 0
        if not number:
            text = clip(text, width - used, glyphs)
        if not text or used + gap + cells(text) > width:
            continue
        line.append((" " * gap + text, style))
        used += gap + cells(text)
    return line


def _top(view: View, width: int, glyphs: Glyphs) -> list[Line]:
    found: list[Line] = []
    if view.title:
        found.append([(clip(clean(view.title), width, glyphs), "bold")])
    found.append(_bar(view, width, glyphs))
    if view.best is not None:
        row = view.best.row
        pieces = [(f"{view.metric} {_value(row)}", "bold green"), (f"trial {row.id}", "")]
        if row.params is not None:
            pieces.append((f"{row.params:,.0f} params", ""))
        pieces.append((view.best.key, "dim"))
        found.append(_fit("best", pieces, width, glyphs))
    return found


def _bar(view: View, width: int, glyphs: Glyphs) -> Line:
    facts: list[Piece] = []
    if view.stopping:
        count = len(view.running)
        facts.append((f"stopping: finishing {count} running" if count else "stopping", "yellow"))
    elif view.left is not None:
        facts.append((_left(view, view.left), ""))
    if view.per_hour is not None:
        facts.append((f"{view.per_hour:,.0f} {view.noun}/h", "dim"))
    count_text = clean(_count(view))
    spare = width - LABEL - cells(count_text) - 2
    while facts[1:] and spare - sum(2 + cells(text) for text, _ in facts) < 10:
        facts.pop()
    spare -= sum(2 + cells(text) for text, _ in facts)
    length = min(BAR, max(10, width - LABEL - FACTS), spare)  # as long whatever the facts are
    if not view.total or length < 5:
        return _fit(view.noun, [(count_text, "bold"), *facts], width, glyphs)
    full = max(0, min(length, length * view.done // view.total))
    bar: Line = [(f"{view.noun:<{LABEL}}"[:LABEL], "dim"), (glyphs.full * full, "green")]
    bar += [(glyphs.empty * (length - full), "dim"), (f"  {count_text}", "bold")]
    return [*bar, *(("  " + text, style) for text, style in facts)]


def _drawing(view: View, width: int, glyphs: Glyphs) -> list[Line]:
    """The best architecture; as many lines whatever it is, so that nothing jumps."""
    if view.best is None:
        return []
    room = width - (TABLE + 2 if width >= WIDE else LABEL)
    if room < 20:
        return []
    drawn = [clip(clean(line.rstrip()), room, glyphs) for line in view.best.draw(room)][: Drawings.LINES]
    if not any(drawn):
        return []
    indent = "" if width >= WIDE else " " * LABEL
    return [[(indent + line, "")] for line in drawn + [""] * (Drawings.LINES - len(drawn))]


def _running(view: View, width: int, most: int, glyphs: Glyphs) -> list[Line]:
    shown = view.running if len(view.running) <= most else view.running[: most - 1]
    found: list[Line] = []
    for running in shown:
        pieces: list[Piece] = [(f"trial {running.id}", "cyan")]
        if running.step is not None:
            pieces.append((f"step {running.step}", ""))
        if running.curve:
            pieces.append((f"{clip(clean(running.metric), 20, glyphs)} {running.curve[-1]:.4g}", ""))
        pieces.append((format_seconds(running.seconds), "dim"))
        if running.silent is not None:
            pieces.insert(1, (_silence(running.silent), "yellow"))
        room = width - LABEL - sum(2 + cells(clean(text)) for text, _ in pieces)
        if len(running.curve) > 1 and (curve := sparkline(running.curve, min(CURVE, room), glyphs)):
            pieces.insert(3, (curve, "cyan"))
        found.append(_fit("running" if not found else "", pieces, width, glyphs))
    if len(shown) < len(view.running):
        more = len(view.running) - len(shown)
        found.append(
            _fit("" if found else "running", [(f"and {more} more" if found else f"{more}", "cyan")], width, glyphs)
        )
    return found


def _rounds(view: View, width: int, glyphs: Glyphs) -> Line:
    if view.rounds is None:
        return []
    pieces: list[Piece] = [(f"{view.rounds.done}/{view.rounds.total}", "")]
    share = (width - LABEL) // max(1, len(view.rounds.curves)) - 30
    for name, values in view.rounds.curves.items():
        if values:
            curve = sparkline(values, min(CURVE, max(8, share)), glyphs)
            pieces.append((f"{name} {values[-1]:.4g} {curve}", ""))
    return _fit("rounds", pieces, width, glyphs)


def _failures(view: View, width: int, glyphs: Glyphs) -> Line:
    if not view.failed:
        return []
    text = str(view.failed)
    if view.failure is not None:
        text += f", the last trial {view.failure[0]}: {view.failure[1]}"
    return _fit("failed", [(text, "red")], width, glyphs)


def _machine(view: View, width: int, glyphs: Glyphs) -> Line:
    return _fit("uses", [(fact, "dim") for fact in view.machine], width, glyphs) if view.machine else []


def _table(view: View, width: int, height: int, glyphs: Glyphs) -> list[Line]:
    """The last trials, the latest last; columns that do not fit are left out from the right."""
    rows = list(view.last)[-min(height - 1, 12) :] if height >= 2 else []
    if not rows:
        return []
    best = None if view.best is None else view.best.row.id
    columns: list[list[str]] = [["trial", *(str(row.id) for row in rows)]]
    columns.append([clip(clean(view.metric), 16, glyphs), *map(_value, rows)])
    columns.append(["cost", *("" if row.seconds is None else format_seconds(row.seconds) for row in rows)])
    for name, cell in (
        ("params", ["" if row.params is None else f"{row.params:,.0f}" for row in rows]),
        ("parent", ["" if row.parent is None else str(row.parent) for row in rows]),
    ):
        if any(cell):
            columns.append([name, *cell])
    head = f"{'last':<{LABEL}}"
    made = [clip(head if not number else "", width, glyphs).ljust(min(LABEL, width)) for number in range(len(rows) + 1)]
    for number, column in enumerate(columns):
        size = max(map(cells, column))
        gap = 2 if number else 0
        if cells(made[0]) + gap + size > width:
            break
        made = [line + " " * (gap + size - cells(cell)) + cell for line, cell in zip(made, column, strict=True)]
    styles = ["dim", *("bold green" if row.id == best else "red" if row.value is None else "" for row in rows)]
    return [[(line.rstrip(), style)] for line, style in zip(made, styles, strict=True)]


def _beside(left: list[Line], right: list[Line], at: int) -> list[Line]:
    found: list[Line] = []
    for number in range(max(len(left), len(right))):
        line = list(left[number]) if number < len(left) else []
        if number < len(right):
            line += [(" " * (at - sum(cells(text) for text, _ in line)), ""), *right[number]]
        found.append(line)
    return found


def _value(row: Row) -> str:
    return "failed" if row.value is None else format_number(row.value)
