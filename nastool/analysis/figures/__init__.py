"""Figures of runs, once for reports and for `nastool plot`."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nastool.analysis.figures import beliefs, lineage, operations, progress, results, style, svg
from nastool.analysis.figures.base import Drawn, Kind
from nastool.core.errors import InputError, hint
from nastool.core.files import write_bytes
from nastool.engine.study import Study

KINDS: Mapping[str, Kind] = {
    kind.name: kind for module in (progress, results, operations, beliefs, lineage) for kind in module.KINDS
}
FORMATS = ("svg", "png", "pdf")

__all__ = ["FORMATS", "KINDS", "Drawn", "Kind", "draw", "inline", "pick", "save"]


def pick(names: Sequence[str]) -> list[Kind]:
    """The kinds of these names, all for none. InputError: there is no such figure."""
    for name in names:
        if name not in KINDS:
            raise InputError(f"there is no figure {name!r}; {hint(name, KINDS)}")
    return [KINDS[name] for name in dict.fromkeys(names)] if names else list(KINDS.values())


def draw(kind: Kind, studies: Sequence[Study]) -> Iterator[tuple[Study | None, Drawn]]:
    """The figures of a kind that these runs have something for: of all runs (None), or of one each."""
    with style.styled():
        if kind.shared:
            yield from ((None, drawn) for drawn in kind.draw(studies))
        else:
            for study in studies:
                yield from ((study, drawn) for drawn in kind.draw(study))


def inline(drawn: Drawn, prefix: str) -> str:
    """The figure as an <svg> element for a page: as wide as its place, in the page's own colours and letters.

    prefix: of its ids, different for each figure of the page. Equal figures give equal text.
    """
    file = io.StringIO()
    with style.styled(**{"svg.fonttype": "none", "figure.facecolor": "none", "savefig.facecolor": "none"}):
        drawn.figure.savefig(file, format="svg", metadata={"Date": None}, dpi=160)
    return svg.adapt(file.getvalue(), prefix, drawn.title)


def save(drawn: Drawn, path: Path) -> None:
    """Write it with title and caption, in the format that the name ends with. InputError: it cannot be written."""
    figure, content = drawn.figure, io.BytesIO()
    caption = textwrap.wrap(drawn.caption, 94, break_on_hyphens=False)
    width, height = (float(inches) for inches in figure.get_size_inches())
    figure.set_size_inches(width, height + 0.3 + 0.16 * len(caption))
    # Without a date equal figures give equal files.
    metadata = {
        ".svg": {"Date": None, "Creator": "nastool"},
        ".pdf": {"CreationDate": None, "Creator": "nastool"},
        ".png": {"Software": "nastool"},
    }.get(path.suffix)
    with style.styled(**{"pdf.fonttype": 42}):
        how = {"x": 0.008, "ha": "left"}
        figure.suptitle(style.clean(drawn.title, 80), fontsize=10.5, fontweight="bold", color=style.TEXT, **how)
        figure.supxlabel("\n".join(caption), fontsize=7.5, color=style.MUTED, **how)
        figure.savefig(content, format=path.suffix[1:], dpi=300, metadata=metadata)
    write_bytes(path, content.getvalue())
