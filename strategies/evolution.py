"""Regularized (aging) evolution: Real et al., AAAI 2019, arXiv 1802.01548, Algorithm 1."""

from __future__ import annotations

from nastool.learners.aging import AgingEvolution


class RegularizedEvolution(AgingEvolution):
    """Tournament selection, one mutation, and the oldest dies.

    Follows Algorithm 1: the population starts with random members; each step draws `tournament` individuals
    with replacement, mutates the best of them, and lets the child replace the oldest. Deviations: a trial that
    failed is no individual; with several workers children are bred while others are still being measured; and
    `dedup` (not in the paper) never spends a trial on an architecture equivalent to an earlier one. With several
    objectives the best of a tournament is one that none in it dominates, the most alone of these (as in nsga2).
    """

    name = "evolution"
    several_objectives = True
