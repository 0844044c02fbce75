"""Spaces whose decisions are what their network definition asks for.

    from nastool import choices as c

    class Net(c.Space):
        def network(self, choose, task, scale):
            width = choose.value("width", [16, 32, 64])
            blocks = choose.repeat("depth", 1, 4, lambda i: choose.layer(f"op{i}", {"conv": ..., "pool": ...}))
            ...

The definition is run once on the meta device, where nothing is computed, with all options; what it asks for are the
decisions (`nastool.nets.tracing`). A decision within an option, or within a repeated layer, matters only where that is
chosen. So such a space needs torch to be made, unlike those that state their decisions (`nastool.core.space`).
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from nastool.core import registry
from nastool.core.arrays import Choices
from nastool.core.errors import InputError
from nastool.core.space import Choose as Choose
from nastool.core.space import SearchSpace
from nastool.core.task import FAMILY, Task
from nastool.core.values import Arch, Scalar

_Found = tuple[list[Any], list[list[list[tuple[int, list[int]]]]]]
"""Decisions; and for each the places where it stands: which other decisions have to have which options."""
_found: dict[Any, _Found] = {}
SHAPE = {"channels": 3, "height": 32, "width": 32, "classes": 10}
"""What a definition is run for, unless its space says it; other fields of tasks are 16."""


class Space(SearchSpace):
    """A space that is defined by its networks alone: give `network`, and options as keyword-only parameters.

    A constructor passes its options on: `super().__init__(layers=layers)`.
    """

    provides = frozenset({"network", "supernet"})
    example: ClassVar[Task | None] = None
    """The task that its definition is run for to find the decisions; None: images of 3x32x32 in 10 classes, say."""

    @dataclass(frozen=True)
    class Scale:
        """Networks of one size."""

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        if "name" not in vars(cls):
            cls.name = cls.__name__

    def __init__(self, **built_with: Scalar) -> None:
        key = type(self), tuple(sorted(built_with.items()))
        if key not in _found:
            _found[key] = self._trace()
        decisions, self._places = _found[key]
        super().__init__(decisions, **built_with)

    def _trace(self) -> _Found:
        from nastool.nets.tracing import traced

        asked = traced(self, self.example or _example(self.tasks), self.Scale())
        number = {one.decision.name: i for i, one in enumerate(asked)}
        options = [one.decision.options for one in asked]
        places = [
            [
                [(i := number[name], [options[i].index(each) for each in sorted(of)]) for name, of in when.items()]
                for when in one.when
            ]
            for one in asked
        ]
        return [one.decision for one in asked], places

    # --- what matters

    def active_many(self, choices: Choices) -> NDArray[np.bool_]:
        active = np.ones(choices.shape, dtype=np.bool_)
        for column, places in enumerate(self._places):
            there = np.zeros(len(choices), dtype=np.bool_)
            for conditions in places:
                here = np.ones(len(choices), dtype=np.bool_)
                for other, options in conditions:
                    here &= np.isin(choices[:, other], options)
                there |= here
            active[:, column] = there
        return active

    # --- moves, of which all change the network

    def neighbors(self, arch: Arch) -> Iterator[Arch]:
        active = self.active_many(np.array([arch.choices]))[0]
        for other in super().neighbors(arch):
            if any(active[i] and a != b for i, (a, b) in enumerate(zip(arch.choices, other.choices, strict=True))):
                yield other

    def mutate(self, arch: Arch, rng: np.random.Generator) -> Arch:
        same = self.canonical(arch)
        for _ in range(100):
            other = super().mutate(arch, rng)
            if self.canonical(other) != same:
                return other
        others = list(self.neighbors(arch))
        if not others:
            raise ValueError(f"no member of {self.ref} is one decision away from {arch.choices}")
        return others[int(rng.integers(len(others)))]


def _example(tasks: frozenset[str]) -> Task:
    """A task of these names, of some shape."""
    name = FAMILY if FAMILY in tasks else min(tasks)
    try:
        task: type[Task] = registry.load("task", name)
    except InputError as error:
        raise InputError(f"{error}; or give the space an `example`, a task that its definition is run for") from None
    needed = [each.name for each in inspect.signature(task).parameters.values() if each.default is each.empty]
    return task(**{name: SHAPE.get(name, 16) for name in needed})
