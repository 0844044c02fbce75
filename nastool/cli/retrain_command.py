"""`nastool retrain`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nastool.cli import common, configfile
from nastool.cli.common import say
from nastool.core import invocation
from nastool.core.errors import InputError, NastoolError, Stopped

if TYPE_CHECKING:
    from nastool.core.archfile import ArchDocument
    from nastool.core.recipe import Recipe
    from nastool.core.values import Scalar
    from nastool.engine.config import Plugged, RunFolder
    from nastool.engine.retraining import Trained

LOCAL = ("data_dir", "device")
"""What a run's configuration says of where it ran, and holds for what follows from it: where to read, no more."""


@click.command("retrain", cls=common.Command)
@click.argument("source", metavar="RUN|ARCH|-", default="-")
@common.training_options
@click.option("--space", metavar="NAME", help="Space of an architecture in its own string form.")
@click.option("--seeds", default="0,1,2", metavar="N,...", help="Train once with each of these seeds.")
@click.option("--validation", is_flag=True, help="Keep the validation images out of the training, and measure on them.")
@click.option("--workers", type=click.IntRange(min=1), default=1, help="Trainings at a time; GPUs are dealt out.")
@click.option("-o", "--out", metavar="DIR", help="Folder; by default RUN/retrained, or one under runs/.")
@click.option(
    "--force",
    is_flag=True,
    help="Train although the data are not those of the run any more, and in place of other trainings in the folder.",
)
@click.option("--report/--no-report", default=True, help="At the end, write report.html into the folder.")
@common.result_option
@configfile.option
@click.pass_context
def command(ctx: click.Context, /, source: str, **given: Any) -> int:
    """Train what was found for use: all training images, the final recipe, several seeds, one look at the test set.

    SOURCE is a run folder (its best architecture), an arch.json file, or - for stdin (the default). The data are those
    of the run; the recipe is the one that the search's recipe names for the end, or the search's own at full length.
    Validation images are trained on, too, unless --validation is given.

    The network that counts is the first seed's: it is chosen before any is tested, once each. The result has its
    metrics, and the mean and standard deviation over the seeds. The same command continues an interrupted one; more
    --seeds extend it.

    \b
    Examples:
      nastool retrain runs/a
      nastool retrain runs/a --recipe nasbench201 --scale channels=32 --seeds 0,1,2,3,4 --workers 4
      nastool retrain zoo:darts-v2 --data cifar10 --data-dir ~/data --recipe enas-micro-cifar10-final
    """
    from nastool.cli.interrupts import Interrupts
    from nastool.engine import retraining as trainings
    from nastool.engine.config import Plugged, RunConfig, RunFolder

    seeds = common.seeds(given["seeds"])
    document = common.only_architecture(source, given["space"])
    evaluator = _evaluator(ctx, source, document, given)
    space = document.space
    base = RunConfig(Plugged("", {}), Plugged(space.name, dict(space.ref.options)), evaluator, 0, None)
    config = trainings.listed(base, evaluator, [document.arch])
    folder = RunFolder(Path(given["out"]) if given["out"] else _default(source, document, config.digest))
    ctx.meta["nastool.folder"] = folder.path
    if folder.check(config, given["force"]):
        has = _finished(folder)
        if len(has) > len(seeds) and has[: len(seeds)] == seeds:  # a result is not made smaller
            say(f"{folder.path} has a result of {_seeds(len(has))}, more than the {len(seeds)} asked for: it stays")
            seeds = has
    again = f"continue with: {invocation.shown()}"

    def ready(facts: Mapping[str, Scalar]) -> None:
        say(f"training {document.arch.key} with {_seeds(len(seeds))} in {folder.path}")
        if (read := facts.get("read")) is not None:
            say(f"note: {read}")

    with Interrupts(lambda: say(f"\nsaved in {folder.path}; {again}")) as interrupts:
        try:
            run = trainings.trained(
                config,
                space,
                [document.arch] * len(seeds),
                folder,
                workers=given["workers"],
                seeds=seeds,
                force=given["force"],
                stop=lambda: interrupts.stopping,
                accept=lambda facts: common.check_data(document, evaluator.options, facts, given["force"]),
                ready=ready,
            )
            with run as trained:
                if trained is None:
                    return 130
                found = _result(trained, seeds, document, folder, given["report"])
        except Stopped as stop:
            say(f"stopped; what is trained is saved in {folder.path}; {again}")
            return stop.exit_code
    if common.as_json(given["json_flag"]):
        common.emit(found)
    return 0


def _evaluator(ctx: click.Context, source: str, document: ArchDocument, given: Mapping[str, Any]) -> Plugged:
    """Evaluator train on the data of the run that the architecture comes from, by the recipe for the end."""
    from nastool.core import options, registry
    from nastool.core.registry import misfits
    from nastool.engine import retraining as trainings

    if reasons := misfits(None, type(document.space), registry.load("evaluator", trainings.TRAIN)):
        raise InputError("; ".join(reasons))
    now = common.layered(ctx, "evaluator_options", common.EVALUATOR_FLAGS)
    for key in now.keys() & {"all_data", "from_checkpoint"}:
        raise InputError(f"-E {key}=: retrain trains from scratch, on all data unless --validation is given")
    origin = document.extra.get("evaluator")
    origin = origin if isinstance(origin, dict) else {}
    found = origin.get("options")
    local = registry.load("evaluator", trainings.TRAIN).local_options
    told = found.items() if isinstance(found, dict) else ()
    before = {**_local(source), **{key: value for key, value in told if key not in local}}
    if "data" not in {**before, **now}:
        raise InputError("this architecture does not say on what data it was found: give --data")
    recipe = now.pop("recipe", None)
    try:
        scale = options.mapping(document.extra.get("scale") or {}, int)
    except ValueError:
        raise InputError('the architecture\'s "scale" must be an object such as {"channels": 16}') from None
    final = trainings.Final(
        document.space,
        before,
        None if recipe is not None else _searched(origin.get("name"), before),
        same=origin.get("name") == trainings.TRAIN,
        scale=scale,
        recipe=None if recipe is None else str(recipe),
        changes=now.pop("scale", None),
        flags=("--recipe", "--scale"),
    )
    return final.training("retrain", {**now, "all_data": not given["validation"]})


