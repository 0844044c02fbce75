"""What strategies with a policy share: rounds in which it learns beside shared weights, then candidates to score."""

from __future__ import annotations

import dataclasses
from typing import Any

from nastool.core.space import SearchSpace
from nastool.core.strategy import Strategy
from nastool.core.values import Arch, Proposal, Trial


class Rounds(Strategy):
    """Asks for a round after the other, in each of which the evaluator trains the policy, then for each candidate.

    A round's trial is the policy's best guess after the round before.
    """

    needs = frozenset({"policy"})
    settings: Any
    """Dataclass of what the policy is made with, among it `candidates`, how many are scored at the end."""

    def __init__(self, space: SearchSpace, *, seed: int = 0) -> None:
        super().__init__(space, seed=seed)
        self.guess: Arch | None = None
        """What looks best so far; None: nothing is known yet."""
        self.rounds = 0
        self.in_round = False
        self.scored = 0
        """How many candidates were asked."""
        self.candidates: list[Arch] | None = None
        """None: the rounds are not over."""

    def planned_trials(self, rounds: int | None) -> int | None:
        return None if rounds is None else rounds + int(self.settings.candidates)

    def propose(self) -> Proposal | None:
        if self.candidates is None:
            if self.in_round:
                return None
            policy = {"round": self.rounds, "options": dataclasses.asdict(self.settings)}
            return Proposal(self.guess or self.space.sample(self.rng), policy=policy)
        return Proposal(self.candidates[self.scored]) if self.scored < len(self.candidates) else None

    def remember(self, proposal: Proposal) -> None:
        super().remember(proposal)
        if proposal.policy is None:
            self.scored += 1
        else:
            self.in_round = True
            self.guess = proposal.arch

    def tell(self, trial: Trial) -> None:
        if trial.proposal.policy is None:
            return
        self.in_round = False
        if trial.evaluation is None or trial.evaluation.learnt is None:
            return  # it failed: the round is tried again
        learnt = trial.evaluation.learnt
        self.rounds += 1
        self.guess = self.space.arch(learnt.best)
        if learnt.candidates is not None:
            self.candidates = list(map(self.space.arch, learnt.candidates))
