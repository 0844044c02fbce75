"""`nastool finish`."""

from __future__ import annotations

from typing import Any

import click

from nastool.cli import common, generated
from nastool.engine.command_options import FinishOptions


@click.command("finish", cls=common.Command)
@click.argument("run", metavar="RUN")
@generated.options(FinishOptions)
@common.result_option
def command(run: str, json_flag: bool | None, **given: Any) -> int:
    """Make a result of the trials that a search has so far.

    All that follows a search is done with them: the best network, trainings, report. The run may still be resumed
    afterwards (`nastool resume`).

    \b
    Example:
      nastool finish runs/a && nastool predict runs/a cat.jpg
    """
    from nastool import api
    from nastool.cli.listener import Listener, say_search_ended
    from nastool.engine.run import Watch
    from nastool.engine.search_run import SearchRun

    search = SearchRun.again(FinishOptions(run, **given), api.page)
    return 0 if search.carry_out(Watch(Listener(say_search_ended, json_flag))) else 130
