"""The decisions of a space, found by running its network definition once on the meta device."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from nastool.core.errors import InputError, one_line, short
from nastool.core.values import Decision
from nastool.nets.networks import All, OneOf, Selected, Subset

if TYPE_CHECKING:
    from nastool.core.space import SearchSpace
    from nastool.core.task import Task

Condition = Mapping[str, frozenset[str]]
"""Decision -> options, one of which it has to have."""
_PACKAGES = (str(Path(__file__).resolve().parents[1]), str(Path(torch.__file__).resolve().parent))


@dataclass
class Asked:
    """A decision that a definition asked for.

    Attributes:
        decision: It.
        where: File and line that asked first.
        tied: Whether it may stand in several places.
        when: For each of its places what has to be chosen for it to be there; {} alone: nothing.
    """

    decision: Decision
    where: str
    tied: bool
    when: list[Condition] = field(default_factory=list)


def traced(space: SearchSpace, task: Task, scale: Any) -> list[Asked]:
    """The decisions of a space, each after those that it depends on.

    Raises:
        InputError: The definition cannot be run, or something is wrong with it; the message names file and line.
    """
    tracing = _Tracing()
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"):
            network = space.network(tracing, task, scale)
    except InputError:
        raise
    except Exception as error:
        where = place_of(error, f"the network of {space.name}")
        raise InputError(f"{where}: {one_line(error)}; correct the definition") from error
    if not isinstance(network, nn.Module):
        raise InputError(
            f"{_defined(space)}: network returns {_a(network)}, not a torch.nn.Module: return one module, which "
            "holds the others"
        )
    if not tracing.found:
        raise InputError(f"{_defined(space)}: network asks for nothing: a space has choices, such as choose.layer(...)")
    held = set(network.modules())
    for modules, name, where in tracing.made:
        if held.isdisjoint(modules):
            what = "what choose returned is no part of the network; use it, or remove it"
            raise InputError(f"{where}: {name!r} is never reached: {what}")
    asked = tracing.found
    tracing.selected.change({name: one.decision.options[0] for name, one in asked.items()})
    _check_output(space, network.eval(), task)
    needs = {name: {other for each in one.when for other in each} for name, one in asked.items()}
    return [asked[name] for name in TopologicalSorter(needs).static_order()] if _late(asked) else list(asked.values())


def _check_output(space: SearchSpace, network: nn.Module, task: Task) -> None:
    """InputError: the network returns what it should not. One that cannot be run here may be for other shapes."""
    try:
        with torch.no_grad():
            found = network(*task.example(2, "meta"))
    except Exception:
        return
    if (wrong := task.wrong(found)) is not None:
        code = type(network).forward.__code__
        inside = code.co_filename.startswith(_PACKAGES)
        where = _defined(space) if inside else f"{Path(code.co_filename).name}, line {code.co_firstlineno}"
        raise InputError(f"{where}: the network returns {wrong}")


def _late(asked: Mapping[str, Asked]) -> bool:
    """Whether a tied decision also depends on one that is asked for after it."""
    before: set[str] = set()
    for name, one in asked.items():
        if any(other not in before for each in one.when for other in each):
            return True
        before.add(name)
    return False


class _Tracing(All):
    """Choose: build every option, and note what was asked for."""

    def __init__(self) -> None:
        self.selected = Selected()
        super().__init__(self.selected)
        self.found: dict[str, Asked] = {}
        self.made: list[tuple[list[nn.Module], str, str]] = []
        """Modules of which at least one has to be in the network, whose they are, and where."""
        self._within: dict[str, frozenset[str]] = {}

    @contextmanager
    def _given(self, name: str, options: Collection[str]) -> Iterator[None]:
        """Meanwhile a decision has one of these options."""
        before = self._within
        self._within = {**before, name: frozenset(options) & before.get(name, frozenset(options))}
        try:
            yield
        finally:
            self._within = before

    def _note(self, name: str, options: Sequence[str], tied: bool, refers: Sequence[str] = (), place: str = "") -> str:
        """Note a decision; returns where it is asked for."""
        where = _place()
        if not isinstance(name, str) or not name or any(c in name for c in "=,\n"):
            raise InputError(f"{where}: {short(repr(name))} is no name for a choice: give a text without = and commas")
        try:
            decision = Decision(name, tuple(options), place, tuple(refers))
        except ValueError:
            raise InputError(f"{where}: {name!r} has no options, or one of them twice: {list(options)}") from None
        first = self.found.setdefault(name, Asked(decision, where, tied))
        if first.when and not (tied and first.tied):
            again = "several times here" if first.where == where else f"in {first.where} already"
            own = 'give each choice its own, such as f"op{i}"; or tied=True to each, if they are one'
            raise InputError(f"{where}: the name {name!r} is used {again}: {own}")
        if first.decision != decision:
            raise InputError(
                f"{where}: tied choice {name!r} has other options than in {first.where}: make them the same"
            )
        first.when = [{}] if {} in first.when or not self._within else [*first.when, self._within]
        return where

    def layer(self, decision: str, options: Mapping[str, Callable[[], nn.Module]], *, tied: bool = False) -> nn.Module:
        if not isinstance(options, Mapping):
            raise InputError(f"{_place()}: options of {short(repr(decision))} are {_a(options)}: give {{name: maker}}")
        where = self._note(decision, list(options), tied, place=str(decision))
        members: dict[str, nn.Module] = {}
        for option, make in options.items():
            what = f"option {option!r} of {decision!r}"
            if not isinstance(option, str) or not option or "." in option:
                raise InputError(f"{where}: {what} needs a text without dots as its name")
            if isinstance(make, nn.Module) or not callable(make):
                raise InputError(f"{where}: {what} is {_a(make)}: give a function that makes it, lambda: ...")
            with self._given(decision, {option}):
                made = make()
            if not isinstance(made, nn.Module):
                raise InputError(f"{where}: {what} makes {_a(made)}, not a torch.nn.Module")
            members[option] = made
        module = OneOf(decision, members, self.chosen)
        self.made.append(([module], decision, where))
        return module

    def inputs(self, decision: str, sources: Sequence[str], *, several: bool = False, tied: bool = False) -> nn.Module:
        if isinstance(sources, str) or not all(isinstance(each, str) and each and "." not in each for each in sources):
            raise InputError(f"{_place()}: sources of {decision!r}: give a list of names without dots")
        if several:
            for source in sources:
                where = self._note(f"{decision}.{source}", ("0", "1"), tied, ("", source), decision)
        else:
            where = self._note(decision, list(sources), tied, list(sources), decision)
        module = super().inputs(decision, list(sources), several=several)
        self.made.append(([module], decision, where))
        return module

    def value(self, decision: str, values: Sequence[Any], *, tied: bool = False) -> Any:
        values = list(values)
        if not all(isinstance(value, int | float | str) for value in values):
            raise InputError(f"{_place()}: values of {decision!r}: give numbers or texts, got {short(values)}")
        self._note(decision, [str(value) for value in values], tied)
        return super().value(decision, values)

    def repeat(
        self, decision: str, low: int, high: int, make: Callable[[int], nn.Module], *, tied: bool = False
    ) -> nn.Sequential:
        if not (isinstance(low, int) and isinstance(high, int) and 0 <= low <= high and high > 0):
            raise InputError(f"{_place()}: {decision!r} repeats from {low!r} to {high!r} times: need 0 <= low <= high")
        numbers = range(low, high + 1)
        where = self._note(decision, [str(n) for n in numbers], tied)

        def watched(i: int) -> nn.Module:
            with self._given(decision, {str(n) for n in numbers if n > i}):
                made = make(i)
            if not isinstance(made, nn.Module):
                raise InputError(f"{where}: {decision!r} makes {_a(made)}, not a torch.nn.Module")
            return made

        modules = super().repeat(decision, low, high, watched)
        self.made.append(([modules, *modules], decision, where))
        return modules

    def subset(self, rule: Any, options: Mapping[str, Callable[[], nn.Module]]) -> Subset:
        return super().subset(rule, options)

    def option(self, decision: str) -> str:
        raise InputError(f"{_place()}: choose.option says no options: ask for {decision!r} with choose.value")


def _a(value: object) -> str:
    return "nothing" if value is None else f"a {type(value).__name__}"


def _defined(space: SearchSpace) -> str:
    code = type(space).network.__code__
    return f"{Path(code.co_filename).name}, line {code.co_firstlineno}"


def _place() -> str:
    """File and line of the definition that is running: "my.py, line 12"."""
    frame: Any = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(_PACKAGES):
        frame = frame.f_back
    return "a definition" if frame is None else f"{Path(frame.f_code.co_filename).name}, line {frame.f_lineno}"


def place_of(error: BaseException, otherwise: str) -> str:
    """File and line of the code outside of nastool and torch that raised an error."""
    for frame, line in list(traceback.walk_tb(error.__traceback__))[::-1]:
        if not frame.f_code.co_filename.startswith((*_PACKAGES, "<")):
            return f"{Path(frame.f_code.co_filename).name}, line {line}"
    return otherwise
