"""Scores architectures with weights that all of them share: a supernet, trained one sampled child at a time."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nastool.core import files, registry
from nastool.core.errors import CannotGoOn, InputError, TrialFailed, fault_of, why
from nastool.core.evaluator import Report
from nastool.core.space import SearchSpace
from nastool.core.strategy import Policy
from nastool.core.task import Batch
from nastool.core.values import Arch, Evaluation, Proposal
from nastool.training.evaluator import TrainingEvaluator
from nastool.training.loop import Training, seeds

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from nastool.nets.networks import Supernet as Network
    from nastool.nets.onepass import OnePass


class Supernet(TrainingEvaluator):
    """One network that holds every architecture; an architecture's score is its accuracy with the shared weights.

    The weights are trained on the training images, each minibatch on one child (Pham et al. 2018; Bender et al. 2018;
    Li & Talwalkar 2019). With a strategy that has a policy, children are drawn from it; a proposal with a policy is
    one round: an epoch of the weights (the policy is left alone), then the policy's phase on minibatches of the
    validation images (the weights are left alone). With any other strategy, children are drawn uniformly, all
    epochs before the first score (random search with weight sharing, if the strategy is random search).

    Metrics: shared_acc in [0, 1] and shared_loss in nats, of all validation images; after a round also train_loss and
    what the policy reports. They rank architectures, roughly; they say little about what a network reaches that is
    trained by itself. Batch normalisation always uses the minibatch's own statistics: running means would mix
    those of all children. So scores are taken in batches of the recipe's batch_size (up to twice as many) in a
    random order that is always the same, whatever the order and the size of the images.

    Where memory runs out, training steps go in micro-batches, each normalised with its own statistics; the metric
    micro_batches says into how many parts. From then on all of its steps do.
    """

    name = "supernet"
    needs = frozenset({"network", "supernet"})
    provides = frozenset({"policy", "shared-weights"})
    max_workers = 1
    metrics = frozenset({"shared_acc", "shared_loss"})
    prefix = "shared"
    recipe_prefix = "supernet-"

    def __init__(self, space: SearchSpace, *, seed: int = 0, weights: str | None = None, **training: Any) -> None:
        """Makes an evaluator; data and device are looked at in `prepare`.

        Args:
            recipe: A name (`nastool list recipes`) or a file; by default the data set's. Its epochs are the rounds; its
                batch_size is that of the policy's phase, too.
            seed: Seed of the weights' initialisation and of uniform sampling.
            weights: Checkpoint of a supernet from an earlier run (`RUN/checkpoints/supernet.safetensors`), which is
                then not trained any further.
        """
        super().__init__(space, **training)
        if self.recipe.average:
            raise InputError("average: shared weights are not averaged; give 0")
        self.seed = seed
        self.weights = weights
        self.rounds = self.recipe.epochs if weights is None else None
        self._shared: _SharedWeights | None = None
        self._one_pass: OnePass | None = None

    # --- before the first trial

    def prepare(self) -> None:
        """Also read `weights`, if given. InputError: they are missing, damaged, or of other options.

        InputError: there is one validation image, whose statistics would be those of a batch.
        """
        super().prepare()
        if len(self.val_batches) < 2:
            raise InputError(
                f"{self.data.name}: shared weights are scored with the statistics of a batch of validation images, and "
                "there is only one: give more, or a larger part of the training images with -E val_fraction="
            )
        if self.weights is not None and self._shared is None:
            self._shared = self._load()

    def check_state(self) -> None:
        if self.weights is None and self.checkpoint is not None:
            files.check_tensors(self.checkpoint)

    def estimate(self, proposal: Proposal) -> float | None:
        """Seconds of a round, or of a score once the weights are trained."""
        training, score = self._costs(proposal)
        return score if proposal.policy is None else training + score

    def estimate_all(self, first: Proposal, trials: int) -> float | None:
        """Seconds of a search: rounds and then scores, or all training and then scores."""
        training, score = self._costs(first)
        rounds = self.rounds or 0
        return training * (rounds if first.policy is None else min(rounds, trials)) + score * trials

    def _costs(self, proposal: Proposal) -> tuple[float, float]:
        """Seconds of a round (with the policy's phase, if any) but for its score, and of a score; from a short look."""
        import torch

        self.prepare()
        network = self.supernet()
        training = self.training(network, self.recipe, self.seed)
        generator = torch.Generator().manual_seed(0)
        rng = np.random.default_rng(0)

        def child() -> Arch:
            arch = self.space.sample(rng)
            network.select(arch)
            return arch

        def seconds_of_one(work: Iterator[object]) -> float:
            """The mean of those in about a second, but for the first, which takes longer."""
            taken: list[float] = []
            for _ in work:
                self.synchronize()
                taken.append(time.perf_counter())
                if len(taken) > 2 and taken[-1] - taken[0] > 1:
                    break
            return (taken[-1] - taken[0]) / max(1, len(taken) - 1)

        with self.reproducible(0):
            step = seconds_of_one(training.epoch(lambda _: network.select(child())))
            score = seconds_of_one(self._on_validation(network) for _ in range(4) if child())
            cost = step * training.steps
            if proposal.policy is not None:
                given: Any = proposal.policy
                policy = registry.load("strategy", given["strategy"]).make_policy(self.space, given["options"], 0)
                batch = next(self.val_batches.minibatches(self.recipe.batch_size, generator))
                asked: list[int] = []
                start = time.perf_counter()

                def made_up(archs: NDArray[Any]) -> list[float]:
                    asked.append(len(archs))
                    return [0.5] * len(archs)

                policy.improve(made_up, training.steps, generator)
                cost += time.perf_counter() - start
                at_once = asked[0] if self.device.type == "cuda" else 1

                def reward() -> object:
                    return self.rewards(network, np.array([child().choices for _ in range(at_once)]), batch)

                with self.frozen(network):
                    cost += seconds_of_one(reward() for _ in range(100)) * sum(asked) / at_once
        return cost, score

    # --- one trial

    def evaluate(self, trial_id: int, proposal: Proposal, *, seed: int, report: Report) -> Evaluation:
        """One round, for a proposal with a policy; else the score. seed: of a round's draws.

        TrialFailed: the loss is not finite, the GPU's memory is too small. CannotGoOn: the checkpoint is not written,
        or its policy is one of an earlier version.
        """
        start = time.perf_counter()
        self.prepare()
        policy: Mapping[str, object] | None = None
        try:
            with self.saying_what_helps():
                if self._shared is None:
                    self._shared = self._load()
                shared = self._shared
                # once they had to be split, they stay so: the next round would need it, too
                shared.training.micro_batches = max(self.micro_batches, shared.training.micro_batches)
                if proposal.policy is not None:
                    if self.weights is not None:
                        raise InputError("weights= are trained already: a strategy with a policy trains its own")
                    metrics, policy = self._round(shared, proposal, seed, report)
                else:
                    while shared.done < self.recipe.epochs and self.weights is None:
                        self._uniform_epoch(shared, report)
                    metrics = self._score(shared, proposal.arch)
        except BaseException:
            self._shared = None  # perhaps in the middle of a step: go on from the checkpoint
            raise
        if shared.training.micro_batches > 1:
            metrics = {**metrics, "micro_batches": shared.training.micro_batches}
        if policy is None:
            return Evaluation(metrics, time.perf_counter() - start)
        learnt = {name: value for name, value in policy.items() if name != "frequencies"}
        notes = {name: value for name, value in policy.items() if name == "frequencies"}
        return Evaluation(metrics, time.perf_counter() - start, policy=learnt, notes=notes)

    def _round(
        self, shared: _SharedWeights, proposal: Proposal, seed: int, report: Report
    ) -> tuple[dict[str, float], Mapping[str, object]]:
        """Train weights and policy, once each. A round that is in the checkpoint already is not trained again."""
        import torch

        given: Any = proposal.policy
        number = int(given["round"])
        policy = shared.policy
        if policy is None:
            strategy = registry.load("strategy", given["strategy"])
            try:
                policy = shared.with_policy(strategy.make_policy(self.space, given["options"], self.seed))
            except InputError as error:
                raise CannotGoOn(f"{self.checkpoint}: {error}") from error
        if shared.done == number + 1 and shared.told is not None:
            return shared.told["metrics"], shared.told["policy"]
        if shared.done != number:
            raise TrialFailed(
                f"the shared weights are those after {shared.done} rounds, not {number}: begin anew (--force)"
            )
        weights_seed, policy_seed, _ = seeds(seed)
        generator = torch.Generator().manual_seed(policy_seed)
        with self.reproducible(seed):
            children = policy.sample(shared.training.steps, generator)
            train_loss = self._epoch(shared, children, weights_seed)
            minibatches = self.val_batches.minibatches(self.recipe.batch_size, generator)

            def reward(archs: NDArray[Any]) -> list[float]:
                return self.rewards(shared.network, archs, next(minibatches))

            progress = shared.done / self.recipe.epochs
            with self.frozen(shared.network):
                learnt = policy.improve(reward, shared.training.steps, generator, progress)
            metrics = {**self._score(shared, proposal.arch), "train_loss": train_loss, **learnt}
            told = policy.conclude(shared.done == self.recipe.epochs, generator)
        left = self.recipe.epochs - shared.done
        shared.told = {"metrics": metrics, "policy": {**told, "rounds_left": left}}
        self._save_shared(shared)
        report(shared.done, metrics)
        return metrics, shared.told["policy"]

    def _uniform_epoch(self, shared: _SharedWeights, report: Report) -> None:
        sequence = np.random.SeedSequence([self.seed, shared.done])
        rng = np.random.default_rng(sequence)
        children = np.array([self.space.sample(rng).choices for _ in range(shared.training.steps)])
        with self.reproducible(int(rng.integers(2**62))):
            train_loss = self._epoch(shared, children, int(rng.integers(2**62)))
            measured = self._measured(shared, children[-1])
        self._save_shared(shared)
        report(shared.done, {"train_loss": train_loss, **measured})

    # --- the two phases

    def _epoch(self, shared: _SharedWeights, children: NDArray[Any], seed: int) -> float:
        """One pass over the training images, step i on child i; the mean loss."""
        import torch

        shared.training.generator.manual_seed(seed)
        total = torch.zeros((), device=self.device)
        archs = [self.space.arch(choices) for choices in children]
        for loss in shared.training.epoch(lambda step: shared.network.select(archs[step])):
            total += loss
        mean = total.item() / shared.training.steps
        if not math.isfinite(mean):
            raise TrialFailed(f"diverged: training loss is {mean} in epoch {shared.done}; lower lr")
        return mean

    def rewards(self, network: Network, archs: NDArray[Any], batch: Batch) -> list[float]:
        """The task's reward of each architecture on one batch. archs: option indices, shape (m, decisions)."""
        with self.frozen(network) as children, self.cudnn(), self.autocast():
            outputs = children.logits([self.space.arch(choices) for choices in archs], *self.task.inputs(batch))
            found: list[float] = self.task.rewards(outputs, batch).tolist()
        return found

    def _score(self, shared: _SharedWeights, arch: Arch) -> dict[str, float]:
        found = self._measured(shared, arch.choices)
        if not math.isfinite(loss := found["shared_loss"]):
            raise TrialFailed(f"diverged: validation loss is {loss} after epoch {shared.done}; lower lr")
        return found

    def _measured(self, shared: _SharedWeights, choices: Sequence[int]) -> dict[str, float]:
        shared.network.select(self.space.arch(choices))
        return self._on_validation(shared.network)

    def _on_validation(self, network: Network) -> dict[str, float]:
        """The metrics of what the network executes now, on all validation data."""
        return self.measure(network, self.val_batches, self.prefix, mixed=self.recipe.batch_size)

    @contextmanager
    def frozen(self, network: Network) -> Iterator[OnePass]:
        """Meanwhile the weights are not changed and children rewarded: with dropout only if the recipe says so.

        To be entered once for many rewards, too: what it looks at is every module.
        """
        import torch

        from nastool.nets.onepass import OnePass

        if self._one_pass is not None and self._one_pass.network is network and self._one_pass.in_use:
            yield self._one_pass
            return
        network.eval()
        for module in network.modules() if self.recipe.reward_dropout else ():
            if isinstance(module, torch.nn.Dropout):
                module.train()
        if self._one_pass is None or self._one_pass.network is not network:
            self._one_pass = OnePass(network, grouped=None if self.fuse else False)
        # Autocast keeps its casts of the weights until its outermost context ends.
        casts = self.autocast() if self.device.type == "cuda" else nullcontext()
        with casts, self._one_pass.installed():
            yield self._one_pass

    # --- the shared weights

    def supernet(self) -> Network:
        """The untrained network, on the device; its batch normalisation uses the batch's statistics."""
        import torch

        from nastool.nets.networks import Supernet as Network
        from nastool.nets.networks import use_batch_statistics

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeds(self.seed)[0])
            network = Network(self.space, self.task, self.scale)
        use_batch_statistics(network)
        self.placed(network)
        return network

    @property
    def checkpoint(self) -> Path | None:
        return None if self.workdir is None else self.workdir / "checkpoints" / "supernet.safetensors"

    def _load(self) -> _SharedWeights:
        """As the checkpoint has them, or untrained."""
        network = self.supernet()
        shared = _SharedWeights(network, self.training(network, self.recipe, self.seed))
        path = Path(self.weights).expanduser() if self.weights is not None else self.checkpoint
        if path is not None and (self.weights is not None or path.is_file()):
            tensors, facts = files.read_tensors(path, str(self.device))
            if "state" not in facts:
                raise InputError(f"{path} holds no shared weights: give RUN/checkpoints/supernet.safetensors")
            own = self._identity()
            for key in own if self.weights is None else ("space", "scale", "task"):
                if facts.get(key) != own[key]:
                    raise InputError(
                        f"{path} holds shared weights of another {key}: give the options they were made with"
                    )
            try:
                shared.restore(tensors, json.loads(facts["state"]))
            except (RuntimeError, KeyError, ValueError) as error:
                if fault_of(error) is not None:
                    raise
                raise InputError(f"{path} is damaged: begin anew (--force)") from error
        return shared

    def _save_shared(self, shared: _SharedWeights) -> None:
        if self.checkpoint is None:
            return
        tensors, state = shared.capture()
        try:
            files.write_tensors(self.checkpoint, tensors, {**self._identity(), "state": json.dumps(state)})
        except OSError as error:
            raise CannotGoOn(f"cannot write {self.checkpoint}: {why(error)}") from error

    def _identity(self) -> dict[str, str]:
        """Whose weights they are."""
        return {
            "space": self.space.ref.canonical_json,
            "scale": json.dumps(vars(self.scale)),
            "task": json.dumps(self.task.to_json()),
            "seed": str(self.seed),
        }


class _SharedWeights:
    """A supernet, how far its training has come, and the policy that is trained with it."""

    def __init__(self, network: Network, training: Training) -> None:
        self.network = network
        self.training = training
        self.policy: Policy | None = None
        self.told: dict[str, Any] | None = None
        """What the last round returned."""
        self._policy_state: dict[str, Tensor] = {}

    @property
    def done(self) -> int:
        """Epochs so far."""
        return self.training.done // self.training.steps

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
        return tensors, {"steps": self.training.done, "told": self.told, "micro_batches": self.training.micro_batches}

    def restore(self, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
        """KeyError or RuntimeError: these are of another network."""
        parts: dict[str, dict[str, Tensor]] = {"weights": {}, "momentum": {}, "policy": {}}
        for key, value in tensors.items():
            part, _, name = key.partition(".")
            parts[part][name] = value
        self.network.load_state_dict(parts["weights"])
        self._policy_state = {name: value.cpu() for name, value in parts["policy"].items()}
        self.training.resume(parts["momentum"], state["steps"])
        self.told = state["told"]
        self.training.micro_batches = state.get("micro_batches", 1)
