"""What the commands do as functions, for notebooks and scripts; the command line calls the same.

Each does what the command of its name does: the same folders, the same results, the same resuming. While it works it
calls `on_event` with the events of `nastool.engine.events`. Errors that a user can mend are InputError (a ValueError);
NastoolError says that the work itself failed.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nastool.core import defaults, invocation, registry
from nastool.core.archfile import ArchDocument
from nastool.core.errors import InputError, RunInterrupted, Stopped, hint, short
from nastool.core.errors import NastoolError as NastoolError
from nastool.core.files import Limit, target, write_atomic
from nastool.core.values import SpaceRef
from nastool.engine import arguments, evaluation, sources
from nastool.engine.arguments import Architecture
from nastool.engine.events import Listener, Note, nobody
from nastool.engine.executors.base import Setting
from nastool.engine.prediction import Predictions
from nastool.engine.retrain_run import RetrainRun
from nastool.engine.run import Watch
from nastool.engine.search_options import SearchOptions, check_integer
from nastool.engine.search_run import SearchRun
from nastool.engine.sources import Given
from nastool.engine.study import Study

if TYPE_CHECKING:
    from nastool.deploy.models import Model

Scale = Mapping[str, int] | str
"""Size of networks, such as {"channels": 16, "cells": 5}, or "channels=16,cells=5"."""


def page(study: Study) -> str:
    """Return the HTML page that a run leaves behind."""
    from nastool.analysis.report import html

    return html([study])


def _never() -> bool:
    return False


def search(
    strategy: str = defaults.STRATEGY,
    *,
    strategy_options: Mapping[str, object] | None = None,
    space: str | None = None,
    space_options: Mapping[str, object] | None = None,
    evaluator: str | None = None,
    evaluator_options: Mapping[str, object] | None = None,
    data: str | None = None,
    data_dir: str | Path | None = None,
    download: bool | None = None,
    recipe: str | Path | None = None,
    epochs: int | None = None,
    scale: Scale | None = None,
    device: str | None = None,
    trials: int | None = None,
    objective: str | None = None,
    seed: int = 0,
    workers: int = 1,
    out: str | Path | None = None,
    force: bool = False,
    keep: int = 10,
    trial_timeout: float | None = None,
    max_failures: int = 10,
    retrain: int | None = None,
    retrain_recipe: str | None = None,
    retrain_scale: Scale | None = None,
    baseline: bool = True,
    with_baseline: bool = False,
    check_ranking: int = 0,
    ranking_table: Mapping[str, object] | str | None = None,
    ensemble: bool = False,
    report: bool = True,
    log: str | Sequence[str] = (),
    executor: str | None = None,
    on_event: Listener = nobody,
    stop: Callable[[], bool] = _never,
) -> Study:
    """Search for an architecture.

    The same call continues a search that was interrupted (Ctrl-C raises KeyboardInterrupt once the running trials have
    finished), and more trials extend it.

    Args:
        strategy: Name of the search strategy.
        strategy_options: Its options, such as {"population": 50}.
        space: Name of the search space; None: the strategy's own, or nasbench201.
        space_options: Its options.
        evaluator: Name of how architectures are measured; None: the strategy's own, or train.
        evaluator_options: Its options; data to device are some of them that most evaluators have.
        data: Data set: a name, npz:FILE or folder:DIR.
        data_dir: Folder with the data sets.
        download: Download the data set if it is missing.
        recipe: How to train: a name or a file.
        epochs: Length of a training; None: the recipe's.
        scale: Size of the networks.
        device: auto, cpu, cuda or cuda:N.
        trials: Number of trials in all, those of earlier calls included, >= 1; None: the strategy's own number, or 20
            and at least three times what it begins with at random.
        objective: METRIC or METRIC:min or METRIC:max to optimise; None: the evaluator's own.
        seed: Of strategy and trials, in [0, 2^63).
        workers: Number of trials at a time, >= 1; GPUs are dealt out in turn.
        out: Folder of the run; None: one under runs/ named after the search.
        force: Replace another search in the folder.
        keep: Number of best trials whose weights are kept, >= 1.
        trial_timeout: Seconds after which a trial is given up, > 0; None: never.
        max_failures: Number of failed trials in a row after which the search gives up, >= 1.
        retrain: Number of best architectures to train from scratch at the end, in [0, 10000]; None: 3 where scores come
            from shared weights, else 0.
        retrain_recipe: Recipe for that; None: the one that the search's recipe names.
        retrain_scale: Size of the networks then; None: the recipe's, or the search's.
        baseline: With shared weights, train as many random architectures beside them.
        with_baseline: Afterwards search at random with the same budget and compare the results.
        check_ranking: Number of random architectures to train and to compare with their scores, in [0, 100000].
        ranking_table: Options of the evaluator of tables: look their accuracies up instead.
        ensemble: At the end, average the predictions of the strategy's path of networks.
        report: At the end, write report.html into the folder.
        log: Loggers, each NAME or NAME:KEY=VALUE,...
        executor: Name of who carries out the trials; None: worker processes, or this process for what costs next to
            nothing.
        on_event: Called with every event, in this thread.
        stop: Called between events; once it returns true, the search ends after the running trials.

    Returns:
        The run.

    Raises:
        InputError: Something is wrong with the arguments or with the data.
        NastoolError: The search failed.
        KeyboardInterrupt: It was interrupted.
    """
    given = dict(locals())
    for name in ("on_event", "stop"):
        del given[name]
    words = arguments.words("search", search, given)
    given["evaluator_options"] = arguments.evaluator_options(given)
    given["log"] = [log] if isinstance(log, str) else list(log)
    known = {field.name for field in fields(SearchOptions)}
    options = SearchOptions(
        **{name: value for name, value in arguments.plain(given).items() if name in known and value is not None}
    )
    with invocation.of(words):
        run = SearchRun.of(options, page)
        _carry_out(run.carry_out, Watch(on_event, stop))
    return Study.read(run.folder.path)


def resume(
    run: str | Path | Study,
    *,
    trials: int | None = None,
    workers: int | None = None,
    data_dir: str | Path | None = None,
    download: bool | None = None,
    device: str | None = None,
    trial_timeout: float | None = None,
    log: str | Sequence[str] | None = None,
    report: bool | None = None,
    on_event: Listener = nobody,
    stop: Callable[[], bool] = _never,
) -> Study:
    """Go on with a search that was interrupted, with the options that it has had; more trials extend it.

    Args:
        run: The run, or its folder.
        trials: Number of trials in all, not less than there are; None: as many as were asked for last.
        workers, data_dir, download, device, trial_timeout, log, report, on_event, stop: As for `search`; None: as
            before.

    Returns:
        The run.

    Raises:
        InputError, NastoolError, KeyboardInterrupt: As of `search`.
    """
    return _again("resume", resume, dict(locals()))


def finish(
    run: str | Path | Study,
    *,
    workers: int | None = None,
    data_dir: str | Path | None = None,
    download: bool | None = None,
    device: str | None = None,
    report: bool | None = None,
    on_event: Listener = nobody,
    stop: Callable[[], bool] = _never,
) -> Study:
    """Do what follows a search with the trials that an interrupted one has: the best network, trainings, report.

    Afterwards it may still be resumed. "unfinished" in best.json says how many trials were made of how many.

    Args:
        run: The run, or its folder; at least one of its trials has finished.
        workers, data_dir, download, device, report, on_event, stop: As for `search`; None: as before.

    Returns:
        The run.

    Raises:
        InputError, NastoolError, KeyboardInterrupt: As of `search`.
    """
    return _again("finish", finish, dict(locals()))


def _again(command: str, function: Callable[..., Study], given: dict[str, Any]) -> Study:
    """Resume or finish a run."""
    from nastool.analysis.report import html

    watch = Watch(given.pop("on_event"), given.pop("stop"))
    folder = Path(arguments.word(given.pop("run")))
    folder = folder.parent if folder.name == "run.db" else folder
    words = arguments.words(command, function, given, str(folder))
    options = {name: value for name, value in arguments.plain(given).items() if value is not None}
    where = {name: options.pop(name) for name in ("data_dir", "download", "device") if name in options}
    with invocation.of(words):
        run = SearchRun.again(folder, options, where, lambda study: html([study]), finishes=command == "finish")
        _carry_out(run.carry_out, watch)
    return Study.read(folder)


def evaluate(
    architectures: Architecture | Iterable[Architecture],
    *,
    evaluator: str | None = None,
    evaluator_options: Mapping[str, object] | None = None,
    data: str | None = None,
    data_dir: str | Path | None = None,
    download: bool | None = None,
    recipe: str | Path | None = None,
    epochs: int | None = None,
    scale: Scale | None = None,
    device: str | None = None,
    from_checkpoint: str | Path | None = None,
    space: str | None = None,
    seeds: int | str | Iterable[int] = 0,
    workers: int = 1,
    save: str | Path | None = None,
    force: bool = False,
    trial_timeout: float | None = None,
    executor: str | None = None,
    on_event: Listener = nobody,
) -> list[dict[str, Any]]:
    """Evaluate architectures: train each from scratch and test it, or look it up in a table.

    Args:
        architectures: One, or several.
        evaluator: Name of how they are measured; None: train.
        evaluator_options: Its options; data to from_checkpoint are some of them, as for `search`.
        data, data_dir, download, recipe, epochs, scale, device: As for `search`; None: as a line of a search says.
        from_checkpoint: Weights to begin with instead of from scratch.
        space: Space of architectures in their own string form.
        seeds: One evaluation with each.
        workers: Number of evaluations at a time, >= 1.
        save: Folder to keep the trained weights in; None: they are not kept.
        force: Evaluate although the data are not those that a line was measured with.
        trial_timeout, executor, on_event: As for `search`.

    Returns:
        An arch.json object for each, in order. "metrics" are those of the first seed's network, "mean" and "std" those
        over the seeds. Of one that failed there are none, and "error" says why.

    Raises:
        InputError: Something is wrong with the arguments, an architecture or the data.
    """
    given = dict(locals())
    several: Any = architectures
    if isinstance(several, str | bytes | Mapping) or not isinstance(several, Iterable):
        several = [several]
    of_space = registry.make_space(SpaceRef(space)) if space else None
    documents = (each for one in several for each in arguments.documents(one, of_space))
    return list(
        evaluation.evaluating(
            documents,
            evaluator=evaluator,
            evaluator_options=arguments.evaluator_options(given),
            seeds=arguments.seeds(seeds),
            workers=workers,
            save=save,
            force=force,
            trial_timeout=trial_timeout,
            executor=executor,
            on_event=on_event,
        )
    )


def retrain(
    architecture: Architecture | ArchDocument,
    *,
    evaluator_options: Mapping[str, object] | None = None,
    data: str | None = None,
    data_dir: str | Path | None = None,
    download: bool | None = None,
    recipe: str | Path | None = None,
    epochs: int | None = None,
    scale: Scale | None = None,
    device: str | None = None,
    trial: int | None = None,
    space: str | None = None,
    seeds: int | str | Iterable[int] = (0, 1, 2),
    validation: bool = False,
    workers: int = 1,
    out: str | Path | None = None,
    force: bool = False,
    report: bool = True,
    executor: str | None = None,
    on_event: Listener = nobody,
    stop: Callable[[], bool] = _never,
) -> Study:
    """Train what was found for use: all training images, the final recipe, several seeds, one look at the test set.

    The same call continues trainings that were interrupted, and more seeds extend them.

    Args:
        architecture: What to train.
        evaluator_options: Options of the evaluator that trains; data to device are some of them, as for `search`.
        data, data_dir, download, recipe, epochs, scale, device: As for `search`; None: those of the run it comes from,
            and the recipe that its recipe names for the end.
        trial: Of a run, the number of the trial that is trained; None: its best.
        space: Space of an architecture in its own string form.
        seeds: One training with each; the network that counts is the first one's.
        validation: Keep the validation images out of the training, and measure on them.
        workers: Number of trainings at a time, >= 1.
        out: Folder; None: RUN/retrained, or one under runs/.
        force: Train although the data are not those of the run any more, and in place of other trainings there.
        report, executor, on_event, stop: As for `search`.

    Returns:
        The run of these trainings.

    Raises:
        InputError, NastoolError, KeyboardInterrupt: As of `search`.
    """
    given = dict(locals())
    for name in ("on_event", "stop"):
        del given[name]
    check_integer("workers", workers, 1, None)
    named = "-" if isinstance(architecture, ArchDocument) else arguments.word(architecture)
    words = arguments.words("retrain", retrain, {**given, "architecture": None}, named)
    with invocation.of(words):
        document = architecture
        if not isinstance(document, ArchDocument):
            document = sources.only_architecture(named, space, Given(trial, say=lambda text: on_event(Note(text))))
        run = RetrainRun.of(
            document,
            sources.run_folder(named),
            arguments.evaluator_options(given),
            seeds=arguments.seeds(seeds),
            validation=validation,
            out=out,
            setting=Setting(workers),
            force=force,
            report=page if report else None,
            executor=executor,
        )
        _carry_out(run.carry_out, Watch(on_event, stop))
    return Study.read(run.folder.path)


def load(model: Architecture, *, trial: int | None = None) -> Model:
    """Load a trained network: of a run, of a file of weights, or of a line that names its weights.

    `nastool.load(run, trial=7)` is the network of any trial whose weights the run has kept. Of a run that has not
    finished it is the best so far.

    Raises:
        InputError: It has none, or they are damaged.
    """
    return sources.model(arguments.word(model), Given(trial))


def predict(
    model: Architecture,
    images: str | Path | Iterable[str | Path],
    *,
    trial: int | None = None,
    top: int = 1,
    max_gigabytes: float = 8.0,
    on_event: Listener = nobody,
) -> list[dict[str, Any]]:
    """Say what images in files show; `load` has a network for arrays.

    Args:
        model: A run (its best network), a .safetensors file, or an architecture that names its weights.
        images: Files, and folders with images at any depth.
        trial: Of a run, the number of the trial whose network is taken; None: its best.
        top: Number of classes that are named for each, the most probable ones, >= 1.
        max_gigabytes: 32 times the memory (10^9 bytes) that one image may take before it is resized.
        on_event: Called with a `Note` for each image that cannot be read.

    Returns:
        An object for each image that can be read: "image" (its file), "class", "probability", with several classes
        "top", and "truth" where it lies in a folder that is named after a class.

    Raises:
        InputError: There are no weights, or no image in a folder.
    """
    check_integer("top", top, 1, None)
    named = [images] if isinstance(images, str | Path) else images
    found = Predictions(load(model, trial=trial), top, Limit(max_gigabytes, "max_gigabytes="), on_event)
    return list(found.of(named))


def export(
    model: Architecture | ArchDocument,
    to: str,
    out: str | Path | None = None,
    *,
    trial: int | None = None,
    raw: bool = False,
    force: bool = False,
    space: str | None = None,
    input: str | Sequence[int] | None = None,
    classes: int = 10,
    scale: Scale | None = None,
    on_event: Listener = nobody,
) -> Path:
    """Write a network as code or in another tool's format.

    Args:
        model: A run (its best network), a .safetensors file, or an architecture; one without weights, or for another
            input, can only become code.
        to: "python", "pt2", "onnx" or "safetensors".
        out: File; None: model.py, model.pt2, ... in the current folder.
        trial: Of a run, the number of the trial that is meant; None: its best.
        raw: The bare network, for images that are normalised outside of it.
        force: Replace an existing file.
        space: Space of an architecture in its own string form.
        input: Shape of an example, of images (channels, height, width), for an architecture without weights.
        classes, scale: With `input`: number of classes, and size of the network.
        on_event: As for `search`.

    Returns:
        The file.

    Raises:
        InputError: There are no weights, the file is there already, or the form is not.
    """
    from nastool.deploy import exports, models

    if to not in exports.SUFFIXES:
        raise InputError(f"no form {short(to)!r}; {hint(to, exports.SUFFIXES)}")
    if to == "safetensors" and raw:
        raise InputError("--raw is for networks: weights are none, leave it out")
    name = f"model{exports.SUFFIXES[to]}"
    path = target(os.fspath(name if out is None else out), name, force)
    given = "-" if isinstance(model, ArchDocument) else arguments.word(model)
    also = Given(trial, say=lambda text: on_event(Note(text)))
    if given.endswith(".safetensors") and trial is None:
        trained = models.load(given)
    else:
        document = model if isinstance(model, ArchDocument) else sources.only_architecture(given, space, also)
        if "weights" not in document.extra or input is not None:
            if to != "python":
                raise InputError(
                    f"--to {to} needs weights, and {models.described(document)} names none: give a run or its weights, "
                    "or train it with `nastool retrain`"
                )
            if input is None:
                raise InputError("this architecture names no weights: say what it is for, such as --input 3x32x32")
            task, size = sources.built_for(document, input, classes, scale)
            write_atomic(path, exports.untrained_python(document.space, document.arch, task, size))
            return path
        trained = models.of(document)
    for line in exports.write(trained, to, path, raw=raw):
        on_event(Note(line))
    return path


def compare(
    runs: Sequence[str | Path | Study],
    *,
    over: Sequence[str] = (),
    at: Sequence[float] = (),
    anyway: bool = False,
    baselines: bool = True,
) -> dict[str, Any]:
    """Compare runs: which strategy found more at equal cost, and how sure that is.

    Runs that are equal but for the seed are one method.

    Args:
        runs: At least two methods, or one and its baseline.
        over: Senses of cost, of "trials", "seconds", "flops"; all by default.
        at: Costs to compare at, with one sense; by default quarters of what all runs have.
        anyway: Compare runs on different spaces, evaluators or data, too.
        baselines: Take in the random search that was run beside one.

    Returns:
        The object that `nastool compare --to json` prints. InputError: they cannot be compared.
    """
    from nastool.analysis.comparison import compare as comparison
    from nastool.analysis.comparison import gather, render

    folders = [arguments.word(run) for run in runs]
    gathered = gather.gather(folders, anyway=anyway, baselines=baselines)
    return render.document(comparison.compare(gathered, over or (["trials"] if at else []), list(at)))


def show(
    architecture: Architecture,
    to: str = "text",
    *,
    trial: int | None = None,
    space: str | None = None,
    input: str | Sequence[int] | None = None,
    classes: int = 10,
    scale: Scale | None = None,
) -> str | bytes:
    """Draw an architecture.

    Args:
        architecture: What to draw.
        to: "text", "svg", "dot" or "png".
        trial: Of a run, the number of the trial that is drawn; None: its best.
        space: Space of an architecture in its own string form.
        input: Shape of an example, of images (channels, height, width), to show shapes, parameters and FLOPs for;
            None: those that its weights are for, if it has any.
        classes, scale: With `input`: number of classes, and size of the network.

    Returns:
        The drawing; bytes for "png".

    Raises:
        InputError: There is no such form or architecture.
    """
    from nastool import drawing

    document = sources.only_architecture(arguments.word(architecture), space, Given(trial))
    if input is None:
        task, size = sources.trained_for(document)
    else:
        task, size = sources.built_for(document, input, classes, scale)
    writers: Mapping[str, Callable[..., str | bytes]] = {
        "text": drawing.text,
        "svg": drawing.svg,
        "dot": drawing.dot,
        "png": drawing.png,
    }
    if to not in writers:
        raise InputError(f"no form {short(to)!r}; {hint(to, writers)}")
    return writers[to](document.space, document.arch, task, size)


def _carry_out(run: Callable[[Watch], bool], watch: Watch) -> None:
    """RunInterrupted, a KeyboardInterrupt: it was interrupted by Ctrl-C."""
    try:
        done = run(watch)
    except Stopped as error:
        raise RunInterrupted(error.exit_code) from None
    if not done and not watch.stop():
        raise RunInterrupted()
