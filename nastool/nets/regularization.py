"""Dropout and paths that are dropped: how much, and the same draws for a batch that goes in parts."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from nastool.nets.blocks import DropPath, Variational

RANDOM = (nn.Dropout, DropPath, Variational)
"""Modules that draw in training."""


def regularize(
    network: nn.Module,
    *,
    dropout: float,
    drop_path: float,
    by_depth: bool,
    places: Mapping[str, float] = MappingProxyType({}),
) -> None:
    """Set the probabilities, in [0, 1), of every dropout, of every `DropPath`, and of every `Variational` by its place.

    by_depth: a path's grows with the depth at which it is, from near 0 to `drop_path` in the last cell (ENAS).
    """
    if not 0 <= dropout < 1 or not 0 <= drop_path < 1:
        raise ValueError(f"need 0 <= dropout < 1 and 0 <= drop_path < 1, got {dropout}, {drop_path}")
    for module in network.modules():
        if isinstance(module, nn.Dropout):
            module.p = dropout
        elif isinstance(module, DropPath):
            module.probability = drop_path * module.depth if by_depth else drop_path
        elif isinstance(module, Variational):
            module.probability = places.get(module.place, 0.0)


@contextmanager
def random_for(random_parts: nn.Module, images: int, device: torch.device) -> Iterator[Callable[[int, int], None]]:
    """Let a batch of so many images go through in parts, and what is drawn be the same as if it went as a whole.

    random_parts: holds every module that is `RANDOM`. Returns what is called before each part, with its first image
    and the one after its last: from there on each of them draws for the whole batch, from torch's global generators
    as they were at the beginning, and applies the part's share.
    """
    at: tuple[int, int] = (0, images)

    def widen(module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        x = given[0]  # its memory format stays: the order of draws depends on it
        return (pad(x, (0, 0) * (x.dim() - 1) + (at[0], images - at[1])),)

    def cut(module: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> Tensor:
        return result[slice(*at)]

    state, gpu_state = torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    def of_images(start: int, end: int) -> None:
        nonlocal at
        at = start, end
        torch.set_rng_state(state)
        if gpu_state is not None:
            torch.cuda.set_rng_state(gpu_state, device)
        for path in paths:
            path.images = (start, end, images)

    paths = [module for module in random_parts.modules() if isinstance(module, DropPath | Variational)]
    paths = [path for path in paths if getattr(path, "per_example", True)]
    dropouts = [module for module in random_parts.modules() if isinstance(module, nn.Dropout) and module.p > 0]
    hooks = [module.register_forward_pre_hook(widen) for module in dropouts]
    hooks += [module.register_forward_hook(cut) for module in dropouts]
    try:
        yield of_images
    finally:
        for hook in hooks:
            hook.remove()
        for path in paths:
            path.images = None
