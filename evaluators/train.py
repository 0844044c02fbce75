"""Trains each architecture from scratch and measures it on the validation images."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from nastool import __version__, archfile
from nastool import data as datasets
from nastool.core import Arch, Evaluation, Proposal, Scalar
from nastool.errors import InputError, TrialFailed
from nastool.interfaces import Evaluator, Report, SearchSpace
from nastool.recipes import Recipe, default_recipe, load_recipe

if TYPE_CHECKING:
    import torch
    from torch import nn

    from nastool.augment import ImageBatches


class Train(Evaluator):
    """Training from scratch with SGD, by a recipe; the budget is the number of epochs.

    Metrics: val_acc in [0, 1], val_loss in nats (without label smoothing), both after the last epoch; params;
    flops of one image. They are the same for the same arguments on the same device model with the same number
    of CPU threads. The test images are looked at by `test` alone.
    """

    name = "train"
    needs = frozenset({"network"})
    provides = frozenset({"budget"})
    metrics = frozenset({"val_acc", "val_loss", "params", "flops"})
    local_options = frozenset({"data_dir", "download", "device"})

    def __init__(
        self,
        space: SearchSpace,
        *,
        data: str = "digits",
        data_dir: str | None = None,
        download: bool = False,
        split_seed: int = 0,
        val_fraction: float | None = None,
        train_size: int | None = None,
        image_size: int | None = None,
        recipe: str | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        scale: Mapping[str, int] | None = None,
        device: str = "auto",
        precision: Literal["auto", "fp32", "bf16"] = "auto",
    ) -> None:
        """InputError for whatever is wrong without looking at data or devices.

        data .. image_size: as for `nastool.data.load`.
        recipe: name or path, as for `nastool.recipes.load_recipe`; None: the data set's default.
        epochs, batch_size, lr: instead of the recipe's.
        scale: fields of the space's `Scale`, such as channels and cells; the others keep their defaults.
        device: "auto" (the GPU where there is one), "cpu", "cuda" or "cuda:N".
        precision: "bf16" runs the network's operations that allow it in bfloat16 (autocast), weights stay
            fp32; "auto" is bf16 on a GPU and fp32 on the CPU.
        """
        super().__init__(space)
        self._split: dict[str, Any] = {
            "split_seed": split_seed,
            "val_fraction": val_fraction,
            "train_size": train_size,
            "image_size": image_size,
        }
        datasets.check_options(data, **self._split)
        self._source: dict[str, Any] = {"name": data, "data_dir": data_dir, "download": download}
        self.recipe = load_recipe(recipe or default_recipe(data)).replace(epochs=epochs, batch_size=batch_size, lr=lr)
        self.scale = space.make_scale(scale or {})
        if not re.fullmatch(r"auto|cpu|cuda(:\d{1,3})?", device):
            raise InputError(f"device: need auto, cpu, cuda or cuda:N, got {device!r}")
        if precision not in ("auto", "fp32", "bf16"):
            raise InputError(f"precision: need auto, fp32 or bf16, got {precision!r}")
        self._device_option = device
        self._precision = precision
        self._prepared = False

    @classmethod
    def resolved(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """The recipe's values, the options' own changes included."""
        recipe = load_recipe(options["recipe"] or default_recipe(options["data"]))
        changes = {name: options[name] for name in ("epochs", "batch_size", "lr")}
        values = dataclasses.asdict(recipe.replace(**changes))
        return {"recipe": {name: value for name, value in values.items() if name != "description"}}

    # --- once per process

    def prepare(self) -> None:
        """Find the device, read the data and put it there. The second time: nothing."""
        if self._prepared:
            return
        import torch

        from nastool.augment import ImageBatches

        self.device = _device(self._device_option)
        self.bf16 = self._precision == "bf16" or (self._precision == "auto" and self.device.type == "cuda")
        # Also on the CPU: NAS-Bench-201's all-nor_conv_3x3 cell on 2 threads takes 14 % less time a step than
        # contiguous at channels=16, cells=5, 32x32, batch 128, and 7 to 38 % less at channels=8, cells=1.
        self.memory_format = torch.channels_last
        self.data = datasets.load(**self._source, **self._split)

        def resident(images: datasets.Images) -> ImageBatches:
            return ImageBatches(self.data, images, self.device, self.memory_format)

        self._train = resident(self.data.train)
        self._val = resident(self.data.val)
        self._test = resident(self.data.test) if self.data.test is not None else None
        self._prepared = True

    def describe(self) -> Mapping[str, Scalar]:
        import torch

        task = self.data.task
        gpu = self.device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self.device) if gpu else f"cpu, {torch.get_num_threads()} threads",
            "precision": "bf16" if self.bf16 else "fp32",
            "data": self.data.name,
            "images": f"{task.channels}x{task.height}x{task.width}, {task.classes} classes",
            "train_images": len(self._train),
            "val_images": len(self._val),
            "test_images": len(self._test) if self._test is not None else 0,
            "fingerprint": self.data.fingerprint,
        }

    def estimate(self, proposal: Proposal) -> float | None:
        """Seconds, extrapolated from about a second of training and one validation (after `prepare`)."""
        self.prepare()
        recipe = self._recipe(proposal)
        with self._reproducible(0):
            network = self._network(proposal.arch, 0)
            steps = self._train.steps(recipe.batch_size)
            training = _Training(self, network, dataclasses.replace(recipe, epochs=1), seed=0)
            taken = []
            for _ in training.epoch():
                self._synchronize()
                taken.append(time.perf_counter())
                if len(taken) > 2 and taken[-1] - taken[0] > 1:
                    break
            per_step = (taken[-1] - taken[0]) / (len(taken) - 1) if len(taken) > 1 else 0.0
            start = time.perf_counter()
            self._score(network, self._val)
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
            with self._reproducible(seed):
                network = self._network(proposal.arch, seed)
                accuracy, loss = self._fit(network, recipe, seed, report)
        except torch.OutOfMemoryError as error:
            reason = f"out of GPU memory with batch_size {recipe.batch_size}; lower it, or the scale"
            raise TrialFailed(reason, retry=True) from error
        checkpoint = self._save(network, trial_id, proposal.arch) if self.workdir is not None else None

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
        if evaluation.checkpoint is None or self.workdir is None or self._test is None:
            return {}
        accuracy, loss = self._score(self.load(proposal.arch, evaluation.checkpoint), self._test)
        return {"test_acc": accuracy, "test_loss": loss}

    def load(self, arch: Arch, checkpoint: str) -> nn.Module:
        """The trained network of a checkpoint (relative to the run's folder), on the device."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        assert self.workdir is not None
        path = self.workdir / checkpoint
        if not path.is_file():
            raise InputError(f"no checkpoint {path}: evaluate the architecture again")
        network = self._network(arch, 0)
        try:
            network.load_state_dict(load_file(path, device=str(self.device)))
        except (OSError, SafetensorError) as error:
            raise InputError(f"checkpoint {path} is damaged: evaluate the architecture again") from error
        except RuntimeError as error:
            raise InputError(f"checkpoint {path} is of another architecture or scale than asked for") from error
        return network

    def _recipe(self, proposal: Proposal) -> Recipe:
        budget = proposal.budget
        if budget is None:
            return self.recipe
        if not (math.isfinite(budget) and budget == int(budget) and budget >= 1):
            raise InputError(f"budget: need a whole number of epochs >= 1, got {budget}")
        return self.recipe.replace(epochs=int(budget))

    def _network(self, arch: Arch, seed: int) -> nn.Module:
        """Freshly initialised, the same on every device: weights are drawn on the CPU."""
        import torch

        from nastool.networks import build

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_seeds(seed)[0])
            network = build(self.space, arch, self.data.task, self.scale)
        return network.to(self.device, memory_format=self.memory_format)  # type: ignore[call-overload, no-any-return]  # torch's stub

    def _fit(self, network: nn.Module, recipe: Recipe, seed: int, report: Report) -> tuple[float, float]:
        """Train; validation accuracy and loss after the last epoch."""
        import torch

        training = _Training(self, network, recipe, seed)
        for epoch in range(1, recipe.epochs + 1):
            total = torch.zeros((), device=self.device)
            for loss in training.epoch():
                total += loss
            train_loss = total.item() / training.steps
            if not math.isfinite(train_loss):
                raise TrialFailed(f"diverged: training loss is {train_loss} in epoch {epoch}; lower lr")
            accuracy, val_loss = self._score(network, self._val)
            if not math.isfinite(val_loss):
                raise TrialFailed(f"diverged: validation loss is {val_loss} in epoch {epoch}; lower lr")
            report(epoch, {"val_acc": accuracy, "val_loss": val_loss, "train_loss": train_loss})
        return accuracy, val_loss

    def _score(self, network: nn.Module, part: ImageBatches) -> tuple[float, float]:
        """Accuracy in [0, 1] and mean cross-entropy in nats."""
        import torch
        from torch.nn.functional import cross_entropy

        network.eval()
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        with torch.inference_mode(), _cudnn(), self._autocast():
            for x, y in part.in_order():
                logits = network(x).float()
                correct += (logits.argmax(1) == y).sum()
                loss += cross_entropy(logits, y, reduction="sum")
        return correct.item() / len(part), loss.item() / len(part)

    def _autocast(self) -> AbstractContextManager[object]:
        import torch

        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    @contextmanager
    def _reproducible(self, seed: int) -> Iterator[None]:
        """Deterministic cuDNN; torch's global generators seeded, for networks that draw (dropout)."""
        import torch

        gpus = [self.device] if self.device.type == "cuda" else []
        with _cudnn(), torch.random.fork_rng(devices=gpus):
            torch.manual_seed(_seeds(seed)[1])
            yield

    def _synchronize(self) -> None:
        if self.device.type == "cuda":
            import torch

            torch.cuda.synchronize(self.device)

    def _save(self, network: nn.Module, trial_id: int, arch: Arch) -> str:
        """Write the weights (fp32, contiguous) and what they belong to; the path relative to workdir."""
        import torch
        from safetensors.torch import save

        assert self.workdir is not None
        tensors = {}
        for key, value in network.state_dict().items():
            dtype = torch.float32 if value.is_floating_point() else value.dtype
            copy = value.detach().to("cpu", dtype, copy=True, memory_format=torch.contiguous_format)
            tensors[key] = copy
        metadata = {
            "nastool": __version__,
            "arch": json.dumps(archfile.to_json(self.space, arch)),
            "scale": json.dumps(dataclasses.asdict(self.scale)),
            "task": json.dumps(dataclasses.asdict(self.data.task)),
            "classes": json.dumps(self.data.classes),
            "mean": json.dumps(self.data.mean.tolist()),
            "std": json.dumps(self.data.std.tolist()),
        }
        name = f"checkpoints/trial-{trial_id:06d}.safetensors"
        path = self.workdir / name
        new = path.with_name(path.name + ".new")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                with open(new, "wb") as file:
                    file.write(save(tensors, metadata))
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(new, path)
            except OSError:
                new.unlink(missing_ok=True)
                raise
        except OSError as error:
            raise TrialFailed(
                f"cannot write checkpoint {path}: {error.strerror or error}; free some space, then run again"
            ) from error
        return name


