"""The page of one or more runs: what its template shows."""

from __future__ import annotations

from collections.abc import Sequence

from nastool.analysis import pages
from nastool.analysis.report import data, sections
from nastool.analysis.report.checklist import GROUPS, items
from nastool.engine.study import Study


def render(studies: Sequence[Study], version: str | None = None) -> str:
    """The document. version: of the runs, for a page that is to ask for newer ones."""
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
        "tiles": sections.tiles(study),
        "warnings": sections.warnings(study),
        "commands": data.next_commands(study),
        "sections": sections.of(study, f"{identifier}-" if identifier else ""),
    }
