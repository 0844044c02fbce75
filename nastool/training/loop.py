"""Training on images: what evaluators that train share. One device, the data on it, a recipe."""

from __future__ import annotations

import dataclasses
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from nastool import __version__
from nastool.core import archfile, files
from nastool.core.errors import InputError, OutOfMemory, TrialFailed, fault_of, short
from nastool.core.evaluator import Evaluator
from nastool.core.folders import within
from nastool.core.recipe import Recipe
from nastool.core.space import SearchSpace
from nastool.core.values import Arch, Scalar
from nastool.nets import checkpoints, devices
from nastool.tasks.images import data as datasets
from nastool.training.recipes import default_recipe, load_recipe

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from nastool.tasks.images.augment import ImageBatches


MAX_MICRO_BATCHES = 8
"""The parts that a batch is split into where memory runs out, at most; but none of a single image."""


class ImageEvaluator(Evaluator):
    """Owns a device and a data set that lies on it; builds, scores and saves networks."""

    needs = frozenset({"network"})
    local_options = frozenset({"data_dir", "download", "max_gigabytes", "device", "fuse"})
    settled_options = frozenset({"precision"})
    recipe_prefix: ClassVar[str] = ""
    """Of the names of the recipes that are taken unless told otherwise."""

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
        max_gigabytes: float = 8.0,
        recipe: str | None = None,
        epochs: int | None = None,
        batch_size: int | None = None,
        lr: float | None = None,
        scale: Mapping[str, int] | None = None,
        device: str = "auto",
        precision: Literal["auto", "fp32", "tf32", "bf16"] = "auto",
        fuse: Literal["auto", "off"] = "auto",
    ) -> None:
        """Makes an evaluator; data and device are looked at in `prepare`.

        Args:
            data: Data set, as `nastool list data` has it.
            data_dir: Folder where torchvision's files are or go, by default ~/.cache/nastool.
            download: Fetch what is missing there.
            split_seed: Seed of the choice of the training images that are for validation, >= 0.
            val_fraction: Fraction of the training images for validation, in (0, 1); by default 0.1, and 0.25 for
                digits.
            train_size: Number of training images that are kept, >= 2, drawn after the split.
            image_size: Height and width in pixels that images are resized to, from 1 to 1024.
            max_gigabytes: Most memory (10^9 bytes) that the user's own images may take, and 32 times what one of them
                may before it is resized.
            recipe: A name (`nastool list recipes`) or a file; by default the data set's.
            epochs: Number of epochs instead of the recipe's.
            batch_size: Images of a minibatch instead of the recipe's.
            lr: Learning rate instead of the recipe's.
            scale: Fields of the space's `Scale`, such as channels and cells; the others keep their defaults.
            device: "auto" (the GPU where there is one), "cpu", "cuda" or "cuda:N".
            precision: "bf16" runs the network's operations that allow it in bfloat16 (autocast), weights stay fp32;
                "tf32" lets a GPU's convolutions round their factors to 10 bits of mantissa; "fp32" does neither. "auto"
                is bf16 on a GPU that can (compute capability 8.0 or higher), fp32 on older ones and on the CPU.
            fuse: "auto" runs layers that are alike as one on a GPU, which has small networks wait for the launches of
                its kernels; "off" runs them one by one. The results differ by rounding.

        Raises:
            InputError: Something is wrong that shows without looking at data or devices.
        """
        super().__init__(space)
        self._split: dict[str, Any] = {
            "split_seed": split_seed,
            "val_fraction": val_fraction,
            "train_size": train_size,
            "image_size": image_size,
            "max_gigabytes": max_gigabytes,
        }
        datasets.check_options(data, **self._split)
        self._source: dict[str, Any] = {"name": data, "data_dir": data_dir, "download": download}
        name = recipe or default_recipe(data, self.recipe_prefix)
        self.recipe = load_recipe(name).replace(epochs=epochs, batch_size=batch_size, lr=lr)
        self.scale = space.make_scale({**self.recipe.scale_for(space.Scale), **(scale or {})})
        devices.check(device)
        if fuse not in ("auto", "off"):
            raise InputError(f"fuse: need auto or off, got {fuse!r}")
        if precision not in ("auto", "fp32", "tf32", "bf16"):
            raise InputError(f"precision: need auto, fp32, tf32 or bf16, got {precision!r}")
        self.max_micro_batches = min(MAX_MICRO_BATCHES, max(1, self.recipe.batch_size // 2))
        self._device_option = device
        self._precision = precision
        self.fuse = fuse == "auto"
        self._prepared = False

    @classmethod
    def resolved(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """The recipe's values, the options' own changes included."""
        recipe = load_recipe(options["recipe"] or default_recipe(options["data"], cls.recipe_prefix))
        changes = {name: options[name] for name in ("epochs", "batch_size", "lr")}
        return {"recipe": recipe.replace(**changes).values()}

    # --- once per process

    def prepare(self) -> None:
        """Find the device, read the data and put it there. The second time: nothing."""
        if self._prepared:
            return
        import torch

        from nastool.tasks.images.augment import ImageBatches

        self.device = _device(self._device_option)
        if self.device.type == "cpu":
            devices.keep_memory()
        self.precision = _precision(self._precision, self.device)
        self.bf16 = self.precision == "bf16"
        # Also on the CPU: NAS-Bench-201's all-nor_conv_3x3 cell on 2 threads takes 14 % less time a step than
        # contiguous at channels=16, cells=5, 32x32, batch 128, and 7 to 38 % less at channels=8, cells=1.
        self.memory_format = torch.channels_last
        self.data = datasets.load(**self._source, **self._split)

        def resident(images: datasets.Images) -> ImageBatches:
            return ImageBatches(self.data, images, self.device, self.memory_format)

        with self._room_for_data():
            self.train_images = resident(self.data.train)
            self.val_images = resident(self.data.val)
            self.test_images = resident(self.data.test) if self.data.test is not None else None
        self._prepared = True

    @contextmanager
    def _room_for_data(self) -> Iterator[None]:
        """OutOfMemory: the device has too little memory for the data; found out before, as far as can be."""
        import torch

        if self.device.type == "cpu":
            yield
            return
        parts = [part for part in (self.data.train, self.data.val, self.data.test) if part is not None]
        needed = sum(part.x.nbytes + part.y.nbytes for part in parts)

        def too_small() -> OutOfMemory:
            try:
                free, total = map(files.amount, torch.cuda.mem_get_info(self.device))
                room = f"{free} of its {total} are free"
            except RuntimeError:
                room = "nothing is free"
            name = short(self.data.name, 100)
            return OutOfMemory(
                f"the images of {name} take {files.amount(needed)} of the GPU's memory, and {room}: have fewer "
                "--workers on it, give a smaller -E image_size= or train_size=, or -E device=cpu"
            )

        try:
            if torch.cuda.mem_get_info(self.device)[0] < needed:
                raise too_small()
            yield
        except RuntimeError as error:
            if fault_of(error) == "memory":
                raise too_small() from error
            raise

    def describe(self) -> Mapping[str, Scalar]:
        import torch

        task = self.data.task
        gpu = self.device.type == "cuda"
        return {
            "device": torch.cuda.get_device_name(self.device) if gpu else f"cpu, {torch.get_num_threads()} threads",
            "precision": self.precision,
            "data": self.data.name,
            "images": f"{task.channels}x{task.height}x{task.width}, {task.classes} classes",
            "train_images": len(self.train_images),
            "val_images": len(self.val_images),
            "test_images": len(self.test_images) if self.test_images is not None else 0,
            "fingerprint": self.data.fingerprint,
            "data_digest": self.data.digest,
            **({"read": self.data.note} if self.data.note else {}),
        }

    def choose_threads(self, most: int) -> Mapping[str, Scalar]:
        """The fewest with which a training step of some network takes at most a tenth longer than with the best."""
        import torch

        if self.device.type != "cpu":
            return {}
        counts = [2**i for i in range(most.bit_length()) if 2**i < most] + [most]
        before = torch.get_num_threads()
        with self.reproducible(0):
            network = self.build(self.space.sample(np.random.default_rng(0)), 0)
            steps = Training(self, network, self.recipe.replace(epochs=1), seed=0)
            taken: dict[int, float] = {}
            for count in counts:
                torch.set_num_threads(count)
                taken[count] = _median_step(steps)
        chosen = next(count for count in counts if taken[count] <= 1.1 * min(taken.values()))
        torch.set_num_threads(chosen)
        if chosen == before:
            torch.set_num_threads(before)
        shown = ", ".join(f"{1000 * seconds:.3g} ms with {count}" for count, seconds in taken.items())
        return {"threads": chosen, "steps": shown}

    def load(self, arch: Arch, checkpoint: str) -> nn.Module:
        """The trained network of a checkpoint (relative to the run's folder), on the device. InputError."""
        assert self.workdir is not None
        path = within(self.workdir, checkpoint)
        if not path.is_file():
            raise InputError(f"no checkpoint {path}: evaluate the architecture again")
        network = self.build(arch, 0)
        try:
            weights, metadata = files.read_tensors(path, str(self.device))
            checkpoints.check_digest(path, weights, metadata)
            network.load_state_dict(weights)
        except InputError as error:
            raise InputError(f"checkpoint {path} is damaged: evaluate the architecture again") from error
        except RuntimeError as error:
            if fault_of(error) is not None:
                raise
            raise InputError(f"checkpoint {path} is of another architecture or scale than asked for") from error
        return network

    def build(self, arch: Arch, seed: int) -> nn.Module:
        """Freshly initialised, the same on every device: weights are drawn on the CPU."""
        import torch

        from nastool.nets.networks import build

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seeds(seed)[0])
            network = build(self.space, arch, self.data.task, self.scale)
        return network.to(self.device, memory_format=self.memory_format)  # type: ignore[call-overload, no-any-return]  # torch's stub

    def score(self, network: nn.Module, part: ImageBatches, mixed: int | None = None) -> tuple[float, float]:
        """Accuracy in [0, 1] and mean cross-entropy in nats.

        mixed: for networks whose output depends on the batch, images a batch at least (see `ImageBatches.mixed`).
        """
        import torch
        from torch.nn.functional import cross_entropy

        network.eval()
        correct = torch.zeros((), dtype=torch.int64, device=self.device)
        loss = torch.zeros((), dtype=torch.float64, device=self.device)
        with torch.inference_mode(), self.cudnn(), self.autocast():
            for x, y in part.in_order(parts=self.micro_batches) if mixed is None else part.mixed(mixed):
                logits = network(x).float()
                correct += (logits.argmax(1) == y).sum()
                loss += cross_entropy(logits, y, reduction="sum")
        return correct.item() / len(part), loss.item() / len(part)

    def probabilities(self, network: nn.Module, part: ImageBatches) -> Tensor:
        """Of each class, for each image: (n, classes) float32, on the CPU."""
        import torch

        network.eval()
        with torch.inference_mode(), self.cudnn(), self.autocast():
            return torch.cat([network(x).float().softmax(1).cpu() for x, _ in part.in_order(parts=self.micro_batches)])

    def autocast(self) -> AbstractContextManager[object]:
        import torch

        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bf16)

    def cudnn(self) -> AbstractContextManager[object]:
        """cuDNN's deterministic algorithms, chosen by rule and not by timing; TF32 only where it is wanted."""
        import torch

        tf32 = self.precision != "fp32"
        return torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=tf32)

    @contextmanager
    def saying_what_helps(self) -> Iterator[None]:
        """TrialFailed, with the remedy, where memory runs out meanwhile."""
        try:
            yield
        except Exception as error:
            if fault_of(error) != "memory":
                raise
            where = "GPU memory" if self.device.type == "cuda" else "memory"
            parts = f" in {self.micro_batches} parts" if self.micro_batches > 1 else ""
            reason = f"out of {where} with batch_size {self.recipe.batch_size}{parts}; lower it, or the scale"
            raise TrialFailed(reason, retry=True) from error

    @contextmanager
    def reproducible(self, seed: int) -> Iterator[None]:
        """Deterministic cuDNN; torch's global generators seeded, for networks that draw (dropout)."""
        import torch

        gpus = [self.device] if self.device.type == "cuda" else []
        with self.cudnn(), torch.random.fork_rng(devices=gpus):
            torch.manual_seed(seeds(seed)[1])
            yield

    def synchronize(self) -> None:
        if self.device.type == "cuda":
            import torch

            torch.cuda.synchronize(self.device)

    def save(self, network: nn.Module, trial_id: int, arch: Arch, momentum: Mapping[str, Tensor] | None = None) -> str:
        """Write the weights (fp32, contiguous) and what they belong to; the path relative to workdir.

        momentum: by parameter, where a child will go on from here. CannotGoOn: the disk is full, say.
        """
        assert self.workdir is not None
        metadata = {
            "nastool": __version__,
            "trial": str(trial_id),
            "arch": json.dumps(archfile.to_json(self.space, arch)),
            "scale": json.dumps(dataclasses.asdict(self.scale)),
            "task": json.dumps(dataclasses.asdict(self.data.task)),
            "classes": json.dumps(self.data.classes),
            "mean": json.dumps(self.data.mean.tolist()),
            "std": json.dumps(self.data.std.tolist()),
        }
        name = checkpoints.name_of(trial_id)
        checkpoints.write(self.workdir / name, network.state_dict(), momentum, metadata)
        return name


