"""Trains each architecture from scratch and measures it on the validation data."""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nastool.core.errors import CannotGoOn, Diverged, InputError, short, why
from nastool.core.evaluator import Report
from nastool.core.recipe import MAX_EPOCHS, Recipe
from nastool.core.space import SearchSpace
from nastool.core.task import Attackable, Task
from nastool.core.values import Arch, Evaluation, Proposal
from nastool.ensembles import stored
from nastool.nets import checkpoints
from nastool.nets.checkpoints import Checkpoint
from nastool.nets.inheritance import inherited
from nastool.training.evaluator import TrainingEvaluator
from nastool.training.loop import Training, seconds_of_one, seeds
from nastool.training.unfinished import Unfinished

if TYPE_CHECKING:
    from torch import Tensor

PAUSED = "paused.safetensors"
"""The artifact that a training leaves which ends early."""
_Ways = tuple[Unfinished, Unfinished | None, Unfinished | None]
CALIBRATION = 512
"""How many training examples the statistics of new channels are taken from."""
COUNTED = 200
"""Of so many proposals at most the FLOPs are counted to tell what all of them take."""
TYPICAL = (0.0, 0.5, 1.0)
"""Which of these are looked at, by their place in the order of FLOPs: the others' times lie between theirs."""


class Train(TrainingEvaluator):
    """Training by a recipe, from scratch or from weights at hand; the budget is the number of epochs.

    Metrics: those of the task on the validation data after the last epoch (the best of the last ones, if the recipe's
    `best_of` says so), for images val_acc in [0, 1] and val_loss in nats (without label smoothing); params; flops of
    one example. With all_data none is left for validation: then train_loss, the mean of the last epoch's training
    losses (with label smoothing), takes the place of the first. They are the same for the same arguments on the same
    device model with the same number of CPU threads. The test data are looked at by `test` alone. Where memory ran out,
    batches are split and gradients accumulated; then micro_batches says into how many parts. It is the same training up
    to rounding, but for batch normalisation, which takes the statistics of a part.

    A training that ends early (`Proposal.fidelity`) keeps to the whole one's schedule. It leaves weights, what the
    optimiser remembers and the states of the random generators in a file, with which another trial goes on: bit for
    bit as if it had never paused. Where that file was not kept, the other is trained from its beginning.
    """

    name = "train"
    provides = frozenset({"budget", "warm-start", "ensemble", "fidelity"})
    also_measured = frozenset({"params", "flops"})
    metrics = frozenset({"val_acc", "val_loss"}) | also_measured
    local_options = TrainingEvaluator.local_options | {"from_checkpoint", "predictions"}  # its content is what counts

    def __init__(
        self,
        space: SearchSpace,
        *,
        from_checkpoint: str | None = None,
        all_data: bool = False,
        attack: str | None = None,
        shift: str | None = None,
        predictions: bool | None = None,
        **more: Any,
    ) -> None:
        """Makes an evaluator; data and device are looked at in `prepare`.

        Args:
            from_checkpoint: File of weights from which each training begins that inherits from no other trial; of the
                same architecture, or of one from which it can grow without a change of its function.
            all_data: Train on the validation images, too, as one does last of all; nothing can be chosen by these
                results.
            attack: How test images are attacked, by one who knows the network's weights: fgsm or pgd, with options such
                as pgd:eps=8/255,steps=20,step=2/255,random_start=true, in pixels from 0 (black) to 1 (white).
            shift: How test images are shifted, at five severities each: noise, blur, contrast, brightness, several with
                commas, or all.
            predictions: Keep what a network says of the validation data beside its weights, where these are kept, for
                `nastool ensemble`; by default where these are classes, and take at most 64 MB a network.
        """
        super().__init__(space, **more)
        self._changes = (attack, shift)
        if (attack or shift) is not None:
            if not issubclass(self.family, Attackable):
                what = " and ".join(name for name, spec in (("attack", attack), ("shift", shift)) if spec is not None)
                kind = f"{short(self._data_name, 100)} is for {self.family.kind()}"
                raise InputError(f"{what}: only images are attacked and shifted, and {kind}: leave it out")
            self.family.check_robustness(attack, shift)
        self._predictions_wanted = predictions
        if all_data:
            self._data_options |= self._checked(all_data=True)
            self.objective = "train_loss"
            self.metrics = frozenset({"train_loss"}) | self.also_measured
        self._from_checkpoint = from_checkpoint
        if from_checkpoint is not None:
            _digest_of(from_checkpoint)

    @classmethod
    def resolved(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """The recipe's values, and what the file is that training begins from."""
        found = dict(super().resolved(options))
        if options["from_checkpoint"] is not None:
            found["from_checkpoint"] = _digest_of(options["from_checkpoint"])
        return found

    def prepare(self) -> None:
        super().prepare()
        if self._changes != (None, None) and self.test_batches is None:
            raise InputError("attack and shift change test images, and these data have none: leave them out")
        if self._predictions_wanted and not self._classes:
            raise InputError(f"predictions: networks for {short(self.data.name, 100)} say no classes; leave it out")
        if self._from_checkpoint is not None and self._beginning is None:
            path = Path(self._from_checkpoint)
            self._beginning = checkpoints.read(path, self.space, self.scale, self.task, str(self.device))

    _beginning: Checkpoint | None = None
    """What from_checkpoint names, once prepared."""

    def estimate(self, proposal: Proposal) -> float | None:
        """Seconds, extrapolated from about a second of training and one of validation (after `prepare`)."""
        self.prepare()
        once, epoch = self._costs(proposal)
        return once + self._last(proposal) * epoch

    def estimate_all(self, proposals: Sequence[Proposal]) -> list[float]:
        """Seconds of each: some are looked at that are typical by their FLOPs, and others lie between these."""
        self.prepare()
        every = math.ceil(len(proposals) / COUNTED)
        flops = [self._flops(proposal.arch) for proposal in proposals[::every]]
        order = np.argsort(flops)
        looked_at = sorted({int(order[round(share * (len(order) - 1))]) for share in TYPICAL}, key=flops.__getitem__)
        sizes = [flops[i] for i in looked_at]
        costs = np.array([self._costs(proposals[every * i]) for i in looked_at])
        once, epochs = (np.interp([flops[i // every] for i in range(len(proposals))], sizes, each) for each in costs.T)
        return [float(once[i] + self._last(proposal) * epochs[i]) for i, proposal in enumerate(proposals)]

    def _flops(self, arch: Arch) -> int:
        import torch

        from nastool.nets.costs import count_flops
        from nastool.nets.networks import build

        with torch.device("meta"):
            return count_flops(build(self.space, arch, self.task, self.scale), self.task)

    def _costs(self, proposal: Proposal) -> tuple[float, float]:
        """Seconds to begin, and of an epoch with its validation, from a short look."""
        start = time.perf_counter()
        with self.reproducible(0):
            network = self.build(proposal.arch, 0)
            training = self.training(network, self._recipe(proposal).replace(epochs=MAX_EPOCHS), 0)
            once = time.perf_counter() - start
            epoch = training.steps * seconds_of_one(training.forever(), self.synchronize)
            if len(self.val_batches):
                validations = (self.measure(network, self.val_batches, self.prefix) for _ in range(100))
                epoch += seconds_of_one(validations, self.synchronize)
            return once, epoch

    # --- one trial

    def evaluate(self, trial_id: int, proposal: Proposal, *, seed: int, report: Report) -> Evaluation:
        """Train, reporting train_loss and, with images for it, val_acc and val_loss after every epoch. seed: >= 0.

        TrialFailed: the loss is not finite, the GPU's memory is too small. CannotGoOn: the checkpoint cannot be
        written, or the parent's cannot be read.
        """
        start = time.perf_counter()
        self.prepare()
        recipe = self._recipe(proposal)
        with self.saying_what_helps(), self.reproducible(seed):
            training = self._begin(proposal, recipe, seed)
            last = self._last(proposal)
            found = self._fit(training, report, self._unfinished(trial_id, proposal, recipe, seed), last)
            network = training.network
            whole = last == recipe.epochs
            said = self.predictions(network, self.val_batches) if whole and self._keeps_predictions else None
            notes = self.notes(network, self.val_batches, said) if whole else {}
        checkpoint, artifacts = None, {}
        if self.workdir is not None and not whole:
            artifacts[PAUSED] = checkpoints.artifact_of(trial_id, PAUSED)
        elif self.workdir is not None:
            checkpoint = self.save(network, trial_id, proposal.arch, training.memory() if proposal.inherit else None)
            if said is not None:
                self._keep(checkpoint, said, seed)

        from nastool.nets.costs import count_flops
        from nastool.nets.networks import count_params

        metrics = {name: value for name, value in found.items() if name in self.metrics}
        metrics |= {"params": count_params(network), "flops": count_flops(network, self.task)}
        if training.micro_batches > 1:
            metrics["micro_batches"] = training.micro_batches
        return Evaluation(metrics, time.perf_counter() - start, checkpoint, artifacts=artifacts, notes=notes)

    @property
    def _keeps_predictions(self) -> bool:
        """Whether those of a trial stay; once prepared."""
        if self.workdir is None or not len(self.val_batches) or not self._classes:
            return False
        few = stored.size(len(self.val_batches), self._classes) <= stored.MOST
        return few if self._predictions_wanted is None else self._predictions_wanted

    @property
    def _classes(self) -> int:
        """How many classes networks tell apart; 0: they say something else."""
        return 0 if type(self.task).predict is Task.predict else int(getattr(self.task, "classes", 0))

    def _keep(self, checkpoint: str, said: Tensor, seed: int) -> None:
        """Write the predictions of a checkpoint's network; where the disk is full, do without."""
        import torch

        assert self.workdir is not None
        labels = torch.cat([batch[-1] for batch in self.val_batches.in_order()]).cpu().numpy()
        about = {"fingerprint": self.data.fingerprint, "seed": str(seed), "data": self._data_name}
        about["options"] = json.dumps(self._data_options)
        with suppress(OSError):
            stored.write(self.workdir / checkpoint, said.numpy(), labels, about)

    def test(self, proposal: Proposal, evaluation: Evaluation) -> Mapping[str, float]:
        """test_acc and test_loss of the checkpoint; {} without checkpoint or test images.

        With attack also test_robust_acc and test_robust_loss. With shift test_shifted_acc, the mean over kinds and
        severities, test_noise_acc, ..., over severities, test_severity1_acc to 5, over kinds; and the same of losses.

        InputError: the checkpoint is missing, damaged, or of another architecture or scale.
        """
        self.prepare()
        if evaluation.checkpoint is None or self.workdir is None or self.test_batches is None:
            return {}
        with self.saying_what_helps():
            network = self.load(proposal.arch, evaluation.checkpoint)
            found = self.measure(network, self.test_batches, "test")
            if self._changes != (None, None):
                assert isinstance(self.task, Attackable)
                with self.measuring(network, attacked=True):
                    more = self.task.robustness(network, self.test_batches, *self._changes, self.micro_batches)
                found |= {f"test_{name}": value for name, value in more.items()}
            return found

    def _recipe(self, proposal: Proposal) -> Recipe:
        budget = proposal.budget
        if budget is None:
            return self.recipe
        if not (math.isfinite(budget) and budget == int(budget) and budget >= 1):
            raise InputError(f"budget: need a whole number of epochs >= 1, got {budget}")
        return self.recipe.replace(epochs=int(budget))

    def _last(self, proposal: Proposal) -> int:
        """The number of the epoch after which the training ends."""
        whole, last = self._recipe(proposal).epochs, proposal.fidelity
        if last is None:
            return whole
        if not (last == int(last) and 1 <= last < whole):
            raise InputError(f"fidelity: need a whole number of epochs from 1 to {whole - 1}, got {last}")
        return int(last)

    def _begin(self, proposal: Proposal, recipe: Recipe, seed: int) -> Training:
        """A training about to start: from scratch, or from the weights and the memory that the network inherits."""
        network = self.build(proposal.arch, seed)
        training = self.training(network, recipe, seed, proposal.annealing)
        ancestor = self._ancestor(proposal)
        if ancestor is not None:
            inheritance = inherited(self.space, ancestor.arch, proposal.arch, self.task, self.scale)
            inheritance.apply(network, ancestor.weights)
            if inheritance.identity or inheritance.fresh:
                inheritance.calibrate(network, *self._calibration_inputs(seed))
            training.optimizer.remember(inheritance.expand(ancestor.memory, network))
        return training

    def _ancestor(self, proposal: Proposal) -> Checkpoint | None:
        """The checkpoint that the training begins from. CannotGoOn: the parent's cannot be read."""
        if not proposal.inherit or proposal.parent is None:
            if self._beginning is not None:
                self._check_beginning(self._beginning.arch, proposal.arch)
            return self._beginning
        if self.workdir is None:
            raise InputError("weights are handed down in a run folder, and there is none")
        path = self.workdir / checkpoints.name_of(proposal.parent)
        try:
            return checkpoints.read(path, self.space, self.scale, self.task, str(self.device), trial=proposal.parent)
        except InputError as error:
            remedy = f"put the checkpoint of trial {proposal.parent} back, or begin anew with --force"
            raise CannotGoOn(f"{error}: {remedy}") from error

    def _check_beginning(self, given: Arch, wanted: Arch) -> None:
        """CannotGoOn: from_checkpoint is of an architecture that cannot become the wanted one as it is."""
        if not inherited(self.space, given, wanted, self.task, self.scale).exact:
            raise CannotGoOn(
                f"checkpoint {self._from_checkpoint} is of architecture {given.key}, which cannot become {wanted.key} "
                "without a change of its function: give a checkpoint of that architecture"
            )

    def _calibration_inputs(self, seed: int) -> tuple[Tensor, ...]:
        """Of up to CALIBRATION training examples, drawn at random."""
        import torch

        generator = torch.Generator().manual_seed(seeds(seed)[1])
        return self.task.inputs(self.train_batches.some(CALIBRATION, generator))

    def _unfinished(self, trial_id: int, proposal: Proposal, recipe: Recipe, seed: int) -> _Ways:
        """What the training is kept in meanwhile, what it goes on from, and what it leaves where it ends early."""
        about = {"recipe": recipe.values(), "data": self.data.fingerprint}
        arch = proposal.arch.choices, proposal.parent, proposal.annealing
        path = None if self.workdir is None else checkpoints.training_of(self.workdir / checkpoints.name_of(trial_id))
        own = Unfinished(path, {"arch": arch, "seed": seed, **about})

        def paused(number: int | None) -> Unfinished | None:
            if number is None or self.workdir is None:
                return None
            path = self.workdir / checkpoints.artifact_of(number, PAUSED)
            return Unfinished(path, {"arch": proposal.arch.choices, **about})

        before = paused(proposal.continues)
        if proposal.continues is not None and before is None:
            raise InputError("a training goes on in a run folder, and there is none")
        return own, before, None if proposal.fidelity is None else paused(trial_id)

    def _fit(self, training: Training, report: Report, ways: _Ways, last: int) -> dict[str, float]:
        """Train until the end of epoch `last`; what was reported after it, or the best after the last few.

        ways: as of `_unfinished`.
        """
        import torch

        unfinished, source, pause = ways
        facts = unfinished.take(training)
        if facts is None and source is not None:
            facts = source.take(training)
            if facts is None and source.path is not None and source.path.is_file():
                raise CannotGoOn(
                    f"{source.path} is damaged or of another training: put it back, or begin anew with --force"
                )
        facts = facts or {"found": {}, "losses": []}
        found: dict[str, float] = facts["found"]
        losses: list[float] = facts["losses"]
        recent: list[dict[str, float]] = facts.get("recent", [])
        for epoch in range(len(losses) + 1, last + 1):
            total = torch.zeros((), device=self.device)
            for loss in training.epoch():
                total += loss
            found = {"train_loss": total.item() / training.steps}
            if len(self.val_batches):
                with training.optimizer.averaged():
                    found = {**self.measure(training.network, self.val_batches, self.prefix), **found}
            for name, what in (("train_loss", "training"), ("val_loss", "validation")):
                if not math.isfinite(found.get(name, 0)):
                    unfinished.remove()
                    raise Diverged(f"diverged: {what} loss is {found[name]} in epoch {epoch}; lower lr")
            before = losses[: -training.recipe.average_after] if training.recipe.average_after else []
            losses.append(found.get("val_loss", found["train_loss"]))
            if before and losses[-1] > min(before):
                training.optimizer.begin = min(training.optimizer.begin, training.done)
            report(epoch, found)
            recent = [*recent, found][-training.recipe.best_of :]
            if epoch < last:
                unfinished.keep(training, {"found": found, "losses": losses, "recent": recent})
        if pause is not None:
            pause.keep(training, {"found": found, "losses": losses, "recent": recent}, now=True)
        elif last == training.recipe.epochs:
            training.optimizer.take_average()
        unfinished.remove()
        known = {name: [each[name] for each in recent] for name in found if name in self.goals}
        return {**found, **{name: (max if self.goals[name] == "max" else min)(each) for name, each in known.items()}}


def _digest_of(path: str) -> str:
    """32 hexadecimal digits that name a file's content. InputError: it cannot be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
    except (OSError, ValueError) as error:
        raise InputError(f"from_checkpoint: cannot read {short(path)}: {why(error)}") from None
