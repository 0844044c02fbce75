"""NSGA-II, a genetic algorithm for several objectives: Deb, Pratap, Agarwal & Meyarivan, IEEE TEC 2002."""

from __future__ import annotations

import numpy as np

from nastool.core.pareto import ordered
from nastool.core.space import SearchSpace, mutate_each
from nastool.core.strategy import Strategy
from nastool.core.values import Arch, Proposal, Trial


class NSGA2(Strategy):
    """Breeds from the trials that the fewest fronts lie before and, among these, from those that are most alone.

    The population is the best `population` of all trials, by the front they lie in (fast non-dominated sort) and by
    the crowding distance there. A child has one parent or two, each the better of two drawn, takes every decision from
    either, and mutates. A trial that failed is no individual: all others dominate it. Deviations: the population is
    renewed after each trial, not once a generation, so that several workers never wait; and no architecture is
    measured twice. One that computes the same as an earlier one counts as another, since it may cost less. With one
    objective this is a genetic algorithm that keeps its best.
    """

    name = "nsga2"
    several_objectives = True

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int = 0,
        population: int = 10,
        crossover: float = 0.25,
        mutation_rate: float = 0.0,
    ) -> None:
        """Makes a strategy with an empty population.

        A population of 10 was better than 20 to 40 for NAS-Bench-201's CIFAR-100 and the latency of four devices; the
        paper has 100, 0.9 and one by the number of decisions.

        Args:
            population: Number of individuals, in [2, 1000]; as many trials are random at the start.
            crossover: Probability in [0, 1] that a child has two parents.
            mutation_rate: Probability in (0, 1] that a decision of a child takes another option, drawn until one does
                (after 1,000 draws one changes); 0: the space's own mutation, in most spaces of one decision.
        """
        super().__init__(space, seed=seed)
        if not 2 <= population <= 1000:
            raise ValueError(f"need 2 <= population <= 1,000, got {population}")
        if not 0 <= crossover <= 1:
            raise ValueError(f"need 0 <= crossover <= 1, got {crossover}")
        if not 0 <= mutation_rate <= 1:
            raise ValueError(f"need 0 <= mutation_rate <= 1, got {mutation_rate}")
        self.population = self.random_trials = population
        self.crossover = crossover
        self.mutation_rate = mutation_rate
        self.seen: set[tuple[int, ...]] = set()
        self.alive: list[Trial] = []
        """The population, the best first."""

    def propose(self) -> Proposal | None:
        for _ in range(100 if self.asked >= self.population and self.alive else 0):
            parent = self._parent()
            try:
                child = self._mutated(self._crossed(parent.proposal.arch))
            except ValueError:  # it has no neighbors
                continue
            if child.choices not in self.seen:
                return Proposal(child, parent.id)
        arch = self.space.sample_new(self.rng, self.seen, lambda arch: arch.choices)
        return None if arch is None else Proposal(arch)

    def remember(self, proposal: Proposal) -> None:
        super().remember(proposal)
        self.seen.add(proposal.arch.choices)

    def tell(self, trial: Trial) -> None:
        if trial.state == "done":
            self.alive = ordered([*self.alive, trial])[: self.population]

    def _parent(self) -> Trial:
        """The better of two individuals drawn."""
        return self.alive[int(self.rng.integers(len(self.alive), size=2).min())]

    def _crossed(self, arch: Arch) -> Arch:
        """A child of arch and another parent, or arch itself."""
        if self.rng.random() >= self.crossover:
            return arch
        other = self._parent().proposal.arch
        child = self.space.arch(np.where(self.rng.random(len(arch.choices)) < 0.5, arch.choices, other.choices))
        return child if self.space.is_member(child) else arch

    def _mutated(self, arch: Arch) -> Arch:
        """ValueError: it has no neighbors."""
        if self.mutation_rate > 0:
            return mutate_each(self.space, arch, self.rng, self.mutation_rate)
        return self.space.mutate(arch, self.rng)
