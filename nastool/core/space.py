"""A search space: which architectures exist, and how one becomes a network."""

from __future__ import annotations

import copy
import dataclasses
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Container, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from nastool.core import options
from nastool.core.arrays import Choices
from nastool.core.errors import InputError, InvalidArchError, short
from nastool.core.task import FAMILY
from nastool.core.values import Arch, Decision, Scalar, SpaceRef

if TYPE_CHECKING:
    from torch import Tensor, nn

_K = TypeVar("_K")
_V = TypeVar("_V", int, float, str)
MANY = 100_000
"""Larger spaces are not gone through one by one."""


class Members(Protocol):
    """Modules by name, of which some take part; whoever holds them calls those that are active."""

    members: nn.ModuleDict

    @property
    def active(self) -> dict[str, nn.Module]:
        """Name -> module of those that take part now, in the order of the members."""
        ...

    def weighed(self, tensors: list[Tensor]) -> list[Tensor]:
        """What belongs to each active member, in their order, times how much it counts."""
        ...

    def mean(self, tensors: list[Tensor]) -> Tensor:
        """The mean of what belongs to each active member, by how much it counts."""
        ...


class Choose(Protocol):
    """How a network definition asks for what is searched (see `nastool.nets.networks`).

    Bound to an architecture it answers with what is chosen; unbound, with modules that hold every option and run the
    active one, for a supernet. tied, for `nastool.choices.Space`: one decision stands in several places.
    """

    def layer(self, decision: str, options: Mapping[str, Callable[[], nn.Module]], *, tied: bool = False) -> nn.Module:
        """The module for `decision`.

        options: one factory for each option of the decision. Bound to an architecture, the one chosen is built
        and returned; unbound, a module holding all of them that runs only the active one.
        """
        ...

    def inputs(self, decision: str, sources: Sequence[str], *, several: bool = False, tied: bool = False) -> nn.Module:
        """A module that is called with as many tensors as there are sources, and returns the one that is chosen.

        sources: names of places, such as earlier layers. several: any of them may be on, a decision each named
        "DECISION.SOURCE", and the module returns their sum.
        """
        ...

    def value(self, decision: str, values: Sequence[_V], *, tied: bool = False) -> _V:
        """A number or a word. A supernet has the modules of the largest, or last, and runs parts of their weights."""
        ...

    def repeat(
        self, decision: str, low: int, high: int, make: Callable[[int], nn.Module], *, tied: bool = False
    ) -> nn.Sequential:
        """From low to high modules one after another, each made of its number, from 0."""
        ...

    def subset(
        self, rule: Callable[[Mapping[str, str]], Collection[str]], options: Mapping[str, Callable[[], nn.Module]]
    ) -> Members:
        """Those modules that `rule` names, given the option of every decision.

        options: one factory for each that may be named. Bound to an architecture, only those named are built; unbound,
        all, and `Members.active` changes with the architecture.
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
    for any such space; override where the space's structure allows something faster. What only some spaces can do are
    protocols, to be met by methods of these names: `Conditional`, `Ordered`, `archfile.StringForm`, `diagram.Drawable`,
    `encodings.Encoded` and `Viewed`, `tables.Tabular`, `inheritance.Growing`.
    """

    name: ClassVar[str]
    """The name it is registered under."""
    provides: ClassVar[frozenset[str]] = frozenset({"network"})
    """Capabilities: "network", "supernet" (its network can share weights), "table" (published tables can be looked up),
    "inherit" (networks can grow), ...
    """
    tasks: ClassVar[frozenset[str]] = frozenset({FAMILY})
    """Names of the tasks that its networks are for."""

    Scale: ClassVar[type[Any]]
    """Frozen dataclass of what sizes a network without being part of the architecture (channels, depth).

    Every field has a default, the published value; `__post_init__` raises ValueError on a bad one.
    """

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

        The default distinguishes all choices that matter (`Conditional`); "-" stands for the others.
        """
        if hasattr(self, "active_many"):
            return self.canonical_many(np.array([arch.choices]))[0]
        return " ".join(map(str, arch.choices))

    def canonical_many(self, choices: Choices) -> list[str]:
        """`canonical` of each row. choices: option indices of members, shape (n, decisions). Override to be fast."""
        if type(self).canonical is not SearchSpace.canonical or not hasattr(self, "active_many"):
            return [self.canonical(self.arch(row)) for row in choices]
        shown = np.where(self.active_many(choices), choices.astype(np.intp), -1).tolist()
        return [" ".join("-" if choice < 0 else str(choice) for choice in row) for row in shown]

    # --- networks

    @abstractmethod
    def network(self, choose: Choose, task: Any, scale: Any) -> nn.Module:
        """The one definition of this space's networks, for a child as for the weight-sharing supernet.

        scale: an instance of `Scale`. The module maps (N, channels, height, width) float to logits (N, classes).
        """


def fair_set(space: SearchSpace, rng: np.random.Generator) -> list[Arch]:
    """As many architectures as the largest decision has options, which have each option of a decision equally often.

    So strictly fair are Chu et al. (FairNAS, ICCV 2021). Of decisions with fewer options some occur once more than
    others. Where a space forbids what comes out, the set is drawn again, up to 20 times; what is no member then, is
    drawn uniformly.
    """
    count = max(len(decision.options) for decision in space.decisions)
    for _ in range(20):
        rows = [rng.permuted(np.resize(rng.permutation(n), count)) for n in space._sizes]
        found = [space.arch(choices) for choices in np.array(rows).T]
        if all(map(space.is_member, found)):
            break
    return [arch if space.is_member(arch) else space.sample(rng) for arch in found]


def mutate_each(space: SearchSpace, arch: Arch, rng: np.random.Generator, rate: float) -> Arch:
    """A member other than arch, in which each decision took another option with probability rate, in (0, 1].

    What is no member, or arch itself, is drawn again; after 1,000 draws one decision changes, as by `mutate`.
    """
    old = np.array(arch.choices, dtype=np.intp)
    others = np.array([len(decision.options) - 1 for decision in space.decisions])
    for _ in range(1000):
        drawn = rng.integers(others.clip(1))
        changes = (rng.random(len(old)) < rate) & (others > 0)
        child = space.arch(np.where(changes, drawn + (drawn >= old), old))
        if changes.any() and space.is_member(child):
            return child
    return space.mutate(arch, rng)


def by_choices(space: SearchSpace) -> SearchSpace:
    """The space with architectures as equivalent that make the same choices, as far as these matter.

    Others may compute the same and cost something else, which counts as soon as there are several objectives.
    """
    cls = type(space)
    own = {"canonical": SearchSpace.canonical, "canonical_many": SearchSpace.canonical_many}
    seen: Any = copy.copy(space)
    seen.__class__ = type(cls.__name__, (cls,), {"__module__": cls.__module__, "__doc__": cls.__doc__, **own})
    return seen  # type: ignore[no-any-return]


def make_scale(space: SearchSpace, given: Mapping[str, object]) -> Any:
    """An instance of the space's `Scale` with these fields, text or numbers.

    Raises:
        InputError: an unknown field or a bad value.
    """
    try:
        return space.Scale(**options.check(f"scale of space {space.name}", space.Scale, given))
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"scale of space {space.name}: {error}") from None


@runtime_checkable
class Conditional(Protocol):
    """A space in which not every decision matters always."""

    def active_many(self, choices: Choices) -> NDArray[np.bool_]:
        """Which decisions matter, given the others, shape (n, decisions). choices: option indices, the same shape.

        One that does not matter, such as those of a layer that is not there, may have any option. Whether one matters
        depends on earlier decisions alone (by `Ordered.policy_order`, where the space has it).
        """
        ...


@runtime_checkable
class Ordered(Protocol):
    """A space whose decisions a policy makes in another order than that in which they stand."""

    @property
    def policy_order(self) -> tuple[int, ...]:
        """All their indices, in the order in which a policy makes them."""
        ...


@runtime_checkable
class Lean(Protocol):
    """A space whose networks may have parts that only training needs."""

    def lean(self, scale: Any) -> Any:
        """The same scale without them."""
        ...


def mattering(space: SearchSpace, choices: Choices) -> NDArray[np.bool_]:
    """Which decisions matter, as of `Conditional`; of other spaces all."""
    return space.active_many(choices) if isinstance(space, Conditional) else np.ones(choices.shape, dtype=np.bool_)


def chosen(space: SearchSpace, arch: Arch) -> list[tuple[Decision, int]]:
    """The decisions that matter in an architecture, with the indices of the options chosen."""
    matter = mattering(space, np.array([arch.choices]))[0]
    return [pair for pair, here in zip(zip(space.decisions, arch.choices, strict=True), matter, strict=True) if here]


def said(space: SearchSpace, arch: Arch) -> str:
    """What matters in an architecture, for messages: "width=16, depth=2, op0=conv"."""
    pairs = (f"{decision.name}={decision.options[choice]}" for decision, choice in chosen(space, arch))
    return short(", ".join(pairs), 120)


def check_scale(scale: Any, switches: Collection[str] = (), zeros: Collection[str] = ()) -> None:
    """For a Scale's `__post_init__`: every field is an integer from 1 to 10,000, or from 0 (zeros); a switch 0 or 1.

    ValueError names a field that is not.
    """
    for field in dataclasses.fields(scale):
        value = getattr(scale, field.name)
        low, high = (0, 1) if field.name in switches else (int(field.name not in zeros), 10_000)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"need {low} <= {field.name} <= {high:,}, got {short(value)}")
