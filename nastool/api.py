"""The commands as functions, for notebooks and scripts.

Each takes the options of the command of the same name, with _ for -, and does what the command does: the same folders,
the same results, the same resuming. What the command prints on stdout is returned.
"""

from __future__ import annotations

import inspect
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nastool.core import invocation
from nastool.core.errors import InputError, Stopped, short
from nastool.core.errors import NastoolError as NastoolError
from nastool.engine.study import Study

if TYPE_CHECKING:
    from nastool.deploy.models import Model

Architecture = str | Path | Mapping[str, Any] | Study
"""A run or its folder, a file, zoo:NAME, or an arch.json object, such as `Study.line` and `evaluate` return."""


def search(**options: Any) -> Study:
    """Search for an architecture, as `nastool search` does; returns the run.

    The same call continues a run that was interrupted (Ctrl-C raises KeyboardInterrupt), and more trials extend it.
    Options of plugins are mappings: `search(strategy="evolution", strategy_options={"population": 50})`.

    InputError (a ValueError): something is wrong with the options. NastoolError: the search failed.
    """
    context, _ = _run("search", [], options)
    return Study.read(context.meta["nastool.folder"])


def evaluate(architectures: Architecture | Iterable[Architecture], **options: Any) -> list[dict[str, Any]]:
    """Evaluate architectures, as `nastool eval` does; returns an object for each, in order.

    "metrics" are those of the first seed's network, "mean" and "std" those over the seeds. Of one that failed there are
    none, and "error" says why. Errors as for `search`.
    """
    given: Any = architectures
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        given = [given]
    words = [_word(each) for each in given]
    if not words:
        _words(_command("eval"), options)  # for their errors
        return []
    return _run("eval", words, options)[1]


def retrain(architecture: Architecture, **options: Any) -> Study:
    """Train what was found for use, as `nastool retrain` does; returns the run of its trainings.

    Errors as for `search`.
    """
    context, _ = _run("retrain", [_word(architecture)], options)
    return Study.read(context.meta["nastool.folder"])


def load(model: Architecture) -> Model:
    """A trained network: of a run, of a file of weights, or of a line that names its weights. InputError: it has none.

    `nastool.load(study.line(trial))` is the network of any trial whose weights the run has kept.
    """
    from nastool.cli import common

    return common.model(_word(model))


# --- from Python to the command line

ONLY_THERE = frozenset({"dry_run", "json_flag"})
"""Options that make no sense here."""


def _command(name: str) -> click.Command:
    from nastool.cli import cli

    found = cli.get_command(click.Context(cli, info_name="nastool"), name)
    assert found is not None
    return found


def _options(command: click.Command) -> list[click.Option]:
    return [p for p in command.params if isinstance(p, click.Option) and p.name and p.name not in ONLY_THERE]


def _run(name: str, arguments: Sequence[str], options: Mapping[str, Any]) -> tuple[click.Context, list[dict[str, Any]]]:
    """Carry a command out; its context, and the JSON objects that it prints."""
    from nastool.cli import cli

    command = _command(name)
    given = [*_words(command, options), *(["--", *arguments] if arguments else [])]
    with invocation.of([name, *given]) as printed:
        try:
            parent = click.Context(cli, info_name="nastool", **cli.context_settings)
            with command.make_context(name, list(given), parent=parent) as context:
                code = command.invoke(context)
        except click.ClickException as error:
            raise InputError(error.format_message()) from None
        except Stopped:
            code = 130
    if code == 130:
        raise KeyboardInterrupt
    return context, printed


def _words(command: click.Command, options: Mapping[str, Any]) -> list[str]:
    """Options as the words of a command line; one that is None is left out. InputError: there is no such option."""
    from nastool.core.errors import hint

    known = {option.name: option for option in _options(command)}
    found: list[str] = []
    for name, value in options.items():
        option = known.get(name)
        if option is None:
            raise InputError(f"{command.name} has no option {name!r}; {hint(name, known)}")
        flag = max(option.opts, key=len)
        value = _plain(value)
        if value is None:
            continue
        if option.is_flag:
            if not isinstance(value, bool):
                raise InputError(f"{name}: need True or False, got {short(repr(value))}")
            if value or option.secondary_opts:
                found.append(flag if value else option.secondary_opts[0])
        elif option.multiple:
            if isinstance(value, Mapping):
                texts = [f"{key}={_text(name, each)}" for key, each in value.items()]
            else:
                several = isinstance(value, Iterable) and not isinstance(value, str | bytes)
                texts = [_text(name, each) for each in (value if several else [value])]
            found += [word for text in texts for word in (flag, text)]
        else:
            found.append(f"{flag}={_text(name, value)}")
    return found


def _plain(value: Any) -> Any:
    """numpy's numbers and arrays as Python's."""
    return value.tolist() if hasattr(value, "tolist") else value


def _text(name: str, value: Any) -> str:
    """An option's value as it is written on a command line. InputError: nobody could write it."""
    value = _plain(value)
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


def _word(architecture: Architecture) -> str:
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


def _describe(function: Callable[..., Any], name: str) -> None:
    """Give a function the command's options as its signature, for help() and completion."""
    keep = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
    options = _options(_command(name))
    keep += [inspect.Parameter(str(p.name), inspect.Parameter.KEYWORD_ONLY, default=None) for p in options]
    lines = [f"    {p.name}: {_help(p)}" for p in options]
    function.__signature__ = inspect.signature(function).replace(parameters=keep)  # type: ignore[attr-defined]
    function.__doc__ = "\n".join([inspect.cleandoc(function.__doc__ or ""), "", "Options:", *lines])


def _help(option: click.Option) -> str:
    """What an option means, as an argument of a function."""
    text = (option.help or "").rstrip(".")
    if (option.metavar or "").startswith("KEY="):
        return text.removesuffix("; repeat it").replace("Option of", "Options of") + "; a mapping."
    return f"{text}, or a list of several." if option.multiple else f"{text}."


for _function, _name in ((search, "search"), (evaluate, "eval"), (retrain, "retrain")):
    _describe(_function, _name)
