"""What the commands do as functions, for notebooks and scripts; the command line calls the same.

Each does what the command of its name does: the same folders, the same results, the same resuming. While it works it
calls `on_event` with the events of `nastool.engine.events`. Errors that a user can mend are InputError (a ValueError);
NastoolError says that the work itself failed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nastool.analysis.ensembles import ensemble as ensemble
from nastool.core import invocation, plugin_files
from nastool.core.archfile import ArchDocument
from nastool.core.errors import InputError, RunInterrupted, Stopped, hint, short
from nastool.core.errors import NastoolError as NastoolError
from nastool.core.files import Limit, target, write_atomic
from nastool.engine import arguments, evaluation, outside, sources
from nastool.engine.command_options import (
    EvaluateOptions,
    FinishOptions,
    ResumeOptions,
    RetrainOptions,
    SearchOptions,
    Stoppable,
    nobody,
)
from nastool.engine.events import Listener, Note
from nastool.engine.prediction import Predictions
from nastool.engine.retrain_run import RetrainRun
from nastool.engine.run import Watch
from nastool.engine.search_run import SearchRun
from nastool.engine.sources import Given
from nastool.engine.study import Study

if TYPE_CHECKING:
    from nastool.analysis.space_stats import SpaceStats
    from nastool.deploy.models import Model
    from nastool.engine.command_options import Architecture, Scale


@arguments.taking(SearchOptions)
def search(options: SearchOptions) -> Study:
    """Search for an architecture.

    `resume` continues a search that was interrupted (Ctrl-C raises KeyboardInterrupt once the running trials have
    finished), and so does the same call; more trials extend it.

    Returns:
        The run.

    Raises:
        InputError: Something is wrong with the arguments or with the data.
        NastoolError: The search failed.
        KeyboardInterrupt: It was interrupted.
    """
    with invocation.of(arguments.words("search", options)):
        return _carry_out(SearchRun.of(options, page), options)


@arguments.taking(ResumeOptions)
def resume(options: ResumeOptions) -> Study:
    """Go on with a search that was interrupted, with the options that it has had; more trials extend it.

    Returns:
        The run.

    Raises:
        InputError, NastoolError, KeyboardInterrupt: As of `search`.
    """
    return _again("resume", options)


@arguments.taking(FinishOptions)
def finish(options: FinishOptions) -> Study:
    """Do what follows a search with the trials that an interrupted one has: the best network, trainings, report.

    At least one of them has to be done. Afterwards the run may still be resumed. "unfinished" in best.json says how
    many trials were made of how many.

    Returns:
        The run.

    Raises:
        InputError, NastoolError, KeyboardInterrupt: As of `search`.
    """
    return _again("finish", options)


def ask(
    run: str | Path | Study, *, count: int = 1, again: bool = False, on_event: Listener = nobody
) -> list[dict[str, Any]]:
    """Ask a search whose trials are measured elsewhere (evaluator external) what to measure next.

    Args:
        run: The run, or its folder.
        count: Number of further trials to hand out, >= 0.
        again: Return those, too, that were handed out before and have no result yet.
        on_event: Called with every event.

    Returns:
        An arch.json object for each, with "trial", its number, and a "seed". Fewer than `count`: the search has no
        more trials, or its strategy wants results first.

    Raises:
        InputError: There is no such run, or another process has been at work on it for a minute.
    """
    found: list[dict[str, Any]] = []
    if not isinstance(count, int) or count < 0:
        raise InputError(f"count: need an integer >= 0, got {short(repr(count))}")
    _outside(run, (), on_event, slots=count, repeats=again, out=lambda line: found.append(dict(line)))
    return found


def tell(
    run: str | Path | Study, results: Mapping[str, Any] | Iterable[Mapping[str, Any]], *, on_event: Listener = nobody
) -> Study:
    """Tell a search whose trials are measured elsewhere what came of them; the last one's result ends it as usual.

    Args:
        run: The run, or its folder.
        results: One or several, such as {"trial": 3, "metrics": {"val_acc": 0.9}, "seconds": 60} or {"trial": 3,
            "error": "why", "fault": "nan"}; lines of `ask` with "metrics" are some, too. Those without "trial", with
            "choices", are proposals of strategy external.
        on_event: Called with every event.

    Returns:
        The run.

    Raises:
        InputError: One is no result, so none is taken, or of no trial that is open: those before it are kept.
    """
    lines = [(f"result {n}", each) for n, each in enumerate([results] if isinstance(results, Mapping) else results, 1)]
    return _outside(run, lines, on_event, slots=0, repeats=False, told=True)


def _outside(
    run: str | Path | Study, lines: Iterable[tuple[str, Mapping[str, Any]]], on_event: Listener, **more: Any
) -> Study:
    """Let a run go on as far as these lines from outside go."""
    search = SearchRun.again(ResumeOptions(run), page)
    search.folder.patience = 60
    executor = outside.given(search, lines, **more)
    try:
        search.carry_out(Watch(on_event), executor)
    finally:  # it says more than that the strategy proposed nothing
        executor.check_all_taken()
    return Study.read(search.folder.path)


def _again(command: str, options: FinishOptions) -> Study:
    """Resume or finish a run."""
    with invocation.of(arguments.words(command, options, arguments.word(options.run))):
        return _carry_out(SearchRun.again(options, page), options)


@arguments.taking(EvaluateOptions)
def evaluate(options: EvaluateOptions) -> list[dict[str, Any]]:
    """Evaluate architectures: train each from scratch and test it, or look it up in a table.

    Returns:
        An arch.json object for each, in order. "metrics" are those of the first seed's network, "mean" and "std" those
        over the seeds. Of one that failed there are none, and "error" says why.

    Raises:
        InputError: Something is wrong with the arguments, an architecture or the data.
    """
    several: Any = options.architectures
    if isinstance(several, str | bytes | Mapping) or not isinstance(several, Iterable):
        several = [several]
    return list(evaluation.evaluating(sources.read_architectures(map(arguments.word, several), options.space), options))


@arguments.taking(RetrainOptions)
def retrain(options: RetrainOptions) -> Study:
    """Train what was found for use: all training images, the final recipe, several seeds, one look at the test set.

    The same call continues trainings that were interrupted, and more seeds extend them. The evaluator's options are
    those of the run that the architecture comes from, unless they are given.

    Returns:
        The run of these trainings.

    Raises:
        InputError, NastoolError, KeyboardInterrupt: As of `search`.
    """
    document = options.architecture
    named = "-" if isinstance(document, ArchDocument) else arguments.word(document)
    with invocation.of(arguments.words("retrain", options, named)):
        if not isinstance(document, ArchDocument):
            given = _given(named, options.trial, options.pick, options.on_event)
            document = sources.only_architecture(named, options.space, given)
        return _carry_out(RetrainRun.of(options, document, sources.run_folder(named), page), options)


def load(model: Architecture, *, trial: int | None = None, pick: str | Sequence[str] = ()) -> Model:
    """Load a trained network: of a run, of a file of weights, or of a line that names its weights.

    `nastool.load(run, trial=7)` is the network of any trial whose weights the run has kept. Of a run that has not
    finished it is the best so far.

    Raises:
        InputError: It has none, or they are damaged.
    """
    named = arguments.word(model)
    return sources.model(named, _given(named, trial, pick))


def predict(
    model: Architecture,
    images: str | Path | Iterable[str | Path] = (),
    *,
    trial: int | None = None,
    pick: str | Sequence[str] = (),
    top: int = 1,
    examples: int | None = None,
    max_gigabytes: float = 8.0,
    on_event: Listener = nobody,
) -> list[dict[str, Any]]:
    """Say what images in files show; `load` has a network for arrays.

    Args:
        model: A run (its best network), a .safetensors file, or an architecture that names its weights.
        images: Files, and folders with images at any depth.
        trial: Of a run, the number of the trial whose network is taken; None: its best.
        pick: Of a run, conditions such as "latency_ms<=4" on the best trial that meets them, or "knee".
        top: Number of classes that are named for each, the most probable ones, >= 1.
        examples: Number of test images of its data to write into the run's folder `examples`, and to say, >= 1.
        max_gigabytes: 32 times the memory (10^9 bytes) that one image may take before it is resized.
        on_event: Called with a `Note` for each image that cannot be read.

    Returns:
        An object for each image that can be read: "image" (its file), "class", "probability", with several classes
        "top", and "truth" where it lies in a folder that is named after a class.

    Raises:
        InputError: There are no weights, or no image in a folder.
    """
    network, limit = load(model, trial=trial, pick=pick), Limit(max_gigabytes, "max_gigabytes=")
    predictions = Predictions(network, top, limit, on_event)
    found = predictions.of([images] if isinstance(images, str | Path) else images)
    folder = sources.examples_folder(arguments.word(model), network)
    return [*found, *(predictions.of_examples(examples, folder) if examples else ())]


def export(
    model: Architecture | ArchDocument,
    to: str,
    out: str | Path | None = None,
    *,
    trial: int | None = None,
    pick: str | Sequence[str] = (),
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
        model: As of `load`; an architecture without weights, or for another input, can only become code.
        to: "python", "pt2", "onnx" or "safetensors".
        out: File; None: model.py, model.pt2, ... in the current folder.
        trial: Of a run, the number of the trial that is meant; None: its best.
        pick: Of a run, conditions such as "latency_ms<=4" on the best trial that meets them, or "knee".
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
    plugin_files.trust(space)
    document, source = (model, "-") if isinstance(model, ArchDocument) else (None, arguments.word(model))
    given = _given(source, trial, pick, on_event)
    several = models.ensemble(source) if document is None and source != "-" and given.trial is None else None
    if several is None and document is None and (given.trial is not None or not source.endswith(".safetensors")):
        document = sources.only_architecture(source, space, given)
    if document is not None and ("weights" not in document.extra or input is not None):
        said = models.described(document)
        if to != "python":
            none = f"--to {to} needs weights, and {said} names none"
            raise InputError(f"{none}: give a run or its weights, or train it with `nastool retrain`")
        if input is None:
            raise InputError(f"{said} names no weights: add, say, --input 3x32x32, for texts the vocabulary")
        task, size = sources.built_for(document, input, classes, scale)
        write_atomic(path, exports.untrained_python(document.space, document.arch, task, size))
        return path
    trained = several or (models.load(source) if document is None else models.of(document))
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

    gathered = gather.gather([arguments.word(run) for run in runs], anyway=anyway, baselines=baselines)
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

    plugin_files.trust(space)
    document = sources.only_architecture(arguments.word(architecture), space, Given(trial))
    if to not in (forms := ("text", "svg", "dot", "png")):
        raise InputError(f"no form {short(to)!r}; {hint(to, forms)}")
    drawn: str | bytes = getattr(drawing, to)(*sources.sized(document, input, classes, scale))
    return drawn


def space_stats(
    space: str,
    *,
    space_options: Mapping[str, object] = {},
    limits: str | Sequence[str] = (),
    samples: int = 1000,
    seed: int = 0,
    data: str | None = None,
    input: str | Sequence[int] | None = None,
    classes: int = 10,
    scale: Scale | None = None,
    latency: bool = True,
    latency_threads: int = 1,
    device: str = "auto",
) -> SpaceStats:
    """Return what a search space holds, and what limits leave of it.

    Args:
        space: Name of it.
        space_options: Options of the space.
        limits: Conditions such as "params<=50k", as of `search`.
        samples: Number of architectures that are drawn uniformly; of up to 30 of them the latency is measured.
        seed: Of the draws.
        data: Data set whose shape the networks are for.
        input, classes: Shape of an example and number of classes, where no data set is given; of images by default
            (3, 32, 32) and 10.
        scale: Size of the networks.
        latency: Whether it is measured, also where no limit is on it.
        latency_threads: CPU threads with which it is measured.
        device: Where it is measured: auto, cpu, cuda or cuda:N.

    Raises:
        InputError: Something is no such space, limit or shape.
    """
    from nastool.analysis import space_stats as stats
    from nastool.training.hardware import device_of

    plugin_files.trust(space, data)
    return stats.space_stats(
        *stats.of(space, space_options, data, input, classes, scale),
        limits=[limits] if isinstance(limits, str) else limits,
        samples=samples,
        seed=seed,
        device=str(device_of(device)),
        threads=latency_threads,
        latency=latency,
    )


def _given(model: str, trial: int | None, pick: str | Sequence[str], on_event: Listener = nobody) -> Given:
    picked = sources.picked(model, trial, [pick] if isinstance(pick, str) else list(pick))
    return Given(picked, say=lambda text: on_event(Note(text)))


def page(study: Study) -> str:
    """Return the HTML page that a run leaves behind."""
    from nastool.analysis.report import html

    return html([study])


def _carry_out(run: SearchRun | RetrainRun, options: Stoppable | FinishOptions) -> Study:
    """RunInterrupted, a KeyboardInterrupt: it was interrupted by Ctrl-C."""
    try:
        done = run.carry_out(Watch(options.on_event, options.stop))
    except Stopped as error:
        raise RunInterrupted(error.exit_code) from None
    if not done and not options.stop():
        raise RunInterrupted()
    return Study.read(run.folder.path)
