"""bfloat16, as far as it computes what it should."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

_CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)


@contextmanager
def autocast(device: str) -> Iterator[None]:
    """Meanwhile operations that allow it run in bfloat16. device: its type, such as "cpu"."""
    with torch.autocast(device, torch.bfloat16):
        if device != "cpu":
            yield
            return
        with _Exact():
            yield


class _Exact(TorchFunctionMode):
    """Runs those convolutions in float32 whose gradients oneDNN gets wrong, or only slowly, in bfloat16.

    The weight's gradient is garbage, up to 1e38 times too large, where the stride is larger than the input or, with
    groups, where there is dilation (torch 2.14, AVX512_BF16). Of depthwise convolutions it takes 4 to 70 times as long
    as in float32 with a stride, and 3 to 5 times on images smaller than the kernel.
    """

    def __torch_function__(
        self,
        func: Callable[..., Tensor],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Tensor:
        kwargs = kwargs or {}
        if func in _CONVOLUTIONS:
            return _convolution(func, *args, **kwargs)
        return func(*args, **kwargs)


def _convolution(
    func: Callable[..., Tensor],
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, ...] = 1,
    padding: int | str | tuple[int, ...] = 0,
    dilation: int | tuple[int, ...] = 1,
    groups: int = 1,
) -> Tensor:
    sides, kernel = input.shape[-(weight.dim() - 2) :], weight.shape[2:]
    exact = _largest(stride) > min(sides)
    if groups > 1:
        exact |= _largest(dilation) > 1 or _largest(stride) > 1 or min(sides) < max(kernel)
    if not exact or not torch.is_autocast_enabled("cpu") or input.dtype == torch.float64:
        return func(input, weight, bias, stride, padding, dilation, groups)
    with torch.autocast("cpu", enabled=False):
        bias = None if bias is None else bias.float()
        out = func(input.float(), weight.float(), bias, stride, padding, dilation, groups)
        return out.to(torch.get_autocast_dtype("cpu"))


def _largest(of: int | tuple[int, ...]) -> int:
    return of if isinstance(of, int) else max(of)
