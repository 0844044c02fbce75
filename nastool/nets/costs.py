"""What a network costs: parameters, FLOPs, latency and memory of one example, before it is trained."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Collection, Iterable
from math import prod
from statistics import quantiles
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from nastool.core.costs import SPREAD
from nastool.core.values import Arch
from nastool.nets import networks
from nastool.nets.blocks import Join
from nastool.nets.networks import evaluating

if TYPE_CHECKING:
    from nastool.core.space import SearchSpace
    from nastool.core.task import Task

WARM = 3
"""Runs before the latency is measured."""
RUNS = (9, 60)
"""Fewest and most runs of which the latency is the median; no more once they took SECONDS."""
SECONDS = 0.1
FEW = 100
"""So many combinations of options a part of a supernet may depend on to be remembered as a whole."""
MOST_KNOWN = 100_000
"""So many operations on shapes are remembered."""
COMPARED = 3
"""Architectures whose counts a supernet has to give as their own networks do, before it is believed."""


class NetworkCosts:
    """Costs of a space's networks for a task, at a scale, in fp32 and evaluation mode, of one example.

    - params: trainable parameters, without what only training needs, such as an auxiliary head.
    - flops: 2 x the multiply-adds of convolutions and linear layers.
    - memory_mb: most memory that the forward pass needs at a time, in 10^6 bytes: all parameters and buffers, and the
      tensors that are alive together, the input included. What a kernel needs while it runs (cuDNN's workspaces, say)
      is not in it, nor what the device takes for itself.
    - latency_ms: wall time of a forward pass on the device, the median of 9 to 60 runs after 3 others, on the CPU with
      so many threads; latency_spread_ms: between its quartiles.

    All but the latency are found on the meta device, which computes nothing; networks that cannot run there run on the
    CPU. Where the space has a supernet, it is built once instead of each network, as that takes longest.
    """

    def __init__(self, space: SearchSpace, task: Task, scale: Any, device: Any = "cpu", threads: int = 1) -> None:
        """Nothing is built yet. device, threads: of the latency."""
        self.space = space
        self.task = task
        self.scale = scale
        self.device = torch.device(device)
        self.threads = threads
        self._supernet: networks.Supernet | None = None
        self._own: dict[int, tuple[int, int]] = {}
        """Of each module of the supernet, by id: number of its own parameters, bytes with its buffers."""
        self._parts: dict[int, tuple[str, ...]] = {}
        """Modules of the supernet that are looked at as a whole, by id: the decisions that they depend on."""
        self._whole: dict[object, tuple[int, int]] = {}
        """The same as `_own` of these with what they contain, by id and options."""
        self._counter: Flops | None = None
        """The one that counts now, where nothing else is looked at."""
        self._before: dict[Arch, dict[str, float]] | None = {} if "supernet" in space.provides else None
        """What the first architectures cost, to be compared; None: there is no supernet to be believed."""

    def of(self, arch: Arch, names: Collection[str]) -> dict[str, float]:
        """The costs of these names, of those above; with the latency its spread."""
        found: dict[str, float] = {}
        if not {"params", "flops", "memory_mb"}.isdisjoint(names):
            found = self._counted(arch, names)
        if "latency_ms" in names:
            found["latency_ms"], found[SPREAD] = self.latency(arch)
        return found

    # --- counts

    def _counted(self, arch: Arch, names: Collection[str]) -> dict[str, float]:
        if self._before is not None and len(self._before) == COMPARED:
            self._begin_sharing(self._before)
        if self._supernet is not None:
            return self._in_supernet(arch, names)
        try:
            with torch.device("meta"):
                network = networks.build(self.space, arch, self.task, self.scale)
            found = self._run(network, names)
        except (NotImplementedError, RuntimeError):  # it looks at values, say
            with torch.random.fork_rng(devices=[]):
                found = self._run(networks.build(self.space, arch, self.task, self.scale), names)
        if self._before is not None:
            self._before[arch] = found
        return found

    def _run(self, network: nn.Module, names: Collection[str]) -> dict[str, float]:
        network.eval()
        own = _owned(network.modules()).values()
        return self._forward(network, networks.count_params(network), sum(size for _, size in own), names)

    def _forward(self, network: nn.Module, params: int, size: int, names: Collection[str]) -> dict[str, float]:
        """network: in evaluation mode. params, size: number of its parameters, bytes with its buffers."""
        found: dict[str, float] = {"params": params}
        if {"flops", "memory_mb"}.isdisjoint(names):
            return found
        inputs = example(network, self.task, 1)
        flops, live = Flops(), _Live(inputs) if "memory_mb" in names else None
        with torch.no_grad(), flops:
            if live is None:
                self._counter = flops
                network(*inputs)
                self._counter = None
            else:
                with live:
                    network(*inputs)
                found["memory_mb"] = (size + live.most) / 1e6
        found["flops"] = flops.total
        return found

    def _begin_sharing(self, before: dict[Arch, dict[str, float]]) -> None:
        """Build the supernet, if it gives what the networks gave."""
        self._before = None
        try:
            with torch.device("meta"):
                supernet = networks.Supernet(self.space, self.task, self.scale).eval()
            self._own = _owned(supernet.modules())
            self._supernet = supernet
            if supernet.cutting is None:
                self._remember_parts(supernet)
            if all(self._in_supernet(arch, found) == found for arch, found in before.items()):
                return
        except (NotImplementedError, RuntimeError, ValueError):
            pass
        self._supernet = None

    def _remember_parts(self, module: nn.Module) -> None:
        """Run what depends on few choices, or none, once for each of them and each shape."""
        inside = list(module.modules())
        layers = [part for part in inside if isinstance(part, networks.OneOf)]
        decisions = {part.decision: len(part.options) for part in layers}
        chooses = sum("chosen" in vars(part) for part in inside) > len(layers) or prod(decisions.values()) > FEW
        if not chooses and not isinstance(module, nn.ModuleList | nn.ModuleDict):
            self._parts[id(module)] = tuple(decisions)
            module.forward = self._remembered(module.forward, tuple(decisions))
            return
        if isinstance(module, Join):
            module._of = self._remembered(module._of)  # type: ignore[method-assign]
        for part in module.children():
            self._remember_parts(part)

    def _remembered(self, function: Callable[..., Any], decisions: tuple[str, ...] = ()) -> Callable[..., Any]:
        """The function, which then looks up FLOPs and the result where it saw these shapes and options before."""
        known = dict[object, tuple[int, Tensor]]()

        def remembered(*inputs: Any) -> Any:
            if self._counter is None or self._supernet is None:
                return function(*inputs)
            key = (*map(_seen, inputs), *map(self._supernet.chosen.__getitem__, decisions))
            if key in known:
                flops, output = known[key]
                self._counter.total += flops
                return output
            before = self._counter.total
            output = function(*inputs)
            if isinstance(output, Tensor):
                known[key] = self._counter.total - before, output
            return output

        return remembered

    def _in_supernet(self, arch: Arch, names: Collection[str]) -> dict[str, float]:
        assert self._supernet is not None
        self._supernet.select(arch)
        cut = self._supernet.cutting is not None  # what a module has depends on the architecture
        modules = [each for each in networks.active_modules(self._supernet, self._parts) if id(each) in self._own]
        own = _owned(modules).values() if cut else [self._with_parts(each) for each in modules]
        return self._forward(self._supernet, sum(n for n, _ in own), sum(size for _, size in own), names)

    def _with_parts(self, module: nn.Module) -> tuple[int, int]:
        """What a module of the supernet has itself or, if it is looked at as a whole, all that runs of it."""
        if (decisions := self._parts.get(id(module))) is None:
            return self._own[id(module)]
        assert self._supernet is not None
        key = id(module), *map(self._supernet.chosen.__getitem__, decisions)
        if key not in self._whole:
            own = [self._own[id(each)] for each in networks.active_modules(module) if id(each) in self._own]
            self._whole[key] = sum(n for n, _ in own), sum(size for _, size in own)
        return self._whole[key]

    # --- latency

    def latency(self, arch: Arch) -> tuple[float, float]:
        """Median and spread between the quartiles, ms."""
        with torch.random.fork_rng(devices=[]):
            network = networks.build(self.space, arch, self.task, self.scale).to(self.device).eval()
        inputs = example(network, self.task, 1)
        before, taken = torch.get_num_threads(), list[float]()
        if self.device.type == "cpu" and before != self.threads:
            torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode():
                for number in range(WARM + RUNS[1]):
                    self._wait()
                    start = time.perf_counter()
                    network(*inputs)
                    self._wait()
                    if number >= WARM:
                        taken.append(1000 * (time.perf_counter() - start))
                    if len(taken) >= RUNS[0] and sum(taken) > 1000 * SECONDS:
                        break
        finally:
            if torch.get_num_threads() != before:
                torch.set_num_threads(before)
        low, median, high = quantiles(taken, n=4)
        return median, high - low

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def _owned(modules: Iterable[nn.Module]) -> dict[int, tuple[int, int]]:
    """By a module's id the number of its own trainable parameters, and bytes of all its parameters and buffers.

    What several have, such as tied weights, is the first one's. Modules for training alone are left out.
    """
    found: dict[int, tuple[int, int]] = {}
    seen: set[object] = set()

    def numbers(x: Tensor) -> object:
        return x.untyped_storage()._cdata, x.storage_offset(), x.shape

    for module in modules:
        if getattr(module, "training_only", False):
            continue
        parameters, buffers = (
            [part for name in names if (part := getattr(module, name)) is not None and numbers(part) not in seen]
            for names in (module._parameters, module._buffers)
        )
        own = (*parameters, *buffers)
        seen.update(map(numbers, own))
        size = sum(each.numel() * each.element_size() for each in own)
        found[id(module)] = sum(each.numel() for each in parameters if each.requires_grad), size
    return found


def _seen(value: Any) -> object:
    """What counting sees of a tensor, or of some by name; it is kept with it, since most are seen again and again."""
    if isinstance(value, dict):
        return tuple([(name, _seen(each)) for name, each in value.items()])
    if isinstance(value, list | tuple):
        return tuple(map(_seen, value))
    if not isinstance(value, Tensor):
        return value
    try:
        return value.counted_as  # type: ignore[attr-defined]
    except AttributeError:
        value.counted_as = seen = value.size(), value.stride(), value.dtype  # type: ignore[attr-defined]
        return seen


class _Live(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's stub
    """Most bytes of tensors that are alive together, of those made meanwhile and the inputs."""

    def __init__(self, inputs: tuple[Tensor, ...]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's stub
        self.most = self._now = 0
        self._there: set[int] = set()
        self._take(inputs)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here

    def _take(self, tensors: object) -> None:
        for tensor in tree_leaves(tensors):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            if (key := storage._cdata) not in self._there:
                self._there.add(key)
                self._now += storage.nbytes()
                weakref.finalize(storage, self._gone, key, storage.nbytes())
        self.most = max(self.most, self._now)

    def _gone(self, key: int, size: int) -> None:
        self._there.discard(key)
        self._now -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if not any(each.alias_info for each in func._schema.returns):  # else it is a view of what is there
            self._take(found)
        return found


class Flops(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's stub
    """Counts what is computed meanwhile. torch's FlopCounterMode imports its compiler, which takes as long as torch.

    What an operation makes of shapes alone, on the meta device, is worked out once and remembered: torch takes up to
    milliseconds, for batch normalisation say.
    """

    _known: ClassVar[dict[object, tuple[int, list[tuple[Any, ...]], bool]]] = {}
    """Operation and arguments -> FLOPs, and size, strides and type of the result, or of each of several."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's stub
        self.total = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing is compiled here

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        key: object = None
        try:
            key = func, *map(_shaped, args), *((name, _shaped(value)) for name, value in kwargs.items())
            known = self._known.get(key)
        except TypeError:  # there are data, or something that is no key
            known = None
        if known is not None:
            flops, outputs, several = known
            self.total += flops
            made = [torch.empty_strided(size, stride, dtype=dtype, device="meta") for size, stride, dtype in outputs]
            return tuple(made) if several else made[0]
        found = func(*args, **kwargs)
        formula = flop_registry.get(func.overloadpacket)
        flops = 0 if formula is None else int(formula(*args, **kwargs, out_val=found))
        self.total += flops
        results = found if isinstance(found, tuple) else (found,)
        fresh = not any(each.alias_info for each in (*func._schema.arguments, *func._schema.returns))
        if key is not None and fresh and all(isinstance(each, Tensor) and each.is_meta for each in results):
            if len(self._known) > MOST_KNOWN:
                self._known.clear()
            outputs = [(each.size(), each.stride(), each.dtype) for each in results]
            self._known[key] = flops, outputs, isinstance(found, tuple)
        return found


def _shaped(value: Any) -> object:
    """What an operation on the meta device sees of an argument. TypeError: it has data."""
    if isinstance(value, Tensor):
        if not value.is_meta:
            raise TypeError
        return value.size(), value.stride(), value.dtype
    if isinstance(value, list | tuple):
        return tuple(map(_shaped, value))
    return value.__class__, value


def example(network: nn.Module, task: Task, n: int) -> tuple[Tensor, ...]:
    """Inputs of n examples, on the network's device and in its precision."""
    parameter = next(network.parameters(), torch.empty(0, device="meta"))
    inputs = task.example(n, parameter.device)
    return tuple(x.to(parameter.dtype) if x.is_floating_point() else x for x in inputs)


def count_flops(network: nn.Module, task: Task) -> int:
    """FLOPs of one example's forward pass, 2 x the multiply-adds of convolutions and linear layers.

    Counted by the formulas of torch.utils.flop_counter, on the network's own device (the meta device computes nothing).
    """
    inputs = example(network, task, 1)
    counter = Flops()
    with torch.no_grad(), evaluating(network), counter:
        network(*inputs)
    return counter.total
