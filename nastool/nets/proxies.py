"""Zero-cost proxies: what a network that was never trained says of itself on one minibatch; more is better.

After Abdelfattah et al., ICLR 2021, arXiv 2101.08134, Mellor et al., ICML 2021, arXiv 2006.04647, and Lin et al., ICCV
2021, arXiv 2102.01063, whose code draws, normalises and sums as here. Weights are those of convolutions and linear
layers; the network is left as it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.conv import _ConvNd

from nastool.nets.blocks import GlobalPool, Heads

NAMES = ("synflow", "snip", "grad_norm", "jacob_cov", "naswot", "zen")
"""Of all that `proxies` finds."""
JITTER = 1e-5
"""Added to eigenvalues, which may be 0 where examples are alike."""
ZEN_REPEATS, ZEN_BATCH = 2, 8
"""How often weights and inputs are drawn for the Zen score, and how many inputs; published are 32 and 16."""
ZEN_ALPHA = 0.01
"""What a normal perturbation of an input is multiplied with."""


def proxies(
    network: nn.Module,
    loss: Callable[[Tensor], Tensor],
    inputs: Tensor,
    names: Collection[str] = NAMES,
    seed: int = 0,
) -> dict[str, float]:
    """Proxies of a network in training mode: batch normalisation uses the minibatch's statistics.

    - snip: sum of |w dL/dw| (Lee et al., ICLR 2019), grad_norm: sum over weights' tensors of |dL/dw|_2.
    - jacob_cov: how differently examples' outputs change with their pixels: -sum of log(v + k) + 1/(v + k), where v are
      the eigenvalues of the correlations of the rows d(sum y)/dx, and k = 1e-5.
    - naswot: log-determinant of how many ReLUs are alike, on or off, for each pair of examples; -inf where two of them
      turn on the same ones, or there is no ReLU.
    - synflow: the logarithm of the sum of |w dR/dw| (Tanaka et al., NeurIPS 2020), of the absolute weights, without
      normalisation, for an input of ones, in float64; R is the sum of the outputs; -inf where none reaches them.
    - zen: how much features change with the input, of normal weights and inputs (Lin et al. alg. 1): log(mean |f(x) -
      f(x + 0.01 e)|_1) plus, for each batch normalisation, the log of the deviation that it divides by (the root of its
      channels' mean variance, of these inputs themselves where the authors' code has running means); features are what
      enters global pooling, or else the outputs. The mean of 2 draws of 8 inputs; -inf where nothing changes.

    All but synflow and zen come from one forward pass, one backward pass for the loss and one for the outputs.

    Args:
        network: Of one input, with outputs (N, classes), or `Heads`, whose mean counts, and for synflow their sum.
        loss: Of the outputs for these inputs, a scalar.
        inputs: (N, ...), floating point.
        names: Which are wanted.
        seed: Of what zen draws.

    Raises:
        ValueError: One of the names is unknown.
    """
    if unknown := set(names) - set(NAMES):
        raise ValueError(f"no proxy {min(unknown)}; there are {', '.join(NAMES)}")
    with _left_as_it_was(network):
        network.train()
        found = _of_data(network, loss, inputs, names)
        if "synflow" in names:
            found["synflow"] = _synflow(network, torch.ones_like(inputs[:1]))
        if "zen" in names:
            found["zen"] = _zen(network, inputs, torch.Generator().manual_seed(seed))
    return {name: found[name] for name in NAMES if name in names}


def _of_data(
    network: nn.Module, loss: Callable[[Tensor], Tensor], inputs: Tensor, names: Collection[str]
) -> dict[str, float]:
    found: dict[str, float] = {}
    wants_loss, wants_rows = not {"snip", "grad_norm"}.isdisjoint(names), "jacob_cov" in names
    if not (wants_loss or wants_rows or "naswot" in names):
        return found
    alike = torch.zeros(len(inputs), len(inputs), device=inputs.device, dtype=torch.float64)
    x = inputs.detach().clone().requires_grad_(wants_rows)
    with ExitStack() as stack, torch.set_grad_enabled(wants_loss or wants_rows):
        for module in network.modules() if "naswot" in names else ():
            if isinstance(module, nn.ReLU):
                stack.callback(module.register_forward_pre_hook(partial(_count_alike, alike)).remove)
        output = network(x)
        output = output.mean if isinstance(output, Heads) else output
    if "naswot" in names:
        sign, log_det = torch.linalg.slogdet(alike)
        found["naswot"] = float(log_det) if float(sign) > 0 else -math.inf
    if wants_rows:
        (rows,) = torch.autograd.grad(output.sum(), x, retain_graph=wants_loss, allow_unused=True)
        found["jacob_cov"] = -math.inf if rows is None else _spread(rows.flatten(1).double())
    if wants_loss:
        weights = list(_weights(network))
        gradients = torch.autograd.grad(loss(output), weights, allow_unused=True)
        pairs = [(w.detach(), g) for w, g in zip(weights, gradients, strict=True) if g is not None]
        found["snip"] = _total((w * g).abs().sum() for w, g in pairs)
        found["grad_norm"] = _total(g.norm() for _, g in pairs)
    return found


def _count_alike(alike: Tensor, module: nn.Module, inputs: Sequence[Tensor]) -> None:
    """Add for each pair of examples in how many places a ReLU is on for both or off for both."""
    on = (inputs[0].detach() > 0).flatten(1).float()
    both = on @ on.T
    each = both.diagonal()
    alike += on.shape[1] - each[:, None] - each + 2 * both


def _spread(rows: Tensor) -> float:
    """As of jacob_cov; -inf where an example's row says nothing."""
    centred = rows - rows.mean(1, keepdim=True)
    lengths = centred.norm(dim=1, keepdim=True)
    if not bool((lengths > 0).all()):
        return -math.inf
    values = torch.linalg.eigvalsh((centred / lengths) @ (centred / lengths).T) + JITTER
    return -float((values.log() + 1 / values).sum())


