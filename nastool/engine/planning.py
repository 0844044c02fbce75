"""What a search with a limit of time has time for: rounds of shared weights, and trainings at its end.

What is decided here comes from a clock, so it is stored with the run, and a run that goes on takes it from there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from nastool.core.errors import InputError
from nastool.core.evaluator import Evaluator, rounds_of
from nastool.core.recipe import MAX_EPOCHS
from nastool.core.strategy import planned_trials
from nastool.core.values import Arch, Proposal, Scalar
from nastool.engine.executors.base import Executor, Setting, carry_out
from nastool.engine.executors.jobs import OUTSIDE, EvaluatorSpec, Job
from nastool.engine.run import make_executor
from nastool.engine.stopping import Budget, Rules, Stopping

if TYPE_CHECKING:
    from nastool.engine.config import RunConfig
    from nastool.engine.run import Run
    from nastool.engine.search import Search
    from nastool.engine.search_run import SearchRun

CLOSING, AS_OPENING, MOST_OPENING = 2.0, 1.5, 15.0
"""Seconds for the test, the network's code and the report: so many, and so many times those in which a worker starts,
of which these count at most, since a machine that is busy then is busy later."""
LOOK_AGAIN = 60.0
"""Seconds for trainings above which one of these very networks is looked at first."""
TESTS = 0.05
"""Share of a trial's time that a test takes."""

MARGIN = 1.15
"""How much longer things may take than was estimated."""
AFTER = 0.4
"""Most of the time that is kept for trainings at the end."""
SCORES = 0.2
"""Most of the time of a search with shared weights that is kept for scores."""
GRACE = 0.05
"""Share of the time for scores where rounds took longer than was thought."""
UNSURE = 1.5
"""How much longer rounds may take after which any number of scores comes, of which there may be fewer."""
ALONE = 0.2
"""Share of a recipe's epochs below which time is kept for what was found, and not for random ones beside it."""


@dataclass(frozen=True)
class Estimate:
    """What was found out by short looks, in a worker.

    Attributes:
        seconds: Of each proposal; (): unknown.
        epochs, batch_size: Of its trainings; None: there are none.
    """

    seconds: Sequence[float] = ()
    epochs: int | None = None
    batch_size: int | None = None


def estimate(executor: Executor, proposals: Sequence[Proposal], spec: EvaluatorSpec | None = None) -> Estimate:
    """Estimate what proposals take, one after another.

    Args:
        executor: Open, and idle.
        proposals: At least one.
        spec: Another evaluator, which is built in the same worker; None: its own.
    """
    job = Job(OUTSIDE, proposals[0], 0, "estimate", proposals=tuple(proposals), spec=spec)
    facts = carry_out(executor, job).tested or {}
    seconds = [facts[str(number)] for number in range(len(proposals)) if str(number) in facts]
    known = {name: int(facts[name]) for name in ("epochs", "batch_size") if name in facts}
    return Estimate(seconds if len(seconds) == len(proposals) else (), **known)


def rounds(each: float, score: float, scores: int | None, left: float) -> int:
    """How many rounds of shared weights there is time for, at least 1.

    Args:
        each: Seconds of a round.
        score: Seconds of a score.
        scores: Number of scores after the rounds; None: as many as there is time for.
        left: Seconds for rounds and scores.
    """
    scoring = SCORES * left if scores is None else min(scores * score, SCORES * left)
    return max(1, math.floor((left - scoring) / ((UNSURE if scores is None else MARGIN) * each)))


