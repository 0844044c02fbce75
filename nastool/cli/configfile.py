"""--config: options from a YAML file, checked as strictly as the command line."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import click

from nastool.core.errors import InputError, hint, short

_SECTIONS = ("format", "provenance", "search", "eval", "retrain")


def load(ctx: click.Context, parameter: click.Parameter, path: str | None) -> None:
    """click callback. Fills ctx.default_map, and ctx.meta["nastool.config"] with the plugins' options."""
    if path is None:
        return
    from nastool.core.yaml_files import read_yaml

    document = read_yaml(path)
    for section in document:
        if section not in _SECTIONS:
            raise InputError(f"{path}: unknown section {section!r}; there are {', '.join(_SECTIONS)}")
    if document.get("format", "nastool.run/1") != "nastool.run/1":
        shown = f" but {short(document['format'])!r}" if isinstance(document["format"], str) else ""
        raise InputError(f"{path}: its format is not 'nastool.run/1'{shown}")
    given = document.get(ctx.info_name or "") or {}
    if not isinstance(given, dict):
        raise InputError(f"{path}: section {ctx.info_name} must be a mapping of options")
    known = {p.name.replace("_", "-"): p for p in ctx.command.params if isinstance(p, click.Option) and p.name}
    for name in ("config", "json-flag"):
        known.pop(name, None)
    defaults: dict[str, Any] = {}
    plugins: dict[str, dict[str, Any]] = {}
    for key, value in given.items():
        if key not in known:
            raise InputError(f"{path}: {ctx.info_name} has no option {key!r}; {hint(key, known)}")
        option = known[key]
        assert option.name is not None
        if value is None:
            continue
        if option.multiple and "KEY=" not in (option.metavar or ""):
            texts = value if isinstance(value, list) else [value]
            defaults[option.name] = [_checked(path, key, each, option) for each in texts]
        elif option.multiple:
            plugins[option.name] = _mapping(path, key, value)
        elif isinstance(value, dict) and "KEY=" in (option.metavar or ""):
            defaults[option.name] = ",".join(f"{k}={v}" for k, v in value.items())
        else:
            defaults[option.name] = _checked(path, key, value, option)
    ctx.default_map = {**(ctx.default_map or {}), **defaults}
    ctx.meta["nastool.config"] = plugins


def _mapping(path: str, key: str, value: object) -> dict[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in value):
        raise InputError(f"{path}: {key} must be a mapping of option names to values")
    found = {name.replace("-", "_"): item for name, item in value.items()}
    for name in value:
        if "-" in name and name.replace("-", "_") in value:
            raise InputError(f"{path}: {key} holds {name.replace('-', '_')} twice, with - and with _")
    return found


def _checked(path: str, key: str, value: object, option: click.Option) -> object:
    kinds: tuple[str, tuple[type, ...]]
    if option.is_flag:
        kinds = ("true or false", (bool,))
    elif isinstance(option.type, click.IntRange | click.types.IntParamType):
        kinds = ("an integer", (int,))
    elif isinstance(option.type, click.FloatRange | click.types.FloatParamType):
        kinds = ("a number", (int, float))
    else:
        kinds = ("text", (str,))
    if isinstance(value, int) and abs(value) >= 2**63:
        raise InputError(f"{path}: {key} is too large a number")
    if not isinstance(value, kinds[1]) or (isinstance(value, bool) and not option.is_flag):
        shown = f"a {type(value).__name__}" if isinstance(value, dict | list) else repr(short(value))
        raise InputError(f"{path}: {key} must be {kinds[0]}, got {shown}")
    return value


option = click.option(
    "--config",
    callback=load,
    is_eager=True,
    expose_value=False,
    metavar="FILE",
    help="YAML file of options, such as an earlier run's run.yaml.",
)
