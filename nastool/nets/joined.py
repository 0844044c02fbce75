"""Batches of several networks as one: joined, added up, normalised each by its own statistics."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


def joined(tensors: Sequence[Tensor]) -> Tensor:
    """Their batches as one: a view where they lie one after the other in memory, else a copy."""
    first = tensors[0]
    if len(tensors) == 1:
        return first
    size, dense = first.numel(), first.is_contiguous() or first.is_contiguous(memory_format=torch.channels_last)
    storage, start = first.untyped_storage().data_ptr(), first.storage_offset()
    for i, tensor in enumerate(tensors):
        if (
            not dense
            or tensor.stride() != first.stride()
            or tensor.storage_offset() != start + i * size
            or tensor.untyped_storage().data_ptr() != storage
        ):
            return torch.cat(list(tensors))
    return first.as_strided((len(tensors) * first.shape[0], *first.shape[1:]), first.stride(), start)


def totals(terms: Sequence[Sequence[Tensor]]) -> Tensor:
    """The sums of each run's terms as one batch, with one launch for the i-th terms of many."""
    whole = torch.cat([first for first, *_ in terms])
    parts = whole.chunk(len(terms))
    for i in range(1, max(map(len, terms))):
        having = [n for n, of in enumerate(terms) if len(of) > i]
        torch._foreach_add_([parts[n] for n in having], [terms[n][i] for n in having])
    return whole


def batch_norm(norms: Sequence[nn.BatchNorm2d], x: Tensor) -> Tensor:
    """What each of m batch normalisations makes of its part of a batch, with that part's statistics.

    norms: of the same number of channels, eps, and all affine or none. x: (m N, C, H, W), the first N images are the
    first one's. In 16 bits the statistics are sums in fp32.
    """
    norm = norms[0]
    apart = (len(norms), len(x) // len(norms), *x.shape[1:])  # (m, N, C, H, W)
    parts = x.view(apart)
    over, kept = (1, 3, 4), x.dtype if x.dtype == torch.float64 else torch.float32
    with torch.autocast(x.device.type, enabled=False):
        if x.dtype == kept:
            variance, mean = torch.var_mean(parts, over, correction=0, keepdim=True)
            n = 1.0
        else:
            n = parts[0].numel() / x.shape[1]
            mean = parts.mean(over, keepdim=True, dtype=kept)
            norm2 = torch.linalg.vector_norm(parts, 2, over, keepdim=True, dtype=kept).square_()
            variance = norm2.addcmul_(mean, mean, value=-n).clamp_(min=0)  # times n
        scale = variance.add_(n * norm.eps).rsqrt_()  # by the root of n too small
        shape = (-1, 1, x.shape[1], 1, 1)
        out = torch.empty_like(x)
        by, of = n**0.5, out.view(apart)
        if not norm.affine:
            torch.mul(parts - mean, scale * by, out=of)
            return out
        own = norms if any(other is not norm for other in norms) else [norm]
        scale.mul_(torch.cat([other.weight for other in own]).view(shape) if len(own) > 1 else norm.weight.view(shape))
        bias = torch.cat([other.bias for other in own]).view(shape) if len(own) > 1 else norm.bias.view(shape)
        shift = torch.addcmul(bias, mean, scale, value=-by)
        torch.addcmul(shift, parts, scale, value=by, out=of)
    return out
