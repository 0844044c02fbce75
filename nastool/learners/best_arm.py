"""Which of several architectures is best, told from noisy results of each: successive rejects.

Audibert, Bubeck & Munos, "Best arm identification in multi-armed bandits", COLT 2010: with K arms and n results in all,
phase k of 1, ..., K - 1 ends when each arm that is left has n_k = ceil((n - K) / (L (K + 1 - k))) results, where
L = 1/2 + 1/2 + 1/3 + ... + 1/K, and with the rejection of the one with the worst mean.

Deviations: each arm begins with results that are there already, those that rounding leaves over go to the last two, and
an arm that has failed gets no more.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction


def lengths(arms: int, results: int) -> list[int]:
    """How many results each arm has that is left after each of the phases, n_1 <= ... <= n_(K-1).

    Args:
        arms: Number of arms, K >= 2.
        results: Of all arms together, n >= K.
    """
    scale = Fraction(1, 2) + sum(Fraction(1, i) for i in range(2, arms + 1))
    return [max(1, math.ceil((results - arms) / (scale * (arms + 1 - phase)))) for phase in range(1, arms)]


@dataclass(frozen=True)
class Standing:
    """How far it is.

    Attributes:
        order: All arms by their numbers, the best first: those that are left, by the means of what is known of them,
            then the rejected ones, the last first.
        left: How many of these are left.
        pull: Which arm needs another result next; None: none before others are known, or none at all.
    """

    order: tuple[int, ...]
    left: int
    pull: int | None


def standing(results: Sequence[Sequence[float | None]], more: int) -> Standing:
    """Where successive rejects stand: a function of the results alone, however they came.

    Args:
        results: Losses of each arm, lower is better, infinity for what failed, in the order asked; None: not known yet.
            At least one known one each. Among equal arms the earlier is better.
        more: How many results there may be beyond the first of each arm, >= 1; those that are not known yet count.
    """
    alive, rejected = list(range(len(results))), list[int]()
    spare = more - sum(len(own) - 1 for own in results)

    def mean(arm: int, count: int | None = None) -> float:
        known = [each for each in results[arm][:count] if each is not None]
        return sum(known) / len(known) if known else math.inf

    def found(pull: int | None) -> Standing:
        alive.sort(key=mean)
        return Standing((*alive, *reversed(rejected)), len(alive), pull)

    phases = lengths(len(results), len(results) + more) if len(results) > 1 else []
    for length in phases[:-1]:
        lacking = [arm for arm in alive if len(results[arm]) < length and mean(arm) < math.inf]
        if lacking and spare > 0:
            return found(min(lacking, key=lambda arm: len(results[arm])))
        if any(None in results[arm][:length] for arm in alive):
            return found(None)
        worst = max(reversed(alive), key=lambda arm: mean(arm, length))
        alive.remove(worst)
        rejected.append(worst)
    last = [arm for arm in alive if mean(arm) < math.inf]
    return found(min(last, key=lambda arm: len(results[arm])) if spare > 0 and last and len(alive) > 1 else None)
