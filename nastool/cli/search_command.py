"""`nastool search`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from nastool.cli import common, configfile
from nastool.cli.common import say
from nastool.core import registry
from nastool.core.errors import InputError

if TYPE_CHECKING:
    from nastool.core.evaluator import Evaluator
    from nastool.core.strategy import Strategy
    from nastool.engine.config import Plugged, RunConfig, RunFolder
    from nastool.engine.search_run import SearchRun


@click.command("search", cls=common.Command)
@click.option(
    "-s",
    "--strategy",
    default="evolution",
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
    help="Trials in all, earlier sittings included; by default the strategy's own number, or 20 and at least three "
    "times what it begins with at random.",
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

    The same command continues a run that was interrupted, and more --trials extend it. Ends with the best
    architecture as one JSON line on stdout; the run folder keeps every trial and the best one's weights.
    A strategy may bring its own default space and evaluator: enas takes macro-cnn and supernet.

    \b
    Examples:
      nastool search --strategy enas
      nastool search --data digits --workers 2
      nastool search -s random --space nasbench-macro --data cifar10 --download
      nastool search -s bo --evaluator table -E file=t.npz -E dataset=cifar10
    """
    from nastool.engine.after_search import Finale, Settings
    from nastool.engine.baseline import Baseline
    from nastool.engine.config import RunConfig, RunFolder
    from nastool.engine.run import sitting
    from nastool.engine.search_run import SearchRun
    from nastool.loggers import sending
    from nastool.tasks.images.data import notes
    from nastool.training.recipes import default_recipe

    goes_with = registry.load("strategy", given["strategy"]).goes_with

    def evaluator_options(name: str) -> dict[str, object]:
        found = common.layered(ctx, "evaluator_options", common.EVALUATOR_FLAGS)
        target = registry.load("evaluator", name)
        if "recipes" in goes_with and "recipe" not in found and getattr(target, "recipe_prefix", None) == "":
            found["recipe"] = default_recipe(str(found.get("data", "digits")), goes_with["recipes"])
        return found

    def chosen(kind: Literal["space", "evaluator"]) -> str:
        by_default = ctx.get_parameter_source(kind) is click.core.ParameterSource.DEFAULT
        name: str = goes_with.get(kind, given[kind]) if by_default else given[kind]
        return name

    config = RunConfig.resolve(
        (given["strategy"], common.layered(ctx, "strategy_options")),
        (chosen("space"), common.layered(ctx, "space_options")),
        (chosen("evaluator"), evaluator_options(chosen("evaluator"))),
        given["seed"],
        given["objective"],
    )
    space = config.make_space()
    strategy = config.make_strategy(space)
    folder = RunFolder(Path(given["out"]) if given["out"] else config.default_folder)
    ctx.meta["nastool.folder"] = folder.path
    evaluator = config.evaluator_spec(space, folder.path).build()
    planned = strategy.planned_trials(evaluator.rounds)
    given["trials"] = given["trials"] or planned or max(20, 3 * strategy.random_trials)
    _check(config, strategy, evaluator, given)
    finale = Finale(config, space, evaluator, folder, Settings.read(given, evaluator))
    beside = Baseline(config, space, strategy, evaluator, folder, given["force"]) if given["with_baseline"] else None
    loggers = sending.Loggers(sending.given(given["log"], ctx.meta.get("nastool.config", {}).get("log", {})), say)
    rounds = evaluator.rounds if "policy" in strategy.needs else None
    if rounds is not None and given["trials"] <= rounds:
        if finale.settings.ranking:
            raise InputError(
                f"--check-ranking: needs all {rounds} rounds of the search: give more than {rounds} --trials"
            )
        say(f"note: a whole search takes {planned} trials, and its first {rounds} are rounds: it will end among them")
    run = SearchRun(config, space, strategy, evaluator, folder, finale, beside, loggers, given)
    if given["dry_run"]:
        _dry_run(run)
        return 0
    continues = folder.check(config, given["force"])
    if continues and (done := run.finished()) is not None:
        run.repeat(done)
        return 0
    finale.prepare()
    if continues:
        _check_state(folder, evaluator)
    begun = sitting(
        config,
        evaluator,
        folder,
        workers=given["workers"],
        timeout=given["trial_timeout"],
        force=given["force"],
        options=run.options,
    )
    with begun as here, loggers.opened(here.store, space, folder.path):
        if not here.continued:
            what = f"{_of(config.strategy)} on {_of(config.space)}, {evaluator.name} evaluator"
            say(f"searching in {folder.path}: {what}")
            say("  " + "  ".join(f"{key} {value}" for key, value in here.facts.items() if key != "read"))
            for note in notes(here.facts):
                say(note)
        return run.go(here)


