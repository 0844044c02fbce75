"""Hill climbing by network morphisms (NASH): Elsken, Metzen & Hutter 2017, arXiv 1711.04528, Algorithm 1."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import ClassVar

from nastool.core.space import SearchSpace
from nastool.core.strategy import Strategy
from nastool.core.values import Arch, Proposal, Trial
from nastool.nets.inheritance import growing

KINDS = "deeper,wider,concat+add"


class NetworkMorphism(Strategy):
    """Trains one network while it grows: of some grown copies, each trained a little, the best goes on.

    A small network is trained first. In each step children are made from the current network, one as it is and the
    others by several random morphisms, which keep its function; all are trained for a few epochs from its weights, each
    with a learning rate that falls anew along a cosine; the best becomes the current network, which is trained once
    more at the end. The children of a step are trained in parallel, on as many workers as there are.

    Deviations: a child that equals another of its step is drawn again, where there are others; one that failed to train
    is no candidate. A kind of morphism is drawn first (a skip is one kind, whose join is drawn next), then one of it.
    """

    name = "network-morphism"
    needs = frozenset({"inherit", "warm-start", "budget"})
    goes_with: ClassVar = {"space": "morph-cnn", "recipes": "morphism-"}

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int = 0,
        steps: int = 5,
        neighbors: int = 8,
        morphisms: int = 5,
        start_epochs: int = 20,
        epochs: int = 17,
        final_epochs: int = 100,
        inherit: bool = True,
        restarts: bool = True,
        kinds: str = KINDS,
        members: int | None = None,
    ) -> None:
        """Makes a strategy that begins with a small network.

        The defaults are the paper's, whose names are n_steps, n_neigh, n_NM, epoch_neigh and epoch_final.

        Args:
            steps: Number of steps of growth, >= 0.
            neighbors: Number of candidates of a step, the unchanged network among them, >= 1.
            morphisms: Number of morphisms by which a child differs, >= 1.
            start_epochs: Epochs of the first network.
            epochs: Epochs of each candidate.
            final_epochs: Epochs of the last training; 0: there is none.
            inherit: Children begin with their parent's weights; false, for comparison, trains every network from
                scratch.
            restarts: The learning rate falls anew in each training; false, for comparison, lets it fall once, along the
                path from the first network to the last.
            kinds: Kinds of morphisms, with commas between; each is drawn as often, those with + between as one;
                "kernel" makes 3x3 to 5x5.
            members: Number of networks on the path from the first to the last whose mean is the result, >= 1 (a
                snapshot ensemble, Huang et al. 2017); none: 1.
        """
        super().__init__(space, seed=seed)
        for name, value, least in (
            ("steps", steps, 0),
            ("neighbors", neighbors, 1),
            ("morphisms", morphisms, 1),
            ("start_epochs", start_epochs, 1),
            ("epochs", epochs, 1),
            ("final_epochs", final_epochs, 0),
            ("members", 1 if members is None else members, 1),
        ):
            if not least <= value <= 100_000:
                raise ValueError(f"need {least} <= {name} <= 100,000, got {value}")
        self.growing = growing(space)
        known = self.growing.morphisms(self.growing.start())
        self.kinds = tuple(tuple(kind.split("+")) for kind in dict.fromkeys(kinds.split(",")))
        named = [kind for group in self.kinds for kind in group]
        for kind in named:
            if kind not in known:
                raise ValueError(f"kinds: space {space.name} has no morphism {kind!r}; there are {', '.join(known)}")
            if named.count(kind) > 1:
                raise ValueError(f"kinds: {kind!r} stands there twice; name each once")
        self.steps = steps
        self.neighbors = neighbors
        self.morphisms = morphisms
        self.budgets = (start_epochs, epochs, final_epochs)
        self.inherit = inherit
        self.members = members or 1
        if self.members > 1:
            self.needs = self.needs | {"ensemble"}
        self.restarts = restarts
        self.center: Trial | None = None  # the current network
        self.next: Trial | None = None  # the best candidate of this step so far
        self.step = 0
        self.out = 0  # trials being measured
        self.siblings: list[str] = []  # canonical forms of this step's candidates
        self.path: list[int] = []  # trials whose network became the current one

    def planned_trials(self, rounds: int | None) -> int:
        return 1 + self.steps * self.neighbors + (self.budgets[2] > 0)

    def propose(self) -> Proposal | None:
        start, epochs, final = self.budgets
        whole = start + self.steps * epochs + final
        before = start + self.step * epochs
        if self.center is None:
            return None if self.out else self._proposal(self.growing.start(), None, start, 0, whole)
        arch, parent = self.center.proposal.arch, self.center.id
        if self.step == self.steps:
            return self._proposal(arch, parent, final, before, whole) if final and not self.siblings else None
        if len(self.siblings) == self.neighbors:
            return None  # the best of them is not known yet
        if self.siblings:  # the first candidate is the network as it is
            arch = self._child(arch)
        return self._proposal(arch, parent, epochs, before, whole)

    def _proposal(self, arch: Arch, parent: int | None, epochs: int, before: int, whole: int) -> Proposal:
        part = (0.0, 1.0) if self.restarts else (before / whole, (before + epochs) / whole)
        return Proposal(arch, parent, epochs, inherit=self.inherit, annealing=part)

    def _child(self, parent: Arch) -> Arch:
        """Several random morphisms away; another than its siblings unless there seems to be none."""
        for _ in range(20):
            child = parent
            for _ in range(self.morphisms):
                known = self.growing.morphisms(child)
                possible = [[kind for kind in group if known[kind]] for group in self.kinds]
                kinds = [group for group in possible if group]
                if not kinds:
                    break  # it is as large as the space allows
                group = kinds[int(self.rng.integers(len(kinds)))]
                members = known[group[int(self.rng.integers(len(group))) if len(group) > 1 else 0]]
                child = members[int(self.rng.integers(len(members)))]
            if self.space.canonical(child) not in self.siblings:
                break
        return child

    def remember(self, proposal: Proposal) -> None:
        super().remember(proposal)
        self.out += 1
        if self.center is not None:
            self.siblings.append(self.space.canonical(proposal.arch))

    def tell(self, trial: Trial) -> None:
        self.out -= 1
        if trial.state == "done" and (self.next is None or (trial.loss, trial.id) < (self.next.loss, self.next.id)):
            self.next = trial
        if self.center is None:
            if self.next is not None:
                self._move()
        elif len(self.siblings) == self.neighbors and not self.out and self.step < self.steps:
            self.step += 1
            self._move()

    def _move(self) -> None:
        if self.next is not None:  # all may have failed
            self.center = self.next
            self.path.append(self.center.id)
        self.next = None
        self.siblings = []

    def wanted(self) -> Collection[int]:
        last = self.step == self.steps
        over = last and (not self.budgets[2] or (self.siblings and not self.out))
        if over or not self.inherit:
            return ()
        return [trial.id for trial in (self.center, self.next) if trial is not None]

    def pool(self) -> Sequence[int]:
        """Of a step that is not over, the best candidate so far is one of them."""
        return [*self.path, *([self.next.id] if self.next is not None else [])]
