"""A tabular benchmark as evaluator: the published training results of every architecture of a space.

The file is a .npz of columns with one row per architecture, or a .json object of one record per architecture.
Which data sets, metrics, fidelities and training seeds it holds is read from the names of its fields:

    [DATASET_]val200_s1      validation accuracy after 200 epochs, training seed 1
    [DATASET_]test200        test accuracy after 200 epochs, mean of the seeds
    [DATASET_]test_acc       test accuracy after the table's only budget
    [DATASET_]train_time200  seconds of training for 200 epochs
    params..., flops, macs..., latency   facts about the network

Which architecture a row is, the space says (`SearchSpace.table_choices`).
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nastool.core import Evaluation, Proposal, Scalar
from nastool.errors import InputError, TrialFailed
from nastool.interfaces import Evaluator, Report, SearchSpace

_FIELD = re.compile(
    r"(?:(?P<dataset>.+?)_)?"
    r"(?:(?P<part>val|valid|test)(?P<epochs>\d*)(?:_acc)?(?:_s(?P<seed>\d+))?"
    r"|(?P<time>train_time)(?P<time_epochs>\d*))"
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


class Table(Evaluator):
    """Looks results up instead of training. Simulated, and so said: `seconds` is what the training took then.

    `val_acc` (or `test_acc`, for metric=test...) is the reward; the test accuracy of the final architecture is
    only looked up at the end. Field conventions are in the module's docstring.
    """

    name = "table"
    needs = frozenset({"table"})
    inline = True
    local_options = frozenset({"file"})

    def __init__(
        self,
        space: SearchSpace,
        *,
        file: str,
        dataset: str | None = None,
        metric: str | None = None,
        label: str = "mean",
    ) -> None:
        """file: the table. dataset: needed where the file holds several.

        metric: a field without its data set, such as val200, val12 or test200; by default the validation
        accuracy of the most epochs, else the test accuracy. label: mean (of the training seeds), random (one of
        them, drawn per trial), or a training seed's number.
        """
        super().__init__(space)
        if label not in ("mean", "random") and not label.isdecimal():
            raise ValueError(f"label must be mean, random or a training seed's number, got {label!r}")
        self.file = file
        self.dataset = dataset
        self.metric = metric
        self.label = label

    # --- reading the file

    def prepare(self) -> None:
        columns = _read_columns(Path(self.file))
        self._rows = self._index(columns)
        fields, times = _discover(columns, len(self._rows), self.file)
        self.dataset = self._choose_dataset(fields)
        own = fields[self.dataset]
        self._reward = self._choose_reward(own)
        self.objective = f"{self._reward.part}_acc"
        same = [f for f in own.values() if f.part == "test" and f.epochs == self._reward.epochs]
        tests = same or sorted((f for f in own.values() if f.part == "test"), key=lambda f: f.epochs or 0)
        self._test = tests[-1] if tests else None
        self._seconds = _training_seconds(times.get(self.dataset, {}), self._reward.epochs)
        self._facts = _network_facts(columns, self.dataset, len(self._rows))
        if self.label.isdecimal() and int(self.label) not in self._reward.seeds:
            have = ", ".join(map(str, self._reward.seeds)) or "none"
            raise InputError(f"{self.file}: no training seed {self.label} of {self._field_name()}; there are {have}")
        if self.label == "random" and not self._reward.seeds:
            raise InputError(f"{self.file}: {self._field_name()} has no single training seeds; use label=mean")
        # Plain lists: a look-up in a numpy array costs more than everything else here.
        self._mean = self._reward.mean.tolist()
        self._by_seed = {seed: values.tolist() for seed, values in self._reward.seeds.items()}

    def describe(self) -> Mapping[str, Scalar]:
        return {
            "table": self.file,
            "dataset": self.dataset or "-",
            "reward": self._field_name(),
            "rows": len(self._rows),
        }

    def _index(self, columns: Mapping[str, NDArray[Any]]) -> dict[tuple[int, ...], int]:
        """Option indices -> row. InputError where a row is no member of the space, or comes twice."""
        try:
            choices = np.asarray(self.space.table_choices(columns))
        except KeyError as error:
            raise InputError(f"{self.file} is no table of space {self.space.name}: it has no {error}") from None
        shape = (len(choices), len(self.space.decisions))
        if choices.shape != shape or choices.dtype.kind not in "iu" or not len(choices):
            raise InputError(
                f"{self.file} is no table of space {self.space.name}: its architectures have shape "
                f"{choices.shape} and type {choices.dtype}, expected integers of shape (rows, {shape[1]})"
            )
        highs = np.array([len(decision.options) for decision in self.space.decisions])
        bad = np.flatnonzero(((choices < 0) | (choices >= highs)).any(axis=1))
        if len(bad):
            raise InputError(f"{self.file}: row {bad[0]} is no member of space {self.space.name}")
        rows = {tuple(row): i for i, row in enumerate(choices.tolist())}
        if len(rows) < len(choices):
            raise InputError(f"{self.file}: {len(choices) - len(rows)} architectures come twice")
        return rows

    def _choose_dataset(self, fields: Mapping[str | None, object]) -> str | None:
        names = sorted(name or "" for name in fields)
        if self.dataset is None:
            if len(names) > 1:
                raise InputError(f"{self.file} holds several data sets: give dataset=... of {', '.join(names)}")
            return names[0] or None
        if self.dataset not in names:
            have = ", ".join(filter(None, names)) or "unnamed ones only: leave dataset out"
            raise InputError(f"{self.file} has no data set {self.dataset!r}; it has {have}")
        return self.dataset

    def _choose_reward(self, own: Mapping[str, Field]) -> Field:
        if self.metric is None:
            return max(own.values(), key=lambda f: (f.part == "val", f.epochs or 0))
        if self.metric not in own:
            raise InputError(f"{self.file} has no metric {self.metric!r}; it has {', '.join(sorted(own))}")
        return own[self.metric]

    def _field_name(self) -> str:
        return f"{self._reward.part}{self._reward.epochs or ''}"

    def estimate(self, proposal: Proposal) -> float | None:
        """The table's mean: simulated seconds of one training."""
        return None if self._seconds is None else float(np.nanmean(self._seconds))

    # --- evaluating

    def evaluate(self, trial_id: int, proposal: Proposal, *, seed: int, report: Report) -> Evaluation:
        row = self._row(proposal)
        value = self._look_up(row, seed)
        metrics = {
            self.objective: value,
            **{name: float(column[row]) for name, column in self._facts.items()},
        }
        return Evaluation(metrics, 0.0 if self._seconds is None else float(self._seconds[row]))

    def test(self, proposal: Proposal, evaluation: Evaluation) -> Mapping[str, float]:
        """The mean test accuracy of that architecture."""
        if self._test is None:
            return {}
        return {"test_acc": float(self._test.mean[self._row(proposal)])}

    def _row(self, proposal: Proposal) -> int:
        row = self._rows.get(proposal.arch.choices)
        if row is None:
            raise TrialFailed(f"the table has no architecture {proposal.arch.choices}")
        return row

    def _look_up(self, row: int, seed: int) -> float:
        if self.label == "mean":
            value = self._mean[row]
        elif self.label == "random":
            there = [values[row] for values in self._by_seed.values() if values[row] == values[row]]
            value = there[seed % len(there)] if there else float("nan")
        else:
            value = self._by_seed[int(self.label)][row]
        if value != value:
            raise TrialFailed(f"the table has no {self._field_name()} for row {row} (label={self.label})")
        return float(value)


