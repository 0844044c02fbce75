"""The last trials of a search: the most promising architectures trained again with other seeds, to tell which is best.

A result is a training's, and noise made the best of many results look better than its architecture is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from nastool.core.errors import InputError
from nastool.core.space import SearchSpace
from nastool.core.strategy import Fed, Pooling, Strategy
from nastool.core.values import Objective, Proposal, Trial
from nastool.core.wording import format_number
from nastool.learners import best_arm

if TYPE_CHECKING:
    from nastool.engine.config import RunConfig
    from nastool.engine.store import Store

ARMS = 5
"""Most architectures that are trained again."""
KEY = "final_stage"
"""Where it stands in the database."""
_STORED = ("begins", "trainings", "arms", "rules", "why")


@dataclass(frozen=True)
class Finalist:
    """An architecture that was trained again.

    Attributes:
        trial: Its best trial, of those whose weights are still there, if they are of any.
        losses: Of all its trainings, lower is better; infinity where one failed.
    """

    trial: Trial
    losses: Sequence[float]

    @property
    def mean(self) -> float:
        """Mean loss."""
        return sum(self.losses) / len(self.losses)

    @property
    def error(self) -> float | None:
        """Standard error of the mean; None: of one training, or where one failed."""
        n = len(self.losses)
        if n < 2 or not math.isfinite(self.mean):
            return None
        return math.sqrt(math.fsum((loss - self.mean) ** 2 for loss in self.losses) / (n - 1) / n)

    def to_json(self, objective: Objective) -> dict[str, object]:
        """Trial, key, number of trainings, mean in the metric's unit (None: one failed) and its standard error."""
        mean = objective.value(self.mean) if math.isfinite(self.mean) else None
        return {
            "trial": self.trial.id,
            "key": self.trial.proposal.arch.key,
            "trainings": len(self.losses),
            "mean": mean,
            "error": self.error,
        }


