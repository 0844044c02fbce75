"""A strategy decides what to look at next."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from nastool.core.errors import NastoolError
from nastool.core.limits import limits_of, whole
from nastool.core.space import SearchSpace
from nastool.core.values import Arch, Proposal, Trial


class Strategy(ABC):
    """Decides what to look at next: a pure function of (space, seed, sequence of ask and tell).

    It runs on the CPU in the coordinator, does no input or output, and owns no device memory.
    """

    name: ClassVar[str]
    needs: frozenset[str] = frozenset()
    """Capabilities it needs, of the space or the evaluator; an instance may need more than its class."""
    notes: tuple[str, ...] = ()
    """What its user should know before it begins, such as a fallback that this space makes necessary."""
    goes_with: ClassVar[Mapping[Literal["space", "evaluator", "recipes"], str]] = {}
    """What `search` takes with it unless told otherwise: names of space and evaluator, a prefix of recipes' names."""

    def __init__(self, space: SearchSpace, *, seed: int = 0) -> None:
        """A subclass adds keyword-only options with type annotations: the command line reads them from there.

        And what they mean, from the docstring: "population: individuals alive. tournament: draws to find a parent."
        """
        self.space = space
        self.rng = np.random.default_rng(seed)
        self.asked = 0
        """How many proposals so far."""

    def ask(self) -> Proposal | None:
        """What to evaluate next.

        None: nothing before another trial is told, or nothing at all where none is running; then the state is
        unchanged.
        """
        before = self.rng.bit_generator.state
        proposal = self._within()
        if proposal is None:
            self.rng.bit_generator.state = before
        else:
            self.remember(proposal)
        return proposal

    def _within(self) -> Proposal | None:
        """What is proposed, within the limits that the space has, if any; whatever the strategy knows of these.

        It is asked again for what is beyond them; where that gives the same, or none within, the last is repaired, and
        the strategy remembers and is told of what that became.
        """
        proposal, limits = self.propose(), limits_of(self.space)
        if limits is None or proposal is None or limits.allow(proposal.arch):
            return proposal
        for _ in range(limits.draws):
            other = self.propose()
            if other is None or limits.allow(other.arch):
                return other
            if other.arch == proposal.arch:
                break
            proposal = other
        arch, excess = limits.repaired(whole(self.space), proposal.arch, self.rng)
        if excess > 0:
            raise NastoolError(f"strategy {self.name} proposes nothing within --limit {limits}, nor close to it")
        notes = {name: note for name, note in proposal.notes.items() if name != "expected"}
        return replace(proposal, arch=arch, notes={**notes, "instead_of": list(proposal.arch.choices)})

    @abstractmethod
    def propose(self) -> Proposal | None:
        """The next proposal or None, as of `ask`. It may draw from `rng`, and leaves the rest to `remember`."""

    @abstractmethod
    def tell(self, trial: Trial) -> None:
        """Take in one finished trial, "done" or "failed"; each asked proposal comes back once, in any order.

        Also "stopped", where the strategy itself ends trials early.
        """

    def remember(self, proposal: Proposal) -> None:
        """Take in what is handed out by `ask`, or was before a restart. Override to keep more of it than the number."""
        self.asked += 1

    def state_dict(self) -> dict[str, Any]:
        """What the trials do not tell: the random generator and such. JSON only, of a size independent of n.

        Once it is loaded, the same is returned again: by that it is known to be no other's, and whole.
        """
        return {"rng": self.rng.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any], trials: Sequence[Trial]) -> None:
        """Continue as if never interrupted.

        trials: all that were asked: the finished ones in the order finished, then the running ones by id. Rebuilds
        from them by `remember` and `tell`; a strategy whose `tell` draws random numbers or learns overrides it.
        """
        for trial in trials:
            self.remember(trial.proposal)
            if trial.state != "running":
                self.tell(trial)
        self.rng.bit_generator.state = state["rng"]


# --- what only some strategies can do, by methods and attributes of these names


@runtime_checkable
class BeginsAtRandom(Protocol):
    """A strategy whose first trials are drawn at random."""

    random_trials: int
    """How many; a search no longer than that is random search."""


def random_trials(strategy: Strategy) -> int:
    """As of `BeginsAtRandom`; of others 0."""
    return strategy.random_trials if isinstance(strategy, BeginsAtRandom) else 0


def takes_several(strategy: Strategy | type[Strategy]) -> bool:
    """Whether it weighs all losses of a trial, as its attribute `several_objectives` says; else the first alone."""
    return bool(getattr(strategy, "several_objectives", False))


def reads(strategy: Strategy) -> tuple[str, ...]:
    """Names of metrics of its trials that it looks at beside their losses, as its attribute `reads` says."""
    return tuple(getattr(strategy, "reads", ()))


