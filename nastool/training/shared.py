"""The training of weights that all architectures share, a step at a time, as a policy or an evaluator wants it."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nastool.core import files
from nastool.core.errors import CannotGoOn, Diverged, InputError, fault_of, why
from nastool.core.task import Batch, Batches
from nastool.core.values import Arch
from nastool.training.policies import Part, Policy, Sampling, Trainer

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from nastool.nets.networks import Selection, Supernet
    from nastool.training.loop import Training

PAIRS = 16
"""Children of a policy, and as many uniform ones, whose rewards are compared after a round."""
LAST_PAIRS = 64
"""The same after the last round."""
PAIRS_AT_ONCE = 8
"""So many of these are rewarded on one minibatch."""


class SharedWeights:
    """A supernet, how far its training has come, and the policy that is trained with it: a `Trainer`."""

    generator: torch.Generator

    def __init__(
        self,
        network: Supernet,
        training: Training,
        validation: Batches,
        frozen: Callable[[], AbstractContextManager[object]],
        rewards: Callable[[Sequence[Arch], Batch, bool], list[float]],
    ) -> None:
        """Takes no step yet.

        Args:
            network: On the device of the batches.
            training: Its training.
            validation: Examples that the weights are not trained on.
            frozen: Makes a context in which the weights do not change, for many rewards.
            rewards: Of architectures on a batch, in that context; whether they are likelihoods.
        """
        self.network = network
        self.training = training
        self.parts: dict[Part, Batches] = {"train": training.batches, "val": validation}
        self.policy: Policy | None = None
        self.told: dict[str, Any] | None = None
        """What the last round returned."""
        self._frozen = frozen
        self._rewards = rewards
        self._phase = ExitStack()
        self._rewarding = False
        self._policy_state: dict[str, Tensor] = {}

    @property
    def done(self) -> int:
        """Epochs so far."""
        return self.training.done // self.training.steps

    # --- one round

    def epoch(
        self, seed: int, generator: torch.Generator, drive: Callable[[Trainer], Mapping[str, float]]
    ) -> dict[str, float]:
        """One pass over the training data.

        Args:
            seed: Of the order of the training data and their augmentation.
            generator: Source of the round's other draws.
            drive: A policy's round: takes all the steps.

        Returns:
            The mean loss, "train_loss", and what the policy reports; where the gradients of a network with a state were
            not finite, steps were left out, "skipped_steps".

        Raises:
            Diverged: The loss is not finite.
        """
        import torch

        self.training.generator.manual_seed(seed)
        self.generator = generator
        self._batches = self.training.epoch_batches()
        self._minibatches: dict[Part, Iterator[Batch]] = {}
        self._total = torch.zeros((), device=next(self.network.parameters()).device)
        self._skipped = 0
        before = self.training.done
        with self._phase:
            try:
                reported = drive(self)
            finally:
                self._rewarding = False
        if self.training.done - before != self.training.steps:
            taken = self.training.done - before
            raise ValueError(f"a round has {self.training.steps} steps of the weights, and {taken} were taken")
        skipped = {"skipped_steps": float(self._skipped)} if self._skipped else {}
        return {"train_loss": self._mean_loss(), **skipped, **reported}

    def _mean_loss(self) -> float:
        mean = self._total.item() / max(1, self.training.steps - self._skipped)
        if not math.isfinite(mean):
            raise Diverged(f"diverged: training loss is {mean} in epoch {self.done}; lower lr")
        if 2 * self._skipped > self.training.steps:
            what = f"the gradients of {self._skipped} of {self.training.steps} steps are not finite"
            raise Diverged(f"diverged: {what} in epoch {self.done}; lower lr")
        return mean

    @property
    def steps(self) -> range:
        return range(self.training.steps)

    @property
    def progress(self) -> float:
        return self.training.done / (self.training.steps * self.training.recipe.epochs)

    def weights_step(self, selections: Sequence[Selection], gradient: bool = False) -> Tensor:
        from nastool.nets.networks import active_parameters, detached

        self._to_train()
        batch = next(self._batches)
        self.training.begin_step()
        losses, having = [], Counter[Any]()
        several = len(selections) > 1 and all(isinstance(selection, Arch) for selection in selections)
        for selection in selections:
            self._select(selection if gradient else detached(selection))
            losses.append(self.training.backward(batch, 1 / len(selections)))
            if several:
                having.update(active_parameters(self.network))
        for parameter, number in having.items():
            if parameter.grad is not None and number < len(selections):
                parameter.grad *= len(selections) / number
        loss = losses[0] if len(losses) == 1 else sum(losses[1:], losses[0]) / len(losses)
        if self.training.exploded():
            self.training.skip_step()
            self._skipped += 1
        else:
            self.training.end_step()
            self._total += loss
        self.training.bound_state()  # the next child goes on from it
        return loss

    def loss(self, selection: Selection, part: Part) -> Tensor:
        self._to_train()
        self._select(selection)
        trained = [parameter for parameter in self.network.parameters() if parameter.requires_grad]
        for parameter in trained:
            parameter.requires_grad_(False)
        try:
            return self.training.loss(self._minibatch(part))
        finally:
            for parameter in trained:
                parameter.requires_grad_(True)

    def unrolled(self, selection: Selection, architecture: Sequence[Tensor]) -> tuple[Tensor, list[Tensor]]:
        from nastool.training.unrolled import unrolled

        self._to_train()
        self._select(selection)
        training, batches = self.training, {part: self._minibatch(part) for part in self.parts}
        named = {id(parameter): name for name, parameter in self.network.named_parameters()}
        optimizer, momentum = training.optimizer, training.recipe.momentum
        memory = training.memory()
        names = [named[id(parameter)] for parameter in training.parameters]
        pull = [
            optimizer.decay[name] * parameter.detach() + (momentum * memory[name] if name in memory else 0.0)
            for name, parameter in zip(names, training.parameters, strict=True)
        ]
        return unrolled(
            lambda: training.loss(batches["train"]),
            lambda: training.loss(batches["val"]),
            training.parameters,
            architecture,
            lr=training.recipe.learning_rate(training.done, training.steps, training.annealing),
            pull=pull,
        )

    def losses(self, selections: Sequence[Selection], part: Part) -> list[float]:
        import torch

        self._to_train()
        self.network.eval()
        with torch.no_grad():
            found = torch.zeros(len(selections), dtype=torch.float64)
            for batch in self.parts[part].mixed(self.training.recipe.batch_size):
                for i, selection in enumerate(selections):
                    self._select(selection)
                    found[i] += len(batch[0]) * self.training.loss(batch).item()
        return (found / len(self.parts[part])).tolist()

    def mean_losses(self, sets: Sequence[Sequence[Arch]], part: Part) -> list[float]:
        from nastool.training.means import mean_losses

        self._to_train()
        self.network.eval()
        found = mean_losses(self.training, self.parts[part], sets, self._select)
        if found is not None:
            return found
        alone = {arch: self.losses([arch], part)[0] for each in sets for arch in each}
        return [sum(alone[arch] for arch in each) / len(each) for each in sets]

    def costs(self) -> Mapping[str, Tensor]:
        from nastool.nets.option_costs import costs

        return costs(self.network, self.training.task)

    @property
    def rounds(self) -> int:
        return self.training.recipe.epochs

    def rewards(self, selections: Sequence[Arch], part: Part, likelihood: bool = False) -> list[float]:
        if not self._rewarding:
            self._mean_loss()  # before anything is learnt from weights that diverged
            self._phase.enter_context(self._frozen())
            self._rewarding = True
        return self._rewards(selections, self._minibatch(part), likelihood)

    def gain(self, policy: Sampling, pairs: int, seed: int) -> dict[str, float]:
        """How much better children of a policy do than uniform ones, with the weights as they are.

        One of the policy and a uniform one make a pair, which is rewarded on the same minibatch of the validation data.
        All that is drawn comes from the seed: nothing else of a search changes.

        Returns:
            The mean of the pairs' differences, "gain", in the unit of rewards, and its standard error, "gain_se".
        """
        import torch

        generator, rng = torch.Generator().manual_seed(seed), np.random.default_rng(seed)
        space = self.network.space
        drawn = [(space.arch(child), space.sample(rng)) for child in policy.sample(pairs, generator).tolist()]
        batches = self.parts["val"].minibatches(self.training.recipe.batch_size, generator)
        found: list[float] = []
        with self._frozen():
            for first in range(0, pairs, PAIRS_AT_ONCE):
                ours, theirs = zip(*drawn[first : first + PAIRS_AT_ONCE], strict=True)
                rewards = np.array(self._rewards([*ours, *theirs], next(batches), False)).reshape(2, -1)
                found += (rewards[0] - rewards[1]).tolist()
        return {"gain": float(np.mean(found)), "gain_se": float(np.std(found, ddof=1) / math.sqrt(pairs))}

    def _minibatch(self, part: Part) -> Batch:
        if part not in self._minibatches:
            size = self.training.recipe.batch_size
            self._minibatches[part] = self.parts[part].minibatches(size, self.generator)
        return next(self._minibatches[part])

    def _to_train(self) -> None:
        if self._rewarding:
            self._phase.close()
            self._rewarding = False
        if not self.network.training:
            self.network.train()

    def _select(self, selection: Selection) -> None:
        self.network.select(selection)
        self.training.alone = not isinstance(selection, Arch)

    # --- what is kept

    def with_policy(self, policy: Policy) -> Policy:
        """Take this policy on, as it was when the checkpoint was written."""
        if self._policy_state:
            policy.load_state_dict(self._policy_state)
        self.policy = policy
        return policy

    def capture(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All of it, as tensors and JSON."""
        tensors = {f"weights.{name}": value for name, value in self.network.state_dict().items()}
        tensors.update({f"momentum.{name}": value for name, value in self.training.memory().items()})
        policy = self._policy_state if self.policy is None else self.policy.state_dict()
        tensors.update({f"policy.{name}": value for name, value in policy.items()})
        training = self.training
        state = {"steps": training.done, "told": self.told, "micro_batches": training.micro_batches}
        return tensors, {**state, "batch_size": training.recipe.batch_size}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """Go on from what `capture` gave.

        Raises:
            KeyError: These are of another network. So says RuntimeError, too.
        """
        parts: dict[str, dict[str, Tensor]] = {"weights": {}, "momentum": {}, "policy": {}}
        for key, value in tensors.items():
            part, _, name = key.partition(".")
            parts[part][name] = value
        self.network.load_state_dict(parts["weights"])
        self._policy_state = {name: value.cpu() for name, value in parts["policy"].items()}
        self.training.resume(parts["momentum"], state["steps"])
        self.told = state["told"]
        self.training.micro_batches = state.get("micro_batches", 1)

    def write(self, path: Path, whose: Mapping[str, str]) -> None:
        """Write a checkpoint. whose: what tells them from others. CannotGoOn: it is not written."""
        tensors, state = self.capture()
        try:
            files.write_tensors(path, tensors, {**whose, "state": json.dumps(state)})
        except OSError as error:
            raise CannotGoOn(f"cannot write {path}: {why(error)}") from error

    def read(self, path: Path, whose: Mapping[str, str], device: str) -> Mapping[str, Any]:
        """Go on from a checkpoint.

        Args:
            path: Of the checkpoint.
            whose: What must be the same there as here.
            device: Where its tensors are wanted.

        Returns:
            Its state, as `capture` gave it.

        Raises:
            InputError: It is missing, damaged, or of others.
        """
        tensors, facts = files.read_tensors(path, device)
        if "state" not in facts:
            raise InputError(f"{path} holds no shared weights: give RUN/checkpoints/supernet.safetensors")
        for key, own in whose.items():
            if facts.get(key) != own:
                raise InputError(f"{path} holds shared weights of another {key}: give the options they were made with")
        try:
            state: dict[str, Any] = json.loads(facts["state"])
            self.restore(tensors, state)
        except (RuntimeError, KeyError, ValueError) as error:
            if fault_of(error) is not None:
                raise
            raise InputError(f"{path} is damaged: begin anew (--force)") from error
        return state
