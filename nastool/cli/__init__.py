"""The command line. One small module per command; none imports numpy or torch before it has to.

stdout is data (JSON lines), stderr is for people. Exit codes: 0 done, 1 failed, 2 usage or bad input, 130 Ctrl-C,
143 SIGTERM. No traceback reaches a user unless --debug asks for it.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import NoReturn

import click

from nastool import __version__
from nastool.errors import NastoolError, one_line

COMMANDS = ("search", "eval", "sample", "show", "top", "status", "list")


class Commands(click.Group):
    """The commands, each imported when it is used. Their modules are nastool.cli.NAME_command."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"nastool.cli.{cmd_name}_command").command
        return command


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

    Results go to stdout as JSON lines, everything for people to stderr, so commands can be piped:

    \b
      nastool search --strategy evolution --space nasbench201 --data digits --trials 20 --out runs/a
      nastool top runs/a -k 3 | nastool eval - --data digits --epochs 20 --seeds 0,1,2
    """


def main() -> NoReturn:
    """The `nastool` program."""
    sys.exit(run())


def run() -> int:
    """Run the command of sys.argv; returns the exit code."""
    debug = "--debug" in sys.argv or bool(os.environ.get("NASTOOL_DEBUG"))
    try:
        result = cli.main(standalone_mode=False)
        return result if isinstance(result, int) else 0
    except click.exceptions.Exit as error:
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("nastool: interrupted", err=True)
        return 130
    except click.ClickException as error:
        if debug:
            traceback.print_exc()
        error.show()
        return 2
    except NastoolError as error:
        if debug:
            traceback.print_exc()
        click.echo(f"nastool: {one_line(error)}", err=True)
        return error.exit_code
    except OSError as error:
        if debug:
            traceback.print_exc()
        where = f"{error.filename}: " if error.filename else ""
        click.echo(f"nastool: {where}{error.strerror or error}", err=True)
        return 1
    except Exception as error:
        if debug:
            traceback.print_exc()
        click.echo(
            f"nastool: internal error: {one_line(error)} (please report it with the output of --debug)",
            err=True,
        )
        return 1
