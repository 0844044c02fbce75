"""Bayesian optimisation with an exact Gaussian process: Mockus 1975; Rasmussen & Williams 2006."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nastool.core import encodings as encoding
from nastool.core.errors import short
from nastool.core.space import SearchSpace
from nastool.core.values import Proposal, Trial
from nastool.learners.predictors.acquisition import Acquisition, score
from nastool.learners.surrogate import Choices, SurrogateStrategy, representatives

if TYPE_CHECKING:
    from nastool.learners.predictors.gaussian_process import GaussianProcess

Features = list[NDArray[np.float32]]
"""Vectors of n architectures, (n, d), for each encoding."""

PARENTS = 10
"""Number of the best that are mutated for candidates."""
REFIT = 1.15
"""The hyper-parameters are fitted anew when there are so many times more results."""
FIT_POINTS = 300
"""Most results that the fit sees."""


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
    """

    name = "bo"

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
            acquisition: Function that is maximised: expected improvement (ei), Thompson sampling (its), upper
                confidence bound (ucb) or probability of improvement (pi).
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

    def select(self, count: int) -> list[Proposal]:
        pool, features, group = self._pool()
        if not len(pool):
            return []
        losses = self.losses()
        targets = _quantiles(-losses)
        if self.theta is None or len(losses) >= REFIT * self.fitted:
            keep = representatives(losses, min(self.max_points, FIT_POINTS))
            self.process.fit(self._encode(self.choices(keep)), targets[keep])
            self.theta, self.fitted = self.process.theta.tolist(), len(losses)
        keep = representatives(losses, self.max_points)
        inputs, targets = self._encode(self.choices(keep)), targets[keep]
        running = np.array(list(self.running), dtype=np.intp).reshape(-1, pool.shape[1])
        there = len(running)
        points = [np.concatenate(pair) for pair in zip(self._encode(running), features, strict=True)]
        belief = self.process.predict(inputs, targets, points)
        for i in range(there):
            belief.believe(i)
        order = np.argsort(targets, kind="stable")
        found: list[Proposal] = []
        left = np.arange(len(pool))
        while len(left) and len(found) < count:
            scores = score(self.acquisition, belief.mean, belief.deviation, targets.max(), self.rng)[there:]
            chosen = left[np.argmax(scores[left])]
            expected = np.interp(belief.mean[there + chosen], targets[order], losses[keep][order])  # of a quantile
            found.append(self.expecting(self.space.arch(pool[chosen]), expected))
            left = left[group[left] != group[chosen]]
            if len(found) < count:
                belief.believe(there + int(chosen))
        return found

    # --- the model

    def _encode(self, choices: Choices) -> Features:
        return [encoding.encode_many(self.space, choices, kind) for kind in self.encodings]

    @cached_property
    def process(self) -> GaussianProcess:
        """Its features are scaled by what a fixed sample of the space looks like."""
        from nastool.learners.predictors.gaussian_process import GaussianProcess, View

        rng = np.random.default_rng(0)
        sample = self._encode(np.array([self.space.sample(rng).choices for _ in range(500)]))
        options = [len(decision.options) for decision in self.space.decisions]
        groups = {"onehot": np.repeat(np.arange(len(options)), options)}
        views = []
        for kind, features in zip(self.encodings, sample, strict=True):
            views.append(View.of(features, groups.get(kind, np.zeros(features.shape[1], dtype=np.intp))))
        return GaussianProcess(views)

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
            theta = np.array(self.theta, dtype=np.float64)
            if theta.shape != self.process.theta.shape or not np.isfinite(theta).all():
                raise ValueError("theta does not fit")
            self.process.theta = theta


def _quantiles(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The standard normal quantile of each value's rank; equal values share their mean rank."""
    from scipy.special import ndtri

    _, position, counts = np.unique(values, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - counts / 2  # from 0 to n, in the middle of those that share it
    return np.asarray(ndtri(ranks / len(values))[position])
