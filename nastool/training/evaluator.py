"""Evaluators that train: one device, the data on it, a recipe."""

from __future__ import annotations

import itertools
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from nastool.core import files, options, registry
from nastool.core.errors import InputError, OutOfMemory, TrialFailed, fault_of, short
from nastool.core.evaluator import Evaluator
from nastool.core.folders import within
from nastool.core.recipe import Recipe
from nastool.core.space import SearchSpace, make_scale
from nastool.core.task import Batches, Data, Task
from nastool.core.values import METRICS, Arch, Scalar
from nastool.nets import checkpoints, devices
from nastool.tasks.supervised import Balance, Predicts
from nastool.training.hardware import device_of, precision_of
from nastool.training.loop import Training, seeds
from nastool.training.recipes import default_recipe, load_recipe

if TYPE_CHECKING:
    from torch import Tensor, nn

MAX_MICRO_BATCHES = 8
"""The parts that a batch is split into where memory runs out, at most; but none of a single example."""


class TrainingEvaluator(Evaluator):
    """Owns a device and a data set that lies on it; builds, measures and saves networks, whatever their task."""

    needs = frozenset({"network"})
    imports: ClassVar[tuple[str, ...]] = (
        "torch",
        "nastool.evaluators.train",
        "nastool.nets.networks",
        "nastool.training.optimizers",
    )
    local_options = frozenset({"data_dir", "download", "max_gigabytes", "device", "fuse"})
    settled_options = frozenset({"precision", "batch_size", "epochs"})
    micro_batches = 1
    epochs_are_free: ClassVar[bool] = True
    """Nothing is planned with the recipe's epochs before the data are read."""
    recipe_prefix: ClassVar[str] = ""
    """Of the names of the recipes that are taken unless told otherwise."""
    prefix: ClassVar[str] = "val"
    """What stands before the names of the task's metrics."""
    also_measured: ClassVar[frozenset[str]] = frozenset()
    """Metrics that are not the task's."""
    data: Data
    task: Task

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
        target: str | None = None,
        predict: Predicts = None,
        balance: Balance = None,
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
            split_seed: Seed of the choice of the training examples that are for validation, >= 0.
            val_fraction: Fraction of the training examples for validation, in (0, 1); by default 0.1, of fewer than 500
                so much that 50 are for validation, but at most 0.25; and 0.25 for digits.
            train_size: Number of training examples that are kept, >= 2, drawn after the split; of texts the first.
            image_size: Height and width in pixels that images are resized to, from 1 to 1024; by default those of a
                folder that have several sizes are, to the median of their sides, from 8 to 32.
            max_gigabytes: Most memory (10^9 bytes) that the user's own files may take, and 32 times what one image
                may before it is resized.
            target: Name of the column of a table that is to be said of each row; by default one that is called so
                (target, label, class, y), or the last.
            predict: What is said of each example, classes or numbers; by default what the data look like: numbers with
                fractions, and of a table's column also more than 20 different ones, are numbers.
            balance: "measure" makes balanced accuracy the objective, the mean over the classes of the accuracy on each;
                "weigh" also counts each class alike in the training loss, however many examples it has.
            recipe: A name (`nastool list recipes`) or a file; by default the data set's. Where few examples make fewer
                steps than it wants (150, mostly), batch_size is halved, down to 16, and then there are more epochs; not
                so where epochs or batch_size are given.
            epochs: Number of epochs instead of the recipe's.
            batch_size: Examples of a minibatch instead of the recipe's.
            lr: Learning rate instead of the recipe's.
            scale: Fields of the space's `Scale`, such as channels and cells; the others keep their defaults.
            device: "auto" (the GPU where there is one), "cpu", "cuda" or "cuda:N".
            precision: "bf16" runs the network's operations that allow it in bfloat16 (autocast), weights stay fp32;
                "tf32" lets a GPU's convolutions round their factors to 10 bits of mantissa; "fp32" does neither. "auto"
                is bf16 on a GPU that can (compute capability 8.0 or higher), fp32 on older ones and on the CPU.
            fuse: "auto" runs layers that are alike as one on a GPU, and records training steps that are the same every
                time (CUDA graphs), since small networks wait there for the launches of their kernels; "off" does
                neither. The results differ by rounding.

        Raises:
            InputError: Something is wrong that shows without looking at data or devices.
        """
        super().__init__(space)
        self.family: type[Task] = registry.task_for(data)
        """The task, of no particular shapes yet."""
        if space.tasks.isdisjoint(getattr(cls, "name", "") for cls in self.family.__mro__):
            fit = f"space {space.name} has networks for {', '.join(sorted(space.tasks))}"
            raise InputError(
                f"{fit}, and {short(data, 100)} is for {self.family.kind()}: give other data, or no --space"
            )
        self._data_name = data
        self._data_options = self._checked(
            data_dir=data_dir,
            download=download,
            split_seed=split_seed,
            val_fraction=val_fraction,
            train_size=train_size,
            image_size=image_size,
            max_gigabytes=max_gigabytes,
            target=target,
            predict=predict,
            balance=balance,
        )
        self.family.check(data, **self._data_options)
        name = recipe or default_recipe(data, self.recipe_prefix)
        self.recipe = load_recipe(name).replace(epochs=epochs, batch_size=batch_size, lr=lr)
        """In `prepare` it is fitted to few examples, unless epochs or batch_size are given."""
        self._fits = epochs is None and batch_size is None
        self._fitted = ""
        self.scale = make_scale(space, {**self.recipe.scale_for(space.Scale), **(scale or {})})
        devices.check(device)
        if fuse not in ("auto", "off"):
            raise InputError(f"fuse: need auto or off, got {fuse!r}")
        if precision not in ("auto", "fp32", "tf32", "bf16"):
            raise InputError(f"precision: need auto, fp32, tf32 or bf16, got {precision!r}")
        self._device_option = device
        self._precision = precision
        self.fuse = self.replays = fuse == "auto"
        self._prepared = False
        goals, objective = self.family.goals(data, **self._data_options)
        self.goals = {f"{self.prefix}_{name}": goal for name, goal in goals.items()}
        self.metrics = frozenset(self.goals) | self.also_measured
        self.objective = f"{self.prefix}_{objective}"
        if self.objective not in METRICS:
            self.objective += f":{goals[objective]}"

    def _checked(self, **given: Any) -> dict[str, Any]:
        """Those of a task's options that are not as by default. InputError: the task of the data has no such option."""
        known = options.of(TrainingEvaluator)
        changed = {name: value for name, value in given.items() if name not in known or value != known[name].default}
        for name in changed.keys() - self.family.data_options:
            raise InputError(f"{name}: data for {self.family.kind()} has no such option")
        return changed

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
        self.device = device_of(self._device_option)
        if self.device.type == "cpu":
            devices.keep_memory()
        self.precision = precision_of(self._precision, self.device)
        self.bf16 = self.precision == "bf16"
        self.data = self.family.load(self._data_name, **self._data_options)
        self.task = self.data.task
        if self._precision == "auto" and self.task.exact and self.bf16:
            self.precision, self.bf16 = ("tf32" if self.device.type == "cuda" else "fp32"), False
        with self._room_for_data():
            train, val = (self.data.batches(part, self.device) for part in ("train", "val"))
            assert train is not None and val is not None
            self.train_batches, self.val_batches = train, val
            self.test_batches = self.data.batches("test", self.device)
        if self._fits:
            self._fit_recipe()
        self._prepared = True

    def _fit_recipe(self) -> None:
        """Fits the recipe to few examples (`Recipe.on_few`)."""
        read = self.recipe
        self.recipe = own = read.on_few(self.train_batches.steps, self.epochs_are_free)
        pairs = (("batch_size", read.batch_size, own.batch_size), ("epochs", read.epochs, own.epochs))
        if changes := [f"{name} {now} instead of {before}" for name, before, now in pairs if now != before]:
            few = f"{len(self.train_batches):,} training examples make few steps by the recipe"
            self._fitted = f"{few}, so {', '.join(changes)}; give either, and both are as you say"

    @property
    def max_micro_batches(self) -> int:
        return min(MAX_MICRO_BATCHES, max(1, self.recipe.batch_size // 2))

    @contextmanager
    def _room_for_data(self) -> Iterator[None]:
        """OutOfMemory: the device has too little memory for the data; found out before, as far as can be."""
        import torch

        if self.device.type == "cpu":
            yield
            return
        needed = self.data.nbytes

        def too_small() -> OutOfMemory:
            try:
                free, total = map(files.amount, torch.cuda.mem_get_info(self.device))
                room = f"{free} of its {total} are free"
            except RuntimeError:
                room = "nothing is free"
            sizes = [f"{each}=" for each in ("image_size", "train_size") if each in self.family.data_options]
            smaller = f"give a smaller -E {' or '.join(sizes)}, " if sizes else ""
            what = f"the {self.family.name} of {short(self.data.name, 100)}"
            return OutOfMemory(
                f"{what} take {files.amount(needed)} of the GPU's memory, and {room}: have fewer --workers on it, "
                f"{smaller}or -E device=cpu"
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

        gpu = self.device.type == "cuda"
        recipe = self.recipe
        return {
            "device": torch.cuda.get_device_name(self.device) if gpu else f"cpu, {torch.get_num_threads()} threads",
            "precision": self.precision,
            "batch_size": recipe.batch_size,
            "epochs": recipe.epochs,
            "training_steps": recipe.epochs * self.train_batches.steps(recipe),
            "data": self.data.name,
            **self.data.describe(),
            **({"fitted": self._fitted} if self._fitted else {}),
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
            steps = self.training(network, self.recipe.replace(epochs=1), 0)
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
            return self.placed(self.drawn(build(self.space, arch, self.task, self.scale)))

    def drawn(self, network: nn.Module) -> nn.Module:
        """The network, its weights drawn anew where the recipe says how."""
        from torch.nn.init import uniform_

        if bound := self.recipe.text.init:
            for parameter in network.parameters():
                uniform_(parameter, -bound, bound)
        return network

    def placed(self, network: nn.Module) -> nn.Module:
        """The network on the device, its weights laid out as is fastest for the task."""
        import torch

        # Also on the CPU: NAS-Bench-201's all-nor_conv_3x3 cell on 2 threads takes 14 % less time a step than
        # contiguous at channels=16, cells=5, 32x32, batch 128, and 7 to 38 % less at channels=8, cells=1.
        layout = torch.channels_last if self.family.channels_last else torch.preserve_format
        return network.to(self.device, memory_format=layout)  # type: ignore[call-overload, no-any-return]  # torch's stub

    def training(
        self, network: nn.Module, recipe: Recipe, seed: int, annealing: tuple[float, float] = (0.0, 1.0)
    ) -> Training:
        """A training of a network, about to start. seed: of the order of the examples and their augmentation."""
        import torch

        from nastool.training.graphs import same_every_step

        return Training(
            network,
            self.task,
            self.train_batches,
            recipe,
            torch.Generator(self.device).manual_seed(seeds(seed)[2]),
            annealing=annealing,
            autocast=self.autocast,
            fuse=self.fuse,
            replay=self.replays and self.device.type == "cuda" and same_every_step(network, self.task),
            micro_batches=self.micro_batches,
        )

    def measure(self, network: nn.Module, part: Batches, prefix: str, mixed: int | None = None) -> dict[str, float]:
        """The task's metrics on a part of the data.

        Args:
            network: On the device.
            part: At least one example.
            prefix: What is put before the names of the metrics: "val".
            mixed: For networks whose output depends on the batch, examples a batch at least (see `Batches.mixed`).
        """
        with self.measuring(network):
            batches = part.in_order(parts=self.micro_batches) if mixed is None else part.mixed(mixed)
            return {f"{prefix}_{name}": value for name, value in self.task.measure(network, batches).items()}

    def notes(self, network: nn.Module, part: Batches, said: Tensor | None = None) -> Mapping[str, object]:
        """As of `Task.notes`; {} without examples. said: its `predictions`, so that it need not run again."""
        if not len(part):
            return {}
        place = 0

        def again(x: Tensor, *more: Tensor) -> Tensor:
            nonlocal place
            assert said is not None
            place += len(x)
            return said[place - len(x) : place].to(x.device)

        with self.measuring(network):
            return self.task.notes(network if said is None else again, part.in_order(parts=self.micro_batches))

    def predictions(self, network: nn.Module, part: Batches) -> Tensor:
        """What the network says of each example, on the CPU; see `Task.predict`."""
        with self.measuring(network):
            return self.task.predict(network, part.in_order(parts=self.micro_batches))

    @contextmanager
    def measuring(self, network: nn.Module, attacked: bool = False) -> Iterator[None]:
        """Meanwhile the network, in evaluation mode, runs without gradients in the precision that is wanted.

        attacked: An attack may ask for gradients, which autocast's copies of weights made in inference mode forbid.
        """
        import torch

        network.eval()
        with torch.no_grad() if attacked else torch.inference_mode(), self.cudnn(), self.autocast():
            yield

    def autocast(self) -> AbstractContextManager[object]:
        from nastool.nets import precision

        return precision.autocast(self.device.type) if self.bf16 else nullcontext()

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

    def save(self, network: nn.Module, trial_id: int, arch: Arch, memory: Mapping[str, Tensor] | None = None) -> str:
        """Write the weights (fp32, contiguous) and what they belong to; the path relative to workdir.

        memory: the optimiser's, where a child will go on from here. CannotGoOn: the disk is full, say.
        """
        assert self.workdir is not None
        about = self.data.metadata()
        return checkpoints.save(self.workdir, trial_id, network, self.space, arch, self.scale, self.task, about, memory)


def _median_step(training: Training) -> float:
    """Seconds of a training step, of up to five in about a second, but for the first, which takes longer."""
    times = [time.perf_counter()]
    for _ in itertools.islice(itertools.chain.from_iterable(training.epoch() for _ in range(6)), 6):
        times.append(time.perf_counter())
        if len(times) > 2 and times[-1] - times[0] > 1:
            break
    return statistics.median(np.diff(times[1:]) if len(times) > 2 else np.diff(times))
