"""`nastool search`."""

from __future__ import annotations

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
@click.option("--dry-run", is_flag=True, help="Show what would be searched and what it would cost.")
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
        _dry_run(run, json_flag)
        return 0
    return 0 if run.carry_out(Watch(Listener(say_search_ended, json_flag))) else 130


def _dry_run(run: SearchRun, json_flag: bool | None) -> None:
    """Resolved configuration, size of the space, the first architectures, an estimate of the cost."""
    from nastool.core import archfile
    from nastool.core.evaluator import estimate, most_workers
    from nastool.core.yaml_files import dump_yaml
    from nastool.nets import devices

    for note in run.notes:
        say(note)
    space, strategy, evaluator, trials = run.space, run.strategy, run.evaluator, run.trials
    if not evaluator.inline:  # for what it says of the devices
        device = str(run.config.evaluator.options.get("device") or "auto")
        devices.slots(run.options.workers, device, None, say, most_workers(evaluator))
    say(dump_yaml({"search": {**run.config.as_options(), **run.recorded}}).rstrip())
    say(f"# run folder: {run.folder.path}" + (" (exists)" if run.folder.path.exists() else ""))
    say(f"# size of the space: {space.size:,} combinations of {len(space.decisions)} decisions")
    evaluator.prepare()
    first = None
    for _ in range(min(3, trials)):
        proposal = strategy.ask()
        if proposal is None:
            break
        first = first or proposal
        if common.as_json(json_flag):
            common.emit(archfile.to_json(space, proposal.arch))
    seconds = None if first is None else estimate(evaluator, first, trials)
    if seconds is None:
        say("# cost: unknown")
    else:
        kind = "simulated" if "simulated" in evaluator.provides else "measured on the first architecture"
        if "inherit" in strategy.needs:
            kind += ", which is the smallest: later ones take longer"
        each, whole = common.format_seconds(seconds / trials), common.format_seconds(seconds)
        say(f"# cost: about {each} a trial ({kind}), {whole} for {trials} on one worker")
    if first is not None and (count := run.after.trainings(trials)):
        each_training = run.after.estimate(first.arch)
        if each_training is not None:
            each, whole = common.format_seconds(each_training), common.format_seconds(each_training * count)
            say(f"# and then: about {each} a training from scratch, {whole} for up to {count} on one worker")
    if run.beside is not None:
        say("# and as much again for random search beside it")
