"""Architectures and networks as users name them: a run, a file, zoo:NAME, a line of JSON, a string form."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from nastool.core import archfile, files, options, registry, zoo
from nastool.core.archfile import ArchDocument
from nastool.core.errors import InputError, short, why
from nastool.core.space import SearchSpace, make_scale
from nastool.core.values import SpaceRef
from nastool.deploy import models
from nastool.deploy.models import Model
from nastool.tasks.images.task import ImageTask

Lines = Callable[[], Iterator[str]]
"""Returns the lines of stdin."""


def _no_stdin() -> Iterator[str]:
    raise InputError("- is stdin, which only commands read: give a file, a run folder or an object")


def read_architectures(
    sources: Sequence[str], space: SearchSpace | None, stdin: Lines = _no_stdin
) -> Iterator[ArchDocument]:
    """Architectures from files, run folders (their best), "-" for stdin, zoo:NAME, string forms of the given space."""
    for source in sources:
        if source.startswith("zoo:"):
            yield archfile.from_json(zoo.document(source.removeprefix("zoo:")), space)
            continue
        path = Path(source)
        try:
            exists, is_folder = path.exists(), path.is_dir()
        except (OSError, ValueError) as error:
            if space is None:
                raise InputError(f"cannot read {short(path)}: {why(error)}") from None
            exists = is_folder = False  # too long for a name: a string form
        if source == "-":
            yield from archfile.read_lines(stdin(), "stdin", space)
        elif not source.strip():
            raise InputError("an empty name is no architecture: give a file, a run folder or -")
        elif source.lstrip().startswith("{"):
            yield archfile.read_text(source, space)
        elif is_folder:
            if not (path / "best.json").is_file():
                raise InputError(f"{path} has no best.json: give an arch.json, or a run folder that has finished")
            yield from archfile.read_file(path / "best.json", space)
        elif exists or path.suffix:
            yield from archfile.read_file(path, space)
        elif space is not None:
            yield archfile.read_text(source, space)
        else:
            hint = "for a space's own string form give --space NAME"
            raise InputError(f"cannot read {short(path)}: no such file; {hint}")


def only_architecture(source: str, space: str | None, stdin: Lines = _no_stdin) -> ArchDocument:
    """The only architecture that the source holds."""
    documents = list(read_architectures([source], registry.make_space(SpaceRef(space)) if space else None, stdin))
    if len(documents) > 1:
        raise InputError(
            f"{short(Path(source))} holds {len(documents)} architectures: give one, as `nastool top - -k 1` does"
        )
    return documents[0]


def model(source: str, stdin: Lines = _no_stdin) -> Model:
    """The trained network of a run folder, a file of weights, or an architecture's line that names some."""
    a_line = source == "-" or source.lstrip().startswith("{") or Path(source).suffix.lower() in (".json", ".jsonl")
    return models.of(only_architecture(source, None, stdin)) if a_line else models.load(source)


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


def built_for(document: ArchDocument, input: object, classes: int, scale: object) -> tuple[ImageTask, Any]:
    """Return what an architecture's network is to be built for: images of a shape, at a scale.

    Args:
        document: The architecture; without a scale, the one in its line counts.
        input: "CHANNELSxHEIGHTxWIDTH", or three integers.
        classes: Number of classes.
        scale: KEY=N,... or a mapping; None or "": that of the line, or the published one.

    Raises:
        InputError: One of them is none.
    """
    text = input if isinstance(input, str) else "x".join(map(str, input)) if isinstance(input, Sequence) else str(input)
    match = re.fullmatch(r"(\d{1,6})x(\d{1,6})x(\d{1,6})", text)
    if match is None:
        raise InputError(f"--input {short(text)!r}: write CHANNELSxHEIGHTxWIDTH, such as 3x32x32")
    try:
        size = make_scale(document.space, options.mapping(scale or document.extra.get("scale") or {}, int))
    except InputError as error:
        raise InputError(f"--scale: {error}" if scale else str(error)) from None
    except ValueError:
        raise InputError("scale must be KEY=N,... (in a line of JSON an object), such as channels=16,cells=5") from None
    try:
        return ImageTask(int(match[1]), int(match[2]), int(match[3]), classes), size
    except ValueError as error:
        raise InputError(str(error)) from None


def trained_for(document: ArchDocument) -> tuple[ImageTask | None, Any]:
    """Return task and scale of the weights that an architecture's line names; None, None: there are none to be read."""
    if "weights" not in document.extra:
        return None, None
    try:
        about = files.check_tensors(Path(document.extra["weights"]))
        task = ImageTask.from_json(archfile.loads(about["task"]))
        return task, make_scale(document.space, archfile.loads(about["scale"]))
    except (KeyError, TypeError, ValueError):
        return None, None  # it can still be drawn without
