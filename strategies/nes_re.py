"""Neural ensemble search by regularized evolution: NES-RE of Zaidi et al., NeurIPS 2021, arXiv 2006.08573."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nastool.core.space import SearchSpace
from nastool.core.values import Arch, Trial
from nastool.ensembles.metrics import of_labels
from nastool.ensembles.selection import forward
from nastool.learners.aging import AgingEvolution
from nastool.learners.pools import Pool, unseen

IDENTITY = 1 / 3
"""How often a child is its parent, trained with another seed; an input and an operation change as often, where the
space has both, as its own mutation has it."""


class NESRE(Pool, AgingEvolution):
    """The population ages; parents are those that make the best ensemble, and the result is chosen from all trials.

    In each step forward selection takes `members` of the population: it begins with the best network by itself and
    adds, again and again, the one with which the validation NLL of the mean of their probabilities is least. One of
    these, each as likely, is the parent. A child is its parent with another seed, or with another input or operation,
    as often each. In the end the same selection takes the members of the whole pool. The paper has a population of 50,
    10 parents and 400 trials. Deviations: the validation data are as they are (the paper may shift them; `nastool
    ensemble --choose-shift` does so for the members); with dedup no mutant is measured that is equivalent to an earlier
    architecture; a trial that failed is no individual.
    """

    name = "nes-re"

    def __init__(
        self, space: SearchSpace, *, seed: int = 0, members: int = 5, population: int = 20, dedup: bool = True
    ) -> None:
        """Makes a strategy with an empty population.

        Args:
            members: Number of networks whose mean is the result, and of parents to choose from, in [1, population]; 1
                is regularized evolution.
            population: Number of individuals alive, >= 1.
            dedup: Compare canonical forms of mutants with all earlier proposals.
        """
        super().__init__(space, seed=seed, members=members, population=population, dedup=dedup)
        if members > population:
            raise ValueError(f"need members <= population, got {members}, {population}")
        self.predictions: Callable[[Trial], tuple[NDArray[Any], NDArray[Any]]] = unseen
        self._of_label: dict[int, NDArray[Any]] = {}
        """The probability that each living individual gives to the samples' labels, by trial."""
        self._chosen: tuple[list[int], list[Trial]] = [], []

    def chosen(self) -> list[Trial]:
        """The living that make the best ensemble, in the order in which they are taken."""
        alive = [trial.id for trial in self.alive]
        if self._chosen[0] != alive:
            self._of_label = {trial.id: self._label_of(trial) for trial in self.alive}
            known = np.stack([self._of_label[trial_id] for trial_id in alive])[:, :, None]
            taken = forward(known, np.zeros(known.shape[1], np.intp), self.members).members
            self._chosen = alive, [self.alive[place] for place in taken]
        return self._chosen[1]

    def _label_of(self, trial: Trial) -> NDArray[Any]:
        if (found := self._of_label.get(trial.id)) is not None:
            return found
        probabilities, labels = self.predictions(trial)
        return np.asarray(of_labels(probabilities[None], labels)[0])

    def _parent(self) -> Trial:
        if self.members == 1:
            return super()._parent()
        chosen = self.chosen()
        return chosen[int(self.rng.integers(len(chosen)))]

    def _child(self, parent: Arch) -> Arch | None:
        if self.members > 1 and self.rng.random() < IDENTITY:
            return parent
        return super()._child(parent)
