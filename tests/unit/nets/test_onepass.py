"""nastool.nets.onepass: what children make of the same images, in one pass, is what each makes of them by itself."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from nastool.core import registry
from nastool.core.values import Arch
from nastool.evaluators.supernet import Supernet as Evaluator
from nastool.nets import onepass
from nastool.nets.joined import batch_norm
from nastool.nets.networks import OneOf, Supernet, use_batch_statistics
from nastool.nets.onepass import OnePass
from nastool.tasks.images.task import ImageTask

if TYPE_CHECKING:
    from tests.helpers.fake_cuda.shadow import Shadow

TASK = ImageTask(3, 8, 8, 10)
SPACES: Sequence[tuple[str, dict[str, Any], dict[str, int]]] = (
    ("macro-cnn", {}, {"channels": 6}),
    ("macro-cnn", {"layers": 6}, {"channels": 6, "concat": 1, "widen": 1}),
    ("cell-cnn", {"blocks": 3}, {"channels": 4, "cells": 1}),
    ("cell-cnn", {"blocks": 2, "combine": "search"}, {"channels": 4, "cells": 1, "twice": 1, "auxiliary": 1}),
    ("nasbench201", {}, {"channels": 4, "cells": 2}),
    ("nasbench-macro", {}, {"channels": 4}),
)
OPTIONS: Any = {"data": "digits", "train_size": 300, "batch_size": 16}


def supernet(name: str, options: dict[str, Any], scale: dict[str, int]) -> Supernet:
    space = registry.make("space", name, given=options)
    torch.manual_seed(0)
    network = Supernet(space, TASK, space.Scale(**scale))
    use_batch_statistics(network)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, 0, 0.3)
    network.eval().to(memory_format=torch.channels_last)
    return network


def one_by_one(network: Supernet, archs: Sequence[Arch], x: Tensor) -> list[Tensor]:
    found = []
    for arch in archs:
        network.select(arch)
        with torch.no_grad():
            found.append(network(x))
    return found


def images(seed: int = 0) -> Tensor:
    x = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    return x.contiguous(memory_format=torch.channels_last)


def some(network: Supernet, count: int = 12) -> list[Arch]:
    rng = np.random.default_rng(0)
    drawn = [network.space.sample(rng) for _ in range(count - 1)]
    return [*drawn, drawn[1]]  # one of them twice


@pytest.mark.parametrize(("name", "options", "scale"), SPACES)
@pytest.mark.parametrize("grouped", [False, True])
def test_children_in_one_pass_are_the_children(
    name: str, options: dict[str, Any], scale: dict[str, int], grouped: bool
) -> None:
    network = supernet(name, options, scale)
    archs, x = some(network), images()
    right = one_by_one(network, archs, x)
    before = list(network.state_dict())
    one_pass = OnePass(network, grouped=grouped)
    for _ in range(2):  # the second time it is known what may be on one batch
        with one_pass.installed():
            found = one_pass.logits(archs, x)
        assert not one_pass.apart
        assert set(one_pass.agreeing.values()) <= {True}
        for a, b in zip(found, right, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 if grouped else 0)
    assert list(network.state_dict()) == before
    assert not any("forward" in vars(module) for module in network.modules())


def test_what_is_the_same_is_computed_once() -> None:
    network = supernet("nasbench-macro", {}, {"channels": 4})
    calls: list[int] = []
    stem = network.network[0]  # type: ignore[index]
    stem[0].register_forward_hook(lambda *_: calls.append(1))
    with (one_pass := OnePass(network)).installed():
        one_pass.logits(some(network), images())
    assert len(calls) == 1


class Mixing(nn.Module):
    """Depends on the other images of the batch, in its own way."""

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True)


class InPlace(nn.Module):
    """Changes what others read."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mul_(2)


class Asking(nn.Module):
    """Computes with what is between modules."""

    def __init__(self, options: OneOf) -> None:
        super().__init__()
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        out = self.options(x)
        if out.shape[1] != 3 or out.dim() != 4:
            raise AssertionError
        out = functional.relu(out) + 2 * out[:, :, :2].mean() + out.mean(1, keepdim=True)
        return torch.cat([out, x, 1 - out], 1).mean((2, 3))


class Strict(nn.Module):
    """Takes nothing but tensors."""

    def __init__(self, options: OneOf) -> None:
        super().__init__()
        self.options = options

    def forward(self, x: Tensor) -> Tensor:
        out = self.options(x)
        if not isinstance(out, Tensor):
            raise TypeError
        return out.mean((2, 3))


