"""What an architecture costs, known before anything is trained: parameters, FLOPs, latency, memory."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

from nastool.core.values import Arch

NETWORK_COSTS = ("params", "flops", "latency_ms", "memory_mb")
"""What is known of every network. `nastool.nets.costs` says how each is defined."""
SPREAD = "latency_spread_ms"
"""Between the quartiles of the runs of which latency_ms is the median."""
NOTE = "costs"
"""The note of a proposal that has them."""
Find = Callable[[Arch, Sequence[str]], Mapping[str, float]]
"""find(arch, names) -> what the architecture costs by these names; what is not known is left out."""


class Costs:
    """What architectures cost, found once for each.

    Attributes:
        find: Finds them.
        names: What is known before an architecture is measured.
        at_hand: Whether they are looked up, so that a whole space can be gone through.
    """

    def __init__(self, find: Find, names: Collection[str] = NETWORK_COSTS, *, at_hand: bool = False) -> None:
        self.find = find
        self.names = frozenset(names)
        self.at_hand = at_hand
        self._found: dict[tuple[int, ...], dict[str, float]] = {}

    def of(self, arch: Arch, names: Sequence[str]) -> Mapping[str, float]:
        """Those of one architecture, by name, and with the latency its spread."""
        if self.at_hand:
            return self.find(arch, names)
        found = self._found.setdefault(arch.choices, {})
        if missing := [name for name in names if name not in found]:
            found |= self.find(arch, missing)
        return found

    def remember(self, arch: Arch, found: Mapping[str, float]) -> None:
        """Take in what was found before."""
        self._found.setdefault(arch.choices, {}).update(found)
