"""A tabular benchmark as evaluator: the published training results of every architecture of a space.

`nastool.core.tables` reads the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping
from functools import cached_property
from hashlib import blake2s
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nastool.core.arrays import Columns
from nastool.core.errors import InputError, TrialFailed, hint, short
from nastool.core.evaluator import Evaluator, Report
from nastool.core.files import Limit, path_of
from nastool.core.space import SearchSpace
from nastool.core.tables import Field, Tabular, discover, network_facts, read_columns, training_seconds
from nastool.core.values import Arch, Evaluation, Proposal, Scalar

_NOISE = 0x6E6F697365
"""Keeps the draws of a table's noise apart from a strategy's own, which may have the same seed."""


def whole(value: float) -> int | float:
    """A count as one."""
    return int(value) if value == int(value) else float(value)


class Table(Evaluator):
    """Looks results up instead of training. Simulated, and so said: `seconds` is what the training took then.

    `val_acc` (or `test_acc`, for metric=test...) is the reward; the test accuracy of the final architecture is
    only looked up at the end. An architecture that is no row is looked up by its canonical form.

    The file: a .npz has one row per architecture in each column, a .json one record per architecture. Which data
    sets, metrics, fidelities and training seeds it holds is read from the names of its fields:

        [DATASET_]val200_s1      validation accuracy, 200 epochs, training seed 1
        [DATASET_]test200        test accuracy, 200 epochs, mean of the seeds
        [DATASET_]test_acc       test accuracy, the table's only budget
        [DATASET_]test_correct_of_9984
                                 the same, as how many of 9,984 were correct
        [DATASET_]train_time200  seconds of training for 200 epochs
        params..., flops, macs..., latency
                                 facts about the network

    Further metrics, such as a device's latency, may stand in a file of their own (`beside`), in the same order.

    Which architecture a row is: in a .npz `arch`, the number of the option chosen at each decision, from 0 (rows,
    decisions); for nasbench101 also num_vertices, edge_bits and op_code. In a .json the record's key, a digit for
    each decision; a list in a record has a value for each training seed.

    A smaller fidelity (`Proposal.fidelity`) is the same part's column of as many epochs, mean of the training seeds.
    Those trainings were short ones of their own, so one of more epochs costs all of its seconds, whatever came before.
    """

    name = "table"
    needs = frozenset({"table"})
    inline = True
    provides = frozenset({"simulated", "fidelity"})
    local_options = frozenset({"file", "beside", "max_gigabytes"})

    def __init__(
        self,
        space: SearchSpace,
        *,
        file: str,
        dataset: str | None = None,
        metric: str | None = None,
        label: str = "mean",
        noise: float = 0.0,
        noise_seed: int = 0,
        beside: str | None = None,
        columns: str | None = None,
        max_gigabytes: float = 8.0,
    ) -> None:
        """Makes an evaluator; the table is read in `prepare`.

        Args:
            file: The table, an .npz of columns or a .json of records.
            dataset: Data set whose columns are read, needed where the file holds several.
            metric: A field without its data set, such as val200, val12 or test200; by default the validation accuracy
                of the most epochs, else the test accuracy.
            label: mean (of the training seeds), random (one of them, drawn per trial), or a training seed's number.
            noise: Standard deviation of what is added to the label, one fixed draw from N(0, noise) per architecture;
                in the unit of the accuracies, so 0.002 is 0.2 points; in [0, 1]. The label is not clipped: it may leave
                [0, 1]. Test accuracies stay clean, and labels of a smaller fidelity.
            noise_seed: Seed of these draws, >= 0.
            beside: A second file, an .npz of columns with the same rows in the same order.
            columns: Further columns of either file that become metrics, as NAME=COLUMN,...: of latencies in
                milliseconds latency_ms=1080ti_256. By default all of the file beside, under their own names.
            max_gigabytes: Most memory (10^9 bytes) that the file may unpack to.
        """
        super().__init__(space)
        if not file:
            raise ValueError("file is empty: name the table")
        if label not in ("mean", "random") and not re.fullmatch(r"[0-9]{1,9}", label):
            raise ValueError(f"label must be mean, random or a training seed's number, got {short(label)!r}")
        if not 0 <= noise <= 1:
            raise ValueError(f"need 0 <= noise <= 1 (accuracies are fractions: 0.002 is 0.2 points), got {noise}")
        if noise_seed < 0:
            raise ValueError(f"need noise_seed >= 0, got {noise_seed}")
        self.file = file
        self.dataset = dataset
        self.metric = metric
        self.label = label
        self.noise = noise
        self.noise_seed = noise_seed
        if beside == "" or columns == "":
            raise ValueError("beside and columns: leave out what is empty")
        self.beside = beside
        self.columns = columns
        self.limit = Limit(max_gigabytes)

    # --- reading the file

    def prepare(self) -> None:
        columns = read_columns(path_of(self.file), self.limit)
        self._rows = self._index(columns)
        fields, times = discover(columns, len(self._rows), self.file)
        self.dataset = self._choose_dataset(fields)
        own = fields[self.dataset]
        self._reward = self._choose_reward(own)
        self.objective = f"{self._reward.part}_acc"
        self.metrics = frozenset({self.objective})
        same = [f for f in own.values() if f.part == "test" and f.epochs == self._reward.epochs]
        tests = same or sorted((f for f in own.values() if f.part == "test"), key=lambda f: f.epochs or 0)
        self._test = tests[-1] if tests else None
        seconds = times.get(self.dataset, {})
        self._seconds = training_seconds(seconds, self._reward.epochs)
        whole = self._reward.epochs or 0
        self._shorter: dict[float, tuple[list[float], NDArray[np.float64] | None]] = {
            f.epochs: (f.mean.tolist(), training_seconds(seconds, f.epochs))
            for f in sorted(own.values(), key=lambda f: f.epochs or 0)
            if f.part == self._reward.part and f.epochs and f.epochs < whole
        }
        self.facts = network_facts(columns, self.dataset, len(self._rows))
        further = self._further(columns)
        self.facts |= further
        self.metrics |= self.facts.keys()
        if self.label.isdecimal() and int(self.label) not in self._reward.seeds:
            have = ", ".join(map(str, self._reward.seeds)) or "none"
            raise InputError(f"{self.file}: no training seed {self.label} of {self._field_name()}; there are {have}")
        if self.label == "random" and not self._reward.seeds:
            raise InputError(f"{self.file}: {self._field_name()} has no single training seeds; use label=mean")
        first = np.frombuffer(min(self._rows), dtype=self._choices.dtype)
        digest = blake2s(repr([tuple(first.tolist())]).encode(), digest_size=4)
        for values in (self._reward.mean, *self._reward.seeds.values(), *further.values()):
            digest.update(np.ascontiguousarray(values).data)
        self._fingerprint = digest.hexdigest()
        # Plain lists: a look-up in a numpy array costs more than everything else here.
        self._mean = self._reward.mean.tolist()
        self._by_seed = {seed: values.tolist() for seed, values in self._reward.seeds.items()}
        self.redraw(self.noise_seed)

    def _further(self, own: Columns) -> dict[str, NDArray[np.float64]]:
        """Metrics that the user names, and of the file beside all if none are; with NaN where a value is missing."""
        other = {} if self.beside is None else read_columns(path_of(self.beside), self.limit)
        where = f"{self.file} and {self.beside}" if self.beside else self.file
        pairs = [pair.partition("=") for pair in (self.columns or ",".join(other)).split(",") if pair]
        found: dict[str, NDArray[np.float64]] = {}
        for name, _, column in ((name.strip(), sign, column.strip() or name.strip()) for name, sign, column in pairs):
            values = other.get(column, own.get(column))
            if values is None:
                raise InputError(f"{where}: no column {short(repr(column))}; {hint(column, sorted({*other, *own}))}")
            if values.shape != (len(self._rows),) or values.dtype.kind not in "iuf":
                expected = f"{len(self._rows)} numbers, one per architecture"
                raise InputError(f"{where}: {column} has shape {values.shape} and type {values.dtype}, not {expected}")
            if not name or name in found or name in {self.objective, "seconds"}:
                raise InputError(f"columns={self.columns}: {name or 'a column'} needs a name of its own")
            found[name] = values.astype(np.float64)
        return found

    def redraw(self, noise_seed: int) -> None:
        """Draw the labels' noise with another seed, without reading the file again. Once prepared."""
        self.noise_seed = noise_seed
        rng = np.random.default_rng([noise_seed, _NOISE])
        self._noise = self.noise * rng.standard_normal(len(self._rows)) if self.noise else None

    def describe(self) -> Mapping[str, Scalar]:
        return {
            "table": self.file,
            "dataset": self.dataset or "-",
            "reward": self._field_name(),
            "rows": len(self._rows),
            "fingerprint": self._fingerprint,
            **({"fidelities": self.fidelities} if self._shorter else {}),
        }

    @property
    def fidelities(self) -> str:
        """Epochs of the columns that a label can come from, such as "12, 200", once prepared."""
        return ", ".join(map(str, (*self._shorter, self._reward.epochs)))

    def _index(self, columns: Columns) -> dict[bytes, int]:
        """Option indices -> row. InputError where a row is no member of the space, or comes twice."""
        try:
            own = self.space if isinstance(self.space, Tabular) else None
            choices = np.asarray(columns["arch"] if own is None else own.table_choices(columns))
        except KeyError as error:
            raise InputError(f"{self.file} is no table of space {self.space.name}: it has no {error}") from None
        except ValueError as error:
            raise InputError(f"{self.file} is no table of space {self.space.name}: {error}") from None
        width = len(self.space.decisions)
        if not choices.size:
            raise InputError(f"{self.file} is no table of space {self.space.name}: it has no rows")
        if choices.ndim != 2 or choices.shape[1] != width or choices.dtype.kind not in "iu":
            raise InputError(
                f"{self.file} is no table of space {self.space.name}: its architectures have shape "
                f"{choices.shape} and type {choices.dtype}, expected integers of shape (rows, {width})"
            )
        highs = np.array([len(decision.options) for decision in self.space.decisions])
        bad = np.flatnonzero(((choices < 0) | (choices >= highs)).any(axis=1))
        if len(bad):
            raise InputError(f"{self.file}: row {bad[0]} is no member of space {self.space.name}")
        # Bytes, not tuples: with hundreds of thousands of rows those take seconds and a lot of memory.
        self._choices = np.ascontiguousarray(choices, dtype=np.min_scalar_type(highs.max()))
        packed, length = self._choices.tobytes(), width * self._choices.itemsize
        rows = {packed[i * length : (i + 1) * length]: i for i in range(len(choices))}
        if len(rows) < len(choices):
            raise InputError(f"{self.file}: {len(choices) - len(rows)} architectures come twice")
        return rows

    @cached_property
    def _forms(self) -> dict[str, int]:
        """Canonical form -> the first row that has it."""
        forms = self.space.canonical_many(self._choices)
        return dict(zip(reversed(forms), reversed(range(len(forms))), strict=True))

    def _choose_dataset(self, fields: Mapping[str | None, object]) -> str | None:
        names = sorted(name or "" for name in fields)
        if self.dataset is None:
            if len(names) > 1:
                raise InputError(f"{self.file} holds several data sets: give dataset=... of {', '.join(names)}")
            return names[0] or None
        if not self.dataset or self.dataset not in names:
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
        seconds = self._seconds if proposal.fidelity is None else self._shorter[proposal.fidelity][1]
        if seconds is None or not np.isfinite(seconds).any():
            return None
        return float(np.mean(seconds[np.isfinite(seconds)]))

    # --- evaluating

    def evaluate(self, trial_id: int, proposal: Proposal, *, seed: int, report: Report) -> Evaluation:
        row, times = self._row(proposal.arch), self._seconds
        if proposal.fidelity is not None:
            values, times = self._shorter[proposal.fidelity]
            value = values[row]
            if value != value:
                raise TrialFailed(f"the table has no value of {proposal.fidelity:g} epochs for row {row}")
        else:
            value = self._look_up(row, seed)
            if self._noise is not None:
                value += float(self._noise[row])
        facts = {name: whole(column[row]) for name, column in self.facts.items() if math.isfinite(column[row])}
        seconds = 0.0 if times is None else float(times[row])
        return Evaluation({self.objective: value, **facts}, seconds if 0 <= seconds < math.inf else 0.0)

    def test(self, proposal: Proposal, evaluation: Evaluation) -> Mapping[str, float]:
        """The mean test accuracy of that architecture, where the table has one."""
        if self._test is None:
            return {}
        accuracy = self.true_value(proposal)
        return {"test_acc": accuracy} if math.isfinite(accuracy) else {}

    @property
    def true_metric(self) -> str:
        """What `true_values` are, such as "test200"."""
        field = self._test or self._reward
        return f"{field.part}{field.epochs or ''}"

    @property
    def true_values(self) -> NDArray[np.float64]:
        """What the architectures are worth, free of noise: (rows,), in [0, 1], NaN where missing.

        The mean test accuracy; where the table has none, the mean of the reward.
        """
        return (self._test or self._reward).mean

    @property
    def choices(self) -> NDArray[np.integer[Any]]:
        """The architectures: indices of their options, (rows, decisions)."""
        return self._choices

    def true_value(self, proposal: Proposal) -> float:
        """`true_values` of that architecture."""
        return float(self.true_values[self._row(proposal.arch)])

    def _row(self, arch: Arch) -> int:
        row = self._rows.get(np.array(arch.choices, dtype=self._choices.dtype).tobytes())
        if row is None:
            row = self._forms.get(self.space.canonical(arch))
        if row is None:
            raise TrialFailed(f"the table has no architecture {arch.choices}")
        return row

    @property
    def known_costs(self) -> frozenset[str]:
        return frozenset(self.facts)

    def costs_of(self, arch: Arch, names: Collection[str]) -> Mapping[str, float]:
        row = self._row(arch)
        values = ((name, float(self.facts[name][row])) for name in names if name in self.facts)
        return {name: whole(value) for name, value in values if math.isfinite(value)}

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