def _synflow(network: nn.Module, ones: Tensor) -> float:
    linear = deepcopy(network).double()
    with torch.no_grad():
        for parameter in linear.parameters():
            parameter.abs_()
    for module in linear.modules():
        if isinstance(module, _NormBase):
            module.forward = _same
    weights = list(_weights(linear))
    output = linear(ones.double())
    total = torch.stack(output.heads).sum() if isinstance(output, Heads) else output.sum()
    if total.requires_grad:
        gradients = torch.autograd.grad(total, weights, allow_unused=True)
        flow = _total((w * g).abs().sum() for w, g in zip(weights, gradients, strict=True) if g is not None)
        return math.log(flow) if flow > 0 else -math.inf
    return -math.inf


def _zen(network: nn.Module, inputs: Tensor, generator: torch.Generator) -> float:
    """inputs: (N, ...), for their shape, type and device. generator: the CPU's, so that all devices see the same."""
    drawn, shape = deepcopy(network), (ZEN_BATCH, *inputs.shape[1:])
    features: list[Tensor] = []
    variances: list[Tensor] = []
    for module in drawn.modules():
        if isinstance(module, _BatchNorm):
            module.register_forward_pre_hook(lambda _, given: variances.append(_variance(given[0])))
        elif isinstance(module, GlobalPool | nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d):
            module.register_forward_pre_hook(lambda _, given: features.append(given[0]))
    total = 0.0
    with torch.no_grad():
        for _ in range(ZEN_REPEATS):
            features.clear()
            variances.clear()
            _draw_weights(drawn, generator)
            x = torch.randn(shape, generator=generator)
            both = torch.cat([x, x + ZEN_ALPHA * torch.randn(shape, generator=generator)])
            output = drawn(both.to(inputs))
            pairs = [each.chunk(2) for each in features or [output.mean if isinstance(output, Heads) else output]]
            change = float(sum((f - g).abs().flatten(1).sum(1).mean() for f, g in pairs))
            if not 0 < change < math.inf:
                return -math.inf
            scales = [float(each) for each in variances]  # 0 where no signal enters: such a one divides nothing
            total += math.log(change) + sum(0.5 * math.log(scale) for scale in scales if scale > 0)
    return total / ZEN_REPEATS


def _variance(x: Tensor) -> Tensor:
    """The mean over the channels of (N, C, ...) of their variance."""
    return x.var([i for i in range(x.dim()) if i != 1]).mean()


def _draw_weights(network: nn.Module, generator: torch.Generator) -> None:
    """Weights from N(0, 1), biases 0; normalisation as it is when it is made."""
    for module in network.modules():
        if isinstance(module, _ConvNd | nn.Linear):
            module.weight.copy_(torch.randn(module.weight.shape, generator=generator))
        elif isinstance(module, _BatchNorm | nn.GroupNorm) and module.weight is not None:
            nn.init.ones_(module.weight)
        else:
            continue
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def _weights(network: nn.Module) -> Iterator[Tensor]:
    for module in network.modules():
        if isinstance(module, _ConvNd | nn.Linear):
            yield module.weight


def _total(values: Iterator[Tensor]) -> float:
    return math.fsum(float(value.detach()) for value in values)


def _same(x: Tensor) -> Tensor:
    return x


@contextmanager
def _left_as_it_was(network: nn.Module) -> Iterator[None]:
    """Afterwards buffers and modes are what they were; weights are not touched."""
    modes = {module: module.training for module in network.modules()}
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    try:
        yield
    finally:
        for buffer, values in buffers:
            buffer.copy_(values)
        for module, training in modes.items():
            module.training = training
