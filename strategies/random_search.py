"""Random search: the baseline that every strategy has to beat (Li & Talwalkar, UAI 2019)."""

from __future__ import annotations

from nastool.core.space import SearchSpace
from nastool.core.strategy import Strategy
from nastool.core.values import Proposal, Trial


class RandomSearch(Strategy):
    """Architectures drawn uniformly; one that is equivalent to an earlier one is drawn again.

    So a trial never repeats another, here as in the strategies that this is the baseline of. `dedup=false` draws
    independently.
    """

    name = "random"
    several_objectives = True

    def __init__(self, space: SearchSpace, *, seed: int = 0, dedup: bool = True) -> None:
        """Makes a strategy.

        Args:
            dedup: Compare canonical forms with all earlier proposals; the search ends when there is no new one.
        """
        super().__init__(space, seed=seed)
        self.dedup = dedup
        self.seen: set[str] = set()

    def propose(self) -> Proposal | None:
        arch = self.space.sample_new(self.rng, self.seen, self.space.canonical)  # without dedup, seen is empty
        return None if arch is None else Proposal(arch)

    def remember(self, proposal: Proposal) -> None:
        super().remember(proposal)
        if self.dedup:
            self.seen.add(self.space.canonical(proposal.arch))

    def tell(self, trial: Trial) -> None:
        pass
