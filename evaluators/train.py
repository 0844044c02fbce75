"""Trains each architecture from scratch and measures it on the validation images."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from nastool.core import Evaluation, Proposal
from nastool.errors import InputError, TrialFailed
from nastool.interfaces import Report
from nastool.recipes import Recipe
from nastool.training import ImageEvaluator, Training

if TYPE_CHECKING:
    from torch import nn


class Train(ImageEvaluator):
    """Training from scratch with SGD, by a recipe; the budget is the number of epochs.

    Metrics: val_acc in [0, 1], val_loss in nats (without label smoothing), both after the last epoch; params;
    flops of one image. They are the same for the same arguments on the same device model with the same number
    of CPU threads. The test images are looked at by `test` alone.
    """

    name = "train"
    provides = frozenset({"budget"})
    metrics = frozenset({"val_acc", "val_loss", "params", "flops"})

    def estimate(self, proposal: Proposal) -> float | None:
        """Seconds, extrapolated from about a second of training and one validation (after `prepare`)."""
        self.prepare()
        recipe = self._recipe(proposal)
        with self.reproducible(0):
            network = self.build(proposal.arch, 0)
            steps = self.train_images.steps(recipe.batch_size)
            training = Training(self, network, dataclasses.replace(recipe, epochs=1), seed=0)
            taken = []
            for _ in training.epoch():
                self.synchronize()
                taken.append(time.perf_counter())
                if len(taken) > 2 and taken[-1] - taken[0] > 1:
                    break
            per_step = (taken[-1] - taken[0]) / (len(taken) - 1) if len(taken) > 1 else 0.0
            start = time.perf_counter()
            self.score(network, self.val_images)
            return recipe.epochs * (steps * per_step + time.perf_counter() - start)

    # --- one trial

    def evaluate(self, trial_id: int, proposal: Proposal, *, seed: int, report: Report) -> Evaluation:
        """Train, reporting val_acc, val_loss and train_loss after every epoch. seed: >= 0.

        TrialFailed: the loss is not finite, the GPU's memory is too small, the checkpoint cannot be written.
        """
        import torch

        start = time.perf_counter()
        self.prepare()
        recipe = self._recipe(proposal)
        try:
            with self.reproducible(seed):
                network = self.build(proposal.arch, seed)
                accuracy, loss = self._fit(network, recipe, seed, report)
        except torch.OutOfMemoryError as error:
            reason = f"out of GPU memory with batch_size {recipe.batch_size}; lower it, or the scale"
            raise TrialFailed(reason, retry=True) from error
        checkpoint = self.save(network, trial_id, proposal.arch) if self.workdir is not None else None

        from nastool.networks import count_flops, count_params

        metrics = {
            "val_acc": accuracy,
            "val_loss": loss,
            "params": count_params(network),
            "flops": count_flops(network, self.data.task),
        }
        return Evaluation(metrics, time.perf_counter() - start, checkpoint)

    def test(self, proposal: Proposal, evaluation: Evaluation) -> Mapping[str, float]:
        """test_acc and test_loss of the checkpoint; {} without checkpoint or test images.

        InputError: the checkpoint is missing, damaged, or of another architecture or scale.
        """
        self.prepare()
        if evaluation.checkpoint is None or self.workdir is None or self.test_images is None:
            return {}
        accuracy, loss = self.score(self.load(proposal.arch, evaluation.checkpoint), self.test_images)
        return {"test_acc": accuracy, "test_loss": loss}

    def _recipe(self, proposal: Proposal) -> Recipe:
        budget = proposal.budget
        if budget is None:
            return self.recipe
        if not (math.isfinite(budget) and budget == int(budget) and budget >= 1):
            raise InputError(f"budget: need a whole number of epochs >= 1, got {budget}")
        return self.recipe.replace(epochs=int(budget))

    def _fit(self, network: nn.Module, recipe: Recipe, seed: int, report: Report) -> tuple[float, float]:
        """Train; validation accuracy and loss after the last epoch."""
        import torch

        training = Training(self, network, recipe, seed)
        for epoch in range(1, recipe.epochs + 1):
            total = torch.zeros((), device=self.device)
            for loss in training.epoch():
                total += loss
            train_loss = total.item() / training.steps
            if not math.isfinite(train_loss):
                raise TrialFailed(f"diverged: training loss is {train_loss} in epoch {epoch}; lower lr")
            accuracy, val_loss = self.score(network, self.val_images)
            if not math.isfinite(val_loss):
                raise TrialFailed(f"diverged: validation loss is {val_loss} in epoch {epoch}; lower lr")
            report(epoch, {"val_acc": accuracy, "val_loss": val_loss, "train_loss": train_loss})
        return accuracy, val_loss
