"""The best trials of a run, also without reading it whole, and those that a model recommends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeVar

import numpy as np

from nastool.core import pareto
from nastool.core.errors import InputError, hint
from nastool.core.quantities import Condition
from nastool.core.space import SearchSpace
from nastool.core.values import Arch, Objective, Trial
from nastool.core.wording import format_number
from nastool.engine.final_stage import KEY, FinalStage
from nastool.engine.store import Store

T = TypeVar("T")


class Recommended(NamedTuple):
    """A trial and what its architecture is believed to be worth: the loss and its standard deviation."""

    trial: Trial
    loss: float
    deviation: float


def recommended(space: SearchSpace, trials: Sequence[Trial]) -> list[Recommended]:
    """Finished trials, best first by what a model believes of their architectures, given all results and their noise.

    A function of the trials alone, whatever strategy proposed them (`learners.regression.believed`). A failed trial
    counts as the worst result; of an architecture with several trials the best stands for it. Empty where the model has
    nothing to say: with several objectives, where trials are not measured alike (budgets, handed down weights, rounds
    of a policy), and of few results or equal ones.

    Args:
        space: That of the run.
        trials: Of the run; those that are running are left out.
    """
    from nastool.learners import regression

    finished = [trial for trial in trials if trial.losses or trial.state == "failed"]
    done = [trial for trial in finished if trial.losses]
    alike = len({(t.proposal.budget, t.proposal.annealing) for t in done}) == 1
    if not alike or any(len(t.losses) > 1 or t.proposal.inherit or t.proposal.policy is not None for t in done):
        return []
    worst = max(trial.loss for trial in done)
    losses = np.array([trial.loss if trial.losses else worst for trial in finished])
    found = regression.believed(space, np.array([trial.proposal.arch.choices for trial in finished]), losses)
    if found is None:
        return []
    rows = zip(found.which, found.losses.tolist(), found.deviations.tolist(), strict=True)
    every = [Recommended(finished[i], loss, deviation) for i, loss, deviation in rows if finished[i].losses]
    first: dict[Arch, Recommended] = {}
    for each in sorted(every, key=lambda each: (each.loss, each.trial.rank)):
        first.setdefault(each.trial.proposal.arch, each)
    return list(first.values())


def advice(space: SearchSpace, trials: Sequence[Trial], objective: Objective) -> dict[str, object] | None:
    """The first of `recommended` as JSON: its trial, key, and what is believed of the objective; None: there is none.

    Scores with shared weights are ranked as they are: what is best by them is trained from scratch anyway.
    """
    found = [] if objective.metric.startswith("shared_") else recommended(space, trials)
    if not found:
        return None
    trial = found[0].trial
    return {"trial": trial.id, "key": trial.proposal.arch.key, "believed": believed(found[0], objective)}


def believed(found: Recommended, objective: Objective) -> dict[str, object]:
    """What is believed of a trial's objective: its metric, the mean in the metric's unit, the standard deviation."""
    return {"metric": objective.metric, "mean": objective.value(found.loss), "std": found.deviation}


def different(space: SearchSpace, trials: Iterable[Trial], count: int | None = None) -> list[Trial]:
    """The first so many of them of which no two are equivalent; None: all."""
    found: dict[str, Trial] = {}
    for trial in trials:
        found.setdefault(space.canonical(trial.proposal.arch), trial)
        if len(found) == count:
            break
    return list(found.values())


def derive(store: Store, space: SearchSpace, count: int) -> list[Trial]:
    """The best trials, no two equivalent, best first: of those that were scored after a policy's rounds, if any.

    With several objectives some that lie evenly along the front; if these are too few, the best of the others, too.
    """
    best = store.best(sum(store.count().values()))
    if len(store.objectives) > 1:
        first = along(front(different(space, best)), count)
        best = [*first, *(trial for trial in best if trial not in first)]
    return different(space, (t for t in best if t.proposal.policy is None), count) or different(space, best, count)


def finalists(store: Store, space: SearchSpace, count: int) -> list[Trial]:
    """The first so many that are trained once more at the end, no two equivalent: as `recommended`, else of `derive`.

    Those of a final stage come first, as it has ordered them. Scores with shared weights are taken as they are.
    """
    shared = store.objectives[0].metric.startswith("shared_")
    trials = list(store.trials())
    found = [] if shared else recommended(space, trials)
    order = [each.trial for each in found] or derive(store, space, count)
    stage = FinalStage.read(space, store, trials)
    return different(space, order if stage is None else stage.ranked(order), count)


def ranked(space: SearchSpace, trials: Sequence[Trial], stage: FinalStage | None = None) -> list[Trial]:
    """The finished ones, best first; of a search by rounds of a policy those scored afterwards, no two equivalent.

    Args:
        space: That of the run.
        trials: All of the run, by id.
        stage: Its final stage; then the best trial of each of its architectures comes first, as it has ordered them,
            and none of their others.
    """
    best = sorted((trial for trial in trials if trial.losses), key=lambda trial: trial.rank)
    if stage is not None:
        return stage.ranked(best)
    if not trials or trials[0].proposal.policy is None:
        return best
    return different(space, (t for t in best if t.proposal.policy is None)) or different(space, best)


def best_trials(store: Store, space: SearchSpace, count: int) -> list[Trial]:
    """The first so many of the run's `ranked`."""
    if store.get(KEY) is not None:
        trials = list(store.trials())
        return ranked(space, trials, FinalStage.read(space, store, trials))[:count]
    first = next(store.trials(), None)
    by_rounds = first is not None and first.proposal.policy is not None
    return derive(store, space, count) if by_rounds else store.best(count)


