"""JSON values as annotations promise them, whoever wrote them."""

from __future__ import annotations

import dataclasses
import math
from array import array
from collections.abc import Callable, Mapping
from functools import cache
from sys import intern
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

Read = Callable[[Any], Any]
"""Makes of a JSON value what an annotation promises. AttributeError, LookupError, TypeError, ValueError: it is another.

Numbers are finite, texts can be encoded, and an integer has at most 64 bits and is no truth value. A dataclass is an
object with its fields, or the list of them.
"""


def is_number(value: object) -> bool:
    """Whether it is a finite one."""
    if type(value) is float:
        return -math.inf < value < math.inf
    try:
        return isinstance(value, int | float) and math.isfinite(value)
    except OverflowError:  # an integer too large for any computation
        return False


@cache
def fields(kind: Any) -> Mapping[str, Read]:
    """How to read each field of a dataclass."""
    hints = get_type_hints(kind)
    return {field.name: _read(hints[field.name]) for field in dataclasses.fields(kind)}


def fitted(found: Mapping[str, Any], reads: Mapping[str, Read]) -> dict[str, Any]:
    """The values as `fields` says. KeyError: there is one more."""
    return {name: reads[name](value) for name, value in found.items()}


def taken(found: dict[str, Any], reads: Mapping[str, Read]) -> dict[str, Any]:
    """`fitted` of those values that `fields` says; they are taken out of the mapping."""
    return {name: read(found.pop(name)) for name, read in reads.items() if name in found}


def _read(hint: Any) -> Read:
    """How to read what an annotation says."""
    kind, inner = get_origin(hint) or hint, get_args(hint)
    if kind is Literal:
        return lambda value: inner[inner.index(value)]
    if dataclasses.is_dataclass(kind):
        return lambda value: _made(kind, value)
    reads: list[Any] = [each if each is ... else _read(each) for each in inner]

    def number(value: Any) -> Any:
        if not is_number(value):
            raise ValueError(value)
        return value

    def integer(value: Any) -> Any:
        if type(value) is not int or not -(2**63) <= value < 2**63:
            raise ValueError(value)
        return value

    def plain(value: Any) -> Any:
        if not isinstance(value, kind):
            raise ValueError(value)
        if kind is str:
            value.encode()
        return value

    def several(value: list[Any]) -> Any:
        each = reads[:1] * len(value) if reads[-1] is ... else reads
        return tuple(read(item) for read, item in zip(each, value, strict=True))

    def mapping(value: dict[str, Any]) -> Any:
        "".join(value).encode()
        read = reads[1]
        for each in value.values():
            read(each)
        return {intern(name): each for name, each in value.items()}  # few names come many times

    if kind is UnionType:
        return lambda value: None if value is None else reads[0](value)
    if kind is array:
        return lambda value: array("d", map(number, value))
    known: Mapping[Any, Read] = {float: number, int: integer, tuple: several, Mapping: mapping}
    return known.get(kind, plain)


def _made(kind: Any, value: Any) -> Any:
    reads = fields(kind)
    return kind(**fitted(dict(zip(reads, value, strict=True)) if isinstance(value, list) else value, reads))
