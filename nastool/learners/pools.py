"""Strategies whose trials are a pool that an ensemble is chosen from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from numpy.typing import NDArray

from nastool.core.space import SearchSpace
from nastool.core.strategy import Strategy
from nastool.core.values import Proposal, Trial


class Pool(Strategy):
    """A strategy that makes an ensemble of some of its finished trials; another class says what it proposes."""

    needs = frozenset({"ensemble"})

    def __init__(self, space: SearchSpace, *, seed: int = 0, members: int = 5, **more: Any) -> None:
        """Makes a strategy with an empty pool.

        Args:
            members: Number of networks whose mean is the result, from 1 to 1,000; 1 is an ordinary search.
        """
        super().__init__(space, seed=seed, **more)
        if not 1 <= members <= 1000:
            raise ValueError(f"need 1 <= members <= 1,000, got {members}")
        self.members = members
        self._done: list[int] = []

    def tell(self, trial: Trial) -> None:
        super().tell(trial)  # type: ignore[safe-super]  # of the class that says what is proposed
        if trial.state == "done":
            self._done.append(trial.id)

    def pool(self) -> Sequence[int]:
        return self._done


class RandomDraws(Strategy):
    """Architectures drawn uniformly; with dedup one that is equivalent to an earlier one is drawn again."""

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


def unseen(trial: Trial) -> tuple[NDArray[Any], NDArray[Any]]:
    """What `SeesPredictions.predictions` is before a search sets it. LookupError."""
    raise LookupError(f"nobody has said where the predictions of trial {trial.id} are")
