"""How far scores with shared weights can be trusted: signs that a policy has collapsed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nastool.core.space import SearchSpace
from nastool.core.values import Arch

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


def weightless_share(space: SearchSpace, arch: Arch) -> float | None:
    """Which share of an architecture's operations have no weights, in [0, 1]; None: the space has no such choice."""
    chosen = [
        has_weights(decision.options[choice])
        for decision, choice in zip(space.decisions, arch.choices, strict=True)
        if len({has_weights(option) for option in decision.options}) == 2 and not decision.refers
    ]
    return chosen.count(False) / len(chosen) if chosen else None


def collapse(
    space: SearchSpace, derived: Sequence[Arch], entropy: float | None, candidates: tuple[int, int] | None
) -> list[str]:
    """Signs that a policy has collapsed, a line each.

    derived: the best architectures, best first. entropy: of the policy, nats, None: unknown.
    candidates: how many different ones it gave, of how many wanted; None: there is no policy.
    """
    signs = []
    share = weightless_share(space, derived[0]) if derived else None
    if share is not None and share > MANY:
        signs.append(f"{share:.0%} of the operations of the best architecture have no weights (skip, pooling, none)")
    most = sum(math.log(len(decision.options)) for decision in space.decisions)
    if entropy is not None and entropy < FEW * most:
        signs.append(f"the policy's entropy is {entropy:.2f} nats, of {most:.1f} at most")
    if candidates is not None and candidates[0] < candidates[1] / 2 and space.size >= 2 * candidates[1]:
        signs.append(f"the policy gave only {candidates[0]} different candidates of {candidates[1]}")
    return signs
