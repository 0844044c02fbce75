"""What earlier runs let one expect of architectures: a prior mean for models of a search's own results."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import chain, islice, zip_longest

import numpy as np
from numpy.typing import NDArray

from nastool.core import encodings
from nastool.core.arrays import Choices
from nastool.core.space import SearchSpace
from nastool.core.strategy import Earlier
from nastool.core.values import Arch
from nastool.learners import regression
from nastool.learners.regression import FIT_POINTS, NOISE, Features, Floats

SPREAD = 0.5
"""Standard deviation of what a weight is thought to be, around an equal share of 1."""
REST = 0.5
"""Variance of what earlier runs do not say of standardised results."""


class Prior:
    """A weighted sum of what a model of each earlier run predicts; the weights are fitted to a search's own results.

    Results of other data, scales or budgets have no unit in common, so a run's targets are the normal quantiles of its
    results' ranks. Its model is a Gaussian process over the encodings that the space recommends, which takes for noise
    what similar architectures do not bear out.
    """

    def __init__(self, space: SearchSpace, earlier: Sequence[Earlier]) -> None:
        """earlier: At least one run, all with as many objectives."""
        self.space = space
        self.earlier = tuple(earlier)

    @property
    def trained(self) -> bool:
        """Whether all of it was measured, and nothing is a proxy."""
        return all(run.trained for run in self.earlier)

    def first(self, number: int, every: int = 2) -> Arch | None:
        """What a search begins with as its trial `number`, from 0: so often the next best of what there is.

        None: anything else. What is equivalent counts once.
        """
        return None if number % every else next(islice(self.best(), number // every, None), None)

    def best(self) -> Iterator[Arch]:
        """What was measured, of each run in turn, its best first; of several objectives by the mean quantile."""
        means = [sum(map(regression.quantiles, run.losses.T)) for run in self.earlier]
        found = [run.choices[np.argsort(mean, kind="stable")] for run, mean in zip(self.earlier, means, strict=True)]
        forms: set[str] = set()
        for choices in chain.from_iterable(zip_longest(*found)):
            if choices is None or not self.space.is_member(arch := self.space.arch(choices)):
                continue
            if (form := self.space.canonical(arch)) not in forms:
                forms.add(form)
                yield arch

    def trust(self, choices: Choices, results: Floats, rng: np.random.Generator, *, here: bool) -> float:
        """A draw of the weight of what is predicted, by what these architectures came to: below 0 it misleads.

        Args:
            choices: Option indices, (n, decisions).
            results: Of these, (n,); lower is better.
            rng: Draws.
            here: Among these architectures alone, however little they differ; else among all of the space.
        """
        own = self.predictions(choices)[0].sum(axis=1, dtype=np.float64, keepdims=True)
        spread = float(own.std()) if here else 1.0
        weights, precision = _regressed(own / (spread or 1.0), regression.quantiles(-results))
        return float(weights[0] + rng.normal() / precision[0, 0] ** 0.5)

    # --- the mean

    def mean(self, choices: Choices, results: Floats) -> Callable[[Choices], Floats]:
        """The prior mean, in the unit of the first objective's results of these architectures, (n,); higher is better.

        choices: Option indices, (n, decisions). Returned is a function of others, (m, decisions), to means, (m,).
        """
        center, scale = results.mean(), results.std() or 1.0
        mean = weighed(self.predictions(choices)[0], (results - center) / scale)
        return lambda others: center + scale * mean(self.predictions(others)[0])

    def predictions(self, choices: Choices) -> Features:
        """What the runs' models predict, for each objective (n, runs) quantiles; higher is better."""
        points = regression.encode(self.space, choices, encodings.views(self.space))
        return [np.stack([predict(points) for predict in own], axis=1).astype(np.float32) for own in self._models]

    @cached_property
    def _models(self) -> list[list[Callable[[Features], Floats]]]:
        """For each objective one of each run."""
        objectives = range(self.earlier[0].losses.shape[1])
        return [[self._model(run.choices, run.losses[:, i]) for run in self.earlier] for i in objectives]

    def _model(self, choices: Choices, losses: Floats) -> Callable[[Features], Floats]:
        from nastool.learners.predictors.gaussian_process import GaussianProcess

        kinds = encodings.views(self.space)
        keep = regression.representatives(losses, FIT_POINTS)
        inputs, targets = regression.encode(self.space, choices[keep], kinds), regression.quantiles(-losses)[keep]
        process = GaussianProcess(regression.views(self.space, kinds), noise=NOISE)
        process.fit(inputs, targets)
        return lambda points: process.predict(inputs, targets, points).mean


def weighed(predictions: NDArray[np.float32], targets: Floats) -> Callable[[NDArray[np.float32]], Floats]:
    """The prior mean of targets, as a function of predictions (m, runs) to means (m,).

    The weights are the mean posterior ones: equal shares of 1 as long as there are few results, and less, down to below
    0, of a run that misleads.

    Args:
        predictions: Those for the results, (n, runs).
        targets: The results, (n,), of about zero mean and unit variance; higher is better.
    """
    own = predictions.astype(np.float64)
    center, (weights, _) = own.mean(axis=0), _regressed(own, targets)
    return lambda points: np.asarray((points - center) @ weights)


def _regressed(predictions: Floats, targets: Floats) -> tuple[Floats, Floats]:
    """Mean (runs,) and precision (runs, runs) of the weights, around equal shares of 1; arguments as of `weighed`.

    Bayesian linear regression (Bishop 2006, eq. 3.50, 3.51).
    """
    offsets, share = predictions - predictions.mean(axis=0), 1 / predictions.shape[1]
    precision = np.eye(offsets.shape[1]) / SPREAD**2 + offsets.T @ offsets / REST
    left = targets - offsets.sum(axis=1) * share
    return share + np.linalg.solve(precision, offsets.T @ left / REST), precision
