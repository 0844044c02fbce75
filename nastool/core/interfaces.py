"""The three things that can be plugged in: a search space, a strategy, an evaluator.

A *space* says which architectures exist and how one becomes a network. A *strategy* decides what to look at
next. An *evaluator* turns a proposal into measurements. Any strategy runs on any space with any evaluator,
unless one declares in `needs` what another does not list in `provides`.
"""

from __future__ import annotations

import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from nastool.core import options
from nastool.core.errors import InputError, InvalidArchError, short
from nastool.core.values import Arch, Decision, Evaluation, Proposal, Scalar, SpaceRef, Trial

if TYPE_CHECKING:
    import torch
    from torch import nn

    from nastool.core.diagram import Section
    from nastool.nets.inheritance import Inheritance
    from nastool.nets.networks import Subset
    from nastool.tasks.images.task import ImageTask

_K = TypeVar("_K")
MANY = 100_000
"""Larger spaces are not gone through one by one."""
Report = Callable[[int, Mapping[str, float]], None]
"""report(step, metrics): an intermediate measurement of the running trial; step counts from 1."""


class Choose(Protocol):
    """How a network definition asks for what is searched (see `nastool.nets.networks`)."""

    def layer(self, decision: str, options: Mapping[str, Callable[[], nn.Module]]) -> nn.Module:
        """The module for `decision`.

        options: one factory for each option of the decision. Bound to an architecture, the one chosen is built
        and returned; unbound, a module holding all of them that runs only the active one.
        """
        ...

    def subset(
        self, rule: Callable[[Mapping[str, str]], Collection[str]], options: Mapping[str, Callable[[], nn.Module]]
    ) -> Subset:
        """Those modules that `rule` names, given the option of every decision.

        options: one factory for each that may be named. Bound to an architecture, only those named are built; unbound,
        all, and `Subset.active` changes with the architecture.
        """
        ...

    def option(self, decision: str) -> str:
        """The option of `decision`, for networks whose shapes depend on it.

        InputError where unbound: a space that asks has no weight-sharing supernet.
        """
        ...


