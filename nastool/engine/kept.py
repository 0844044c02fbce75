"""Which trials' checkpoints stay on disk: the best ones, and those that a search still has a use for."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nastool.core.errors import InputError
from nastool.core.values import Trial
from nastool.engine.store import Store
from nastool.nets import checkpoints

ONCE_IN = 16
"""Looking through n checkpoints is done once in n / ONCE_IN trials: no trial takes longer the more there are."""


@dataclass
class Kept:
    """The checkpoints of a search. What is forgotten in a transaction is deleted by `delete`, once that has committed.

    Attributes:
        store: Where trials lose their checkpoints.
        workdir: The run's folder.
        keep: How many of the best stay, those of a front included.
    """

    store: Store
    workdir: Path
    keep: int
    _best: list[tuple[list[float], int, str]] = field(default_factory=list)
    """Heap of (what `Trial.rank` has before the id, -id, checkpoint), negative: the worst of those kept first."""
    _held: dict[int, str] = field(default_factory=dict)
    """Those that are not among the best, by trial, kept since they are wanted."""
    _forgotten: set[int] = field(default_factory=set)
    """Stopped trials that left none, or whose own were forgotten in an earlier sitting."""
    _with_optimizer: dict[int, str] = field(default_factory=dict)
    """Those with what the optimiser remembers, by trial."""
    _dropped: list[str] = field(default_factory=list)
    """Files to delete."""
    _bare: list[str] = field(default_factory=list)
    """Those of which only the weights are still kept."""
    _looked: int = 0
    """At how many trials was looked last; `_since`: how many have finished since."""
    _since: int = 0

    def take(self, trial: Trial, ranked: Iterable[Trial]) -> None:
        """Take in a finished trial. ranked: those that from now on are ranked among the best, and on no front."""
        if not has_files(trial):
            if trial.state == "stopped":
                self._forgotten.add(trial.id)
            return
        if trial.state == "stopped":
            self._held[trial.id] = checkpoint_of(trial)
            return
        if trial.proposal.inherit:
            self._with_optimizer[trial.id] = checkpoint_of(trial)
        for each in filter(has_files, ranked):
            *order, _ = each.rank
            heapq.heappush(self._best, ([-value for value in order], -each.id, checkpoint_of(each)))

    def drop(self, name: str) -> None:
        """Have a file deleted that belongs to no trial any more."""
        self._dropped.append(name)

    def prune(
        self, front: int, parents: Callable[[], set[int]], others: Callable[[], set[int]], now: bool = False
    ) -> None:
        """Keep the best and those that are wanted, forget the others; each time that a trial has finished.

        Args:
            front: How many trials are on the front.
            parents: Trials that others go on from, also with what the optimiser remembers.
            others: Trials whose weights alone are wanted.
            now: No trial has finished, and what was put off is to be done: looking through all, which else is done so
                often that it costs little.
        """
        if now and not self._since:
            return
        while self._best and front + len(self._best) > self.keep:
            _, worst, checkpoint = heapq.heappop(self._best)
            self._held[-worst] = checkpoint
        self._since += not now
        few = ONCE_IN * self._since < self._looked
        if (few and not now) or not (self._held or self._with_optimizer):
            return
        going_on = parents()
        wanted = going_on | others()
        self._since, self._looked = 0, len(self._held) + len(wanted)
        for trial_id in [trial_id for trial_id in self._held if trial_id not in wanted]:
            self.store.drop_checkpoint(trial_id)
            self._with_optimizer.pop(trial_id, None)
            self._dropped.append(self._held.pop(trial_id))
        for trial_id in [trial_id for trial_id in self._with_optimizer if trial_id not in going_on]:
            self._bare.append(self._with_optimizer.pop(trial_id))

    def delete(self) -> None:
        """Remove the files that were forgotten."""
        while self._dropped:
            checkpoints.remove(self.workdir / self._dropped.pop())
        while self._bare:
            checkpoints.optimizer_of(self.workdir / self._bare.pop()).unlink(missing_ok=True)

    def check(self, front: Sequence[Trial], parents: set[int], asked: int) -> None:
        """Delete what a crash left of trials that are forgotten. asked: number of trials.

        Raises:
            InputError: What the search goes on from is gone.
        """
        there = {-trial_id: checkpoint for _, trial_id, checkpoint in self._best} | self._held
        there |= {trial.id: checkpoint_of(trial) for trial in filter(has_files, front)}
        for trial_id in sorted(parents - self._forgotten):
            if trial_id not in there or not checkpoints.is_there(self.workdir / there[trial_id]):
                raise InputError(
                    f"{self.workdir} lacks the checkpoint of trial {trial_id}, from which the search goes on: put "
                    f"{checkpoints.name_of(trial_id)} back, or begin anew with --force"
                )
        checkpoints.sweep(self.workdir, there, parents, asked)


def has_files(trial: Trial) -> bool:
    """Whether the trial left any."""
    return trial.evaluation is not None and bool(trial.evaluation.checkpoint or trial.evaluation.artifacts)


def checkpoint_of(trial: Trial) -> str:
    """The file that the trial left, or would have."""
    return (trial.evaluation and trial.evaluation.checkpoint) or checkpoints.name_of(trial.id)