def front(trials: Sequence[Trial]) -> list[Trial]:
    """Those of the best that no other dominates, by the first objective; of one objective the best alone.

    Args:
        trials: Finished ones, the best first (`ranked`).
    """
    return [trials[i] for i in pareto.front([trial.losses for trial in trials])] if trials else []


def along(front: Sequence[T], count: int) -> list[T]:
    """So many of a front, evenly from one end to the other; the best by the first objective is among them."""
    places = [round(i * (len(front) - 1) / max(1, count - 1)) for i in range(count)] if front else []
    return [front[place] for place in dict.fromkeys(places)]


def described(ranked: Sequence[Trial], objectives: Sequence[Objective]) -> list[dict[str, object]]:
    """The front as JSON: each trial's number and key, and the values of the objectives. ranked: as of `front`."""
    found = ((trial, trial.evaluation.all_metrics) for trial in front(ranked) if trial.evaluation is not None)
    return [
        {
            "trial": trial.id,
            "key": trial.proposal.arch.key,
            **{each.metric: metrics[each.metric] for each in objectives},
        }
        for trial, metrics in found
    ]


KNEE = "knee"


def knee(front: Sequence[Trial]) -> Trial | None:
    """The compromise of a front, as of `pareto.knee`; None: of fewer than three nothing is in between."""
    return front[pareto.knee([trial.losses for trial in front])] if len(front) > 2 else None


def pick(ranked: Sequence[Trial], wanted: Sequence[str]) -> Trial:
    """The best trial that meets all conditions; of several objectives it is one of the front.

    Args:
        ranked: Finished trials, the best first.
        wanted: Such as "latency_ms<=4"; or, alone, "knee": the front's compromise.

    Raises:
        InputError: A condition is none, there is no such metric, or no trial meets them.
    """
    if KNEE in wanted:
        these = front(ranked)
        if len(wanted) > 1 or (found := knee(these)) is None:
            raise InputError(f"--pick knee: stands alone, and needs a front of three trials or more, not {len(these)}")
        return found
    conditions = [Condition.parse(text, "--pick") for text in wanted]
    measured = [(trial, trial.evaluation.all_metrics) for trial in ranked if trial.evaluation is not None]
    for trial, metrics in measured:
        if all(condition.holds(metrics) for condition in conditions):
            return trial
    for condition in conditions:
        values = [metrics[condition.metric] for _, metrics in measured if condition.metric in metrics]
        if measured and not values:
            raise InputError(
                f"--pick {condition}: no metric {condition.metric!r}; {hint(condition.metric, measured[0][1])}"
            )
        if values and not any(condition.holds({condition.metric: value}) for value in values):
            span = f"{condition.metric} is from {format_number(min(values))} to {format_number(max(values))}"
            raise InputError(f"--pick {condition}: no trial meets it: {span}")
    raise InputError(f"--pick {' '.join(map(str, conditions))}: no trial meets all of these")
