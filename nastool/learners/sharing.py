"""How far scores with shared weights can be trusted: signs that a policy has collapsed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nastool.core.space import SearchSpace
from nastool.core.values import Arch, Decision

FEW = 0.1
"""A policy whose entropy is less than this share of the uniform distribution's has made up its mind."""
MANY = 0.8
"""An architecture is dominated by operations without weights if more than this share of its operations have none."""

WEIGHTLESS = frozenset(
    {"none", "zero", "skip_connect", "identity", "skip", "tanh", "relu", "sigmoid", "add", "elem_mult"}
)
"""Operations without weights, beside pooling."""


def has_weights(option: str) -> bool:
    """Whether an option is an operation with weights, going by the field's names."""
    return not ("pool" in option or option in WEIGHTLESS)


SKIPS = frozenset({"skip_connect", "identity", "skip"})
"""Operations that pass on what they read."""


def cells_of(decisions: Sequence[Decision]) -> list[int]:
    """The number of each decision's cell, from 0: places that refer to each other, through others or not, are of one.

    Where no decision refers to a place, all are of one cell.
    """
    if not any(decision.refers for decision in decisions):
        return [0] * len(decisions)
    cells: list[set[str]] = []
    for decision in decisions:
        joined = {decision.place, *filter(None, decision.refers)}
        apart = [cell for cell in cells if not cell & joined]
        cells = [*apart, joined.union(*(cell for cell in cells if cell & joined))]
    numbers = [next(i for i, cell in enumerate(cells) if decision.place in cell) for decision in decisions]
    order = list(dict.fromkeys(numbers))
    return [order.index(number) for number in numbers]


def most_skips(space: SearchSpace, choices: Sequence[int]) -> int:
    """How many of the operations of one cell skip, in the cell where most do, going by the field's names.

    Only decisions between operations with and without weights count: an activation is no skip connection.
    """
    counts: dict[int, int] = {}
    for decision, choice, cell in zip(space.decisions, choices, cells_of(space.decisions), strict=True):
        if weighs(decision) and decision.options[choice] in SKIPS:
            counts[cell] = counts.get(cell, 0) + 1
    return max(counts.values(), default=0)


def weighs(decision: Decision) -> bool:
    """Whether it is between operations with and without weights."""
    return not decision.refers and len({has_weights(option) for option in decision.options}) == 2


def weightless_share(space: SearchSpace, arch: Arch) -> float | None:
    """Which share of an architecture's operations have no weights, in [0, 1]; None: the space has no such choice."""
    chosen = [
        has_weights(decision.options[choice])
        for decision, choice in zip(space.decisions, arch.choices, strict=True)
        if weighs(decision)
    ]
    return chosen.count(False) / len(chosen) if chosen else None


def collapse(
    space: SearchSpace,
    derived: Sequence[Arch],
    entropy: float | None,
    candidates: tuple[int, int] | None,
    preferred: Arch | None = None,
) -> list[str]:
    """Signs that a policy has collapsed, a line each.

    derived: the best architectures, best first. entropy: of the policy, nats, None: unknown.
    candidates: how many different ones it gave, of how many wanted; None: there is no policy. preferred: the policy's
    likeliest option of each decision; what was derived may be better by what its candidates were kept from.
    """
    signs = []
    share = weightless_share(space, derived[0]) if derived else None
    if share is not None and share > MANY:
        signs.append(f"{share:.0%} of the operations of the best architecture have no weights (skip, pooling, none)")
    elif preferred is not None and (weightless_share(space, preferred) or 0) > MANY:
        share = weightless_share(space, preferred)
        signs.append(f"{share:.0%} of the operations that the policy prefers have no weights (skip, pooling, none)")
    most = sum(math.log(len(decision.options)) for decision in space.decisions)
    if entropy is not None and entropy < FEW * most:
        signs.append(f"the policy's entropy is {entropy:.2f} nats, of {most:.1f} at most")
    if candidates is not None and candidates[0] < candidates[1] / 2 and space.size >= 2 * candidates[1]:
        signs.append(f"the policy gave only {candidates[0]} different candidates of {candidates[1]}")
    return signs
