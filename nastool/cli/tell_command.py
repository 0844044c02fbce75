"""`nastool tell`."""

from __future__ import annotations

from pathlib import Path

import click

from nastool.cli import common
from nastool.cli.common import say


@click.command("tell", cls=common.Command)
@click.argument("run", metavar="RUN")
@click.argument("results", metavar="[RESULTS]", default="-")
@common.result_option
def command(run: str, results: str, json_flag: bool | None) -> int:
    """Tell what came of trials that are measured elsewhere.

    RUN is the folder of a search that was begun with --evaluator external, RESULTS a file of JSON lines, or - for stdin
    (the default). A line has "trial", the number that `nastool ask` gave, with "metrics", or "error" and why, perhaps
    with a "fault" such as memory, nan or machine (`nastool status` counts by it). With --strategy external a line may
    have "choices" of an architecture and "metrics" instead. The last trial's result ends the search as usual.

    \b
    Example:
      echo '{"trial": 0, "metrics": {"val_acc": 0.91}, "seconds": 60}' | nastool tell runs/a
    """
    from nastool import api
    from nastool.cli.listener import Listener, say_search_ended
    from nastool.core import archfile
    from nastool.core.errors import InputError
    from nastool.engine.events import Ended, Event, TrialFinished

    source = "stdin" if results == "-" else results
    told = []
    for number, line in enumerate(common.stdin() if results == "-" else archfile.lines_of(Path(results)), 1):
        if line.strip():
            try:
                told.append(archfile.loads(line))
            except ValueError as error:
                raise InputError(f"{source} line {number}: {error}") from None
    events: list[Event] = []
    study = api.tell(run, told, on_event=events.append)
    took = sum(isinstance(event, TrialFinished) for event in events)
    counts = f"{len(study.finished)}{f' of {study.wanted}' if study.wanted else ''} trials"
    still = sum(trial.state == "running" for trial in study.trials)
    say(f"{took} result{'s' * (took != 1)} taken: {counts}, {still} open")
    for event in events:
        if isinstance(event, Ended):
            Listener(say_search_ended, json_flag)(event)
    return 0
