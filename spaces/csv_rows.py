"""A table of decisions and metrics as a space: its rows are the architectures."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import numpy as np
from numpy.typing import NDArray

from nastool.core.errors import InputError, InvalidArchError, hint, short
from nastool.core.space import Choose, SearchSpace
from nastool.core.tables import METRIC, goal_of
from nastool.core.values import Arch, Decision, SpaceRef
from nastool.tasks.tabular.table import Cells, Table, read_csv

MOST_OPTIONS = 50
"""A column of numbers that has more different ones is no decision, unless the user says so."""


class CsvRows(SearchSpace):
    """A CSV file of decisions and metrics, searched with --space FILE.csv: its rows are the architectures.

    What columns are is guessed by their names and values: texts and numbers that come again and again are decisions,
    numbers named as one calls results (accuracy, loss, latency, params, ...) and those that differ from row to row are
    metrics; what counts the rows or never changes is left out. The evaluator csv-rows says what was guessed.
    """

    provides = frozenset({"rows"})
    path: ClassVar[Path]
    """The file that the space is named by."""

    @dataclass(frozen=True)
    class Scale:
        """Rows have no networks."""

    def __init__(self, *, decisions: str | None = None, metrics: str | None = None) -> None:
        """Makes a space.

        Args:
            decisions: Names of the columns that are decisions, with commas between, instead of those guessed.
            metrics: Names of the columns that are metrics, instead of those guessed.
        """
        table = _read(self.path)
        named = _named(table, "decisions", decisions), _named(table, "metrics", metrics)
        self.metric_names, chosen = _parts(table, *named)
        if not chosen or not self.metric_names:
            what = "decisions" if not chosen else "metrics"
            raise InputError(f"{self.path}: no column seems to be one of {what}: name them, -P {what}=COLUMN,...")
        self.left_out = [name for name in table.columns if name not in (*chosen, *self.metric_names)]
        options = [_options(table.columns[name]) for name in chosen]
        super().__init__([Decision(name, tuple(names)) for name, (names, _) in zip(chosen, options, strict=True)])
        self.ref = SpaceRef.of(self.name, {"decisions": decisions, "metrics": metrics})
        choices = np.stack([numbers for _, numbers in options], axis=1)
        unique, first, row = np.unique(choices, axis=0, return_index=True, return_inverse=True)
        order = np.argsort(first)
        self.repeated = len(choices) - len(unique)
        self._choices = unique[order]
        self._row = {tuple(each): i for i, each in enumerate(self._choices.tolist())}
        place = np.empty(len(unique), dtype=np.intp)
        place[order] = np.arange(len(unique))
        where = place[row.reshape(-1)]
        self.metrics = {name: _means(table, name, where, len(unique)) for name in self.metric_names}
        """Of each row of its own; several with the same decisions are one, with the means."""

    @property
    def objectives(self) -> list[str]:
        names = list(self.metrics)
        return sorted(names, key=lambda name: (goal_of(name) != "max", "val" not in name.lower()))

    @property
    def size(self) -> int:
        """Number of rows of their own."""
        return len(self._choices)

    def row(self, arch: Arch) -> int:
        """The number of an architecture's row. InvalidArchError: it has none."""
        try:
            return self._row[arch.choices]
        except KeyError:
            raise InvalidArchError(f"{self.path} has no row of these decisions") from None

    def validate(self, arch: Arch) -> None:
        super().validate(arch)
        self.row(arch)

    def is_member(self, arch: Arch) -> bool:
        return arch.choices in self._row and arch.space == self.ref

    def sample(self, rng: np.random.Generator) -> Arch:
        return self.arch(self._choices[int(rng.integers(len(self._choices)))])

    def members(self) -> Iterator[Arch]:
        return map(self.arch, self._choices)

    def mutate(self, arch: Arch, rng: np.random.Generator) -> Arch:
        """A row that differs in one decision; where there is none, one of those that differ in the fewest."""
        others = list(self.neighbors(arch))
        if others:
            return others[int(rng.integers(len(others)))]
        differing = (self._choices != np.array(arch.choices)).sum(axis=1)
        if not differing.any():
            raise ValueError(f"{self.path} has one row alone")
        near = np.flatnonzero(differing == differing[differing > 0].min())
        return self.arch(self._choices[int(rng.choice(near))])

    def network(self, choose: Choose, task: Any, scale: Any) -> NoReturn:
        raise InputError(f"{self.path}: rows of a table have no networks")


@cache
def _read(path: Path) -> Table:
    return read_csv(str(path))


def _named(table: Table, what: str, given: str | None) -> list[str] | None:
    if given is None:
        return None
    names = [name.strip() for name in given.split(",") if name.strip()]
    for name in names:
        if name not in table.columns:
            raise InputError(
                f"{table.path}, line 1: no column {short(repr(name))} for {what}; {hint(name, table.columns)}"
            )
        if what == "metrics" and table.columns[name].dtype == object:
            raise InputError(f"{table.path}: metric {name!r} holds texts: a metric is a column of numbers")
    return names


def _parts(table: Table, decisions: list[str] | None, metrics: list[str] | None) -> tuple[list[str], list[str]]:
    """Metrics and decisions: those that are named, the others as guessed."""
    found: dict[str, list[str]] = {"metric": [], "decision": [], "": []}
    for name, cells in table.columns.items():
        if name not in (decisions or ()) and name not in (metrics or ()):
            found[_guess(name, cells)].append(name)
    return found["metric"] if metrics is None else metrics, found["decision"] if decisions is None else decisions


def _guess(name: str, cells: Cells) -> str:
    """What a column seems to be: "metric", "decision", or "" for neither."""
    texts = cells.dtype == object
    different = len(set(cells.tolist())) if texts else len(np.unique(cells))
    if different < 2:
        return ""
    if texts:
        return "decision" if different <= max(2, len(cells) // 2) else ""
    if re.search(METRIC, name, re.IGNORECASE):
        return "metric"
    if different <= min(MOST_OPTIONS, max(2, len(cells) // 2)):
        return "decision"
    counts = different == len(cells) and bool((np.sort(cells) == np.arange(len(cells)) + cells.min()).all())
    return "" if counts else "metric"


def _options(cells: Cells) -> tuple[list[str], NDArray[np.intp]]:
    """Names of a decision's options, in order, and each row's number."""
    values, numbers = np.unique(cells.astype(str) if cells.dtype == object else cells, return_inverse=True)
    names = [f"{value:g}" if isinstance(value, float) else str(value) for value in values.tolist()]
    if len(set(names)) < len(names):
        names = [repr(value) for value in values.tolist()]
    return ["none" if name in ("", "nan") else name for name in names], numbers.reshape(-1)


def _means(table: Table, name: str, where: NDArray[np.intp], rows: int) -> NDArray[np.float64]:
    values = table.columns[name].astype(np.float64)
    known = ~np.isnan(values)
    counts = np.bincount(where[known], minlength=rows)
    with np.errstate(invalid="ignore"):
        found: NDArray[np.float64] = np.bincount(where[known], values[known], minlength=rows) / counts
    return found
