"""Zero-cost proxies: what a network that was never trained says of itself on one minibatch; more is better.

After Abdelfattah et al., ICLR 2021, arXiv 2101.08134, Mellor et al., ICML 2021, arXiv 2006.04647, and Lin et al., ICCV
2021, arXiv 2102.01063, whose code draws, normalises and sums as here. Weights are those of convolutions and linear
layers; the network is left as it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
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
        found = _of_data(network, loss, inputs, names)
    if "synflow" in names:
        with _left_as_it_was(network):
            found["synflow"] = _synflow(network, torch.ones_like(inputs[:1]))
    if "zen" in names:
        with _left_as_it_was(network):
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
    x = inputs[0].detach()
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        x = x.movedim(1, -1)  # the order in memory, so that nothing is copied
    on = torch.gt(x, 0, out=torch.empty_like(x, dtype=torch.float32)).flatten(1)
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
    for parameter in network.parameters():
        parameter.data = parameter.data.abs().double()
    for buffer in network.buffers():
        buffer.data = buffer.data.double() if buffer.is_floating_point() else buffer.data
    for module in network.modules():
        if isinstance(module, _NormBase):
            module.forward = _same
    weights = list(_weights(network))
    output = network(ones.double())
    total = torch.stack(output.heads).sum() if isinstance(output, Heads) else output.sum()
    if total.requires_grad:
        gradients = torch.autograd.grad(total, weights, allow_unused=True)
        flow = _total((w * g).abs().sum() for w, g in zip(weights, gradients, strict=True) if g is not None)
        return math.log(flow) if flow > 0 else -math.inf
    return -math.inf


def _zen(network: nn.Module, inputs: Tensor, generator: torch.Generator) -> float:
    """inputs: (N, ...), for their shape, type and device. generator: the CPU's, so that all devices see the same."""
    shape = (ZEN_BATCH, *inputs.shape[1:])
    features: list[Tensor] = []
    variances: list[Tensor] = []
    total = 0.0
    with ExitStack() as stack, torch.no_grad():
        for module in network.modules():
            if isinstance(module, _BatchNorm):
                _remember_statistics(module, inputs)
                hook = module.register_forward_hook(lambda norm, *_: variances.append(norm.running_var.mean()))
            elif isinstance(module, GlobalPool | nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d):
                hook = module.register_forward_pre_hook(lambda _, given: features.append(given[0]))
            else:
                continue
            stack.callback(hook.remove)
        for _ in range(ZEN_REPEATS):
            features.clear()
            variances.clear()
            _draw_weights(network, generator)
            x = torch.randn(shape, generator=generator)
            both = torch.cat([x, x + ZEN_ALPHA * torch.randn(shape, generator=generator)])
            output = network(both.to(inputs))
            pairs = [each.chunk(2) for each in features or [output.mean if isinstance(output, Heads) else output]]
            change = float(sum((f - g).abs().flatten(1).sum(1).mean() for f, g in pairs))
            if not 0 < change < math.inf:
                return -math.inf
            scales = [float(each) for each in variances]  # 0 where no signal enters: such a one divides nothing
            total += math.log(change) + sum(0.5 * math.log(scale) for scale in scales if scale > 0)
    return total / ZEN_REPEATS


def _remember_statistics(norm: _BatchNorm, inputs: Tensor) -> None:
    """Have it keep as running statistics those of the last minibatch, which it has found anyway."""
    running = {name: inputs.new_zeros(norm.num_features) for name in ("running_mean", "running_var")}
    vars(norm).update(momentum=1.0, track_running_stats=True, _buffers={**norm._buffers, **running})


def _draw_weights(network: nn.Module, generator: torch.Generator) -> None:
    """Weights from N(0, 1), biases 0; normalisation as it is when it is made."""
    for module in network.modules():
        if isinstance(module, _ConvNd | nn.Linear):
            drawn = torch.randn(module.weight.shape, generator=generator)
            module.weight.data = torch.empty_like(module.weight).copy_(drawn)
        elif isinstance(module, _BatchNorm | nn.GroupNorm) and module.weight is not None:
            module.weight.data = torch.ones_like(module.weight)
        else:
            continue
        if module.bias is not None:
            module.bias.data = torch.zeros_like(module.bias)


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
    """In training mode; afterwards all it has is as it was, hooks aside, if what its tensors hold is replaced.

    What buffers hold may also be written over.
    """
    modules = [(module, dict(vars(module))) for module in network.modules()]
    tensors = [(tensor, tensor.data) for tensor in (*network.parameters(), *network.buffers())]
    try:
        network.train()
        for buffer in network.buffers():
            buffer.data = buffer.data.clone()
        yield
    finally:
        for module, attributes in modules:
            vars(module).clear()
            vars(module).update(attributes)
        for tensor, values in tensors:
            tensor.data = values
