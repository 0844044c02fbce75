"""What strategies with a policy share: rounds in which it learns beside shared weights, then candidates to score."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from nastool.core.limits import repaired
from nastool.core.space import SearchSpace
from nastool.core.strategy import Strategy
from nastool.core.values import Arch, Proposal, Trial

if TYPE_CHECKING:
    import torch

MOST_TRIES = 5
"""So often a policy draws anew what is beyond a limit before that is repaired."""


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


def members(
    space: SearchSpace, draw: Callable[[int], Iterable[Any]], count: int, generator: torch.Generator
) -> list[tuple[int, ...]]:
    """Option indices of so many members: what the rules forbid is drawn again; what is beyond a limit, repaired.

    Args:
        space: As the search sees it.
        draw: Draws the option indices of so many architectures.
        count: How many members are wanted.
        generator: Source of the order in which repairs are tried.
    """
    import torch

    found: list[tuple[int, ...]] = []
    for tries in range(1000):
        archs = [space.arch(choices) for choices in draw(count - len(found))]
        if tries == MOST_TRIES:
            archs = repaired(space, archs, seed=int(torch.randint(2**62, (), generator=generator)))
        found += [arch.choices for arch in archs if space.is_member(arch)]
        if len(found) == count:
            return found
    raise ValueError("the policy hardly ever draws a member of this space")
