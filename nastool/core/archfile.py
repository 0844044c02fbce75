"""arch.json: architectures as JSON, for people as well as programs, one a file or one a line.

    {"format": "nastool.arch/1", "space": {"name": "nasbench201", "options": {}},
     "choices": {"1<-0": "nor_conv_3x3", "2<-0": "skip_connect", ...}}

Unknown keys are kept, so that a line of `nastool top` is an input of `nastool eval`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, TextIO, runtime_checkable

from nastool.core import registry
from nastool.core.errors import InputError, InvalidArchError, hint, short, why
from nastool.core.space import SearchSpace
from nastool.core.values import Arch, SpaceRef
from nastool.core.values import loads as loads

FORMAT = "nastool.arch/1"
ENSEMBLE = "nastool.ensemble/1"
"""Format of an object whose "members" are architectures: read as a source, it is these."""
MAX_LINE = 1_000_000


@dataclass(frozen=True)
class ArchDocument:
    """An architecture, the space it belongs to, and whatever else its JSON object said.

    file: what it was read from; None: stdin, an argument, or nothing that was read.
    """

    space: SearchSpace
    arch: Arch
    extra: Mapping[str, Any] = field(default_factory=dict)
    file: Path | None = field(default=None, compare=False)

    def to_json(self, more: Mapping[str, object] | None = None) -> dict[str, Any]:
        """The document as a JSON object.

        Args:
            more: Keys to add or replace.
        """
        return {**to_json(self.space, self.arch), **self.extra, **(more or {})}


def to_json(space: SearchSpace, arch: Arch) -> dict[str, Any]:
    return {**about(space), **named(space, arch)}


def about(space: SearchSpace) -> dict[str, Any]:
    """The keys that say of which space an architecture is."""
    return {"format": FORMAT, "space": {"name": space.ref.name, "options": dict(space.ref.options)}}


def named(space: SearchSpace, arch: Arch) -> dict[str, Any]:
    """The keys that say which member of its space it is."""
    choices = {
        decision.name: decision.options[choice] for decision, choice in zip(space.decisions, arch.choices, strict=True)
    }
    return {"choices": choices, "key": arch.key}


dumps: Callable[[Mapping[str, object]], str] = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
"""One line of JSON. ValueError on NaN or infinity, which JSON does not have."""


def from_json(document: object, space: SearchSpace | None = None) -> ArchDocument:
    """Reads and validates a JSON object.

    Args:
        document: The object.
        space: Space that it has to belong to; None: the one that it names.

    Raises:
        InvalidArchError: It is no member: the message names the offending part.
    """
    if not isinstance(document, dict):
        raise InvalidArchError(f"an architecture is a JSON object, got {type(document).__name__}")
    if document.get("format", FORMAT) != FORMAT:
        raise InvalidArchError(f"format {_shown(document['format'])} is not {FORMAT!r}")
    for key in ("space", "choices"):
        if key not in document:
            raise InvalidArchError(f"no {key!r}: an architecture has 'space' and 'choices'")
    own = _space(document["space"])
    if space is not None and own.ref != space.ref:
        raise InvalidArchError(f"the architecture belongs to space {own.ref}, expected {space.ref}")
    choices = document["choices"]
    if not isinstance(choices, dict):
        raise InvalidArchError("'choices' must be an object of decision: option")
    names = [decision.name for decision in own.decisions]
    for name in choices:
        if name not in names:
            raise InvalidArchError(f"{own.ref} has no decision {_shown(name)}; {hint(name, names)}")
    indices = []
    for decision in own.decisions:
        if decision.name not in choices:
            raise InvalidArchError(f"decision {decision.name!r} is missing")
        option = choices[decision.name]
        if option not in decision.options:
            raise InvalidArchError(
                f"decision {decision.name!r} has no option {_shown(option)}; {hint(option, decision.options)}"
            )
        indices.append(decision.options.index(option))
    arch = own.arch(indices)
    own.validate(arch)
    # The key follows from the rest; a stale one in the input must not survive.
    extra = {k: v for k, v in document.items() if k not in ("format", "space", "choices", "key")}
    return ArchDocument(own, arch, extra)


@runtime_checkable
class StringForm(Protocol):
    """A space for whose architectures the field has a string form of its own."""

    def to_string(self, arch: Arch) -> str: ...

    def from_string(self, text: str) -> Arch:
        """Read `to_string`'s form. InvalidArchError where it is none."""
        ...


def to_string(space: SearchSpace, arch: Arch) -> str | None:
    """The field's own string form of an architecture; None: the space has none."""
    return space.to_string(arch) if isinstance(space, StringForm) else None


