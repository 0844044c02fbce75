"""The fake CUDA devices themselves: what runs on them must be torch's own, and the values right."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

if TYPE_CHECKING:
    from tests.helpers.fake_cuda.shadow import Shadow

pytestmark = pytest.mark.gpu
Machine = Callable[..., dict[str, str]]


def small() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.0),
        nn.Linear(8, 4),
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_step_is_the_cpus(fake_cuda: Shadow, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    cpu = small()
    gpu = copy.deepcopy(cpu).to("cuda", memory_format=torch.channels_last)  # type: ignore[call-overload]
    x, y = torch.randn(6, 3, 8, 8), torch.tensor([0, 1, 2, 3, 0, 1])
    losses: list[Tensor] = []
    for network, device in ((cpu, "cpu"), (gpu, "cuda")):
        images, labels = x.to(device), y.to(device)
        optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, fused=True)
        fake_cuda.forget()
        for _ in range(2):
            with torch.autocast(device, dtype, enabled=dtype != torch.float32):
                losses.append(cross_entropy(network(images).float(), labels))
            optimizer.zero_grad()
            losses[-1].backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        assert not fake_cuda.syncs
    assert sum(fake_cuda.launches.values()) > 40
    close = {torch.float32: 1e-5}.get(dtype, 0.02)
    for on_cpu, on_gpu in zip(losses, losses[2:], strict=False):
        assert on_gpu.item() == pytest.approx(on_cpu.item(), rel=close)
    for (name, p), q in zip(cpu.state_dict().items(), gpu.state_dict().values(), strict=True):
        torch.testing.assert_close(q.cpu(), p, rtol=close, atol=close, msg=name)
    assert len(fake_cuda.syncs) >= len(losses) / 2, "item() waits"
    assert "test_fake_cuda.py" in fake_cuda.syncs[0][2]


def test_mistakes_are_torchs_own(fake_cuda: Shadow) -> None:
    x, network = torch.randn(6, 3, 8, 8), small().cuda()
    for mistake in (
        lambda: network(x),
        lambda: x.cuda().numpy(),
        lambda: torch.rand(3, device="cuda", generator=torch.Generator()),
        lambda: x.cuda()[0, 0, 0] + x[0, 0, 0],
        lambda: network(x.cuda().half()),
    ):
        with pytest.raises((RuntimeError, TypeError)):
            mistake()
    with pytest.raises(torch.OutOfMemoryError):
        torch.empty(200 << 30, dtype=torch.uint8, device="cuda")


def test_draws_are_repeated(fake_cuda: Shadow) -> None:
    generator = torch.Generator("cuda")
    first, second = (torch.rand(5, device="cuda", generator=generator.manual_seed(3)) for _ in range(2))
    third = torch.rand(5, device="cuda", generator=generator)
    assert torch.equal(first, second) and not torch.equal(first, third)


DEVICES = """
import ctypes
cuda, count, name = ctypes.CDLL("libcuda.so.1"), ctypes.c_int(), ctypes.create_string_buffer(100)
cuda.cuDeviceGetCount(ctypes.byref(count))
for device in range(count.value):
    cuda.cuDeviceGetName(name, 100, device)
    print(name.value.decode()[-1], end=" ")
"""


@pytest.mark.parametrize(
    "visible, seen",
    [("1,0", "1 0"), ("0,9,1", "0"), ("abc", ""), ("0,0", ""), ("GPU-01,GPU-00000000", "1 0")],
)
def test_visible_devices(fake_machine: Machine, visible: str, seen: str) -> None:
    environment = {**os.environ, **fake_machine(devices=2), "CUDA_VISIBLE_DEVICES": visible}
    done = subprocess.run([sys.executable, "-c", DEVICES], env=environment, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.strip() == seen, done


FAULTS = """
import torch
for device in (1, 0, 0):
    try:
        (torch.ones(3, device=f"cuda:{device}") + 1).sum().item()
        print("went well")
    except RuntimeError as error:
        print(str(error).splitlines()[0])
"""


def test_a_device_breaks(fake_machine: Machine) -> None:
    environment = {**os.environ, **fake_machine(devices=2, FAKE_CUDA_ERROR="700@1:0")}
    done = subprocess.run([sys.executable, "-c", FAULTS], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done
    broken = "CUDA error: an illegal memory access was encountered"
    assert done.stdout.splitlines() == ["went well", broken, broken]
