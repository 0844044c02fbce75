"""Measurements that somebody else makes: a script, a cluster's tool, a laboratory."""

from __future__ import annotations

from typing import ClassVar

from nastool.core.errors import CannotGoOn
from nastool.core.evaluator import Evaluator, Report
from nastool.core.values import Evaluation, Proposal


class External(Evaluator):
    """Results from outside: each proposal is a line of JSON on stdout, each result one on stdin.

    {"trial": 3, "metrics": {"val_acc": 0.9}} or {"trial": 3, "error": "why"}; a line of `nastool eval` is one, too. As
    many are open at a time as there are workers. `nastool ask` and `nastool tell` do the same, one step a process.
    """

    name = "external"
    executor: ClassVar[str] = name

    def prepare(self) -> None:
        pass

    def evaluate(self, trial_id: int, proposal: Proposal, *, seed: int, report: Report) -> Evaluation:
        raise CannotGoOn(
            "evaluator external measures nothing itself: results come by `nastool search` or `nastool tell`"
        )
