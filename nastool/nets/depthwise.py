"""Depthwise convolution with a fast gradient on CPUs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

_F = TypeVar("_F", bound=Callable[..., Any])


def faster(method: _F) -> _F:
    """Marks a method that does what the base class' does in less time: code that is written for others has no need."""
    return method


class DepthwiseConv2d(nn.Conv2d):
    """`nn.Conv2d` with one group a channel and no bias, padded so that output = ceil(input / stride)."""

    def __init__(self, channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        """kernel: odd."""
        padding = dilation * (kernel // 2)
        super().__init__(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False)

    @faster
    def forward(self, x: Tensor) -> Tensor:
        """On a CPU in channels_last, training a kernel 5 or 7 wide takes a half to a sixth of `nn.Conv2d`'s time.

        That is so in float32 and bfloat16. The same function and gradients, up to the order of summation.
        """
        weight: Tensor = self.weight
        rounds = torch.is_autocast_enabled("cpu") and x.dtype != torch.float64
        fast = (
            self.kernel_size in ((5, 5), (7, 7))
            and self.stride == self.dilation == (1, 1)
            and self.in_channels > 1
            and x.device.type == "cpu"
            and not (rounds and min(x.shape[2:]) < max(self.kernel_size))
            and x.shape[3] % 2 == 0
            and x.is_contiguous(memory_format=torch.channels_last)
            and torch.is_grad_enabled()
            and weight.requires_grad
        )
        if not fast:
            return super().forward(x)
        if rounds:
            dtype = torch.get_autocast_dtype("cpu")
            x, weight = x.to(dtype), weight.to(dtype)
        out: Tensor = _Wide.apply(x, weight)
        return out


class _Wide(torch.autograd.Function):
    """Kernels of width 5 or 7, stride 1, images of even width.

    oneDNN has a fast kernel for the weight's gradient only up to a width of 3. In channels_last the memory of a tensor
    with width W and C channels is also that of one with width W / 2 and 2 C channels (even columns, odd columns),
    where a kernel of width 3 looks at the columns -2, 0 and 2. The columns -1, 0 and 1 come from the tensor as it
    is, -3 and 3 from it moved by one column.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _same(x, weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        channels, _, height, width = weight.shape
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        of_x = of_weight = None
        if ctx.needs_input_grad[0]:
            of_x = _same(gradient, weight.flip(2, 3))
        if ctx.needs_input_grad[1]:
            folded, middle = _fold(gradient), width // 2

            def every_second(image: Tensor) -> Tensor:
                """The gradients of the columns -2, 0, 2 around the middle, where the image is not moved."""
                both = _weight_gradient(folded, _fold(image), height)
                return both[:channels] + both[channels:]

            of_weight = torch.empty_like(weight)
            of_weight[..., middle - 2 : middle + 3 : 2] = every_second(x)
            of_weight[..., middle - 1 : middle + 2 : 2] = _weight_gradient(gradient, x, height)[..., ::2]
            if width == 7:
                of_weight[..., 6:] = every_second(functional.pad(x[..., 1:], (0, 1)))[..., 2:]
                of_weight[..., :1] = every_second(functional.pad(x[..., :-1], (1, 0)))[..., :1]
        return of_x, of_weight


def _same(x: Tensor, weight: Tensor) -> Tensor:
    height, width = weight.shape[2:]
    return functional.conv2d(x, weight, None, 1, (height // 2, width // 2), 1, len(weight))


def _fold(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, 2 C, H, W / 2): the even columns' channels, then the odd columns'."""
    n, c, h, w = x.shape
    return x.permute(0, 2, 3, 1).reshape(n, h, w // 2, 2 * c).permute(0, 3, 1, 2)


def _weight_gradient(gradient: Tensor, x: Tensor, height: int) -> Tensor:
    """Of a depthwise convolution with a kernel of this height and width 3, stride 1: (C, 1, height, 3)."""
    channels = x.shape[1]
    x = x.contiguous(memory_format=torch.channels_last)
    shape = x.new_empty(channels, 1, height, 3)
    found: tuple[Tensor, Tensor, Tensor] = torch.ops.aten.convolution_backward(
        gradient, x, shape, None, (1, 1), (height // 2, 1), (1, 1), False, (0, 0), channels, (False, True, False)
    )
    return found[1]