@dataclass(frozen=True)
class Trainings:
    """What is trained from scratch at the end of a search.

    Attributes:
        found: Number of the best.
        random: Number of random ones beside them.
        ranked: Number of random ones for the check of the ranking.
        epochs: Of each; None: the recipe's.
        batch_size: With these epochs.
    """

    found: int
    random: int
    ranked: int
    epochs: int | None = None
    batch_size: int | None = None

    @property
    def count(self) -> int:
        """Number of trainings."""
        return self.found + max(self.random, self.ranked)

    def describe(self, wanted: Trainings) -> str:
        """What of the wanted ones there is time for."""
        parts = []
        if not self.count:
            return "there is no time left to train anything from scratch; more --time does it"
        if (self.found, self.random) != (wanted.found, wanted.random):
            parts.append(f"of {wanted.found} found and {wanted.random} random ones {self.found} and {self.random}")
        if self.epochs is not None:
            parts.append(f"with {self.epochs} epochs each")
        if self.ranked != wanted.ranked:
            parts.append(f"the ranking is checked with {self.ranked} instead of {wanted.ranked}")
        return f"there is time for fewer trainings: {', '.join(parts)}"

    def within(self, seconds: float, each: Estimate, workers: int) -> Trainings:
        """As many of them as there is time for, or short ones; none where there is no time for an epoch.

        The check of the ranking goes first, then pairs of found and random ones; one of each is trained for fewer
        epochs, and where these were very few, what was found alone.

        Args:
            seconds: That there are.
            each: What one takes, by the recipe.
            workers: Number of trainings at a time.
        """
        if not each.seconds or not self.count:
            return self
        one = MARGIN * each.seconds[0]

        def takes(plan: Trainings) -> float:
            return one * math.ceil(plan.count / workers)

        pairs = [replace(self, found=k, random=min(self.random, k), ranked=0) for k in range(self.found, 0, -1)]
        plans = [self, *pairs] if self.found else [replace(self, ranked=n) for n in range(self.ranked, 1, -1)]
        for plan in plans:
            if takes(plan) <= seconds:
                return plan
        last, epochs = plans[-1], each.epochs
        if not self.found:
            return replace(self, ranked=0)
        if epochs is None:
            return last
        share = max(0.0, seconds) / takes(last)
        if share < ALONE and last.random:
            last = replace(last, random=0)
            share = max(0.0, seconds) / takes(last)
        if (short := math.floor(share * epochs)) < 1:
            return Trainings(0, 0, 0)
        return replace(last, epochs=min(epochs, short), batch_size=each.batch_size)


def shares(evaluator: Evaluator) -> bool:
    """Whether architectures share weights."""
    return "shared-weights" in evaluator.provides


def paced(rules: Rules, config: RunConfig, evaluator: Evaluator) -> bool:
    """Whether the time that there is decides how many rounds shared weights are trained."""
    given = config.evaluator.options
    shared = shares(evaluator) and rounds_of(evaluator) is not None
    return rules.timed and shared and given.get("epochs") is None and "epochs" in given


