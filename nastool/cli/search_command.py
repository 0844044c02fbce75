"""`nastool search`."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from nastool.cli import common, configfile, generated
from nastool.cli.common import say
from nastool.engine.command_options import SearchOptions

if TYPE_CHECKING:
    from nastool.engine.search_run import SearchRun


@click.command("search", cls=common.Command)
@generated.options(SearchOptions)
@common.result_option
@configfile.option
@click.option("--dry-run", is_flag=True, help="Show on stderr what would be searched and what it would cost.")
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> int:
    """Search for an architecture.

    `nastool resume` goes on with a run that was interrupted, and so does the same command; more --trials extend it.
    Ends with the best architecture as one JSON line on stdout; the run folder keeps every trial and the best one's
    weights. A strategy may bring its own default space and evaluator: enas takes macro-cnn and supernet.

    \b
    Examples:
      nastool search --strategy enas
      nastool search --data digits --workers 2
      nastool search --time 8h --stop-when 'val_acc>=0.95'
      nastool search -s random --space nasbench-macro --data cifar10 --download
      nastool search -s bo --evaluator table -E file=t.npz -E dataset=cifar10
    """
    from nastool import api
    from nastool.cli.listener import Listener, say_search_ended
    from nastool.engine import logs
    from nastool.engine.run import Watch
    from nastool.engine.search_run import SearchRun

    json_flag, dry_run = given.pop("json_flag"), given.pop("dry_run")
    given |= generated.layered(ctx, SearchOptions)
    given["log"] = logs.given(given["log"], ctx.meta.get("nastool.config", {}).get("log", {}))
    run = SearchRun.of(SearchOptions(**given), api.page)
    if dry_run:
        _dry_run(run)
        return 0
    return 0 if run.carry_out(Watch(Listener(say_search_ended, json_flag))) else 130


def _dry_run(run: SearchRun) -> None:
    """Resolved configuration, size of the space, an estimate of the cost; nothing on stdout."""
    from nastool.core.yaml_files import dump_yaml
    from nastool.engine.executors.base import Setting
    from nastool.engine.forecast import Forecast
    from nastool.engine.limiting import check_limits
    from nastool.engine.run import make_executor

    for note in run.notes:
        say(note)
    space, evaluator = run.space, run.evaluator
    spec = replace(run.config.evaluator_spec(space, run.folder.path), workdir=None)
    setting = Setting(run.options.workers, say=say)
    with closing(make_executor(run.options.executor, spec, evaluator, setting)) as executor:
        facts = executor.open()
        say(dump_yaml({"search": {**run.config.as_options(), **run.recorded}}).rstrip())
        say(f"# run folder: {run.folder.path}" + (" (exists)" if run.folder.path.exists() else ""))
        say(f"# size of the space: {space.size:,} combinations of {len(space.decisions)} decisions")
        check_limits(run.config, evaluator, executor, space)
        forecast = Forecast.of(run, executor, facts)
    for line in forecast.lines(run):
        say(f"# {line}")
