"""Which earlier outputs the layers of a chain read. Without torch."""

from __future__ import annotations

from collections.abc import Mapping


def reductions(layers: int) -> tuple[int, int]:
    """After which layers the images become smaller."""
    return layers // 3, 2 * (layers // 3)


def skips(chosen: Mapping[str, str], layer: int) -> list[str]:
    """The earlier layers whose outputs join that of this one. chosen: decision -> option."""
    return [f"layer{j}" for j in range(1, layer) if chosen[f"layer{layer}.skip{j}"] == "1"]


def merged(chosen: Mapping[str, str], layer: int) -> list[str]:
    """The layers whose outputs join, this one's first."""
    return [f"layer{layer}", *skips(chosen, layer)]


def read_after(chosen: Mapping[str, str], layers: int, reduction: int) -> set[str]:
    """The layers up to a reduction that are read beyond it: it reduces these outputs and no others."""
    later = range(reduction + 1, layers + 1)
    read = {f"layer{reduction}", *(name for layer in later for name in skips(chosen, layer))}
    return read - {f"layer{layer}" for layer in later}
