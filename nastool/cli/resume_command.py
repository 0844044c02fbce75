"""`nastool resume`."""

from __future__ import annotations

from typing import Any

import click

from nastool.cli import common


@click.command("resume", cls=common.Command)
@click.argument("run", metavar="RUN")
@click.option(
    "-n",
    "--trials",
    type=click.IntRange(min=1),
    help="Trials in all, not less than there are; by default as many as were asked for last.",
)
@common.again_options
@click.option("--trial-timeout", type=common.Seconds(), metavar="SECONDS", help="Give up on a longer trial.")
@click.option(
    "--log",
    multiple=True,
    metavar="NAME[:KEY=VALUE,...]",
    help="Also send the trials to a logger (`nastool list loggers`).",
)
@common.result_option
def command(run: str, json_flag: bool | None, **given: Any) -> int:
    """Go on with a search that was interrupted, however it was; more --trials extend it.

    All options are those that it has had, unless another is given here. `nastool finish` makes a result of the trials
    that there are instead.

    \b
    Examples:
      nastool resume runs/a
      nastool resume runs/a -n 200 --workers 4
    """
    from nastool import api
    from nastool.cli.listener import Listener, say_search_ended

    given["log"] = given["log"] or None
    api.resume(run, **given, on_event=Listener(say_search_ended, json_flag))
    return 0
