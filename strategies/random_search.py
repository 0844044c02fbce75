"""Random search: the baseline that every strategy has to beat (Li & Talwalkar, UAI 2019)."""

from __future__ import annotations

from nastool.learners.pools import RandomDraws


class RandomSearch(RandomDraws):
    """Architectures drawn uniformly; one that is equivalent to an earlier one is drawn again.

    So a trial never repeats another, here as in the strategies that this is the baseline of. `dedup=false` draws
    independently.
    """

    name = "random"
    several_objectives = True
