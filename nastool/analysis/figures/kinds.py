"""All figures of runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from nastool.analysis.figures import beliefs, fronts, lineage, operations, progress, results, style
from nastool.analysis.figures.base import Drawn, Kind
from nastool.core.errors import InputError, hint
from nastool.engine.study import Study

KINDS: Mapping[str, Kind] = {
    kind.name: kind for module in (progress, fronts, results, operations, beliefs, lineage) for kind in module.KINDS
}


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