def _searched(evaluator: object, before: Mapping[str, Any]) -> Recipe | None:
    """The recipe of the search; None: there was none. InputError: it is not there any more."""
    from nastool.core import registry
    from nastool.training.loop import ImageEvaluator
    from nastool.training.recipes import default_recipe, load_recipe

    if not isinstance(evaluator, str) or evaluator not in registry.plugins("evaluator") or "data" not in before:
        return None
    target = registry.load("evaluator", evaluator)
    if not issubclass(target, ImageEvaluator):
        return None
    recipe = before.get("recipe")
    if not isinstance(recipe, str | None):
        raise InputError("the architecture's evaluator has a 'recipe' that is no text; say with --recipe how to train")
    try:
        return load_recipe(recipe or default_recipe(str(before["data"]), target.recipe_prefix))
    except InputError as error:
        raise InputError(f"{error}; say with --recipe how to train") from None


def _local(source: str) -> dict[str, Any]:
    """Where a run's data and device were, as its run.yaml says."""
    from nastool.core.files import read_yaml

    if not _is_run(source):
        return {}
    try:
        options = (read_yaml(Path(source) / "run.yaml").get("search") or {}).get("evaluator-options") or {}
        return {name: options[name] for name in LOCAL if name in options}
    except (InputError, AttributeError):
        return {}


def _is_run(source: str) -> bool:
    try:
        return source != "-" and (Path(source) / "run.db").is_file()
    except (OSError, ValueError):  # too long for a name: an architecture
        return False


def _default(source: str, document: ArchDocument, digest: str) -> Path:
    from nastool.engine.config import RETRAINED

    if _is_run(source):
        return Path(source) / RETRAINED
    return Path("runs") / f"retrain-{document.arch.key}-{digest}"


def _finished(folder: RunFolder) -> list[int]:
    """The seeds of the folder's result; []: it has none."""
    from nastool.engine.store import Store

    with Store.read(folder.database) as store:
        final = store.get("final")
    found = [] if final is None else final["document"].get("seeds")
    return found if isinstance(found, list) else []


def _result(
    trained: Trained, seeds: list[int], document: ArchDocument, folder: RunFolder, report: bool
) -> dict[str, Any]:
    """Test each network once, and write what the run leaves behind; what an earlier call has found is found again."""
    from nastool.cli import results
    from nastool.engine import results as product
    from nastool.engine.search import test_best
    from nastool.engine.study import document as line
    from nastool.nets import checkpoints

    done = trained.finished
    written = trained.sitting.store.get("written") is not False
    if done is not None and done["seeds"] == seeds and written and product.whole(folder.path, done, report=report):
        trainings = "training" if len(seeds) == 1 else f"{len(seeds)} trainings"
        say(f"{folder.path} already has its {trainings}; more --seeds extend it")
        _say(done)
        return dict(done)
    runs: list[dict[str, Any]] = []
    for seed, trial in zip(seeds, trained.trials, strict=True):
        if trial.evaluation is None:
            runs.append({"seed": seed, "error": trial.error})
            continue
        known = trained.tested(trial.id)
        if known is None:
            known, problem = test_best(trained.pool, trial, seed)
            if problem is not None:
                raise NastoolError(f"the network of seed {seed} could not be tested: {problem}; --force trains anew")
            trained.keep_test(trial.id, known)
        runs.append({"seed": seed, "metrics": {**trial.evaluation.all_metrics, **known}})
        if trial.evaluation.checkpoint is not None:
            runs[-1] |= checkpoints.named(folder.path / trial.evaluation.checkpoint)
    chosen = next((i for i, run in enumerate(runs) if "metrics" in run), None)
    if chosen is None:
        raise NastoolError(f"all trainings failed; the last: {runs[-1]['error']}")
    best = trained.trials[chosen]
    assert best.evaluation is not None
    checkpoint = best.evaluation.checkpoint
    more = {"run": str(folder.path), **trained.origin, "seeds": seeds, "runs": runs}
    found = {**line(document.space, best, more), **results.of_seeds(runs)}
    found = product.result(folder.path, found, None if checkpoint is None else folder.path / checkpoint)
    trained.finish(found)
    measured = sum("metrics" in run for run in runs)
    if measured < len(runs):
        reason = next(run["error"] for run in reversed(runs) if "error" in run)
        say(f"note: {len(runs) - measured} of {len(runs)} trainings failed; the last: {reason}")
    _say(found)
    written_now = product.write(folder.path, report=report)
    trained.sitting.written()
    results.say_where(folder.path, written_now, retrained=True)
    return found


def _say(found: Mapping[str, Any]) -> None:
    """The test results, for people."""
    measured = [run for run in found["runs"] if "metrics" in run]
    for name in ("test_acc", "test_loss"):
        if name in found["mean"]:
            over = ""
            if len(measured) > 1:
                over = f"; over {len(measured)} seeds {found['mean'][name]:.4f} ± {found['std'][name]:.4f}"
            say(f"{name} {found['metrics'][name]:.4f} (seed {measured[0]['seed']}){over}")


def _seeds(count: int) -> str:
    return f"{count} seed" + ("s" if count > 1 else "")
