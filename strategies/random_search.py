"""Random search: the baseline that every strategy has to beat (Li & Talwalkar, UAI 2019)."""

from __future__ import annotations

from nastool.core import Proposal, Trial
from nastool.interfaces import SearchSpace, Strategy


class RandomSearch(Strategy):
    """Architectures drawn uniformly and independently, or each at most once."""

    name = "random"

    def __init__(self, space: SearchSpace, *, seed: int = 0, replacement: bool = False) -> None:
        """replacement: an architecture may be drawn again; otherwise the search ends when all have been."""
        super().__init__(space, seed=seed)
        self.replacement = replacement
        self.seen: set[tuple[int, ...]] = set()

    def propose(self) -> Proposal | None:
        arch = self.space.sample_new(self.rng, self.seen, lambda arch: arch.choices)
        return None if arch is None else Proposal(arch)

    def remember(self, proposal: Proposal) -> None:
        super().remember(proposal)
        if not self.replacement:
            self.seen.add(proposal.arch.choices)

    def tell(self, trial: Trial) -> None:
        pass
