"""Evaluations and tests outside of a search, one after another."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from nastool.core.errors import NastoolError
from nastool.core.values import Evaluation, Proposal, Trial
from nastool.engine.executors.base import Executor, carry_out
from nastool.engine.executors.jobs import OUTSIDE, Job
from nastool.engine.proposals import trial_seed


def test_best(executor: Executor, best: Trial, seed: int) -> tuple[Mapping[str, float], str | None]:
    """Test what the best trial's evaluation left behind, once, at the end of a search.

    Returns its metrics and, where that failed for good, the reason.
    """
    return _measure(executor, Job(best.id, best.proposal, trial_seed(seed, best.id), "test", best.evaluation))


def _measure(executor: Executor, job: Job) -> tuple[Mapping[str, float], str | None]:
    finished = carry_out(executor, job)
    return finished.tested or {}, finished.error


def evaluate_all(executor: Executor, proposals: Sequence[Proposal], stop: Callable[[], bool]) -> Iterator[Evaluation]:
    """Evaluate each, outside of a search, in order; ends early where `stop`. NastoolError: one failed for good."""
    for number, proposal in enumerate(proposals, OUTSIDE):
        if stop():
            return
        finished = carry_out(executor, Job(number, proposal, 0))
        if finished.evaluation is None:
            raise NastoolError(f"architecture {proposal.arch.key} could not be evaluated: {finished.error}")
        yield finished.evaluation
