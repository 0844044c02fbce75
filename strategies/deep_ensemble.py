"""Deep ensembles of one architecture: Lakshminarayanan, Pritzel & Blundell, NIPS 2017, arXiv 1612.01474."""

from __future__ import annotations

from collections.abc import Sequence

from nastool.core.space import SearchSpace
from nastool.core.values import Proposal, Trial
from nastool.learners.pools import Pool, RandomDraws


class DeepEnsemble(Pool, RandomDraws):
    """The best of a pool of random architectures, trained again with other seeds; all these networks are averaged.

    DeepEns (RS) of Zaidi et al., NeurIPS 2021, which neural ensemble search is measured against. The pool is part of
    the search, so its cost is charged; a trial that failed is made up for by another.
    """

    name = "deep-ensemble"

    def __init__(
        self, space: SearchSpace, *, seed: int = 0, members: int = 5, pool: int = 20, dedup: bool = True
    ) -> None:
        """Makes a strategy with an empty pool.

        Args:
            members: Number of networks whose mean is the result, from 1 to 1,000; 1 is random search.
            pool: Number of random architectures, >= 1.
            dedup: Compare canonical forms with all earlier proposals.
        """
        super().__init__(space, seed=seed, members=members, dedup=dedup)
        if pool < 1:
            raise ValueError(f"need pool >= 1, got {pool}")
        self.size = self.random_trials = pool
        self.best: Trial | None = None
        self._out = 0
        """Trials of the pool that are being measured."""
        self._copies: list[int] = []
        self._copying = 0

    def planned_trials(self, rounds: int | None) -> int:
        return self.size + self.members - 1

    def propose(self) -> Proposal | None:
        if len(self._done) + self._out < self.size and (proposal := super().propose()) is not None:
            return proposal
        if self._out or self.best is None or len(self._copies) + self._copying >= self.members - 1:
            return None
        return Proposal(self.best.proposal.arch, self.best.id)

    def remember(self, proposal: Proposal) -> None:
        super().remember(proposal)
        self._out += proposal.parent is None
        self._copying += proposal.parent is not None

    def tell(self, trial: Trial) -> None:
        if trial.proposal.parent is not None:
            self._copying -= 1
            if trial.state == "done":
                self._copies.append(trial.id)
            return
        super().tell(trial)
        self._out -= 1
        if trial.state == "done" and (self.best is None or trial.rank < self.best.rank):
            self.best = trial

    def pool(self) -> Sequence[int]:
        """The best so far, and once its copies are trained these, too: which that is changes with the pool alone."""
        return [*([self.best.id] if self.best is not None else []), *self._copies]
