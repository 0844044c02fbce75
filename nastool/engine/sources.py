"""Architectures and networks as users name them: a run, a file, zoo:NAME, a line of JSON, a string form."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nastool.core import archfile, files, options, registry, zoo
from nastool.core.archfile import ArchDocument
from nastool.core.errors import InputError, short, why
from nastool.core.space import SearchSpace, make_scale
from nastool.core.task import FAMILY, Task
from nastool.core.values import Arch, SpaceRef
from nastool.deploy import models
from nastool.deploy.models import Model
from nastool.engine import ranking
from nastool.engine.ranking import best_trials
from nastool.engine.store import Store
from nastool.engine.study import line_of


def _no_stdin() -> Iterator[str]:
    raise InputError("- is stdin, which only commands read: give a file, a run folder or an object")


@dataclass(frozen=True)
class Given:
    """What goes with a name of an architecture.

    Attributes:
        trial: Number of the trial of a run that is meant; None: its best.
        stdin: Returns the lines of stdin.
        say: Told what to know of it.
    """

    trial: int | None = None
    stdin: Callable[[], Iterator[str]] = _no_stdin
    say: Callable[[str], None] = lambda text: None


_NOTHING = Given()


def read_architectures(sources: Iterable[str], space: str | None, given: Given = _NOTHING) -> Iterator[ArchDocument]:
    """Return architectures as users name them.

    Args:
        sources: Files, run folders (their best), "-" for stdin, zoo:NAME, string forms of the space.
        space: Name of it; None: no string form can be read.
        given: What goes with them.

    Raises:
        InputError: There is no such space; while they are read, no such architecture.
    """
    of_space = registry.make_space(SpaceRef(space)) if space else None
    return (document for source in sources for document in _read(source, of_space, given))


def _read(source: str, space: SearchSpace | None, given: Given) -> Iterator[ArchDocument]:
    if given.trial is not None:
        yield of_run(Path(source), given)
        return
    if source.startswith("zoo:"):
        yield archfile.from_json(zoo.document(source.removeprefix("zoo:")), space)
        return
    path = Path(source)
    try:
        exists, is_folder = path.exists(), path.is_dir()
    except (OSError, ValueError) as error:
        if space is None:
            raise InputError(f"cannot read {short(path)}: {why(error)}") from None
        exists = is_folder = False  # too long for a name: a string form
    if source == "-":
        yield from archfile.read_lines(given.stdin(), "stdin", space)
    elif not source.strip():
        raise InputError("an empty name is no architecture: give a file, a run folder or -")
    elif source.lstrip().startswith("{"):
        yield archfile.read_text(source, space)
    elif is_folder:
        if (path / "best.json").is_file():
            yield from archfile.read_file(path / "best.json", space)
        elif run_folder(source) is not None:
            yield of_run(path, given)
        else:
            raise InputError(f"{path} has no best.json, nor run.db: give an arch.json, or a run folder")
    elif exists or path.suffix:
        yield from archfile.read_file(path, space)
    elif space is not None:
        yield archfile.read_text(source, space)
    else:
        hint = "for a space's own string form give --space NAME"
        raise InputError(f"cannot read {short(path)}: no such file; {hint}")


def picked(source: str, trial: int | None, pick: Sequence[str]) -> int | None:
    """The number of the trial of a run that is meant; None: its best.

    Args:
        source: The run's folder.
        trial: Its number, if that is given.
        pick: Conditions on the best trial, as of `ranking.pick`; empty: none.

    Raises:
        InputError: Both are given, it is no run's folder, or no trial meets them.
    """
    if not pick:
        return trial
    if trial is not None:
        raise InputError("both --trial and --pick are given: keep one")
    if (folder := run_folder(source)) is None:
        raise InputError(
            f"--pick {short(pick[0])}: {short(source)} is no run folder, of whose trials one could be picked"
        )
    with Store.read(folder / "run.db") as store:
        ranked = best_trials(store, registry.make_space(store.space), sum(store.count().values()))
    if not ranked:
        raise InputError(f"{folder} has no finished trial yet: `nastool resume {shlex.quote(str(folder))}` goes on")
    return ranking.pick(ranked, pick).id


def of_run(folder: Path, given: Given) -> ArchDocument:
    """The trial of a run that is meant, or the best so far of one that has not finished. InputError: there is none."""
    run = shlex.quote(str(folder))
    if given.trial is not None and run_folder(str(folder)) is None:
        raise InputError(f"--trial {given.trial}: {short(folder)} is no run folder, whose trials have numbers")
    with Store.read(folder / "run.db") as store:
        space, counts = registry.make_space(store.space), store.count()
        made, wanted = sum(counts.values()) - counts["running"], store.get("trials") or sum(counts.values())
        trials = best_trials(store, space, 1) if given.trial is None else store.numbered(given.trial)
        if not trials:
            there = f"{folder} has trials 0 to {sum(counts.values()) - 1}"
            none = f"{folder} has no finished trial yet: `nastool resume {run}` goes on"
            raise InputError(none if given.trial is None else f"--trial {given.trial}: {there}")
        line = line_of(folder, store, space, trials[0])
        if log := store.log(trials[0].id):
            line["log"] = log.splitlines()
    if given.trial is None:
        so_far = f"{folder} has not finished ({made} of {wanted} trials): this is the best so far, trial {trials[0].id}"
        given.say(f"note: {so_far}; `nastool finish {run}` makes its result")
    return archfile.from_json(line, space)


def only_architecture(source: str, space: str | None, given: Given = _NOTHING) -> ArchDocument:
    """The only architecture that the source holds."""
    return only(source, read_architectures([source], space, given))


def only(source: str, documents: Iterable[ArchDocument]) -> ArchDocument:
    """The only one of the architectures of a source. InputError: they are several."""
    first, *others = list(documents)
    if others:
        raise InputError(
            f"{short(Path(source))} holds {1 + len(others)} architectures: give one, as `nastool top - -k 1` does"
        )
    return first


def model(source: str, given: Given = _NOTHING) -> Model:
    """The trained network of a run folder, a file of weights, or an architecture's line that names some."""
    a_line = source == "-" or source.lstrip().startswith("{") or Path(source).suffix.lower() in (".json", ".jsonl")
    if source != "-" and given.trial is None and (found := models.ensemble(source)) is not None:
        return found
    unfinished = run_folder(source) is not None and not (Path(source) / "best.json").is_file()
    if a_line or unfinished or given.trial is not None:
        return models.of(only_architecture(source, None, given))
    return models.load(source)


