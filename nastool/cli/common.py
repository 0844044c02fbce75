"""Parts that the commands share: options, reading architectures, writing results."""

from __future__ import annotations

import math
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from nastool.core import defaults
from nastool.core.errors import InputError
from nastool.core.wording import describe_metrics as describe_metrics
from nastool.core.wording import format_number as format_number
from nastool.core.wording import format_seconds as format_seconds
from nastool.core.wording import visible

if TYPE_CHECKING:
    from nastool.core.space import SearchSpace
    from nastool.engine.sources import Given

F = TypeVar("F", bound=Callable[..., Any])

EVALUATOR_FLAGS = ("data", "data_dir", "download", "recipe", "epochs", "scale", "device")
"""Evaluator options common enough to have flags of their own; `-E key=value` reaches them all."""


SEED = click.IntRange(min=0, max=2**63 - 1)


class Seconds(click.ParamType[float]):
    """A finite number > 0."""

    name = "seconds"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            seconds = float(value)
        except ValueError:
            seconds = math.nan
        if not 0 < seconds < math.inf:
            self.fail(f"{value!r} is no number of seconds > 0", param, ctx)
        return seconds


class Command(click.Command):
    """A click command that also takes --debug (`nastool.cli.run` looks for it) and minds a closed pipe.

    An option with one value is refused where it is given twice: click takes the last one without a word.
    """

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing:
            _, _, given = self.make_parser(ctx).parse_args(args=list(args))
            for option in given:
                if isinstance(option, click.Option) and not option.multiple and given.count(option) > 1:
                    if option.is_flag and not option.secondary_opts:
                        continue  # it says the same
                    raise InputError(f"{'/'.join([option.opts[-1], *option.secondary_opts])}: given twice; keep one")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: click.Context) -> object:
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()
            return result
        except BrokenPipeError:
            # Whoever read our results has seen enough. Nothing may be flushed into the closed pipe at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        debug = click.Option(["--debug"], is_flag=True, expose_value=False, help="Show the traceback of an error.")
        params = super().get_params(ctx)
        return [*params[:-1], debug, params[-1]]  # before --help


def space_options(function: F) -> F:
    """--space and -P, for a command that has to know the space."""
    for option in (
        click.option(
            "-P", "--space-options", multiple=True, metavar="KEY=VALUE", help="Option of the space; repeat it."
        ),
        click.option("--space", default=defaults.SPACE, metavar="NAME", help="Search space (`nastool list spaces`)."),
    ):
        function = option(function)
    return function


def evaluator_options(function: F) -> F:
    """--evaluator, and all of `training_options`."""
    return click.option(
        "--evaluator",
        default=defaults.EVALUATOR,
        metavar="NAME",
        help="How architectures are measured (`nastool list evaluators`).",
    )(training_options(function))


def training_options(function: F) -> F:
    """-E and the flags for the common ones among the evaluator's options."""
    for option in (
        click.option("--device", metavar="NAME", help="auto, cpu, cuda or cuda:N."),
        click.option("--scale", metavar="KEY=N,...", help="Size of the networks, such as channels=16,cells=5."),
        click.option("--epochs", type=int, help="Length of a training; the recipe's by default."),
        click.option("--recipe", metavar="NAME|FILE", help="How to train; see `nastool list recipes`."),
        click.option("--download", is_flag=True, default=None, help="Download the data set if it is missing."),
        click.option("--data-dir", metavar="DIR", help="Folder with the data sets."),
        click.option("--data", metavar="NAME", help="Data set: a name (`nastool list data`), npz:FILE or folder:DIR."),
        click.option(
            "-E", "--evaluator-options", multiple=True, metavar="KEY=VALUE", help="Option of the evaluator; repeat it."
        ),
    ):
        function = option(function)
    return function


def again_options(function: F) -> F:
    """Options for a run that there is, which is to go on elsewhere or otherwise."""
    for option in (
        click.option("--report/--no-report", default=None, help="At the end, write report.html into the run folder."),
        click.option("--device", metavar="NAME", help="auto, cpu, cuda or cuda:N."),
        click.option("--download", is_flag=True, default=None, help="Download the data set if it is missing."),
        click.option("--data-dir", metavar="DIR", help="Folder with the data sets."),
        click.option("--workers", type=click.IntRange(min=1), help="Trials at a time; GPUs are dealt out in turn."),
    ):
        function = option(function)
    return function


