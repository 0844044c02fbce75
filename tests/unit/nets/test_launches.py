"""Fewer kernel launches a training step: as few as promised, and the same results."""

from __future__ import annotations

import copy
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from benchmarks import launches as counted
from nastool.core import registry
from nastool.nets import launches, networks, regularization
from nastool.tasks.images.task import ImageTask

if TYPE_CHECKING:
    from tests.helpers.fake_cuda.shadow import Shadow

pytestmark = pytest.mark.usefixtures("one_thread")

SPACES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nasbench201": ({}, {"channels": 4, "cells": 1}),
    "macro-cnn": ({"layers": 6}, {"channels": 8}),
    "cell-cnn": ({"blocks": 4}, {"channels": 4, "cells": 1, "stem": 1, "auxiliary": 1, "twice": 1}),
    "cell-cnn darts": ({"blocks": 4, "ops": "darts"}, {"channels": 4, "cells": 1, "stem": 1}),
    "cell-cnn nasnet": ({"blocks": 3, "ops": "nasnet", "combine": "search"}, {"channels": 4, "cells": 1, "stem": 1}),
    "macro-cnn concat": ({"layers": 4}, {"channels": 6, "concat": 1, "widen": 1}),
}


def supernet(name: str) -> networks.Supernet:
    options, scale = SPACES[name]
    space = registry.make("space", name.partition(" ")[0], given=options)
    torch.manual_seed(0)
    return networks.Supernet(space, ImageTask(3, 11, 12, 5), space.Scale(**scale))


def step(network: nn.Module, x: Tensor, y: Tensor, around: Any, dtype: torch.dtype | None = None) -> list[Tensor]:
    """The outputs of a forward pass; the gradients of a step are left in the parameters."""
    network.zero_grad()
    network.train()
    with torch.autocast(x.device.type, dtype, enabled=dtype is not None), around:
        out = network(x)
    outputs = list(out) if isinstance(out, tuple) else [out]
    sum(cross_entropy(each.float(), y) for each in outputs).backward()  # type: ignore[union-attr]
    return outputs


