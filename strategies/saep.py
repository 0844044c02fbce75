"""Sub-architecture ensemble pruning during a search: SAEP of Bian et al., arXiv 1910.00370."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nastool.core.space import SearchSpace
from nastool.core.values import Arch, Proposal, Trial
from nastool.ensembles.selection import Selection, pap, pie, prs, top
from nastool.learners.pools import Pool, RandomDraws, unseen

NOTE = "removed"
"""Name of the note by which a proposal says who was removed since the one before."""


class SAEP(Pool, RandomDraws):
    """An ensemble grows by a network a trial, and after each those are removed that it can do without.

    While more than `least` are alive, a step of pruning is one of three: at random (prs: with probability 1/2 one
    goes), by accuracy (pap: those go without which the mean is more accurate on the validation data) or by information
    entropy (pie: one goes, and what stays is that with the best trade-off of diversity and accuracy; a network that
    takes all for one class counts as diverse). The result are `members` of those that are alive at the end, by forward
    selection.

    Deviations: what is published prunes ensembles that AdaNet grows, whose networks have one form and become deeper;
    here a new one is a mutant of one that is alive, or is drawn at random. Of the published code pap keeps those that
    spoil the accuracy and may keep nobody; here they are those that go, and never fewer than `least` stay.
    """

    name = "saep"

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int = 0,
        members: int = 5,
        least: int = 20,
        pruning: Literal["prs", "pap", "pie"] = "pap",
        weighted: bool = False,
        alpha: float = 0.5,
        mutants: float = 0.5,
        dedup: bool = True,
    ) -> None:
        """Makes a strategy that nobody lives in.

        Args:
            members: Number of networks whose mean is the result, from 1 to `least`; with 1 nothing is pruned.
            least: So many stay alive at least.
            pruning: Who goes: at random (prs), by accuracy (pap), by information entropy (pie).
            weighted: The mean that is pruned is the convex combination with the least NLL (published as .W); else all
                count alike in it (.O).
            alpha: With pie how much diversity counts beside accuracy, in [0, 1].
            mutants: Share of the trials, in [0, 1], that are mutants of one of those alive; the others are random.
            dedup: Compare canonical forms with all earlier proposals.
        """
        super().__init__(space, seed=seed, members=members, dedup=dedup)
        if members > least:
            raise ValueError(f"need members <= least, got {members}, {least}")
        for name, share in (("alpha", alpha), ("mutants", mutants)):
            if not 0 <= share <= 1:
                raise ValueError(f"need {name} in [0, 1], got {share:g}")
        if alpha != 0.5 and pruning != "pie":
            raise ValueError("alpha is what pruning=pie weighs diversity by: leave one of the two out")
        self.least = least
        self.pruning = pruning
        self.weighted = weighted
        self.alpha = alpha
        self.mutants = mutants
        self.alive: dict[int, Trial] = {}
        """By id, in the order in which they finished."""
        self.removed = 0
        """How many members were removed so far."""
        self.predictions: Callable[[Trial], tuple[NDArray[Any], NDArray[Any]]] = unseen
        self._said: dict[int, tuple[NDArray[Any], NDArray[Any]]] = {}
        """Of those alive, as of `predictions`."""
        self._gone: list[int] = []
        """Who was removed since the last proposal."""

    def propose(self) -> Proposal | None:
        parent = child = None
        if self.mutants and self.alive and self.rng.random() < self.mutants:
            parent = list(self.alive)[int(self.rng.integers(len(self.alive)))]
            child = self._child(self.alive[parent].proposal.arch)
        if child is None:
            parent, child = None, self.space.sample_new(self.rng, self.seen, self.space.canonical)
        return None if child is None else Proposal(child, parent, notes={NOTE: list(self._gone)} if self._gone else {})

    def _child(self, parent: Arch) -> Arch | None:
        """A mutant of parent, mutated on until it is new; None: it is not within 100 steps."""
        child = parent
        for _ in range(100):
            try:
                child = self.space.mutate(child, self.rng)
            except ValueError:  # it has no neighbors
                return None
            if self.space.canonical(child) not in self.seen:
                return child
        return None

    def remember(self, proposal: Proposal) -> None:
        super().remember(proposal)
        self._remove(proposal.notes.get(NOTE, ()))  # after a restart they are still there
        self._gone = []

    def tell(self, trial: Trial) -> None:
        self._take_in(trial)
        if trial.state == "done" and self.members > 1 and len(self.alive) > self.least:
            self._gone += self._remove(set(self.alive) - set(self._kept()))

    def _take_in(self, trial: Trial) -> None:
        super().tell(trial)
        if trial.state == "done":
            self.alive[trial.id] = trial

    def _remove(self, ids: Any) -> list[int]:
        there = [each for each in self.alive if each in ids]
        for each in there:
            del self.alive[each]
            self._said.pop(each, None)
        self.removed += len(there)
        return there

    def _kept(self) -> list[int]:
        """Ids of those that a step of pruning keeps."""
        for each, trial in self.alive.items():
            if each not in self._said:
                self._said[each] = self.predictions(trial)
        ids = list(self.alive)
        said, labels = np.stack([self._said[each][0] for each in ids]), self._said[ids[0]][1]
        seed = int(self.rng.integers(2**62))
        step: Selection
        if self.pruning == "prs":
            stay = len(ids) - int(self.rng.integers(2))
            step = prs(said, labels, stay, weighted=self.weighted, seed=seed)
        elif self.pruning == "pap":
            step = pap(said, labels, len(ids), weighted=self.weighted)
        else:
            step = pie(said, labels, len(ids) - 1, weighted=self.weighted, alpha=self.alpha, seed=seed)
        kept = step.members
        kept += [each for each in top(said, labels, len(ids)).members if each not in kept][
            : max(0, self.least - len(kept))
        ]
        return [ids[each] for each in kept]

    def pool(self) -> Sequence[int]:
        return list(self.alive)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), **({NOTE: list(self._gone)} if self._gone else {})}

    def load_state_dict(self, state: Mapping[str, Any], trials: Sequence[Trial]) -> None:
        for trial in trials:
            self.remember(trial.proposal)
            if trial.state != "running":
                self._take_in(trial)
        self._gone = list(state.get(NOTE, ()))
        self._remove(self._gone)
        self.rng.bit_generator.state = state["rng"]
