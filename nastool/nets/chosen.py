"""How a network definition becomes one network: `Chosen` answers what the definition asks (`core.space.Choose`).

Code that is written for a found network contains this source, so it knows nothing of supernets.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

_V = TypeVar("_V", int, float, str)

Rule = Callable[[Mapping[str, str]], Collection[str]]
"""Names of modules that take part, given decision name -> option name."""


class Members(nn.Module):
    """Modules by name; whoever holds them calls those that are active."""

    def __init__(self, members: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleDict(members)

    @property
    def active(self) -> dict[str, nn.Module]:
        """Name -> module of those that take part, in the order of the members."""
        return dict(self.members.items())

    def weighed(self, tensors: list[Tensor]) -> list[Tensor]:
        """What belongs to each active member, in their order, by how much it counts: here all do fully."""
        return tensors

    def mean(self, tensors: list[Tensor]) -> Tensor:
        """The mean of what belongs to each active member."""
        return torch.stack(tensors).mean(0)


class Take(nn.Module):
    """One of several tensors, by its number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def forward(self, *tensors: Tensor) -> Tensor:
        return tensors[self.number]


class Added(nn.Module):
    """The sum of those of several tensors whose members are active, zeros where none is."""

    def __init__(self, members: Members, sources: Sequence[str]) -> None:
        super().__init__()
        self.members = members
        self.sources = list(sources)

    def forward(self, *tensors: Tensor) -> Tensor:
        total = 0 * tensors[0]
        for term in self.members.weighed([tensors[self.sources.index(name)] for name in self.members.active]):
            total = total + term
        return total


def switches(chosen: Mapping[str, str], name: str, sources: Sequence[str]) -> list[str]:
    """The sources that are on."""
    return [source for source in sources if chosen[f"{name}.{source}"] == "1"]


class Chosen:
    """The options that are chosen, by decision: what makes one network of a definition."""

    def __init__(self, options: Mapping[str, str]) -> None:
        self.options = options

    def layer(self, decision: str, options: Mapping[str, Callable[[], nn.Module]], *, tied: bool = False) -> nn.Module:
        return options[self.options[decision]]()

    def inputs(self, decision: str, sources: Sequence[str], *, several: bool = False, tied: bool = False) -> nn.Module:
        if not several:
            return Take(list(sources).index(self.options[decision]))
        rule = partial(switches, name=decision, sources=sources)
        return Added(self.subset(rule, dict.fromkeys(sources, nn.Identity)), sources)

    def value(self, decision: str, values: Sequence[_V], *, tied: bool = False) -> _V:
        return next(value for value in values if str(value) == self.options[decision])

    def repeat(
        self, decision: str, low: int, high: int, make: Callable[[int], nn.Module], *, tied: bool = False
    ) -> nn.Sequential:
        return nn.Sequential(*map(make, range(int(self.options[decision]))))

    def subset(self, rule: Rule, options: Mapping[str, Callable[[], nn.Module]]) -> Members:
        names = rule(self.options)
        return Members({name: make() for name, make in options.items() if name in names})

    def option(self, decision: str) -> str:
        return self.options[decision]