def close(one: nn.Module, other: nn.Module, tolerance: float) -> None:
    """Gradients and buffers."""
    for (name, a), b in zip(one.named_parameters(), other.parameters(), strict=True):
        assert (a.grad is None) == (b.grad is None), name
        if a.grad is not None and b.grad is not None:
            size = max(1.0, float(a.grad.abs().max()))
            torch.testing.assert_close(a.grad, b.grad, atol=tolerance * size, rtol=tolerance, msg=name)
    for (name, old), new in zip(one.named_buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(old, new, atol=tolerance, rtol=tolerance, msg=name)


@pytest.mark.parametrize("statistics", ["running", "of the batch"])
@pytest.mark.parametrize("name", SPACES)
def test_a_step_is_the_plain_one(name: str, statistics: str) -> None:
    """In float32 to 1e-5, in any space, also where images are of an odd size."""
    plain = supernet(name)
    if statistics == "of the batch":
        networks.use_batch_statistics(plain)
    plain.to(memory_format=torch.channels_last)
    lean = copy.deepcopy(plain)
    rng = np.random.default_rng(0)
    x, y = torch.randn(8, 3, 11, 12).contiguous(memory_format=torch.channels_last), torch.arange(8) % 5
    ran = 0
    for _ in range(2):
        arch = plain.space.sample(rng)
        for network in (plain, lean):
            network.select(arch)
        expected = step(plain, x, y, nullcontext())
        found = step(lean, x, y, launches.few_launches(lean, on_cpu=True))
        for a, b in zip(expected, found, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
        close(plain, lean, 1e-5)
        ran += 1
    assert ran == 2


def test_paths_are_dropped_as_ever() -> None:
    """Where operations run as one, each still has draws of its own: here in the order in which they were plain."""
    space = registry.make("space", "cell-cnn", given={"blocks": 1})
    chosen = {"input1": "0", "input2": "1", "op1": "sep_conv_3x3", "op2": "sep_conv_3x3"}
    names = [decision.name.partition(".")[2] for decision in space.decisions]
    arch = space.arch([d.options.index(chosen[name]) for d, name in zip(space.decisions, names, strict=True)])
    torch.manual_seed(0)
    scale = space.Scale(channels=4, cells=1, stem=1)
    plain = networks.build(space, arch, ImageTask(3, 8, 8, 5), scale).to(memory_format=torch.channels_last)
    regularization.regularize(plain, dropout=0.0, drop_path=0.5, by_depth=False)
    lean = copy.deepcopy(plain)
    x, y = torch.randn(8, 3, 8, 8).contiguous(memory_format=torch.channels_last), torch.arange(8) % 5
    outputs = []
    for network, around in ((plain, nullcontext()), (lean, launches.few_launches(lean, on_cpu=True))):
        torch.manual_seed(1)
        outputs += step(network, x, y, around)
    torch.testing.assert_close(outputs[0], outputs[1], atol=1e-5, rtol=1e-5)
    close(plain, lean, 1e-5)
    torch.manual_seed(2)
    assert not torch.allclose(step(lean, x, y, launches.few_launches(lean, on_cpu=True))[0], outputs[1], atol=1e-3)


def test_afterwards_everything_is_as_before() -> None:
    network = supernet("cell-cnn")
    network.select(network.space.sample(np.random.default_rng(0)))
    before = {name: (id(value), value.dtype) for name, value in network.named_parameters()}
    with launches.few_launches(network, on_cpu=True):
        assert launches.are_few()
    with pytest.raises(ZeroDivisionError), launches.few_launches(network, on_cpu=True):
        1 / 0  # noqa: B018
    assert not launches.are_few()
    assert before == {name: (id(value), value.dtype) for name, value in network.named_parameters()}
    assert all(type(m.num_batches_tracked) is Tensor for m in network.modules() if isinstance(m, nn.BatchNorm2d))
    assert not any("forward" in vars(module) for module in network.modules())


# --- on a GPU, or a fake one


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["nasbench201", "macro-cnn", "cell-cnn"])
def test_a_step_on_a_gpu_is_the_plain_one(name: str) -> None:
    """In bfloat16, within its rounding."""
    plain = supernet(name)
    if name != "nasbench201":
        networks.use_batch_statistics(plain)
    lean = copy.deepcopy(plain)
    for network in (plain, lean):
        network.to("cuda", memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stub
    arch = plain.space.sample(np.random.default_rng(1))
    x, y = torch.randn(16, 3, 11, 12).cuda().contiguous(memory_format=torch.channels_last), torch.arange(16).cuda() % 5
    for network in (plain, lean):
        network.select(arch)
    expected = step(plain, x, y, nullcontext(), torch.bfloat16)
    found = step(lean, x, y, launches.few_launches(lean), torch.bfloat16)
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b, atol=0.05, rtol=0.05)
    one, other = (torch.cat([p.grad.flatten() for p in n.parameters() if p.grad is not None]) for n in (plain, lean))
    assert len(one) == len(other)
    assert torch.nn.functional.cosine_similarity(one, other, dim=0) > 0.98
    for (buffer, a), b in zip(plain.named_buffers(), lean.buffers(), strict=True):
        torch.testing.assert_close(a, b, atol=0.02, rtol=0.02, msg=buffer)


@pytest.mark.gpu
@pytest.mark.parametrize(("name", "most"), [("NAS-Bench-201, all 3x3", 700), ("ENAS macro", 440), ("ENAS micro", 1150)])
def test_launches_a_step(fake_cuda: Shadow, tmp_path: Path, name: str, most: int) -> None:
    """Published sizes, bfloat16. Of supernets the mean of some children."""
    own = counted.evaluator(name, tmp_path, "auto")
    fake_cuda.values = False  # they do not matter here
    try:
        found = counted.steps(fake_cuda, own, 2 if name.startswith("NAS") else 6)
    finally:
        fake_cuda.values = True
    assert np.mean([counts.total() for counts in found]) <= most
