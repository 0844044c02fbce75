"""Which trainings go on, and how far: successive halving, Hyperband, ASHA and the median rule. Pure, without any I/O.

A ladder of levels leads from a short training to a whole one. A trial trains one architecture up to one level, where it
pauses; what goes on from there to the next is a trial of its own.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from bisect import bisect_left, insort
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from nastool.core import options
from nastool.core.errors import InputError, hint, short
from nastool.learners.curves import Law


@dataclass(frozen=True)
class Step:
    """What is trained next.

    Attributes:
        rung: Up to which level, by its place.
        source: Number of the trial that goes on; None: a new architecture begins.
    """

    rung: int
    source: int | None = None


class Ladder(ABC):
    """Decides by results alone: a function of what has begun, in the order of numbers, and of what has ended."""

    def __init__(self, *, eta: int = 3, minimum: int = 1, predict: Law | None = None) -> None:
        """Makes a ladder without levels; `climb` gives it some.

        Args:
            eta: One in so many goes on to the next level, which is at least so many times longer, from 2 to 1000. Where
                a table's is k times longer, one in k does, so that each level takes as much time as any other.
            minimum: Least level, >= 1: epochs of a training, or of a table's column.
            predict: What trainings are compared by: what their curves will come to at the last level by a power law
                (power-law), once they have 5 epochs; by default their last values.
        """
        if not 2 <= eta <= 1000:
            raise ValueError(f"need 2 <= eta <= 1,000, got {eta}")
        if minimum < 1:
            raise ValueError(f"need minimum >= 1, got {minimum}")
        self.eta = eta
        self.minimum = minimum
        self.predict = predict
        self.levels: tuple[float, ...] = ()
        self.rungs: dict[int, int] = {}
        """Of each trial that has begun, the place of its level."""
        self.gone: set[int] = set()
        """Trials that have gone on."""

    def climb(self, levels: Sequence[float]) -> None:
        """Take these levels, ascending, at least two; nothing has begun."""
        self.levels, self.rungs, self.gone = tuple(levels), {}, set()
        self.etas = [max(self.eta, int(after // before)) for before, after in pairwise(levels)]
        """One in so many goes on from each level."""

    @property
    def top(self) -> int:
        """The place of the last level."""
        return len(self.levels) - 1

    @property
    def least(self) -> int:
        """How many trials it takes, one at a time, until one has reached the last level."""
        return sum(math.prod(self.etas[rung:]) for rung in range(len(self.levels)))

    @abstractmethod
    def next(self, new: bool = True) -> Step | None:
        """What to begin now; None: nothing before something ends. new: whether there are new architectures."""

    def begun(self, number: int, source: int | None) -> None:
        """A trial has begun. source: the one that it goes on from; None: its architecture is new."""
        self.rungs[number] = self.first if source is None else self.rungs[source] + 1
        if source is not None:
            self.gone.add(source)

    @property
    def first(self) -> int:
        """The place of the level that the next new architecture is trained up to."""
        return 0

    @abstractmethod
    def ended(self, number: int, loss: float) -> None:
        """A trial has ended. loss: lower is better; infinity: it failed.

        When a search goes on, it is told of all that has begun before all that has ended.
        """

    @abstractmethod
    def waiting(self) -> list[int]:
        """Numbers of the trials that may go on yet; the best of a level is among them unless it has gone on."""

    def kept(self) -> list[int]:
        """Those whose checkpoints are worth their room; one of the others, if it goes on, is trained anew."""
        return self.waiting()


class Asha(Ladder):
    """Asynchronous successive halving: Li et al., MLSys 2020, arXiv 1810.05934, Algorithm 2.

    Whenever there is room, a trial goes on that is among the best 1/eta of its level's results so far, from the highest
    level that has one, the best first; where there is none, a new architecture begins. Nothing waits for others.

    However far behind a trial is, it may yet go on. Checkpoints are kept of those that are not far from it.
    """

    def climb(self, levels: Sequence[float]) -> None:
        super().climb(levels)
        self._results: list[list[tuple[float, int]]] = [[] for _ in levels]
        self._left: list[list[tuple[float, int]]] = [[] for _ in levels]
        """Ascending, of each level: all results, and those that have not gone on."""
        self._losses: dict[int, float] = {}

    def next(self, new: bool = True) -> Step | None:
        for rung in reversed(range(self.top)):
            results, left = self._results[rung], self._left[rung]
            if left and bisect_left(results, left[0]) < len(results) // self.etas[rung]:
                return Step(rung + 1, left[0][1])
        return Step(0) if new else None

    def begun(self, number: int, source: int | None) -> None:
        super().begun(number, source)
        if source is not None:
            left, result = self._left[self.rungs[source]], (self._losses.get(source, math.inf), source)
            place = bisect_left(left, result)
            if left[place : place + 1] == [result]:
                del left[place]

    def ended(self, number: int, loss: float) -> None:
        rung = self.rungs[number]
        self._losses[number] = loss
        insort(self._results[rung], (loss, number))
        if math.isfinite(loss) and rung < self.top and number not in self.gone:
            insort(self._left[rung], (loss, number))

    def waiting(self) -> list[int]:
        return [number for left in self._left for _, number in left]

    def kept(self) -> list[int]:
        """Of each level those at most 20 places and a quarter behind the last that may go on.

        Of 900 trials about 80 stay instead of 550. Where results neither rise nor fall none of the others goes on
        (simulated: three seeds, eta 3, noise of .3 deviations); where later architectures are worse and worse, by two
        deviations altogether, one in twenty that go on is not among those that were kept.
        """
        found = []
        for results, left, eta in zip(self._results, self._left, self.etas, strict=False):  # nothing waits at the top
            last = len(results) // eta * 5 // 4 + 20
            end = len(left) if last >= len(results) else bisect_left(left, results[last])
            found += [number for _, number in left[:end]]
        return found


@dataclass
class _Bracket:
    """One run of successive halving. sizes: how many trials each of its levels takes, from level `first` on."""

    first: int
    sizes: list[int]
    begun: list[int] = field(default_factory=list)
    """How many have begun at each level; `results`: (loss, number) of those that have ended."""
    results: list[list[tuple[float, int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.begun = [0] * len(self.sizes)
        self.results = [[] for _ in self.sizes]

    def due(self, gone: Collection[int]) -> list[tuple[int, int]]:
        """(place of the next level, number) of what goes on now: the best of levels of which all results are there."""
        found = []
        for place in range(1, len(self.sizes)):
            before = self.results[place - 1]
            if len(before) < self.sizes[place - 1]:
                break
            best = [number for loss, number in sorted(before) if math.isfinite(loss)][: self.sizes[place]]
            self.sizes[place] = len(best)
            found += [(self.first + place, number) for number in best if number not in gone]
        return found

    def end_new(self, etas: Sequence[int]) -> None:
        """No further new architecture comes. etas: as of `Ladder`."""
        if self.begun[0] < self.sizes[0]:
            self.sizes = _sizes(self.begun[0], etas[self.first :])


def _sizes(begin: int, etas: Sequence[int]) -> list[int]:
    """How many are left at each level, of `begin`."""
    return [begin // math.prod(etas[:place]) for place in range(len(etas) + 1)]


class Hyperband(Ladder):
    """Hyperband: Li et al., JMLR 2018, arXiv 1603.06560, Algorithm 1, one bracket after the other, and again.

    Bracket s of s_max, ..., 0 begins with ceil((s_max + 1) / (s + 1) * eta^s) architectures, trained up to level
    s_max - s; of each level's the best 1/eta go on once all are there. Meanwhile workers begin the next bracket.
    """

    def climb(self, levels: Sequence[float]) -> None:
        super().climb(levels)
        self._brackets: list[_Bracket] = []
        self._of: dict[int, _Bracket] = {}
        self._done = 0
        """How many brackets of the first are over."""

    @property
    def least(self) -> int:
        return sum(self.sizes(self.top))

    def sizes(self, s: int) -> list[int]:
        """How many are trained at each level of bracket s, from level s_max - s to the last."""
        etas = self.etas[self.top - s :]
        return _sizes(-(-(self.top + 1) * math.prod(etas) // (s + 1)), etas)

    def next(self, new: bool = True) -> Step | None:
        for bracket in self._brackets[self._done :]:
            if not new:
                bracket.end_new(self.etas)
            if due := bracket.due(self.gone):
                return Step(*due[0])
            if new and bracket.begun[0] < bracket.sizes[0]:
                return Step(bracket.first)
        return Step(self.first) if new else None

    @property
    def first(self) -> int:
        return self._open.first

    @property
    def _open(self) -> _Bracket:
        """The bracket that new architectures begin in; a new one where those that there are have all of theirs."""
        last = self._brackets[-1] if self._brackets else None
        if last is not None and last.begun[0] < last.sizes[0]:
            return last
        s = self.top - len(self._brackets) % (self.top + 1)
        return _Bracket(self.top - s, self.sizes(s))

    def begun(self, number: int, source: int | None) -> None:
        bracket = self._open if source is None else self._of[source]
        super().begun(number, source)
        if source is None and (not self._brackets or bracket is not self._brackets[-1]):
            self._brackets.append(bracket)
        self._of[number] = bracket
        bracket.begun[self.rungs[number] - bracket.first] += 1

    def ended(self, number: int, loss: float) -> None:
        bracket = self._of[number]
        bracket.results[self.rungs[number] - bracket.first].append((loss, number))
        while self._done < len(self._brackets) and self._over(self._brackets[self._done]):
            self._done += 1

    def _over(self, bracket: _Bracket) -> bool:
        every = zip(bracket.begun, bracket.results, strict=True)
        full = bracket.begun[0] >= bracket.sizes[0] and all(begun == len(results) for begun, results in every)
        return full and bracket.sizes[-1] > 0 and not bracket.due(self.gone)  # else it has no result yet, and a leader

    def waiting(self) -> list[int]:
        found = []
        for bracket in self._brackets[self._done :]:
            for results, size in zip(bracket.results, bracket.sizes[1:], strict=False):
                best = sorted(result for result in results if math.isfinite(result[0]))[: max(1, size)]
                found += [number for _, number in best if number not in self.gone]
        return found


class Median:
    """The median rule: Golovin et al., KDD 2017 (Google Vizier), section 3.2.1.

    A training ends after a step where its best loss until then is worse than the median over the other trainings of the
    mean of their losses until that step.
    """

    def __init__(self, *, grace: int = 1, others: int = 5, predict: Law | None = None) -> None:
        """Makes a rule that has seen nothing.

        Args:
            grace: Number of the first step after which a training may end, >= 1.
            others: Number of other trainings that have to have come as far, >= 1.
            predict: What is compared: at each step what a curve will come to in the end by a power law (power-law),
                once it has 5 epochs; by default the values themselves.
        """
        if grace < 1 or others < 1:
            raise ValueError(f"need grace >= 1 and others >= 1, got {grace} and {others}")
        self.grace = grace
        self.others = others
        self.predict = predict
        self._curves: dict[int, list[float]] = {}
        self._means: list[list[float]] = []
        """For each step, the means of all trainings' losses until then, ascending."""

    def observe(self, number: int, step: int, loss: float) -> bool:
        """Whether training `number` ends after this step, of 1, 2, ...; each comes once, and loss is finite."""
        curve = self._curves.setdefault(number, [])
        curve.append(loss)
        while len(self._means) < step:
            self._means.append([])
        means = self._means[step - 1]
        enough = step >= self.grace and len(means) >= self.others
        ends = enough and min(curve) > (means[(len(means) - 1) // 2] + means[len(means) // 2]) / 2
        insort(means, math.fsum(curve) / len(curve))
        return ends


RULES: Mapping[str, type[Ladder | Median]] = {"asha": Asha, "hyperband": Hyperband, "median": Median}
"""What --fidelity names."""


def resolved(text: str) -> tuple[str, dict[str, object]]:
    """Name and options, defaults included, of a rule written as NAME:KEY=VALUE,...

    Raises:
        InputError: There is none of that name, or its options do not fit.
    """
    name, given = options.split(text, "--fidelity")
    if name not in RULES:
        raise InputError(f"--fidelity {short(name)}: there is no such rule; {hint(name, RULES)}")
    return name, options.resolve(f"--fidelity {name}", RULES[name], given)


def spelt(text: str) -> str:
    """The same with all options that have a value, in one order."""
    name, found = resolved(text)
    return f"{name}:{','.join(options.changed({k: v for k, v in found.items() if v is not None}, {}))}"


def shown(text: str) -> str:
    """For people: "asha", or "asha(eta=4)" with what is not as by default."""
    name, found = resolved(text)
    defaults = {key: option.default for key, option in options.of(RULES[name]).items()}
    changed = options.changed(found, defaults)
    return f"{name}({', '.join(changed)})" if changed else name


def made(text: str) -> Ladder | Median:
    """The rule. InputError: as of `resolved`, or an option has a value that it may not have."""
    name, found = resolved(text)
    try:
        return RULES[name](**found)  # type: ignore[arg-type]  # their types are checked
    except ValueError as error:
        raise InputError(f"--fidelity {name}: {error}") from None


def by_reports(rule: Ladder | Median) -> bool:
    """Whether it decides by what trainings report on the way."""
    return isinstance(rule, Median) or rule.predict is not None


def levels(whole: float, known: Sequence[float] | None, minimum: float, eta: int) -> tuple[float, ...]:
    """Levels from a short training to the whole one, each at least eta times the one before.

    Args:
        whole: The last.
        known: Those that there are, ascending; None: every whole number up to `whole`, of which are taken whole / eta,
            whole / eta^2, ..., rounded down.
        minimum: The least that may be taken.
        eta: Factor between two.
    """
    found: list[float] = [whole]
    while known is None and (level := int(whole) // eta ** len(found)) >= max(1, minimum):
        found.append(level)
    for level in reversed(known or ()):
        if minimum <= level <= found[-1] / eta:
            found.append(level)
    return tuple(reversed(found))
