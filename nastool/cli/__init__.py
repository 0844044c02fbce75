"""The command line. One small module per command; none imports numpy or torch before it has to.

stdout is data (JSON lines; on a terminal text), stderr is for people. Exit codes: 0 done, 1 failed, 2 usage or bad
input, 130 Ctrl-C, 143 SIGTERM. No traceback reaches a user unless --debug asks for it.
"""

from __future__ import annotations

import errno
import gc
import importlib
import inspect
import io
import os
import signal
import sys
import threading
import traceback
from contextlib import suppress
from types import FrameType
from typing import Any, NoReturn

import click

from nastool import __version__
from nastool.cli.common import say
from nastool.core import invocation
from nastool.core.errors import NastoolError, RunInterrupted, Stopped, hint, one_line, short, why
from nastool.core.streams import hold_streams
from nastool.engine.interrupts import last_interrupt

COMMANDS = (
    "search",
    "resume",
    "finish",
    "ask",
    "tell",
    "eval",
    "retrain",
    "ensemble",
    "export",
    "predict",
    "bench",
    "sample",
    "space",
    "show",
    "top",
    "status",
    "compare",
    "report",
    "plot",
    "list",
    "devices",
    "new",
    "check",
    "completion",
)


def _explained(command: click.Command) -> click.Command:
    """The command, with its help where Python was told to forget it (-OO)."""
    if command.help is None:
        from nastool.core import options

        command.help = inspect.cleandoc(options.written(command.callback))
    return command


class Commands(click.Group):
    """The commands, each imported when it is used. Their modules are nastool.cli.NAME_command."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"nastool.cli.{cmd_name}_command").command
        return _explained(command)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if not ctx.resilient_parsing and args[0] not in COMMANDS and not args[0].startswith("-"):
            ctx.fail(f"no command {short(args[0])!r}; {hint(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except RunInterrupted as error:  # which click would take for a Ctrl-C, also where it was a SIGTERM
            raise Stopped(error.exit_code) from None


@click.group(
    cls=Commands,
    context_settings={
        "help_option_names": ["-h", "--help"],
        "auto_envvar_prefix": "NASTOOL",
        "max_content_width": 100,
        "show_default": True,
    },
)
@click.version_option(__version__, prog_name="nastool")
@click.option("--debug", is_flag=True, help="Show the traceback of an error. Also after the command.")
def cli(debug: bool) -> None:
    """Neural architecture search.

    Results go to stdout as JSON lines (on a terminal as text), everything for people to stderr, so commands can be
    piped:

    \b
      nastool search --strategy evolution --space nasbench201 --data digits --trials 60 --out runs/a
      nastool top runs/a -k 3 | nastool eval - --data digits --epochs 20 --seeds 0,1,2
    """


_explained(cli)


def main() -> NoReturn:
    """The `nastool` program."""
    gc.set_threshold(100_000, 20)  # a run's many small values hold no circles that are worth looking for so often
    code = run()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # nothing is left to be stopped but the interpreter's own end
    if code == 130:
        # One that came while a dataclass was made, say, has the interpreter kill itself at its end, whoever took it.
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
    sys.exit(code)


def run() -> int:
    """Run the command of sys.argv; returns the exit code."""
    debug = "--debug" in sys.argv or os.environ.get("NASTOOL_DEBUG", "").lower() in ("1", "true", "yes", "on")
    if (asked := os.environ.get("_NASTOOL_COMPLETE")) is not None:
        from nastool.cli import complete

        return complete.answer(cli, asked)
    _open_streams()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _terminate)
    with last_interrupt(), invocation.begins():
        return _carried_out(debug)


def _carried_out(debug: bool) -> int:
    try:
        with invocation.of(sys.argv[1:], typed=True):
            result = cli.main(standalone_mode=False)
        return result if isinstance(result, int) else 0
    except (click.exceptions.Exit, Stopped) as error:
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        say("nastool: interrupted")
        return 130
    except click.ClickException as error:
        if debug:
            traceback.print_exc()
        text = io.StringIO()
        error.show(text)
        say(text.getvalue().rstrip("\n"))
        return 2
    except NastoolError as error:
        if debug:
            traceback.print_exc()
        say(f"nastool: {one_line(error)}")
        return error.exit_code
    except OSError as error:
        if debug:
            traceback.print_exc()
        say(f"nastool: {f'{short(error.filename)}: ' if error.filename else ''}{short(why(error), 120)}")
        return 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        say(f"nastool: {_whose(error)}")
        return 1


def _whose(error: Exception) -> str:
    """A message that says who raised what was not meant to be raised, and what to do about it."""
    from nastool.core import registry

    try:
        who = registry.blamed(error)
    except NastoolError:  # plugins that cannot even be listed
        who = ""
    if not who:
        return f"internal error: {one_line(error)} (please report it with the output of --debug)"
    return f"{who} raised {one_line(error)}; --debug shows where"


def _open_streams() -> None:
    """A stream that the caller closed reads as empty; what goes to stdout then is an error of its own."""
    hold_streams()
    for descriptor, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, _NoStdout() if name == "stdout" else open(descriptor, mode, closefd=False))
        elif name != "stdin" and hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be text


class _NoStdout(io.TextIOBase):
    def write(self, text: str) -> int:
        raise OSError(errno.EBADF, "stdout is closed: the result has nowhere to go")

    def isatty(self) -> bool:
        return False


def _terminate(number: int, frame: FrameType | None) -> None:
    """SIGTERM: leave through all `finally` blocks, so that workers stop and temporary files go; once is enough."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Stopped(143)
