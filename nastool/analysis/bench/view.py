"""View of a comparison: which seeds, how much of each run, and the marks at which results are read."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from nastool.analysis.bench.benchmark import Facts
from nastool.analysis.bench.loop import Budget
from nastool.analysis.bench.scored import Amounts
from nastool.core.errors import InputError, short

MAX_SEEDS = 1_000_000
MAX_QUERIES = 10**9
TRIALS, SAMPLE, TOP = 100, 200, 100
"""What is asked for by default: queries or scores of a run, and architectures that the ranking is judged by."""
MAX_SAMPLE = 100_000


def parse_seeds(text: str) -> tuple[int, ...]:
    """ "100": 0 to 99. "3,5" and "100-199": these. InputError: none, malformed, one twice."""
    parts = text.replace(" ", "").split(",")
    if not all(re.fullmatch(r"[0-9]{1,18}(-[0-9]{1,18})?", part) for part in parts):
        raise InputError(f"--seeds {short(text)!r}: write how many, or a list such as 0,1,5 or 100-199")
    ranges = []
    for part in parts:
        first, dash, last = part.partition("-")
        single = len(parts) == 1 and not dash
        ranges.append(range(int(first)) if single else range(int(first), int(last or first) + 1))
    count = sum(map(len, ranges))
    if not all(ranges) or count > MAX_SEEDS:
        raise InputError(f"--seeds {short(text)!r}: need 1 <= number of seeds <= {MAX_SEEDS:,}")
    seeds = tuple(seed for part in ranges for seed in part)
    if len(set(seeds)) < count:
        raise InputError(f"--seeds {short(text)!r}: a seed comes twice")
    return seeds


@dataclass(frozen=True)
class Mark:
    """A point at which results are read: after so many queries, or simulated seconds."""

    at: float
    unit: Literal["queries", "seconds"]

    def __str__(self) -> str:
        return f"{self.at:,.0f}" if self.unit == "queries" else f"{self.at:,.10g} s"

    def within(self, budget: Budget) -> Budget:
        """The budget up to here."""
        if self.unit == "queries":
            return Budget(int(self.at), budget.seconds)
        return Budget(budget.trials, self.at)


@dataclass(frozen=True)
class View:
    """View of the runs in a folder: which seeds, how much of each, and where results are read.

    seeds: as `parse_seeds` reads them. at, at_seconds: ascending. target: a run has reached the target while its
    regret, in accuracy points, is at most this (and a rounding error). sample, top: architectures by which the ranking
    of a search by an evaluator's scores is judged, as of `Amounts`.
    """

    seeds: str
    budget: Budget
    at: tuple[int, ...]
    at_seconds: tuple[float, ...]
    target: float = 0.0
    sample: int = SAMPLE
    top: int = TOP

    @property
    def amounts(self) -> Amounts:
        """How much of a search by an evaluator's scores."""
        return Amounts(self.budget.trials or TRIALS, self.sample, self.top)

    @property
    def marks(self) -> tuple[Mark, ...]:
        return (*(Mark(at, "queries") for at in self.at), *(Mark(at, "seconds") for at in self.at_seconds))

    @property
    def budgets(self) -> tuple[Budget, ...]:
        """Those that end at the marks."""
        return tuple(mark.within(self.budget) for mark in self.marks)

    @classmethod
    def of(
        cls,
        seeds: str,
        budget: Budget,
        at: Sequence[int] | None,
        at_seconds: Sequence[float] | None,
        target: float,
        sample: int = SAMPLE,
        top: int = TOP,
    ) -> View:
        """With marks at a quarter, half and all of the budget where none are given. InputError: they do not fit."""
        parse_seeds(seeds)
        if not all(2 <= number <= MAX_SAMPLE for number in (sample, top)):
            raise InputError(f"need 2 <= --sample, --top <= {MAX_SAMPLE:,}, got {sample} and {top}")
        if not 0 <= target < math.inf:
            raise InputError(f"need a finite --target-regret >= 0, got {target}")
        for flag, queries in (("--trials", budget.trials or 1), *(("--at", mark) for mark in at or ())):
            if not 1 <= queries <= MAX_QUERIES:
                raise InputError(f"need 1 <= {flag} <= {MAX_QUERIES:,}, got {short(queries)}")
        if not at and not at_seconds:
            if budget.trials is not None:
                at = [max(1, budget.trials * part // 4) for part in (1, 2, 4)]
            if budget.seconds is not None:
                at_seconds = [budget.seconds * part / 4 for part in (1, 2, 4)]
        for mark in at or ():
            if budget.trials is not None and mark > budget.trials:
                raise InputError(f"--at {mark} lies beyond --trials {budget.trials}: give more trials or other marks")
        for seconds in at_seconds or ():
            if budget.seconds is not None and seconds > budget.seconds:
                raise InputError(
                    f"--at-seconds {seconds:g} lies beyond --sim-seconds {budget.seconds:g}: give more or other marks"
                )
        marks = tuple(sorted(set(at or ())))
        return cls(seeds, budget, marks, tuple(sorted(set(at_seconds or ()))), target, sample, top)

    def check(self, tables: Sequence[Facts]) -> None:
        """InputError where seconds are asked of a table without times."""
        for facts in tables:
            if facts.mean_seconds is None and (self.budget.seconds is not None or self.at_seconds):
                raise InputError(
                    f"{facts.file} has no training times: leave out --sim-seconds and --at-seconds, or that --table"
                )


def numbers(text: str, flag: str) -> tuple[float, ...]:
    """ "50,100": finite numbers > 0. InputError."""
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or not all(0 < number < math.inf for number in found):
        raise InputError(f"{flag} {short(text)!r}: write numbers > 0, such as {flag} 50,100")
    return found


def whole_numbers(text: str, flag: str) -> tuple[int, ...]:
    """`numbers` that are integers."""
    found = numbers(text, flag)
    if not all(number == int(number) for number in found):
        raise InputError(f"{flag} {short(text)!r}: write whole numbers, such as {flag} 50,100")
    return tuple(int(number) for number in found)
