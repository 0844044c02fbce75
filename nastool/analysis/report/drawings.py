"""Pictures of architectures for the page; where there are none, what was decided."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass

from markupsafe import Markup

from nastool.core.space import make_scale
from nastool.core.values import Arch
from nastool.engine.study import Study

LEGIBLE = 0.65
"""Share of its size to which a drawing may shrink with the page; beyond that it scrolls."""


@dataclass(frozen=True)
class Picture:
    """A drawing as an image, which keeps its names and styles to itself. width, height: in pixels; None: unknown."""

    source: str
    width: int | None
    height: int | None

    @property
    def wide(self) -> bool:
        """True for one so much wider than high that it needs the space of two."""
        return self.width is not None and self.height is not None and self.width > max(520, 1.3 * self.height)

    @property
    def size(self) -> Markup:
        """Attributes of its element."""
        if self.width is None:
            return Markup("")
        least = round(LEGIBLE * self.width)
        return Markup(f' width="{self.width}" height="{self.height}" style="min-width: {least}px"')


def picture(study: Study, arch: Arch) -> Picture | None:
    """The drawing of an architecture; None: its space has none."""
    try:
        from nastool import drawing

        text = drawing.svg(study.space, arch, None, _scale(study))
    except Exception:  # a space may come from anywhere, and a report is worth having without pictures
        return None
    source = base64.b64encode(text.encode("utf-8", "replace")).decode()
    size = re.search(r'<svg [^>]*?\bwidth="([\d.]+)(?:px|pt)?" height="([\d.]+)', text)
    width, height = (round(float(size[1])), round(float(size[2]))) if size else (None, None)
    return Picture(f"data:image/svg+xml;base64,{source}", width, height)


def decisions(study: Study, arch: Arch) -> list[tuple[str, str]]:
    """Each decision and the option chosen."""
    return [(d.name, d.options[choice]) for d, choice in zip(study.space.decisions, arch.choices, strict=True)]


def _scale(study: Study) -> object:
    given = study.origin.get("scale")
    return make_scale(study.space, given) if isinstance(given, dict) else None
