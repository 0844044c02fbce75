"""Which options of a space do not fit together."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import torch

from nastool.core.errors import one_line
from nastool.core.space import SearchSpace, chosen
from nastool.core.task import Task
from nastool.core.values import Arch
from nastool.nets import networks

SAMPLES = 100
"""So many networks are looked at besides those that are one decision away from the first ones."""


def misfits(space: SearchSpace, task: Task, scale: object) -> list[str]:
    """The fewest options that make a network fail whatever the others are, each with the error; []: none do."""
    rng = np.random.default_rng(0)
    archs = [space.sample(rng) for _ in range(SAMPLES)]
    near = [other for arch in archs[:2] for other in space.neighbors(arch)][:SAMPLES]
    passing: list[frozenset[str]] = []
    failing: list[tuple[frozenset[str], str]] = []
    for arch in dict.fromkeys([*archs, *near]):
        named = frozenset(f"{decision.name}={decision.options[choice]}" for decision, choice in chosen(space, arch))
        error = failure(space, arch, task, scale)
        if error is None:
            passing.append(named)
        else:
            failing.append((named, error))
    found: dict[frozenset[str], str] = {}
    for named, error in failing:
        if not any(few <= named for few in found):
            sets = (frozenset(few) for size in (1, 2, 3) for few in combinations(sorted(named), size))
            blamed = next((few for few in sets if not any(few <= other for other in passing)), named)
            found[blamed] = error
    return [f"with {', '.join(sorted(few))}: {error}" for few, error in found.items()]


def failure(space: SearchSpace, arch: Arch, task: Task, scale: object) -> str | None:
    """What goes wrong when a network is built and run, without computing anything; None: nothing."""
    from nastool.nets.tracing import place_of

    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            network = networks.build(space, arch, task, scale).eval()
        with torch.no_grad():
            output = network(*task.example(2, "meta"))
    except NotImplementedError:
        return None  # it looks at values, which are not there
    except Exception as error:
        where = place_of(error, "")
        return f"{one_line(error)}{f' ({where})' if where else ''}"
    wrong = task.wrong(output)
    return None if wrong is None else f"the network returns {wrong}"
