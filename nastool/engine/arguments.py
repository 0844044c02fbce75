"""Arguments of Python functions: as options of plugins, and as the command line that does the same."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING, Any

from nastool.core.errors import InputError, short
from nastool.engine import sources
from nastool.engine.command_options import SEVERAL, Options, plain
from nastool.engine.study import Study

if TYPE_CHECKING:
    from nastool.engine.command_options import Architecture


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
