"""What the commands do as functions, for notebooks and scripts; the command line calls the same.

Each does what the command of its name does: the same folders, the same results, the same resuming. While it works it
calls `on_event` with the events of `nastool.engine.events`. Errors that a user can mend are InputError (a ValueError);
NastoolError says that the work itself failed.
"""

from __future__ import annotations

import inspect
import json
import os
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nastool.core import defaults, invocation, registry
from nastool.core.archfile import ArchDocument
from nastool.core.errors import InputError, RunInterrupted, Stopped, short
from nastool.core.errors import NastoolError as NastoolError
from nastool.core.values import SpaceRef
from nastool.engine import sources
from nastool.engine.evaluation import Evaluations, prepare_folder
from nastool.engine.events import Listener, nobody
from nastool.engine.executors.base import Setting
from nastool.engine.retrain_run import RetrainRun
from nastool.engine.run import Watch
from nastool.engine.search_options import SearchOptions, check_integer, check_seconds
from nastool.engine.search_run import SearchRun
from nastool.engine.study import Study

if TYPE_CHECKING:
    from nastool.deploy.models import Model

Architecture = str | Path | Mapping[str, Any] | Study
"""A run or its folder, a file, zoo:NAME, or an arch.json object, such as `Study.line` and `evaluate` return."""
Scale = Mapping[str, int] | str
"""Size of networks, such as {"channels": 16, "cells": 5}, or "channels=16,cells=5"."""
EVALUATOR_OPTIONS = ("data", "data_dir", "download", "recipe", "epochs", "scale", "device", "from_checkpoint")
"""Options of evaluators that are arguments of their own."""


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
    words = _words("search", search, given)
    given["evaluator_options"] = _evaluator_options(given)
    given["log"] = [log] if isinstance(log, str) else list(log)
    known = {field.name for field in fields(SearchOptions)}
    options = SearchOptions(
        **{name: value for name, value in _plain(given).items() if name in known and value is not None}
    )
    with invocation.of(words):
        from nastool.analysis.report import html

        run = SearchRun.of(options, lambda study: html([study]))
        _carry_out(run.carry_out, Watch(on_event, stop))
    return Study.read(run.folder.path)


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
    documents = (each for one in several for each in _documents(one, of_space))
    return list(
        evaluating(
            documents,
            evaluator=evaluator,
            evaluator_options=_evaluator_options(given),
            seeds=_seeds(seeds),
            workers=workers,
            save=save,
            force=force,
            trial_timeout=trial_timeout,
            executor=executor,
            on_event=on_event,
        )
    )


def evaluating(
    documents: Iterator[ArchDocument],
    *,
    evaluator: str | None,
    evaluator_options: Mapping[str, object],
    seeds: Sequence[int],
    workers: int = 1,
    save: str | Path | None = None,
    force: bool = False,
    trial_timeout: float | None = None,
    executor: str | None = None,
    on_event: Listener = nobody,
) -> Generator[dict[str, Any]]:
    """Evaluate a stream of architectures; yield each one's object as soon as those before it are done.

    Args and errors are as for `evaluate`.
    """
    check_integer("workers", workers, 1, None)
    check_seconds("trial_timeout", trial_timeout)
    if save is not None:
        prepare_folder(Path(save))
    watch = Watch(on_event)
    with tempfile.TemporaryDirectory(prefix="nastool-") as scratch:
        at_work = Evaluations(
            evaluator or defaults.EVALUATOR,
            evaluator_options,
            seeds,
            Setting(workers, trial_timeout, say=watch.note),
            Path(save or scratch),
            save is not None,
            force,
            watch,
            executor,
        )
        with closing(at_work):
            yield from at_work.run(documents)


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
    named = "-" if isinstance(architecture, ArchDocument) else _word(architecture)
    words = _words("retrain", retrain, {**given, "architecture": None}, named)
    with invocation.of(words):
        from nastool.analysis.report import html

        document = architecture
        if not isinstance(document, ArchDocument):
            document = sources.only_architecture(named, space)
        run = RetrainRun.of(
            document,
            sources.run_folder(named),
            _evaluator_options(given),
            seeds=_seeds(seeds),
            validation=validation,
            out=out,
            setting=Setting(workers),
            force=force,
            report=(lambda study: html([study])) if report else None,
            executor=executor,
        )
        _carry_out(run.carry_out, Watch(on_event, stop))
    return Study.read(run.folder.path)


