"""`nastool resume`."""

from __future__ import annotations

from typing import Any

import click

from nastool.cli import common, generated
from nastool.engine.command_options import ResumeOptions


@click.command("resume", cls=common.Command)
@click.argument("run", metavar="RUN")
@generated.options(ResumeOptions)
@common.result_option
def command(run: str, json_flag: bool | None, **given: Any) -> int:
    """Go on with a search that was interrupted, or extend it.

    It goes on however it was interrupted, and more --trials extend it. All options are those that it has had,
    unless another is given here. `nastool finish` makes a result of the trials that there are instead.

    \b
    Examples:
      nastool resume runs/a
      nastool resume runs/a -n 200 --workers 4
    """
    from nastool import api
    from nastool.cli.listener import Listener, say_search_ended
    from nastool.engine.run import Watch
    from nastool.engine.search_run import SearchRun

    search = SearchRun.again(ResumeOptions(run, **given), api.page)
    return 0 if search.carry_out(Watch(Listener(say_search_ended, json_flag))) else 130
