"""Regularized (aging) evolution: Real et al., AAAI 2019, arXiv 1802.01548, Algorithm 1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nastool.core.strategy import Earlier
from nastool.core.values import Arch, Proposal, Trial
from nastool.learners.aging import AgingEvolution
from nastool.learners.prior import Prior

FEWEST = 8
"""Of fewer results it is not told whether a proxy is right."""


class RegularizedEvolution(AgingEvolution):
    """Tournament selection, one mutation, and the oldest dies.

    Follows Algorithm 1: the population starts with random members; each step draws `tournament` individuals
    with replacement, mutates the best of them, and lets the child replace the oldest. Deviations: a trial that
    failed is no individual; with several workers children are bred while others are still being measured; and
    `dedup` (not in the paper) never spends a trial on an architecture equivalent to an earlier one. With several
    objectives the best of a tournament is one that none in it dominates, the most alone of these (as in nsga2). With
    earlier runs their best are half of the first population, measured anew. With a proxy it is three in four of the
    first 8 that are the best by it, and those after them as long as it agrees with what was measured; and of two
    mutants of a parent that one is measured for which a model of the proxy, with the weight that it has among those
    alive, speaks. Weights are drawn from their posterior, so that a proxy that says nothing here decides nothing.
    """

    name = "evolution"
    several_objectives = True
    prior: Prior | None = None
    followed = 0
    """Number of trials of the first population that a proxy chose."""

    def inform(self, earlier: Sequence[Earlier]) -> None:
        """As of `Informable`."""
        self.prior, self.random_trials = Prior(self.space, earlier), 0

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), **({"followed": self.followed} if self.followed else {})}

    def load_state_dict(self, state: Mapping[str, Any], trials: Sequence[Trial]) -> None:
        self.followed = state.get("followed", 0)
        super().load_state_dict(state, trials)

    def propose(self) -> Proposal | None:
        known = self._known() if self.asked < self.population else None
        if known is None or self.space.canonical(known) in self.seen:
            return super().propose()
        return Proposal(known, inherit=self.inherit)

    def _child(self, parent: Arch) -> Arch | None:
        found = [super()._child(parent)]
        if self.prior is None or self.prior.trained:
            return found[0]
        mutants = list(filter(None, [*found, super()._child(parent)]))
        if len(mutants) < 2:
            return found[0]
        (predicted,) = self.prior.predictions(np.array([arch.choices for arch in mutants], dtype=np.intp))
        return mutants[int(np.argmax(predicted.sum(axis=1) * self._trust(here=True)))]

    def _known(self) -> Arch | None:
        """What is next in the first population by earlier runs or a proxy; None: any member."""
        if self.prior is None or self.prior.trained:
            return None if self.prior is None else self.prior.first(self.asked)
        few = len(self.alive) < FEWEST
        if (self.asked % 4 == 3) if few else (self._trust(here=False) <= 0):
            return None
        self.followed += 1
        return self.prior.first(self.followed - 1, 1)

    def _trust(self, *, here: bool) -> float:
        """As of `Prior.trust`, by those alive."""
        assert self.prior is not None
        choices = np.array([trial.proposal.arch.choices for trial in self.alive], dtype=np.intp)
        return self.prior.trust(choices, np.array([trial.loss for trial in self.alive]), self.rng, here=here)
