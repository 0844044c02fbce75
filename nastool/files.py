"""Reading and writing small files safely: clear errors in, whole files out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from nastool.errors import InputError

MAX_YAML_BYTES = 1_000_000


def read_yaml(path: str | Path) -> dict[str, Any]:
    """A YAML file of at most 1 MB whose top level is a mapping with text keys; {} for an empty one.

    InputError: unreadable, too large, malformed, or something other than a mapping.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_YAML_BYTES + 1)
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    if len(data) > MAX_YAML_BYTES:
        raise InputError(f"{path} is larger than {MAX_YAML_BYTES:,} bytes: is it a configuration?")
    try:
        document = yaml.safe_load(data.decode())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or type(error).__name__
        raise InputError(f"{path}{where} is no valid YAML: {problem}") from None
    if document is None:
        return {}
    if not isinstance(document, dict) or not all(isinstance(key, str) for key in document):
        raise InputError(f"{path} must be a YAML mapping of names to values")
    return document


def write_atomic(path: Path, text: str) -> None:
    """Write a text file so that a reader or a crash sees the old content or the new, never a part.

    InputError where the disk is full or the folder cannot be written.
    """
    new = path.with_name(path.name + ".new")
    try:
        with open(new, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror or error}") from None
