"""Bayesian optimisation with an exact Gaussian process: Mockus 1975; Rasmussen & Williams 2006."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nastool.core import encodings as encoding
from nastool.core import pareto
from nastool.core.errors import short
from nastool.core.space import SearchSpace
from nastool.core.values import Proposal, Trial
from nastool.learners import regression
from nastool.learners.predictors.acquisition import Acquisition, Floats, hypervolume_improvement, score
from nastool.learners.prior import weighed
from nastool.learners.regression import FIT_POINTS, Features, representatives
from nastool.learners.surrogate import Choices, SurrogateStrategy

if TYPE_CHECKING:
    from nastool.learners.predictors.gaussian_process import Belief, GaussianProcess, View

PARENTS = 10
"""Number of the best that are mutated for candidates."""
REFIT = 1.15
"""The hyper-parameters are fitted anew when there are so many times more results."""
BEYOND = 0.1
"""How far the reference point is from the worst quantile."""


class BayesianOptimisation(SurrogateStrategy):
    """Measures the architecture that a Gaussian process over several encodings expects to improve most on the best.

    - Targets are the normal quantiles of the losses' ranks, so that neither units nor outliers matter.
    - The kernel is a sum over encodings. Their weights, their length scales (of "onehot" one per decision) and the
      noise are those of maximum posterior probability, fitted anew whenever there are 15% more results.
    - In a space of at most 20,000 combinations every architecture is a candidate; in a larger one `candidates`
      are: mutants of the best 10 and, where these are too few, mutants of these.
    - Within a batch, and while workers are measuring, an architecture is taken to turn out exactly as predicted
      (the "kriging believer" of Ginsbourger, Le Riche & Carraro 2010).
    - With more than `max_points` results the process sees that number (and the fit 300): the best half of it and of
      the others an even choice over the ranks. So a proposal's cost is bounded.
    - A failed trial counts as the worst result.
    - Earlier runs are a prior mean, as of `Prior`: the process sees what is left of the targets.
    - With several objectives each has a process of its own, and what is maximised is the expected gain in hypervolume
      of those quantiles; the reference point lies just beyond the worst.
    """

    name = "bo"
    several_objectives = True

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int = 0,
        init: int = 10,
        batch: int = 1,
        acquisition: Acquisition = "ei",
        encodings: str = "auto",
        candidates: int = 300,
        max_points: int = 500,
    ) -> None:
        """Makes a strategy that has measured nothing yet.

        Args:
            init: Number of random architectures at the start, >= 1.
            batch: Number of architectures selected at a time, in [1, 1000].
            acquisition: Function that is maximised with one objective: expected improvement (ei), Thompson sampling
                (its), upper confidence bound (ucb) or probability of improvement (pi).
            encodings: Some of the space's encodings, joined by +; auto: those it recommends, such as onehot+counts.
            candidates: Number of candidates scored in a large space, in [10, 100000].
            max_points: Most results that the process sees, in [10, 5000].
        """
        super().__init__(space, seed=seed, init=init, batch=batch)
        self.encodings = list(encoding.views(space)) if encodings == "auto" else encodings.split("+")
        for kind in self.encodings:
            if kind not in (known := encoding.kinds(space)):
                raise ValueError(f"space {space.name} has no encoding {kind!r}; it has {', '.join(known)}")
        if len(set(self.encodings)) < len(self.encodings):
            raise ValueError(f"need encodings that differ, got {short(encodings)}")
        if not 10 <= candidates <= 100_000:
            raise ValueError(f"need 10 <= candidates <= 100,000, got {candidates}")
        if not 10 <= max_points <= 5000:
            raise ValueError(f"need 10 <= max_points <= 5,000, got {max_points}")
        self.acquisition = acquisition
        self.candidates = candidates
        self.max_points = max_points
        self.theta: list[float] | None = None  # the hyper-parameters, and with how many results they were fitted
        self.fitted = 0
        self.processes: list[GaussianProcess] = []  # one of each objective

    def select(self, count: int) -> list[Proposal]:
        losses = self.all_losses()
        objectives = losses.shape[1]
        pool, features, group = self._pool()
        if not len(pool):
            return []
        targets = np.stack([regression.quantiles(-column) for column in losses.T])
        order = losses[:, 0] if objectives == 1 else pareto.ranks(losses).astype(np.float64)
        processes = self._processes(objectives)
        if self.theta is None or not self.fitted <= len(losses) < REFIT * self.fitted:
            keep = representatives(order, min(self.max_points, FIT_POINTS))
            self._fit(processes, self._encode(self.choices(keep)), [target[keep] for target in targets])
            self.fitted = len(losses)
        keep = representatives(order, self.max_points)
        inputs, targets = self._encode(self.choices(keep)), targets[:, keep]
        running = np.array(list(self.running), dtype=np.intp).reshape(-1, pool.shape[1])
        there = len(running)
        points = [np.concatenate(pair) for pair in zip(self._encode(running), features, strict=True)]
        beliefs = self._predict(processes, inputs, targets, points)
        taken = list(range(there))
        for belief, i in product(beliefs, taken):
            belief.believe(i)
        found: list[Proposal] = []
        left = np.arange(len(pool))
        while len(left) and len(found) < count:
            scores = self._scores(beliefs, targets, taken)[there:]
            chosen = left[np.argmax(scores[left])]
            climb = np.argsort(targets[0], kind="stable")
            first = beliefs[0].mean[there + chosen]
            expected = np.interp(first, targets[0][climb], losses[keep, 0][climb])  # of a quantile
            found.append(self.expecting(self.space.arch(pool[chosen]), expected))
            left = left[group[left] != group[chosen]]
            if len(found) < count:
                taken.append(there + int(chosen))
                for belief in beliefs:
                    belief.believe(taken[-1])
        return found

    def _scores(self, beliefs: Sequence[Belief], targets: NDArray[np.float64], taken: Sequence[int]) -> Floats:
        """How promising each point is, given targets (objectives, n). taken: points that turn out as predicted."""
        if len(beliefs) == 1:
            return score(self.acquisition, beliefs[0].mean, beliefs[0].deviation, targets.max(), self.rng)
        means, deviations = [b.mean for b in beliefs], [b.deviation for b in beliefs]
        measured = np.concatenate([targets.T, np.stack(means, axis=1)[taken]])
        return hypervolume_improvement(means, deviations, measured, targets.min(axis=1) - BEYOND, self.rng)

    # --- the model

    def _encode(self, choices: Choices) -> Features:
        """Vectors of the process; after them for each objective, where there are any, what earlier runs predict."""
        before = [] if self.prior is None else self.prior.predictions(choices)
        return [*regression.encode(self.space, choices, self.encodings), *before]

    def _fit(self, processes: Sequence[GaussianProcess], inputs: Features, targets: Sequence[Floats]) -> None:
        """Fit the hyper-parameters to the targets of each objective, (n,)."""
        views = len(self.encodings)
        for i, (process, target) in enumerate(zip(processes, targets, strict=True)):
            if self.prior is not None:
                target = target - weighed(inputs[views + i], target)(inputs[views + i])
            process.fit(inputs[:views], target, again=self.fitted >= FIT_POINTS)
        self.theta = [each for process in processes for each in process.theta.tolist()]

    def _predict(
        self, processes: Sequence[GaussianProcess], inputs: Features, targets: Floats, points: Features
    ) -> list[Belief]:
        """What is believed of the points: earlier runs' mean, and what the process makes of the rest."""
        views, found = len(self.encodings), []
        for i, (process, target) in enumerate(zip(processes, targets, strict=True)):
            if self.prior is None:
                found.append(process.predict(inputs, target, points))
                continue
            before = weighed(inputs[views + i], target)
            found.append(process.predict(inputs[:views], target - before(inputs[views + i]), points[:views]))
            found[-1].mean += before(points[views + i])
        return found

    def _processes(self, objectives: int) -> list[GaussianProcess]:
        """One of each objective."""
        from nastool.learners.predictors.gaussian_process import GaussianProcess

        while len(self.processes) < objectives:
            self.processes.append(GaussianProcess(self._views))
        return self.processes

    @cached_property
    def _views(self) -> list[View]:
        """Features, scaled by what a fixed sample of the space looks like."""
        return regression.views(self.space, self.encodings)

    # --- candidates

    @cached_property
    def _encoded_members(self) -> Features:
        assert self.members is not None
        return self._encode(self.members.choices)

    def _pool(self) -> tuple[Choices, Features, Choices]:
        """The candidates: option indices (m, decisions), features, and (m,) what equivalent ones share. m may be 0."""
        if self.members is not None:
            left = self.members.unseen(self.seen)
            return self.members.choices[left], [f[left] for f in self._encoded_members], self.members.group[left]
        best = [trial.proposal.arch for trial in self.best_trials(PARENTS)]
        found = self.new_mutants(best, self.candidates, draws=math.ceil(self.candidates / PARENTS))
        choices = np.array([arch.choices for arch in found], dtype=np.intp).reshape(-1, len(self.space.decisions))
        return choices, self._encode(choices), np.arange(len(found))

    # --- resume

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "theta": self.theta, "fitted": self.fitted}

    def load_state_dict(self, state: Mapping[str, Any], trials: Sequence[Trial]) -> None:
        super().load_state_dict(state, trials)
        self.theta, self.fitted = state["theta"], int(state["fitted"])
        if self.theta is not None:
            size = len(self._processes(1)[0].theta)
            theta = np.array(self.theta, dtype=np.float64).reshape(-1, size)
            if not theta.size or not np.isfinite(theta).all():
                raise ValueError("theta does not fit")
            for process, own in zip(self._processes(len(theta)), theta, strict=True):
                process.theta = own
