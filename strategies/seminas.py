"""SemiNAS, semi-supervised neural architecture search: Luo et al., NeurIPS 2020, arXiv 2002.10389."""

from __future__ import annotations

from itertools import islice

import numpy as np

from nastool.core.arrays import Choices
from nastool.core.space import SearchSpace
from nastool.core.values import Arch, Proposal
from nastool.learners.regression import representatives
from nastool.learners.surrogate import SurrogateStrategy

REPEATS = 10
"""How often each measured architecture stands beside one pseudo-labelled."""
LIMITS = {
    "unlabelled": (0, 100_000),
    "epochs": (0, 10_000),
    "joint_epochs": (0, 10_000),
    "hidden": (2, 1000),
    "width": (1, 1000),
    "parents": (1, 10_000),
    "steps": (1, 10_000),
    "max_points": (10, 5000),
}


class SemiNAS(SurrogateStrategy):
    """New architectures are decoded from embeddings that went up the gradient of a predictor; it labels others itself.

    `init` random architectures; then, before each `batch`, an autoencoder with a predictor is trained on all results,
    labels `unlabelled` architectures drawn from the space, and is trained on both. From the `parents` best of both,
    measured or predicted, steps of length 1, 2, 3, ... along the predictor's gradient are decoded greedily, each
    decision among its own options; what is no member, or not new, is left out and costs nothing.

    With `unlabelled=0` it is NAO (Luo et al., NeurIPS 2018), with as many epochs on the results.

    Deviations from the authors' code: no random architecture is rejected by its result (theirs drops those below 90%
    without counting them), values are standardised by the results so far instead of by the whole table, the model is
    trained from new weights each time, of more than `max_points` results on the best half of these and an even choice
    over the ranks of the others, and where the steps find too few, random architectures make up a batch. The defaults
    are for some 200 results; theirs are init=1100, batch=300, unlabelled=10000, epochs=1000 and joint_epochs=500. What
    earlier runs have measured is labelled by their prior mean, as of `Prior`, and stands among the results, once each.
    """

    name = "seminas"

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int = 0,
        init: int = 50,
        batch: int = 50,
        unlabelled: int = 1000,
        epochs: int = 200,
        joint_epochs: int = 100,
        hidden: int = 64,
        width: int = 16,
        learning_rate: float = 0.001,
        parents: int = 100,
        steps: int = 100,
        max_points: int = 300,
    ) -> None:
        """Makes a strategy that has measured nothing yet.

        Args:
            init: Number of random architectures at the start, >= 1.
            batch: Number of architectures measured per training of the model, in [1, 1000].
            unlabelled: Number of architectures drawn from the space that the predictor labels, in [0, 100000].
            epochs: Epochs on the results alone, in [0, 10000].
            joint_epochs: Epochs on the results, each ten times, and the architectures labelled, in [0, 10000].
            hidden: Units of the encoder and of the decoder, in [2, 1000].
            width: Units of the predictor's narrow layer, in [1, 1000].
            learning_rate: Learning rate of the model, in (0, 1].
            parents: Number of the best architectures that steps begin at, in [1, 10000].
            steps: Length of the longest step, in [1, 10000].
            max_points: Most results that the model is trained on, in [10, 5000].
        """
        super().__init__(space, seed=seed, init=init, batch=batch)
        given = (unlabelled, epochs, joint_epochs, hidden, width, parents, steps, max_points)
        for (name, (low, high)), value in zip(LIMITS.items(), given, strict=True):
            if not low <= value <= high:
                raise ValueError(f"need {low:,} <= {name} <= {high:,}, got {value:,}")
        if not 0 < learning_rate <= 1:
            raise ValueError(f"need 0 < learning_rate <= 1, got {learning_rate}")
        self.unlabelled = unlabelled
        self.epochs = epochs
        self.joint_epochs = joint_epochs
        self.hidden = hidden
        self.width = width
        self.learning_rate = learning_rate
        self.parents = parents
        self.steps = steps
        self.max_points = max_points

    def select(self, count: int) -> list[Proposal]:
        import torch

        from nastool.learners.controller import one_thread
        from nastool.learners.predictors.autoencoder import Autoencoder, Tokens

        losses = self.losses()
        keep = representatives(losses, self.max_points)
        center, scale = losses[keep].mean(), losses[keep].std() or 1.0
        labels = torch.from_numpy((center - losses[keep]) / scale).float()
        generator = torch.Generator().manual_seed(int(self.rng.integers(2**63)))
        pool = self._pool()
        tokens = Tokens(self.space.decisions)
        own = self.choices(keep)
        known, taught = tokens.of(own), self._taught()
        if len(taught):
            said = (center + self.before(own, -losses[keep])(taught)) / scale
            known, labels = torch.cat([known, tokens.of(taught)]), torch.cat([labels, torch.from_numpy(said).float()])
        with one_thread():
            model = Autoencoder(tokens, generator, hidden=self.hidden, width=self.width)
            model.fit(known, labels, epochs=self.epochs, learning_rate=self.learning_rate)
            given = torch.cat([known[: len(own)].repeat(REPEATS, 1), known[len(own) :]])
            values = torch.cat([labels[: len(own)].repeat(REPEATS), labels[len(own) :]])
            if len(pool):
                others = tokens.of(pool)
                given, values = torch.cat([given, others]), torch.cat([values, model.predict(others)])
                known, labels = torch.cat([known, others]), torch.cat([labels, values[-len(pool) :]])
            model.fit(given, values, epochs=self.joint_epochs, learning_rate=self.learning_rate)

            best = torch.argsort(labels, descending=True, stable=True)[: self.parents]
            encoded, gradient = model.uphill(known[best])
            found: dict[str, Arch] = {}
            for step in range(1, self.steps + 1):
                self._add(found, tokens.choices(model.moved(encoded, gradient, step)), count)
                if len(found) == count:
                    break
            while len(found) < count:
                arch = self.space.sample_new(self.rng, self.seen | found.keys(), self.space.canonical)
                if arch is None:
                    break
                found[self.space.canonical(arch)] = arch
            if not found:
                return []
            archs = list(found.values())
            predicted = model.predict(tokens.of(np.array([arch.choices for arch in archs]))).tolist()
        return [self.expecting(arch, center - scale * value) for arch, value in zip(archs, predicted, strict=True)]

    def _taught(self) -> Choices:
        """Option indices (m, decisions) of what earlier runs have measured, of more than `max_points` the best."""
        best = [] if self.prior is None else islice(self.prior.best(), self.max_points)
        return np.array([arch.choices for arch in best], dtype=np.intp)

    def _pool(self) -> Choices:
        """Option indices (m, decisions) of new architectures, none equivalent to another; fewer in a small space."""
        found: dict[str, Arch] = {}
        for _ in range(2 * self.unlabelled):
            arch = self.space.sample(self.rng)
            form = self.space.canonical(arch)
            if form not in self.seen:
                found.setdefault(form, arch)
            if len(found) == self.unlabelled:
                break
        return np.array([arch.choices for arch in found.values()], dtype=np.intp)

    def _add(self, found: dict[str, Arch], decoded: Choices, count: int) -> None:
        """Those of what is decoded, (n, decisions), that are members and new, until there are `count`."""
        for choices in dict.fromkeys(map(tuple, decoded.tolist())):
            arch = self.space.arch(choices)
            if len(found) < count and self.space.is_member(arch):
                form = self.space.canonical(arch)
                if form not in self.seen:
                    found.setdefault(form, arch)
