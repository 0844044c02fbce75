"""Pictures of architectures for the page; where there are none, what was decided."""

from __future__ import annotations

import base64
import re
from typing import Any

from nastool.analysis.report.markup import Html, facts, tag
from nastool.core.values import Arch
from nastool.engine.study import Study

LEGIBLE = 0.65
"""How far a drawing may shrink with the page; beyond that it scrolls."""


def picture(study: Study, arch: Arch, what: str) -> Html:
    """The drawing as an image, which keeps its names and styles to itself; or a list of decisions.

    what: the architecture's name, for those who cannot see it.
    """
    try:
        from nastool import drawing

        text = drawing.svg(study.space, arch, None, _scale(study))
    except Exception:  # a space may come from anywhere, and a report is worth having without pictures
        return decisions(study, arch)
    source = base64.b64encode(text.encode("utf-8", "replace")).decode()
    size = re.search(r'<svg [^>]*?\bwidth="([\d.]+)(?:px|pt)?" height="([\d.]+)', text)
    width, height = (round(float(size[1])), round(float(size[2]))) if size else (None, None)
    least = None if width is None else f"min-width: {round(LEGIBLE * width)}px"
    how = {"class_": "drawing", "width": width, "height": height, "style": least}
    image = tag("img", src=f"data:image/svg+xml;base64,{source}", alt=f"Drawing of {what}", **how)
    return tag("div", image, class_="scroll", tabindex=0)


def is_wide(picture: Html) -> bool:
    """Whether a drawing is so much wider than high that it needs the space of two."""
    size = re.search(r'width="(\d+)" height="(\d+)"', picture)
    return size is not None and int(size[1]) > max(520, 1.3 * int(size[2]))


def decisions(study: Study, arch: Arch) -> Html:
    """Each decision and the option chosen."""
    named = [(d.name, d.options[choice]) for d, choice in zip(study.space.decisions, arch.choices, strict=True)]
    return facts(named, class_="decisions")


def _scale(study: Study) -> Any:
    given = study.origin.get("scale")
    return study.space.make_scale(given) if isinstance(given, dict) else None