def _check(config: RunConfig, strategy: Strategy, evaluator: Evaluator, given: Mapping[str, Any]) -> None:
    """InputError: these options do not go together."""
    from nastool.engine import snapshots

    if "policy" in strategy.needs and evaluator.rounds is None:
        raise InputError(f"strategy {strategy.name} trains shared weights of its own: leave out -E weights=")
    if "budget" in strategy.needs and config.evaluator.options.get("epochs") is not None:
        raise InputError(f"strategy {strategy.name} says itself how long to train: give -S epochs=N, not --epochs")
    if given["ensemble"]:
        snapshots.check(strategy, evaluator)
    most = evaluator.max_workers
    if most is not None and given["workers"] > most and not evaluator.shares_weights:
        raise InputError(f"evaluator {evaluator.name} runs with at most --workers {most}")


def _check_state(folder: RunFolder, evaluator: Evaluator) -> None:
    """InputError: a run cannot go on, since what its evaluator left of the finished trials is not there any more."""
    from nastool.engine.store import Store

    with Store.read(folder.database) as store:
        begun = store.count()["done"] > 0
    if begun:
        try:
            evaluator.check_state()
        except InputError as error:
            raise InputError(f"{error}: the search cannot go on; begin anew with --force") from None


def _dry_run(run: SearchRun) -> None:
    """Resolved configuration, size of the space, the first architectures, an estimate of the cost."""
    from nastool.core import archfile
    from nastool.core.files import dump_yaml
    from nastool.nets import devices

    space, strategy, evaluator, trials = run.space, run.strategy, run.evaluator, run.given["trials"]
    if not evaluator.inline:  # for what it says of the devices
        device = str(run.config.evaluator.options.get("device") or "auto")
        devices.slots(run.given["workers"], device, None, say, evaluator.max_workers)
    say(dump_yaml({"search": {**run.config.as_options(), **run.options}}).rstrip())
    say(f"# run folder: {run.folder.path}" + (" (exists)" if run.folder.path.exists() else ""))
    say(f"# size of the space: {space.size:,} combinations of {len(space.decisions)} decisions")
    evaluator.prepare()
    first = None
    for _ in range(min(3, trials)):
        proposal = strategy.ask()
        if proposal is None:
            break
        first = first or proposal
        if common.as_json(run.given["json_flag"]):
            common.emit(archfile.to_json(space, proposal.arch))
    seconds = None if first is None else evaluator.estimate_all(first, trials)
    if seconds is None:
        say("# cost: unknown")
    else:
        kind = "simulated" if evaluator.simulated else "measured on the first architecture"
        if "inherit" in strategy.needs:
            kind += ", which is the smallest: later ones take longer"
        each, whole = common.format_seconds(seconds / trials), common.format_seconds(seconds)
        say(f"# cost: about {each} a trial ({kind}), {whole} for {trials} on one worker")
    if first is not None and (count := run.finale.trainings(trials)):
        each_training = run.finale.estimate(first.arch)
        if each_training is not None:
            each, whole = common.format_seconds(each_training), common.format_seconds(each_training * count)
            say(f"# and then: about {each} a training from scratch, {whole} for up to {count} on one worker")
    if run.beside is not None:
        say("# and as much again for random search beside it")


def _of(plugged: Plugged) -> str:
    shown = ", ".join(f"{key}={value}" for key, value in plugged.options.items() if value is not None)
    return f"{plugged.name}({shown})" if shown else plugged.name
