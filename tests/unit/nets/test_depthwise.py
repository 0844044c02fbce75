"""nastool.nets.depthwise: the same function and gradients as nn.Conv2d."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from nastool.nets.depthwise import DepthwiseConv2d, _Wide


@pytest.mark.parametrize("kernel", [3, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dilation", [1, 2])
@pytest.mark.parametrize("size", [(8, 8), (5, 6), (7, 7), (1, 2), (1, 1)])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_equals_the_plain_convolution(
    kernel: int, stride: int, dilation: int, size: tuple[int, int], memory_format: torch.memory_format
) -> None:
    generator = torch.Generator().manual_seed(0)
    own = DepthwiseConv2d(3, kernel, stride, dilation).double()
    padding = dilation * (kernel // 2)
    plain = nn.Conv2d(3, 3, kernel, stride, padding, dilation, groups=3, bias=False).double()
    plain.load_state_dict(own.state_dict())
    data = torch.randn(2, 3, *size, generator=generator, dtype=torch.float64).contiguous(memory_format=memory_format)
    found: list[list[Tensor]] = []
    for module in (own, plain):
        x = data.clone(memory_format=torch.preserve_format).requires_grad_()
        out = module(x)
        weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        gradients = torch.autograd.grad((out * weights).sum(), [x, module.weight])
        found.append([out, *gradients])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-12, atol=1e-12)


def test_the_fast_way_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the test above would compare nn.Conv2d with itself."""
    calls: list[int] = []
    apply = _Wide.apply

    def counted(x: Tensor, weight: Tensor) -> Tensor:
        calls.append(weight.shape[-1])
        out: Tensor = apply(x, weight)
        return out

    monkeypatch.setattr(_Wide, "apply", counted)
    x = torch.rand(2, 3, 8, 8).contiguous(memory_format=torch.channels_last)
    for kernel in (3, 5, 7):
        DepthwiseConv2d(3, kernel)(x)
    assert calls == [5, 7]
    with torch.no_grad():
        DepthwiseConv2d(3, 5)(x)
    assert calls == [5, 7]


def test_autocast_decides_on_the_type() -> None:
    module = DepthwiseConv2d(4, 5)
    x = torch.rand(2, 4, 8, 8).contiguous(memory_format=torch.channels_last)
    exact = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        out = module(x)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), exact, rtol=0.02, atol=0.02)
    out.float().sum().backward()
    assert module.weight.grad is not None
    assert module.weight.grad.dtype == torch.float32