@dataclass
class FinalStage:
    """Which architectures are trained again, and how often; by successive rejects (`best_arm`).

    Attributes:
        space: Of the search.
        begins: Number of its first trial; all that follow are its own.
        trainings: How many there are.
        arms: Ids of trials, the most promising first, no two of equivalent architectures.
        rules: What was to end the search, as JSON. When something else is, the search goes on.
        why: What of it did, as of `Stopping`.
    """

    space: SearchSpace
    begins: int
    trainings: int
    arms: Sequence[int]
    rules: Mapping[str, Any]
    why: str = ""
    _of: list[list[Trial]] = field(init=False, default_factory=list)
    """Of each arm its trials by id, those that run as well."""
    _before: int = 0

    @classmethod
    def read(cls, space: SearchSpace, store: Store, trials: Sequence[Trial] | None = None) -> FinalStage | None:
        """That of a run, as far as it is; None: it has none, or went on searching.

        trials: all, where they have been read. InputError: it is damaged.
        """
        found = store.get(KEY)
        if found is None:
            return None
        trials = list(store.trials()) if trials is None else trials
        try:
            stage = cls(space, **{name: found[name] for name in _STORED})
            if any(t.proposal.again is None for t in trials if t.id >= stage.begins):
                return None
            stage.take(trials)
        except (KeyError, TypeError, ValueError, IndexError):
            raise InputError(f"{store.path} is damaged: its final stage is none") from None
        return stage

    def to_json(self) -> dict[str, Any]:
        """As it is stored."""
        return {name: getattr(self, name) for name in _STORED}

    def take(self, trials: Sequence[Trial]) -> None:
        """Begin with all trials of the search so far. KeyError or ValueError: the arms are none of them."""
        named = self._named(trials)
        forms = {self.space.canonical(trial.proposal.arch): i for i, trial in enumerate(named)}
        self._of = [[] for _ in self.arms]
        for trial in sorted(trials, key=lambda trial: trial.id):
            arm = forms.get(self.space.canonical(trial.proposal.arch))
            if arm is not None and (trial.state == "done" or trial.id >= self.begins):
                self._of[arm].append(trial)
        self._before = sum(len([t for t in own if t.id < self.begins]) - 1 for own in self._of)

    def _named(self, trials: Sequence[Trial]) -> list[Trial]:
        by_id = {trial.id: trial for trial in trials if trial.losses}
        named = [by_id[number] for number in self.arms]
        if len({self.space.canonical(trial.proposal.arch) for trial in named}) < max(2, len(named)):
            raise ValueError(self.arms)
        return named

    # --- while it goes on

    def ask(self, number: int) -> Proposal | None:
        """What trial `number` trains again; None: nothing before others have finished, or nothing at all."""
        pull = self._standing.pull
        if pull is None:
            return None
        first = self._of[pull][0]
        proposal = Proposal(first.proposal.arch, again=first.id)
        self._of[pull].append(Trial(number, proposal))
        return proposal

    def tell(self, trial: Trial) -> None:
        """Take in one that has finished."""
        for own in self._of:
            for i, each in enumerate(own):
                if each.id == trial.id:
                    own[i] = trial

    @property
    def trials(self) -> set[int]:
        """Ids of all trials of its architectures; their weights stay."""
        return {trial.id for own in self._of for trial in own}

    # --- what it says

    @property
    def _standing(self) -> best_arm.Standing:
        results = [[None if t.state == "running" else t.loss for t in own] for own in self._of]
        return best_arm.standing(results, self._before + self.trainings)

    @property
    def order(self) -> list[Finalist]:
        """Its architectures, the best first, the first rejected last; [] before one of them was trained again."""
        done = [[trial for trial in own if trial.state != "running"] for own in self._of]
        if all(trial.id < self.begins for own in done for trial in own):
            return []
        found = []
        for arm in self._standing.order:
            kept = [t for t in done[arm] if t.evaluation is not None and t.evaluation.checkpoint is not None]
            best = min(kept or done[arm], key=lambda trial: trial.rank)
            found.append(Finalist(best, [trial.loss for trial in done[arm]]))
        return found

    def ranked(self, trials: Sequence[Trial]) -> list[Trial]:
        """The best trial of each of its architectures, the best first, and then those of others as they come."""
        first = [finalist.trial for finalist in self.order]
        own = self.trials if first else set()
        return [*first, *(trial for trial in trials if trial.id not in own)]

    def facts(self, objective: Objective) -> dict[str, object]:
        """What best.json says of it."""
        order = self.order
        done = sum(t.id >= self.begins and t.state != "running" for own in self._of for t in own)
        return {"trainings": done, "architectures": [each.to_json(objective) for each in order]}


def describe(facts: Mapping[str, Any]) -> str:
    """What is known of the best, and of the next best. facts: as of `FinalStage.facts`."""

    def said(each: Mapping[str, Any]) -> str:
        error = "" if each["error"] is None else f" ± {format_number(each['error'])}"
        trainings = "training" if each["trainings"] == 1 else "trainings"
        return f"{format_number(each['mean'])}{error} of {each['trainings']} {trainings}"

    best = [said(each) for each in facts["architectures"] if each["mean"] is not None][:2]
    return ", the next best ".join(best)


def check(final: int, trials: int | None, config: RunConfig, strategy: Strategy, shares: bool) -> None:
    """InputError: so many last trials cannot train the best of this search again."""
    reason = refused(config, strategy, shares)
    if reason is not None:
        raise InputError(f"--final: {reason}: leave it out")
    if trials is not None and final >= trials:
        raise InputError(f"--final {final}: of {trials} trials some have to search: give more --trials, or a smaller N")


def refused(config: RunConfig, strategy: Strategy, shares: bool) -> str | None:
    """Why the best of this search cannot be trained again as its last trials; None: they can."""
    if shares or "policy" in strategy.needs:
        return "with shared weights the best are trained from scratch at the end, as --retrain K says"
    if isinstance(config.objective, list):
        return "it compares by one objective, and several are given"
    if config.fidelity is not None:
        return "it compares whole trainings, and with --fidelity some end early"
    if strategy.needs & {"warm-start", "budget"} or isinstance(strategy, Fed | Pooling):
        return f"strategy {strategy.name} says itself how each network is trained and kept"
    return None
