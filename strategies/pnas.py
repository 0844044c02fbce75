"""PNAS, progressive neural architecture search: Liu et al., ECCV 2018, arXiv 1712.00559."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nastool.core import encodings
from nastool.core.arrays import Choices
from nastool.core.space import SearchSpace, mattering
from nastool.core.values import Decision, Proposal, Trial
from nastool.learners.predictors import ensemble
from nastool.learners.regression import representatives
from nastool.learners.surrogate import SurrogateStrategy

NOTHING = ("none", "no", "identity", "skip_connect", "skip")
"""Options that stand for no operation, the emptiest first."""
PASSING = ("identity", "skip_connect", "skip")
"""Those that pass on what they read."""


class PNAS(SurrogateStrategy):
    """Architectures grow part by part: of all that are one part larger, those that a predictor finds best are measured.

    Algorithm 1: all architectures of one part, or `beam` of them, are measured; then, again and again, the ensemble is
    trained on all results, the best `beam` of the largest size are enlarged by each part in every way, and the `beam`
    of these that are predicted to be best are measured. With several workers a size begins with what is known of the
    one before.

    A part is a block of a cell, next to those that are there, where blocks choose what they read; elsewhere a decision.
    What is not there yet has the option that stands for nothing (`none`, `identity`, ...; no connection; the first one
    where there is no such option), and in a cell a block that passes on the one before it. A part that changes nothing
    by itself, such as an edge to a vertex that nothing reads, is added with a second decision.

    Deviations: the predictor is that of `bananas`, five networks over the paths through an architecture, or over its
    decisions where a space has no paths (the paper's is an LSTM or five networks over embeddings); the two cells
    of `cell-cnn` grow in turns, each choosing its own blocks; beyond `candidates` a random choice of what is larger
    is looked at. Once nothing can grow, the search begins again at the smallest size that has a parent with
    something unmeasured around it, with what the predictor knows by then. The paper's beam is 256. Earlier runs are a
    prior mean, as of `Prior`: the ensemble is trained on what is left of the results.
    """

    name = "pnas"

    def __init__(
        self,
        space: SearchSpace,
        *,
        seed: int = 0,
        beam: int = 12,
        candidates: int = 10_000,
        max_points: int = 300,
    ) -> None:
        """Makes a strategy that has measured nothing yet.

        Args:
            beam: Number of architectures of each size that are measured, and then enlarged, in [1, 1000].
            candidates: Most architectures that are looked at for one size, in [beam, 1000000].
            max_points: Most results that the predictor is trained on, in [10, 5000].
        """
        if not 1 <= beam <= 1000 or not beam <= candidates <= 1_000_000 or not 10 <= max_points <= 5000:
            raise ValueError(
                "need 1 <= beam <= 1,000, beam <= candidates <= 1,000,000 and 10 <= max_points <= 5,000, "
                f"got {beam}, {candidates} and {max_points}"
            )
        super().__init__(space, seed=seed, init=1, batch=beam)
        self.random_trials = 0
        self.candidates = candidates
        self.max_points = max_points
        self.encoding = "path" if "path" in encodings.kinds(space) else "onehot"
        self.growth = Growth(space)
        if not self.growth.has_empty:
            self.notes = (f"no option of space {space.name} stands for nothing: pnas grows from the first ones",)
        self.size = 0  # of those that are enlarged next

    def propose(self) -> Proposal | None:
        if not self._planned:
            self._planned.extend(self.select(self.batch))
        return self._planned.popleft() if self._planned else self._random()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "size": self.size}

    def load_state_dict(self, state: Mapping[str, Any], trials: Sequence[Trial]) -> None:
        super().load_state_dict(state, trials)
        self.size = int(state["size"])

    def select(self, count: int) -> list[Proposal]:
        done = [trial for trial in self.finished if trial.state == "done"]
        sizes = self.growth.sizes(np.array([trial.proposal.arch.choices for trial in done])) if done else np.zeros(0)
        largest = int(max(sizes, default=0))
        before = range(min(self.size, largest + 1))  # while others are running, the largest is still to be enlarged
        for size in (*range(self.size, largest + 1), *(reversed(before) if self.running else before)):
            those = [trial for trial, own in zip(done, sizes, strict=True) if own == size]
            those = sorted(those, key=lambda trial: trial.loss)[: self.batch]
            parents = [trial.proposal.arch.choices for trial in those]
            found = self._best_of(self._enlarged([self.growth.base] if size == 0 else parents), count)
            if found:
                self.size = size + 1
                return found
        return []

    def _enlarged(self, parents: Sequence[Sequence[int]]) -> Choices:
        """Option indices (m, decisions) of what is one part larger than a parent; a choice of `candidates` of it."""
        if not parents:
            return np.zeros((0, len(self.growth.base)), dtype=np.intp)
        most = -(-self.candidates // len(parents))
        found = [self.growth.larger(np.array(parent), most, self.rng) for parent in parents]
        return np.unique(np.concatenate(found), axis=0)

    @np.errstate(over="ignore", invalid="ignore")  # of networks that diverge: NaN comes last in the order
    def _best_of(self, rows: Choices, count: int) -> list[Proposal]:
        """The new members among them that are predicted to be best, no two equivalent; unpredicted, the smallest."""
        predicted, scale = np.full(len(rows), np.inf), 1.0
        if len(rows) and self._informed():
            losses = self.losses()
            scale = float(np.ptp(losses))
            keep = representatives(losses, self.max_points)
            own = self.choices(keep)
            before = self.before(own, -losses[keep])
            predictor = ensemble.fit(self._encode(own), losses[keep] + before(own), self.rng)
            for start in range(0, len(rows), 1000):
                part = rows[start : start + 1000]
                predicted[start : start + 1000] = predictor.predict(self._encode(part)).mean(axis=0) - before(part)
        mixed = self.rng.permutation(len(rows))
        # Equal vectors have equal predictions, but for rounding: what has fewer parts without effect comes first.
        rank = np.round(predicted / scale, 6)
        found: dict[str, Proposal] = {}
        for i in mixed[np.lexsort((self.growth.sizes(rows)[mixed], rank[mixed]))].tolist():
            arch = self.space.arch(rows[i])
            if self.space.is_member(arch) and (form := self.space.canonical(arch)) not in self.seen:
                found.setdefault(form, self.expecting(arch, predicted[i]))
            if len(found) == count:
                break
        return list(found.values())

    def _encode(self, choices: Choices) -> NDArray[np.float32]:
        return encodings.encode_many(self.space, choices, self.encoding)


@dataclass(frozen=True)
class Part:
    """What is added at once. columns: its decisions. needs: the parts, by number, that have to be there before."""

    columns: tuple[int, ...]
    needs: frozenset[int] = frozenset()


class Growth:
    """The parts of a space's architectures. base: option indices where none is there, which may be no member."""

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        decisions = space.decisions
        blocks = {decision.place for decision in decisions if _reads(decision)}
        self.base = tuple(_empty(decision, decision.place in blocks) for decision in decisions)
        self.has_empty = any(
            decision.refers or set(decision.options) & set(NOTHING)
            for decision in decisions
            if len(decision.options) > 1
        )
        self.parts: list[Part] = []
        numbers: dict[str, int] = {}
        for i, decision in enumerate(decisions):
            if decision.place not in blocks:
                self.parts.append(Part((i,)))
            elif decision.place not in numbers:
                columns = tuple(j for j, other in enumerate(decisions) if other.place == decision.place)
                reads = {place for j in columns for place in decisions[j].refers}
                needs = frozenset(numbers[place] for place in reads if place in numbers)
                numbers[decision.place] = len(self.parts)
                self.parts.append(Part(columns, needs))

    def sizes(self, rows: Choices) -> NDArray[np.intp]:
        """How many parts are there, (n,). rows: option indices (n, decisions) of members."""
        differs = mattering(self.space, rows) & (rows != np.array(self.base))
        return np.asarray(sum(differs[:, part.columns].any(axis=1).astype(np.intp) for part in self.parts))

    def larger(self, parent: Choices, most: int, rng: np.random.Generator) -> Choices:
        """Option indices (m, decisions), m <= about `most`, of what has one part more than parent, (decisions,).

        Of decisions that change nothing by themselves, or make no member, a second one is added. All there is if it is
        no more than `most`; else a random choice.
        """
        absent = [i for i, part in enumerate(self.parts) if self._absent(parent, part)]
        there = set(range(len(self.parts))) - set(absent)
        ready = [self.parts[i] for i in absent if self.parts[i].needs <= there]
        first = self._with(parent, ready, most, rng)
        single = [part for part in ready if len(part.columns) == 1]
        silent = self._silent(parent, self._with(parent, single, most, rng))
        second = [
            self._with(row, [part for part in single if self._absent(row, part)], most, rng)
            for row in rng.permutation(silent)[: max(1, most // max(1, len(first)))]
        ]
        found = np.concatenate([first, *second])
        return found if len(found) <= most else found[rng.permutation(len(found))[:most]]

    def _absent(self, row: Choices, part: Part) -> bool:
        return all(row[i] == self.base[i] for i in part.columns)

    def _silent(self, parent: Choices, rows: Choices) -> Choices:
        """Those that are no members, or equivalent to the parent."""
        archs = [self.space.arch(row) for row in rows]
        own = self.space.arch(parent)
        same = self.space.canonical(own) if self.space.is_member(own) else None
        kept = [not self.space.is_member(arch) or self.space.canonical(arch) == same for arch in archs]
        return np.asarray(rows[np.array(kept, dtype=bool)])

    def _with(self, parent: Choices, parts: Sequence[Part], most: int, rng: np.random.Generator) -> Choices:
        """The parent with one of these parts, in every way; of a part with more than `most` ways, so many draws."""
        found = [np.zeros((0, len(parent)), dtype=np.intp)]
        for part in parts:
            sizes = [len(self.space.decisions[i].options) for i in part.columns]
            ways = np.array(list(_ways(sizes, most, rng)))
            rows = np.tile(parent, (len(ways), 1))
            rows[:, part.columns] = ways
            found.append(rows[(rows != parent).any(axis=1)])
        return np.concatenate(found)


def _ways(sizes: Sequence[int], most: int, rng: np.random.Generator) -> Iterator[tuple[int, ...]]:
    """All combinations of options, or `most` draws of more."""
    if np.prod(sizes, dtype=float) <= most:
        return iter(np.ndindex(*sizes))
    return iter(map(tuple, rng.integers(sizes, size=(most, len(sizes))).tolist()))


def _reads(decision: Decision) -> bool:
    """Whether it chooses one of several places to read."""
    return bool(decision.refers) and "" not in decision.refers


def _empty(decision: Decision, in_block: bool) -> int:
    """The option of what is not there."""
    if decision.refers:
        return len(decision.options) - 1 if _reads(decision) else decision.refers.index("")
    for option in PASSING if in_block else NOTHING:
        if option in decision.options:
            return decision.options.index(option)
    return 0
