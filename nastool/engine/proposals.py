"""What a strategy proposes: the seed of its trial, whether that is a proposal, and whether it is known to fail."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import blake2s

from nastool.core import registry
from nastool.core.errors import OF_THE_MACHINE, InvalidArchError, short
from nastool.core.space import SearchSpace
from nastool.core.values import Proposal, Trial


def trial_seed(seed: int, trial_id: int) -> int:
    """The seed of one trial, in [0, 2^63)."""
    digest = blake2s(f"{seed}/{trial_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def check(proposal: Proposal, space: SearchSpace, asked: int) -> None:
    """TypeError or ValueError: it is no proposal. asked: how many trials there are before it."""
    if not isinstance(proposal, Proposal):
        raise TypeError(f"it is of type {type(proposal).__name__}")
    parent, budget = proposal.parent, proposal.budget
    if parent is not None and not (isinstance(parent, int) and 0 <= parent < asked):
        raise ValueError(f"its parent is {short(repr(parent))}, which is no earlier trial")
    for name, amount in (("budget", budget), ("fidelity", proposal.fidelity)):
        if amount is not None and not (isinstance(amount, int | float) and 0 < amount < math.inf):
            raise ValueError(f"its {name} is {short(repr(amount))}")
    try:
        space.validate(proposal.arch)
        if not all(isinstance(choice, int) for choice in proposal.arch.choices):
            raise InvalidArchError(f"choices are {short(proposal.arch.choices)}")
    except InvalidArchError as error:
        raise ValueError(f"no member of {registry.whose(type(space))}: {error}") from None


class Failures:
    """Architectures that failed by a fault of their own, of which no further trial is evaluated.

    That is any kind of fault but those of the machine (`errors.OF_THE_MACHINE`), also "nan", although another seed
    might help: most often it is the architecture, with this learning rate. Rounds of a policy, which train no
    architecture of their own, and copies of a parent that is done, which are there for other seeds, are evaluated all
    the same; a child that inherits fails with this parent alone.
    """

    def __init__(self, space: SearchSpace, numbered: Callable[[int], Sequence[Trial]]) -> None:
        """numbered: as of `Store`."""
        self._space = space
        self._numbered = numbered
        self._first: dict[tuple[str, int | None], Trial] = {}

    def take(self, trial: Trial) -> None:
        """Take in a trial that was told."""
        own = trial.state == "failed" and trial.fault is not None and trial.fault not in OF_THE_MACHINE
        if own and trial.proposal.policy is None:
            self._first.setdefault(self._key(trial.proposal), trial)

    def answer(self, trial: Trial) -> Trial | None:
        """The trial as it fails, without being evaluated; None: it is not known to."""
        proposal = trial.proposal
        if not self._first or proposal.policy is not None or proposal.again is not None:
            return None  # most often none has failed, and forms take their time
        known = self._first.get(self._key(proposal))
        if known is None or self._is_copy(proposal):
            return None
        return replace(trial, state="failed", error=f"as trial {known.id}: {known.error}", fault=known.fault)

    def _key(self, proposal: Proposal) -> tuple[str, int | None]:
        return self._space.canonical(proposal.arch), proposal.parent if proposal.inherit else None

    def _is_copy(self, proposal: Proposal) -> bool:
        """Whether it is its parent once more, which was trained to the end."""
        parents = () if proposal.parent is None else self._numbered(proposal.parent)
        return any(parent.state == "done" and parent.proposal.arch == proposal.arch for parent in parents)
