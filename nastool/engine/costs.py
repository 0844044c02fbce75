"""What an architecture costs by an evaluator, in the process that has it, or by asking an executor's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from nastool.core import registry
from nastool.core.costs import NETWORK_COSTS
from nastool.core.errors import InputError, hint
from nastool.core.evaluator import Costing, Evaluator, Scaled
from nastool.core.limits import Limits
from nastool.core.values import Arch

if TYPE_CHECKING:
    from nastool.nets.costs import NetworkCosts

_networks: WeakKeyDictionary[Evaluator, NetworkCosts] = WeakKeyDictionary()


def known(evaluator: Evaluator) -> frozenset[str]:
    """Return the names of what is known of an architecture before it is measured; of an inline evaluator, prepared."""
    own = evaluator.known_costs if isinstance(evaluator, Costing) else frozenset()
    return own | frozenset(NETWORK_COSTS if isinstance(evaluator, Scaled) else ())


def costs_of(evaluator: Evaluator, arch: Arch, names: Sequence[str], threads: int = 1) -> Mapping[str, float]:
    """Return what an architecture costs: what the evaluator knows itself, the rest of the network that it would build.

    Args:
        evaluator: Prepared.
        arch: The architecture.
        names: Of costs; those that are not `known` are left out.
        threads: CPU threads of a latency.
    """
    own = evaluator.costs_of(arch, names) if isinstance(evaluator, Costing) else {}
    rest = [name for name in names if name not in own and name in NETWORK_COSTS]
    if not rest or not isinstance(evaluator, Scaled):
        return own
    if evaluator not in _networks:
        from nastool.nets.costs import NetworkCosts

        built: Any = evaluator  # it has a task once it is prepared
        device = getattr(evaluator, "device", "cpu")
        _networks[evaluator] = NetworkCosts(evaluator.space, built.task, evaluator.scale, device, threads)
    return {**_networks[evaluator].of(arch, rest), **own}


def check_names(limits: Limits, evaluator: Evaluator) -> None:
    """Check that what limits are on is known before an architecture is measured; as of `known`. InputError."""
    names = known(evaluator)
    for condition in limits.conditions:
        if condition.metric not in names:
            who, near = registry.whose(type(evaluator)), hint(condition.metric, sorted(names))
            raise InputError(f"--limit {condition}: {who} knows no such cost before it measures; {near}")
