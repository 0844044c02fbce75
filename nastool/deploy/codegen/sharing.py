"""Functions for what is made several times."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from nastool.deploy.codegen.plan import fresh
from nastool.deploy.codegen.terms import (
    Call,
    Const,
    Definition,
    Name,
    Parameter,
    Term,
    common,
    is_number,
    parameters,
    walk,
)

Book = dict[str, Definition]
"""Definitions by name."""


def share(book: Book) -> Book:
    """The same definitions after functions for parts of them that occur more than once."""
    return _named(_prefixes(_dicts(_sequentials(book))), set(book))


def _sequentials(book: Book) -> Book:
    """Functions for Sequentials, the largest first."""
    tallest = max((_height(part) for definition in book.values() for part in definition.terms()), default=0)
    for height in range(tallest, 0, -1):
        groups: dict[Any, list[Call]] = {}
        for definition in book.values():
            for part in definition.terms():
                if isinstance(part, Call) and part.head in ("Sequential", "Named") and _height(part) == height:
                    if len(_modules(part)) > 1 and not _takes_modules(part):
                        groups.setdefault(_form(part), []).append(part)
        for parts in groups.values():
            shared = common(parts) if len(parts) > 1 else None
            if shared is None or (len(parts) < 3 and len(_modules(shared)) < 3 and parts[0].head == "Sequential"):
                continue
            made, found, _ = parameters({"": shared})
            if len(found) <= 5:
                book = _with(book, Definition(f"{len(book)}", found, made), parts)
    return book


def _dicts(book: Book) -> Book:
    """Functions for Dicts of which some modules are alike, and the others are passed in."""
    groups: dict[Any, list[Call]] = {}
    for definition in book.values():
        for part in definition.terms():
            if isinstance(part, Call) and part.head == "Dict" and part.of and len(part.args) > 1:
                groups.setdefault((part.of, part.names), []).append(part)
    for (of, names), parts in groups.items():
        columns = [[part.args[i] for part in parts] for i in range(len(names))]
        shared = [common(column) for column in columns]
        if len(parts) < 3 or None not in shared or not any(shared):
            continue
        attributes = dict(
            zip(names, (term or column for term, column in zip(shared, columns, strict=True)), strict=True)
        )
        made, found, _ = parameters(attributes)
        body = Call("Dict", names, tuple(made.values()), of)
        book = _with(book, Definition(f"{len(book)}", found, {"": body}), parts)
    return book


def _with(book: Book, function: Definition, parts: list[Call]) -> Book:
    """With a function, and its calls in the place of the parts that it stands for."""
    by = {part: function.call("Function", i) for i, part in enumerate(parts)}
    for definition in book.values():
        definition.rewrite(lambda call: by.get(call, call))
    return {function.name: function, **book}


def _prefixes(book: Book) -> Book:
    """Functions for Dicts whose only module is a Dict: one more name between a module and others."""
    found = [
        p.names[0] for definition in book.values() for p in definition.terms() if _is_prefix(p) and isinstance(p, Call)
    ]
    for key in dict.fromkeys(found):
        if found.count(key) < 3 or key in book:
            continue

        def shorter(call: Call, key: str = key) -> Call:
            inner = call.args[0] if _is_prefix(call) and call.names[0] == key else None
            if not isinstance(inner, Call):
                return call
            return Call("Function", ("modules",), (replace(inner, head=f"{inner.head} braces"),), key)

        for definition in book.values():
            definition.rewrite(shorter)
        body = Call("Dict", (key,), (Call("nn.ModuleDict", ("modules",), (Name("modules"),)),))
        book = {key: Definition(key, [Parameter("modules", (), "modules")], {"": body}), **book}
    return book


def _is_prefix(term: Term) -> bool:
    if not isinstance(term, Call) or term.head != "Dict" or len(term.args) != 1 or not term.names[0].isidentifier():
        return False
    inner = term.args[0]
    return isinstance(inner, Call) and inner.head in ("Dict", "Each")


def _modules(term: Term) -> list[Call]:
    """What a term is made of: torch's own modules, classes and functions."""
    calls = [part for part in walk(term) if isinstance(part, Call)]
    return [call for call in calls if call.head.startswith("nn.") or call.head in ("Class", "Function")]


def _takes_modules(term: Term) -> bool:
    """Whether modules are passed in from outside."""
    if isinstance(term, Call) and term.head in ("Sequential", "Named", "List", "Dict"):
        return any(isinstance(arg, Name) or _takes_modules(arg) for arg in term.args)
    return isinstance(term, Call) and any(map(_takes_modules, term.args))


def _height(term: Term) -> int:
    return 1 + max(map(_height, term.args), default=0) if isinstance(term, Call) else 0


def _form(term: Term) -> Any:
    """Equal for terms that may have something in common."""
    if isinstance(term, Call):
        return term.head, term.names, term.of, tuple(map(_form, term.args))
    return "number" if is_number(term) else term


# --- names


_SHORT = {"Conv2d": "conv", "BatchNorm2d": "bn", "ReLU": "relu", "Identity": ""}


def _named(book: Book, given: set[str]) -> Book:
    """Functions with names that say what is in them, such as relu_conv_bn."""
    final: dict[str, str] = {}
    for name, definition in book.items():
        wanted = name if name in given or not name.isdigit() else _describe(definition.attributes[""], final)
        final[name] = fresh(wanted, set(final.values()) | given - {name})
    for definition in book.values():
        definition.name = final[definition.name]
        definition.rewrite(lambda call: replace(call, of=final[call.of]) if call.head == "Function" else call)
    return {definition.name: definition for definition in book.values()}


def _describe(term: Term, final: Mapping[str, str]) -> str:
    inner = term
    while isinstance(inner, Call) and len(inner.args) == 1 and inner.head in ("Sequential", "Named"):
        inner = inner.args[0]
    if (
        isinstance(term, Call)
        and term.of
        and (term.head == "Dict" or (isinstance(inner, Call) and inner.head == "Function"))
    ):
        return snake(term.of)
    parts = list(filter(None, _parts(term, final)))
    times = next((n for n in range(len(parts), 1, -1) if parts == parts[: len(parts) // n] * n), 1)
    name = "_".join(parts[: len(parts) // times])
    if not name or len(name) > 30:
        return "block"
    return f"{name}_x{times}" if times > 1 else name


def _parts(term: Term, final: Mapping[str, str]) -> list[str]:
    """Words for what is in a term."""
    if not isinstance(term, Call):
        return []
    if term.head == "Function":
        return [final[term.of]]
    if term.head == "Class" or (term.head == "Named" and len(term.args) > 1 and term.of):
        return [snake(term.of)]
    if term.head.startswith("nn."):
        given, one = term.given(), Const(1, "groups")
        depthwise = given.get("groups", one) != one and _value(given["groups"]) == _value(given["in_channels"])
        kind = term.head.removeprefix("nn.")
        return ["depthwise" if depthwise else _SHORT.get(kind, snake(re.sub(r"\dd$", "", kind)))]
    return [word for arg in term.args for word in _parts(arg, final)]


def _value(term: Term) -> object:
    return term.text if isinstance(term, Name) else term.value if isinstance(term, Const) else term


def snake(name: str) -> str:
    """ "MaxPool" -> "max_pool"."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