class Timing:
    """The time of a search: what it has used, and what is kept for what follows its trials."""

    def __init__(self, run: SearchRun, used: float) -> None:
        """Begins.

        Args:
            run: The search, whose call has begun before.
            used: Seconds of earlier calls.
        """
        self.run = run
        self.budget = Budget(run.rules, used, begun=run.begun)
        learns_first = shares(run.evaluator) and "policy" not in run.strategy.needs
        self.stopping = Stopping(
            run.rules,
            self.budget,
            self.reserve,
            self.reserve if shares(run.evaluator) else self.closing,
            learns_first=learns_first,
            workers=run.options.workers,
        )
        self.trained_in = 0.0
        """Seconds that are kept for trainings at the end."""
        self.opening: float | None = None
        """Seconds that a worker takes to start."""
        self.training: Estimate | None = None
        """Of a training at the end; None: not known yet."""
        self.rounds: int | None = None
        """How many were decided on in this call."""

    # --- what is kept

    def closing(self) -> float:
        """Seconds for the test, the network's code and the report."""
        return CLOSING + AS_OPENING * min(self.opening or 0.0, MOST_OPENING) + TESTS * self.stopping.last

    def reserve(self) -> float:
        """Seconds for all that follows the trials."""
        kept = self.closing()
        if self.run.beside is not None:  # as long again
            kept += max(0.0, self.budget.used - (self.opening or 0.0))
        return kept + self.trained_in

    def keep_for_trainings(self, more: float = 0.0) -> float:
        """Settle how much is kept for trainings at the end. Returns how much is left for trials.

        Args:
            more: Seconds that something else takes before the trials.
        """
        left = self.budget.left - self.closing() - more
        if self.training is None or not self.training.seconds:
            return left
        opening = self.opening or 0.0
        times = math.ceil(self.run.after.wanted(self.run.trials).count / self.run.options.workers)
        wanted = MARGIN * self.training.seconds[0] * times
        self.trained_in = opening + min(wanted, AFTER * max(0.0, left - opening))
        return left - self.trained_in

    def afterwards(self) -> Stopping:
        """What ends trials after those of the search."""
        rules = Rules(seconds=self.run.rules.seconds, until=self.run.rules.until)
        return Stopping(rules, self.budget, self.closing, self.closing)

    @property
    def for_trainings(self) -> float:
        """Seconds that there are for trainings at the end, which take a worker of their own."""
        return self.budget.left - self.closing() - (self.opening or 0.0)

    def trainings(self, run: Run, wanted: Trainings, arch: Arch) -> Trainings:
        """What there is time for at the end. What an earlier call decided holds while the limits are those it had.

        Args:
            run: The search, whose trials are over.
            wanted: What would be trained.
            arch: One that would be.
        """
        rules = self.afterwards().rules.to_json()
        before = run.store.get("trainings") or {}
        if before.get("wanted") == vars(wanted) and before.get("rules") == rules:
            return Trainings(**before["plan"])
        plan = Trainings(0, 0, 0)
        if self.for_trainings > 0:
            each = self.training  # as was estimated before the search
            if each is None or self.for_trainings > LOOK_AGAIN:
                each = self.run.after.estimate(run.executor, arch) or Estimate()
            plan = wanted.within(self.for_trainings, each, self.run.options.workers)
        run.store.write({"trainings": {"wanted": vars(wanted), "rules": rules, "plan": vars(plan)}})
        if plan != wanted:
            run.watch.note(f"note: {plan.describe(wanted)}")
        return plan

    # --- while it works

    def pace(self, executor: Executor, facts: Mapping[str, Scalar]) -> Mapping[str, Scalar]:
        """Decide how many rounds there are of shared weights; {}: as many as always, since nothing is known.

        Args:
            executor: Of the evaluator, open.
            facts: What it says of itself.
        """
        run = self.run
        self.opening = self.budget.spent
        strategy = run.config.make_strategy(run.space)
        first = strategy.ask()
        always = rounds_of(run.evaluator)
        if first is None or always is None:
            return {}
        found = estimate(executor, [first, Proposal(first.arch)])
        self._estimate_training(executor, first.arch)
        if not found.seconds:
            return {}
        each, score = found.seconds
        scores = run.trials
        if first.policy is None:
            each = (each - score) / always
        else:
            planned = planned_trials(strategy, 1)
            scores = None if planned is None else planned - 1
        count = rounds(each, score, scores, self.keep_for_trainings(self.opening))  # a worker begins anew with them
        if first.policy is not None and run.trials is not None:
            count = min(count, max(1, run.trials - (scores or 0)))
        self.rounds = count = min(count, MAX_EPOCHS)
        return {"epochs": count, **{key: facts[key] for key in ("batch_size",) if key in facts}}

    def _estimate_training(self, executor: Executor, arch: Arch) -> None:
        self.training = self.run.after.estimate(executor, arch) or Estimate()

    def with_fewer_rounds(self, run: Run, search: Search) -> Executor | None:
        """Return an executor for the rounds that were made, where there was no time for the first score after all.

        So many rounds there are from now on. None: there is a score, or no round was made.

        Args:
            run: With an executor that is closed.
            search: What has ended.
        """
        late = self.stopping.learns_first and search.ends.why == "time" and not search.finished and self.run.paced
        reports = run.store.reports(0) if late else []
        if not reports:
            return None
        made = reports[-1][0]
        settled = {**(run.store.get("settled") or {}), "epochs": made}
        run.store.write({"rounds": made, "settled": settled, "ended": None})
        run.watch.note(f"note: there was time for {made} rounds: what has been trained by now is scored")
        options, path = self.run.options, run.folder.path
        spec = run.config.evaluator_spec(self.run.space, path)
        threads = run.facts.get("threads")
        setting = Setting(
            options.workers,
            options.trial_timeout,
            options.hung_timeout,
            threads if isinstance(threads, int) else None,
            path / "logs",
            run.watch.note,
        )
        spec = replace(spec, options={**spec.options, **settled})
        executor = make_executor(options.executor, spec, spec.build(), setting)
        executor.open()
        self.trained_in = max(0.0, self.trained_in - (self.opening or 0.0) - GRACE * self.budget.whole)
        self.stopping = Stopping(self.run.rules, self.budget, self.reserve, self.closing, learns_first=True)
        return executor

    @contextmanager
    def at_work(self, run: Run) -> Iterator[None]:
        """While the run is open: what is used is stored."""
        if self.opening is None:
            self.opening = self.budget.spent
        self.budget.keep = lambda facts: run.store.write({"time": facts})
        if self.run.rules.timed:
            if self.rounds is not None:
                run.store.write({"rounds": self.rounds})
                run.watch.note(f"{self.rounds} rounds, as there is time for (--epochs N decides otherwise)")
            if self.training is None and (known := run.store.get("estimate")) is not None:
                self.training = Estimate(**known)
            elif self.training is None and self.run.after.training is not None:
                self._estimate_training(run.executor, self.run.space.sample(np.random.default_rng(0)))
            if self.training is not None:
                run.store.write({"estimate": vars(self.training)})
            if not self.trained_in:
                self.keep_for_trainings()
            self.budget.save()
        try:
            yield
        except BaseException:
            run.store.rollback()
            if self.budget.counts:  # else it may be damaged, and stays as it is
                with suppress(InputError):
                    self.budget.save()
            raise
        self.budget.save()