class Training:
    """The optimisation of one network; each call of `epoch` continues where the last one ended."""

    def __init__(
        self,
        evaluator: ImageEvaluator,
        network: nn.Module,
        recipe: Recipe,
        seed: int,
        annealing: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        """seed: of the order of the images and their augmentation. annealing: as of a `Proposal`."""
        import torch
        from torch import nn

        from nastool.nets.blocks import DropPath
        from nastool.nets.networks import training_only, undecayed

        self.network = network
        self.recipe = recipe
        self.annealing = annealing
        self.images = evaluator.train_images
        self.autocast = evaluator.autocast
        self.fuse = evaluator.fuse
        self.micro_batches = evaluator.micro_batches
        self.steps = self.images.steps(recipe.batch_size)
        self.done = 0
        self.generator = torch.Generator(evaluator.device).manual_seed(seeds(seed)[2])
        left = set() if recipe.train_auxiliary else {id(parameter) for parameter in training_only(network)}
        self.parameters = [parameter for parameter in network.parameters() if id(parameter) not in left]
        spared = {id(parameter) for parameter in undecayed(network, norms=not recipe.decay_norms)}
        groups: list[dict[str, Any]] = [
            {"params": [p for p in self.parameters if id(p) not in spared], "weight_decay": recipe.weight_decay},
            {"params": [p for p in self.parameters if id(p) in spared], "weight_decay": 0.0},
        ]
        self._random_parts = nn.ModuleList(m for m in network.modules() if isinstance(m, nn.Dropout | DropPath))
        self.optimizer = torch.optim.SGD(
            [group for group in groups if group["params"]],
            lr=recipe.lr,
            momentum=recipe.momentum,
            nesterov=recipe.nesterov,
            fused=True,
        )
        self._zeros = {p: torch.zeros_like(p) for p in self.parameters} if recipe.decay_off_path else {}
        """The gradients of what a step does not reach. Adding to zeros instead takes a launch for each parameter."""
        if recipe.momentum:
            for parameter in self.parameters:  # fused SGD fails where it has to make some of them later
                self.optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)

    def momentum(self) -> dict[str, Tensor]:
        """By parameter; {} where the recipe has none."""
        if not self.recipe.momentum:
            return {}
        state = self.optimizer.state
        return {name: state[p]["momentum_buffer"] for name, p in self.network.named_parameters() if p in state}

    def take_momentum(self, momentum: Mapping[str, Tensor]) -> None:
        """Begin with this momentum, as of `momentum`; what it does not name stays zero."""
        for name, buffer in self.momentum().items():
            if name in momentum:
                buffer.copy_(momentum[name])

    def epoch(self, prepare: Callable[[int], None] = lambda step: None) -> Iterator[torch.Tensor]:
        """The loss of every step, a scalar on the device, as the steps are taken.

        prepare: called with 0, 1, ... before each step of the epoch, such as to choose what the network executes.
        A batch in several micro_batches is drawn, augmented and, by the network's `Dropout` and `DropPath`, dropped off
        as a whole; the parts' gradients and losses are added, weighted by their images. So it is the same step up to
        rounding, but for batch normalisation, whose statistics are those of a part.
        """
        from torch.nn.utils import clip_grad_norm_

        recipe = self.recipe
        self.network.train()
        for step, (x, y) in enumerate(self.images.train(recipe, self.generator)):
            prepare(step)
            self._schedule()
            self.optimizer.zero_grad()
            loss = self._backward(x, y) if self.micro_batches == 1 else self._backward_in_parts(x, y)
            for parameter, zeros in self._zeros.items():
                if parameter.grad is None:
                    parameter.grad = zeros
            if recipe.grad_clip:
                clip_grad_norm_(self.parameters, recipe.grad_clip)
            self.optimizer.step()
            self.done += 1
            yield loss

    def _backward(self, x: Tensor, y: Tensor, share: float = 1.0) -> Tensor:
        """Add the gradients of a batch, multiplied with share; its loss."""
        from torch.nn.functional import cross_entropy

        from nastool.nets.launches import few_launches

        recipe = self.recipe
        with self.autocast(), few_launches(self.network) if self.fuse else nullcontext():
            output = self.network(x)
        logits, *auxiliary = output if isinstance(output, tuple) else (output,)
        loss = cross_entropy(logits.float(), y, label_smoothing=recipe.label_smoothing)
        total = loss
        for other in auxiliary:
            extra = cross_entropy(other.float(), y, label_smoothing=recipe.label_smoothing)
            total = total + recipe.auxiliary_weight * extra
        (total if share == 1 else share * total).backward()  # type: ignore[no-untyped-call]  # torch's stub
        return loss.detach()

    def _backward_in_parts(self, x: Tensor, y: Tensor) -> Tensor:
        """As `_backward`, in micro-batches."""
        import torch

        from nastool.nets.networks import random_for

        loss = torch.zeros((), device=x.device)
        parts = min(self.micro_batches, max(1, len(x) // 2))
        start = 0
        with random_for(self._random_parts, len(x), x.device) as of_images:
            for part, labels in zip(x.tensor_split(parts), y.tensor_split(parts), strict=True):
                of_images(start, start + len(part))
                loss += len(part) / len(x) * self._backward(part, labels, len(part) / len(x))
                start += len(part)
        return loss

    def _schedule(self) -> None:
        """Set what changes from step to step."""
        from nastool.nets.networks import regularize

        recipe = self.recipe
        for group in self.optimizer.param_groups:
            group["lr"] = recipe.learning_rate(self.done, self.steps, self.annealing)
        drop_path = recipe.drop_path * self.done / (recipe.epochs * self.steps)
        regularize(self._random_parts, dropout=recipe.dropout, drop_path=drop_path, by_depth=recipe.drop_path_by_depth)


def _median_step(training: Training) -> float:
    """Seconds of a training step, of up to five in about a second, but for the first, which takes longer."""
    times = [time.perf_counter()]
    for _ in itertools.islice(itertools.chain.from_iterable(training.epoch() for _ in range(6)), 6):
        times.append(time.perf_counter())
        if len(times) > 2 and times[-1] - times[0] > 1:
            break
    return statistics.median(np.diff(times[1:]) if len(times) > 2 else np.diff(times))


def _device(option: str) -> torch.device:
    """The device an option means, found to be there."""
    import torch

    gpus = devices.usable(devices.seen(), option) if option != "cpu" else []
    return torch.device("cuda", gpus[0].index) if gpus else torch.device("cpu")


def _precision(option: str, device: torch.device) -> str:
    """What an option means on the device: "bf16", "tf32" or "fp32". InputError: the device does not have that.

    Before compute capability 8.0 GPUs have neither bf16 nor TF32. They have fp16, but that takes scaled gradients in
    all trainings, for machines that get fewer; so there "auto" is fp32.
    """
    import torch

    gpu = device.type == "cuda"
    capability = torch.cuda.get_device_capability(device) if gpu else None
    if option == "auto":
        return devices.auto_precision(capability)
    if (capability or (0, 0)) < (8, 0) and (option == "tf32" or (option == "bf16" and gpu)):
        here = "this is the CPU"
        if capability is not None:
            here = f"{torch.cuda.get_device_name(device)} has {capability[0]}.{capability[1]}"
        other = "fp32" if gpu else "fp32 or bf16"
        raise InputError(
            f"precision={option} is for GPUs of compute capability 8.0 or higher, and {here}: give precision={other}"
        )
    return option


def seeds(seed: int) -> tuple[int, int, int]:
    """Independent seeds for the initial weights, the network's own draws, and the batches."""
    a, b, c = np.random.SeedSequence(seed).generate_state(3, np.uint64)
    return int(a), int(b), int(c)
