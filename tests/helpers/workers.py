"""Workers on a simulated clock, for strategies whose proposals depend on what has ended by then."""

from __future__ import annotations

import heapq
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass, field

import numpy as np

from nastool.core.strategy import Strategy
from nastool.core.values import Arch, Evaluation, Proposal, Trial


def equal(i: int) -> float:
    return 1.0


def lognormal(i: int) -> float:
    """Standard deviation 1, in logarithms."""
    return float(np.random.default_rng(i).lognormal(sigma=1.0))


@dataclass
class Workers:
    """So many children of a strategy run at a time, each for its time, and the strategy is told in the order they end.

    loss: of an architecture. seconds: how long the child of each id takes. lost: ids of children that fail.
    running: heap of (end, id, proposal). ended: trials in that order. idle, all: seconds of all workers together while
    there was more to ask.
    """

    strategy: Strategy
    count: int
    loss: Callable[[Arch], float]
    seconds: Callable[[int], float] = lognormal
    lost: Collection[int] = ()
    now: float = 0.0
    asked: int = 0
    running: list[tuple[float, int, Proposal]] = field(default_factory=list)
    ended: list[Trial] = field(default_factory=list)
    idle: float = 0.0
    all: float = 0.0

    def search(self, trials: int, events: int | None = None) -> list[Trial]:
        """Until so many have ended. events: of which so many now."""
        last = trials if events is None else min(trials, len(self.ended) + events)
        while len(self.ended) < last:
            while len(self.running) < self.count and self.asked < trials:
                proposal = self.strategy.ask()
                if proposal is None:
                    break
                heapq.heappush(self.running, (self.now + self.seconds(self.asked), self.asked, proposal))
                self.asked += 1
            end, i, proposal = heapq.heappop(self.running)
            if self.asked < trials:
                self.idle += (self.count - 1 - len(self.running)) * (end - self.now)
                self.all += self.count * (end - self.now)
            self.now = end
            self.ended.append(self._outcome(i, proposal))
            self.strategy.tell(self.ended[-1])
        return self.ended

    def _outcome(self, i: int, proposal: Proposal) -> Trial:
        if i in self.lost:
            return Trial(i, proposal, "failed", error="its worker is gone")
        loss = self.loss(proposal.arch)
        return Trial(i, proposal, "done", Evaluation({"val_loss": loss}, 1.0), (loss,))

    @property
    def busy(self) -> float:
        """Share of the workers' time in which they were at work, while there was more to ask."""
        return 1 - self.idle / self.all

    def killed(self, strategy: Strategy) -> Workers:
        """The same search, whose coordinator was killed just now: what is out is begun anew, by a new strategy."""
        state = json.loads(json.dumps(self.strategy.state_dict()))
        out = sorted((i, proposal) for _, i, proposal in self.running)
        strategy.load_state_dict(state, [*self.ended, *(Trial(i, proposal) for i, proposal in out)])
        found = Workers(strategy, self.count, self.loss, self.seconds, self.lost, self.now, self.asked)
        found.ended, found.running = self.ended, self.running  # begun anew they would end later: so it is comparable
        return found
