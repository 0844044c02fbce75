"""Modules of one kind that are ready at the same time, run as one: the same mathematics in fewer and larger operations.

Convolutions that read the same tensor are one with more output channels; those of different tensors are one in groups.
Batch normalisation, activations and pooling treat channels apart anyway. So it is done within `launches.few_launches`;
elsewhere modules run one by one.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from nastool.nets import launches
from nastool.nets.blocks import DropPath, FactorizedReduce, Join, MaxPool, Separable
from nastool.nets.depthwise import DepthwiseConv2d


def run(
    modules: Sequence[nn.Module], inputs: Sequence[Tensor], positive: dict[Tensor, Tensor] | None = None
) -> list[Tensor]:
    """What each module makes of its own input (N, C, H, W). Inputs to modules of one kind have one shape.

    positive: the ReLU of each input that needed it, to be given to the next call that reads some of the same.
    """
    if not launches.are_few():
        return [module(x) for module, x in zip(modules, inputs, strict=True)]
    outputs: dict[int, Tensor] = {}
    positive = {} if positive is None else positive
    for group in groups(modules):
        xs = [inputs[i] for i in group]
        lines = [_known(modules[i])[0] for i in group]
        if lines[0] is None:
            outputs[group[0]] = modules[group[0]](xs[0])
            continue
        rest = cast(list[list[nn.Module]], lines)
        if rest[0] and isinstance(rest[0][0], nn.ReLU):
            for x in xs:
                if x not in positive:
                    positive[x] = rest[0][0](x)
            xs, rest = [positive[x] for x in xs], [line[1:] for line in rest]
        outputs.update(zip(group, _as_one(rest, xs) if len(group) > 1 else [_alone(rest[0], xs[0])], strict=True))
    return [outputs[i] for i in range(len(modules))]


def joins(modules: Sequence[nn.Module]) -> Iterator[list[nn.Module]]:
    """The layers whose parameters `run` will concatenate; see `launches.few_launches`."""
    for group in groups(modules):
        if len(group) > 1:
            for layers in zip(*(_known(modules[i])[0] or [] for i in group), strict=True):
                if isinstance(layers[0], nn.Conv2d | nn.BatchNorm2d):
                    yield list(layers)
                elif isinstance(layers[0], FactorizedReduce):
                    yield from ([getattr(layer, name) for layer in layers] for name in ("conv", "norm"))


def adapt(joins: Sequence[tuple[Join, nn.BatchNorm2d]], tensors: Mapping[str, Tensor]) -> list[Tensor]:
    """Each `Join` of the same tensors, with its normalisation after it."""
    x = joins[0][0].concatenated(tensors)
    outputs: dict[int, Tensor] = {}
    for group in _alike(joins):
        norms = [joins[i][1] for i in group]
        if len(group) == 1:
            outputs[group[0]] = norms[0](joins[group[0]][0].convolved(x))
            continue
        weight = torch.cat([joins[i][0].stacked() for i in group]).flatten(1)[..., None, None]
        out = launches.joint_norm(functional.conv2d(x, weight), norms)
        outputs.update(zip(group, out.chunk(len(group), 1), strict=True))
    return [outputs[i] for i in range(len(joins))]


def adapt_joins(joins: Sequence[tuple[Join, nn.BatchNorm2d]]) -> list[list[nn.Module]]:
    """The normalisations that `adapt` runs as one; see `launches.few_launches`."""
    return [[joins[i][1] for i in group] for group in _alike(joins) if len(group) > 1]


def _alike(joins: Sequence[tuple[Join, nn.BatchNorm2d]]) -> list[list[int]]:
    """The indices of those that do not halve and have the same number of channels; each other one by itself."""
    found: dict[Hashable, list[int]] = {}
    for i, (join, norm) in enumerate(joins):
        found.setdefault(join if join.halves else norm.num_features, []).append(i)
    return list(found.values())


def groups(modules: Sequence[nn.Module]) -> list[list[int]]:
    """The indices of those that are of one kind and can run as one."""
    found: dict[Hashable, list[int]] = {}
    for i, module in enumerate(modules):
        found.setdefault(_known(module)[1], []).append(i)
    return list(found.values())


def has_weights(module: nn.Module) -> bool:
    layers = _known(module)[0]
    if layers is None:
        return next(module.parameters(), None) is not None
    return any(isinstance(layer, nn.Conv2d | nn.BatchNorm2d | FactorizedReduce) for layer in layers)


def _known(module: nn.Module) -> tuple[list[nn.Module] | None, Hashable]:
    """Its layers and its kind; kept with it, since a step asks several times, and modules do not change."""
    if "_known" not in vars(module):
        layers = _layers(module)
        vars(module)["_known"] = layers, id(module) if layers is None else tuple(map(_kind, layers))
    known: tuple[list[nn.Module] | None, Hashable] = vars(module)["_known"]
    return known


def _layers(module: nn.Module) -> list[nn.Module] | None:
    """What it does, in order; None: not known."""
    if type(module) is nn.Sequential or isinstance(module, Separable):
        parts = [_layers(part) for part in module.children()]
        return None if any(part is None for part in parts) else [layer for part in parts for layer in part or ()]
    if type(module) is nn.Identity:
        return []
    if type(module) in (nn.Conv2d, DepthwiseConv2d):
        return [module] if module.bias is None and module.padding_mode == "zeros" else None
    if type(module) is nn.BatchNorm2d:
        return [module] if module.affine and module.momentum is not None else None
    if isinstance(module, FactorizedReduce):
        return [module] if module.conv.out_channels % 2 == 0 else None
    return [module] if isinstance(module, nn.ReLU | nn.AvgPool2d | MaxPool | DropPath) else None


def _kind(layer: nn.Module) -> Hashable:
    if isinstance(layer, nn.Conv2d):
        shape = (layer.in_channels, layer.out_channels, layer.kernel_size, layer.groups)
        return (nn.Conv2d, *shape, layer.stride, layer.padding, layer.dilation)
    if isinstance(layer, nn.BatchNorm2d):
        return (nn.BatchNorm2d, layer.num_features, layer.eps, layer.momentum)
    if isinstance(layer, FactorizedReduce):
        return (FactorizedReduce, _kind(layer.conv), _kind(layer.norm))
    if isinstance(layer, nn.AvgPool2d | MaxPool):
        return (type(layer), layer.kernel_size, layer.stride, layer.padding)
    return str(type(layer))


def _alone(layers: Sequence[nn.Module], x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


def _as_one(lines: Sequence[Sequence[nn.Module]], xs: Sequence[Tensor]) -> Sequence[Tensor]:
    """lines: of each module its layers. xs: what each reads."""
    count = len(lines)
    x: Tensor | None = None
    """All of them, one after the other along the channels; None where they are still apart."""
    for each in zip(*lines, strict=True):
        layers = list(each)
        first = layers[0]
        same = x is None and all(other is xs[0] for other in xs)
        if isinstance(first, DropPath):
            xs = [layer(part) for layer, part in zip(layers, xs if x is None else x.chunk(count, 1), strict=True)]
            x = None
        elif isinstance(first, FactorizedReduce):
            x = launches.diagonals(xs if x is None else x.chunk(count, 1))
            x = launches.joint_conv(x, [layer.conv for layer in layers], 2 * count)
            x = launches.joint_norm(x, [layer.norm for layer in layers])
        elif isinstance(first, nn.Conv2d):
            if same and first.groups == 1:
                x = launches.joint_conv(xs[0], layers, 1)
            else:
                x = launches.joint_conv(launches.concatenated(xs) if x is None else x, layers, count * first.groups)
        elif isinstance(first, nn.BatchNorm2d):
            x = launches.joint_norm(launches.concatenated(xs) if x is None else x, layers)
        elif same:
            xs = [first(xs[0])] * count
        else:
            x = first(launches.concatenated(xs) if x is None else x)
    return xs if x is None else x.chunk(count, 1)