def made_up(options: Sequence[nn.Module], whole: Callable[[OneOf], nn.Module] | None = None) -> Any:
    """Two layers, each of one of these modules of three channels; with what else a supernet is asked for."""
    chosen: dict[str, str] = {}

    def layer(name: str) -> OneOf:
        return OneOf(name, {str(i): option for i, option in enumerate(options)}, chosen)

    network: Any = nn.Sequential(
        nn.Conv2d(3, 3, 1), layer("a"), whole(layer("b")) if whole else nn.Sequential(layer("b"), nn.Flatten())
    )
    network.select = lambda arch: chosen.update(zip("ab", map(str, arch.choices), strict=True))
    use_batch_statistics(network)
    return network.eval()


PAIRS: Any = [SimpleNamespace(choices=(a, b)) for a in (0, 1) for b in (0, 1)]


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize(
    ("options", "whole", "apart"),
    [
        ([Mixing(), nn.Conv2d(3, 3, 3, padding=1)], None, False),
        ([nn.BatchNorm2d(3, affine=False), nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3))], None, False),
        ([nn.Sequential(nn.Flatten(2), nn.BatchNorm1d(3), nn.Unflatten(2, (8, 8))), nn.ReLU()], None, False),
        ([InPlace(), nn.Conv2d(3, 3, 3, padding=1)], None, True),
        ([nn.ReLU(inplace=True), nn.Conv2d(3, 3, 3, padding=1)], None, None),
        ([nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1)], Asking, False),
        ([nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1)], Strict, True),
    ],
)
def test_whatever_a_network_does(
    options: Sequence[nn.Module], whole: Callable[[OneOf], nn.Module] | None, apart: bool | None, grouped: bool
) -> None:
    torch.manual_seed(0)
    network = made_up(options, whole)
    x = torch.randn(6, 3, 8, 8)
    right = one_by_one(network, PAIRS, x)
    one_pass = OnePass(network, grouped=grouped)
    for _ in range(2):
        with one_pass.installed():
            found = one_pass.logits(PAIRS, x)
        for a, b in zip(found, right, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert apart is None or one_pass.apart == apart


@pytest.mark.parametrize(
    ("norm", "shape"),
    [
        (nn.BatchNorm1d(3), (6, 3)),
        (nn.BatchNorm1d(3), (6, 3, 4)),
        (nn.BatchNorm2d(3), (6, 3, 4, 4)),
        (nn.BatchNorm3d(3), (6, 3, 2, 4, 4)),
        (nn.SyncBatchNorm(3), (6, 3, 4)),
        (nn.InstanceNorm1d(3, track_running_stats=True), (6, 3, 4)),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else None,
)
def test_every_normalisation_uses_the_statistics_at_hand(norm: nn.Module, shape: Sequence[int]) -> None:
    """As in training, where the running ones are not looked at, and none are kept for another child."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)) * 7 + 3
    expected = norm(x) if type(norm) is not nn.SyncBatchNorm else nn.BatchNorm1d(3)(x)
    use_batch_statistics(norm)
    torch.testing.assert_close(norm.eval()(x), expected)
    assert not [name for name in norm.state_dict() if "running" in name or "batches" in name]


def test_draws_of_dropout_are_those_of_one_after_the_other() -> None:
    network = supernet("cell-cnn", {"blocks": 2}, {"channels": 4, "cells": 1})
    dropouts = [module for module in network.modules() if isinstance(module, nn.Dropout)]
    for module in dropouts:
        module.train().p = 0.5
    archs = [*some(network, 4), *some(network, 4)]
    torch.manual_seed(1)
    right = one_by_one(network, archs, images())
    torch.manual_seed(1)
    with (one_pass := OnePass(network)).installed():
        found = one_pass.logits(archs, images())
    assert all(torch.equal(a, b) for a, b in zip(found, right, strict=True))
    with (one_pass := OnePass(network, grouped=True)).installed():
        found = one_pass.logits([archs[0]] * 8, images())
    assert len({tuple(part.flatten().tolist()) for part in found}) == 8, "each child its own"


@pytest.mark.parametrize("error", [torch.OutOfMemoryError(), RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")])
def test_as_many_children_at_once_as_fit(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    network = supernet("nasbench201", {}, {"channels": 4, "cells": 1})
    one_pass = OnePass(network, grouped=True)
    archs = some(network, 10)
    right = one_by_one(network, archs, images())
    groups: list[int] = []
    recorded = one_pass._recorded

    def small(archs: Sequence[Arch], x: Tensor, then: Any) -> list[Tensor]:
        groups.append(len(archs))
        if len(archs) > 3:
            raise error
        return recorded(archs, x, then)

    monkeypatch.setattr(one_pass, "_recorded", small)
    for _ in range(2):
        with one_pass.installed():
            for a, b in zip(one_pass.logits(archs, images()), right, strict=True):
                torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert groups == [10, 5, *[2] * 5, *[2] * 5]
    monkeypatch.setattr(onepass, "LARGEST", 3 * images().numel())
    groups.clear()
    with (fresh := OnePass(network, grouped=True)).installed():
        monkeypatch.setattr(fresh, "_recorded", small)
        fresh.logits(archs, images())
    assert groups == [3, 3, 3]  # and one alone


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format])
def test_batch_norm_of_each_part(dtype: torch.dtype, affine: bool, memory_format: torch.memory_format) -> None:
    generator = torch.Generator().manual_seed(0)
    norms = [nn.BatchNorm2d(5, affine=affine, track_running_stats=False) for _ in range(2)]
    norms.append(norms[0])
    for norm in norms[: 2 * affine]:
        nn.init.normal_(norm.weight, generator=generator)
        nn.init.normal_(norm.bias, generator=generator)
    x = 3 * torch.randn(12, 5, 4, 7, generator=generator) + 2
    x[:, 3] = 20  # of variance 0
    x = x.to(dtype).contiguous(memory_format=memory_format)
    with torch.no_grad():
        found = batch_norm(norms, x)
        parts = zip(norms, x.double().chunk(3), strict=True)
        right = torch.cat([copy.deepcopy(norm).double()(part) for norm, part in parts])
    assert found.dtype == dtype and found.is_contiguous(memory_format=memory_format)
    close = {torch.float32: 1e-4, torch.float64: 1e-10}.get(dtype, 0.05)
    torch.testing.assert_close(found.double(), right, rtol=close, atol=close)


def test_modules_are_walked_once_for_many_rewards(monkeypatch: pytest.MonkeyPatch) -> None:
    evaluator = Evaluator(registry.make("space", "nasbench201", given={}), **OPTIONS, device="cpu")
    evaluator.prepare()
    network = evaluator.supernet()
    batch = next(evaluator.val_batches.minibatches(evaluator.recipe.batch_size, torch.Generator().manual_seed(0)))
    archs = some(network, 4)
    alone = evaluator.rewards(network, archs, batch)
    with evaluator.frozen(network):
        monkeypatch.setattr(network, "modules", None)
        monkeypatch.setattr(network, "eval", None)
        assert evaluator.rewards(network, archs, batch) == evaluator.rewards(network, archs, batch) == alone


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("name", "count", "most"), [("macro-cnn", 20, 1200), ("cell-cnn", 10, 2200), ("nasbench201", 10, 2000)]
)
def test_launches_of_rewards(fake_cuda: Shadow, name: str, count: int, most: int) -> None:
    """In bf16; one after the other macro's are 6,560."""
    space = registry.make("space", name, given={})
    scale = {"channels": 4, **{"cell-cnn": {"cells": 1}, "nasbench201": {"cells": 5}}.get(name, {})}
    evaluator = Evaluator(space, **OPTIONS, scale=scale, device="cuda")
    evaluator.prepare()
    network = evaluator.supernet()
    batch = next(evaluator.val_batches.minibatches(evaluator.recipe.batch_size, torch.Generator().manual_seed(0)))
    archs = some(network, count + 1)[:-1]
    with evaluator.frozen(network) as one_pass:
        found = evaluator.rewards(network, archs, batch)
        fake_cuda.forget()
        assert evaluator.rewards(network, archs, batch) == found
        assert sum(fake_cuda.launches.values()) <= most
        assert len(fake_cuda.syncs) == 1
        assert not one_pass.apart
        apart_only = [call for call, agrees in one_pass.agreeing.items() if not agrees]
        assert not [str(call)[:200] for call in apart_only]
        children, x = archs, batch[0]
        with torch.autocast("cuda", enabled=False):
            logits = torch.stack(one_pass.logits(children, x))
    right = torch.stack(one_by_one(network, children, x))
    assert float((logits - right).abs().max()) < 1e-4
