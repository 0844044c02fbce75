"""Weights shared by networks of several widths: a supernet has the largest ones, and a child runs a part of each.

Of a tensor's channels a child has the first, of a kernel the middle. Which tensors and which plain attributes of
modules depend on the values that were chosen is found by making the supernet with other values on the meta device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nastool.core.errors import CannotGoOn

Cut = tuple[slice, ...]
MOST = 256
"""So many combinations of values are remembered."""


def cut(whole: Sequence[int], part: Sequence[int]) -> Cut:
    """Where a part lies in a tensor: the first of two dimensions, the middle of others, such as a kernel's."""
    starts = [
        0 if axis < 2 else (size - length) // 2 for axis, (size, length) in enumerate(zip(whole, part, strict=True))
    ]
    return tuple(slice(start, start + length) for start, length in zip(starts, part, strict=True))


class Cutting:
    """Fits a supernet's modules to values."""

    def __init__(
        self,
        network: nn.Module,
        make: Callable[[Mapping[str, str]], nn.Module],
        asked: Mapping[str, Sequence[str]],
    ) -> None:
        """Looks at each value by itself.

        Args:
            network: Of the largest values.
            make: Makes it with others.
            asked: Options of each decision for a value, the largest first.

        Raises:
            CannotGoOn: A value changes which modules there are, or makes weights larger than the first does.
        """
        self._modules = dict(network.named_modules())
        self._make = make
        self._largest = {name: options[0] for name, options in asked.items()}
        self._plans: dict[tuple[str, ...], list[tuple[nn.Module, dict[str, Cut], dict[str, Any]]]] = {}
        self._changed: list[tuple[nn.Module, dict[str, Any]]] = []
        for name, options in asked.items():
            for option in options[1:]:
                self._plan({**self._largest, name: option}, f"{name}={option}")

    def fit(self, chosen: Mapping[str, Any]) -> None:
        """Have the modules run what the values of a selection need."""
        values = {name: chosen[name] for name in self._largest}
        if soft := [name for name, option in values.items() if not isinstance(option, str)]:
            raise CannotGoOn(f"value {soft[0]!r} cannot be mixed: take a strategy that draws, such as enas")
        for module, before in self._changed:
            for name, value in before.items():
                if value is _ABSENT:
                    module.__dict__.pop(name, None)
                else:
                    module.__dict__[name] = value
        self._changed = []
        for module, cuts, attributes in self._plan(
            values, ", ".join(f"{name}={option}" for name, option in values.items())
        ):
            now: dict[str, Any] = dict(attributes)
            for name, part in cuts.items():
                tensor = _own(module, name)
                if tensor is not None:  # what stands in the dictionary is found before parameters and buffers
                    now[name] = tensor[part]
            self._changed.append((module, {name: module.__dict__.get(name, _ABSENT) for name in now}))
            module.__dict__.update(now)

    def _plan(self, values: Mapping[str, str], what: str) -> list[tuple[nn.Module, dict[str, Cut], dict[str, Any]]]:
        key = tuple(values.values())
        if key not in self._plans:
            if len(self._plans) >= MOST:
                self._plans.pop(next(iter(self._plans)))
            self._plans[key] = self._differences(values, what)
        return self._plans[key]

    def _differences(
        self, values: Mapping[str, str], what: str
    ) -> list[tuple[nn.Module, dict[str, Cut], dict[str, Any]]]:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            other = dict(self._make(values).named_modules())
        if other.keys() != self._modules.keys():
            raise CannotGoOn(
                f"this space has no weight-sharing supernet: {what} changes which modules there are; `repeat` or "
                "`layer` can do that"
            )
        found = []
        for name, module in self._modules.items():
            twin, cuts = other[name], {}
            for key in (*module._parameters, *module._buffers):
                whole, part = _own(module, key), _own(twin, key)
                if whole is None or part is None or whole.shape == part.shape:
                    continue
                if whole.dim() != part.dim() or any(a < b for a, b in zip(whole.shape, part.shape, strict=True)):
                    raise CannotGoOn(
                        f"this space has no weight-sharing supernet: with {what} {name}.{key} has shape "
                        f"{tuple(part.shape)}, of which {tuple(whole.shape)} holds no part"
                    )
                cuts[key] = cut(whole.shape, part.shape)
            attributes = {
                key: value
                for key, value in vars(twin).items()
                if key in vars(module) and _is_plain(value) and value != vars(module)[key] and key != "training"
            }
            if cuts or attributes:
                found.append((module, cuts, attributes))
        return found


_ABSENT = object()


def _own(module: nn.Module, name: str) -> Tensor | None:
    return module._parameters[name] if name in module._parameters else module._buffers.get(name)


def _is_plain(value: object) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return isinstance(value, int | float | str | None)
