"""Figures as files, or as a part of a page."""

from __future__ import annotations

import io
import textwrap
from pathlib import Path

from nastool.analysis.figures import style, svg
from nastool.analysis.figures.base import Drawn
from nastool.core.files import write_bytes

FORMATS = ("svg", "png", "pdf")


def inline(drawn: Drawn, prefix: str) -> str:
    """The figure as an <svg> element for a page: as wide as its place, in the page's own colours and letters.

    prefix: of its ids, different for each figure of the page. Equal figures give equal text.
    """
    file = io.StringIO()
    with style.styled(**{"svg.fonttype": "none", "figure.facecolor": "none", "savefig.facecolor": "none"}):
        drawn.figure.savefig(file, format="svg", metadata={"Date": None}, dpi=160)
    return svg.adapt(file.getvalue(), prefix, drawn.title, prefix.removesuffix(f"{drawn.name}-"))


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
