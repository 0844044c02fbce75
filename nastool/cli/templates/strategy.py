"""A strategy: mutate the best architecture seen so far, and once in a while draw a new one."""

from nastool.core.space import SearchSpace
from nastool.core.strategy import Strategy
from nastool.core.values import Proposal, Trial


class Greedy(Strategy):
    """Mutates the best architecture seen so far."""

    name = "greedy"

    def __init__(self, space: SearchSpace, *, seed: int = 0, explore: float = 0.1) -> None:
        """Makes a strategy that has measured nothing yet.

        Args:
            explore: Share of trials that are drawn at random, in [0, 1].
        """
        super().__init__(space, seed=seed)
        if not 0 <= explore <= 1:
            raise ValueError(f"need 0 <= explore <= 1, got {explore}")
        self.explore = explore
        self.best: Trial | None = None

    def propose(self) -> Proposal | None:
        if self.best is None or self.rng.random() < self.explore:
            return Proposal(self.space.sample(self.rng))
        return Proposal(self.space.mutate(self.best.proposal.arch, self.rng), parent=self.best.id)

    def tell(self, trial: Trial) -> None:
        if trial.state == "done" and (self.best is None or trial.loss < self.best.loss):
            self.best = trial
