"""HTML from values: everything that is not markup already is escaped."""

from __future__ import annotations

import html
import json
import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_IN_SCRIPT = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026", 0x2028: "\\u2028", 0x2029: "\\u2029"}
_VOID = frozenset({"meta", "br", "input", "img", "link"})

Child = object
"""What an element holds: `Html` as it is, None not at all, iterables item by item, all else as text."""


MISSING = "\N{EN DASH}"
"""In place of a value that there is not."""


class Html(str):
    """Text that is markup already, and is not escaped again."""

    __slots__ = ()


def printable(value: object) -> str:
    """As text that a page may hold: control characters and halves of surrogates are replaced."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", str(value))


def escape(value: object) -> Html:
    return value if isinstance(value, Html) else Html(html.escape(printable(value)))


def join(*children: Child) -> Html:
    """Children one after another."""
    parts: list[str] = []
    for child in children:
        if child is None:
            continue
        if isinstance(child, Iterable) and not isinstance(child, str):
            parts.append(join(*child))
        else:
            parts.append(escape(child))
    return Html("".join(parts))


def tag(name: str, /, *children: Child, **attributes: object) -> Html:
    """An element. attributes: False and None are left out, True has no value; `class_` is class, `data_x` data-x."""
    shown = "".join(
        f" {key.rstrip('_').replace('_', '-')}" + ("" if value is True else f'="{escape(value)}"')
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID:
        return Html(f"<{name}{shown}>")
    return Html(f"<{name}{shown}>{join(*children)}</{name}>")


def embedded(identifier: str, value: Any) -> Html:
    """A JSON value for the page's script. Numbers that are not finite become null."""
    text = json.dumps(_plain(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    text = text.translate(_IN_SCRIPT)
    return Html(f'<script type="application/json" id="{escape(identifier)}">{text}</script>')


def _plain(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, float):
        if not math.isfinite(value):
            return None
        short = float(f"{value:.6g}")
        return int(short) if short.is_integer() and abs(short) < 2**53 else short
    if isinstance(value, Mapping):
        return {printable(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value


def table(head: Iterable[Child], rows: Iterable[Iterable[Child]], **attributes: object) -> Html:
    """A table in a box of its own, which scrolls where the page is narrower. The first cell of a row is its header."""
    body = [
        tag("tr", *(tag("th", cell, scope="row") if i == 0 else tag("td", cell) for i, cell in enumerate(row)))
        for row in rows
    ]
    headings = tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in head)))
    return tag("div", tag("table", headings, tag("tbody", *body), **attributes), class_="scroll", tabindex=0)


def facts(pairs: Iterable[tuple[Child, Child]], **attributes: object) -> Html:
    """Names and values."""
    return tag("dl", *(tag("div", tag("dt", name), tag("dd", value)) for name, value in pairs), **attributes)


def code(text: object) -> Html:
    return tag("code", text)


def command(text: str, what: str) -> Html:
    """A command to type, with what it does."""
    return tag("li", tag("code", text, class_="command"), tag("span", what), class_="next")
