"""Pages of HTML from templates. What is not markup already is escaped, and made printable."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import math
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import NoneType

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from nastool import __version__
from nastool.analysis.figures.base import Drawn
from nastool.analysis.figures.output import inline

_TEMPLATES = Path(__file__).parent / "templates"
PLAIN = 100_000
"""Most characters of a JSON value that are not compressed."""
_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_TOKEN = re.compile(r"\S[-=/_]|[-=/_]\S")
_IN_SCRIPT = {ord("<"): "\\u003c", ord(">"): "\\u003e", ord("&"): "\\u0026", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def printable(value: object) -> str:
    """Text that a page may hold: control characters and halves of surrogates are replaced."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", str(value))


def embedded(value: object) -> Markup:
    """A JSON value as a script holds it: nothing in it ends the script. Numbers that are not finite become null.

    A long one is compressed: the page's script takes what begins with no "{" for gzip in base64.
    """
    text = json.dumps(_plain(value), separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    if len(text) > PLAIN:
        return Markup(base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode())
    return Markup(text.translate(_IN_SCRIPT))


def _plain(value: object) -> object:
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
        return value if set(map(type, value)) <= {int, NoneType} else [_plain(item) for item in value]
    return value


def tokens(value: object) -> Markup:
    """Text in which an option, a name or a path is broken only if no line is long enough for it, first after |."""
    parts = re.split(r"(\s+)", printable(value))
    whole = Markup('<span class="token">{}</span>')
    pieces = (Markup("<wbr>").join(re.split(r"(?<=\|)(?=[^|])", part)) for part in parts)
    return Markup().join(whole.format(piece) if _TOKEN.search(piece) else piece for piece in pieces)


def policy(live: bool = False) -> str:
    """The content security policy: nothing is loaded, and no script but the page's own is run.

    live: it may ask its own server for news.
    """
    digest = base64.b64encode(hashlib.sha256(_asset("page.js").encode()).digest()).decode()
    connect = "; connect-src 'self'" if live else ""
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:{connect}; "
        "base-uri 'none'; form-action 'none'"
    )


@cache
def _asset(name: str) -> Markup:
    return Markup((_TEMPLATES / name).read_text(encoding="utf-8"))


def _final(value: object) -> object:
    return value if isinstance(value, Markup) else "" if value is None else printable(value)


def _inline(drawn: Drawn, prefix: str) -> Markup:
    return Markup(inline(drawn, prefix))


@cache
def environment() -> Environment:
    """The templates' environment: it escapes by itself, and a name that is not there is an error."""
    found = Environment(
        loader=FileSystemLoader(_TEMPLATES),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=_final,
    )
    found.globals.update(asset=_asset, policy=policy, nastool=__version__)
    found.filters.update(embedded=embedded, inline=_inline, tokens=tokens)
    return found


def render(template: str, **values: object) -> str:
    """The document. Equal values give equal text."""
    return environment().get_template(template).render(**values)
