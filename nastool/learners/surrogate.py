"""What strategies with a model of the objective share: random first, then batches of what the model finds promising."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from itertools import islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nastool.core import arrays
from nastool.core.limits import enumerable
from nastool.core.space import SearchSpace, mutate_each
from nastool.core.strategy import Earlier, Strategy
from nastool.core.values import Arch, Proposal, Trial
from nastool.learners.prior import Prior

Choices = NDArray[np.intp]
ENUMERABLE = 20_000
"""A space with no more combinations than this is looked at as a whole; of a larger one, samples."""
INFORMED_INIT = 4
"""Number of trials with earlier runs before the model chooses."""


class SurrogateStrategy(Strategy):
    """Asks `init` random architectures, then `batch` at a time those that `select` returns.

    With earlier runs it begins with INFORMED_INIT architectures, or half a batch if that is more: in turns the best of
    those runs and random ones, which say how far the runs can be believed.

    No architecture is asked that is equivalent to an earlier one, so the search ends when the space is exhausted.
    With several workers `select` is called before all of the batch before is measured.
    """

    def __init__(self, space: SearchSpace, *, seed: int, init: int, batch: int) -> None:
        """init: random architectures, >= 1. batch: how many are selected at a time, in [1, 1000]."""
        super().__init__(space, seed=seed)
        if init < 1:
            raise ValueError(f"need init >= 1, got {init}")
        if not 1 <= batch <= 1000:
            raise ValueError(f"need 1 <= batch <= 1000, got {batch}")
        self.init = self.random_trials = init
        self.batch = batch
        self.seen: set[str] = set()
        self._told: list[Trial] = []
        self.finished: Sequence[Trial] = self._told
        """What the model learns from, in the order finished: those told, or those of `refit`."""
        self.running: dict[tuple[int, ...], None] = {}  # a set that keeps its order
        self._planned: deque[Proposal] = deque()
        self.prior: Prior | None = None

    def inform(self, earlier: Sequence[Earlier]) -> None:
        """As of `Informable`."""
        self.prior = Prior(self.space, earlier)
        self.init, self.random_trials = min(self.init, max(INFORMED_INIT, self.batch // 2)), 0

    @abstractmethod
    def select(self, count: int) -> list[Proposal]:
        """At most `count` new architectures (none equivalent to another or to one in `seen`), the best first.

        Each with what the model expects of it. Called once two results are there that differ. May return fewer, or
        none: then random ones are asked.
        """

    # --- the loop

    def propose(self) -> Proposal | None:
        if not self._planned and self.asked >= self.init and self._informed():
            self._planned.extend(self.select(self.batch))
        return self._planned.popleft() if self._planned else self._known() or self._random()

    def _known(self) -> Proposal | None:
        """One of the earlier runs' best, where it is time for one."""
        arch = None if self.prior is None or self.asked >= self.init else self.prior.first(self.asked)
        return None if arch is None or self.space.canonical(arch) in self.seen else Proposal(arch)

    def _random(self) -> Proposal | None:
        arch = self.space.sample_new(self.rng, self.seen, self.space.canonical)
        return None if arch is None else Proposal(arch)

    def _informed(self) -> bool:
        losses = (trial.losses for trial in self.finished if trial.state == "done")
        first = next(losses, None)
        return any(each != first for each in losses)

    def remember(self, proposal: Proposal) -> None:
        super().remember(proposal)
        self.seen.add(self.space.canonical(proposal.arch))
        self.running[proposal.arch.choices] = None

    def tell(self, trial: Trial) -> None:
        self.running.pop(trial.proposal.arch.choices)
        self._told.append(trial)

    def refit(self, trials: Sequence[Trial]) -> None:
        """As of `Refitting`."""
        self.finished = trials

    def state_dict(self) -> dict[str, Any]:
        planned = [[list(proposal.arch.choices), proposal.notes.get("expected")] for proposal in self._planned]
        return {**super().state_dict(), "planned": planned}

    def load_state_dict(self, state: Mapping[str, Any], trials: Sequence[Trial]) -> None:
        super().load_state_dict(state, trials)
        self._planned = deque(
            self.expecting(self.space.arch(choices), math.nan if loss is None else float(loss))
            for choices, loss in state["planned"]
        )
        for proposal in self._planned:
            self.space.validate(proposal.arch)

    # --- for `select`

    @staticmethod
    def expecting(arch: Arch, loss: float) -> Proposal:
        """A proposal with the loss that the model expects; one that is not finite is left out."""
        return Proposal(arch, notes={"expected": float(loss)} if math.isfinite(loss) else {})

    def losses(self) -> NDArray[np.float64]:
        """The first losses (n,) of the finished trials, in the order finished, as of `all_losses`."""
        return self.all_losses()[:, 0]

    def all_losses(self) -> NDArray[np.float64]:
        """Losses (n, objectives) of the finished trials, in the order finished; once one of them is done.

        A failed trial counts as the worst losses there are: what made it fail, such as its size, is worth avoiding.
        """
        done = np.array([trial.losses for trial in self.finished if trial.losses])
        worst = tuple(done.max(axis=0).tolist())
        return np.array([trial.losses or worst for trial in self.finished])

    def before(self, choices: Choices, results: NDArray[np.float64]) -> Callable[[arrays.Choices], NDArray[np.float64]]:
        """What was expected of architectures before, as of `Prior.mean`; without earlier runs zeros."""
        return (lambda others: np.zeros(len(others))) if self.prior is None else self.prior.mean(choices, results)

    def choices(self, which: NDArray[np.intp]) -> Choices:
        """Option indices (m, decisions) of some finished trials, given by their places in the order finished."""
        return np.array([self.finished[i].proposal.arch.choices for i in which])

    def best_trials(self, count: int) -> list[Trial]:
        """The best finished trials, best first, the earlier first where equal."""
        done = [trial for trial in self.finished if trial.state == "done"]
        order = np.argsort([trial.losses[0] for trial in done], kind="stable")
        return [done[i] for i in order[:count]]

    def new_mutants(self, parents: Sequence[Arch], count: int, draws: int, rate: float = 0.0) -> list[Arch]:
        """Up to `count` new architectures, no two equivalent, out of `draws` mutants of each parent in turn.

        rate: of `space.mutate_each`; 0: of `SearchSpace.mutate`.

        Where these are too few, out of mutants of the mutants. May return fewer: it draws 10 * count mutants at most.
        """
        found: dict[str, Arch] = {}
        queue, drawn = list(parents), list[Arch]()
        for number, parent in enumerate(islice(queue, 10 * count // draws), start=1):  # grows while it is read
            for _ in range(draws):
                try:
                    if rate > 0:
                        drawn.append(mutate_each(self.space, parent, self.rng, rate))
                    else:
                        drawn.append(self.space.mutate(parent, self.rng))
                except ValueError:  # it has no neighbors
                    break
                if len(found) + len(drawn) == count:
                    queue += self._new(drawn, found)
                    if len(found) == count:
                        return list(found.values())
            if number == len(queue):
                queue += self._new(drawn, found)
        self._new(drawn, found)
        return list(found.values())

    def _new(self, drawn: list[Arch], found: dict[str, Arch]) -> list[Arch]:
        """Those drawn that are new, which are then found by their forms; none is drawn any more.

        Many at a time, since spaces are faster so.
        """
        before = len(found)
        if drawn:
            forms = self.space.canonical_many(np.array([arch.choices for arch in drawn], dtype=np.intp))
            for form, arch in zip(forms, drawn, strict=True):
                if form not in self.seen:
                    found.setdefault(form, arch)
            drawn.clear()
        return list(found.values())[before:]

    @cached_property
    def members(self) -> Members | None:
        """The whole space, where it is small enough."""
        return Members(self.space) if self.space.size <= ENUMERABLE and enumerable(self.space) else None


class Members:
    """All members of a small space. choices: (n, decisions); group: (n,), equal for equivalent members."""

    def __init__(self, space: SearchSpace) -> None:
        self.choices: Choices = np.array([arch.choices for arch in space.members()], dtype=np.intp)
        forms = space.canonical_many(self.choices)
        self._number = {form: i for i, form in enumerate(dict.fromkeys(forms))}
        self.group = np.array([self._number[form] for form in forms])

    def unseen(self, seen: Collection[str]) -> NDArray[np.intp]:
        """Indices of the members that are not equivalent to one in seen."""
        fresh = np.ones(len(self._number), dtype=bool)
        fresh[[self._number[form] for form in seen]] = False
        return np.flatnonzero(fresh[self.group])
