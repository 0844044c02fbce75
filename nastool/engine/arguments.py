"""Arguments of Python functions: as options of plugins, and as the command line that does the same."""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nastool.core.archfile import ArchDocument
from nastool.core.errors import InputError, short
from nastool.core.space import SearchSpace
from nastool.engine import sources
from nastool.engine.study import Study

Architecture = str | Path | Mapping[str, Any] | Study
"""A run or its folder, a file, zoo:NAME, or an arch.json object, such as `Study.line` and `evaluate` return."""
EVALUATOR_OPTIONS = ("data", "data_dir", "download", "recipe", "epochs", "scale", "device", "from_checkpoint")
"""Options of evaluators that are arguments of their own."""


def evaluator_options(given: Mapping[str, Any]) -> dict[str, object]:
    """The evaluator's options, with those that are arguments of their own. InputError: one is given twice."""
    options = dict(plain(given["evaluator_options"] or {}))
    for name in EVALUATOR_OPTIONS:
        if (value := plain(given.get(name))) is None:
            continue
        if name in options:
            raise InputError(f"both {name} and evaluator_options[{name!r}] are given: keep one")
        options[name] = value
    return options


def plain(value: Any) -> Any:
    """numpy's numbers and arrays as Python's, and paths as text; also within mappings."""
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, bytes | os.PathLike):
        return os.fsdecode(value)
    return value.tolist() if hasattr(value, "tolist") else value


def seeds(given: int | str | Iterable[int]) -> list[int]:
    return sources.seeds(_text("seeds", given))


def words(command: str, function: Callable[..., Any], given: Mapping[str, Any], *arguments: str) -> list[str]:
    """The words of the command line that do the same: what is as by default is left out."""
    found = [command]
    for name, parameter in inspect.signature(function).parameters.items():
        value = plain(given.get(name))
        if value is None:
            continue
        _check_type(name, value, str(parameter.annotation))
        if value == parameter.default:
            continue
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            found.append(flag if value else flag.replace("--", "--no-", 1))
        elif isinstance(value, Mapping) and name.endswith("_options"):
            for key, each in value.items():
                found += [flag, f"{key}={_text(name, each)}"]
        elif name == "log":
            for each in [value] if isinstance(value, str) else value:
                found += [flag, each]
        else:
            found.append(f"{flag}={_text(name, value)}")
    return [*found, *(["--", *arguments] if arguments else [])]


def _check_type(name: str, value: object, annotation: str) -> None:
    """InputError: the value is of another kind than the argument's annotation says."""
    kinds: dict[str, tuple[type, str]] = {
        "bool": (bool, "True or False"),
        "str": (str, "text"),
        "Mapping[str, object]": (Mapping, "a mapping of option names to values"),
    }
    found = kinds.get(annotation.removesuffix(" | None"))
    if found is not None and not isinstance(value, found[0]):
        raise InputError(f"{name}: need {found[1]}, got {short(repr(value))}")


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


def _json(value: Any) -> Any:
    if not hasattr(value, "tolist"):
        raise TypeError(f"it holds a {type(value).__name__}")
    return value.tolist()


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
        return json.dumps(dict(architecture), default=_json)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"an architecture's object is no JSON: {error}") from None


def documents(architecture: Architecture, space: SearchSpace | None) -> Iterator[ArchDocument]:
    """Yield what an argument names. InputError: it names no architecture."""
    yield from sources.read_architectures([word(architecture)], space)
