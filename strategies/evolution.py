"""Regularized (aging) evolution: Real et al., AAAI 2019, arXiv 1802.01548, Algorithm 1."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from nastool.core.strategy import Earlier
from nastool.core.values import Arch, Proposal
from nastool.learners.aging import AgingEvolution
from nastool.learners.prior import Prior


class RegularizedEvolution(AgingEvolution):
    """Tournament selection, one mutation, and the oldest dies.

    Follows Algorithm 1: the population starts with random members; each step draws `tournament` individuals
    with replacement, mutates the best of them, and lets the child replace the oldest. Deviations: a trial that
    failed is no individual; with several workers children are bred while others are still being measured; and
    `dedup` (not in the paper) never spends a trial on an architecture equivalent to an earlier one. With several
    objectives the best of a tournament is one that none in it dominates, the most alone of these (as in nsga2). With
    earlier runs their best are half of the first population, measured anew. With a proxy the first population are the
    best by it, and of two mutants of a parent the better is measured, by what a model of the proxy predicts.
    """

    name = "evolution"
    several_objectives = True
    prior: Prior | None = None

    def inform(self, earlier: Sequence[Earlier]) -> None:
        """As of `Informable`."""
        self.prior, self.random_trials = Prior(self.space, earlier), 0

    def propose(self) -> Proposal | None:
        known = None
        if self.prior is not None and self.asked < self.population:
            known = self.prior.first(self.asked, 2 if self.prior.trained else 1)
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
        return mutants[int(np.argmax(predicted.sum(axis=1)))]
