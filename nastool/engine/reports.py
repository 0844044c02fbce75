"""What running trials report, and trials that a strategy ends for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from nastool.core.costs import NOTE
from nastool.core.strategy import Observing, Strategy
from nastool.core.values import Evaluation, Objective, Trial
from nastool.engine.executors.jobs import Reported
from nastool.engine.store import Store


@dataclass
class Reports:
    """Stores reports, and shows each once to a strategy that observes them.

    What is stored of a trial that still runs has been observed, and the trial went on. So a repetition of it, after a
    kill, is held to what was decided.
    """

    store: Store
    strategy: Strategy
    objective: Objective
    _last: dict[int, int] = field(default_factory=dict)
    """The last step of each trial that was observed."""

    def restore(self) -> None:
        """Show the strategy, before its state is loaded, all that was reported to it."""
        if isinstance(self.strategy, Observing):
            for number, step, metrics in self.store.all_reports():
                self._observe(number, step, metrics)

    def take(self, event: Reported, seconds: float) -> Trial | None:
        """Store a report.

        Args:
            event: Of a trial that has not ended.
            seconds: That the trial has taken.

        Returns:
            The trial where it ends with this; it is to be stored in the transaction that is open then. Else None.
        """
        number = event.job.trial_id
        if not isinstance(self.strategy, Observing):
            self.store.begin()
            self.store.report(number, event.step, event.metrics)
            self.store.commit()
            return None
        if event.step <= self._last.get(number, 0):
            return None
        self.store.begin()
        self.store.report(number, event.step, event.metrics)
        loss = self._observe(number, event.step, event.metrics)
        if loss is None:
            self.store.commit()
            return None
        known = event.job.proposal.notes.get(NOTE)
        metrics = {**(known if isinstance(known, Mapping) else {}), **event.metrics}
        evaluation = Evaluation(metrics, seconds, notes={"last_step": event.step})
        return Trial(number, event.job.proposal, "stopped", evaluation, early=(loss,))

    def _observe(self, number: int, step: int, metrics: Mapping[str, float]) -> float | None:
        """The loss, where the trial ends with it; None: it goes on."""
        assert isinstance(self.strategy, Observing)
        self._last[number] = step
        try:
            loss = self.objective.loss(metrics)
        except ValueError:  # it was not measured
            return None
        return loss if self.strategy.observe(number, step, loss) else None
