"""Scores architectures with weights that all of them share: a supernet, trained one sampled child at a time."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nastool.core import files
from nastool.core.errors import CannotGoOn, Diverged, InputError, TrialFailed
from nastool.core.evaluator import Report
from nastool.core.files import path_of
from nastool.core.recipe import MAX_EPOCHS
from nastool.core.space import SearchSpace, fair_set
from nastool.core.task import Batch
from nastool.core.values import Arch, Evaluation, Proposal
from nastool.training.counting import Counting
from nastool.training.evaluator import TrainingEvaluator
from nastool.training.loop import seconds_of_one, seeds
from nastool.training.policies import BeginsFairly, Drawn, LearningLast, Policy, Sampling
from nastool.training.shared import LAST_PAIRS, PAIRS, SharedWeights

if TYPE_CHECKING:
    import torch
    from torch import nn

    from nastool.nets.costs import NetworkCosts
    from nastool.nets.networks import Supernet as Network
    from nastool.nets.onepass import OnePass


class Supernet(TrainingEvaluator):
    """One network that holds every architecture; an architecture's score is how well it does with the shared weights.

    The weights are trained on the training data, each minibatch on one child (Pham et al. 2018; Bender et al. 2018;
    Li & Talwalkar 2019). With a strategy that has a policy, children are drawn from it; a proposal with a policy is
    one round: an epoch of the weights (the policy is left alone), then the policy's phase on minibatches of the
    validation data (the weights are left alone). With any other strategy, children are drawn uniformly, all
    epochs before the first score (random search with weight sharing, if the strategy is random search).

    Metrics: the task's, such as shared_acc and shared_loss, of all validation data; after a round also train_loss and
    what the policy reports, and how much higher the rewards of children of the policy are than those of uniform ones,
    gain, with its standard error, gain_se, of 16 of each (after the last round 64). They rank architectures, roughly;
    they say little about what a network reaches that is trained by itself. Batch normalisation always uses the
    minibatch's own statistics: running means would mix those of all children. So scores are taken in batches of the
    recipe's batch_size (up to twice as many) in a random order that is always the same, whatever the order and the
    size of the images. Of a text each minibatch goes on from the state in which the one before left off, though that
    was another child's, as in ENAS.

    Weights that many share suit none of them: with `tune`, a copy of an architecture's is trained alone for some steps
    before it is scored, all on the same minibatches. Rounds, rewards and gains know nothing of that.

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
    scoring_options = frozenset({"tune", "tune_lr", "flops_bonus"})
    epochs_are_free = False  # they are the rounds

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int = 0,
        weights: str | None = None,
        tune: int | None = None,
        tune_lr: float | None = None,
        sampling: Literal["uniform", "fair"] | None = None,
        flops_bonus: float | None = None,
        **training: Any,
    ) -> None:
        """Makes an evaluator; data and device are looked at in `prepare`.

        Args:
            recipe: A name (`nastool list recipes`) or a file; by default the data set's. Its epochs are the rounds; its
                batch_size is that of the policy's phase, too.
            seed: Seed of the weights' initialisation and of uniform sampling.
            weights: Checkpoint of a supernet from an earlier run (`RUN/checkpoints/supernet.safetensors`), which is
                then not trained any further.
            tune: Number of steps for which an architecture is trained alone before it is scored, in [1, 100000]; the
                shared weights stay as they are. By default none.
            tune_lr: Learning rate of the first of these steps, in (0, 10], from where it falls to 0 in half a cosine;
                by default 0.4 of the recipe's.
            sampling: Of the children that train the weights, where no strategy's policy draws them: each by itself
                (uniform), by default, or in sets in which each option of a decision occurs equally often, one set a
                step on the same minibatch (fair; Chu et al., ICCV 2021), which takes so many times as long.
            flops_bonus: What an architecture gains for each factor of e in FLOPs (from 10^6 on), in [0, 10], in units
                of the loss. With it the metric shared_score, the gain less the shared loss, is the objective, and
                likelihoods that a policy learns from are multiplied by exp(gain): weights that others share say too
                little good of operations that have many, as these learn slowly. By default the recipe's, mostly none.
        """
        super().__init__(space, **training)
        self._fits = self._fits and weights is None  # with those, it is their batch_size
        self._batch_given = training.get("batch_size") is not None
        if self.recipe.average:
            raise InputError("average: shared weights are not averaged; give 0")
        if tune is not None and not 1 <= tune <= 100_000:
            raise ValueError(f"need 1 <= tune <= 100,000, got {tune}")
        if tune_lr is not None and not 0 < tune_lr <= 10:
            raise ValueError(f"need 0 < tune_lr <= 10, got {tune_lr}")
        if tune_lr is not None and not tune:
            raise ValueError("tune_lr is the learning rate of tune steps: give tune, too")
        self.recipe = self.recipe.replace(flops_bonus=flops_bonus)
        self.bonus = flops_bonus is not None or self.recipe.flops_bonus > 0
        if self.bonus:
            self.objective, self.metrics = "shared_score", self.metrics | {"shared_score"}
        self.seed = seed
        self.fair = sampling == "fair"
        self.tune = tune or 0
        self.tune_lr = 0.4 * self.recipe.lr if tune_lr is None else tune_lr
        self.weights = weights
        self.rounds = self.recipe.epochs if weights is None else None
        self.make_policy: Callable[[SearchSpace, Mapping[str, Any], int], Policy] | None = None
        """Makes the untrained policy of the strategy that searches (`HasPolicy.make_policy`); set by the run."""
        self._shared: SharedWeights | None = None
        self._one_pass: OnePass | None = None
        self._network_costs: NetworkCosts | None = None

    # --- before the first trial

    def prepare(self) -> None:
        """Also read `weights`, if given. InputError: they are missing, damaged, or of other options.

        InputError: there is one validation example, whose statistics would be those of a batch.
        """
        super().prepare()
        if len(self.val_batches) < 2:
            raise InputError(
                f"{self.data.name}: shared weights are scored with the statistics of a batch of validation "
                f"{self.task.noun}s, and there is only one: give more, or a larger part of the training "
                f"{self.task.noun}s with -E val_fraction="
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

    def estimate_all(self, proposals: Sequence[Proposal]) -> list[float]:
        """Seconds of each: rounds and then scores, or all training with the first score."""
        training, score = self._costs(proposals[0])
        if proposals[0].policy is not None:
            return [score if proposal.policy is None else training + score for proposal in proposals]
        return [training * (self.rounds or 0) + score, *[score] * (len(proposals) - 1)]

    def _costs(self, proposal: Proposal) -> tuple[float, float]:
        """Seconds of a round (with the policy's phase, if any) but for its score, and of a score; from a short look."""
        import torch

        from nastool.nets.networks import detached

        self.prepare()
        network = self.supernet()
        training = self.training(network, self.recipe.replace(epochs=MAX_EPOCHS), self.seed)
        generator = torch.Generator().manual_seed(0)
        rng = np.random.default_rng(0)

        def child() -> Arch:
            arch = self.space.sample(rng)
            network.select(arch)
            return arch

        with self.reproducible(0):
            trainer = Counting(training.steps, generator)
            cost, often = 0.0, 1.0
            if proposal.policy is not None:
                given: Any = proposal.policy
                policy = self._new_policy(given["options"], 0)
                often = 1 / self.recipe.epochs if isinstance(policy, LearningLast) else 1.0
                start = time.perf_counter()
                policy.round(trainer)
                cost = often * (time.perf_counter() - start)
            mixture = None if trainer.step is None or isinstance(trainer.step, Arch) else detached(trainer.step)
            training.alone = mixture is not None
            steps = training.forever(lambda _: network.select(mixture or child()))
            step = seconds_of_one(steps, self.synchronize)
            fair = float(self.fair) if proposal.policy is None else 0.0
            if proposal.policy is not None and isinstance(policy, BeginsFairly):
                fair = policy.fair_share
            cost += step * training.steps * (1 + fair * (len(fair_set(self.space, rng)) - 1))
            training.alone = False
            if mixture is not None and self.tune:
                step = seconds_of_one(training.forever(lambda _: network.select(child())), self.synchronize)
            score = seconds_of_one((self._on_validation(network) for _ in range(10) if child()), self.synchronize)
            cost += often * trainer.predicted * score
            if proposal.policy is not None:
                batch = next(self.val_batches.minibatches(self.recipe.batch_size, generator))
                if trainer.look is not None:
                    network.train()
                    network.select(trainer.look)
                    passes = (training.loss(batch).backward() for _ in range(100))  # type: ignore[no-untyped-call]
                    cost += seconds_of_one(passes, self.synchronize) * trainer.looks
                asked = trainer.asked
                at_once = asked[0] if asked and self.device.type == "cuda" else 1

                def reward() -> object:
                    return self.rewards(network, [child() for _ in range(at_once)], batch)

                with self.frozen(network):
                    rewards = often * sum(asked) + 2 * PAIRS * isinstance(policy, Sampling)
                    cost += seconds_of_one((reward() for _ in range(100)), self.synchronize) * rewards / at_once
        return cost, score + self.tune * step

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
                    metrics, policy = self._policy_round(shared, proposal, seed, report)
                else:
                    while shared.done < self.recipe.epochs and self.weights is None:
                        self._uniform_round(shared, report)
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

    def _policy_round(
        self, shared: SharedWeights, proposal: Proposal, seed: int, report: Report
    ) -> tuple[dict[str, float], Mapping[str, object]]:
        """Train weights and policy, once each. A round that is in the checkpoint already is not trained again."""
        import torch

        given: Any = proposal.policy
        number = int(given["round"])
        policy = shared.policy
        if policy is None:
            try:
                policy = shared.with_policy(self._new_policy(given["options"], self.seed))
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
        metrics = self._round(shared, policy, proposal.arch, seed, weights_seed, generator)
        _check(metrics, shared)
        learnt = policy.conclude(self.recipe.epochs - shared.done, generator)
        notes = {} if learnt.frequencies is None else {"frequencies": learnt.frequencies}
        shared.told = {"metrics": metrics, "policy": {**learnt.to_json(), **notes}}
        self._save_shared(shared)
        report(shared.done, metrics)
        return metrics, shared.told["policy"]

    def _new_policy(self, options: Mapping[str, Any], seed: int) -> Policy:
        if self.make_policy is None:
            raise InputError("a proposal with a policy came from a strategy that has none")
        return self.make_policy(self.space, options, seed)

    def _children(self, rng: np.random.Generator) -> list[Arch]:
        """Those of a step of the weights, where no policy draws them."""
        return fair_set(self.space, rng) if self.fair else [self.space.sample(rng)]

    def _uniform_round(self, shared: SharedWeights, report: Report) -> None:
        """Without a strategy's policy: its draws are those of the seed and of how far the weights have come."""
        import torch

        rng = np.random.default_rng([self.seed, shared.done])
        policy = Drawn([self._children(rng) for _ in shared.steps])
        seed, weights_seed = (int(rng.integers(2**62)) for _ in range(2))
        metrics = self._round(shared, policy, policy.children[-1][-1], seed, weights_seed, torch.Generator())
        self._save_shared(shared)
        report(shared.done, metrics)

    def _round(
        self, shared: SharedWeights, policy: Policy, arch: Arch, seed: int, weights_seed: int, draws: torch.Generator
    ) -> dict[str, float]:
        """One epoch, which the policy drives; the metrics of an architecture after it, and what was reported."""
        with self.reproducible(seed):
            reported = shared.epoch(weights_seed, draws, policy.round)
            found = {**self._measured(shared, arch), **reported}
            if isinstance(policy, Sampling):
                pairs = LAST_PAIRS if shared.done == self.recipe.epochs else PAIRS
                found.update(shared.gain(policy, pairs, seeds(seed)[2]))
            return found

    def rewards(self, network: Network, archs: Sequence[Arch], batch: Batch, likelihood: bool = False) -> list[float]:
        """The task's reward of each architecture on one batch; 0 where its output is no number any more.

        likelihood: see `Trainer.rewards`.
        """
        import torch

        def worth(outputs: Sequence[Any]) -> torch.Tensor:
            if not likelihood:
                return self.task.rewards(outputs, batch)
            losses = [self.task.step(lambda *_: output, batch, None, self.recipe).loss for output in outputs]  # noqa: B023
            return torch.stack(losses).double().neg().exp()

        with self.frozen(network) as children, self.cudnn(), self.autocast():
            (inputs,) = self.task.inputs(batch)
            if self.device.type == "cuda":
                found: list[float] = worth(children.logits(archs, inputs)).tolist()
            else:
                found = children.logits(archs, inputs, then=lambda output: worth([output]).item())
        if likelihood and self.recipe.flops_bonus:
            found = [value * math.exp(self._gain(arch)[0]) for arch, value in zip(archs, found, strict=True)]
        return [value if math.isfinite(value) else 0.0 for value in found]

    def _score(self, shared: SharedWeights, arch: Arch) -> dict[str, float]:
        if not self.tune:
            found = self._measured(shared, arch)
            _check(found, shared)
            return found
        with self.reproducible(self.seed):
            found = self._with_bonus(arch, self._on_validation(self._tuned(shared, arch)))
        if not math.isfinite(loss := found["shared_loss"]):
            raise Diverged(f"diverged: validation loss is {loss} after {self.tune} steps alone; lower tune_lr")
        return found

    def _tuned(self, shared: SharedWeights, arch: Arch) -> nn.Module:
        """The network of an architecture with a copy of its shared weights, trained alone for `tune` steps."""
        from nastool.nets.networks import use_batch_statistics

        network = self.build(arch, self.seed)
        use_batch_statistics(network)
        network.load_state_dict(shared.network.child_state(arch))
        recipe = self.recipe.replace(
            epochs=1, lr=self.tune_lr, final_lr=0.0, schedule="cosine", warmup_epochs=0.0, restart_epochs=0
        )
        training = self.training(network, recipe, self.seed, annealing=(0.0, len(shared.steps) / self.tune))
        for _ in islice(training.forever(), self.tune):
            pass
        return network

    def _measured(self, shared: SharedWeights, arch: Arch) -> dict[str, float]:
        shared.network.select(arch)
        return self._with_bonus(arch, self._on_validation(shared.network))

    def _with_bonus(self, arch: Arch, metrics: dict[str, float]) -> dict[str, float]:
        if not self.bonus:
            return metrics
        gain, flops = self._gain(arch)
        return {**metrics, "shared_score": gain - metrics["shared_loss"], "flops": flops}

    def _gain(self, arch: Arch) -> tuple[float, float]:
        """What its FLOPs bring an architecture, and these."""
        from nastool.nets.costs import NetworkCosts

        if self._network_costs is None:
            self._network_costs = NetworkCosts(self.space, self.task, self.scale)
        flops = self._network_costs.of(arch, ("flops",))["flops"]
        return self.recipe.flops_bonus * math.log(max(flops, 1.0) / 1e6), flops

    def _on_validation(self, network: nn.Module) -> dict[str, float]:
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
            self.drawn(network)
        use_batch_statistics(network)
        self.placed(network)
        return network

    @property
    def checkpoint(self) -> Path | None:
        return None if self.workdir is None else self.workdir / "checkpoints" / "supernet.safetensors"

    def _load(self) -> SharedWeights:
        """As the checkpoint has them, or untrained."""
        network = self.supernet()
        training = self.training(network, self.recipe, self.seed)
        shared = SharedWeights(
            network,
            training,
            self.val_batches,
            partial(self.frozen, network),
            lambda archs, batch, likelihood: self.rewards(network, archs, batch, likelihood),
        )
        path = path_of(self.weights) if self.weights is not None else self.checkpoint
        if path is not None and (self.weights is not None or path.is_file()):
            whose = self._identity()
            if self.weights is not None:
                del whose["seed"]
            state = shared.read(path, whose, str(self.device))
            if self.weights is not None and not self._batch_given:
                self.recipe = self.recipe.replace(batch_size=state.get("batch_size"))
        return shared

    def _save_shared(self, shared: SharedWeights) -> None:
        if self.checkpoint is not None:
            shared.write(self.checkpoint, self._identity())

    def _identity(self) -> dict[str, str]:
        """Whose weights they are."""
        return {
            "space": self.space.ref.canonical_json,
            "scale": json.dumps(vars(self.scale)),
            "task": json.dumps(self.task.to_json()),
            "seed": str(self.seed),
        }


def _check(metrics: Mapping[str, float], shared: SharedWeights) -> None:
    """Diverged: the loss is not finite."""
    if not math.isfinite(loss := metrics["shared_loss"]):
        raise Diverged(f"diverged: validation loss is {loss} after epoch {shared.done}; lower lr")
