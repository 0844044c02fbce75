"""Every error that nastool raises on purpose, with the exit code that the command line gives it."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterable
from pathlib import PurePath
from typing import Literal, get_args

Fault = Literal["memory", "nan", "exception", "timeout", "killed", "hung", "device", "machine"]
"""What kind of fault a trial failed by.

memory: it ran out, however small the parts of a batch were. nan: a loss or a metric is not finite. exception: any other
error was raised. timeout: it took too long. killed: its process died. hung: it made no progress any more. device: one
does not work as it should. machine: that is gone, or its disk full.
"""
FAULTS: tuple[Fault, ...] = get_args(Fault)
OF_THE_MACHINE: frozenset[Fault] = frozenset({"killed", "hung", "device", "machine"})
"""Those that say nothing of the architecture: another try may well succeed."""


class NastoolError(Exception):
    """Base class. The message is one line for a person: it names the thing and the remedy."""

    exit_code = 1


class InputError(NastoolError, ValueError):
    """Bad input or usage: an option, a file, a run folder. Exit code 2."""

    exit_code = 2


class InvalidArchError(InputError):
    """An architecture that is no member of its search space."""


class TrialFailed(NastoolError):
    """Raised by an evaluator for a failure it understands (divergence, say).

    The trial is recorded as failed with this message as its reason and the search goes on.
    """

    def __init__(self, message: str, *, retry: bool = False) -> None:
        """Makes an error.

        Args:
            message: One line for a person.
            retry: Another try in a fresh process may help (memory ran out, say); the run gives it one.
        """
        super().__init__(message)
        self.retry = retry


class Diverged(TrialFailed):
    """A loss, or what else is measured, is not finite."""


class OutOfMemory(InputError):
    """There is not enough memory to prepare an evaluator: the message says of what, and what may help."""


class CannotGoOn(InputError):
    """Raised by an evaluator where nothing is wrong with the trial, but with what it stands on: a full disk, say.

    The search ends with this message, and the trial is repeated when it is continued.
    """


class Stopped(BaseException):
    """A signal ends the program now. Not an Exception: no evaluator's failure may be mistaken for it."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(exit_code)
        self.exit_code = exit_code


class RunInterrupted(KeyboardInterrupt):
    """A run was interrupted, and goes on with the same call."""

    def __init__(self, exit_code: int = 130) -> None:
        """Makes an error.

        Args:
            exit_code: Of the program, if it ends with that.
        """
        super().__init__("interrupted")
        self.exit_code = exit_code


_NO_MEMORY = re.compile(
    r"out of memory|can't allocate memory|not enough memory|cannot allocate memory|_STATUS_ALLOC_FAILED|"
    r"CU(DNN|BLAS)_STATUS_NOT_INITIALIZED|CUDNN_STATUS_INTERNAL_ERROR(_(HOST|DEVICE)_ALLOCATION_FAILED)?\b|"
    # what is left when no algorithm gets the memory that it asks for
    r"unable to find an engine to execute|unable to find a valid cuDNN algorithm",
    re.IGNORECASE,
)
_BROKEN = re.compile(
    r"illegal memory access|illegal instruction|misaligned address|invalid program counter|hardware stack error|"
    r"unspecified launch failure|launch timed out|uncorrectable (ECC|NVLink) error|busy or unavailable|hardware error|"
    r"CUDA error: (unknown error|initialization error)|(GPU|device) is lost|no longer available|fallen off the bus|"
    r"CU(DNN|BLAS)_STATUS_(EXECUTION_FAILED|MAPPING_ERROR)|CUBLAS_STATUS_INTERNAL_ERROR",
    re.IGNORECASE,
)
"""As CUDA, cuDNN and cuBLAS name them. A failed assertion in a kernel is not among them: the program is at fault."""


_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.ESTALE)


def kind_of(error: BaseException) -> Fault:
    """What kind of fault a trial fails by in which this was raised."""
    if (found := fault_of(error)) is not None:
        return found
    if isinstance(error, OSError) and error.errno in _DISK:
        return "machine"
    return "nan" if isinstance(error, Diverged | FloatingPointError) else "exception"


def fault_of(error: BaseException) -> Literal["memory", "device"] | None:
    """Whether memory ran out, or a device does not work, by the error or one that caused it; None: neither.

    Told by the type's name and torch's text: torch.OutOfMemoryError is no MemoryError, cuDNN's and cuBLAS' failed
    allocations are RuntimeErrors, and only newer versions have torch.AcceleratorError. torch is not imported for it.
    """
    cause: BaseException | None = error
    for _ in range(10):  # a chain of causes may be a ring
        if cause is None:
            break
        if isinstance(cause, MemoryError | OutOfMemory) or getattr(cause, "errno", None) == errno.ENOMEM:
            return "memory"
        if isinstance(cause, RuntimeError):
            if type(cause).__name__ == "OutOfMemoryError" or _NO_MEMORY.search(str(cause)):
                return "memory"
            if _BROKEN.search(str(cause)):
                return "device"
        cause = cause.__cause__
    return None


MOST_NAMED = 12
"""So many names are listed at most."""


def hint(name: object, known: Iterable[str]) -> str:
    """The end of a message about an unknown name: "did you mean 'x'?", or "there are x, y", the first MOST_NAMED."""
    from difflib import get_close_matches  # late, as few messages need it

    names = list(known)
    near = get_close_matches(name, names, n=1, cutoff=0.5) if isinstance(name, str) else []
    if near:
        return f"did you mean {near[0]!r}?"
    more = f" and {len(names) - MOST_NAMED} others" if len(names) > MOST_NAMED else ""
    return f"there are {', '.join(names[:MOST_NAMED]) or 'none'}{more}"


def one_line(error: BaseException) -> str:
    """The error as one line of at most 300 characters, led by its type unless it is our own.

    Of a fault of a device without the advice on debugging that torch adds to it in further lines.
    """
    text = str(error)
    if fault_of(error) == "device":
        text = text.partition("\n")[0]
    text = " ".join(text.split())
    if not isinstance(error, NastoolError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= 300 else text[:297] + "..."


def why(error: Exception) -> str:
    """Reason why something failed with a file, without its name; where the disk is full, with the remedy."""
    text = getattr(error, "strerror", None) or str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"{text}; free some space, then give the same command again"
    return text


def short(value: object, length: int = 60) -> str:
    """value for a message, cut to so many characters (of a path, the last). Nothing nested: it may be very large."""
    text = " ".join(str(value).split()).encode(errors="backslashreplace").decode()
    if len(text) <= length:
        return text
    return "..." + text[3 - length :] if isinstance(value, PurePath) else text[: length - 3] + "..."
