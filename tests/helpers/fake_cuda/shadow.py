"""The values that fake devices' kernels would have computed, and what each operation asks of a device."""

from __future__ import annotations

import ctypes
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tests.helpers.fake_cuda import counts

ROOT = Path(__file__).resolve().parents[3]
BY_CUDNN = {
    "convolution.default",
    "convolution_backward.default",
    "cudnn_batch_norm.default",
    "cudnn_batch_norm_backward.default",
}
"""Not begun natively: cuDNN wants a driver. They are checked and made here, and count as one launch for each result."""
WITHOUT_VALUES = {
    "empty",
    "empty_strided",
    "empty_like",
    "new_empty",
    "new_empty_strided",
    "record_stream",
    "is_pinned",
    "_local_scalar_dense",
    "is_same_size",
}


class Shadow(TorchDispatchMode):
    """After an operation has run natively on a fake device, the CPU computes its values into the same memory.

    calls, launches: by operation; copies on the device and memsets are launches, too. syncs: (operation, what, where)
    of every wait of the host. unfilled: (operation, why) of those whose values the CPU could not compute.
    """

    def __init__(self, values: bool = True) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's stub
        self.values = values
        self._mirrors: dict[int, tuple[torch.Generator, int, torch.Generator]] = {}
        self.forget()

    def forget(self) -> None:
        self.calls: Counter[str] = Counter()
        self.launches: Counter[str] = Counter()
        self.syncs: list[tuple[str, str, str]] = []
        self.unfilled: list[tuple[str, str]] = []

    def __torch_dispatch__(
        self, func: Any, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        composite = "CompositeImplicitAutograd"
        if torch.is_inference_mode_enabled() and torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), composite):
            with self:  # without autograd nobody has taken it apart yet
                out = func.decompose(*args, **kwargs)
            if out is not NotImplemented:
                return out
        name, flat = func.__name__, _leaves([*args, *kwargs.values()])
        tensors = [x for x in flat if isinstance(x, Tensor)]
        mirrors = {id(x): self._mirror(x) for x in flat if isinstance(x, torch.Generator)}
        made = name in BY_CUDNN and _on_gpu(args[0])
        before = counts()
        out = self._make(func, name, args) if made else func(*args, **kwargs)
        done = {key: value - before[key] for key, value in counts().items()}
        outs = [x for x in _leaves(out) if isinstance(x, Tensor)]
        if any(map(_on_gpu, tensors + outs)):
            self.calls[name] += 1
            self.launches[name] += done["launches"] + done["memsets"] + done["on device"]
            waits = [what for what in ("waits", "to device", "to host", "blocking") if done[what]]
            if waits:
                self.syncs.append((name, " + ".join(waits), _where()))
            if self.values and not made:
                return self._fill(func, args, kwargs, out, tensors, mirrors)
        return out

    def _mirror(self, generator: torch.Generator) -> torch.Generator:
        """The CPU's generator that draws for this one, begun anew where it was seeded."""
        if generator.device.type == "cpu":
            return generator
        seed, known = generator.initial_seed(), self._mirrors.get(id(generator))
        if known is None or known[1] != seed or generator.get_offset() == 0:
            known = (torch.Generator().manual_seed(seed % 2**63), seed, generator)
            self._mirrors[id(generator)] = known
        return known[0]

    def _fill(
        self,
        func: Any,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        out: Any,
        tensors: Sequence[Tensor],
        mirrors: Mapping[int, torch.Generator],
    ) -> Any:
        """What ran natively, with its values."""
        returns = func._schema.returns
        if returns and all(each.alias_info is not None and not each.alias_info.is_write for each in returns):
            return out  # a view
        if func.__name__.split(".")[0] in WITHOUT_VALUES:
            return out

        def on_cpu(x: Any) -> Any:
            if isinstance(x, torch.device):
                return torch.device("cpu")
            return _alias(x) if _on_gpu(x) else mirrors[id(x)] if isinstance(x, torch.Generator) else x

        given = [_mapped(on_cpu, x) for x in args]
        named = {name: _mapped(on_cpu, x) for name, x in kwargs.items()}
        try:
            result = ONLY_CUDA.get(func.__name__, func)(*given, **named)
        except Exception as error:
            self.unfilled.append((func.__name__, str(error)[:150]))
            return out
        if isinstance(out, bool):  # such as `equal`
            return result
        own = {t.untyped_storage().data_ptr() for t in tensors}  # what was changed in place is changed already
        for mine, theirs in zip(_leaves(out), _leaves(result), strict=True):
            if not isinstance(mine, Tensor) or not mine.numel() or mine.shape != theirs.shape:
                continue
            if mine.untyped_storage().data_ptr() not in own:
                (_alias(mine) if _on_gpu(mine) else mine).copy_(theirs)
        return out

    def _make(self, func: Any, name: str, args: Sequence[Any]) -> Any:
        """What cuDNN does."""
        given = [x for x in args if isinstance(x, Tensor)]
        devices, dtypes = {x.device for x in given}, {x.dtype for x in given}
        if len(devices) > 1:
            raise RuntimeError(f"Expected all tensors to be on the same device, but found {devices}")
        (device,) = devices
        images = [x for x in given if x.dim() == 4]
        last = any(x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous() for x in images)

        def other(x: Any) -> Any:
            if not _on_gpu(x):
                return x
            if self.values:
                half = x.dtype in (torch.float16, torch.bfloat16)  # of which the CPU lacks some; cuDNN adds up float32
                return _alias(x).float() if half else _alias(x)
            return torch.empty_strided(x.size(), x.stride(), dtype=x.dtype, device="meta")

        def made(x: Tensor | None, dtype: torch.dtype | None = None) -> Tensor | None:
            if x is None:
                return None
            memory_format = torch.channels_last if last and x.dim() == 4 else torch.contiguous_format
            new = torch.empty(x.shape, dtype=dtype or x.dtype, device=device, memory_format=memory_format)
            if self.values:
                _alias(new).copy_(x)
            return new

        if name.startswith("convolution"):
            if len(dtypes) > 1:
                raise RuntimeError(f"Input type and weight type should be the same, but found {dtypes}")
            (dtype,) = dtypes
            found = func(*map(other, args))
            results = [found] if isinstance(found, Tensor) else found
            self.launches[name] += sum(x is not None for x in results)
            new = tuple(made(x, dtype) for x in results)
            return new[0] if isinstance(found, Tensor) else new
        self.launches[name] += 1
        dtype = args[0].dtype
        if name == "cudnn_batch_norm.default":
            y, *statistics = torch.ops.aten.native_batch_norm(*map(other, args))
            return (made(y, dtype), *map(made, statistics), torch.empty(0, dtype=torch.uint8, device=device))
        x, gradient, weight, mean, var, saved_mean, saved_inverse, eps, _ = map(other, args)
        backward = torch.ops.aten.native_batch_norm_backward
        of_x, *others = backward(gradient, x, weight, mean, var, saved_mean, saved_inverse, True, eps, [True] * 3)
        return made(of_x, dtype), *map(made, others)