@runtime_checkable
class Planned(Protocol):
    """A strategy that knows its end."""

    def planned_trials(self, rounds: int | None) -> int | None:
        """How many trials a whole search takes; None: any number. rounds: as of the evaluator (`rounds_of`)."""
        ...


def planned_trials(strategy: Strategy, rounds: int | None) -> int | None:
    """As of `Planned`; of others None."""
    return strategy.planned_trials(rounds) if isinstance(strategy, Planned) else None


@runtime_checkable
class HandingDown(Protocol):
    """A strategy whose proposals inherit weights."""

    def wanted(self) -> Collection[int]:
        """Ids of trials whose weights a later proposal may inherit: their checkpoints are not deleted meanwhile."""
        ...


def wanted(strategy: Strategy) -> Collection[int]:
    """As of `HandingDown`; of others none."""
    return strategy.wanted() if isinstance(strategy, HandingDown) else ()


@runtime_checkable
class Fed(Protocol):
    """A strategy whose proposals come from elsewhere."""

    feed: Callable[[bool], Arch | None]
    """Returns the next that somebody proposes; None: there is none now, or no more if it was told to wait for one."""


@runtime_checkable
class FindingEnsembles(Protocol):
    """A strategy whose result are several networks, of one with a policy its candidates."""

    members: int
    """How many, at least 1."""


def members(strategy: Strategy) -> int | None:
    """As of `FindingEnsembles`; of others None."""
    return strategy.members if isinstance(strategy, FindingEnsembles) else None


@runtime_checkable
class Pooling(FindingEnsembles, Protocol):
    """A strategy that finds the members of its ensemble among its trials; with one it is as any other strategy."""

    def pool(self) -> Sequence[int]:
        """Ids of the finished trials that may become members: their weights and predictions stay."""
        ...


def pool(strategy: Strategy) -> Sequence[int]:
    """As of `Pooling`; of others, and of those with one member, none."""
    return strategy.pool() if isinstance(strategy, Pooling) and strategy.members > 1 else ()


def removed(strategy: Strategy) -> int:
    """How many networks it has taken out of its pool again, as its attribute `removed` says; of others 0."""
    return int(getattr(strategy, "removed", 0))


@runtime_checkable
class SeesPredictions(Protocol):
    """A strategy that looks at what networks say of the validation data; it needs "ensemble" of the evaluator."""

    predictions: Callable[[Trial], tuple[NDArray[Any], NDArray[Any]]]
    """Set before the search: of a trial of the `pool` its probabilities (samples, classes), and the labels (samples,).
    They are the same whenever they are asked for, so nothing of them belongs to the state."""


@runtime_checkable
class Observing(Protocol):
    """A strategy that sees what running trials report and may end them early; `tell` gets those as "stopped"."""

    def observe(self, number: int, step: int, loss: float) -> bool:
        """Whether trial `number` ends after this step, of 1, 2, ...

        Each step of a trial is observed once; when a search goes on, all that was is again, trial by trial, before the
        state is loaded, and nothing depends on that order.
        """
        ...


@runtime_checkable
class Finishing(Protocol):
    """A strategy by which all trials may be stopped; then the best of them goes on, beyond the number of trials."""

    def lead(self) -> Proposal | None:
        """What goes on so that one training is whole; None: nothing can, or something still runs. Else as of `ask`."""
        ...


@runtime_checkable
class Refitting(Protocol):
    """A strategy with a model that learns from finished trials."""

    def refit(self, trials: Sequence[Trial]) -> None:
        """Let the model learn from these trials, "done" or "failed", instead of those told; until the next call.

        There may be more of them by then, at their end, since they are not copied.
        """
        ...


@dataclass(frozen=True)
class Earlier:
    """What an earlier run of the same space measured: perhaps of other data, at another scale, with another budget.

    Or a zero-cost proxy of random architectures; then `trained` is false.

    choices: (n, decisions), option indices of each result's architecture. losses: (n, objectives), finite, lower is
    better; the first are not all equal. They have no unit in common with those of this search, only an order.
    """

    choices: NDArray[np.intp]
    losses: NDArray[np.float64]
    trained: bool = True


@runtime_checkable
class Informable(Protocol):
    """A strategy that learns from earlier runs and proxies."""

    def inform(self, earlier: Sequence[Earlier]) -> None:
        """Take in what earlier runs measured; called at most once, before anything is asked or restored.

        It is the same whenever a search goes on, so nothing of it belongs to the state.
        """
        ...


def learns_from_earlier(strategy: type[Strategy]) -> bool:
    """Whether strategies of a class are `Informable`."""
    return issubclass(strategy, Informable)
