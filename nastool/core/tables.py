"""Tabular benchmarks: the published training results of every architecture of a space, as a file of columns.

What such a file looks like: `nastool list evaluators table`. Which architecture a row is, the space says
(`Tabular.table_choices`).
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from nastool.core.arrays import Choices, Columns
from nastool.core.errors import InputError, short, why
from nastool.core.files import Limit, read_npz
from nastool.core.values import Arch


@runtime_checkable
class Tabular(Protocol):
    """A space that reads its architectures from columns of its own."""

    def table_choices(self, columns: Columns) -> Choices:
        """Which architecture each row of a published table is: option indices, shape (rows, decisions).

        Args:
            columns: the table file's arrays, by name.

        Raises:
            KeyError: names one that is missing.
            ValueError: what is wrong with them.
        """
        ...


GOOD = r"acc|score|auc|f1|precision|recall|r2|psnr|bleu|reward|throughput"
"""In names of metrics of which more is better."""
METRIC = (
    rf"{GOOD}|loss|err|rmse|mse|mae|ppl|perplexity|latency|_ms$|time|seconds|param|flop|macs|madds|energy|_mj$|memory|_mb$|"
    "^val|^test|^valid"
)
"""In names of metrics."""


def goal_of(metric: str) -> Literal["max", "min"]:
    """Which of more and less is better, by a metric's name."""
    return "max" if re.search(GOOD, metric, re.IGNORECASE) else "min"


@runtime_checkable
class Rows(Protocol):
    """A space whose architectures are the rows of a table with metrics; it provides "rows"."""

    metrics: Mapping[str, NDArray[np.float64]]
    """Name -> a value for each row, NaN where there is none."""
    left_out: list[str]
    """Columns that are neither decisions nor metrics."""
    repeated: int
    """Number of rows that have the decisions of an earlier one."""

    @property
    def objectives(self) -> list[str]:
        """Names of the metrics, those first that a search would be for."""
        ...

    def row(self, arch: Arch) -> int:
        """The number of an architecture's row."""
        ...


_FIELD = re.compile(
    r"(?:(?P<dataset>.+?)_)?"
    r"(?:(?P<part>val|valid|test)(?P<epochs>\d{0,6})"
    r"(?:_acc|_correct_of_(?P<of>[1-9]\d{0,8}))?(?:_s(?P<seed>\d{1,9}))?"
    r"|(?P<time>train_time)(?P<time_epochs>\d{0,6}))"
)


@dataclass(frozen=True)
class Field:
    """One measured quantity of one data set: accuracy in [0, 1] per training seed, and its mean.

    seeds: training seed -> (rows,), NaN where that seed is missing. mean: (rows,), of the seeds there are.
    """

    part: Literal["val", "test"]
    epochs: int | None
    seeds: Mapping[int, NDArray[np.float64]]
    mean: NDArray[np.float64]


def read_columns(path: Path, limit: Limit) -> Columns:
    """The file's columns by name.

    Raises:
        InputError: It is missing, damaged, of another kind, or larger than the limit.
    """
    if os.path.exists(path) and not os.path.isfile(path) and not os.path.isdir(path):
        raise InputError(f"{path} is a device or a pipe: a table must be a file")
    if path.suffix != ".json":
        return read_npz(path, limit=limit)
    try:
        limit.check(str(path), path.stat().st_size)
        return _json_columns(json.loads(path.read_text(encoding="utf-8")))
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"cannot read table {path}: {why(error)}") from None
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        text = " ".join(str(error).split())[:120]
        raise InputError(f"{path} is no readable table (.npz or .json): {text}") from None


def _json_columns(records: object) -> Columns:
    """{"02012100": {"test_acc": [89.4, 88.9], "params": 890666}, ...} as columns; lists become one column a seed."""
    if not isinstance(records, dict) or not records:
        raise ValueError("expected an object with one record per architecture")
    if not all(isinstance(record, dict) for record in records.values()):
        raise ValueError("expected every record to be an object")
    if len({len(key) for key in records}) > 1 or not all(key.isdecimal() and key.isascii() for key in records):
        raise ValueError("expected keys of digits, one per decision")
    columns: Columns = {"arch": np.array([[int(c) for c in key] for key in records])}
    for name, first in next(iter(records.values())).items():
        values = [record.get(name) for record in records.values()]
        if isinstance(first, list):
            array = np.array(values, dtype=float)
            if array.ndim != 2:
                raise ValueError(f"field {name!r} has lists of different lengths")
            columns.update({f"{name}_s{i}": array[:, i] for i in range(array.shape[1])})
        elif not isinstance(first, str):
            columns[name] = np.array(values, dtype=float)
    return columns


