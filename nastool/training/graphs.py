"""Training steps replayed as one CUDA graph: a small network on a large GPU waits for the launches of its kernels."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn

from nastool.core.task import Batch, Task

EAGER = 3
"""Steps on batches of one shape that are taken as ever before one is recorded: until then things are made that stay."""
ROOM = 3
"""So many times the memory of a step is to be free: a recording keeps its own, and validation needs some beside it."""
AGREES = 0.01
"""How far, relative to its norm, what is replayed may be from what is computed as ever: some kernels add up anyhow."""
Found = tuple[Tensor, Any, float]
Work = Callable[[Batch, Any], Found]
"""Adds a batch's gradients to the parameters', none of which is there yet.

It is given a batch and what the one before left, and returns the loss, what it leaves, and a number that depends on
shapes alone.
"""


class Replayed:
    """Work on a GPU that is recorded once and then replayed: the same kernels in the same order, launched at once.

    What the host does within it is done once, so it must be the same in every step; see `same_every_step`. The next
    step after the recording is taken both ways, and only if they agree, it is used. Batches of another shape than the
    recorded are worked on as ever, and so are all, where nothing can be recorded.
    """

    def __init__(self, work: Work, network: nn.Module) -> None:
        """Records nothing yet."""
        self.work = work
        self.network = network
        self.refused: str | None = None
        """Why nothing is replayed."""
        self._taken: dict[object, int] = {}
        self._recording: Recording | None = None
        self._trusted = False

    def __call__(self, batch: Batch, carry: Any) -> Found:
        if self.refused is not None:
            return self.work(batch, carry)
        shape = _shape((batch, carry))
        if self._recording is None:
            taken = self._taken[shape] = self._taken.get(shape, 0) + 1
            if taken > EAGER:
                self._record(shape, batch, carry)
        elif self._recording.shape == shape:
            return self._recording.replay(batch, carry) if self._trusted else self._compared(batch, carry)
        return self.work(batch, carry)

    def _record(self, shape: object, batch: Batch, carry: Any) -> None:
        if not _has_room(batch[0].device):
            self.refused = "too little memory is free"
            return
        try:
            self._recording = Recording(self.work, self.network, shape, batch, carry)
        except RuntimeError as error:  # something waits for the device, say
            self.refused = str(error)
        _taken_gradients(self.network)

    def _compared(self, batch: Batch, carry: Any) -> Found:
        """The step as ever, and replayed on the same weights, statistics and draws."""
        assert self._recording is not None
        device, buffers = batch[0].device, [buffer for buffer in self.network.buffers() if buffer is not None]
        before, drawn = [buffer.clone() for buffer in buffers], _generator(device).get_state()
        found = self.work(batch, carry)
        right = self._results(found, buffers)
        gradients = _taken_gradients(self.network)
        after = _generator(device).get_state()
        _put(before, buffers)
        _generator(device).set_state(drawn)
        replayed = self._results(self._recording.replay(batch, carry), buffers)
        drawn_alike = bool((_generator(device).get_state() == after).all())
        self._trusted = drawn_alike and len(right) == len(replayed) and all(map(_agree, right, replayed))
        if not self._trusted:
            self._recording, self.refused = None, "a recorded step does not do what the step does"
        _generator(device).set_state(after)
        _put(right[-len(buffers) :] if buffers else [], buffers)
        for parameter, gradient in zip(self.network.parameters(), gradients, strict=True):
            parameter.grad = gradient
        return found

    def _results(self, found: Found, buffers: Sequence[Tensor]) -> list[Tensor]:
        """Copies of all that a step is to find."""
        loss, carry, _ = found
        gradients = [p.grad.flatten().float() for p in self.network.parameters() if p.grad is not None]
        return [torch.cat(gradients), *(each.clone() for each in (loss, *_tensors(carry), *buffers))]


class Recording:
    """One step, recorded."""

    def __init__(self, work: Work, network: nn.Module, shape: object, batch: Batch, carry: Any) -> None:
        self.shape = shape
        self.read = [tensor.clone() for tensor in _tensors((batch, carry))]
        self.graph = torch.cuda.CUDAGraph()
        own = iter(self.read)
        own_batch, own_carry = (_with(own, each) for each in (batch, carry))
        _taken_gradients(network)
        pool = torch.cuda.graph_pool_handle()
        try:
            with torch.cuda.graph(self.graph, pool=pool, capture_error_mode="thread_local"):
                self.loss, self.carry, self.rate = work(own_batch, own_carry)
        except RuntimeError:
            self.graph.reset()
            _forget(batch[0].device, pool)
            raise
        self.gradients = [(p, p.grad) for p in network.parameters() if p.grad is not None]

    def replay(self, batch: Batch, carry: Any) -> Found:
        for own, given in zip(self.read, _tensors((batch, carry)), strict=True):
            own.copy_(given)
        self.graph.replay()
        for parameter, gradient in self.gradients:
            parameter.grad = gradient
        return self.loss.clone(), self.carry, self.rate


def _taken_gradients(network: nn.Module) -> list[Tensor | None]:
    """Those of all parameters, which have none any more."""
    found = []
    for parameter in network.parameters():
        found.append(parameter.grad)
        parameter.grad = None
    return found


def _has_room(device: torch.device) -> bool:
    """Whether there is ROOM for what steps have taken so far, beyond what stays between them."""
    stays = torch.cuda.memory_allocated(device)
    free = torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - stays
    return free >= ROOM * (torch.cuda.max_memory_allocated(device) - stays)


def _forget(device: torch.device, pool: Any) -> None:
    """Has torch's generator and allocator go on: those of 2.11 stay as they were within a recording that failed."""
    generator = _generator(device)
    generator.graphsafe_set_state(generator.clone_state())
    with suppress(RuntimeError, AttributeError):  # those of 2.14 have done so when the graph was reset
        torch._C._cuda_endAllocateToPool(torch.cuda.current_device() if device.index is None else device.index, pool)


