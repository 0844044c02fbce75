"""Arguments of Python functions: as options of plugins, and as the command line that does the same."""

from __future__ import annotations

import inspect
import json
import os
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, fields
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from nastool.core import plugin_files
from nastool.core.errors import InputError, short
from nastool.engine import sources
from nastool.engine.command_options import RANGES, SEVERAL, Options, described, plain
from nastool.engine.study import Study

if TYPE_CHECKING:
    from nastool.engine.command_options import Architecture


P = ParamSpec("P")
O = TypeVar("O")  # noqa: E741
R = TypeVar("R")


def seeds(given: int | str | Iterable[int]) -> list[int]:
    return sources.seeds(_text("seeds", given))


def words(command: str, options: Options, *arguments: str) -> list[str]:
    """The words of the command line that do the same: what is as by default is left out."""
    found = [command]
    for each in fields(options):
        name, value = each.name, getattr(options, each.name)
        default = each.default_factory() if each.default_factory is not MISSING else each.default
        if value is None or default is MISSING or callable(default) or value == default:
            continue
        flag = SEVERAL.get(name, f"--{name.replace('_', '-')}")
        if isinstance(value, bool):
            found.append(flag if value else flag.replace("--", "--no-", 1))
        elif isinstance(value, Mapping) and name.endswith("_options"):
            for key, each_value in value.items():
                found += [flag, f"{key}={_text(name, each_value)}"]
        elif name in SEVERAL and not isinstance(value, str):
            for one in value:
                found += [flag, one]
        else:
            found.append(f"{flag}={_text(name, value)}")
    return [*found, *(["--", *arguments] if arguments else [])]


def _text(name: str, value: Any) -> str:
    """An option's value as it is written on a command line. InputError: nobody could write it."""
    value = plain(value)
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    if isinstance(value, bytes | os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, Mapping):
        return ",".join(f"{key}={_text(name, each)}" for key, each in value.items())
    if isinstance(value, Iterable):
        return ",".join(_text(name, each) for each in value)
    raise InputError(f"{name}: need text, a number, a path, or several of them, got {short(repr(value))}")


def word(architecture: Architecture) -> str:
    """An architecture as an argument of a command. InputError: it is none."""
    if isinstance(architecture, Study):
        return str(architecture.path)
    if isinstance(architecture, str | bytes | os.PathLike):
        return os.fsdecode(architecture)
    if not isinstance(architecture, Mapping):
        raise InputError(
            "an architecture is a run, a path, zoo:NAME or an arch.json object, which Study.line makes of a trial; "
            f"got {short(repr(architecture))}"
        )
    try:
        return json.dumps(dict(architecture), default=plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"an architecture's object is no JSON: {error}") from None


def taking(options: Callable[P, O]) -> Callable[[Callable[[O], R]], Callable[P, R]]:
    """Decorate a function of an object of options so that it takes the object's fields as arguments."""

    def decorate(function: Callable[[O], R]) -> Callable[P, R]:
        @wraps(function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            values = [*args, *kwargs.values()]
            plugin_files.trust(
                *values, *(each for value in values if isinstance(value, dict) for each in value.values())
            )
            return function(options(*args, **kwargs))

        kind: Any = options
        about, found = described(kind), inspect.signature(kind).parameters
        empty = {each.name: each.replace(default={}) for each in found.values() if each.name.endswith("_options")}
        ordered = sorted(({**found, **empty}[name] for name in about), key=lambda each: each.kind)
        returns = inspect.signature(function).return_annotation
        setattr(call, "__signature__", inspect.Signature(ordered, return_annotation=returns))  # noqa: B010  # for mypy
        for name, (low, high) in RANGES.items():
            if name in about:
                about[name] = f"{about[name].rstrip('.')} ({f'>= {low}' if high is None else f'{low} to {high:,}'})."
        lines = (textwrap.fill(f"{name}: {text}", 112, subsequent_indent=" " * 4) for name, text in about.items())
        head, returned, tail = (function.__doc__ or "").partition("    Returns:")
        call.__doc__ = f"{head}    Args:\n{textwrap.indent(chr(10).join(lines), ' ' * 8)}\n\n{returned}{tail}"
        return call

    return decorate
