"""A table that has been read, and what is known about its architectures."""

from __future__ import annotations

import math
from dataclasses import dataclass
from hashlib import blake2s

import numpy as np

from nastool.analysis.bench.specs import TableSpec
from nastool.core.errors import InputError
from nastool.core.options import changed
from nastool.core.space import SearchSpace
from nastool.core.values import Arch, Proposal, digest

_BEST = 0x62657374
"""Keeps the draws among the best apart from other draws with the same seed."""


@dataclass(frozen=True)
class Facts:
    """Facts about a table that results need.

    id: names its space, its options and its content, wherever the file is. metric: what is optimised, such as
    "val200"; truth: what results are judged by, such as "test200". rows: its architectures; judged: those with a
    true value; optimum, worst: the best and the worst of these, in [0, 1]. mean_seconds: of one training; None: the
    table has no times.
    """

    id: str
    label: str
    file: str
    fingerprint: str
    metric: str
    truth: str
    rows: int
    judged: int
    optimum: float
    worst: float
    mean_seconds: float | None

    def __post_init__(self) -> None:
        if not 0 <= self.worst <= self.optimum <= 1 or not 1 <= self.judged <= self.rows:
            raise ValueError(self)


class Benchmark:
    """One table, read once and used for many runs. InputError: the file says what is wrong with it."""

    def __init__(self, spec: TableSpec) -> None:
        self.spec = spec
        self.table = spec.build()
        self.table.prepare()
        values = self.table.true_values
        self._sorted = np.sort(values[np.isfinite(values)])
        if not len(self._sorted):
            raise InputError(f"{self.table.file}: {self.table.true_metric} has no values to judge results by")
        self.mean_seconds = self.table.estimate(Proposal(self.space.sample(np.random.default_rng(0)))) or None
        self.facts = self._describe()

    @property
    def space(self) -> SearchSpace:
        return self.table.space

    def start(self, seed: int) -> None:
        """Before the run of that seed: the labels' noise is the run's own, unless the table's options fix it."""
        if self.spec.noise_follows and self.table.noise:
            self.table.redraw(seed)

    def rank(self, value: float) -> int:
        """1 + how many architectures of the table are truly better."""
        return 1 + len(self._sorted) - int(np.searchsorted(self._sorted, value, side="right"))

    def best(self, share: float, count: int, seed: int) -> list[Arch]:
        """So many of the truly best share of the table, drawn uniformly, no two equivalent; fewer if there are none."""
        values = self.table.true_values
        order = np.flatnonzero(np.isfinite(values))
        order = order[np.argsort(-values[order], kind="stable")][: math.ceil(share * len(order))]
        found: dict[str, Arch] = {}
        for row in np.random.default_rng([seed, _BEST]).permutation(order):
            if len(found) == count:
                break
            arch = self.space.arch(self.table.choices[row].tolist())
            found.setdefault(self.space.canonical(arch), arch)
        return list(found.values())

    def _describe(self) -> Facts:
        table = self.table
        known = table.describe()
        given = self.spec.options.items()  # without what is not there, which a new option would be in all before it
        own = {key: value for key, value in given if value is not None and key not in table.local_options}
        own |= {"dataset": table.dataset, "metric": known["reward"]}
        own["noise_seed"] = None if not table.noise or self.spec.noise_follows else table.noise_seed
        name = (str(table.space.ref), table.dataset, str(known["reward"]))
        hidden = {
            "dataset": table.dataset,
            "metric": known["reward"],
            "label": "mean",
            "noise": 0.0,
            "noise_seed": None,
        }
        content = blake2s(str(known["fingerprint"]).encode(), digest_size=4)
        content.update(np.ascontiguousarray(table.true_values).data)
        content.update(repr(self.mean_seconds).encode())
        fingerprint = content.hexdigest()
        return Facts(
            id=digest([table.space.ref.canonical_json, own, fingerprint]),
            label=" ".join(filter(None, (*name, *changed(own, hidden)))),
            file=table.file,
            fingerprint=fingerprint,
            metric=str(known["reward"]),
            truth=table.true_metric,
            rows=len(table.true_values),
            judged=len(self._sorted),
            optimum=float(self._sorted[-1]),
            worst=float(self._sorted[0]),
            mean_seconds=self.mean_seconds,
        )
