"""The three streams of a process."""

from __future__ import annotations

import io
import os
import sys


def hold_streams() -> None:
    """Open what the caller closed of stdin, stdout and stderr on nothing, here and for processes that are started.

    Otherwise the next file that is opened, such as the pipe to a worker, gets that number and is written to.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
            os.set_inheritable(descriptor, True)


def settle_streams() -> None:
    """Send what is printed to stderr: stdout carries the coordinator's results, and nothing else may get there.

    Line by line, so that a log has it also where the process is killed.
    """
    os.dup2(2, 1)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
