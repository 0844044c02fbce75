"""What a search will cost, from short looks before it begins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from nastool.core.evaluator import rounds_of
from nastool.core.strategy import Strategy, planned_trials
from nastool.core.values import Evaluation, Proposal, Scalar, Trial
from nastool.core.wording import format_seconds
from nastool.engine.executors.base import Executor
from nastool.engine.planning import Estimate, Timing, Trainings, estimate, shares
from nastool.engine.stopping import Budget
from nastool.learners.multi_fidelity import ByLevels

if TYPE_CHECKING:
    from nastool.engine.search_run import SearchRun

COURSES = 5
"""Number of courses of events that a strategy's results are made up for."""
SHOWN, MOST_SHOWN = 40, 200
"""Number of trials from which is told what a search costs, and of those that a strategy says the length of."""


def foreseen(strategy: Strategy, trials: int, rounds: int | None, seed: int = 0) -> list[Proposal]:
    """Return the first proposals of a search, as far as they can be known before there are any results.

    Args:
        strategy: Untouched; it is told of results that are made up.
        trials: Number of proposals, at most.
        rounds: Of shared weights.
        seed: Of those results.
    """
    rng = np.random.default_rng(seed)
    found: list[Proposal] = []
    told = 0
    while len(found) < trials:
        proposal = strategy.ask()
        if proposal is not None and isinstance(strategy, ByLevels):  # results decide how far the next is trained
            losses = (float(rng.random()),)
            whole = proposal.fidelity is None
            trial = Trial(len(found), proposal, "done" if whole else "stopped", Evaluation({}, 1.0))
            strategy.tell(replace(trial, losses=losses) if whole else replace(trial, early=losses))
            found.append(proposal)
        elif proposal is None and told == len(found):
            break
        elif proposal is None:
            for number in range(told, len(found)):
                strategy.tell(Trial(number, found[number], "done", Evaluation({}, 1.0), (float(rng.random()),)))
            told = len(found)
        elif proposal.policy is not None:
            count = min(trials, rounds or 1)
            return [*[proposal] * count, *[Proposal(proposal.arch)] * (trials - count)]
        else:
            found.append(proposal)
    return found


@dataclass(frozen=True)
class Forecast:
    """What a search will cost.

    Attributes:
        opening: Seconds until the first trial.
        each: Seconds of each of the first trials; (): unknown.
        trials: Number of trials; None: unknown.
        seconds: Of all trials; None: unknown.
        rounds: Number of rounds of shared weights that there is time for; None: time does not decide it.
        trainings: What is trained at the end.
        training: What one of these takes; None: unknown.
        closing: Seconds from the last trial to the end, but for trainings.
    """

    opening: float
    each: Sequence[float]
    trials: int | None
    seconds: float | None
    rounds: int | None
    trainings: Trainings
    training: Estimate | None
    closing: float

    @classmethod
    def of(cls, run: SearchRun, executor: Executor, facts: Mapping[str, Scalar]) -> Forecast:
        """Look at some trials.

        Args:
            run: Not begun, or to be continued from its beginning.
            executor: Of its evaluator, open.
            facts: What that says of itself.
        """
        timing = Timing(run, 0.0)
        opening = timing.opening = timing.budget.spent
        rounds, trials = rounds_of(run.evaluator), run.trials
        if run.paced:
            rounds = int(timing.pace(executor, facts).get("epochs") or 0) or rounds
            trials = trials or planned_trials(run.strategy, rounds)
        sized = "budget" in run.strategy.needs or "policy" in run.strategy.needs
        shown = trials or SHOWN
        count = min(shown, MOST_SHOWN if sized or run.config.fidelity is not None else SHOWN)
        # what is trained longer and longer depends on what is found: the middle one of several courses of events
        courses = COURSES if "budget" in run.strategy.needs else 1
        told = [foreseen(run.config.make_strategy(run.space, facts), count, rounds, seed) for seed in range(courses)]
        first, found = told[0], estimate(executor, [each for course in told for each in course]).seconds
        if len(told) > 1 and found:
            ends = np.cumsum([len(course) for course in told])
            found = sorted((found[end - len(course) : end] for end, course in zip(ends, told, strict=True)), key=sum)[
                courses // 2
            ]
        if run.paced and timing.rounds is not None and found and first[0].policy is None:
            found = [found[-1] + (found[0] - found[-1]) * timing.rounds / (rounds_of(run.evaluator) or 1), *found[1:]]
        if timing.training is None and first:
            timing.training = run.after.estimate(executor, first[-1].arch)
        seconds = None
        if found and trials is not None:
            seconds = sum(found) + (trials - len(found)) * (found[-1] if sized else sum(found) / len(found))
        if found and run.rules.timed and (seconds is None or seconds > timing.stopping.left):
            rest, seconds = found[1:] or found, max(0.0, timing.stopping.left)
            trials = max(1, 1 + int((seconds - found[0]) * len(rest) / sum(rest)))
        wanted = run.after.wanted(trials)
        if run.rules.timed and timing.training is not None:
            spare = timing.for_trainings - (seconds or 0.0)
            wanted = wanted.within(spare, timing.training, run.options.workers)
        return cls(opening, found, trials, seconds, timing.rounds, wanted, timing.training, timing.closing())

    def lines(self, run: SearchRun) -> Iterator[str]:
        """The same in words."""
        if not self.each or self.seconds is None:
            yield "cost: unknown"
        else:
            kind = "simulated" if "simulated" in run.evaluator.provides else "measured"
            if len({*self.each}) > 1 and not shares(run.evaluator):
                least, most = map(format_seconds, (min(self.each), max(self.each)))
                kind += f" on the first architectures: {least} to {most}"
            count = self.trials or len(self.each)
            each, whole = format_seconds(self.seconds / count), format_seconds(self.opening + self.seconds)
            about = "about " if count != run.trials else ""
            yield f"cost: about {each} a trial ({kind}), {whole} for {about}{count} on one worker"
        if self.rounds is not None:
            yield f"rounds: {self.rounds}, as there is time for"
        if (count := self.trainings.count) and self.training is not None and self.training.seconds:
            seconds, short = self.training.seconds[0], ""
            if self.trainings.epochs is not None:
                seconds *= self.trainings.epochs / (self.training.epochs or 1)
                short = f" with {self.trainings.epochs} epochs instead of {self.training.epochs}"
            each, whole = format_seconds(seconds), format_seconds(seconds * count)
            yield f"and then: about {each} a training from scratch{short}, {whole} for up to {count} on one worker"
        if run.beside is not None:
            yield "and as much again for random search beside it"
        if run.rules.timed:
            left, closing = (format_seconds(each) for each in (Budget(run.rules).left, self.closing))
            yield f"time: it ends within {left}, of which {closing} are kept for test, code and report"