class SearchSpace(ABC):
    """A set of architectures.

    Members are all combinations of the decisions' options that `validate` accepts. The methods here are right
    for any such space; override where the space's structure allows something faster.
    """

    name: ClassVar[str]
    """The name it is registered under."""
    provides: ClassVar[frozenset[str]] = frozenset({"network"})
    """Capabilities: "network", "supernet" (its network can share weights), "table" (published tables can be looked up),
    "inherit" (networks can grow), ...
    """
    encodings: ClassVar[tuple[str, ...]] = ("onehot", "counts")
    """The kinds that `encode` knows."""
    views: ClassVar[tuple[str, ...]] = ("onehot", "counts")
    """Those that together describe an architecture well, for models that can look at several at once."""

    depth: ClassVar[str | None] = None
    """Name of the decision that says how many layers there are, where the space has one."""

    Scale: ClassVar[type[Any]]
    """Frozen dataclass of what sizes a network without being part of the architecture (channels, depth).

    Every field has a default, the published value; `__post_init__` raises ValueError on a bad one.
    """

    def make_scale(self, given: Mapping[str, object]) -> Any:
        """An instance of `Scale` with these fields, text or numbers. InputError: an unknown field or a bad value."""
        try:
            return self.Scale(**options.check(f"scale of space {self.name}", self.Scale, given))
        except InputError:
            raise
        except ValueError as error:
            raise InputError(f"scale of space {self.name}: {error}") from None

    def __init__(self, decisions: Sequence[Decision], **built_with: Scalar) -> None:
        """built_with: the subclass's own options; they become part of every architecture's identity."""
        self.decisions = tuple(decisions)
        self.ref = SpaceRef.of(self.name, built_with)
        self._sizes = tuple(len(decision.options) for decision in self.decisions)
        self._highs = np.array(self._sizes)
        if len({decision.name for decision in self.decisions}) != len(self.decisions):
            raise ValueError(f"{self.name}: decisions need names that differ")

    # --- members

    @cached_property
    def size(self) -> int:
        """How many combinations of options there are: an upper bound of the number of members."""
        return math.prod(self._sizes)

    def arch(self, choices: Sequence[int] | NDArray[Any]) -> Arch:
        """The architecture with these option indices, unchecked."""
        values = choices.tolist() if isinstance(choices, np.ndarray) else choices
        return Arch(self.ref, tuple(values))

    def validate(self, arch: Arch) -> None:
        """Raise InvalidArchError, naming the offending decision, unless arch is a member.

        A space with further rules overrides this, calls it first, and names the rule that is broken.
        """
        if arch.space != self.ref:
            raise InvalidArchError(f"architecture of space {arch.space}, expected {self.ref}")
        if len(arch.choices) != len(self._sizes):
            raise InvalidArchError(f"{self.ref} has {len(self._sizes)} decisions, the architecture {len(arch.choices)}")
        for i, (size, choice) in enumerate(zip(self._sizes, arch.choices, strict=True)):
            if not 0 <= choice < size:
                name = self.decisions[i].name
                raise InvalidArchError(f"decision {name!r}: need 0 <= choice < {size}, got {choice}")

    def is_member(self, arch: Arch) -> bool:
        try:
            self.validate(arch)
        except InvalidArchError:
            return False
        return True

    def sample(self, rng: np.random.Generator) -> Arch:
        """A member drawn uniformly (by rejection, where the space has further rules)."""
        while True:
            arch = self.arch(rng.integers(self._highs))
            if self.is_member(arch):
                return arch

    def sample_new(self, rng: np.random.Generator, seen: Container[_K], key: Callable[[Arch], _K]) -> Arch | None:
        """A member drawn uniformly among those whose key is not in seen; None if there is none.

        Of a space with more than MANY combinations None says that MANY draws found none, too.
        """
        for _ in range(1000 if self.size <= MANY else MANY):
            arch = self.sample(rng)
            if key(arch) not in seen:
                return arch
        if self.size > MANY:
            return None
        left = [arch for arch in self.members() if key(arch) not in seen]
        return left[int(rng.integers(len(left)))] if left else None

    def members(self) -> Iterator[Arch]:
        """Every member once, in lexicographic order of the option indices. Only sensible for small spaces."""
        for choices in np.ndindex(*self._sizes):
            arch = self.arch(choices)
            if self.is_member(arch):
                yield arch

    def neighbors(self, arch: Arch) -> Iterator[Arch]:
        """Every member that differs in exactly one decision, once, in a fixed order."""
        for i, size in enumerate(self._sizes):
            for move in range(size - 1):
                other = self._changed(arch, i, move)
                if self.is_member(other):
                    yield other

    def mutate(self, arch: Arch, rng: np.random.Generator) -> Arch:
        """A member that differs from arch in one decision. ValueError where there is none.

        Whether an input or an operation changes is drawn first, both alike where the space has both; then which of
        these decisions, then its new option (Real et al., AAAI 2019, without the identity mutation). Inputs are the
        decisions that refer to places, such as skip connections; operations are all others. What is no member is drawn
        again.
        """
        first = int(rng.integers(2)) if len(self._kinds) == 2 else 0
        for kind in self._kinds[first:] + self._kinds[:first]:
            moves = {self._sizes[i] - 1 for i in kind}
            for _ in range(100):
                if len(moves) == 1:  # one draw does, so that seeds mean in most spaces what they always did
                    place, move = divmod(int(rng.integers(len(kind) * max(moves))), max(moves))
                else:
                    place = int(rng.integers(len(kind)))
                    move = int(rng.integers(self._sizes[kind[place]] - 1))
                other = self._changed(arch, kind[place], move)
                if self.is_member(other):
                    return other
            others = [o for o in self.neighbors(arch) if any(o.choices[i] != arch.choices[i] for i in kind)]
            if others:
                return others[int(rng.integers(len(others)))]
        raise ValueError(f"no member of {self.ref} is one decision away from {arch.choices}")

    def mutate_each(self, arch: Arch, rng: np.random.Generator, rate: float) -> Arch:
        """A member other than arch, in which each decision took another option with probability rate, in (0, 1].

        What is no member, or arch itself, is drawn again; after 1,000 draws one decision changes, as by `mutate`.
        """
        old = np.array(arch.choices, dtype=np.intp)
        others = self._highs - 1
        for _ in range(1000):
            drawn = rng.integers(others.clip(1))
            changes = (rng.random(len(old)) < rate) & (others > 0)
            child = self.arch(np.where(changes, drawn + (drawn >= old), old))
            if changes.any() and self.is_member(child):
                return child
        return self.mutate(arch, rng)

    @cached_property
    def _kinds(self) -> list[list[int]]:
        """The decisions with more than one option: inputs and operations (see `mutate`), where there are any."""
        several = [i for i, size in enumerate(self._sizes) if size > 1]
        kinds = ([i for i in several if bool(self.decisions[i].refers) == refers] for refers in (True, False))
        return [kind for kind in kinds if kind]

    def _changed(self, arch: Arch, decision: int, move: int) -> Arch:
        """arch with another option of one decision: move counts them, without its own, from 0."""
        choices = list(arch.choices)
        choices[decision] = move + (move >= choices[decision])
        return self.arch(choices)

    def canonical(self, arch: Arch) -> str:
        """A string that is equal for architectures known to compute the same function.

        The default distinguishes all choices.
        """
        return " ".join(map(str, arch.choices))

    def canonical_many(self, choices: NDArray[np.integer[Any]]) -> list[str]:
        """`canonical` of each row. choices: option indices of members, shape (n, decisions). Override to be fast."""
        return [self.canonical(self.arch(row)) for row in choices]

    def active_many(self, choices: NDArray[np.integer[Any]]) -> NDArray[np.bool_]:
        """Which decisions matter, given the others, shape (n, decisions). choices: option indices, the same shape.

        One that does not matter, such as those of a layer that is not there, may have any option. Whether one matters
        depends on earlier decisions alone. By default all matter.
        """
        return np.ones(choices.shape, dtype=np.bool_)

    @cached_property
    def policy_order(self) -> tuple[int, ...]:
        """The order in which a policy makes the decisions: all their indices. By default as they stand.

        Whether a decision matters may depend on those before it in this order alone.
        """
        return tuple(range(len(self.decisions)))

    # --- encodings

    def encode(self, arch: Arch, kind: str = "onehot") -> NDArray[np.float32]:
        """A vector for predictors, shape (d,), float32. kind: one of `encodings`; ValueError otherwise."""
        vector: NDArray[np.float32] = self.encode_many(np.array([arch.choices]), kind)[0]
        return vector

    def encode_many(self, choices: NDArray[np.integer[Any]], kind: str = "onehot") -> NDArray[np.float32]:
        """The vectors of n architectures, shape (n, d), float32; ValueError where `kind` is none of `encodings`.

        choices: option indices of members, shape (n, decisions).

        "onehot": the decisions' indicator vectors one after another; d = number of options of all decisions
        "counts": how many decisions chose each option name; d = number of different names

        A space with more kinds overrides this and passes the others on.
        """
        starts = np.cumsum((0, *self._sizes[:-1]))
        onehot = np.zeros((len(choices), sum(self._sizes)), dtype=np.float32)
        np.put_along_axis(onehot, choices.astype(np.intp) + starts, 1, axis=1)
        if kind == "onehot":
            return onehot
        if kind == "counts":
            names = [option for decision in self.decisions for option in decision.options]
            different = list(dict.fromkeys(names))
            return onehot @ np.array([[name == other for other in different] for name in names], dtype=np.float32)
        raise ValueError(f"space {self.name} has no encoding {kind!r}; it has {', '.join(self.encodings)}")

    def to_string(self, arch: Arch) -> str | None:
        """The field's own string form, where the space has one."""
        return None

    def from_string(self, text: str) -> Arch:
        """Read `to_string`'s form. InvalidArchError where it is none, or the space has no such form."""
        raise InvalidArchError(f"space {self.name} has no string form; give arch.json")

    def table_choices(self, columns: Mapping[str, NDArray[Any]]) -> NDArray[np.integer[Any]]:
        """Which architecture each row of a published table is: option indices, shape (rows, decisions).

        For spaces that provide "table". columns: the table file's arrays by name. KeyError names a missing one,
        ValueError says what is wrong with them.
        """
        return columns["arch"]

    # --- networks

    @abstractmethod
    def network(self, choose: Choose, task: ImageTask, scale: Any) -> nn.Module:
        """The one definition of this space's networks, for a child as for the weight-sharing supernet.

        scale: an instance of `Scale`. The module maps (N, channels, height, width) float to logits (N, classes).
        """

    def diagram(self, arch: Arch, scale: Any = None) -> Sequence[Section]:
        """What drawings of arch show: graphs of labelled boxes, without importing torch (see `nastool.drawing`).

        scale: an instance of `Scale`, None where no network is asked for. With it a node may name modules of the
        network (`Node.modules`), whose shapes, parameters and FLOPs are then shown; where no node does, the traced
        network is drawn as well. By default the options chosen.
        """
        from nastool.core.diagram import by_decisions

        return [by_decisions(self, arch)]

    # --- growing: for spaces that provide "inherit"

    def start(self) -> Arch:
        """The small network that growing begins with."""
        raise NotImplementedError(f"space {self.name} has no network morphisms")

    def morphisms(self, arch: Arch) -> Mapping[str, Sequence[Arch]]:
        """Kind -> every member that one function-preserving step of this kind leads to, in a fixed order.

        Every kind is there, possibly empty. `inherit` is exact from arch to each of them, and to what any number of
        such steps leads to.
        """
        raise NotImplementedError(f"space {self.name} has no network morphisms")

    def inherit(self, parent: Arch, child: Arch, task: ImageTask, scale: Any) -> Inheritance:
        """What the network of `child` takes from that of `parent`, a member, too.

        Any space can do this: by default tensors are taken over where name and shape are the same.
        """
        import torch

        from nastool.nets.inheritance import matching, shapes
        from nastool.nets.networks import build

        with torch.device("meta"):
            return matching(*(shapes(build(self, arch, task, scale)) for arch in (child, parent)))


