"""Options of commands, made from the fields of what their functions are given."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from typing import Any, TypeVar

import click

from nastool.cli.common import Seconds
from nastool.core.errors import InputError
from nastool.engine import command_options
from nastool.engine.command_options import RANGES, SEVERAL, Measuring, Options

F = TypeVar("F", bound=Callable[..., Any])

_LETTERS = {
    "strategy": "-s",
    "strategy_options": "-S",
    "space_options": "-P",
    "evaluator_options": "-E",
    "trials": "-n",
    "out": "-o",
}
_METAVARS = {
    "strategy": "NAME",
    "strategy_options": "KEY=VALUE",
    "space": "NAME",
    "space_options": "KEY=VALUE",
    "evaluator": "NAME",
    "evaluator_options": "KEY=VALUE",
    "data": "NAME",
    "data_dir": "DIR",
    "recipe": "NAME|FILE",
    "scale": "KEY=N,...",
    "device": "NAME",
    "time": "LENGTH",
    "until": "HH:MM",
    "stop_when": "CONDITION",
    "pick": "CONDITION|knee",
    "patience": "N",
    "objective": "METRIC[:min|max]",
    "seeds": "N,...",
    "out": "DIR",
    "save": "DIR",
    "from_checkpoint": "FILE",
    "attack": "NAME[:KEY=VALUE,...]",
    "shift": "NAME,...|all",
    "trial_timeout": "SECONDS",
    "hung_timeout": "SECONDS",
    "final": "N",
    "retrain": "K",
    "retrain_recipe": "NAME|FILE",
    "retrain_scale": "KEY=N,...",
    "check_ranking": "N",
    "ranking_table": "KEY=VALUE,...",
    "trial": "N",
    "log": "NAME[:KEY=VALUE,...]",
    "executor": "NAME",
    "fidelity": "NAME[:KEY=VALUE,...]",
    "limits": "'METRIC<=VALUE'",
    "warm_start": "RUN",
    "prior": "PROXY",
}


def options(of: type[Options], but: Sequence[str] = ()) -> Callable[[F], F]:
    """Give a command the options of what its function takes, but for what it takes first and what a program says.

    Args:
        of: What its function takes.
        but: Names of those that the command lacks.
    """

    def decorate(function: F) -> F:
        about, found = command_options.described(of), {each.name: each for each in fields(of)}
        for name in reversed(about):
            kind, default = str(found[name].type), found[name].default
            if (
                name in but
                or "Callable" in kind
                or "Listener" in kind
                or (not found[name].kw_only and default is MISSING)
            ):
                continue
            more: dict[str, Any] = {"default": None if default is MISSING else default}
            flag = SEVERAL.get(name, f"--{name.replace('_', '-')}")
            if kind.startswith("bool"):
                flag += f"/--no{flag[1:]}" if default is True or name == "report" else ""
                more["is_flag"] = True
            elif (kind.startswith("Mapping[str, object]") and "str |" not in kind) or name in SEVERAL:
                more = {"multiple": True}
            elif kind.startswith("int") and "str" not in kind:
                low, high = RANGES.get(name, (None, None))
                more["type"] = click.IntRange(low, high) if name in RANGES else int
            elif kind.startswith("float") and "str" not in kind:
                more["type"] = Seconds()
            elif isinstance(default, tuple | int):
                more["default"] = ",".join(map(str, default if isinstance(default, tuple) else (default,)))
            letters = [_LETTERS[name]] if name in _LETTERS else []
            text = about[name].replace(".", ", one each time.") if name.endswith("_options") else about[name]
            function = click.option(*letters, flag, name, metavar=_METAVARS.get(name), help=text, **more)(function)
        return function

    return decorate


def layered(ctx: click.Context, of: type[Options]) -> dict[str, object]:
    """The options of plugins as mappings, which hold what own flags say, too; those are None then."""
    names = {each.name for each in fields(of)}
    flags = [name for name in Measuring.FLAGS if name in names]
    found: dict[str, object] = dict.fromkeys(flags)
    for name in (name for name in names if name.endswith("_options")):
        found[name] = plugin_options(ctx, name, flags if name == "evaluator_options" else ())
    return found


def plugin_options(ctx: click.Context, name: str, flags: Sequence[str] = ()) -> dict[str, object]:
    """The plugin's options of `--{name}`: config file < environment < command line, key by key.

    Args:
        ctx: The command's.
        name: Such as "strategy_options".
        flags: Names of the command's own flags that set an option of the same name.

    Raises:
        InputError: The command line says a thing twice.
    """
    from nastool.core import options

    values: dict[str, object] = dict(ctx.meta.get("nastool.config", {}).get(name, {}))
    default_map = click.core.ParameterSource.DEFAULT_MAP
    given = {flag: ctx.params[flag] for flag in flags if ctx.params.get(flag) is not None}
    values.update({flag: v for flag, v in given.items() if ctx.get_parameter_source(flag) is default_map})
    letter = _LETTERS[name]
    pairs = options.parse(ctx.params[name], letter)
    now = {flag: v for flag, v in given.items() if ctx.get_parameter_source(flag) is not default_map}
    for key in pairs.keys() & now.keys():
        raise InputError(f"both --{key.replace('_', '-')} and {letter} {key}= are given: keep one")
    return {**values, **pairs, **now}
