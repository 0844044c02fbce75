"""Python source as it is written down: expressions, broken into lines as ruff and black do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

WIDTH = 120


@dataclass(frozen=True)
class Brackets:
    """A call, a list, a dict or a comprehension: what may be broken at its brackets.

    kind: a "call" may have all its arguments on one indented line, a "display" has a line for each item, the items of
    a "comprehension" have no commas between them.
    """

    opening: str
    items: tuple[Doc, ...]
    closing: str
    kind: Literal["call", "display", "comprehension"] = "call"


@dataclass(frozen=True)
class Prefixed:
    """`text` right before an expression, such as a dict's key or an argument's name."""

    text: str
    doc: Doc


Doc = str | Brackets | Prefixed


def call(function: str, *arguments: Doc) -> Brackets:
    return Brackets(f"{function}(", arguments, ")")


def display(opening: str, items: tuple[Doc, ...], closing: str) -> Brackets:
    return Brackets(opening, items, closing, "display")


def flat(doc: Doc) -> str:
    """On one line."""
    if isinstance(doc, str):
        return doc
    if isinstance(doc, Prefixed):
        return doc.text + flat(doc.doc)
    comma = "," if doc.opening == "(" and len(doc.items) == 1 and doc.kind == "display" else ""
    separator = " " if doc.kind == "comprehension" else ", "
    return doc.opening + separator.join(map(flat, doc.items)) + comma + doc.closing


def lines(doc: Doc, indent: int = 0, before: str = "", after: str = "") -> list[str]:
    """Lines of at most WIDTH characters, as far as there are brackets to break."""
    line = " " * indent + before + flat(doc) + after
    if len(line) <= WIDTH or isinstance(doc, str):
        return [line]
    if isinstance(doc, Prefixed):
        return lines(doc.doc, indent, before + doc.text, after)
    inner = indent + 4
    joined = " " * inner + ", ".join(map(flat, doc.items))
    if doc.kind == "comprehension":
        body = [line for item in doc.items for line in lines(item, inner)]
    elif doc.kind == "call" and len(joined) <= WIDTH:
        body = [joined]
    elif doc.kind == "call" and len(doc.items) == 1:
        body = lines(doc.items[0], inner)
    else:
        body = [line for item in doc.items for line in lines(item, inner, after=",")]
    return [" " * indent + before + doc.opening, *body, " " * indent + doc.closing + after]


def literal(text: str) -> str:
    """A string constant, in double quotes where it has none."""
    found = repr(text)
    return found if '"' in text else '"' + found[1:-1].replace("\\'", "'") + '"'