def check_scale(scale: Any, switches: Collection[str] = ()) -> None:
    """For a Scale's `__post_init__`: every field is an integer from 1 to 10,000, a switch 0 or 1.

    ValueError names a field that is not.
    """
    for field in dataclasses.fields(scale):
        value = getattr(scale, field.name)
        low, high = (0, 1) if field.name in switches else (1, 10_000)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"need {low} <= {field.name} <= {high:,}, got {short(value)}")


class Policy(Protocol):
    """A distribution over architectures that an evaluator improves, round by round, beside the weights it trains.

    It is made by the strategy's `make_policy`, lives with the evaluator, and knows no networks.
    """

    def sample(self, count: int, generator: torch.Generator) -> NDArray[np.integer[Any]]:
        """Option indices of architectures drawn from it, shape (count, decisions). generator: of the CPU."""
        ...

    def improve(
        self,
        reward: Callable[[NDArray[np.integer[Any]]], list[float]],
        minibatches: int,
        generator: torch.Generator,
        progress: float = 1.0,
    ) -> Mapping[str, float]:
        """The policy's phase of a round. Returns what is worth reporting.

        minibatches: how many the weights were trained on in this round. progress: which share of all rounds the
            weights were trained for, in (0, 1].
        reward: the accuracy, in [0, 1], of each of these architectures (m, decisions) with the shared weights on one
            minibatch of validation images, which is another one at every call.
        """
        ...

    def conclude(self, last: bool, generator: torch.Generator) -> dict[str, object]:
        """What `Strategy.tell` learns of it after a round, as JSON. last: the weights are not trained any further.

        "frequencies", for reports: for each decision how often each of its options is drawn, as shares of 1.
        """
        ...

    def state_dict(self) -> dict[str, torch.Tensor]: ...

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None: ...


