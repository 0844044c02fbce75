"""How a network definition becomes one network: `Chosen` answers what the definition asks (`core.space.Choose`).

Code that is written for a found network contains this source, so it knows nothing of supernets.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from torch import Tensor, nn

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


class Chosen:
    """The options that are chosen, by decision: what makes one network of a definition."""

    def __init__(self, options: Mapping[str, str]) -> None:
        self.options = options

    def layer(self, decision: str, options: Mapping[str, Callable[[], nn.Module]]) -> nn.Module:
        return options[self.options[decision]]()

    def subset(self, rule: Rule, options: Mapping[str, Callable[[], nn.Module]]) -> Members:
        names = rule(self.options)
        return Members({name: make() for name, make in options.items() if name in names})

    def option(self, decision: str) -> str:
        return self.options[decision]
