"""The limits of a search, checked before its first trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nastool.core.costs import Costs
from nastool.core.evaluator import Evaluator, Scaled
from nastool.core.limits import limits_of, whole
from nastool.core.space import SearchSpace
from nastool.core.values import Arch, Proposal
from nastool.engine.config import RunConfig
from nastool.engine.costs import check_names, costs_of, known
from nastool.engine.executors.base import Executor, carry_out
from nastool.engine.executors.jobs import OUTSIDE, Job


def check_limits(config: RunConfig, evaluator: Evaluator, executor: Executor, space: SearchSpace) -> None:
    """Check that there are architectures within a search's limits, which then know what they cost.

    Args:
        config: Of the search.
        evaluator: Prepared, if it is inline.
        executor: Open, with nothing at work.
        space: As the search sees it.

    Raises:
        InputError: A limit is on what is not known before, or nothing is found within them.
    """
    limits = limits_of(space)
    if limits is None:
        return
    check_names(limits, evaluator)

    def find(arch: Arch, names: Sequence[str]) -> Mapping[str, float]:
        if evaluator.inline:
            return costs_of(evaluator, arch, names)
        job = Job(OUTSIDE, Proposal(arch), 0, "costs", costs=tuple(names), threads=config.latency_threads)
        return carry_out(executor, job).tested or {}

    limits.costs = Costs(find, known(evaluator), at_hand=evaluator.inline and not isinstance(evaluator, Scaled))
    limits.check(whole(space))
