"""Tabular Q-learning: MetaQNN (Baker et al., ICLR 2017, arXiv 1611.02167) and BlockQNN (Zhong et al., CVPR 2018)."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from nastool.core.errors import NastoolError
from nastool.core.space import Ordered, SearchSpace, mattering
from nastool.core.strategy import Strategy
from nastool.core.values import Arch, Proposal, Trial

Step = tuple[tuple[int, ...], int]
"""A state and the option taken there. A state is a decision's number and the choices that it looks back at."""
SCHEDULE = ((1.0, 1500), *((epsilon / 10, 100) for epsilon in (9, 8, 7)), *((e / 10, 150) for e in range(6, 0, -1)))
"""MetaQNN's epsilons, each with how many different networks were trained with it."""
PUBLISHED = sum(count for _, count in SCHEDULE)
OURS: Mapping[str, Any] = {"horizon": 50, "rate": 0.1, "memory": 0, "reward": "rank", "shaped": True}
METAQNN: Mapping[str, Any] = {"horizon": PUBLISHED, "rate": 0.01, "memory": 1, "reward": "value", "shaped": False}
DRAWS = 100
"""After so many walks that lead to nothing new, a random architecture is taken."""


def epsilon(trained: int, horizon: int) -> float:
    """The share of random options after so many architectures, where the schedule takes `horizon` of them."""
    left = trained * PUBLISHED / horizon
    for value, count in SCHEDULE:
        if left < count:
            return value
        left -= count
    return SCHEDULE[-1][0]


