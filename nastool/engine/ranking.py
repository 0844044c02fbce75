"""The best trials of a run, also without reading it whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from nastool.core import pareto
from nastool.core.space import SearchSpace
from nastool.core.values import Trial
from nastool.engine.store import Store


def different(space: SearchSpace, trials: Iterable[Trial], count: int | None = None) -> list[Trial]:
    """The first so many of them of which no two are equivalent; None: all."""
    found: dict[str, Trial] = {}
    for trial in trials:
        found.setdefault(space.canonical(trial.proposal.arch), trial)
        if len(found) == count:
            break
    return list(found.values())


def derive(store: Store, space: SearchSpace, count: int) -> list[Trial]:
    """The best trials, no two equivalent, best first: of those that were scored after a policy's rounds, if any."""
    best = store.best(sum(store.count().values()))
    return different(space, (t for t in best if t.proposal.policy is None), count) or different(space, best, count)


def ranked(space: SearchSpace, trials: Sequence[Trial]) -> list[Trial]:
    """The finished ones, best first; of a search by rounds of a policy those scored afterwards, no two equivalent.

    Args:
        space: That of the run.
        trials: All of the run, by id.
    """
    best = sorted((trial for trial in trials if trial.losses), key=lambda trial: trial.rank)
    if not trials or trials[0].proposal.policy is None:
        return best
    return different(space, (t for t in best if t.proposal.policy is None)) or different(space, best)


def best_trials(store: Store, space: SearchSpace, count: int) -> list[Trial]:
    """The first so many of the run's `ranked`."""
    first = next(store.trials(), None)
    by_rounds = first is not None and first.proposal.policy is not None
    return derive(store, space, count) if by_rounds else store.best(count)


def front(trials: Sequence[Trial]) -> list[Trial]:
    """Those of the best that no other dominates, by the first objective; of one objective the best alone.

    Args:
        trials: Finished ones, the best first (`ranked`).
    """
    return [trials[i] for i in pareto.front([trial.losses for trial in trials])] if trials else []
