"""Architectures that somebody else proposes: a script, a language model, a person."""

from __future__ import annotations

from collections.abc import Callable

from nastool.core.space import SearchSpace
from nastool.core.strategy import Strategy
from nastool.core.values import Arch, Proposal, Trial


class External(Strategy):
    """Proposals from outside: lines of JSON on stdin, such as {"choices": {...}}, or told by `nastool tell`.

    Each trial that has finished is a line on stdout, with its metrics. The end of stdin ends the search.
    """

    name = "external"
    several_objectives = True  # whoever proposes sees all metrics

    def __init__(self, space: SearchSpace, *, seed: int = 0) -> None:
        super().__init__(space, seed=seed)
        self.feed: Callable[[bool], Arch | None] = lambda wait: None
        self._open = 0

    def propose(self) -> Proposal | None:
        arch = self.feed(self._open == 0)
        return None if arch is None else Proposal(arch)

    def remember(self, proposal: Proposal) -> None:
        super().remember(proposal)
        self._open += 1

    def tell(self, trial: Trial) -> None:
        self._open -= 1