def same_every_step(network: nn.Module, task: Task) -> bool:
    """Whether a training step is the same every time, as those of torch's and nastool's own modules and tasks are.

    Not so where a network chooses what it runs, and unknown of others' modules, which may draw on the host, say.
    """
    from nastool.nets.networks import OneOf, Subset, Supernet

    parts = [task, *network.modules()]
    own = all(type(part).__module__.partition(".")[0] in ("torch", "nastool") for part in parts)
    return own and not any(isinstance(part, OneOf | Subset | Supernet) for part in parts)


def _agree(one: Tensor, other: Tensor) -> bool:
    """Whether they are equal, up to rounding."""
    if one.shape != other.shape:
        return False
    a, b = one.double(), other.double()
    return bool((a - b).norm() <= AGREES * a.norm() + 1e-6 * a.numel() ** 0.5)


def _put(values: Sequence[Tensor], tensors: Sequence[Tensor]) -> None:
    for value, tensor in zip(values, tensors, strict=True):
        tensor.copy_(value)


def _generator(device: torch.device) -> torch.Generator:
    """The one that networks on it draw from."""
    if device.type == "cuda":
        torch.cuda.init()  # type: ignore[no-untyped-call]  # torch's stub
        return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]
    return torch.default_generator


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif tree is not None:
        for each in tree:
            yield from _tensors(each)


def _with(tensors: Iterator[Tensor], tree: Any) -> Any:
    """A tree like this one, with these tensors."""
    if isinstance(tree, Tensor):
        return next(tensors)
    return None if tree is None else tuple(_with(tensors, each) for each in tree)


def _shape(tree: Any) -> object:
    if isinstance(tree, Tensor):
        return tree.shape, tree.dtype
    return None if tree is None else tuple(map(_shape, tree))
