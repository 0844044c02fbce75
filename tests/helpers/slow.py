"""An evaluator that takes its time, and may die. Workers import this file, so it imports little."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from nastool.core.evaluator import Evaluator, Report
from nastool.core.space import SearchSpace
from nastool.core.values import Evaluation, Proposal
from nastool.engine.executors.jobs import EvaluatorSpec
from nastool.spaces.nasbench_macro import NasBenchMacro


class Slow(Evaluator):
    """The accuracy is the sum of the choices. Which process evaluates what is written to a file.

    seconds: of each trial. dies: its process dies of this trial, once. room: False: only the first process finds any.
    log: the file; "TRIAL PID PARENT" in each line.
    """

    name = "slow"
    metrics = frozenset({"val_acc"})

    def __init__(
        self, space: SearchSpace, *, log: str, seconds: float = 0.0, dies: int = -1, room: bool = True
    ) -> None:
        super().__init__(space)
        self.log, self.seconds, self.dies, self.room = Path(log), seconds, dies, room

    def prepare(self) -> None:
        if not self.room:
            try:
                self.log.with_suffix(".full").touch(exist_ok=False)
            except FileExistsError:
                raise MemoryError from None

    def evaluate(self, trial_id: int, proposal: Proposal, *, seed: int, report: Report) -> Evaluation:
        with open(self.log, "a", encoding="utf-8") as file:
            file.write(f"{trial_id} {os.getpid()} {os.getppid()}\n")
        if trial_id == self.dies and [line.split()[0] for line in self.lines()].count(str(trial_id)) == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(self.seconds)
        return Evaluation({"val_acc": float(sum(proposal.arch.choices))}, self.seconds)

    def lines(self) -> list[str]:
        return self.log.read_text(encoding="utf-8").splitlines()


@dataclass(frozen=True)
class OfSlow(EvaluatorSpec):
    """A specification of one."""

    def build(self) -> Slow:
        return Slow(NasBenchMacro(), **self.options)