def _read_columns(path: Path) -> dict[str, NDArray[Any]]:
    """The file's columns by name. InputError: missing, damaged, of another kind."""
    try:
        if path.suffix == ".json":
            return _json_columns(json.loads(path.read_text(encoding="utf-8")))
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise ValueError("a single array, expected an .npz of several")
        with archive:
            return {name: archive[name] for name in archive.files}
    except OSError as error:
        raise InputError(f"cannot read table {path}: {error.strerror or error}") from None
    except (ValueError, EOFError, RecursionError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        text = " ".join(str(error).split())[:120]
        raise InputError(f"{path} is no readable table (.npz or .json): {text}") from None


def _json_columns(records: Any) -> dict[str, NDArray[Any]]:
    """{"02012100": {"test_acc": [89.4, 88.9], "params": 890666}, ...} as columns; lists become one column a seed."""
    if not isinstance(records, dict) or not records:
        raise ValueError("expected an object with one record per architecture")
    if not all(isinstance(record, dict) for record in records.values()):
        raise ValueError("expected every record to be an object")
    if len({len(key) for key in records}) > 1 or not all(key.isdecimal() and key.isascii() for key in records):
        raise ValueError("expected keys of digits, one per decision")
    columns: dict[str, NDArray[Any]] = {"arch": np.array([[int(c) for c in key] for key in records])}
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


def _discover(
    columns: Mapping[str, NDArray[Any]], rows: int, file: str
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
            found.setdefault((dataset, part, match["epochs"]), {})[seed] = values
    fields: dict[str | None, dict[str, Field]] = {}
    for (dataset, part, epochs), by_seed in found.items():
        with np.errstate(invalid="ignore"):
            percent = max(np.nanmax(v, initial=0.0) for v in by_seed.values()) > 1.5
        scaled = {seed: v / 100 if percent else v for seed, v in by_seed.items()}
        singles = {seed: v for seed, v in sorted(scaled.items(), key=str) if seed is not None}
        mean = scaled.get(None)
        if mean is None:
            mean = _row_means(np.stack(list(singles.values())))
        field = Field(part, int(epochs) if epochs else None, singles, mean)
        fields.setdefault(dataset, {})[f"{part}{epochs}"] = field
    if not fields:
        raise InputError(f"{file} has no accuracies: expected fields such as cifar10_val200, got {', '.join(columns)}")
    return fields, times


def _row_means(seeds: NDArray[np.float64]) -> NDArray[np.float64]:
    """(seeds, rows) -> (rows,): the mean of those that are there, NaN where none is."""
    there = ~np.isnan(seeds)
    total = np.where(there, seeds, 0.0).sum(axis=0)
    count = there.sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _training_seconds(
    times: Mapping[int | None, NDArray[np.float64]], epochs: int | None
) -> NDArray[np.float64] | None:
    """Seconds of a training of so many epochs; from another length in proportion. None: the table has no times."""
    if epochs in times:
        return times[epochs]
    known = [length for length in times if length]
    if not known or epochs is None:
        return next(iter(times.values()), None)
    longest = max(known)
    return times[longest] * (epochs / longest)


def _network_facts(
    columns: Mapping[str, NDArray[Any]], dataset: str | None, rows: int
) -> dict[str, NDArray[np.float64]]:
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
    macs = column("macs32", "flops")  # a table's "flops" are multiply-adds
    if macs is not None:
        facts["flops"] = 2 * macs
    return facts
