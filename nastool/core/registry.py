"""Finds plugins of every kind: nastool's own and everybody else's, by the same entry points.

Listing names imports nothing; choosing one imports only that one.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, TypeVar

from nastool.core import options
from nastool.core.errors import InputError, hint, one_line
from nastool.core.evaluator import Evaluator
from nastool.core.logger import Logger
from nastool.core.space import SearchSpace
from nastool.core.strategy import Strategy
from nastool.core.task import Task
from nastool.core.values import SpaceRef

Kind = Literal["strategy", "space", "evaluator", "task", "logger", "executor"]
KINDS: tuple[Kind, ...] = ("strategy", "space", "evaluator", "task", "logger", "executor")

_GROUP: Mapping[Kind, str] = {
    "strategy": "nastool.strategies",
    "space": "nastool.spaces",
    "evaluator": "nastool.evaluators",
    "task": "nastool.tasks",
    "logger": "nastool.loggers",
    "executor": "nastool.executors",
}
_BASE: dict[Kind, type] = {
    "strategy": Strategy,
    "space": SearchSpace,
    "evaluator": Evaluator,
    "task": Task,
    "logger": Logger,
}
_T = TypeVar("_T")


def declare(kind: Kind, base: type) -> None:
    """Say what the plugins of a kind derive from, where that is defined above this module."""
    _BASE[kind] = base


@dataclass(frozen=True)
class Plugin:
    """A registered class, not imported yet."""

    kind: Kind
    name: str
    owner: str
    """The distribution that registers it."""
    entry_point: EntryPoint


@cache
def plugins(kind: Kind) -> Mapping[str, Plugin]:
    """All that are registered, by name, sorted. InputError where two owners use one name."""
    found: dict[str, Plugin] = {}
    for point in entry_points(group=_GROUP[kind]):
        owner = point.dist.name if point.dist else "unknown"
        other = found.get(point.name)
        if other and other.entry_point.value != point.value:
            raise InputError(
                f"two packages register {kind} {point.name!r}: {other.owner} ({other.entry_point.value}) and "
                f"{owner} ({point.value}); uninstall one"
            )
        found[point.name] = Plugin(kind, point.name, owner, point)
    return dict(sorted(found.items()))


@cache
def load(kind: Kind, name: str) -> type[Any]:
    """The class registered under a name.

    Raises:
        InputError: It is unknown (the message suggests the nearest), or broken.
    """
    known = plugins(kind)
    if name not in known:
        raise InputError(f"no {kind} {name!r}; {hint(name, known)}")
    plugin = known[name]
    try:
        cls = plugin.entry_point.load()
    except Exception as error:
        raise InputError(f"{kind} {name!r} of package {plugin.owner} cannot be imported: {one_line(error)}") from error
    if not (inspect.isclass(cls) and issubclass(cls, _BASE[kind])):
        raise InputError(f"{kind} {name!r} of package {plugin.owner} is no subclass of {_BASE[kind].__name__}")
    if inspect.isabstract(cls):
        missing = ", ".join(sorted(getattr(cls, "__abstractmethods__", ())))
        raise InputError(f"{kind} {name!r} of package {plugin.owner} does not define {missing}")
    if getattr(cls, "name", None) != name:
        raise InputError(
            f"{kind} {name!r} of package {plugin.owner} is registered under another name than its own, "
            f"{getattr(cls, 'name', None)!r}"
        )
    return cls


def raised_by(error: BaseException) -> Plugin | None:
    """The plugin of another package in whose code error was raised: in a method of its class, or else in its module."""
    others = {
        plugin.entry_point.value.replace(" ", ""): plugin
        for kind in KINDS
        for plugin in plugins(kind).values()
        if plugin.owner != "nastool"
    }
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    for frame in reversed(frames):
        mine = frame.f_locals.get("self", frame.f_locals.get("cls"))
        for cls in (mine if inspect.isclass(mine) else type(mine)).__mro__:
            if plugin := others.get(f"{cls.__module__}:{cls.__qualname__}"):
                return plugin
    modules = {frame.f_globals.get("__name__") for frame in frames}
    return next((plugin for plugin in others.values() if plugin.entry_point.module in modules), None)


def make(kind: Kind, name: str, *args: object, given: Mapping[str, object]) -> Any:
    """Builds a plugin.

    Args:
        kind: Such as "strategy".
        name: The name it is registered under.
        args: Positional arguments of its class.
        given: Its options, typed (`nastool.core.options`).

    Raises:
        InputError: An option does not fit: its class raised ValueError.
    """
    cls = load(kind, name)
    try:
        return cls(*args, **given)
    except InputError:
        raise
    except (ValueError, OverflowError) as error:
        raise InputError(f"{kind} {name}: {error}") from error


def make_space(ref: SpaceRef) -> SearchSpace:
    """The space of an architecture."""
    given = options.check(f"space {ref.name}", load("space", ref.name), dict(ref.options))
    space: SearchSpace = make("space", ref.name, given=given)
    return space


def tasks() -> list[type[Task]]:
    """Every task that can be imported, nastool's own first."""
    found: list[type[Task]] = []
    for plugin in sorted(plugins("task").values(), key=lambda plugin: plugin.owner != "nastool"):
        with suppress(InputError):  # one that is broken is no reason to do without the others
            found.append(load("task", plugin.name))
    return found


def task_for(data: str) -> type[Task]:
    """The task that reads a data set.

    Raises:
        InputError: none does.
    """
    for task in tasks():
        if task.reads(data):
            return task
    raise InputError(f"no data set {data!r}; {hint(data, datasets())}")


def datasets() -> dict[str, str]:
    """The data of all tasks: name to a line about it."""
    return {name: text for task in tasks() for name, text in task.datasets.items()}


@cache
def tabular() -> type[Evaluator]:
    """The evaluator that looks results up in published tables: it provides "simulated" and needs "table" of a space.

    Raises:
        InputError: none is registered.
    """
    for plugin in sorted(plugins("evaluator").values(), key=lambda plugin: plugin.owner != "nastool"):
        with suppress(InputError):  # one that is broken is no reason to do without the others
            cls: type[Evaluator] = load("evaluator", plugin.name)
            if "simulated" in cls.provides and "table" in cls.needs:
                return cls
    raise InputError("no evaluator is registered that looks results up in tables")


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
