"""Views on a terminal: no wider and no higher than there is room for."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import SegmentLines
from rich.table import Table
from rich.text import Text

from nastool.cli.common import format_number, format_seconds
from nastool.cli.live.text import cells, clean, count, sparkline, time_left
from nastool.cli.live.view import DRAWN, Row, View

LABEL = 10
"""Width of the column of labels."""
BAR, FACTS = 40, 45
"""Longest bar, and the room for what stands behind it."""
CURVE = 24
"""Longest curve."""
WIDE = 110
"""Width from which on the drawing stands beside the last trials."""
TABLE = 56
"""Width of the last trials then."""
MOST_ROWS = 12
"""Most of the last trials that are shown."""
Piece = tuple[str, str]
"""Text and its style."""


class Frame:
    """Views, one below the other, with the room divided among them."""

    def __init__(self, views: Sequence[View]) -> None:
        self.views = views

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        room = options.max_height
        for number, view in enumerate(self.views):
            share = room // (len(self.views) - number)
            rows = Group(*_rows(view, options.max_width, share))
            lines = console.render_lines(rows, options.reset_height(), pad=False)[:share]
            room -= len(lines)
            yield SegmentLines(lines, new_lines=True)


def _rows(view: View, width: int, height: int) -> list[RenderableType]:
    """Rows from the top; where there is little room, what tells most comes first."""
    top: list[RenderableType] = [_cut(clean(view.title), "bold")] if view.title else []
    top += [_bar(view, width), *_best(view, width)]
    running = _running(view, width, max(1, (height - len(top)) // 4))
    rest = [*_rounds(view, width), *_failures(view, width), *_machine(view, width)]
    room = height - len(top) - len(running) - len(rest)
    if room < 2:
        return [*top, *running, *rest]
    if width >= WIDE:
        beside = Table.grid(padding=(0, 2, 0, 0))
        beside.add_column(width=TABLE)
        beside.add_column(no_wrap=True)
        beside.add_row(_table(view, TABLE, room), Group(*_drawing(view, width - TABLE - 2)))
        return [*top, *running, *rest, beside]
    drawing = _drawing(view, width - LABEL, " " * LABEL) if room >= DRAWN + 4 else []
    return [*top, *drawing, *running, *rest, _table(view, width, room - len(drawing))]


def _cut(text: str, style: str = "") -> Text:
    return Text(text, style, no_wrap=True, overflow="ellipsis")


def _row(label: str, width: int, *pieces: Piece) -> Text:
    """A label and those of the pieces that fit beside it; the first is cut where it must be."""
    row = _cut("").append(f"{label:<{LABEL}}", "dim")
    for number, (text, style) in enumerate(pieces):
        text = clean(text)
        if not number or (text and row.cell_len + 2 + cells(text) <= width):
            row.append("  " if number else "").append(text, style or None)
    return row


def _bar(view: View, width: int) -> Text:
    pieces: list[Piece] = [(count(view), "bold")]
    if view.stopping:
        running = len(view.running)
        pieces.append((f"stopping: finishing {running} running" if running else "stopping", "yellow"))
    else:
        pieces += [(left, "") for left in time_left(view)]
    if view.per_hour is not None:
        pieces.append((f"{view.per_hour:,.0f} {view.noun}/h", "dim"))
    # as long whatever the facts are
    length = min(BAR, max(10, width - LABEL - FACTS), width - LABEL - cells(clean(count(view))) - 2)
    if not view.total or length < 5:
        return _row(view.noun, width, *pieces)
    full = max(0, min(length, length * view.done // view.total))
    row = _row(view.noun, width, ("━" * full + "─" * (length - full), "green"), *pieces)
    row.stylize("dim", LABEL + full, LABEL + length)
    return row


def _best(view: View, width: int) -> list[Text]:
    if view.best is None:
        return []
    row = view.best.row
    params = "" if row.params is None else f"{row.params:,.0f} params"
    value = (f"{view.metric} {_value(row)}", "bold green")
    return [
        _row(
            "best", width, value, (f"trial {row.id}", ""), (view.best.beside, ""), (params, ""), (view.best.key, "dim")
        )
    ]


def _drawing(view: View, room: int, indent: str = "") -> list[Text]:
    """The best architecture; as many lines whatever it is, so that nothing jumps."""
    if view.best is None or room < 20:
        return []
    drawn = [clean(line.rstrip()) for line in view.best.draw(room)][:DRAWN]
    return [_cut(indent + line) for line in drawn + [""] * (DRAWN - len(drawn))] if any(drawn) else []


def _running(view: View, width: int, most: int) -> list[Text]:
    shown = view.running if len(view.running) <= most else view.running[: most - 1]
    found: list[Text] = []
    for running in shown:
        pieces: list[Piece] = [(f"trial {running.id}", "cyan")]
        if running.silent is not None:
            pieces.append((f"{running.silent[0]} for {format_seconds(running.silent[1])}", "yellow"))
        if running.progress:
            pieces.append((running.progress, ""))
        if running.curve:
            pieces.append((f"{clean(running.metric)[:20]} {running.curve[-1]:.4g}", ""))
        if len(running.curve) > 1:
            room = width - LABEL - sum(2 + cells(clean(text)) for text, _ in pieces) - 8  # which the seconds take
            pieces.append((sparkline(running.curve, min(CURVE, room)), "cyan"))
        pieces.append((format_seconds(running.seconds), "dim"))
        found.append(_row("" if found else "running", width, *pieces))
    if more := len(view.running) - len(shown):
        found.append(
            _row("", width, (f"and {more} more", "cyan")) if found else _row("running", width, (str(more), ""))
        )
    return found


def _rounds(view: View, width: int) -> list[Text]:
    if view.rounds is None:
        return []
    share = (width - LABEL) // max(1, len(view.rounds.curves)) - 30
    curves = [
        (f"{name} {values[-1]:.4g} {sparkline(values, min(CURVE, max(8, share)))}", "")
        for name, values in view.rounds.curves.items()
        if values
    ]
    return [_row("rounds", width, (f"{view.rounds.done}/{view.rounds.total}", ""), *curves)]


def _failures(view: View, width: int) -> list[Text]:
    stopped = [_row("stopped", width, (f"{view.stopped} before their training was whole", ""))] if view.stopped else []
    if not view.failed:
        return stopped
    last = "" if view.failure is None else f", the last trial {view.failure[0]}: {view.failure[1]}"
    return [*stopped, _row("failed", width, (f"{view.failed}{last}", "red"))]


def _machine(view: View, width: int) -> list[Text]:
    return [_row("uses", width, *((fact, "dim") for fact in view.machine))] if view.machine else []


def _table(view: View, width: int, height: int) -> RenderableType:
    """The last trials, the latest last; columns that do not fit are left out from the right."""
    rows = list(view.last)[-min(height - 1, MOST_ROWS) :] if height >= 2 else []
    columns = {
        "trial": [str(row.id) for row in rows],
        clean(view.metric)[:16]: [_value(row) for row in rows],
        "cost": ["" if row.seconds is None else format_seconds(row.seconds) for row in rows],
        "params": ["" if row.params is None else f"{row.params:,.0f}" for row in rows],
        "parent": ["" if row.parent is None else str(row.parent) for row in rows],
    }
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("last", width=LABEL - 2)
    kept, used = [], LABEL - 2
    for head, values in columns.items():
        used += 2 + max(map(cells, [head, *values]))
        if used > width:
            break
        if any(values) or head == "cost":
            table.add_column(Text(head), justify="right", no_wrap=True)
            kept.append(values)
    best = None if view.best is None else view.best.row.id
    for row, *values in zip(rows, *kept, strict=True):
        table.add_row("", *values, style="bold green" if row.id == best else _style(row))
    return table if rows and kept else Group()


def _value(row: Row) -> str:
    if row.early is not None:
        return f"{format_number(row.early)} after {row.fidelity or 0:g}"
    return "failed" if row.value is None else format_number(row.value)


def _style(row: Row) -> str | None:
    """Of a row that is not the best."""
    if row.value is not None:
        return None
    return "red" if row.early is None else "dim"
