"""Fewer kernel launches a training step on a GPU, which is what small networks are bound by there.

`few_launches` does for the whole network at once what otherwise each layer does for itself:

- Autocast casts each weight where it is used, and each gradient on its way back. Here a few copies cast all of them.
- The weights of layers that run as one (`joint_conv`, `joint_norm`) are concatenated by the same copies.
- Batch normalisation in bfloat16 takes torch's own kernels, seven launches (torch asks cuDNN for other types only). The
  operations of `nn.SyncBatchNorm` take six, and all running statistics are updated together.

What is computed is the same, up to the order of summation.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from nastool.nets.networks import active_modules

_CASTS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
"""Layers all of whose parameters autocast casts."""


def joint_conv(x: Tensor, convs: Sequence[nn.Conv2d], groups: int = 1) -> Tensor:
    """Convolutions without bias that differ in their weights alone, as one; the outputs' channels are concatenated.

    groups: into how many the channels are divided altogether. 1: all of the convolutions read all of x.
    """
    first = convs[0]
    weight = joined([conv.weight for conv in convs])
    return functional.conv2d(x, weight, None, first.stride, first.padding, first.dilation, groups)


def diagonals(images: Sequence[Tensor]) -> Tensor:
    """Every second position diagonally, with zeros beyond the image: of each image the even ones, then the odd ones.

    images: n of (N, C, H, W). Returns (N, 2 C n, H / 2, W / 2), rounded up, n times C even and C odd.
    """
    height, width = images[0].shape[2:]
    if height % 2 or width % 2:
        images = [functional.pad(image, (0, width % 2, 0, height % 2)) for image in images]
    out: Tensor = _Diagonals.apply(*images)
    return out


def concatenated(images: Sequence[Tensor]) -> Tensor:
    """Images (N, C, H, W) along their channels, in channels_last: one launch, also where they are parts of others."""
    if len(images) == 1:
        return images[0]
    return torch.cat([image.permute(0, 2, 3, 1) for image in images], 3).permute(0, 3, 1, 2)


def summed(terms: Sequence[Tensor]) -> Tensor:
    """The sum of images (N, C, H, W). Two launches, however many they are."""
    out: Tensor = _Sum.apply(*terms)
    return out


def joint_norm(x: Tensor, norms: Sequence[nn.BatchNorm2d]) -> Tensor:
    """Batch normalisations of one kind in training mode, each of its part of x's channels, as one."""
    if len(norms) == 1:
        out: Tensor = norms[0](x)
        return out
    step = _current.get()
    if step is not None and step.takes(x):
        return step.norm(x, norms)
    weight, bias = joined([norm.weight for norm in norms]), joined([norm.bias for norm in norms])
    first = norms[0]
    if first.running_mean is None or first.momentum is None:
        return functional.batch_norm(x, None, None, weight, bias, True, 0.0, first.eps)
    means, variances = ([getattr(norm, name) for norm in norms] for name in ("running_mean", "running_var"))
    mean, variance = torch.cat(means), torch.cat(variances)
    out = functional.batch_norm(x, mean, variance, weight, bias, True, first.momentum, first.eps)
    sizes = [norm.num_features for norm in norms]
    torch._foreach_copy_([*means, *variances], [*mean.split(sizes), *variance.split(sizes)])  # type: ignore[no-untyped-call]
    for norm in norms:
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked += 1
    return out


def are_few() -> bool:
    """Whether this is within `few_launches`."""
    return _current.get() is not None


def joined(parameters: Sequence[Tensor]) -> Tensor:
    """Their concatenation along the first dimension."""
    return parameters[0] if len(parameters) == 1 else stacked(parameters).flatten(0, 1)


def stacked(parameters: Sequence[Tensor]) -> Tensor:
    """Parameters of one shape in a new first dimension: made already, if a module's `joins` have told of it."""
    if len(parameters) == 1:
        return parameters[0][None]
    step = _current.get()
    ready = None if step is None else step.stacked.get(_key(parameters))
    return torch.stack(list(parameters)) if ready is None else ready


def _key(parameters: Sequence[Tensor]) -> tuple[int, ...]:
    return tuple(map(id, parameters))


@contextmanager
def few_launches(network: nn.Module, *, on_cpu: bool = False) -> Iterator[None]:
    """Around the forward pass of a training step, within autocast. On a CPU, unless asked, it does nothing.

    A module may have a method `joins`: groups of layers, all convolutions or all normalisations, that it will run as
    one. Gradients reach the parameters as ever.
    """
    parameter = next(network.parameters(), None)
    kind = "cpu" if parameter is None else parameter.device.type
    if kind == "cpu" and not on_cpu:
        yield
        return
    step = _Step(torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else torch.float32)
    token = _current.set(step)
    try:
        step.begin(list(dict.fromkeys(active_modules(network))))
        yield
        step.update_statistics()
    finally:
        step.end()
        _current.reset(token)