def read_text(text: str, space: SearchSpace | None = None) -> ArchDocument:
    """One architecture: arch.json, or the space's own string form where a space is given."""
    if not text.lstrip().startswith(("{", "[", '"')):
        if space is not None:
            if not isinstance(space, StringForm):
                raise InvalidArchError(f"space {space.name} has no string form; give arch.json")
            arch = space.from_string(text)
            space.validate(arch)
            return ArchDocument(space, arch)
        raise InvalidArchError(
            f"{short(text)!r} is no JSON object; give --space NAME to read a space's own string form"
        )
    try:
        document = loads(text)
    except ValueError as error:
        raise InvalidArchError(str(error)) from None
    return from_json(document, space)


def read_lines(lines: Iterable[str], source: str, space: SearchSpace | None = None) -> Iterator[ArchDocument]:
    """Architectures from JSON lines as they arrive, or from one JSON object written over several lines.

    Args:
        lines: Of the input.
        source: Name of the input in messages.
        space: Space that all have to belong to; None: each line names its own.

    Raises:
        InputError: A line is no architecture: the message names source and line.
    """
    found = 0
    number = 0
    iterator = iter(lines)
    try:
        while True:
            number += 1
            line = next(iterator, None)
            if line is None:
                break
            text = line.strip().removeprefix("\ufeff")
            if not text:
                continue
            found += 1
            if found == 1 and text.startswith("{") and not text.endswith("}"):
                # The beginning of an object over several lines: the whole input is one document.
                yield from _members("\n".join([text, *iterator]), space)
                return
            yield from _members(text, space)
    except UnicodeDecodeError:
        raise InputError(f"{source} is no UTF-8 text: an architecture is JSON") from None
    except InputError as error:
        raise InputError(f"{source} line {number}: {error}") from None
    if not found:
        raise InputError(f"{source} holds no architecture")


def _members(text: str, space: SearchSpace | None) -> Iterator[ArchDocument]:
    """The architecture that a text is; of an ensemble each of its members."""
    if ENSEMBLE not in text or (found := _ensemble(text)) is None:
        yield read_text(text, space)
        return
    for member in found["members"]:
        yield from_json(member, space)


def _ensemble(text: str) -> dict[str, Any] | None:
    try:
        found = loads(text)
    except ValueError:
        return None
    is_one = isinstance(found, dict) and found.get("format") == ENSEMBLE and isinstance(found.get("members"), list)
    return found if is_one else None


def ensemble_in(path: Path) -> dict[str, Any] | None:
    """The object of an ensemble that a file holds; None: it is none, or cannot be read."""
    try:
        text = "".join(lines_of(path))
    except (InputError, ValueError):
        return None
    return _ensemble(text) if ENSEMBLE in text else None


def read_file(path: Path, space: SearchSpace | None = None) -> Iterator[ArchDocument]:
    for document in read_lines(lines_of(path), short(path), space):
        yield replace(document, file=path)


def lines_of(path: Path) -> Iterator[str]:
    """The lines of a file, as of `bounded`. InputError: it cannot be read."""
    try:
        file = open(path, encoding="utf-8")
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {short(path)}: {why(error)}") from None
    return _closing(file)


def _closing(file: TextIO) -> Iterator[str]:
    with file:
        yield from bounded(file)


def bounded(file: TextIO) -> Iterator[str]:
    """The lines of a file, of at most MAX_LINE characters each.

    Raises:
        InputError: A line is longer, or it cannot be read.
    """
    try:
        while line := file.readline(MAX_LINE + 1):
            if len(line) > MAX_LINE:
                raise InputError(f"longer than {MAX_LINE:,} characters: an architecture is a line of JSON")
            yield line
    except OSError as error:
        raise InputError(f"cannot read on: {why(error)}") from None


def _space(value: object) -> SearchSpace:
    if isinstance(value, str):
        value = {"name": value}
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise InvalidArchError("'space' must be an object with a 'name'")
    options = value.get("options", {})
    if not isinstance(options, dict) or any(isinstance(v, dict | list) for v in options.values()):
        raise InvalidArchError("the space's 'options' must be an object of plain values")
    return _make_space(SpaceRef.of(registry.load("space", value["name"]).name, options))


@lru_cache(maxsize=32)
def _make_space(ref: SpaceRef) -> SearchSpace:
    return registry.make_space(ref)


def _shown(value: object) -> str:
    """A JSON value in a message."""
    return f"a {type(value).__name__}" if isinstance(value, dict | list) else short(repr(value))
