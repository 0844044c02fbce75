"""Reading and writing files safely: clear errors in, whole files out."""

from __future__ import annotations

import errno
import math
import os
import re
import zipfile
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from nastool.core.errors import InputError, short, why
from nastool.core.options import PARSING

if TYPE_CHECKING:
    from torch import Tensor

    from nastool.core.arrays import Columns

UNFINISHED = ".nastool-new"
"""End of the names of files that are being written."""


@dataclass(frozen=True)
class Limit:
    """Memory that the contents of a file may take.

    Args:
        gigabytes: Most of it, in 10^9 bytes, > 0.
        flag: Option that raises it, as a user writes it.

    Raises:
        InputError: gigabytes is no number > 0.
    """

    gigabytes: float = 8.0
    flag: str = "-E max_gigabytes="

    def __post_init__(self) -> None:
        """InputError: no number > 0."""
        if not 0 < self.gigabytes < math.inf:
            raise InputError(f"need max_gigabytes > 0, got {self.gigabytes}")

    @property
    def bytes(self) -> float:
        return self.gigabytes * 1e9

    def check(self, what: str, size: int) -> None:
        """Refuses contents that are too large.

        Args:
            what: Name of what takes the memory.
            size: Bytes that it takes.

        Raises:
            InputError: They are more than the limit.
        """
        if size > self.bytes:
            raise self.exceeded(what, size)

    def exceeded(self, what: str, size: int, share: int = 1) -> InputError:
        """The error for so many bytes, which are more than the limit divided by share."""
        raised = math.ceil(size * share / 1e9)
        return InputError(
            f"{what} takes {amount(size)} of memory, more than the {amount(self.bytes / share)} allowed: if that is "
            f"right, give {self.flag}{raised}"
        )


def path_of(given: str) -> Path:
    """The path that a user gave, in which a leading ~ stands for a home folder.

    Raises:
        InputError: None is known, as in some containers.
    """
    try:
        return Path(given).expanduser()
    except RuntimeError:
        raise InputError(f"{short(given)}: no home folder is known; set HOME, or give a path without ~") from None


def amount(size: float) -> str:
    """Bytes as text: "1.5 GB", "20 MB"."""
    return f"{size / 1e9:.3g} GB" if size >= 1e9 else f"{size / 1e6:.3g} MB"


def npz_names(path: str | Path) -> list[str]:
    """The names of an .npz file's arrays.

    Raises:
        InputError: It is missing, damaged or no .npz, or a name comes twice.
    """
    with _npz(path) as archive:
        return list(_members(path, archive))


def read_npz(path: str | Path, wanted: Collection[str] | None = None, limit: Limit | None = None) -> Columns:
    """The arrays of an .npz file by name.

    How large they are is read first, from their headers, and no more than that is ever unpacked.

    Args:
        path: The file.
        wanted: Names of the arrays that are read, those of them that are there; None: all.
        limit: Memory that they may take in all.

    Raises:
        InputError: The file is missing, damaged or no .npz, exceeds the limit, or has an array of Python objects, which
            are never loaded.
    """
    import numpy as np

    limit = limit or Limit()
    with _npz(path) as archive, PARSING:
        members = {name: member for name, member in _members(path, archive).items() if wanted is None or name in wanted}
        total = 0
        for name, member in members.items():
            with archive.open(member) as file:
                version = np.lib.format.read_magic(file)
                header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
                shape, _, dtype = header.get(version, header[2, 0])(file)
                if dtype.hasobject:
                    reason = "holds Python objects, which are not loaded; save plain numbers"
                    raise InputError(f"{path}: {name} {reason}")
                size = math.prod(shape) * dtype.itemsize
                if file.tell() + size != member.file_size:
                    raise ValueError(f"{name} is of another size than its header says")
            total += size
            limit.check(f"{path}: {name}" if len(members) == 1 else f"{path}: {name} with what stands before it", total)
        arrays: Columns = {}
        for name, member in members.items():
            with archive.open(member) as file:
                arrays[name] = np.lib.format.read_array(file, allow_pickle=False)
        return arrays