def examples_folder(source: str, found: Model) -> Path:
    """Where examples of a network's data are written: in its run's folder, or beside its weights."""
    return (run_folder(source) or found.path.parent) / "examples"


def seeds(text: str) -> list[int]:
    """What --seeds says. InputError."""
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        raise InputError(f"--seeds {short(text)!r}: write integers with commas between, such as 0,1,2") from None
    if min(seeds) < 0 or max(seeds) >= 2**63 or len(set(seeds)) < len(seeds):
        raise InputError(f"--seeds {short(text)}: need different integers from 0 to 2^63 - 1")
    return seeds


def run_folder(source: str) -> Path | None:
    """Return the run folder that a source names; None: it names something else."""
    try:
        return Path(source) if source != "-" and (Path(source) / "run.db").is_file() else None
    except (OSError, ValueError):  # too long for a name: an architecture
        return None


def built_for(document: ArchDocument, input: object, classes: int, scale: object) -> tuple[Task, Any]:
    """Return what an architecture's network is to be built for: examples of a shape, at a scale.

    Args:
        document: The architecture; without a scale, the one in its line counts.
        input: The fields of the space's task, such as "CHANNELSxHEIGHTxWIDTH", or as integers.
        classes: Number of classes, of a task that has some.
        scale: KEY=N,... or a mapping; None or "": that of the line, or the published one.

    Raises:
        InputError: One of them is none.
    """
    return registry.task_of(document.space, input, classes), size_of(document, scale)


def size_of(document: ArchDocument, scale: object) -> Any:
    """Return the scale that an architecture's network is to be built at, as of `built_for`. InputError: it is none."""
    try:
        return make_scale(document.space, options.mapping(scale or document.extra.get("scale") or {}, int))
    except InputError as error:
        raise InputError(f"--scale: {error}" if scale else str(error)) from None
    except ValueError:
        raise InputError("scale must be KEY=N,... (in a line of JSON an object), such as channels=16,cells=5") from None


def sized(
    document: ArchDocument, input: object, classes: int, scale: object
) -> tuple[SearchSpace, Arch, Task | None, object]:
    """Return what is drawn of an architecture: it, with task and scale as they are given, else those of its weights.

    Args and errors are as of `built_for`; None as the input: it is not given.
    """
    if input is None and scale:
        raise InputError("--scale is the size of a network: add, say, --input 3x32x32, for texts the vocabulary")
    found = trained_for(document) if input is None else built_for(document, input, classes, scale)
    return document.space, document.arch, *found


def trained_for(document: ArchDocument) -> tuple[Task | None, Any]:
    """Return task and scale of the weights that an architecture's line names; None, None: there are none to be read."""
    if "weights" not in document.extra:
        return None, None
    try:
        about = files.check_tensors(Path(document.extra["weights"]))
        task = registry.load("task", about.get("family", FAMILY)).from_json(archfile.loads(about["task"]))
        return task, make_scale(document.space, archfile.loads(about["scale"]))
    except (KeyError, TypeError, ValueError):
        return None, None  # it can still be drawn without