class QLearning(Strategy):
    """An agent decides one decision after another; a table says what each option is worth where it stands.

    A state is the decision, what was chosen in its layer or block so far, and what in the `memory` layers or blocks
    before (in spaces without these: of the decisions before). An option is random with probability epsilon, else one of
    the highest value; epsilon falls as published, within `horizon` trials. After each result, `replay` of all results
    so far are drawn, and along each, from the last decision to the first,
    Q(s, u) <- (1 - rate) Q(s, u) + rate (r + discount max Q(s', .)), where r is the reward at the end, and 0 before.

    Deviations from MetaQNN: a layer is several decisions instead of one, states leave out the image's size, and a walk
    to an architecture equivalent to an earlier one, which costs nothing there, is taken again. By default rewards are
    ranks, so that the objective's unit does not matter, and spread over the decisions, a state knows no earlier layer,
    and the schedule and the learning rate are for some 100 trials; `preset=published` takes these back. A failed trial
    counts as the worst result so far.

    Of BlockQNN there are the shaped rewards and the penalty for FLOPs; that for the density of a block is left out,
    since no evaluator measures it, and its early stop is a shorter training (`--epochs`).
    """

    name = "q-learning"

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int = 0,
        horizon: int | None = None,
        rate: float | None = None,
        discount: float = 1.0,
        replay: int = 128,
        initial: float = 0.5,
        memory: int | None = None,
        reward: Literal["rank", "value"] | None = None,
        shaped: bool | None = None,
        flops_weight: float = 0.0,
        preset: Literal["published"] | None = None,
    ) -> None:
        """Makes an agent that has learned nothing yet.

        Args:
            horizon: Number of trials within which epsilon falls from 1 to 0.1, >= 1; by default 50.
            rate: Learning rate, in (0, 1]; by default 0.1.
            discount: What a value counts one decision earlier, in (0, 1].
            replay: Results that are learned from after each one, from 1 to 10,000 (MetaQNN's text has 100).
            initial: Value of what was never tried.
            memory: How many earlier layers, blocks or decisions a state knows, from 0 to 100; by default 0.
            reward: rank: the fraction of all results so far that are worse; value: the result itself, such as an
                accuracy from 0 to 1, or its negative where less is better. By default rank.
            shaped: Spread the reward evenly over all decisions, as BlockQNN does; by default true.
            flops_weight: BlockQNN's penalty: so much times the logarithm of a network's FLOPs off its result.
            preset: published: of what is not given, horizon, rate, memory, reward and shaped are MetaQNN's: 2700, 0.01,
                1, value and false.
        """
        super().__init__(space, seed=seed)
        own = METAQNN if preset == "published" else OURS
        self.horizon: int = own["horizon"] if horizon is None else horizon
        self.rate: float = own["rate"] if rate is None else rate
        memory = own["memory"] if memory is None else memory
        if self.horizon < 1 or not 1 <= replay <= 10_000 or not 0 <= memory <= 100:
            raise ValueError(
                "need horizon >= 1, 1 <= replay <= 10,000 and 0 <= memory <= 100, "
                f"got {self.horizon}, {replay} and {memory}"
            )
        if not 0 < self.rate <= 1 or not 0 < discount <= 1:
            raise ValueError(f"need 0 < rate <= 1 and 0 < discount <= 1, got {self.rate} and {discount}")
        if not (-1e9 <= initial <= 1e9 and 0 <= flops_weight <= 1e9):
            raise ValueError(f"need -1e9 <= initial <= 1e9 and 0 <= flops_weight <= 1e9, got {initial}, {flops_weight}")
        self.seed = seed
        self.discount = discount
        self.replay = replay
        self.initial = initial
        self.reward: str = reward or own["reward"]
        self.shaped: bool = own["shaped"] if shaped is None else shaped
        self.flops_weight = flops_weight
        self.reads = ("flops",) if flops_weight else ()
        self.order = space.policy_order if isinstance(space, Ordered) else tuple(range(len(space.decisions)))
        self.looks_back = looks_back(space, self.order, memory)
        self.values: dict[tuple[int, ...], list[float]] = {}
        self.seen: set[str] = set()
        self.told: list[tuple[list[Step], float | None]] = []  # None: it failed
        self._sorted: list[float] = []  # the results of those that did not

    # --- walks

    def propose(self) -> Proposal | None:
        share = epsilon(self.asked, self.horizon)
        for _ in range(DRAWS):
            arch = self._walk(share)
            if self.space.is_member(arch) and self.space.canonical(arch) not in self.seen:
                return Proposal(arch)
        drawn = self.space.sample_new(self.rng, self.seen, self.space.canonical)
        return None if drawn is None else Proposal(drawn)

    def _walk(self, share: float) -> Arch:
        """What the agent decides, an option in `share` of all cases at random. What does not matter is option 0."""
        choices = np.zeros((1, len(self.order)), dtype=np.intp)
        for i in self.order:
            count = len(self.space.decisions[i].options)
            if count == 1 or not mattering(self.space, choices)[0, i]:
                continue
            values = self.values.get(self._state(i, choices[0].tolist()))
            if values is None or self.rng.random() < share:
                choices[0, i] = self.rng.integers(count)
            else:
                best = np.flatnonzero(np.array(values) == max(values))
                choices[0, i] = best[self.rng.integers(len(best))]
        return self.space.arch(choices[0])

    def _state(self, decision: int, choices: list[int]) -> tuple[int, ...]:
        return (decision, *(choices[i] for i in self.looks_back[decision]))

    def _steps(self, arch: Arch) -> list[Step]:
        """The decisions that led to an architecture, without those that do not matter or have one option."""
        choices = np.array([arch.choices])
        known = np.where(mattering(self.space, choices), choices, 0)[0].tolist()
        there = mattering(self.space, choices)[0] & np.array([len(d.options) > 1 for d in self.space.decisions])
        return [(self._state(i, known), known[i]) for i in self.order if there[i]]

    # --- learning

    def remember(self, proposal: Proposal) -> None:
        super().remember(proposal)
        self.seen.add(self.space.canonical(proposal.arch))

    def tell(self, trial: Trial) -> None:
        result = self._result(trial)
        if result is not None:
            insort(self._sorted, result)
        self.told.append((self._steps(trial.proposal.arch), result))
        rng = np.random.default_rng((self.seed, len(self.told)))  # a restart draws the same
        for i in rng.integers(len(self.told), size=self.replay).tolist():
            steps, result = self.told[i]
            self.learn(steps, self._reward(result))

    def _result(self, trial: Trial) -> float | None:
        """Higher is better; None: it failed."""
        if not trial.losses:
            return None
        if not self.flops_weight:
            return -trial.loss
        assert trial.evaluation is not None
        flops = trial.evaluation.metrics.get("flops", 0.0)
        if flops <= 0:
            raise NastoolError(f"flops_weight: trial {trial.id} has no metric flops")
        return -trial.loss - self.flops_weight * float(np.log(flops))

    def _reward(self, result: float | None) -> float:
        """Of the worst result so far where there is none; 0 where there never was any."""
        if not self._sorted:
            return 0.0
        result = self._sorted[0] if result is None else result
        if self.reward == "value":
            return result
        worse, not_better = bisect_left(self._sorted, result), bisect_right(self._sorted, result)
        return (worse + not_better) / (2 * len(self._sorted))

    def learn(self, steps: list[Step], reward: float) -> None:
        """Update the values along a walk, from its end to its beginning (Baker et al. eq. 3)."""
        after = 0.0
        for number in range(len(steps) - 1, -1, -1):
            state, option = steps[number]
            values = self.values.get(state)
            if values is None:
                values = self.values[state] = [self.initial] * len(self.space.decisions[state[0]].options)
            now = reward / len(steps) if self.shaped else reward if number == len(steps) - 1 else 0.0
            values[option] += self.rate * (now + self.discount * after - values[option])
            after = max(values)


def looks_back(space: SearchSpace, order: tuple[int, ...], memory: int) -> dict[int, tuple[int, ...]]:
    """For each decision those that its state knows: of its own place before it, and all of `memory` places before.

    A decision without a place is a place of its own.
    """
    places: list[tuple[str, list[int]]] = []
    found: dict[int, tuple[int, ...]] = {}
    for i in order:
        place = space.decisions[i].place
        if not place or not places or places[-1][0] != place:
            places.append((place, []))
        found[i] = tuple(j for _, members in places[-1 - memory :] for j in members)
        places[-1][1].append(i)
    return found