def _statistics(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    variance, mean = torch.var_mean(x.float(), (0, 2, 3), correction=0)
    return mean, (variance + eps).rsqrt()


def _each(channels: Tensor) -> Tensor:
    return channels[:, None, None]


def _normalized(x: Tensor, weight: Tensor, bias: Tensor, mean: Tensor, inverse: Tensor, eps: float) -> Tensor:
    return ((x.float() - _each(mean)) * _each(inverse * weight) + _each(bias)).to(x.dtype)


def _reduced(dy: Tensor, x: Tensor, mean: Tensor, inverse: Tensor, *_: object) -> tuple[Tensor, ...]:
    dy = dy.float()
    of_bias, product = dy.sum((0, 2, 3)), (dy * (x.float() - _each(mean))).sum((0, 2, 3))
    return of_bias, product, product * inverse, of_bias


def _of_input(
    dy: Tensor, x: Tensor, mean: Tensor, inverse: Tensor, weight: Tensor, total: Tensor, product: Tensor, count: Tensor
) -> Tensor:
    projected = (x.float() - _each(mean)) * _each(inverse**2 * product / count)
    return ((dy.float() - _each(total / count) - projected) * _each(inverse * weight)).to(x.dtype)


ONLY_CUDA: Mapping[str, Any] = {
    "batch_norm_stats.default": _statistics,
    "batch_norm_elemt.default": _normalized,
    "batch_norm_backward_reduce.default": _reduced,
    "batch_norm_backward_elemt.default": _of_input,
}
"""What the CPU lacks."""


def _on_gpu(value: object) -> bool:
    return isinstance(value, Tensor) and value.device.type == "cuda"


def _leaves(value: Any) -> list[Any]:
    """What is in lists of lists."""
    if isinstance(value, list | tuple):
        return [leaf for each in value for leaf in _leaves(each)]
    return [value]


def _mapped(to: Callable[[Any], Any], value: Any) -> Any:
    """The same lists of other things."""
    if isinstance(value, list | tuple):
        return type(value)([_mapped(to, each) for each in value])
    return to(value)


def _alias(tensor: Tensor) -> Tensor:
    """The CPU's tensor over the same memory."""
    storage = tensor.untyped_storage()
    if not storage.nbytes() or not tensor.numel():
        return torch.empty_strided(tensor.size(), tensor.stride(), dtype=tensor.dtype)
    memory = (ctypes.c_char * storage.nbytes()).from_address(storage.data_ptr())
    base = torch.frombuffer(memory, dtype=torch.uint8).untyped_storage()
    return torch.empty(0, dtype=tensor.dtype).set_(base, tensor.storage_offset(), tensor.size(), tensor.stride())


def _where() -> str:
    """The lines of the project that led here, the innermost first: three at most."""
    lines: list[str] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and len(lines) < 3:
        path = frame.f_code.co_filename
        if path.startswith(f"{ROOT}/") and path != __file__ and "site-packages" not in path:
            lines.append(f"{path.removeprefix(f'{ROOT}/')}:{frame.f_lineno}")
        frame = frame.f_back
    return " < ".join(lines)
