"""`nastool search`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from nastool import invocation, registry
from nastool.cli import common, configfile
from nastool.cli.common import say
from nastool.errors import InputError, NastoolError, Stopped, hint

if TYPE_CHECKING:
    from nastool.cli.baseline import Baseline
    from nastool.cli.finale import Finale, Outcome
    from nastool.config import RunConfig, RunFolder
    from nastool.core import Scalar, Trial
    from nastool.interfaces import Evaluator, SearchSpace
    from nastool.loggers.sending import Loggers
    from nastool.product import Product
    from nastool.runner import Search
    from nastool.store import Store
    from nastool.workers import Pool


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
    help="Trials in all, earlier sittings included; 20 unless the strategy knows its end.",
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
    help="Give up on a longer trial.",
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
      nastool search --data digits --trials 20 --workers 2
      nastool search -s random --space nasbench-macro --data cifar10 --download
      nastool search -s bo --evaluator table -E file=t.npz -E dataset=cifar10
    """
    from nastool import devices
    from nastool.cli import snapshots
    from nastool.cli.baseline import Baseline
    from nastool.cli.finale import Finale, Settings
    from nastool.config import RunConfig, RunFolder
    from nastool.loggers import sending
    from nastool.recipes import default_recipe

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
    if "policy" in strategy.needs and evaluator.rounds is None:
        raise InputError(f"strategy {strategy.name} trains shared weights of its own: leave out -E weights=")
    if "budget" in strategy.needs and config.evaluator.options.get("epochs") is not None:
        raise InputError(f"strategy {strategy.name} says itself how long to train: give -S epochs=N, not --epochs")
    if given["ensemble"]:
        snapshots.check(strategy, evaluator)
    planned = strategy.planned_trials(evaluator.rounds)
    given["trials"] = given["trials"] or planned or 20
    workers = given["workers"]
    most = evaluator.max_workers
    if most is not None and workers > most and not evaluator.shares_weights:
        raise InputError(f"evaluator {evaluator.name} runs with at most --workers {most}")
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
    if given["dry_run"]:
        _dry_run(config, space, strategy, evaluator, folder, finale, given["trials"])
        if beside is not None:
            say("# and as much again for random search beside it")
        return 0

    continues = folder.check(config, given["force"])
    if continues and (done := _finished(folder, given, finale)) is not None:
        common.emit(done)
        return 0
    finale.prepare()
    if continues:
        _check_state(folder, evaluator)
    device = str(config.evaluator.options.get("device") or "auto")
    # With shared weights one process trains them; the others have their turn when the best are trained from scratch.
    slots = [] if evaluator.inline else devices.slots(min(workers, most or workers), device)
    pool = _pool(config, space, evaluator, folder, slots, given)
    with folder.locked(), closing(pool):
        continues = folder.check(config, given["force"])  # again: nobody else can change it from here on
        try:
            facts = pool.open()
        except InputError:
            pool.close()
            folder.discard()
            raise
        with (
            _open_store(config, space, evaluator, folder, continues, finale, given, facts) as store,
            loggers.opened(store, space, folder.path),
        ):
            return _search(config, store, space, strategy, evaluator, pool, folder, finale, beside, loggers, given)


