"""nastool.nets.precision: bfloat16 on a CPU computes what float32 does, up to rounding, whatever oneDNN does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nastool.nets import precision
from nastool.nets.depthwise import DepthwiseConv2d


def weight_gradient(module: nn.Module, x: Tensor, bf16: bool) -> Tensor:
    for parameter in module.parameters():
        parameter.grad = None
    if bf16:
        with precision.autocast("cpu"):
            out = module(x)
        assert out.dtype == torch.bfloat16
    else:
        out = module(x)
    factors = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).bfloat16()
    (out.float() * factors).sum().backward()
    gradient = module.get_parameter("weight").grad
    assert gradient is not None
    return gradient


def poison() -> None:
    """What was freed, and may be taken up without being written, is NaN."""
    for n in (100, 1_000, 10_000, 100_000):
        torch.full((n,), float("nan"))


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5, 7])
def test_gradients_of_depthwise_convolutions(kernel: int, stride: int, dilation: int, own: bool) -> None:
    """Those of oneDNN are garbage for dilation 2, often 1e30 times too large."""
    generator = torch.Generator().manual_seed(0)
    for channels in (2, 3, 4, 8, 16):
        padding = dilation * (kernel // 2)
        module = (
            DepthwiseConv2d(channels, kernel, stride, dilation)
            if own
            else nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels)
        ).to(memory_format=torch.channels_last)
        x = torch.randn(4, channels, 32, 32, generator=generator).contiguous(memory_format=torch.channels_last)
        exact, rounded = (weight_gradient(module, x.bfloat16().float(), bf16) for bf16 in (False, True))
        assert (rounded - exact).abs().max() < 0.02 * exact.abs().max()


@pytest.mark.parametrize("kind", [nn.Conv1d, nn.Conv2d, nn.Conv3d])
@pytest.mark.parametrize(("stride", "side"), [(2, 1), (3, 1), (3, 2)])
def test_gradients_where_the_stride_is_larger_than_the_input(
    stride: int, side: int, kind: type[nn.Conv1d | nn.Conv2d | nn.Conv3d]
) -> None:
    """Those of oneDNN are garbage; images of 8x8 are 1x1 after three halvings."""
    generator = torch.Generator().manual_seed(0)
    dimensions = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}[kind]
    for channels in (8, 16, 32):
        module = kind(channels, channels, 3, stride, 1)
        x = torch.randn(4, channels, *[side] * dimensions, generator=generator).bfloat16().float()
        exact = weight_gradient(module, x, False)
        for _ in range(3):
            poison()
            assert (weight_gradient(module, x, True) - exact).abs().max() < 0.02 * exact.abs().max()


@pytest.mark.parametrize(("kernel", "stride", "size"), [(3, 2, 8), (5, 2, 8), (5, 1, 4), (7, 1, 4)])
def test_what_is_slow_in_bfloat16_is_computed_in_float32(kernel: int, stride: int, size: int) -> None:
    """oneDNN's gradient with a stride takes up to 70 times as long in bfloat16."""
    module = DepthwiseConv2d(4, kernel, stride).to(memory_format=torch.channels_last)
    x = torch.randn(2, 4, size, size).contiguous(memory_format=torch.channels_last)
    with precision.autocast("cpu"):
        out = module(x)
    assert torch.equal(out, module(x).bfloat16())


def test_other_convolutions_run_in_bfloat16() -> None:
    module, x = nn.Conv2d(4, 4, 3, padding=1), torch.randn(2, 4, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        plain = module(x)
    with precision.autocast("cpu"):
        assert torch.equal(module(x), plain)
    assert not torch.equal(plain, module(x).bfloat16())
