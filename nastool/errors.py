"""Every error that nastool raises on purpose, with the exit code that the command line gives it."""

from __future__ import annotations


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


def one_line(error: BaseException) -> str:
    """The error as one line of at most 300 characters, led by its type unless it is our own."""
    text = " ".join(str(error).split())
    if not isinstance(error, NastoolError):
        text = f"{type(error).__name__}: {text}" if text else type(error).__name__
    return text if len(text) <= 300 else text[:297] + "..."
