"""`nastool ask`."""

from __future__ import annotations

import click

from nastool.cli import common


@click.command("ask", cls=common.Command)
@click.argument("run", metavar="RUN")
@click.option("-k", "--count", type=click.IntRange(0), default=1, help="Number of further trials to hand out.")
@click.option("--again", is_flag=True, help="Also those that were handed out before and have no result yet.")
def command(run: str, count: int, again: bool) -> int:
    """Ask what to measure next, where that is done elsewhere.

    RUN is the folder of a search that was begun with --evaluator external. Each trial is a line of JSON, an
    architecture with the trial's number; `nastool tell` takes its result. Several processes may ask and tell.

    \b
    Examples:
      nastool search --evaluator external --space nasbench201 -n 50 -o runs/a < /dev/null
      nastool ask runs/a -k 4 | nastool eval --data digits - | nastool tell runs/a
    """
    from nastool import api

    found = api.ask(run, count=count, again=again)
    for line in found:
        common.emit(line)
    if len(found) < count:
        common.say(f"{len(found)} of {count}: no more trials, or the strategy wants results first")
    return 0