def load(model: Architecture) -> Model:
    """Load a trained network: of a run, of a file of weights, or of a line that names its weights.

    `nastool.load(study.line(trial))` is the network of any trial whose weights the run has kept.

    Raises:
        InputError: It has none, or they are damaged.
    """
    return sources.model(_word(model))


# --- arguments


def _carry_out(run: Callable[[Watch], bool], watch: Watch) -> None:
    """RunInterrupted, a KeyboardInterrupt: it was interrupted by Ctrl-C."""
    try:
        done = run(watch)
    except Stopped as error:
        raise RunInterrupted(error.exit_code) from None
    if not done and not watch.stop():
        raise RunInterrupted()


def _evaluator_options(given: Mapping[str, Any]) -> dict[str, object]:
    """The evaluator's options, with those that are arguments of their own. InputError: one is given twice."""
    options = dict(_plain(given["evaluator_options"] or {}))
    for name in EVALUATOR_OPTIONS:
        if (value := _plain(given.get(name))) is None:
            continue
        if name in options:
            raise InputError(f"both {name} and evaluator_options[{name!r}] are given: keep one")
        options[name] = os.fsdecode(value) if isinstance(value, bytes | os.PathLike) else value
    return options


def _plain(value: Any) -> Any:
    """numpy's numbers and arrays as Python's, also within mappings."""
    if isinstance(value, Mapping):
        return {key: _plain(each) for key, each in value.items()}
    return value.tolist() if hasattr(value, "tolist") else value


def _seeds(given: int | str | Iterable[int]) -> list[int]:
    return sources.seeds(_text("seeds", given))


def _documents(architecture: Architecture, space: Any) -> Iterator[ArchDocument]:
    yield from sources.read_architectures([_word(architecture)], space)


def _words(command: str, function: Callable[..., Any], given: Mapping[str, Any], *arguments: str) -> list[str]:
    """The words of the command line that do the same: what is as by default is left out."""
    found = [command]
    for name, parameter in inspect.signature(function).parameters.items():
        value = _plain(given.get(name))
        if value is None:
            continue
        _check_type(name, value, str(parameter.annotation))
        if value == parameter.default:
            continue
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool):
            found.append(flag if value else flag.replace("--", "--no-", 1))
        elif isinstance(value, Mapping) and name.endswith("_options"):
            for key, each in value.items():
                found += [flag, f"{key}={_text(name, each)}"]
        elif name == "log":
            for each in [value] if isinstance(value, str) else value:
                found += [flag, each]
        else:
            found.append(f"{flag}={_text(name, value)}")
    return [*found, *(["--", *arguments] if arguments else [])]


def _check_type(name: str, value: object, annotation: str) -> None:
    """InputError: the value is of another kind than the argument's annotation says."""
    kinds: dict[str, tuple[type, str]] = {
        "bool": (bool, "True or False"),
        "str": (str, "text"),
        "Mapping[str, object]": (Mapping, "a mapping of option names to values"),
    }
    found = kinds.get(annotation.removesuffix(" | None"))
    if found is not None and not isinstance(value, found[0]):
        raise InputError(f"{name}: need {found[1]}, got {short(repr(value))}")


def _text(name: str, value: Any) -> str:
    """An option's value as it is written on a command line. InputError: nobody could write it."""
    value = _plain(value)
    if value is None or isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | int | float):
        return str(value)
    if isinstance(value, bytes | os.PathLike):
        return os.fsdecode(value)
    if isinstance(value, Mapping):
        return ",".join(f"{key}={_text(name, each)}" for key, each in value.items())
    if isinstance(value, Iterable):
        return ",".join(_text(name, each) for each in value)
    raise InputError(f"{name}: need text, a number, a path, or several of them, got {short(repr(value))}")


def _json(value: Any) -> Any:
    if not hasattr(value, "tolist"):
        raise TypeError(f"it holds a {type(value).__name__}")
    return value.tolist()


def _word(architecture: Architecture) -> str:
    """An architecture as an argument of a command. InputError: it is none."""
    if isinstance(architecture, Study):
        return str(architecture.path)
    if isinstance(architecture, str | bytes | os.PathLike):
        return os.fsdecode(architecture)
    if not isinstance(architecture, Mapping):
        raise InputError(
            "an architecture is a run, a path, zoo:NAME or an arch.json object, which Study.line makes of a trial; "
            f"got {short(repr(architecture))}"
        )
    try:
        return json.dumps(dict(architecture), default=_json)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"an architecture's object is no JSON: {error}") from None