def _search(
    config: RunConfig,
    store: Store,
    space: SearchSpace,
    strategy: Any,
    evaluator: Evaluator,
    pool: Pool,
    folder: RunFolder,
    finale: Finale,
    beside: Baseline | None,
    loggers: Loggers,
    given: Mapping[str, Any],
) -> int:
    from nastool import product
    from nastool.cli import snapshots
    from nastool.cli.interrupts import Interrupts
    from nastool.cli.progress import Progress
    from nastool.core import Objective
    from nastool.runner import Search, test_best

    again = f"continue with: {invocation.shown()}"

    def first_interrupt() -> None:
        running = len(((beside and beside.pool) or finale.pool or pool).busy)
        say(f"\nsaved in {folder.path}; {again}")
        if running and (finale.pool is not None or not evaluator.inline):
            kind = "trial" if finale.pool is None else "training"
            what = f"the running {kind}" if running == 1 else f"{running} running {kind}s"
            say(f"finishing {what}; Ctrl-C again stops at once, to be repeated later")

    started = time.monotonic()
    with Interrupts(first_interrupt) as interrupts:
        with Progress(given["trials"]) as progress:
            search = Search(
                store,
                strategy,
                pool,
                Objective.parse(store.get("objective")),
                config.seed,
                given["trials"],
                folder.path,
                one_commit=evaluator.inline,
                keep=given["keep"],
                ensemble=given["ensemble"],
                max_failures=given["max_failures"],
                stop=lambda: interrupts.stopping,
                watch=loggers.watching(progress.watch),
            )
            search.restore()
            if given["ensemble"]:
                snapshots.members(strategy, store, folder.path)  # for its error, before anything is trained
            store.begin()
            store.put("trials", given["trials"])
            store.commit()
            if search.asked:
                say(f"continuing {folder.path}: {search.told} trials done, {search.asked - search.told} to repeat")
            for note in strategy.notes:
                say(f"note: {note}")
            if given["trials"] <= (random := strategy.random_trials):
                say(
                    f"note: {strategy.name} begins with {random} random trials, and these are all: "
                    "give more --trials or -S"
                )
            try:
                search.run()
            except Stopped as stop:
                progress.__exit__(None, None, None)
                say(f"stopped with {search.told} trials saved in {folder.path}; {again}")
                return stop.exit_code
        if interrupts.stopping:
            product.write(folder.path, report=False)
            return 130
        if search.best is None:
            raise NastoolError(f"all {search.failed} trials failed; see `nastool status {folder.path}`")
        compared = None
        if beside is not None:
            pool.close()  # its processes are started again when there is something to test
            trials = search.told if search.exhausted else given["trials"]
            try:
                compared = beside.run(store, trials, search.best, given, lambda: interrupts.stopping)
            except Stopped as stop:
                say(f"stopped; all trials are saved in {folder.path}; {again}")
                return stop.exit_code
            if compared is None:
                product.write(folder.path, report=False)
                return 130
        if finale.settings.any or evaluator.shares_weights:
            try:
                outcome = finale.run(store, pool, given["workers"], lambda: interrupts.stopping)
            except Stopped as stop:
                say(f"stopped; all trials are saved in {folder.path}; {again}")
                return stop.exit_code
            if outcome is None:
                return 130
        else:
            outcome = None
        best = finale.best(search.best, store)
        problem: str | None = None
        ensemble_problem: NastoolError | None = None
        tested: Mapping[str, float] = {}
        if outcome is None or outcome.best is None:
            tested, problem = test_best(pool, best, config.seed)
        ensemble = None
        if given["ensemble"]:
            try:
                ensemble = snapshots.measure(strategy, store, pool, folder.path)
            except NastoolError as error:  # the search itself has a result all the same
                ensemble_problem = error
    more = {"ensemble": ensemble, "baseline": compared}
    document = _result(store, space, best, tested, folder, finale, outcome, more, search.exhausted)
    written = product.write(folder.path, report=given["report"])
    _summary(search, folder, document, time.monotonic() - started, outcome, written)
    loggers.close(document)
    common.emit(document)
    if problem is not None:
        raise NastoolError(f"the best trial, {best.id}, could not be tested: {problem}")
    if ensemble_problem is not None:
        raise ensemble_problem
    return 0


def _pool(
    config: RunConfig,
    space: SearchSpace,
    evaluator: Evaluator,
    folder: RunFolder,
    slots: list[dict[str, str]],
    given: Mapping[str, Any],
) -> Pool:
    from nastool.workers import InlinePool, ProcessPool

    if evaluator.inline:
        return InlinePool(evaluator)
    spec = config.evaluator_spec(space, folder.path)
    return ProcessPool(spec, slots, timeout=given["trial_timeout"], logs=folder.path / "logs")


