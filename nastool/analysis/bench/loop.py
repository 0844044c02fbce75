"""One run of one strategy on one table: ask, look up, tell, in memory.

Every query is charged: random ones at the start, repeated ones, failed ones.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Literal, TypeAlias

from nastool.analysis.bench.benchmark import Benchmark
from nastool.core.errors import InputError, TrialFailed
from nastool.core.strategy import Strategy, reads
from nastool.core.values import Proposal, Trial
from nastool.engine.proposals import trial_seed
from nastool.engine.ranking import recommended
from nastool.learners import multi_fidelity

if TYPE_CHECKING:
    Doubles: TypeAlias = array[float]
else:
    Doubles = array  # it takes no parameters before Python 3.12
Ended = Literal["trials", "seconds", "exhausted"]
"""Why a run ended: its budget was used up, or the strategy had nothing left to propose."""


@dataclass(frozen=True)
class Budget:
    """Budget of a run, at least one of: queries, simulated seconds of training. None: no limit."""

    trials: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Best:
    """An architecture that a run has come to, by its label or a model.

    query: since which one, from 1; of what a model recommends, after which one. label: what the strategy was told.
    value: what it is truly worth, in [0, 1]. rank: 1 + how many of the table's architectures are truly better.
    """

    query: int
    label: float
    value: float
    rank: int


@dataclass(frozen=True)
class Run:
    """A finished run.

    budget: what it was given. queries: how many it made. best: each time the best label so far was beaten.
    spent: simulated seconds after each query, rounded to milliseconds; None: the table has no times.
    failed: the queries (from 1) that failed. recommended: what a model recommends, as far as that was asked.
    """

    budget: Budget
    ended: Ended
    queries: int
    best: tuple[Best, ...]
    spent: Doubles | None
    failed: tuple[int, ...] = ()
    recommended: tuple[Best, ...] = ()

    def __post_init__(self) -> None:
        found = [[best.query for best in those] for those in (self.best, self.recommended)]
        times, spent = (*found, self.failed), (0.0, *(self.spent or ()))
        if (
            not all(a < b for queries in times for a, b in pairwise((0, *queries, self.queries + 1)))
            or not all(0 <= best.value <= 1 and best.rank > 0 for best in (*self.best, *self.recommended))
            or not all(a <= b for a, b in pairwise(spent))
            or (self.spent is not None and len(self.spent) != self.queries)
        ):
            raise ValueError("what a run is said to have found is none of it")

    def to_json(self) -> dict[str, object]:
        spent = None if self.spent is None else self.spent.tolist()
        lists = {name: [list(vars(one).values()) for one in getattr(self, name)] for name in ("best", "recommended")}
        return {**vars(self), "budget": vars(self.budget), **lists, "spent": spent}

    def covers(self, budget: Budget) -> bool:
        """True if it tells what a run with that budget would have found."""
        if self.ended == "exhausted" or (budget.trials is not None and budget.trials <= self.queries):
            return True
        if budget.seconds is None or self.spent is None:
            return False
        if self.spent and self.spent[-1] > budget.seconds:
            return True
        return self.ended == "seconds" and self.budget.seconds is not None and budget.seconds <= self.budget.seconds

    def cut(self, budget: Budget) -> int:
        """Number of its queries within a budget."""
        count = self.queries if budget.trials is None else min(self.queries, budget.trials)
        if budget.seconds is not None and self.spent is not None:
            count = min(count, bisect_right(self.spent, budget.seconds))
        return count

    def stretches(self, queries: int) -> Iterator[tuple[int, int, Best | None]]:
        """(first, last, incumbent): from which of the first so many queries to which it was the incumbent."""
        known = [best for best in self.best if best.query <= queries]
        starts = [best.query for best in known] + [queries + 1]
        if starts[0] > 1 and queries:
            yield 1, starts[0] - 1, None
        for best, after in zip(known, starts[1:], strict=True):
            yield best.query, after - 1, best

    def best_after(self, queries: int) -> Best | None:
        """The incumbent after so many queries; None: all of them had failed."""
        found = bisect_right(self.best, queries, key=lambda best: best.query)
        return self.best[found - 1] if found else None

    def recommended_after(self, queries: int) -> Best | None:
        """What a model recommends after so many queries; None: that was not asked, or all of them had failed."""
        return next((best for best in self.recommended if best.query == queries), None)


def play(strategy: Strategy, benchmark: Benchmark, seed: int, budget: Budget, told: list[Trial] | None = None) -> Run:
    """Run until the budget is used up or the strategy has nothing left to propose.

    told: a list that what the strategy is told is added to.

    InputError: the strategy looks at a metric that the table lacks.

    The run ends before a query that would exceed the simulated seconds. A query whose training time is unknown (it
    failed, say) is charged the table's mean. An architecture without a true value cannot be judged, so its query
    fails like that of one which the table lacks.
    """
    multi_fidelity.begin(strategy, benchmark.table.describe())
    for metric in set(reads(strategy)) - benchmark.table.metrics:
        raise InputError(f"strategy {strategy.name} looks at {metric}, which {benchmark.table.file} has not")
    timed = benchmark.mean_seconds is not None
    spent = array("d")
    best: list[Best] = []
    failed: list[int] = []
    ended: Ended = "trials"
    while budget.trials is None or len(spent) < budget.trials:
        proposal = strategy.ask()
        if proposal is None:
            ended = "exhausted"
            break
        trial, value = _look_up(benchmark, len(spent), proposal, seed)
        cost = (trial.evaluation.seconds if trial.evaluation else 0.0) or benchmark.mean_seconds or 0.0
        total = round((spent[-1] if spent else 0.0) + max(cost, 0.001), 3)  # a run without limit of queries must end
        if timed and budget.seconds is not None and total > budget.seconds:
            ended = "seconds"
            break
        spent.append(total)
        if trial.state == "failed":
            failed.append(len(spent))
        elif trial.state == "done" and (not best or -trial.loss > best[-1].label):
            best.append(Best(len(spent), -trial.loss, value, benchmark.rank(value)))
        strategy.tell(trial)
        if told is not None:
            told.append(trial)
    return Run(budget, ended, len(spent), tuple(best), spent if timed else None, tuple(failed))


def with_recommended(run: Run, benchmark: Benchmark, told: Sequence[Trial], marks: Sequence[Budget]) -> Run:
    """The run with what a model recommends at the end of each of these budgets; where it has no say, the best label.

    told: what the strategy was told.
    """
    found = []
    for queries in sorted({run.cut(mark) for mark in marks if run.covers(mark)}):
        best = run.best_after(queries)
        if best is None:
            continue
        if first := recommended(benchmark.space, told[:queries]):
            trial = first[0].trial
            value = benchmark.table.true_value(trial.proposal)
            best = Best(queries, -trial.loss, value, benchmark.rank(value))
        found.append(replace(best, query=queries))
    return replace(run, recommended=tuple(found))


def _look_up(benchmark: Benchmark, number: int, proposal: Proposal, seed: int) -> tuple[Trial, float]:
    """The finished trial, and what its architecture is truly worth."""
    table = benchmark.table
    try:
        evaluation = table.evaluate(number, proposal, seed=trial_seed(seed, number), report=_silent)
        value = table.true_value(proposal)
        if math.isnan(value):
            raise TrialFailed(f"the table has no {table.true_metric} for {proposal.arch.choices}")
    except TrialFailed as error:
        return Trial(number, proposal, "failed", error=str(error)), math.nan
    losses = (-evaluation.metrics[table.objective],)
    if proposal.fidelity is not None:
        return Trial(number, proposal, "stopped", evaluation, early=losses), value
    return Trial(number, proposal, "done", evaluation, losses), value


def _silent(step: int, metrics: Mapping[str, float]) -> None: ...
