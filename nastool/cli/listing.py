"""Architectures and what was measured of them, as a table for people."""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeGuard

from nastool.cli import common
from nastool.cli.common import format_number, format_seconds
from nastool.cli.live.text import cells, clean
from nastool.cli.results import judged_by

if TYPE_CHECKING:
    from nastool.core.values import Objective

COSTS = ("params", "flops", "seconds")
WIDTHS = {"params": 11, "flops": 13, "seconds": 7}
"""Widths of columns whose cells are not known yet."""
VALUE, SPREAD = 8, 15
"""The same for other metrics: "0.9861", and "0.9861 ± 0.0012"."""


def ranking(documents: Sequence[Mapping[str, object]], objective: Objective) -> list[str]:
    """Lines of arch.json objects that are ordered by an objective; no wider than the terminal, if that is possible."""
    names = [objective.metric, *(name for name in _names(documents[0]) if name != objective.metric)]
    columns = [["rank", *(str(rank) for rank in range(1, len(documents) + 1))]]
    if any("trial" in document for document in documents):
        columns.append(["trial", *(clean(str(document.get("trial", ""))) for document in documents)])
    if any("believed" in document for document in documents):
        columns.append(["expected", *map(_believed, documents)])
    if any("final_stage" in document for document in documents):
        columns.append(["mean", *map(_mean, documents)])
    measured = {name: [clean(name), *(_cell(document, name) for document in documents)] for name in names}
    keys = ["key", *(clean(str(document["key"])) for document in documents)]
    optional = [name for name in reversed(names[1:]) if name not in COSTS]
    for dropped in ["seconds", *optional, "flops", "params"]:
        if _width([*columns, *measured.values(), keys]) <= width():
            break
        if dropped != objective.metric:
            measured.pop(dropped, None)
    columns += measured.values()
    return [_line(row, [max(map(cells, column)) for column in columns]) for row in _rows(columns, keys)]


class Growing:
    """A table of evaluations, each printed when it is there."""

    def __init__(self) -> None:
        self._head: list[tuple[str, int]] = []
        """The columns and their widths."""

    def add(self, document: Mapping[str, Any]) -> None:
        """Print a line; before the first one, and where other metrics come, also the heads."""
        key = f"{clean(str(document['key'])):<12}"
        if not document.get("metrics"):
            common.show(f"{key}  failed")  # why, and of which seed, has been said
            return
        head = self._columns(document)
        if head != self._head:
            self._head = head
            common.show("  ".join([f"{'key':<12}", *(f"{clean(name):>{size}}" for name, size in head)]))
        row = [key, *(f"{_cell(document, name):>{size}}" for name, size in head)]
        tried = document.get("runs", ())
        failed = sum("error" in run for run in tried)
        common.show("  ".join(row) + (f"  {failed} of {len(tried)} seeds failed" if failed else ""))

    def _columns(self, document: Mapping[str, Any]) -> list[tuple[str, int]]:
        """Columns that fit."""
        found, used = [], 12
        several = len(document.get("runs", ())) > 1
        for name in _names(document):
            size = max(WIDTHS.get(name, SPREAD if several else VALUE), cells(clean(name)))
            used += 2 + size
            if used <= width():
                found.append((name, size))
        return found


def width() -> int:
    """Width of the terminal; elsewhere lines may be as long as they like."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else sys.maxsize


def _names(document: Mapping[str, object]) -> list[str]:
    """Metrics that are worth a column: of accuracies and losses the accuracies, then what it costs."""
    metrics = judged_by(document)
    names = [name for name, value in metrics.items() if _is_number(value)]
    kept = [name for name in names if not (name.endswith("_loss") and f"{name.removesuffix('_loss')}_acc" in names)]
    return [*(name for name in kept if name not in COSTS), *(name for name in COSTS if name in kept)]


def _cell(document: Mapping[str, object], name: str) -> str:
    value = judged_by(document).get(name)
    if not _is_number(value):
        return ""
    if name == "seconds":
        return format_seconds(value)
    spread = document.get("std")
    std = spread.get(name) if isinstance(spread, Mapping) and name not in COSTS else None
    return format_number(value) + (f" ± {std:.4f}" if _is_number(std) else "")


def _mean(document: Mapping[str, Any]) -> str:
    """Of all trainings of one that the final stage trained again."""
    found = document.get("final_stage")
    mean, error, count = map(found.get, ("mean", "error", "trainings")) if isinstance(found, Mapping) else (None,) * 3
    if not _is_number(mean) or not _is_number(count):
        return ""
    return format_number(mean) + (f" ± {error:.2g}" if _is_number(error) else "") + f" of {count:g}"


def _believed(document: Mapping[str, Any]) -> str:
    """What a model expects of the objective without noise."""
    found = document.get("believed")
    mean, std = (found.get("mean"), found.get("std")) if isinstance(found, Mapping) else (None, None)
    return f"{format_number(mean)} ± {std:.2g}" if _is_number(mean) and _is_number(std) else ""


def _is_number(value: object) -> TypeGuard[float]:
    """Whether a value, perhaps of somebody else's line, is a finite number."""
    try:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:
        return False


def _rows(columns: Sequence[Sequence[str]], last: Sequence[str]) -> list[list[str]]:
    return [[*row, end] for *row, end in zip(*columns, last, strict=True)]


def _line(row: Sequence[str], widths: Sequence[int]) -> str:
    """All but the last at the right of their columns."""
    return "  ".join([*(" " * (size - cells(cell)) + cell for cell, size in zip(row, widths, strict=False)), row[-1]])


def _width(columns: Sequence[Sequence[str]]) -> int:
    return sum(2 + max(map(cells, column)) for column in columns) - 2