def _members(path: str | Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Array name to where it is. Whatever else is in the archive is no array."""
    found: dict[str, zipfile.ZipInfo] = {}
    for member in archive.infolist():
        name = member.filename.removesuffix(".npy")
        if name != member.filename:
            if name in found:
                raise InputError(f"{path}: array {name!r} comes twice: write it anew with numpy.savez")
            found[name] = member
    return found


@contextmanager
def _npz(path: str | Path) -> Iterator[zipfile.ZipFile]:
    """The archive; InputError for whatever goes wrong with it."""
    try:
        with open(path, "rb") as file:
            if not zipfile.is_zipfile(file):
                raise InputError(f"{path} is no .npz file, or cut short: write it anew with numpy.savez")
            with zipfile.ZipFile(file) as archive:
                yield archive
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"cannot read {short(path)}: {why(error)}") from None
    except MemoryError:
        raise InputError(f"{path} does not fit into the memory there is: give less") from None
    except Exception as error:
        # numpy and zipfile raise many kinds for a damaged file; all mean the same to its owner.
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{path} is damaged ({reason}): write it anew with numpy.savez") from None


def write_atomic(path: Path, text: str) -> None:
    """`write_bytes` of a text."""
    write_bytes(path, text.encode(errors="backslashreplace"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a reader or a crash sees the old content or the new, never a part.

    A link stays one, and what is no file (/dev/stdout, a pipe) is written to: no file may take its place.
    InputError where the disk is full or the folder cannot be written.
    """
    try:
        if path.exists() and not path.is_file():
            path.write_bytes(data)
            return
        with replacing(Path(os.path.realpath(path))) as file:
            file.write(data)
    except OSError as error:
        raise InputError(f"cannot write {short(path)}: {why(error)}") from None


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes path's place at the end, whole, and leaves nothing behind on an error. OSError.

    It lies in the same folder under a name that nobody else has.
    """
    new = path.with_name(f".{os.urandom(4).hex()}{UNFINISHED}")
    try:
        with open(new, "xb") as file:
            yield file
            file.flush()
            try:
                os.fsync(file.fileno())
            except OSError as error:  # some network file systems cannot be told to
                if error.errno not in (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP):
                    raise
        os.replace(new, path)
    except BaseException:
        with suppress(OSError):
            new.unlink()
        raise


def is_unfinished(name: str) -> bool:
    """Whether a file of this name is what a kill left of one that was being written."""
    return re.fullmatch(rf"\.[0-9a-f]{{8}}{re.escape(UNFINISHED)}", name) is not None


def is_marked(path: Path) -> bool:
    """Whether a file says of itself, at its beginning or end, that nastool made it, as reports and figures do."""
    try:
        with open(path, "rb") as file:
            head = file.read(8192)
            file.seek(max(0, os.fstat(file.fileno()).st_size - 8192))
            return b"nastool" in head + file.read(8192)
    except OSError:
        return False


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file, whole or not at all. Half precision becomes float32. OSError."""
    import torch
    from safetensors.torch import save

    copies = {}
    for key, value in tensors.items():
        dtype = torch.float32 if value.dtype in (torch.bfloat16, torch.float16) else value.dtype
        copies[key] = value.detach().to("cpu", dtype, copy=True, memory_format=torch.contiguous_format)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(save(copies, dict(metadata)))


def check_tensors(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file. Needs no torch.

    Raises:
        InputError: It is missing or cut short.
    """
    with open_tensors(path) as file:
        return dict(file.metadata() or {})


def read_tensors(path: Path, device: str = "cpu") -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file.

    Raises:
        InputError: It is missing or damaged.
    """
    with open_tensors(path, "pt", device) as file:
        return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})


@contextmanager
def open_tensors(path: Path, framework: str = "np", device: str = "cpu") -> Iterator[Any]:
    """The open file, which gives arrays ("np", without torch) or tensors ("pt"). Errors as of `read_tensors`."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise InputError(f"there is no {short(path, 1000)}")
    try:
        with open(path, "rb") as file:
            # safetensors takes no name that is not UTF-8
            name = str(path) if str(path).isprintable() else f"/dev/fd/{file.fileno()}"
            with safe_open(name, framework=framework, device=device) as tensors:
                yield tensors
    except (OSError, SafetensorError) as error:
        raise InputError(f"{short(path, 1000)} is damaged ({short(error, 120)})") from None


def target(out: str, example: str, force: bool) -> Path:
    """The file that --out names.

    Args:
        out: Its name.
        example: Such a name, for messages.
        force: It may exist already.

    Raises:
        InputError: It exists as a file (not a pipe or a device), it is a folder, in none, or no name for a file.
    """
    path = Path(out)
    try:
        problem = "it is a folder" if path.is_dir() else f"there is no {short(path.parent)}"
        if not path.is_dir() and path.parent.is_dir():
            if path.is_file() and not force:
                raise InputError(f"{short(path)} exists: give another --out, or --force to replace it")
            return path
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        problem = why(error)
    raise InputError(f"--out {short(out)!r}: {problem}; name a file, such as {example}")