class _Step:
    """What is known and changed for the time of one forward pass. stacked: parameters by their ids."""

    def __init__(self, dtype: torch.dtype) -> None:
        """dtype: that of convolutions."""
        self.dtype = dtype
        self.stacked: dict[tuple[int, ...], Tensor] = {}
        self._cast: list[tuple[nn.Module, str, Tensor | None]] = []
        self._norms: list[nn.BatchNorm2d] = []
        self._counters: list[Tensor | None] = []
        self._found: dict[int, tuple[nn.BatchNorm2d, Tensor, Tensor, int]] = {}
        """By id of a normalisation: it, the batch's mean, 1 / sqrt(variance + eps), and of how many values."""

    def begin(self, modules: Sequence[nn.Module]) -> None:
        groups: list[tuple[Sequence[Tensor], torch.dtype]] = []
        for module in modules:
            joins = getattr(type(module), "joins", None)  # of a module torch would look everywhere
            for layers in joins(module) if joins is not None else ():
                norms = isinstance(layers[0], nn.BatchNorm2d)
                groups.append(([layer.weight for layer in layers], torch.float32 if norms else self.dtype))
                if norms:
                    groups.append(([layer.bias for layer in layers], torch.float32))
        count = len(groups)
        elsewhere = {id(parameter) for group, _ in groups for parameter in group}
        places = []
        for module in modules:
            if isinstance(module, nn.BatchNorm2d):
                self._take(module)
            elif isinstance(module, _CASTS) and self.dtype != torch.float32:
                for name, weight in module._parameters.items():
                    if weight is not None and weight.dtype == torch.float32 and id(weight) not in elsewhere:
                        places.append((module, name))
                        groups.append(([weight], self.dtype))
        if not groups:
            return
        sizes, dtypes = [len(group) for group, _ in groups], [dtype for _, dtype in groups]
        made = _Copies.apply(sizes, dtypes, *(parameter for group, _ in groups for parameter in group))
        self.stacked = {_key(group): tensor for (group, _), tensor in zip(groups[:count], made[:count], strict=True)}
        for (module, name), tensor in zip(places, made[count:], strict=True):
            self._cast.append((module, name, module._parameters[name]))
            module._parameters[name] = tensor

    def _take(self, norm: nn.BatchNorm2d) -> None:
        if norm.momentum is None:
            return
        self._norms.append(norm)
        self._counters.append(norm.num_batches_tracked)
        norm._buffers["num_batches_tracked"] = None
        if self.dtype == torch.bfloat16 and norm.affine and type(norm) is nn.BatchNorm2d:
            norm.__dict__["forward"] = partial(self._forward, norm)

    def end(self) -> None:
        for module, name, weight in self._cast:
            module._parameters[name] = weight  # type: ignore[assignment]
        for norm, counter in zip(self._norms, self._counters, strict=True):
            norm._buffers["num_batches_tracked"] = counter
            norm.__dict__.pop("forward", None)

    # --- batch normalisation

    def takes(self, x: Tensor) -> bool:
        dense = x.is_contiguous() or x.is_contiguous(memory_format=torch.channels_last)
        return x.is_cuda and x.dtype == torch.bfloat16 and dense and x.numel() > x.shape[1]

    def _forward(self, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
        own = norm.training or norm.running_mean is None
        if own and self.takes(x) and id(norm) not in self._found:
            return self.norm(x, [norm])
        return nn.BatchNorm2d.forward(norm, x)

    def norm(self, x: Tensor, norms: Sequence[nn.BatchNorm2d]) -> Tensor:
        weight, bias = joined([norm.weight for norm in norms]), joined([norm.bias for norm in norms])
        out, mean, inverse = _Norm.apply(x, weight, bias, norms[0].eps)
        if norms[0].running_mean is not None:
            sizes = [norm.num_features for norm in norms]
            for norm, of_mean, of_inverse in zip(norms, mean.split(sizes), inverse.split(sizes), strict=True):
                self._found[id(norm)] = (norm, of_mean, of_inverse, x.numel() // x.shape[1])
        return out  # type: ignore[no-any-return]

    @torch.no_grad()
    def update_statistics(self) -> None:
        counters = [
            counter
            for norm, counter in zip(self._norms, self._counters, strict=True)
            if norm.training and counter is not None
        ]
        if counters:
            torch._foreach_add_(counters, 1)
        for momentum in {norm.momentum or 0.0 for norm, *_ in self._found.values()}:
            found = [each for each in self._found.values() if each[0].momentum == momentum]
            norms, means, inverses, counts = zip(*found, strict=True)
            variances = torch._foreach_pow(inverses, -2)
            torch._foreach_sub_(variances, [norm.eps for norm in norms])
            torch._foreach_mul_(variances, [count / (count - 1) for count in counts])
            torch._foreach_lerp_([norm.running_mean for norm in norms], means, momentum)
            torch._foreach_lerp_([norm.running_var for norm in norms], variances, momentum)


_current: ContextVar[_Step | None] = ContextVar("step", default=None)


class _Copies(torch.autograd.Function):
    """Groups of tensors in other types; where there are several of one shape, they are stacked."""

    @staticmethod
    def forward(ctx: Any, sizes: Sequence[int], dtypes: Sequence[torch.dtype], *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        ctx.groups, made, start = [], [], 0
        parts: list[Tensor] = []
        for size, dtype in zip(sizes, dtypes, strict=True):
            first = tensors[start]
            start += size
            new = _like(first, size, dtype)
            made.append(new if size > 1 else new[0])
            parts += new.unbind()
            ctx.groups.append((size, first))
        _copy(parts, tensors)
        return tuple(made)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Any, ...]:
        found: list[Tensor | None] = []
        pairs: list[tuple[Tensor, Tensor]] = []
        for gradient, (size, first) in zip(gradients, ctx.groups, strict=True):
            new = gradient
            if gradient is not None and (gradient.dtype != first.dtype or not gradient.is_contiguous()):
                new = _like(first, size, first.dtype)
                new = new if size > 1 else new[0]
                pairs.append((new, gradient))
            found += [None] * size if new is None else new.unbind() if size > 1 else [new]
        _copy([new for new, _ in pairs], [old for _, old in pairs])
        return None, None, *found


def _like(tensor: Tensor, size: int, dtype: torch.dtype) -> Tensor:
    """Memory for so many of a tensor's kind."""
    strides = (tensor.numel(), *tensor.stride())
    return torch.empty_strided((size, *tensor.shape), strides, dtype=dtype, device=tensor.device)


def _copy(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Pairs of unlike strides by themselves, since one of them would take all others the slow way, too."""
    together: dict[tuple[torch.dtype, torch.dtype], tuple[list[Tensor], list[Tensor]]] = {}
    for target, source in zip(targets, sources, strict=True):
        if all(a == b or n == 1 for n, a, b in zip(target.shape, target.stride(), source.stride(), strict=True)):
            source = source.as_strided(target.shape, target.stride())
            lists = together.setdefault((target.dtype, source.dtype), ([], []))
            lists[0].append(target)
            lists[1].append(source)
        else:
            target.copy_(source)
    for lists in together.values():
        torch._foreach_copy_(*lists)


class _Diagonals(torch.autograd.Function):
    """Images (N, C, H, W), H and W even -> (N, 2 C n, H / 2, W / 2): of each its even positions, then its odd ones."""

    @staticmethod
    def forward(ctx: Any, *images: Tensor) -> Tensor:
        halves = [image.permute(0, 2, 3, 1)[:, start::2, start::2] for image in images for start in (0, 1)]
        return torch.cat(halves, 3).permute(0, 3, 1, 2)  # one launch in this format only

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        count, (n, _, h, w) = len(ctx.needs_input_grad), gradient.shape
        parts = gradient.permute(0, 2, 3, 1).reshape(n, h, w, count, 2, -1)
        of_images = gradient.new_zeros(count, n, h, 2, w, 2, parts.shape[-1])
        of_images.diagonal(dim1=3, dim2=5).copy_(parts.permute(3, 0, 1, 2, 5, 4))
        return of_images.view(count, n, 2 * h, 2 * w, -1).permute(0, 1, 4, 2, 3).unbind()


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *terms: Tensor) -> Tensor:
        every = torch.cat([term.permute(0, 2, 3, 1) for term in terms], 3).unflatten(3, (len(terms), -1))  # type: ignore[no-untyped-call]
        out = torch.empty_like(every[..., 0, :])  # autocast would have the sum in float32
        return torch.sum(every, 3, out=out).permute(0, 3, 1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        return (gradient,) * len(ctx.needs_input_grad)


class _Norm(torch.autograd.Function):
    """x, weight, bias -> its batch normalisation; the mean and 1 / sqrt(variance + eps) of each channel."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        ctx.set_materialize_grads(False)  # of mean and inverse they would be zeros, a launch each
        mean, inverse = torch.batch_norm_stats(x, eps)
        ctx.save_for_backward(x, weight, mean, inverse)
        ctx.mark_non_differentiable(mean, inverse)
        return torch.batch_norm_elemt(x, weight, bias, mean, inverse, eps), mean, inverse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensors
        last = x.is_contiguous(memory_format=torch.channels_last)
        gradient = gradient.contiguous(memory_format=torch.channels_last if last else torch.contiguous_format)
        of_sum, of_product, of_weight, of_bias = torch.batch_norm_backward_reduce(
            gradient, x, mean, inverse, weight, True, True, True
        )
        count = _count(x.numel() // x.shape[1], x.device)
        of_x = torch.batch_norm_backward_elemt(gradient, x, mean, inverse, weight, of_sum, of_product, count)
        return of_x, of_weight, of_bias, None


@cache
def _count(values: int, device: torch.device) -> Tensor:
    return torch.full((1,), values, dtype=torch.int32, device=device)
