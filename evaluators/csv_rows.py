"""Looks architectures up that are the rows of a CSV file."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from nastool.core.errors import TrialFailed
from nastool.core.evaluator import Evaluator, Report
from nastool.core.space import SearchSpace
from nastool.core.tables import Rows, goal_of
from nastool.core.values import METRICS, Arch, Evaluation, Proposal, Scalar

SECONDS = ("seconds", "train_time", "training_time", "time")
"""Columns that are what an evaluation cost."""


class CsvLookUp(Evaluator):
    """Looks the metrics of a row up, of a table that was given as the space: --space FILE.csv.

    The objective is the first metric whose name says that it is a result (accuracy, score, ...), by default of the
    validation, else the first metric; more is better of such, less of all others. --objective METRIC:max says it.
    """

    name = "csv-rows"
    needs = frozenset({"rows"})
    provides = frozenset({"simulated"})
    inline = True

    def __init__(self, space: SearchSpace) -> None:
        """Makes an evaluator."""
        super().__init__(space)
        assert isinstance(space, Rows)
        self.rows = space
        self._cost = next((name for name in SECONDS if name in space.metrics), None)
        columns = {name: values.tolist() for name, values in space.metrics.items() if name != self._cost}
        self._columns: dict[str, list[float]] = columns or {name: v.tolist() for name, v in space.metrics.items()}
        self.metrics = frozenset(self._columns)
        first = space.objectives[0] if space.objectives[0] in self._columns else next(iter(self._columns))
        self.objective = first if first in METRICS else f"{first}:{goal_of(first)}"

    def prepare(self) -> None:
        """Nothing is left to do."""

    def describe(self) -> Mapping[str, Scalar]:
        found: dict[str, Scalar] = {
            "rows": self.space.size,
            "decisions": ", ".join(decision.name for decision in self.space.decisions),
            "metrics": ", ".join(self._columns),
        }
        found |= {"cost": self._cost} if self._cost and self._cost not in self._columns else {}
        found |= {"left_out": ", ".join(self.rows.left_out)} if self.rows.left_out else {}
        return found | ({"repeated_rows": self.rows.repeated} if self.rows.repeated else {})

    def evaluate(self, trial_id: int, proposal: Proposal, *, seed: int, report: Report) -> Evaluation:
        if not self.space.is_member(proposal.arch):
            raise TrialFailed("the table has no row of these decisions")
        row = self.rows.row(proposal.arch)
        found = {name: values[row] for name, values in self._columns.items() if math.isfinite(values[row])}
        seconds = 0.0 if self._cost is None else float(self.rows.metrics[self._cost][row])
        return Evaluation(found, seconds if 0 <= seconds < math.inf else 0.0)

    @property
    def known_costs(self) -> frozenset[str]:
        return self.metrics

    def costs_of(self, arch: Arch, names: Collection[str]) -> Mapping[str, float]:
        row = self.rows.row(arch)
        return {name: self._columns[name][row] for name in names if name in self._columns}