def _check_state(folder: RunFolder, evaluator: Evaluator) -> None:
    """InputError: a run cannot go on, since what its evaluator left of the finished trials is not there any more."""
    from nastool.store import Store

    with Store.read(folder.database) as store:
        begun = store.count()["done"] > 0
    if begun:
        try:
            evaluator.check_state()
        except InputError as error:
            raise InputError(f"{error}: the search cannot go on; begin anew with --force") from None


def _open_store(
    config: RunConfig,
    space: SearchSpace,
    evaluator: Evaluator,
    folder: RunFolder,
    continues: bool,
    finale: Finale,
    given: Mapping[str, Any],
    facts: Mapping[str, Scalar],
) -> Store:
    from nastool.core import Objective
    from nastool.store import Store

    durable = not evaluator.inline
    if continues:
        store = Store.open(folder.database, durable=durable)
        before, now = store.get("fingerprint"), facts.get("fingerprint")
        if before != now:
            store.close()
            raise InputError(f"the data of {folder.path} changed since it began: give the same data, or another --out")
        return store
    objective = Objective.parse(config.objective or evaluator.objective)
    known = evaluator.metrics | {"seconds"}
    if evaluator.metrics and objective.metric not in known:
        near = hint(objective.metric, sorted(known))
        raise InputError(f"evaluator {evaluator.name} gives no metric {objective.metric!r}; {near}")
    folder.clear()
    more = finale.settings.as_options() if finale.settings.any or evaluator.shares_weights else {}
    if given["with_baseline"]:
        more["with-baseline"] = True
    folder.describe(config, objective, facts, {"trials": given["trials"], **more})
    say(f"searching in {folder.path}: {_of(config.strategy)} on {_of(config.space)}, {evaluator.name} evaluator")
    say("  " + "  ".join(f"{key} {value}" for key, value in facts.items()))
    about = {"config": config.identity, "objective": str(objective), "fingerprint": facts.get("fingerprint")}
    given_options = config.identity["evaluator"]["options"].items()
    about["origin"] = {
        "scale": common.scale_of(evaluator),
        "evaluator": {"name": evaluator.name, "options": {k: v for k, v in given_options if v is not None}},
    }
    return Store.create(folder.database, about, durable=durable)


def _of(plugged: Any) -> str:
    shown = ", ".join(f"{key}={value}" for key, value in plugged.options.items())
    return f"{plugged.name}({shown})" if shown else str(plugged.name)


def _result(
    store: Store,
    space: SearchSpace,
    best: Trial,
    tested: Mapping[str, float],
    folder: RunFolder,
    finale: Finale,
    outcome: Outcome | None,
    further: Mapping[str, Mapping[str, Any] | None],
    exhausted: bool,
) -> dict[str, Any]:
    """Write best.json and the best weights, and keep in the store that the search came to this end."""
    from nastool import product

    more: dict[str, Any] = {"run": str(folder.path), **store.get("origin")}
    source = folder.path
    scores: dict[str, float] = {}
    if outcome is not None and outcome.best is not None and outcome.run is not None:
        scores = finale.scores(outcome.best.proposal.arch, store)
        best, tested, source = outcome.best, outcome.tested, outcome.run
        more = {"run": str(outcome.run), **outcome.origin}
    assert best.evaluation is not None
    checkpoint = best.evaluation.checkpoint
    weights = product.weights(folder.path, None if checkpoint is None else source / checkpoint)
    if weights is not None:
        more["weights"] = str(weights)
    document = common.trial_document(space, best, more)
    document["metrics"].update({**scores, **tested})
    if outcome is not None and outcome.report:
        document["comparison"] = outcome.report
    document.update({key: facts for key, facts in further.items() if facts is not None})
    product.result(folder.path, document)
    store.begin()
    trials = sum(store.count().values())
    facts = {"trials": trials, "exhausted": exhausted, "finale": finale.identity(), "document": document}
    store.put("final", facts)
    store.commit()
    return document


