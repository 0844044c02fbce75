"""Reading and writing small files safely: clear errors in, whole files out."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from nastool.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

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


def read_npz(path: str | Path, wanted: Collection[str] | None = None) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file by name; wanted: only those of these names that are there.

    InputError: missing, damaged, no .npz, or an array of Python objects, which are never loaded.
    """
    import numpy as np

    name = ""
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise InputError(f"{path} is no .npz file, or cut short: write it anew with numpy.savez")
            file.seek(0)
            archive = np.load(file, allow_pickle=False)
            arrays: dict[str, NDArray[Any]] = {}
            for name in archive.files:
                if wanted is None or name in wanted:
                    arrays[name] = archive[name]
            return arrays
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror or error}") from None
    except Exception as error:
        # numpy and zipfile raise many kinds for a damaged file; all mean the same to its owner.
        if "Object arrays" in str(error):
            raise InputError(f"{path}: {name} holds Python objects, which are not loaded; save plain numbers") from None
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path} is damaged ({reason}): write it anew with numpy.savez") from None


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
