"""Reports: runs as one HTML file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from nastool.analysis import pages
from nastool.analysis.report import data, sections, summary
from nastool.analysis.report.checklist import GROUPS, items
from nastool.core.errors import InputError
from nastool.core.files import write_atomic
from nastool.engine.study import Study


def html(studies: Sequence[Study], version: str | None = None) -> str:
    """One page about these runs. Equal runs give equal pages.

    Args:
        studies: at least one.
        version: of the runs, for a page that is to ask its server for newer ones.

    Raises:
        InputError: there are no studies.
    """
    if not studies:
        raise InputError("a report needs at least one run")
    several = len(studies) > 1
    names = ", ".join(study.name for study in studies[:3]) + (", …" if len(studies) > 3 else "")
    return pages.render(
        "report.html",
        title=f"{names} - nastool report",
        version=version,
        runs=[_run(study, f"run{number}" if several else "") for number, study in enumerate(studies, 1)],
        overview=sections.overview(studies) if several else [],
        checklist=items(studies),
        groups=GROUPS,
    )


def _run(study: Study, identifier: str) -> dict[str, object]:
    return {
        "study": study,
        "identifier": identifier or "run",
        "searched": study.strategy != data.LISTED,
        "verdicts": summary.verdicts(study),
        "tiles": summary.tiles(study),
        "commands": data.next_commands(study),
        "sections": sections.of(study, f"{identifier}-" if identifier else ""),
    }


def write(studies: Sequence[Study], out: Path) -> None:
    """The page as a file. InputError: it cannot be written."""
    write_atomic(out, html(studies))