class _Training:
    """The optimisation of one network; each call of `epoch` continues where the last one ended."""

    def __init__(self, evaluator: Train, network: nn.Module, recipe: Recipe, seed: int) -> None:
        import torch

        self.network = network
        self.recipe = recipe
        self.images = evaluator._train
        self.autocast = evaluator._autocast
        self.steps = self.images.steps(recipe.batch_size)
        self.done = 0
        self.generator = torch.Generator(evaluator.device).manual_seed(_seeds(seed)[2])
        self.parameters = list(network.parameters())
        self.optimizer = torch.optim.SGD(
            self.parameters,
            lr=recipe.lr,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            weight_decay=recipe.weight_decay,
            fused=True,
        )

    def epoch(self) -> Iterator[torch.Tensor]:
        """The loss of every step, a scalar on the device, as the steps are taken."""
        from torch.nn.functional import cross_entropy
        from torch.nn.utils import clip_grad_norm_

        self.network.train()
        for x, y in self.images.shuffled(self.recipe, self.generator):
            self.optimizer.param_groups[0]["lr"] = self.recipe.learning_rate(self.done, self.steps)
            with self.autocast():
                logits = self.network(x)
            loss = cross_entropy(logits.float(), y, label_smoothing=self.recipe.label_smoothing)
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]  # torch's stub
            if self.recipe.grad_clip:
                clip_grad_norm_(self.parameters, self.recipe.grad_clip)
            self.optimizer.step()
            self.done += 1
            yield loss.detach()


def _device(option: str) -> torch.device:
    """The device an option means, found to be there."""
    import torch

    count = torch.cuda.device_count() if option != "cpu" else 0
    if option == "cpu" or (option == "auto" and not count):
        return torch.device("cpu")
    index = int(option.partition(":")[2] or 0)
    if not count:
        raise InputError(f"device {option}: no CUDA device is visible; give device=cpu")
    if index >= count:
        raise InputError(f"device {option}: there are {count} CUDA devices, numbered from 0; give a lower number")
    return torch.device("cuda", index)


def _cudnn() -> AbstractContextManager[object]:
    """cuDNN's deterministic algorithms, chosen by rule and not by timing."""
    import torch

    return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True)


def _seeds(seed: int) -> tuple[int, int, int]:
    """Independent seeds for the initial weights, the network's own draws, and the batches."""
    a, b, c = np.random.SeedSequence(seed).generate_state(3, np.uint64)
    return int(a), int(b), int(c)