class Strategy(ABC):
    """Decides what to look at next: a pure function of (space, seed, sequence of ask and tell).

    It runs on the CPU in the coordinator, does no input or output, and owns no device memory.
    """

    name: ClassVar[str]
    needs: frozenset[str] = frozenset()
    """Capabilities it needs, of the space or the evaluator; an instance may need more than its class."""
    multi_objective: ClassVar[bool] = False
    random_trials: int = 0
    """How many trials come first that are drawn at random; a search no longer than that is random search."""
    notes: tuple[str, ...] = ()
    """What its user should know before it begins, such as a fallback that this space makes necessary."""
    goes_with: ClassVar[Mapping[Literal["space", "evaluator", "recipes"], str]] = {}
    """What `search` takes with it unless told otherwise: names of space and evaluator, a prefix of recipes' names."""

    def planned_trials(self, rounds: int | None) -> int | None:
        """How many trials a whole search takes, for a strategy that knows its end. rounds: as of the evaluator."""
        return None

    @classmethod
    def make_policy(cls, space: SearchSpace, options: Mapping[str, Any], seed: int) -> Policy:
        """The untrained policy, for strategies that need "policy". options: those that its proposals carry."""
        raise NotImplementedError(f"strategy {cls.name} has no policy")

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
        proposal = self.propose()
        if proposal is None:
            self.rng.bit_generator.state = before
        else:
            self.remember(proposal)
        return proposal

    @abstractmethod
    def propose(self) -> Proposal | None:
        """The next proposal or None, as of `ask`. It may draw from `rng`, and leaves the rest to `remember`."""

    @abstractmethod
    def tell(self, trial: Trial) -> None:
        """Take in one finished trial, "done" or "failed"; each asked proposal comes back once, in any order."""

    def remember(self, proposal: Proposal) -> None:
        """Take in what is handed out by `ask`, or was before a restart. Override to keep more of it than the number."""
        self.asked += 1

    def wanted(self) -> Collection[int]:
        """Ids of trials whose weights a later proposal may inherit: their checkpoints are not deleted meanwhile."""
        return ()

    def snapshots(self) -> Sequence[int]:
        """Ids of the trials whose networks make an ensemble, for strategies that train one network on and on."""
        return ()

    def state_dict(self) -> dict[str, Any]:
        """What the trials do not tell: the random generator and such. JSON only, of a size independent of n.

        Once it is loaded, the same is returned again: by that it is known to be no other's, and whole.
        """
        return {"rng": self.rng.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any], trials: Sequence[Trial]) -> None:
        """Continue as if never interrupted.

        trials: all that were asked: the finished ones in the order told, then the running ones by id. Rebuilds
        from them by `remember` and `tell`; a strategy whose `tell` draws random numbers or learns overrides it.
        """
        for trial in trials:
            self.remember(trial.proposal)
            if trial.state != "running":
                self.tell(trial)
        self.rng.bit_generator.state = state["rng"]


