"""A population that ages: the loop of regularized evolution, whoever it chooses as parents."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence

from nastool.core.limits import limits_of
from nastool.core.pareto import ordered
from nastool.core.space import SearchSpace, mutate_each
from nastool.core.strategy import Strategy
from nastool.core.values import Arch, Proposal, Trial


class AgingEvolution(Strategy):
    """A population of so many at most, whose oldest dies; each child is a mutant of a parent that is chosen.

    Algorithm 1 of Real et al., AAAI 2019, arXiv 1802.01548. A subclass may choose parents and make children otherwise.
    """

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int = 0,
        population: int = 20,
        tournament: int | None = None,
        mutation_rate: float = 0.0,
        dedup: bool = True,
        redraws: int | None = None,
        inherit: bool = False,
    ) -> None:
        """Makes a strategy with an empty population.

        The defaults were best on NAS-Bench-Macro and NAS-Bench-201's CIFAR-10; the paper has 100 and 25.

        Args:
            population: Number of individuals alive, >= 1.
            tournament: Number of draws to find a parent, in [1, population]; none: as many as individuals.
            mutation_rate: Probability in (0, 1] that a decision takes another option, drawn until one does (after 1,000
                draws one changes); 0: the space's own mutation, in most spaces of one decision, an input or an
                operation alike often (the paper's, without its identity).
            dedup: Compare canonical forms with all earlier proposals.
            redraws: How often, in [0, 1000], another mutant of the same parent is drawn for one that dedup knows, and
                only then that one is mutated on; none: 20 within limits, else 0, as was published. 20 is better without
                limits, too (on NAS-Bench-101 a regret of .37 instead of .44 points after 300 queries).
            inherit: A child's training begins with its parent's weights, wherever the space says that they fit (Real et
                al., ICML 2017, weight inheritance), not from scratch.
        """
        super().__init__(space, seed=seed)
        if tournament is None:
            tournament = population
        if not 1 <= tournament <= population <= 1_000_000:
            raise ValueError(f"need 1 <= tournament <= population <= 1,000,000, got {tournament}, {population}")
        if not 0 <= mutation_rate <= 1:
            raise ValueError(f"need 0 <= mutation_rate <= 1, got {mutation_rate}")
        if redraws is not None and not 0 <= redraws <= 1000:
            raise ValueError(f"need 0 <= redraws <= 1,000, got {redraws}")
        self.population = self.random_trials = population
        self.tournament = tournament
        self.mutation_rate = mutation_rate
        self.dedup = dedup
        self.redraws = (0 if limits_of(space) is None else 20) if redraws is None else redraws
        self.inherit = inherit
        if inherit:
            self.needs = frozenset({"warm-start"})
        self.seen: set[str] = set()
        self.alive: deque[Trial] = deque(maxlen=population)  # a full deque drops its oldest

    def propose(self) -> Proposal | None:
        if self.asked < self.population or not self.alive:
            arch, parent = self._random(), None
        else:
            best = self._parent()
            arch, parent = self._child(best.proposal.arch), best.id
        return None if arch is None else Proposal(arch, parent, inherit=self.inherit)

    def wanted(self) -> Collection[int]:
        return [trial.id for trial in self.alive] if self.inherit else ()

    def remember(self, proposal: Proposal) -> None:
        super().remember(proposal)
        if self.dedup:
            self.seen.add(self.space.canonical(proposal.arch))

    def tell(self, trial: Trial) -> None:
        if trial.state == "done":
            self.alive.append(trial)

    def _parent(self) -> Trial:
        """The best of a tournament."""
        draws: list[int] = self.rng.integers(len(self.alive), size=self.tournament).tolist()
        return self._best([self.alive[i] for i in draws])

    @staticmethod
    def _best(drawn: Sequence[Trial]) -> Trial:
        if len(drawn[0].losses) == 1:
            return min(drawn, key=lambda trial: trial.loss)
        return ordered(list({trial.id: trial for trial in drawn}.values()))[0]

    def _random(self) -> Arch | None:
        return self.space.sample_new(self.rng, self.seen, self.space.canonical)

    def _child(self, parent: Arch) -> Arch | None:
        """A mutant of parent; with dedup, drawn again, and then mutated on, until it is new."""
        child = parent
        for draw in range(self.redraws + 100):
            mutant = self._mutate(parent if draw <= self.redraws else child)
            if mutant is None:
                break
            child = mutant
            if not self.dedup or self.space.canonical(child) not in self.seen:
                return child
        return self._random()

    def _mutate(self, arch: Arch) -> Arch | None:
        """None: arch has no neighbors."""
        try:
            if self.mutation_rate > 0:
                return mutate_each(self.space, arch, self.rng, self.mutation_rate)
            return self.space.mutate(arch, self.rng)
        except ValueError:
            return None
