"""BANANAS, Bayesian optimisation with a neural predictor: White, Neiswanger & Savani, AAAI 2021, arXiv 1910.11858."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nastool.core import encodings
from nastool.core.errors import short
from nastool.core.space import SearchSpace
from nastool.core.values import Arch, Proposal
from nastool.learners.predictors import ensemble, trees
from nastool.learners.predictors.acquisition import OfMembers, score_members
from nastool.learners.regression import representatives
from nastool.learners.surrogate import Choices, SurrogateStrategy

FALLBACKS = 4
"""Number of the next best that are mutated, too, where the mutants of the best are used up."""
LIMITS = {"networks": 100, "layers": 100, "width": 1000, "epochs": 10_000}
MAX_WEIGHTS, MAX_EPOCHS = 2_000_000, 100_000
"""Most weights and epochs of all networks together: beyond that, memory or patience runs out."""


class Bananas(SurrogateStrategy):
    """An ensemble of small networks predicts the objective from the paths through an architecture.

    Algorithm 1 with the settings of the authors' code: `init` random architectures; then the ensemble is trained anew
    on all results, `candidates` mutants of the best architecture are scored by independent Thompson sampling, and the
    best `batch` of them are measured. Deviations: the targets are standardised; two candidates are never equivalent
    by the space's canonical form (the authors compare path encodings); a failed trial counts as the worst result.
    By default there are all paths, mutants are the space's own, and expected improvement takes the ensemble's deviation
    as it is; `preset=published` sets `truncate`, `mutation_rate` and `ei_divisor` as in their code. The authors stop at
    150 results; of more than `max_points` the ensemble is trained on so many, the best half of these and of the others
    an even choice over the ranks, so that a proposal's cost is bounded. Earlier runs are a prior mean, as of `Prior`:
    the ensemble is trained on what is left of the results.
    """

    name = "bananas"

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int = 0,
        init: int = 10,
        batch: int = 10,
        encoding: str = "auto",
        truncate: int | None = None,
        networks: int = 5,
        layers: int = 10,
        width: int = 20,
        epochs: int = 150,
        learning_rate: float = 0.01,
        loss: Literal["mae", "mse"] = "mae",
        acquisition: OfMembers = "its",
        candidates: int = 100,
        parents: int = 1,
        mutation_rate: float = 0.0,
        ei_divisor: float = 1.0,
        max_points: int | None = None,
        predictor: Literal["trees"] | None = None,
        pool: Literal["mutation", "random", "both"] | None = None,
        preset: Literal["published"] | None = None,
    ) -> None:
        """Makes a strategy that has measured nothing yet.

        Args:
            init: Number of random architectures at the start, >= 1.
            batch: Number of architectures measured per training of the ensemble, in [1, 1000].
            encoding: One of the space's encodings; auto: path where the space has it, else onehot.
            truncate: Number of entries of the encoding that are kept, the first ones; the authors' code keeps 40 of
                nasbench101's paths (of at most 3 operations) and 30 of nasbench201's (at most 2).
            networks: Size of the ensemble.
            layers: Hidden layers of each network of the ensemble.
            width: Units of each hidden layer of the ensemble.
            epochs: Epochs of a training of the ensemble.
            learning_rate: Learning rate of the ensemble.
            loss: Loss of the ensemble.
            acquisition: Function that candidates maximise: independent Thompson sampling (its), Thompson sampling (ts),
                expected improvement (ei), upper confidence bound (ucb), probability of improvement (pi), the mean of
                the ensemble (mean) or the best that one of its networks predicts (percentile).
            candidates: Number of candidates scored, in [batch, 10000].
            parents: Number of the best architectures that are mutated, >= 1.
            mutation_rate: Probability in (0, 1] that a decision takes another option (0.25 in the authors' code for
                nasbench201); 0: the space's own mutation (in nasbench101 the authors').
            ei_divisor: Divisor of the deviations for ei, in [0.001, 1000] (5 in the authors' code).
            max_points: Most results that the ensemble is trained on, in [10, 5000]; by default 300.
            predictor: trees: extremely randomised trees, which take the place of the networks, whose options then do
                nothing; by default the ensemble of networks.
            pool: Where candidates come from: mutants of the best (mutation), random draws (random) or as many of each
                (both); by default mutation.
            preset: published: truncate, mutation_rate and ei_divisor, where they are at their defaults, are as in the
                authors' code.
        """
        super().__init__(space, seed=seed, init=init, batch=batch)
        if not batch <= candidates <= 10_000:
            raise ValueError(f"need batch <= candidates <= 10,000, got {batch}, {candidates}")
        if preset == "published":
            ei_divisor = 5.0 if ei_divisor == 1 else ei_divisor
            if isinstance(space, encodings.Published):
                truncate = space.paths_kept if truncate is None and encoding in ("auto", "path") else truncate
                mutation_rate = mutation_rate or space.mutation_rate
        if encoding == "auto":
            encoding = "path" if "path" in encodings.kinds(space) else "onehot"
            if encoding == "onehot":
                self.notes = (f"space {space.name} has no path encoding: bananas uses onehot",)
        if encoding not in (known := encodings.kinds(space)):
            raise ValueError(f"space {space.name} has no encoding {encoding!r}; it has {', '.join(known)}")
        if max_points is not None and not 10 <= max_points <= 5000:
            raise ValueError(f"need 10 <= max_points <= 5,000, got {max_points}")
        if truncate is not None and truncate < 1:
            raise ValueError(f"need truncate >= 1, got {truncate}")
        sizes = {"networks": networks, "layers": layers, "width": width, "epochs": epochs}
        for name, value in sizes.items():
            if not 1 <= value <= LIMITS[name]:
                raise ValueError(f"need 1 <= {name} <= {LIMITS[name]:,}, got {short(value)}")
        if networks * layers * width**2 > MAX_WEIGHTS or networks * epochs > MAX_EPOCHS:
            raise ValueError(
                f"need networks x layers x width^2 <= {MAX_WEIGHTS:,} and networks x epochs <= {MAX_EPOCHS:,}, "
                f"got {networks}, {layers}, {width}, {epochs}"
            )
        if parents < 1 or not 0 < learning_rate <= 1:
            raise ValueError(f"need parents >= 1, 0 < learning_rate <= 1, got {parents}, {learning_rate}")
        if not 0 <= mutation_rate <= 1 or not 0.001 <= ei_divisor <= 1000:
            raise ValueError(
                f"need 0 <= mutation_rate <= 1, 0.001 <= ei_divisor <= 1000, got {mutation_rate}, {ei_divisor}"
            )
        self.max_points = max_points or 300
        self.mutation_rate = mutation_rate
        self.ei_divisor = ei_divisor
        self.encoding = encoding
        self.truncate = truncate
        self.acquisition = acquisition
        self.candidates = candidates
        self.parents = parents
        self.networks = networks
        self.layers = layers
        self.width = width
        self.epochs = epochs
        self.learning_rate = learning_rate
        self.loss = loss
        self.predictor = predictor
        self.source = pool or "mutation"

    @np.errstate(over="ignore", invalid="ignore")  # of networks that diverge: NaN comes last in the order
    def select(self, count: int) -> list[Proposal]:
        losses = self.losses()
        keep = representatives(losses, self.max_points)
        own, values = self.choices(keep), -losses[keep]
        before = self.before(own, values)
        predictor = self._fitted(self._encode(own), values - before(own))
        candidates = self._candidates()
        if not candidates:
            return []
        others = np.array([arch.choices for arch in candidates])
        predictions = predictor.predict(self._encode(others)) + before(others)
        mean = predictions.mean(axis=0)
        best = -losses[keep].min()
        scores = score_members(self.acquisition, predictions, best, self.rng, ei_divisor=self.ei_divisor)
        return [self.expecting(candidates[i], -mean[i]) for i in np.argsort(-scores, kind="stable")[:count]]

    def _fitted(self, inputs: NDArray[np.float32], values: NDArray[np.float64]) -> ensemble.Ensemble | trees.Trees:
        """The predictor, trained on inputs (n, d) and values (n,), of which higher are better."""
        if self.predictor == "trees":
            return trees.fit(inputs, values, self.rng)
        return ensemble.fit(
            inputs,
            values,
            self.rng,
            networks=self.networks,
            layers=self.layers,
            width=self.width,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            loss=self.loss,
        )

    def _candidates(self) -> list[Arch]:
        """New mutants of the best `parents` (of the next best, too, where these are used up), random ones, or both."""
        found: list[Arch] = []
        if self.source != "random":
            best = [trial.proposal.arch for trial in self.best_trials(self.parents + FALLBACKS)]
            draws = math.ceil(self.candidates / self.parents)
            found = self.new_mutants(best, self.candidates, draws, self.mutation_rate)
        return found if self.source == "mutation" else found + self._random_ones(found)

    def _random_ones(self, others: list[Arch]) -> list[Arch]:
        """Up to `candidates` new random architectures, no two equivalent, nor one to others."""
        taken = {self.space.canonical(arch) for arch in others} | self.seen
        found: list[Arch] = []
        while len(found) < self.candidates:
            arch = self.space.sample_new(self.rng, taken, self.space.canonical)
            if arch is None:
                break
            taken.add(self.space.canonical(arch))
            found.append(arch)
        return found

    def _encode(self, choices: Choices) -> NDArray[np.float32]:
        return encodings.encode_many(self.space, choices, self.encoding)[:, : self.truncate]