class Evaluator(ABC):
    """Turns a proposal into measurements. The only code that owns devices and weights.

    Each worker process builds its own instance from the same options.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    """Capabilities it needs of the space."""
    provides: ClassVar[frozenset[str]] = frozenset()
    """Capabilities: "budget", "warm-start", "policy", ..."""
    max_workers: ClassVar[int | None] = None
    """1 where weights are shared."""
    inline: ClassVar[bool] = False
    """Costs next to nothing: it runs in the coordinator, without a worker process."""

    simulated: ClassVar[bool] = False
    """The seconds of its evaluations are those of trainings of old, as a table has them, and were not spent here."""

    shares_weights: ClassVar[bool] = False
    """Its scores come from weights that architectures share: a search ends by training the best from scratch."""
    rounds: int | None = None
    """For how many rounds it trains a policy and the weights it goes with, for those that provide "policy"."""

    local_options: ClassVar[frozenset[str]] = frozenset()
    """Options that say where it runs, not what it measures: a run may be continued with others."""
    settled_options: ClassVar[frozenset[str]] = frozenset()
    """Options whose value may depend on the machine: `describe` says which it is, and a run goes on with that."""

    metrics: frozenset[str] = frozenset()
    """What its evaluations hold, known when `objective` is; empty: it cannot say beforehand."""
    objective: str = "val_acc"
    """The metric that is optimised unless the user names another; known once built, or prepared where `inline`."""
    scale: Any = None
    """The instance of the space's Scale that its networks are built with; travels with every result."""
    workdir: Path | None = None
    """Folder to keep checkpoints in; None: keep none. Set before the first `evaluate`."""
    micro_batches: int = 1
    """Into how many parts each training batch is to be split (gradients are accumulated). Set before each job: it is 1,
    unless memory ran out before; then it is doubled, up to `max_micro_batches`. An evaluation with more than 1 says so
    as the metric "micro_batches"."""
    max_micro_batches: int = 1
    """1: it cannot split batches."""

    def __init__(self, space: SearchSpace) -> None:
        """A subclass adds keyword-only options with type annotations. Cheap: it reads no data.

        One that draws random numbers beyond those of a trial has a keyword-only `seed` of type int, too: the run's.
        """
        self.space = space

    @classmethod
    def resolved(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """What options stand for that may change while they do not, such as a recipe's values by its name.

        It becomes part of a run's identity and is recorded. JSON only.
        """
        return {}

    @abstractmethod
    def prepare(self) -> None:
        """Read and check data and devices, once, before the first evaluation. InputError names what is wrong."""

    def check_state(self) -> None:
        """Called before a run that has finished trials goes on; neither prepared nor in a worker. Cheap.

        InputError: what it has left in workdir and cannot go on without is missing or damaged.
        """
        return

    def describe(self) -> Mapping[str, Scalar]:
        """Facts for run.yaml and the screen, once prepared: the device, the data's sizes.

        "fingerprint", if there, names the data's content as it is used: a run is continued only with the same.
        "device" begins with "cpu" on the CPU; with "precision" it has to be the same in all workers, but for its model.
        "data_digest", if there, names it however it is split: lines carry it, and `eval` and `retrain` want the same.
        """
        return {}

    def choose_threads(self, most: int) -> Mapping[str, Scalar]:
        """Find out with how many CPU threads it is quickest here, up to most, and take these. Once prepared.

        Facts, as for `describe`: how many "threads", and why. {}: it has no say in it.
        """
        return {}

    def estimate(self, proposal: Proposal) -> float | None:
        """About how many seconds one evaluation takes here, found out within a few; None: unknown. For --dry-run."""
        return None

    def estimate_all(self, first: Proposal, trials: int) -> float | None:
        """The same for so many trials one after another, where they do not all take as long as the first."""
        seconds = self.estimate(first)
        return None if seconds is None else seconds * trials

    @abstractmethod
    def evaluate(self, trial_id: int, proposal: Proposal, *, seed: int, report: Report) -> Evaluation:
        """Measure. Same arguments, same device model: same metrics.

        Any exception means that this trial failed, and the search goes on; TrialFailed for expected ones.
        """

    def test(self, proposal: Proposal, evaluation: Evaluation) -> Mapping[str, float]:
        """Metrics on data held out from the search, of what `evaluate` measured (its weights are not changed).

        Called by `eval`, and by `search` once, at the very end, for the best trial. Empty: there is no such data.
        """
        return {}

    def ensemble(self, members: Sequence[tuple[Proposal, Evaluation]]) -> Mapping[str, float]:
        """Metrics of the mean of the members' predictions, for those that provide "ensemble".

        On validation data and, where there is any, test data; and as "members" how many it takes, from the last one on
        (chosen on validation data). Called by `search --ensemble` at the very end.
        """
        raise NotImplementedError(f"evaluator {self.name} makes no ensembles")


def misfits(
    strategy: type[Strategy] | Strategy | None,
    space: type[SearchSpace],
    evaluator: type[Evaluator] | None,
) -> list[str]:
    """Why these do not go together, a line each; empty where they do."""
    reasons = []
    if evaluator is not None:
        for need in sorted(evaluator.needs - space.provides):
            reasons.append(f"evaluator {evaluator.name} needs {need!r}, which space {space.name} lacks")
    if strategy is not None:
        offered = space.provides | (evaluator.provides if evaluator is not None else frozenset())
        who = f"space {space.name}" + (f" and evaluator {evaluator.name}" if evaluator else "")
        for need in sorted(strategy.needs - offered):
            verb = "lack" if evaluator else "lacks"
            reasons.append(f"strategy {strategy.name} needs {need!r}, which {who} {verb}")
    return reasons
