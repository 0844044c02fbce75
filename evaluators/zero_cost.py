"""Scores architectures without any training, by what their untrained networks say of one minibatch."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from nastool.core.errors import Diverged, InputError
from nastool.core.evaluator import Report
from nastool.core.space import SearchSpace
from nastool.core.values import Evaluation, Proposal, Scalar
from nastool.training.evaluator import TrainingEvaluator
from nastool.training.loop import seconds_of_one, seeds

if TYPE_CHECKING:
    from nastool.nets.costs import NetworkCosts

Proxy = Literal["synflow", "snip", "grad_norm", "jacob_cov", "naswot", "zen", "params", "flops"]
COUNTED = frozenset({"params", "flops"})


class ZeroCost(TrainingEvaluator):
    """Zero-cost proxies of a network as it is drawn: synflow, snip, grad_norm, jacob_cov, naswot, zen.

    All come from one minibatch of the training data (synflow from an input of ones, zen from random ones), in a
    fraction of a second (Abdelfattah et al., ICLR 2021; `nastool.nets.proxies` says how each is computed); more is
    better. Beside them stand params and flops, which in NAS-Bench-201 rank as well as the best of them, and cost
    nothing: compare. A proxy says how an architecture may train, not how good it is: train the best that it finds.
    """

    name = "zero-cost"
    metrics = frozenset({"synflow", "snip", "grad_norm", "jacob_cov", "naswot", "zen", "params", "flops"})

    def __init__(
        self, space: SearchSpace, *, proxy: Proxy = "synflow", all_proxies: bool = True, seed: int = 0, **training: Any
    ) -> None:
        """Makes an evaluator; data and device are looked at in `prepare`.

        Args:
            proxy: The objective, unless another is given.
            all_proxies: Compute the others, too.
            seed: Seed of the minibatch; weights, and what zen draws, come from a trial's own.
            batch_size: Examples of the minibatch; by default the recipe's.
        """
        super().__init__(space, **training)
        self.wanted = tuple(sorted((type(self).metrics if all_proxies else {proxy}) - COUNTED))
        self.objective = f"{proxy}:max"
        self.metrics = COUNTED.union(self.wanted)
        self.seed = seed

    def prepare(self) -> None:
        """InputError: examples are no numbers with gradients, such as words, or several tensors."""
        super().prepare()
        inputs = self.task.example(1, "meta")
        if len(inputs) != 1 or not inputs[0].is_floating_point():
            raise InputError(
                f"{self.data.name}: zero-cost proxies are for images and signals, one tensor of numbers an example; "
                "give other data, or leave them out"
            )

    def describe(self) -> Mapping[str, Scalar]:
        of_trainings = ("epochs", "training_steps", "fitted")
        return {name: value for name, value in super().describe().items() if name not in of_trainings}

    def estimate(self, proposal: Proposal) -> float | None:
        self.prepare()
        return seconds_of_one((self.found(proposal, 0) for _ in range(5)), self.synchronize)

    def evaluate(self, trial_id: int, proposal: Proposal, *, seed: int, report: Report) -> Evaluation:
        """seed: of the weights. Diverged: a proxy is no number, as where nothing reaches the output."""
        start = time.perf_counter()
        self.prepare()
        with self.saying_what_helps(), self.reproducible(seed):
            found = self.found(proposal, seed)
        objective = self.objective.partition(":")[0]
        if objective in found and not math.isfinite(found[objective]):
            raise Diverged(f"{objective} is {found[objective]}: no signal goes through, or examples are alike")
        finite = {name: value for name, value in found.items() if math.isfinite(value)}
        return Evaluation(finite, time.perf_counter() - start)

    def found(self, proposal: Proposal, seed: int) -> dict[str, float]:
        """What is measured of an architecture, which may be infinite. Once prepared. seed: of the weights."""
        import torch

        from nastool.nets.proxies import proxies

        network = self.build(proposal.arch, seed)
        generator = torch.Generator().manual_seed(seeds(self.seed)[2])
        batch = next(self.train_batches.minibatches(self.recipe.batch_size, generator))
        (inputs,) = self.task.inputs(batch)

        def loss(output: torch.Tensor) -> torch.Tensor:
            return self.task.step(lambda *_: output, batch, None, self.recipe).loss

        found = proxies(network, loss, inputs, self.wanted, seed)
        return {**found, **{name: float(cost) for name, cost in self._costs.of(proposal.arch, COUNTED).items()}}

    @cached_property
    def _costs(self) -> NetworkCosts:
        from nastool.nets.costs import NetworkCosts

        return NetworkCosts(self.space, self.task, self.scale)
