"""Limits on what an architecture costs, and a space as a search within them sees it."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Container, Iterator, Sequence
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from nastool.core.costs import Costs
from nastool.core.errors import InputError, NastoolError
from nastool.core.quantities import Condition
from nastool.core.space import MANY, SearchSpace
from nastool.core.values import Arch
from nastool.core.wording import format_number

_K = TypeVar("_K")
FAR = 1e6
"""More than a latency is beyond its bound, in parts of that."""


class Limits:
    """Conditions on the costs of architectures, which are known before these are measured.

    Attributes:
        conditions: All of them hold.
        names: Of the costs that they are on.
        costs: What architectures cost; None: not known yet, and every architecture is within.
    """

    def __init__(self, conditions: Sequence[Condition], costs: Costs | None = None) -> None:
        self.conditions = tuple(conditions)
        self.names = tuple(dict.fromkeys(condition.metric for condition in conditions))
        self.costs = costs

    @classmethod
    def parse(cls, texts: Sequence[object]) -> Limits:
        """Read "params<=50k", ...; what is said twice counts once. InputError."""
        conditions = {str(each): each for each in (Condition.parse(text, "--limit") for text in texts)}
        return cls([conditions[text] for text in sorted(conditions)])

    def __str__(self) -> str:
        return ", ".join(map(str, self.conditions))

    @property
    def costly(self) -> bool:
        """Whether one is on the latency, which has to be measured: then as few architectures as can be are judged."""
        return "latency_ms" in self.names and not (self.costs is not None and self.costs.at_hand)

    @property
    def draws(self) -> int:
        """Number of draws of which one should be within, before one that is not is repaired."""
        return 10 if self.costly else 100 if self.costs is None or not self.costs.at_hand else 1000

    def excess(self, arch: Arch) -> float:
        """By how much it is beyond the bounds, in parts of them, all together; infinity where its cost is unknown.

        What has to be measured is looked at last, and counts as far beyond as long as something else is beyond.
        """
        if self.costs is None:
            return 0.0
        for names in (quick, self.names) if self.costly and (quick := self._quick) else (self.names,):
            found = self.costs.of(arch, names)
            held = [each for each in self.conditions if each.metric in names]
            excess = sum(each.violation(found) / (abs(each.bound) or 1.0) for each in held)
            if excess > 0:
                return excess if names == self.names else excess + FAR
        return 0.0

    @property
    def _quick(self) -> tuple[str, ...]:
        return tuple(name for name in self.names if name != "latency_ms")

    def allow(self, arch: Arch) -> bool:
        return self.excess(arch) == 0

    def repaired(self, space: SearchSpace, arch: Arch, rng: np.random.Generator) -> tuple[Arch, float]:
        """An architecture within, by steps to neighbors that are less beyond; else the nearest found, and its excess.

        Each step goes to the first neighbor, in a random order, that is less beyond.

        Args:
            space: Of the architecture, without limits.
            arch: Where it begins.
            rng: Draws the order.
        """
        excess, left = self.excess(arch), 20 * self.draws
        while excess > 0 and left > 0:
            around = list(space.neighbors(arch))
            for i in rng.permutation(len(around)):
                left -= 1
                if (less := self.excess(around[i])) < excess:
                    arch, excess = around[i], less
                    break
                if left == 0:
                    break
            else:
                break
        return arch, excess

    def draw(self, space: SearchSpace, rng: np.random.Generator) -> tuple[Arch, float]:
        """One drawn within, by rejection, or else repaired; of none the nearest found, and its excess."""
        nearest: Arch | None = None
        least = math.inf
        for _ in range(self.draws):
            arch = space.sample(rng)
            excess = self.excess(arch)
            if excess == 0:
                return arch, 0.0
            if nearest is None or excess < least:
                nearest, least = arch, excess
        assert nearest is not None
        return self.repaired(space, nearest, rng)

    def check(self, space: SearchSpace) -> None:
        """Raise InputError where nothing is found within, with what the nearest has."""
        found, has = self.nearest(space)
        if not found:
            smaller = "" if self.costs is not None and self.costs.at_hand else ", or smaller networks (--scale)"
            none = f"no architecture of space {space.name} was found within"
            raise InputError(f"--limit {self}: {none}; the nearest has {has}: give more room{smaller}")

    def nearest(self, space: SearchSpace) -> tuple[bool, str]:
        """Whether something is found within, by draws and repair, and what that, or the nearest, costs, in words."""
        rng = np.random.default_rng(0)
        nearest, least = self.draw(space, rng)
        for _ in range(0 if self.costly else 4):
            if least > 0:
                arch, excess = self.draw(space, rng)
                nearest, least = (arch, excess) if excess < least else (nearest, least)
        found = {} if self.costs is None else self.costs.of(nearest, self.names)
        has = ", ".join(f"{name} {format_number(found[name])}" for name in self.names if name in found)
        return least == 0, has or "no such cost"


class _Within(SearchSpace):
    """A space of which those members are seen that are within limits.

    `sample` and `mutate` give no others. Where judging one takes long (`Limits.costly`), `is_member`, `neighbors` and
    the like judge none, and a strategy that proposes one that is not within is asked for another.
    """

    whole: SearchSpace
    limits: Limits

    def is_member(self, arch: Arch) -> bool:
        return self.whole.is_member(arch) and (self.limits.costly or self.limits.allow(arch))

    def sample(self, rng: np.random.Generator) -> Arch:
        arch, excess = self.limits.draw(self.whole, rng)
        if excess > 0:
            raise NastoolError(f"no architecture of space {self.name} was found within --limit {self.limits}")
        return arch

    def sample_new(self, rng: np.random.Generator, seen: Container[_K], key: Callable[[Arch], _K]) -> Arch | None:
        """As of every space; but where all that it draws was seen, it goes through those alone that are at hand."""
        listed = enumerable(self) and self.size <= MANY
        for _ in range(30 if self.limits.costly or listed else 1000):
            arch = self.sample(rng)
            if key(arch) not in seen:
                return arch
        left = [arch for arch in self._listed if key(arch) not in seen] if listed else []
        return left[int(rng.integers(len(left)))] if left else None

    @cached_property
    def _listed(self) -> list[Arch]:
        return list(self.members())

    def members(self) -> Iterator[Arch]:
        return filter(self.limits.allow, self.whole.members())

    def neighbors(self, arch: Arch) -> Iterator[Arch]:
        return filter(self._seen, self.whole.neighbors(arch))

    def mutate(self, arch: Arch, rng: np.random.Generator) -> Arch:
        """A mutant within; one that is beyond is paid for by another decision (`_exchanged`), or else drawn again."""
        for _ in range(self.limits.draws):
            other = self.whole.mutate(arch, rng)
            if self.limits.allow(other):
                return other
            other = self._exchanged(arch, other, rng)
            if other != arch and self.whole.is_member(other) and self.limits.allow(other):
                return other
        others = list(self.neighbors(arch))
        if not others or self.limits.costly:
            raise ValueError(f"no member of {self.ref} within {self.limits} is one decision away from {arch.choices}")
        return others[int(rng.integers(len(others)))]

    def _exchanged(self, arch: Arch, mutant: Arch, rng: np.random.Generator) -> Arch:
        """The mutant, with its old option at one of those decisions that had its new one, so that two were exchanged.

        Costs are mostly sums over decisions, so this is a way along a limit, where one decision alone leads beyond. The
        architecture itself where more than one decision was changed, or no other one had that option.
        """
        choices = list(mutant.choices)
        changed = [i for i, (old, new) in enumerate(zip(arch.choices, choices, strict=True)) if old != new]
        if len(changed) != 1:
            return arch
        new, options = choices[changed[0]], self.decisions[changed[0]].options
        had = [i for i, old in enumerate(arch.choices) if old == new and self.decisions[i].options == options]
        if had:
            choices[had[int(rng.integers(len(had)))]] = arch.choices[changed[0]]
        return self.arch(choices) if had else arch

    def _seen(self, arch: Arch) -> bool:
        return self.limits.costly or self.limits.allow(arch)

    def _morphisms(self, arch: Arch) -> dict[str, list[Arch]]:
        whole: Any = self.whole  # it grows, as of `inheritance.Growing`
        return {kind: list(filter(self._seen, found)) for kind, found in whole.morphisms(arch).items()}


def limited(space: SearchSpace, limits: Limits) -> SearchSpace:
    """The space as a search within limits sees it: all else, also what it can do beyond the minimum, is as it was."""
    cls = type(space)
    more = {"morphisms": _Within._morphisms} if hasattr(space, "morphisms") else {}
    seen: Any = copy.copy(space)
    seen.__class__ = type(cls.__name__, (_Within, cls), {"__module__": cls.__module__, "__doc__": cls.__doc__, **more})
    seen.whole, seen.limits = space, limits
    return seen  # type: ignore[no-any-return]


def limits_of(space: SearchSpace) -> Limits | None:
    """Those that it is seen within; None: there are none."""
    return space.limits if isinstance(space, _Within) else None


def whole(space: SearchSpace) -> SearchSpace:
    """The space without limits."""
    return space.whole if isinstance(space, _Within) else space


def enumerable(space: SearchSpace) -> bool:
    """Whether going through all members takes no longer than their number says."""
    return not isinstance(space, _Within) or (space.limits.costs is not None and space.limits.costs.at_hand)


def repaired(space: SearchSpace, archs: Sequence[Arch], seed: int) -> list[Arch]:
    """Architectures as they are; of a space that is seen within limits its members, repaired as far as can be.

    Args:
        space: As a search sees it.
        archs: Perhaps no members.
        seed: Of the orders in which neighbors are looked at.
    """
    limits, own, rng = limits_of(space), whole(space), np.random.default_rng(seed)
    if limits is None:
        return list(archs)
    return [limits.repaired(own, arch, rng)[0] for arch in archs if own.is_member(arch)]
