"""`nastool search`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nastool.cli import common, configfile
from nastool.cli.common import say
from nastool.core import defaults

if TYPE_CHECKING:
    from nastool.engine.search_run import SearchRun


@click.command("search", cls=common.Command)
@click.option(
    "-s",
    "--strategy",
    default=defaults.STRATEGY,
    metavar="NAME",
    help="Search strategy (`nastool list strategies`).",
)
@click.option("-S", "--strategy-options", multiple=True, metavar="KEY=VALUE", help="Option of the strategy; repeat it.")
@common.space_options
@common.evaluator_options
@click.option(
    "-n",
    "--trials",
    type=click.IntRange(min=1),
    help="Trials in all, those of earlier calls included; by default the strategy's own number, or 20 and at least "
    "three times what it begins with at random.",
)
@click.option("--objective", metavar="METRIC[:min|max]", help="What to optimise; the evaluator's own by default.")
@click.option("--seed", type=common.SEED, default=0, help="Seed of strategy and trials.")
@click.option("--workers", type=click.IntRange(min=1), default=1, help="Trials at a time; GPUs are dealt out in turn.")
@click.option("-o", "--out", metavar="DIR", help="Run folder; by default one under runs/ named after the search.")
@click.option("--force", is_flag=True, help="Replace another search in the run folder.")
@click.option("--keep", type=click.IntRange(min=1), default=10, help="Keep the weights of the best N trials.")
@click.option(
    "--trial-timeout",
    type=common.Seconds(),
    metavar="SECONDS",
    help="Give up on a longer trial. Time in which the search was stopped or its machine asleep does not count.",
)
@click.option("--max-failures", type=click.IntRange(min=1), default=10, help="End after N failed trials in a row.")
@click.option(
    "--retrain",
    type=click.IntRange(min=0, max=10_000),
    metavar="K",
    help="At the end, train the K best from scratch; 3 where scores are with shared weights, else 0.",
)
@click.option(
    "--retrain-recipe", metavar="NAME|FILE", help="Recipe for that; by default the one that the search's recipe names."
)
@click.option(
    "--retrain-scale", metavar="KEY=N,...", help="Size of the networks then; by default the recipe's, or the search's."
)
@click.option(
    "--baseline/--no-baseline", default=True, help="With shared weights, train K random architectures beside them."
)
@click.option(
    "--with-baseline",
    is_flag=True,
    help="Afterwards search at random with the same budget, in RUN/baseline, and compare the results. Not with "
    "shared weights, where --baseline trains random architectures beside the best.",
)
@click.option(
    "--check-ranking",
    type=click.IntRange(min=0, max=100_000),
    default=0,
    metavar="N",
    help="Train N random architectures from scratch and compare their ranking with that of their scores.",
)
@click.option(
    "--ranking-table", metavar="KEY=VALUE,...", help="Options of evaluator table: look their accuracies up instead."
)
@click.option(
    "--ensemble", is_flag=True, help="At the end, average the predictions of the strategy's path of networks."
)
@click.option("--report/--no-report", default=True, help="At the end, write report.html into the run folder.")
@click.option(
    "--log",
    multiple=True,
    metavar="NAME[:KEY=VALUE,...]",
    help="Also send the trials to a logger (`nastool list loggers`).",
)
@common.result_option
@configfile.option
@click.option("--dry-run", is_flag=True, help="Show what would be searched and what it would cost.")
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> int:
    """Search for an architecture.

    `nastool resume` goes on with a run that was interrupted, and so does the same command; more --trials extend it.
    Ends with the best architecture as one JSON line on stdout; the run folder keeps every trial and the best one's
    weights.
    A strategy may bring its own default space and evaluator: enas takes macro-cnn and supernet.

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
    from nastool.engine.search_options import SearchOptions
    from nastool.engine.search_run import SearchRun

    json_flag, dry_run = given.pop("json_flag"), given.pop("dry_run")
    for kind in ("space", "evaluator"):
        if ctx.get_parameter_source(kind) is click.core.ParameterSource.DEFAULT:
            given[kind] = None
    for name in common.EVALUATOR_FLAGS:
        del given[name]
    given["strategy_options"] = common.layered(ctx, "strategy_options")
    given["space_options"] = common.layered(ctx, "space_options")
    given["evaluator_options"] = common.layered(ctx, "evaluator_options", common.EVALUATOR_FLAGS)
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