def network_options(what_for: str) -> Callable[[F], F]:
    """--input, --classes and --scale, for a command that builds a network outside of a run; see `task_and_scale`."""

    def decorate(function: F) -> F:
        for option in (
            click.option("--scale", metavar="KEY=N,...", help="Size of the network, with --input."),
            click.option("--classes", type=click.IntRange(2, 1_000_000), default=10, help="Classes, with --input."),
            click.option("--input", "shape", metavar="CxHxW", help=what_for),
        ):
            function = option(function)
        return function

    return decorate


def layered(ctx: click.Context, name: str, flags: Sequence[str] = ()) -> dict[str, object]:
    """The plugin options of `--{name}`: config file < environment < command line, key by key.

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
    letter = {"space_options": "-P", "strategy_options": "-S", "evaluator_options": "-E"}[name]
    pairs = options.parse(ctx.params[name], letter)
    now = {flag: v for flag, v in given.items() if ctx.get_parameter_source(flag) is not default_map}
    for key in pairs.keys() & now.keys():
        raise InputError(f"both --{key.replace('_', '-')} and {letter} {key}= are given: keep one")
    return {**values, **pairs, **now}


def space_from(ctx: click.Context) -> SearchSpace:
    """The space that --space and -P name."""
    from nastool.core import options, registry

    name = ctx.params["space"]
    cls = registry.load("space", name)
    given = options.resolve(f"space {name}", cls, layered(ctx, "space_options"))
    space: SearchSpace = registry.make("space", name, given=given)
    return space


def stdin() -> Iterator[str]:
    """Where `-` reads architectures. Who sits at a terminal is told what is waited for."""
    from nastool.core import archfile

    if sys.stdin is not None and sys.stdin.isatty():
        say("reading architectures from stdin, one a line; Ctrl-D ends, Ctrl-C stops")
    return archfile.bounded(sys.stdin)


def given(trial: int | None = None) -> Given:
    """What goes with the name of an architecture on a command line: stdin, and who is told of it."""
    from nastool.engine.sources import Given

    return Given(trial, stdin, say)


def emit(document: Mapping[str, object]) -> None:
    """One JSON line on stdout, at once."""
    from nastool.core import archfile

    line = visible(archfile.dumps(document))
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def say(text: str = "") -> None:
    """A line for people. If nobody can read it, the work goes on all the same."""
    try:
        click.echo(visible(text), err=True)
    except OSError:
        pass


def show(text: object = "", *, nl: bool = True) -> None:
    """Prints text for people on stdout, whatever it may hold.

    Args:
        text: The text.
        nl: It is a line of its own.
    """
    click.echo(visible(text), nl=nl)


def as_json(json_flag: bool | None) -> bool:
    """Whether to print JSON: as asked for, else when stdout is no terminal."""
    return not sys.stdout.isatty() if json_flag is None else json_flag


def labelled(label: str, text: str, *, gap: str = " ") -> str:
    """A line for stdout that ends with its label's text; on a terminal that is too narrow for it several.

    Args:
        label: Begins the line; further lines are indented by it.
        text: Text beside it.
        gap: Where the text may be broken.
    """
    room = shutil.get_terminal_size().columns - len(label) if sys.stdout.isatty() else sys.maxsize
    lines: list[str] = []
    for word in text.split(gap):
        if lines and len(lines[-1]) + len(gap) + len(word) <= room:
            lines[-1] += gap + word
        else:
            lines.append(word)
    return (label + f"\n{' ' * len(label)}".join(lines)).rstrip()


trial_option = click.option(
    "--trial", type=click.IntRange(min=0), metavar="N", help="Of a run, this trial instead of its best."
)
force_option = click.option("--force", is_flag=True, help="Replace an existing file.")
json_option = click.option(
    "--json/--text", "json_flag", default=None, help="Output; text on a terminal, JSON lines elsewhere."
)
result_option = click.option(
    "--json/--text",
    "json_flag",
    default=None,
    help="Whether the result also goes to stdout, as JSON; by default where that is no terminal.",
)
"""The same for a command that tells people on stderr what it found."""
