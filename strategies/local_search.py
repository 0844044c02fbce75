"""Local search (hill climbing): White, Nolen & Savani, UAI 2021, arXiv 2005.02960."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

from nastool.core.space import SearchSpace
from nastool.core.strategy import Strategy
from nastool.core.values import Arch, Proposal, Trial


class LocalSearch(Strategy):
    """Measure the neighbors of the current architecture, move to a better one, restart where there is none.

    `improvement="best"` is the paper's Algorithm 1: measure all neighbors, then move to the best of them. "first"
    moves as soon as one is better, which saves queries. Deviations: an architecture equivalent to an
    earlier one is never measured again, and at a local optimum the search starts anew from random architectures.
    With several workers more neighbors are measured than one worker would have before it moved.
    """

    name = "local-search"

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int = 0,
        improvement: Literal["first", "best"] = "first",
        init: int = 10,
    ) -> None:
        """Makes a strategy at the start of its first climb.

        Args:
            improvement: Move to the best of all neighbors (best), or to the first better one (first).
            init: Number of random architectures of which each climb starts at the best, >= 1.
        """
        super().__init__(space, seed=seed)
        if init < 1:
            raise ValueError(f"need init >= 1, got {init}")
        self.seed = seed
        self.improvement = improvement
        self.init = self.random_trials = init
        self.seen: set[str] = set()
        self.out = 0  # trials being measured
        self.starts = init  # random architectures still to be drawn before the climb
        self.center: Trial | None = None  # where the climb is
        self.next: Trial | None = None  # the best result so far that the climb may move to
        self._order: tuple[int, list[Arch]] | None = None

    def propose(self) -> Proposal | None:
        before = self.starts, self.center, self.next
        proposal = self._next()
        if proposal is None:
            self.starts, self.center, self.next = before
        return proposal

    def _next(self) -> Proposal | None:
        if self.starts == 0:
            if self.center is not None:
                arch = self._neighbor(self.center)
                if arch is not None:
                    return Proposal(arch, self.center.id)
            if self.out:
                return None  # its result may be where the climb moves
            if self.next is not None:  # the best start or, with "best", the best neighbor
                self.center, self.next = self.next, None
                return self._next()
            self.center, self.starts = None, self.init
        arch = self.space.sample_new(self.rng, self.seen, self.space.canonical)
        if arch is None:
            return None
        self.starts -= 1
        return Proposal(arch)

    def _neighbor(self, center: Trial) -> Arch | None:
        """The next neighbor not measured yet, in an order that follows from the seed and the center alone."""
        if self._order is None or self._order[0] != center.id:
            neighbors = list(self.space.neighbors(center.proposal.arch))
            order = np.random.default_rng((self.seed, center.id)).permutation(len(neighbors))
            self._order = center.id, [neighbors[i] for i in order[::-1]]
        left = self._order[1]
        while left:
            arch = left.pop()
            if self.space.canonical(arch) not in self.seen:
                return arch
        return None

    def remember(self, proposal: Proposal) -> None:
        super().remember(proposal)
        self.seen.add(self.space.canonical(proposal.arch))
        self.out += 1

    def tell(self, trial: Trial) -> None:
        self.out -= 1
        if trial.state != "done":
            return
        if trial.loss < min(self._loss(self.center), self._loss(self.next)):
            if self.center is not None and self.improvement == "first":
                self.center = trial
            else:
                self.next = trial

    @staticmethod
    def _loss(trial: Trial | None) -> float:
        return np.inf if trial is None else trial.loss

    def state_dict(self) -> dict[str, Any]:
        ids = {name: trial and trial.id for name, trial in (("center", self.center), ("next", self.next))}
        return {**super().state_dict(), "starts": self.starts, **ids}

    def load_state_dict(self, state: Mapping[str, Any], trials: Sequence[Trial]) -> None:
        by_id = {trial.id: trial for trial in trials}
        for trial in trials:
            self.remember(trial.proposal)
            self.out -= trial.state != "running"
        self.starts = int(state["starts"])
        if not 0 <= self.starts <= self.init:
            raise ValueError(f"starts is {self.starts}")
        self.center, self.next = by_id.get(state["center"]), by_id.get(state["next"])
        self.rng.bit_generator.state = state["rng"]
