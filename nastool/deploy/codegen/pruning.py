"""What of constructors' source never ran when a network was made. Making it takes no arguments, so it never will."""

from __future__ import annotations

import ast
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from types import FrameType
from typing import Any, TypeVar

from nastool.core.options import parsed

Edit = tuple[int, int, str]
"""Bytes from, to: by what they are replaced."""
Lines = set[tuple[str, int]]
"""Files and numbers."""
SILENT = ast.FunctionDef, ast.ClassDef, ast.Global, ast.Nonlocal, ast.Pass, ast.AnnAssign
"""Statements of which no line is told, or which stay for their own sake."""

_T = TypeVar("_T")


def watched(action: Callable[[], _T], called: Callable[[FrameType], None] = lambda frame: None) -> tuple[_T, Lines]:
    """What an action returns, and the lines that ran in it, torch's left out. called: told of each call."""
    lines: Lines = set()

    def call(frame: FrameType, event: str, _: Any) -> Any:
        called(frame)
        return None if str(frame.f_globals.get("__name__")).startswith("torch.") else line

    def line(frame: FrameType, event: str, _: Any) -> Any:
        lines.add((frame.f_code.co_filename, frame.f_lineno))
        return line

    before = sys.gettrace()
    sys.settrace(call)
    try:
        return action(), lines
    finally:
        sys.settrace(before)


@dataclass(frozen=True)
class Ran:
    """What is known of a network. made, used: what ran when it was made, and when it was run. chosen: its options."""

    made: Lines
    used: Lines
    chosen: Collection[str]


def pruned(text: str, file: str, first: int, ran: Ran) -> Iterator[Edit]:
    """Edits, some inside of others, that leave out what never ran.

    Functions that the network's inputs come through are left alone.

    Args:
        text: A definition.
        file: Where it stands.
        first: In which line it begins there.
        ran: What ran.
    """
    rows = text.split("\n")
    starts = [0, *accumulate(len(row.encode()) + 1 for row in rows)]

    def among(node: ast.stmt, lines: Lines) -> bool:
        return any((file, first + n - 1) in lines for n in range(node.lineno, (node.end_lineno or 0) + 1))

    def idle(node: ast.stmt) -> bool:
        if isinstance(node, SILENT) or (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
            return False
        parts = [*node.body, *node.orelse] if isinstance(node, ast.If | ast.For) else []
        return not among(node, ran.made) or (bool(parts) and all(map(idle, parts)))

    def dropped(start: int, end: int) -> Edit:
        """Lines, from one up to another."""
        return starts[start - 1], starts[end - 1], ""

    def block(body: Sequence[ast.stmt]) -> Iterator[Edit]:
        for node in body:
            if idle(node):
                yield dropped(node.lineno, (node.end_lineno or 0) + 1)
            elif isinstance(node, ast.If):
                yield from arms(node)
            elif isinstance(node, ast.For | ast.With):
                yield from block(node.body)
            else:
                for part in ast.walk(node):
                    if isinstance(part, ast.Dict):
                        yield from items(part)

    def items(node: ast.Dict) -> Iterator[Edit]:
        """Options that are not chosen, among others, each on lines of its own."""
        named = [(key, getattr(key, "value", None), value) for key, value in zip(node.keys, node.values, strict=True)]
        for key, name, value in named if any(name in ran.chosen for _, name, _ in named) else ():
            if name not in ran.chosen and key and rows[key.lineno - 1][: key.col_offset].isspace():
                yield dropped(key.lineno, (value.end_lineno or 0) + 1)

    def arms(node: ast.If, head: bool = True) -> Iterator[Edit]:
        """Of an if, an elif or an else those that ran. head: none before this one did."""
        end, column = (node.end_lineno or 0) + 1, node.col_offset
        rest, after = node.orelse, end
        if rest:
            after = next(n for n in range(rest[0].lineno, 0, -1) if rows[n - 1][column:].startswith(("el", "else:")))
        follows = isinstance(rest[0], ast.If) and rest[0].lineno == after if rest else False
        gone = all(map(idle, node.body))
        if gone:
            yield dropped(node.lineno, after)
        else:
            yield from block(node.body)
            if head and rows[node.lineno - 1][column:].startswith("elif"):
                yield starts[node.lineno - 1] + column, starts[node.lineno - 1] + column + 2, ""
        if follows and isinstance(rest[0], ast.If):
            yield from arms(rest[0], head and gone)
        elif rest and all(map(idle, rest)):
            yield dropped(after, end)
        elif rest:
            yield from block(rest)
            if head and gone:
                yield dropped(after, after + 1)
                for n in range(after + 1, end):
                    yield starts[n - 1] + column, starts[n - 1] + column + 4 * bool(rows[n - 1]), ""

    for node in ast.walk(parsed(text)):
        if isinstance(node, ast.FunctionDef):
            made, used = (any(among(part, lines) for part in node.body) for lines in (ran.made, ran.used))
            if made and not used:
                yield from block(node.body)