def _finished(folder: RunFolder, given: Mapping[str, Any], finale: Finale) -> dict[str, Any] | None:
    """The result of a run that needs nothing more for so many trials; says why."""
    from nastool.cli import baseline
    from nastool.store import Store

    trials = given["trials"]

    with Store.read(folder.database) as store:
        final, count = store.get("final"), sum(store.count().values())
    if final is None or min(count, final["trials"]) < (1 if final.get("exhausted") else trials):
        return None
    if final.get("finale", finale.identity()) != finale.identity():
        return None
    if given["ensemble"] and "ensemble" not in final["document"]:
        return None
    if given["with_baseline"] and not baseline.covers(final["document"], min(count, trials)):
        return None
    if count >= trials:
        say(f"{folder.path} already has its {trials} trials; more --trials extend it")
    else:
        say(f"{folder.path} already has its {count} trials; the strategy has nothing left to propose")
    document: dict[str, Any] = final["document"]
    return document


def _summary(
    search: Search,
    folder: RunFolder,
    document: Mapping[str, Any],
    took: float,
    outcome: Outcome | None,
    written: Product,
) -> None:
    from nastool.cli import baseline, results, snapshots

    if search.exhausted and search.told < search.trials:
        say(f"the strategy has nothing left to propose after {search.told} trials")
    say(f"{search.told} trials, {search.failed} failed, in {common.format_seconds(took)}")
    metrics = {k: v for k, v in document["metrics"].items() if k != "seconds"}
    cost = document["metrics"]["seconds"]
    which = f"trial {document['trial']}" if outcome is None or outcome.best is None else "trained from scratch"
    say(f"best: {which}, architecture {document['key']}")
    say(f"  {common.describe_metrics(metrics)}  {common.format_seconds(cost)}")
    for line in outcome.lines if outcome is not None else ():
        say(f"  {line}")
    if "ensemble" in document:
        say(f"  {snapshots.describe(document['ensemble'])}")
    if "baseline" in document:
        say(f"  {baseline.describe(document['baseline'])}")
    results.say_where(folder.path, written)


def _dry_run(
    config: RunConfig,
    space: SearchSpace,
    strategy: Any,
    evaluator: Evaluator,
    folder: RunFolder,
    finale: Finale,
    trials: int,
) -> int:
    """Resolved configuration, size of the space, the first architectures, an estimate of the cost."""
    from nastool import archfile
    from nastool.files import dump_yaml

    more = finale.settings.as_options() if finale.settings.any or evaluator.shares_weights else {}
    say(dump_yaml({"search": {**config.as_options(), "trials": trials, **more}}).rstrip())
    say(f"# run folder: {folder.path}" + (" (exists)" if folder.path.exists() else ""))
    say(f"# size of the space: {space.size:,} combinations of {len(space.decisions)} decisions")
    evaluator.prepare()
    first = None
    for _ in range(min(3, trials)):
        proposal = strategy.ask()
        if proposal is None:
            break
        first = first or proposal
        common.emit(archfile.to_json(space, proposal.arch))
    seconds = None if first is None else evaluator.estimate_all(first, trials)
    if seconds is None:
        say("# cost: unknown")
    else:
        kind = "simulated" if evaluator.inline else "measured on the first architecture"
        if "inherit" in strategy.needs:
            kind += ", which is the smallest: later ones take longer"
        each, whole = common.format_seconds(seconds / trials), common.format_seconds(seconds)
        say(f"# cost: about {each} a trial ({kind}), {whole} for {trials} on one worker")
    if first is not None and (count := finale.trainings(trials)):
        each_training = finale.estimate(first.arch)
        if each_training is not None:
            each, whole = common.format_seconds(each_training), common.format_seconds(each_training * count)
            say(f"# and then: about {each} a training from scratch, {whole} for up to {count} on one worker")
    return 0
