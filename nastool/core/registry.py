"""Finds plugins of every kind: nastool's own and everybody else's, by the same entry points.

Listing names imports nothing; choosing one imports only that one.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Mapping, Set
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal, TypeVar

from nastool.core import options
from nastool.core.errors import InputError, hint, one_line, short
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

    def __str__(self) -> str:
        return f"{self.kind} {self.name} of package {self.owner}"


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
        raise InputError(f"{plugin} cannot be imported: {one_line(error)}{_place(error)}") from error
    if not (inspect.isclass(cls) and issubclass(cls, _BASE[kind])):
        raise InputError(f"{plugin} is no subclass of {_BASE[kind].__name__}")
    if inspect.isabstract(cls):
        raise InputError(f"{whose(cls)} does not define {', '.join(sorted(getattr(cls, '__abstractmethods__', ())))}")
    if getattr(cls, "name", None) != name:
        raise InputError(f"{whose(cls)} is registered under another name than its own, {getattr(cls, 'name', None)!r}")
    for declared, default in inspect.getmembers(_BASE[kind], lambda value: isinstance(value, frozenset)):
        value = getattr(cls, declared)
        if value is not default and not isinstance(value, property | cached_property):
            if not isinstance(value, Set) or not all(isinstance(each, str) for each in value):
                raise InputError(f"{whose(cls)}: {declared} is {short(repr(value))}, not a set of names")
    return cls


def _place(error: BaseException) -> str:
    """Where the last line of code was that took part, as the end of a message."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames[1:] else ""


def blamed(error: BaseException, *instances: object) -> str:
    """Whose code raised an error: "strategy a of package b (c.py, line 5)"; "" for nastool's own.

    A plugin's is what was raised in a method of its class, or else in its module.

    Args:
        error: Error that was raised.
        instances: Plugins to blame, the first first, where none raised it, such as an evaluator for what it returned.
    """
    frames = list(traceback.walk_tb(error.__traceback__))[::-1]
    places = {frame.f_globals.get("__name__"): (frame, line) for frame, line in frames[::-1]}  # the innermost of each
    selves = [frame.f_locals.get("self", frame.f_locals.get("cls")) for frame, _ in frames]
    classes = [mine if inspect.isclass(mine) else type(mine) for mine in (*selves, *instances)]
    found = [(plugin, cls) for cls in classes if (plugin := _of_others(cls))]
    for plugin in [*(plugin for plugin, _ in found[:1]), *_others().values()]:
        if plugin.entry_point.module in places:
            frame, line = places[plugin.entry_point.module]
            return f"{plugin} ({Path(frame.f_code.co_filename).name}, line {line})"
    return whose(found[0][1]) if found else ""


def _others() -> dict[str, Plugin]:
    """Plugins of other packages, by module and name of their class."""
    found = [plugin for kind in KINDS for plugin in plugins(kind).values() if plugin.owner != "nastool"]
    return {plugin.entry_point.value.replace(" ", ""): plugin for plugin in found}


def _of_others(cls: type) -> Plugin | None:
    others = _others()
    return next(filter(None, (others.get(f"{base.__module__}:{base.__qualname__}") for base in cls.__mro__)), None)


def whose(cls: type) -> str:
    """Which plugin a class is: "evaluator train"; of another package with that and where it stands."""
    try:
        where = f"{Path(str(inspect.getsourcefile(cls))).name}, line {inspect.getsourcelines(cls)[1]}"
    except (OSError, TypeError):  # there is no source
        where = cls.__module__
    if plugin := _of_others(cls):
        return f"{plugin} ({where})"
    return f"{next(kind for kind, base in _BASE.items() if issubclass(cls, base))} {getattr(cls, 'name', cls.__name__)}"


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
