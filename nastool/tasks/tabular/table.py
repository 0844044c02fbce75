"""Tables as they are read: columns of numbers and of texts, and what of them networks read."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nastool.core.errors import InputError, hint, short, why
from nastool.core.files import Limit

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "-"})
"""Texts that mean that a value is not known, in lower case."""
MOST_CATEGORIES = 100
"""Number of texts of a column that are told apart, the most frequent ones; others count as unknown."""
DELIMITERS = ",;\t|"

Cells = NDArray[Any]
"""Values of a column: float64 with NaN, or texts (dtype object), "" where there is none."""


@dataclass(frozen=True)
class Table:
    """Rows by column.

    Attributes:
        path: Where it is from, for messages.
        columns: Cells by name, in order, as many each.
        lines: Number of the line where each row ends; (): it has no lines.
        note: What was left out of it, in words.
    """

    path: str
    columns: Mapping[str, Cells]
    lines: Sequence[int] = ()
    note: str = ""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def place(self, row: int) -> str:
        """Where a row stands, for messages."""
        return f"{self.path}, line {self.lines[row]}" if self.lines else f"{self.path}, row {row}"

    def without(self, name: str) -> Table:
        """The same without a column."""
        return replace(self, columns={key: cells for key, cells in self.columns.items() if key != name})


def read_csv(path: str, limit: Limit | None = None) -> Table:
    """A CSV file: names of columns in its first line, then rows. InputError names the line and the remedy.

    Values are separated by commas, semicolons (numbers may then have decimal commas), tabs or bars, whichever the first
    line has most of.
    """
    try:
        found = Path(path).stat()
        (limit or Limit()).check(path, found.st_size * 8)  # texts take about that much more
        return _parsed(path, found.st_mtime_ns, found.st_size)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot read {short(Path(path))}: {why(error)}") from None


@lru_cache(maxsize=1)
def _parsed(path: str, changed: int, size: int) -> Table:
    """The table of a file as it is; it is looked at for what is said, and then read. OSError, InputError."""
    content = Path(path).read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise InputError(f"{path}, line {line}: no UTF-8: save it as UTF-8") from None
    head = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=head.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=True)
    try:
        names = [name.strip() for name in next(reader, [])]
        rows, lines = [], []
        for row in reader:
            if row:
                rows.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.line_num}: {error}: write it anew as CSV") from None
    _check_names(path, names)
    for row, line in zip(rows, lines, strict=True):
        if len(row) != len(names):
            raise InputError(f"{path}, line {line}: {len(row)} values, but the first line names {len(names)} columns")
    if not rows:
        raise InputError(f"{path} holds no rows: need the names of the columns in line 1 and rows below")
    columns = {name: _cells([row[i] for row in rows], delimiter == ";") for i, name in enumerate(names) if name}
    unnamed = ", ".join(str(i) for i, name in enumerate(names, 1) if not name)
    table = Table(path, columns, lines, f"left out, as it has no name: column {unnamed}" if unnamed else "")
    for name, cells in columns.items():
        if cells.dtype != object and (bad := np.flatnonzero(np.isinf(cells))).size:
            raise InputError(
                f"{path}, line {lines[bad[0]]}: column {short(name)!r} is infinite: leave it empty instead"
            )
    return table


def _check_names(path: str, names: Sequence[str]) -> None:
    """Raises InputError: these are no names of columns."""
    named = [name for name in names if name]
    if len(named) < 2:
        found = f"found the names of {len(named)} column{'s' * (len(named) != 1)}"
        raise InputError(f"{path}, line 1: {found}: need at least 2, separated by commas")
    if all(_number(name, False) is not None for name in named):
        raise InputError(f"{path}, line 1: holds numbers: put the names of the columns there")
    if twice := [name for name, count in Counter(named).items() if count > 1]:
        raise InputError(f"{path}, line 1: two columns are called {short(twice[0])!r}: give each a name of its own")


def of_matrix(path: str, x: NDArray[Any], names: Sequence[str] | None = None) -> Table:
    """A matrix (N, columns) of numbers or texts. InputError: it is none."""
    if x.ndim != 2 or not x.shape[1] or x.dtype.kind not in "biufUS":
        raise InputError(f"{path}: need numbers or texts of shape (N, columns), got {x.dtype} {x.shape}")
    if names is not None and len(names) != x.shape[1]:
        raise InputError(f"{path}: {x.shape[1]} columns, but {len(names)} names in the array columns")
    if np.issubdtype(x.dtype, np.floating) and np.isinf(x).any():
        row, column = np.argwhere(np.isinf(x))[0]
        raise InputError(f"{path}: row {row}, column {column} is infinite: save NaN for what is missing")
    names = names or [f"x{i}" for i in range(x.shape[1])]
    texts = x.dtype.kind in "US"
    cells = (_cells(column.astype(str).tolist()) if texts else column.astype(np.float64) for column in x.T)
    return Table(path, dict(zip(names, cells, strict=True)))


def _cells(texts: Sequence[str], commas: bool = False) -> Cells:
    """Numbers where all that is known are such, else texts."""
    texts = [text.strip() for text in texts]
    known = [text.lower() not in MISSING for text in texts]
    found = np.full(len(texts), np.nan)
    for i, text in enumerate(texts):
        if known[i]:
            number = _number(text, commas)
            if number is None:
                return np.array([t if k else "" for t, k in zip(texts, known, strict=True)], dtype=object)
            found[i] = number
    return found


def _number(text: str, commas: bool) -> float | None:
    try:
        return float(text.replace(",", ".") if commas else text) if "_" not in text else None
    except ValueError:
        return None


@dataclass(frozen=True)
class Column:
    """A column that networks read: one feature for a number, one for each category, and one for "is missing".

    Attributes:
        name: As the table has it.
        categories: Texts that are told apart; (): it holds numbers.
        missing: Whether a feature says that it is missing, since it was in some training row.
    """

    name: str
    categories: tuple[str, ...] = ()
    missing: bool = False

    @property
    def features(self) -> list[str]:
        """Names of its features."""
        own = [f"{self.name}={each}" for each in self.categories] or [self.name]
        return own + [f"{self.name} is missing"] * self.missing

    @classmethod
    def fitted(cls, name: str, cells: Cells) -> Column | None:
        """The column as training rows have it; None: nothing can be learnt from it."""
        if cells.dtype != object:
            known = ~np.isnan(cells)
            if not known.any() or (known.all() and (cells == cells[0]).all()):
                return None
            return cls(name, (), bool((~known).any()))
        counts = Counter(cells[cells != ""].tolist())
        if not counts or (len(counts) > MOST_CATEGORIES and 2 * len(counts) > len(cells)):
            return None
        frequent = sorted(
            text for text, _ in sorted(counts.items(), key=lambda each: (-each[1], each[0]))[:MOST_CATEGORIES]
        )
        missing = bool((cells == "").any())
        return None if len(frequent) + missing < 2 else cls(name, tuple(frequent), missing)

    def encode(self, cells: Cells) -> NDArray[np.float32]:
        """Its features, (N, features): numbers as they are, NaN where they are missing, and 0 or 1."""
        if self.categories:
            found = [cells == category for category in self.categories]
            absent = cells == ""
        else:
            found, absent = [cells], np.isnan(cells)
        return np.stack([*found, *([absent] if self.missing else [])], 1).astype(np.float32)

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "categories": list(self.categories), "missing": self.missing}

    @classmethod
    def from_json(cls, given: Mapping[str, Any]) -> Column:
        """Raises KeyError or TypeError: it is none."""
        return cls(str(given["name"]), tuple(map(str, given["categories"])), bool(given["missing"]))


def features(columns: Sequence[Column], table: Table) -> NDArray[np.float32]:
    """What networks read of each row, not normalised, (N, features). InputError: a column is not there, or of texts."""
    found = []
    for column in columns:
        if column.name not in table.columns:
            raise InputError(f"{table.path} has no column {column.name!r}; {hint(column.name, table.columns)}")
        cells = table.columns[column.name]
        if cells.dtype == object and not column.categories:
            bad = next(i for i, cell in enumerate(cells) if cell and _number(cell, False) is None)
            raise InputError(f"{table.place(bad)}: {short(column.name)!r} needs a number, got {short(cells[bad])!r}")
        if cells.dtype != object and column.categories:  # categories such as "1", "2", beside texts in training
            cells = np.array(["" if np.isnan(cell) else f"{cell:g}" for cell in cells], dtype=object)
        found.append(column.encode(cells))
    return np.concatenate(found, 1)
