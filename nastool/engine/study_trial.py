"""One trial of a run, as reports, comparisons and the Python interface know it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from nastool.core.errors import Fault
from nastool.core.typed import is_number
from nastool.core.values import Objective, Trial

if TYPE_CHECKING:
    from nastool.core.values import Arch


@dataclass(frozen=True)
class StudyTrial:
    """One trial of a run, with all that its database says of it.

    order: 0, 1, 2, ... in the order in which results came; None: it is still running.
    started, finished: seconds since 1970; finished is None while it runs. attempts: how often it was started, >= 1.
    curve: (step, metrics) of what was reported meanwhile, by step; steps are epochs for trainings.
    """

    trial: Trial
    objectives: tuple[Objective, ...]
    order: int | None
    started: float
    finished: float | None
    attempts: int
    curve: tuple[tuple[int, Mapping[str, float]], ...] = ()

    @property
    def id(self) -> int:
        return self.trial.id

    @property
    def objective(self) -> Objective:
        """The first of `objectives`."""
        return self.objectives[0]

    @property
    def state(self) -> str:
        """ "done", "failed", "stopped" or "running"."""
        return self.trial.state

    @property
    def arch(self) -> Arch:
        return self.trial.proposal.arch

    @property
    def parent(self) -> int | None:
        return self.trial.proposal.parent

    @property
    def metrics(self) -> dict[str, float]:
        """All that was measured, "seconds" included; empty unless it is done."""
        return {} if self.trial.evaluation is None else self.trial.evaluation.all_metrics

    @cached_property
    def value(self) -> float | None:
        """The first objective, in its own unit; None unless it is done."""
        return self.objective.value(self.trial.loss) if self.trial.losses else None

    @property
    def early(self) -> float | None:
        """The same of a trial that was stopped, after as much training as `fidelity` says; else None."""
        return self.objective.value(self.trial.early[0]) if self.trial.early else None

    @property
    def fidelity(self) -> float | None:
        """Epochs of training, those of the trials that it went on from included, of one that was stopped; else None."""
        return self.trial.fidelity

    @property
    def expected(self) -> float | None:
        """What the strategy's model expected of the objective before it was measured; None without a model."""
        loss = self.trial.proposal.notes.get("expected")
        return self.objective.value(loss) if isinstance(loss, int | float) and is_number(loss) else None

    @property
    def frequencies(self) -> Any:
        """How often the policy drew each option of each decision, as shares of 1; None where it does not say.

        As noted, which may be anything: of a round afterwards, of another trial before it.
        """
        noted = self.trial.evaluation if self.is_round else self.trial.proposal
        return None if noted is None else noted.notes.get("frequencies")

    @property
    def seconds(self) -> float:
        """What the evaluation cost; of a trial that failed, how long it took."""
        if self.trial.evaluation is not None:
            return self.trial.evaluation.seconds
        return max(0.0, self.finished - self.started) if self.finished is not None else 0.0

    @property
    def error(self) -> str | None:
        return self.trial.error

    @property
    def fault(self) -> Fault | None:
        """By which kind of fault it failed; None: it did not, or that is not known."""
        return self.trial.fault

    @property
    def is_round(self) -> bool:
        """Whether it trained shared weights and a policy, so that its value is no score of its architecture alone."""
        return self.trial.proposal.policy is not None

    def __repr__(self) -> str:
        shown = "" if self.value is None else f", {self.objective.metric}={self.value:.4f}"
        return f"<trial {self.id}: {self.state}, {self.arch.key}{shown}>"
