"""Parts that the commands share: options, reading architectures, writing results."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from nastool.core.errors import InputError
from nastool.core.wording import describe_metrics as describe_metrics
from nastool.core.wording import format_number as format_number
from nastool.core.wording import format_seconds as format_seconds
from nastool.core.wording import visible

if TYPE_CHECKING:
    from nastool.engine.sources import Given

F = TypeVar("F", bound=Callable[..., Any])

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
        sources = click.core.ParameterSource
        for name, value in ctx.params.items():
            if ctx.get_parameter_source(name) in (sources.COMMANDLINE, sources.ENVIRONMENT):
                _trust(value)
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


def _trust(value: object) -> None:
    """Let files be executed that are named on the command line, `--space my.py:Net` or `-E data=my.py:Signals`."""
    for text in value if isinstance(value, tuple) else (value,):
        if isinstance(text, str) and (":" in text or ".csv" in text):
            from nastool.core import plugin_files

            plugin_files.trust(text, text.partition("=")[2])


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


def labelled(label: str, text: str, *, gap: str = " ", stream: TextIO | None = None) -> str:
    """A line that ends with its label's text; on a terminal that is too narrow for it several.

    Args:
        label: Begins the line; further lines are indented by it.
        text: Text beside it.
        gap: Where the text may be broken.
        stream: Stream that it is for; None: stdout.
    """
    stream = stream or sys.stdout
    room = sys.maxsize
    if stream.isatty():
        with suppress(OSError, ValueError):
            room = int(os.environ.get("COLUMNS") or os.get_terminal_size(stream.fileno()).columns) - len(label)
    lines: list[str] = []
    for word in text.split(gap):
        if lines and len(lines[-1]) + len(gap) + len(word) <= room:
            lines[-1] += gap + word
        else:
            lines.append(word)
    return (label + f"\n{' ' * len(label)}".join(lines)).rstrip()


def trial_option(function: F) -> F:
    """Options that say which trial of a run is meant."""
    number = click.option(
        "--trial", type=click.IntRange(min=0), metavar="N", help="Of a run, this trial instead of its best."
    )
    condition = click.option(
        "--pick",
        multiple=True,
        metavar="CONDITION|knee",
        help="Of a run, the best trial that meets it, such as 'latency_ms<=4' (repeat it), or the front's knee.",
    )
    return number(condition(function))


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