def discover(
    columns: Columns, rows: int, file: str
) -> tuple[
    dict[str | None, dict[str, Field]],
    dict[str | None, dict[int | None, NDArray[np.float64]]],
]:
    """data set -> metric -> field, and data set -> epochs -> seconds of training."""
    found: dict[tuple[str | None, Literal["val", "test"], str], dict[int | None, NDArray[np.float64]]] = {}
    times: dict[str | None, dict[int | None, NDArray[np.float64]]] = {}
    for name, column in columns.items():
        match = _FIELD.fullmatch(name)
        if match is None or column.shape != (rows,) or column.dtype.kind not in "iuf":
            continue
        values = column.astype(np.float64)
        dataset = match["dataset"]
        if match["time"]:
            times.setdefault(dataset, {})[int(match["time_epochs"]) if match["time_epochs"] else None] = values
        elif match["part"]:
            part: Literal["val", "test"] = "test" if match["part"] == "test" else "val"
            seed = None if match["seed"] is None else int(match["seed"])
            if match["of"]:
                values /= int(match["of"])
                if (values > 1).any():
                    raise InputError(f"{file}: {name} counts more than there are, such as {column.max()}")
            found.setdefault((dataset, part, match["epochs"]), {})[seed] = values
    fields: dict[str | None, dict[str, Field]] = {}
    for (dataset, part, epochs), by_seed in found.items():
        with np.errstate(invalid="ignore"):
            percent = max(np.nanmax(v, initial=0.0) for v in by_seed.values()) > 1.5
        scaled = {seed: v / 100 if percent else v for seed, v in by_seed.items()}
        for values in scaled.values():
            if ((values < 0) | (values > 1)).any():
                name = "_".join(filter(None, (dataset, f"{part}{epochs}")))
                raise InputError(f"{file}: {name} holds accuracies outside 0 to 100%, such as {_outside(values):g}")
        singles = {seed: v for seed, v in sorted(scaled.items(), key=str) if seed is not None}
        mean = scaled.get(None)
        if mean is None:
            mean = _row_means(np.stack(list(singles.values())))
        field = Field(part, int(epochs) if epochs else None, singles, mean)
        fields.setdefault(dataset, {})[f"{part}{epochs}"] = field
    if not fields:
        for name, column in columns.items():
            if (match := _FIELD.fullmatch(name)) and match["part"]:
                raise InputError(
                    f"{file}: {name} has shape {column.shape} and type {column.dtype}, expected {rows} numbers, "
                    "one per architecture"
                )
        have = short(", ".join(columns), 120)
        raise InputError(f"{file} has no accuracies: expected fields such as cifar10_val200, got {have}")
    return fields, times


def _outside(values: NDArray[np.float64]) -> float:
    """The first value that is no accuracy."""
    return float(values[(values < 0) | (values > 1)][0])


def _row_means(seeds: NDArray[np.float64]) -> NDArray[np.float64]:
    """(seeds, rows) -> (rows,): the mean of those that are there, NaN where none is."""
    there = ~np.isnan(seeds)
    total = np.where(there, seeds, 0.0).sum(axis=0)
    count = there.sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def training_seconds(times: Mapping[int | None, NDArray[np.float64]], epochs: int | None) -> NDArray[np.float64] | None:
    """Seconds of a training of so many epochs; from another length in proportion. None: the table has no times."""
    if epochs in times:
        return times[epochs]
    known = [length for length in times if length]
    if not known or epochs is None:
        return next(iter(times.values()), None)
    longest = max(known)
    return times[longest] * (epochs / longest)


def network_facts(columns: Columns, dataset: str | None, rows: int) -> dict[str, NDArray[np.float64]]:
    """Parameters and FLOPs, under our names and in our units, where the table has them."""

    def column(*names: str) -> NDArray[np.float64] | None:
        there = (columns[name] for name in names if name in columns and columns[name].shape == (rows,))
        return next((values.astype(np.float64) for values in there), None)

    facts = {}
    # NAS-Bench-201 reports millions per data set, wrong for 150 rows, and has an exact count for 10 classes: the
    # data sets differ in the last layer alone, so by the same number for every architecture.
    reported, exact = column(f"{dataset}_params_m", "params_m"), column("params10_formula")
    params = column("params")
    if params is None and reported is not None:
        params = reported * 1e6
        if exact is not None:
            params = exact + np.round(np.nanmedian(params - exact))
    if params is not None:
        facts["params"] = params
    # A table's "flops" are multiply-adds. NAS-Bench-201 has them for 32x32 images and for ImageNet16-120's 16x16.
    macs = column("macs16") if dataset and "16" in dataset else column("macs32", "flops")
    if macs is not None:
        facts["flops"] = 2 * macs
    return facts
