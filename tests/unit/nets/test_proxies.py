"""Zero-cost proxies against their formulas, written out, and that networks stay as they are."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from nastool.nets.blocks import GlobalPool, Zero, conv_bn_relu
from nastool.nets.costs import count_flops
from nastool.nets.networks import build
from nastool.nets.proxies import NAMES, ZEN_BATCH, ZEN_REPEATS, proxies
from nastool.spaces.nasbench201 import NasBench201
from nastool.tasks.images.task import ImageTask

SPACE = NasBench201()
TASK = ImageTask(3, 8, 8, 10)


def network(seed: int = 0, arch: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    found = SPACE.arch([3, 2, 1, 4, 3, 2]) if not arch else SPACE.sample(np.random.default_rng(arch))
    return build(SPACE, found, TASK, SPACE.Scale(channels=4, cells=1))


def images(count: int = 6, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def labelled(outputs: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, torch.arange(len(outputs)) % 10)


def test_gradients_of_the_loss() -> None:
    net = network().train()
    weights = [m.weight for m in net.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    gradients = torch.autograd.grad(labelled(net(images())), weights)
    pairs = list(zip(weights, gradients, strict=True))
    found = proxies(network(), labelled, images(), ("snip", "grad_norm"))
    assert found["snip"] == pytest.approx(sum(float((w.detach() * g).abs().sum()) for w, g in pairs), rel=1e-5)
    assert found["grad_norm"] == pytest.approx(sum(float(g.norm()) for g in gradients), rel=1e-5)


def test_correlations_of_the_rows_of_the_jacobian() -> None:
    net, x = network().train(), images().requires_grad_(True)
    net(x).backward(torch.ones(len(x), 10))
    assert x.grad is not None
    values = np.linalg.eigvalsh(np.corrcoef(x.grad.flatten(1).double().numpy())) + 1e-5
    expected = -np.sum(np.log(values) + 1 / values)
    assert proxies(network(), labelled, images(), ("jacob_cov",))["jacob_cov"] == pytest.approx(expected, rel=1e-4)


def test_kernel_of_activations() -> None:
    net = nn.Sequential(nn.Linear(3, 7), nn.ReLU(inplace=True), nn.Linear(7, 5), nn.ReLU(), nn.Linear(5, 2))
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    first = net[0](x)
    codes = torch.cat([first > 0, net[2](first.relu()) > 0], 1).numpy().astype(float)
    expected = np.linalg.slogdet(codes @ codes.T + (1 - codes) @ (1 - codes).T)[1]
    assert proxies(net, labelled, x, ("naswot",))["naswot"] == pytest.approx(expected, rel=1e-5)
    assert proxies(net, labelled, x[[0, 0, 1]], ("naswot",))["naswot"] == -math.inf
    assert proxies(nn.Sequential(nn.Linear(3, 2)), labelled, x, ("naswot",))["naswot"] == -math.inf


def test_synflow_of_linear_layers_is_known() -> None:
    """Each layer's sum of |w dR/dw| is R itself: the number of layers times ones |W1| |W2| ones."""
    net = nn.Sequential(nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2, bias=False))
    first, last = (net.get_parameter(f"{i}.weight").detach().abs().double() for i in (0, 3))
    expected = math.log(2 * float((last @ first).sum()))
    for seed in (0, 1):
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
        assert proxies(net, labelled, x, ("synflow",))["synflow"] == pytest.approx(expected, rel=1e-6)
    deaf = nn.Linear(3, 4, bias=False)
    nn.init.zeros_(deaf.weight)
    silent = nn.Sequential(deaf, nn.Linear(4, 2, bias=False))
    assert proxies(silent, labelled, torch.ones(2, 3), ("synflow",))["synflow"] == -math.inf


def test_zen_is_how_features_change_and_what_normalisation_takes_off() -> None:
    """Written out for one convolution: of what it gives x and x + 0.01 e the difference, normalised, on a log scale."""
    net = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.BatchNorm2d(5), nn.ReLU(), GlobalPool(), nn.Linear(5, 2))
    generator = torch.Generator().manual_seed(7)
    expected = []
    for _ in range(ZEN_REPEATS):
        weight = torch.randn(5, 3, 3, 3, generator=generator)
        torch.randn(2, 5, generator=generator)  # the linear layer's, which features do not see
        x, e = (torch.randn(ZEN_BATCH, 3, 8, 8, generator=generator) for _ in range(2))
        seen = nn.functional.conv2d(torch.cat([x, x + 0.01 * e]), weight, padding=1)
        variance = seen.var((0, 2, 3))
        f, g = nn.functional.batch_norm(seen, None, None, training=True).relu().chunk(2)
        change = (f - g).abs().sum() / ZEN_BATCH
        expected.append(float(change.log() + variance.mean().sqrt().log()))
    assert proxies(net, labelled, images(), ("zen",), 7)["zen"] == pytest.approx(np.mean(expected), rel=1e-4)


def test_zen_is_of_draws_alone_and_grows_with_every_layer() -> None:
    found = proxies(network(), labelled, images(), ("zen",), 1)
    assert found == proxies(network(seed=1), labelled, images(seed=1), ("zen",), 1), "neither weights nor images matter"
    assert found != proxies(network(), labelled, images(), ("zen",), 2)

    def of(depth: int) -> float:
        return proxies(nn.Sequential(*(conv_bn_relu(3, 3, 3) for _ in range(depth))), labelled, images(), ("zen",))[
            "zen"
        ]

    assert of(1) < of(2) < of(3), "without pooling features are outputs"
    empty = nn.Sequential(conv_bn_relu(3, 3, 3), Zero(), GlobalPool())
    assert proxies(empty, labelled, images(), ("zen",))["zen"] == -math.inf


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_networks_stay_as_they_are(seed: int) -> None:
    net = network(arch=seed).eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    places = {name: value.data_ptr() for name, value in net.state_dict().items()}
    found = proxies(net, labelled, images())
    assert tuple(found) == NAMES and all(map(math.isfinite, found.values()))
    after = net.state_dict()
    assert all(torch.equal(after[name], value) and after[name].dtype == value.dtype for name, value in before.items())
    assert {name: value.data_ptr() for name, value in after.items()} == places
    assert not any(module.training for module in net.modules()) and all(p.grad is None for p in net.parameters())
    assert proxies(net, labelled, images()) == found, "the same again"
    assert count_flops(net, TASK) > 0 and all("forward" not in vars(module) for module in net.modules())


def test_unknown_names() -> None:
    with pytest.raises(ValueError, match="no proxy fisher"):
        proxies(network(), labelled, images(), ("fisher",))
