"""The training of one network, step by step."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from nastool.core.recipe import Recipe
from nastool.core.task import Batch, Batches, Task

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

    from nastool.training.graphs import Replayed

WORTH = 50
"""Steps of a training at least, for a recording to be worth its time."""


def seconds_of_one(work: Iterable[object], synchronize: Callable[[], None]) -> float:
    """Mean seconds of one piece of work, from about a second of it; the first does not count, since it takes longer.

    Args:
        work: Done as it is iterated over, at least two pieces; endless ones are done until the second is over.
        synchronize: Waits for the device.
    """
    taken: list[float] = []
    for _ in work:
        synchronize()
        taken.append(time.perf_counter())
        if len(taken) > 2 and taken[-1] - taken[0] > 1:
            break
    return (taken[-1] - taken[0]) / (len(taken) - 1)


class Training:
    """The optimisation of one network; each call of `epoch` continues where the last one ended."""

    def __init__(
        self,
        network: nn.Module,
        task: Task,
        batches: Batches,
        recipe: Recipe,
        generator: torch.Generator,
        *,
        annealing: tuple[float, float] = (0.0, 1.0),
        autocast: Callable[[], AbstractContextManager[object]] = nullcontext,
        fuse: bool = False,
        replay: bool = False,
        micro_batches: int = 1,
    ) -> None:
        """Takes no step yet.

        Args:
            network: On the device of the batches.
            task: What it is trained for.
            batches: What it is trained on.
            recipe: How.
            generator: Source of the order of the examples and their augmentation, of that device.
            annealing: As of a `Proposal`.
            autocast: Makes a context in which the network runs.
            fuse: Run layers that are alike as one.
            replay: The same is done in every step, on a GPU, so that it can be recorded once: see `graphs`.
            micro_batches: Number of parts that batches are split into.
        """
        import torch
        from torch import nn

        from nastool.nets.blocks import DropPath
        from nastool.nets.networks import training_only
        from nastool.nets.regularization import RANDOM
        from nastool.training.optimizers import Optimizer

        self.network = network
        self.task = task
        self.batches = batches
        self.recipe = recipe
        self.generator = generator
        self.annealing = annealing
        self.autocast = autocast
        self.fuse = fuse
        self.micro_batches = micro_batches
        self.alone = False
        """Layers run one by one in the next steps, for what cannot be fused."""
        self.steps = batches.steps(recipe)
        self.done = 0
        left = set() if recipe.train_auxiliary else {id(parameter) for parameter in training_only(network)}
        self._every = list(network.parameters())
        self.parameters = [parameter for parameter in self._every if id(parameter) not in left]
        self._left = [parameter for parameter in self._every if id(parameter) in left]
        self._moved: list[nn.Parameter] | None = None
        """Those that the last step moved, which in a supernet are few; None: unknown."""
        self.optimizer = Optimizer(network, self.parameters, recipe, self.steps)
        self._random_parts = nn.ModuleList(m for m in network.modules() if isinstance(m, RANDOM))
        self._kept: tuple[Tensor, Tensor] | None = None
        """On a GPU, of each `DropPath` the share that is kept, and how fast it falls in the course of the training."""
        if generator.device.type == "cuda" and recipe.drop_path:
            paths = [module for module in self._random_parts if isinstance(module, DropPath)]
            falls = [-recipe.drop_path * (path.depth if recipe.drop_path_by_depth else 1) for path in paths]
            self._kept = torch.ones(len(paths), device=generator.device), torch.tensor(falls, device=generator.device)
            for path, kept in zip(paths, self._kept[0], strict=True):
                path.keep = kept
        self._rate = 1.0
        """Of the step's learning rate, as the task says."""
        self._carries: dict[int, object] = {}
        """What the batch before left, for each micro-batch."""
        self._replayed: Replayed | None = None
        if replay and recipe.epochs * self.steps >= WORTH:
            from nastool.training.graphs import Replayed

            self._replayed = Replayed(self._gradients, network)

    def epoch(self, prepare: Callable[[int], None] = lambda step: None) -> Iterator[Tensor]:
        """The loss of every step, a scalar on the device, as the steps are taken.

        Args:
            prepare: Called with 0, 1, ... before each step of the epoch, such as to choose what the network executes.
        """
        for step, batch in enumerate(self.epoch_batches()):
            prepare(step)
            self.begin_step()
            loss = self.backward(batch)
            self.end_step()
            yield loss

    def forever(self, prepare: Callable[[int], None] = lambda step: None) -> Iterator[Tensor]:
        """As `epoch`, one after the other without end, to see how long steps take."""
        while True:
            yield from self.epoch(prepare)

    def epoch_batches(self) -> Iterator[Batch]:
        """The batches of one epoch, for whoever takes its steps: `begin_step`, `backward` once or more, `end_step`."""
        self.network.train()
        self._carries = {}
        return self.batches.train(self.recipe, self.generator)

    def begin_step(self) -> None:
        """Sets what changes from step to step, and forgets the gradients."""
        import torch

        from nastool.nets.regularization import regularize

        recipe = self.recipe
        progress = self.done / (recipe.epochs * self.steps)
        regularize(
            self._random_parts,
            dropout=recipe.dropout,
            drop_path=recipe.drop_path * progress,
            by_depth=recipe.drop_path_by_depth,
            places=recipe.text.dropout,
        )
        if self._kept is not None:
            kept, falls = self._kept
            torch.mul(falls, progress, out=kept).add_(1)
        for parameter in self._every if self._moved is None else [*self._moved, *self._left]:
            parameter.grad = None
        self._moved = None

    def backward(self, batch: Batch, share: float = 1.0) -> Tensor:
        """Adds a batch's gradients, multiplied with share; its loss, a scalar without gradient.

        A batch in several micro_batches is drawn, augmented and, by the network's `Dropout` and `DropPath`, dropped off
        as a whole; the parts' gradients and losses are added, weighted by their examples. So it is the same step up to
        rounding, but for batch normalisation, whose statistics are those of a part.
        """
        import torch

        from nastool.nets.regularization import random_for

        if self.micro_batches == 1:
            return self._backward(batch, share, 0)
        count, device = len(batch[0]), batch[0].device
        loss = torch.zeros((), device=device)
        parts = min(self.micro_batches, max(1, count // 2))
        start = 0
        with random_for(self._random_parts, count, device) as of_examples:
            for i, part in enumerate(zip(*(tensor.tensor_split(parts) for tensor in batch), strict=True)):
                size = len(part[0])
                of_examples(start, start + size)
                loss += size / count * self._backward(part, share * size / count, i)
                start += size
        return loss

    def _backward(self, batch: Batch, share: float, part: int) -> Tensor:
        work = self._replayed or self._gradients if share == 1 else partial(self._gradients, share=share)
        loss, self._carries[part], self._rate = work(batch, self._carries.get(part))
        return loss

    def _gradients(self, batch: Batch, carry: object, share: float = 1.0) -> tuple[Tensor, object, float]:
        """Adds a batch's gradients; its loss, what it leaves for the next, and of what learning rate it is to be."""
        step = self.task.step(self.called, batch, carry, self.recipe)
        total = step.loss if step.extra is None else step.loss + step.extra
        (total if share == 1 else share * total).backward()  # type: ignore[no-untyped-call]  # torch's stub
        return step.loss.detach(), step.carry, step.rate

    def loss(self, batch: Batch) -> Tensor:
        """The task's loss on a batch, a scalar with gradients."""
        return self.task.step(self.called, batch, None, self.recipe).loss

    def called(self, *inputs: Any) -> Any:
        """The network's output, in the precision and with the few launches of training."""
        from nastool.nets.launches import few_launches

        with self.autocast(), few_launches(self.network) if self.fuse and not self.alone else nullcontext():
            return self.network(*inputs)

    def end_step(self) -> None:
        """Moves the weights along the gradients that were added."""
        from torch.nn.utils import clip_grad_norm_

        self._moved = moved = [parameter for parameter in self.parameters if parameter.grad is not None]
        if self.recipe.grad_clip:
            clip_grad_norm_(moved, self.recipe.grad_clip)
        lr = self.recipe.learning_rate(self.done, self.steps, self.annealing)
        self.optimizer.step(moved, self._rate * lr, self.done)
        self.done += 1

    def exploded(self) -> bool:
        """Whether the gradients of a network with a state are not finite, as where states grow from word to word."""
        from torch.nn.utils import get_total_norm

        if all(carry is None for carry in self._carries.values()):
            return False
        norm = get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        return not bool(norm.isfinite())

    def bound_state(self) -> None:
        """Scales the state of each text that is carried on to a mean square of at most 1, if it is larger."""
        self._carries = {part: _bounded(carry) for part, carry in self._carries.items()}

    def skip_step(self) -> None:
        """Instead of `end_step`: leaves the weights as they are, and forgets the state."""
        self._carries = {}
        self.done += 1

    def memory(self) -> dict[str, Tensor]:
        """What the optimiser remembers, by parameter; see `Optimizer.memory`."""
        return self.optimizer.memory()

    def resume(self, memory: Mapping[str, Tensor], done: int) -> None:
        """Goes on after `done` steps of this very training, whose weights the network has.

        Raises:
            KeyError: The memory is of another network.
        """
        self.optimizer.remember(memory, resumed=True)
        self.done = done


def _bounded(state: Any) -> Any:
    """A state, a tensor or tuple of tensors (N, ...), in which no example has a mean square of more than 1."""
    if isinstance(state, tuple):
        return tuple(map(_bounded, state))
    if state is None:
        return None
    square = state.float().square().flatten(1).mean(1).clamp(min=1)
    return state / square.sqrt().to(state.dtype).view(-1, *[1] * (state.dim() - 1))


def seeds(seed: int) -> tuple[int, int, int]:
    """Independent seeds for the initial weights, the network's own draws, and the batches."""
    a, b, c = np.random.SeedSequence(seed).generate_state(3, np.uint64)
    return int(a), int(b), int(c)
