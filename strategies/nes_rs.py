"""Neural ensemble search by random search: NES-RS of Zaidi et al., NeurIPS 2021, arXiv 2006.08573."""

from __future__ import annotations

from nastool.learners.pools import Pool, RandomDraws


class NESRS(Pool, RandomDraws):
    """Random architectures are the pool; the members are those that forward selection takes of it.

    That begins with the best network by itself and adds, again and again, the one with which the validation NLL of the
    mean of their probabilities is least.
    """

    name = "nes-rs"
