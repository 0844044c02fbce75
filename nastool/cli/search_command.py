"""`nastool search`."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import click

from nastool.cli import common, configfile, generated
from nastool.cli.common import say
from nastool.engine.command_options import SearchOptions

if TYPE_CHECKING:
    from nastool.core.values import Proposal
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
    from nastool.core.evaluator import EstimatingAll, Threaded, estimate, most_workers
    from nastool.core.yaml_files import dump_yaml
    from nastool.nets import devices

    for note in run.notes:
        say(note)
    space, strategy, evaluator, trials = run.space, run.strategy, run.evaluator, run.trials
    threads = None
    if not evaluator.inline:  # also for what it says of the devices
        device = str(run.config.evaluator.options.get("device") or "auto")
        first_worker, *_ = devices.slots(run.options.workers, device, None, say, most_workers(evaluator))
        threads = first_worker.get(devices.MOST_THREADS)
    say(dump_yaml({"search": {**run.config.as_options(), **run.recorded}}).rstrip())
    say(f"# run folder: {run.folder.path}" + (" (exists)" if run.folder.path.exists() else ""))
    say(f"# size of the space: {space.size:,} combinations of {len(space.decisions)} decisions")
    start = time.perf_counter()
    evaluator.prepare()
    if threads is not None and isinstance(evaluator, Threaded):
        evaluator.choose_threads(int(threads))
    start = time.perf_counter() - start
    first: Proposal | None = None
    found: list[float | None] = []  # seconds of all trials, if each were like one of the first
    while len(found) < min(3, trials) and (proposal := strategy.ask()) is not None:
        first = first or proposal
        found.append(estimate(evaluator, proposal, trials))
        if isinstance(evaluator, EstimatingAll):
            break
    costs = [seconds for seconds in found if seconds is not None]
    if not costs:
        say("# cost: unknown")
    else:
        kind = "simulated" if "simulated" in evaluator.provides else "measured"
        if len(costs) > 1:
            least, most = (common.format_seconds(seconds / trials) for seconds in (min(costs), max(costs)))
            kind += f" on the first {len(costs)} architectures: {least} to {most}"
        if "inherit" in strategy.needs:
            kind += ", the first is the smallest: later ones take longer"
        seconds = sum(costs) / len(costs)
        each, whole = common.format_seconds(seconds / trials), common.format_seconds(start + seconds)
        say(f"# cost: about {each} a trial ({kind}), {whole} for {trials} on one worker")
    if first is not None and (count := run.after.trainings(trials)):
        each_training = run.after.estimate(first.arch)
        if each_training is not None:
            each, whole = common.format_seconds(each_training), common.format_seconds(each_training * count)
            say(f"# and then: about {each} a training from scratch, {whole} for up to {count} on one worker")
    if run.beside is not None:
        say("# and as much again for random search beside it")
