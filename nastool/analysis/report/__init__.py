"""Reports: runs as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nastool.analysis.report import page
from nastool.core.errors import InputError
from nastool.core.files import write_atomic
from nastool.engine.study import Study

__all__ = ["html", "write"]


def html(studies: Sequence[Study]) -> str:
    """One page about these runs, at least one. Equal runs give equal pages."""
    if not studies:
        raise InputError("a report needs at least one run")
    return page.render(studies)


def write(studies: Sequence[Study], out: Path) -> None:
    """The page as a file. InputError: it cannot be written."""
    write_atomic(out, html(studies))
