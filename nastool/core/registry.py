"""Finds plugins of every kind: nastool's own and everybody else's, by the same entry points, or in a file.

Listing names imports nothing; choosing one imports only that one. Where a registered name stands, `my.py:Net` and
`package.module:Net` do, too (`nastool.core.plugin_files`).
"""

from __future__ import annotations

import inspect
import re
import traceback
from collections.abc import Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any, Literal, TypeVar

from nastool.core import options, plugin_files
from nastool.core.errors import InputError, hint, one_line, short
from nastool.core.evaluator import Evaluator
from nastool.core.logger import Logger
from nastool.core.space import SearchSpace
from nastool.core.strategy import Strategy
from nastool.core.task import FAMILY, Task
from nastool.core.values import SpaceRef

Kind = Literal["strategy", "space", "evaluator", "task", "logger", "executor"]
KINDS: tuple[Kind, ...] = ("strategy", "space", "evaluator", "task", "logger", "executor")

_SWITCH: Mapping[str, str] = {"strategy": "-S", "space": "-P", "evaluator": "-E"}
_GROUP: Mapping[Kind, str] = {
    "strategy": "nastool.strategies",
    "space": "nastool.spaces",
    "evaluator": "nastool.evaluators",
    "task": "nastool.tasks",
    "logger": "nastool.loggers",
    "executor": "nastool.executors",
}
_ADAPTERS = "nastool.adapters"
"""Group of functions, by kind: of an object in a file and its name they make a class of that kind, or None; and of the
class of spaces that are tables, "table"."""
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
    """A registered class, not imported yet, or one in a file, which is."""

    kind: Kind
    name: str
    owner: str
    """The distribution that registers it; "": it is in a file."""
    entry_point: EntryPoint

    def __str__(self) -> str:
        return f"{self.kind} {self.name}" + (f" of package {self.owner}" if self.owner else "")


_in_files: dict[tuple[Kind, str], tuple[Plugin, type[Any]]] = {}
"""Those that this process has loaded, by kind and recorded name."""


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


def load(kind: Kind, name: str) -> type[Any]:
    """The class of a name: a registered one, or that of an object in a file, such as "my.py:Net".

    The class of an object in a file has as its name what is recorded of it, "my.py:Net@3f2a1b9c", by which it is found
    again.

    Raises:
        InputError: It is unknown (the message suggests the nearest), broken, or a file that is not to be executed.
    """
    named = plugin_files.parsed(name)
    return registered(kind, name) if named is None else _of_file(kind, named)


@cache
def registered(kind: Kind, name: str) -> type[Any]:
    """`load` of a registered name."""
    known = plugins(kind)
    if name not in known:
        own, _, options = name.partition(":")
        if own in known and "=" in options and kind in _SWITCH:
            raise InputError(f"no {kind} {name!r}; give {own} alone, and each option with {_SWITCH[kind]} KEY=VALUE")
        raise InputError(f"no {kind} {name!r}; {hint(name, known)}{_of_no_file(name)}")
    plugin = known[name]
    try:
        cls = plugin.entry_point.load()
    except Exception as error:
        raise InputError(f"{plugin} cannot be imported: {one_line(error)}{_place(error)}") from error
    if not (inspect.isclass(cls) and issubclass(cls, _BASE[kind])):
        raise InputError(f"{plugin} is no subclass of {_BASE[kind].__name__}")
    if getattr(cls, "name", None) != name:
        raise InputError(f"{whose(cls)} is registered under another name than its own, {getattr(cls, 'name', None)!r}")
    return _checked(kind, cls)


def _of_no_file(name: str) -> str:
    """The end of a message about a name that may have been meant to be a file's."""
    return f"; of a file give the object, too: {name}:NAME" if name.endswith(".py") else ""


def _of_file(kind: Kind, named: plugin_files.Named) -> type[Any]:
    found = plugin_files.find(named)
    name = str(found.named)
    if (kind, name) in _in_files:
        return _in_files[kind, name][1]
    if not named.object:
        return _of_table(kind, name, found.path)
    module, thing = plugin_files.load(found)
    cls: Any = thing
    if not (inspect.isclass(thing) and issubclass(thing, _BASE[kind])):
        adapters = [point.load() for point in entry_points(group=_ADAPTERS, name=kind)]
        cls = next((made for adapt in adapters if (made := adapt(thing, name)) is not None), None)
        if cls is None:
            raise InputError(f"{_at(thing, found.path)}: {named.object} is {_instead(kind, thing)}")
    # a class may be registered as well, or be loaded as it was before
    same = {key: getattr(cls, key) for key in ("__module__", "__doc__", "__qualname__")}
    own = type(cls)(
        cls.__name__, (cls,), {**same, "name": name, **(plugin_files.reading(cls) if kind == "task" else {})}
    )
    plugin = Plugin(kind, name, "", EntryPoint(name, f"{module.__name__}:{named.object}", _GROUP[kind]))
    _in_files[kind, name] = plugin, own
    try:
        return _checked(kind, own)
    except InputError:
        del _in_files[kind, name]
        raise


def _of_table(kind: Kind, name: str, path: Path) -> type[Any]:
    """The class of a table's space."""
    if kind != "space":
        raise InputError(f"{path.name} is a table, no {kind}: give it as the space, --space {path.name}")
    (point,) = entry_points(group=_ADAPTERS, name="table")
    base: Any = point.load()
    plugin = Plugin(kind, name, "", EntryPoint(name, f"{base.__module__}:{base.__qualname__}", _GROUP[kind]))
    own: type[Any] = type(base)(base.__name__, (base,), {"name": name, "path": path, "__module__": base.__module__})
    _in_files[kind, name] = plugin, own
    return own


def _at(thing: object, path: Path) -> str:
    """Where an object is defined: "my.py, line 3"."""
    try:
        return options.place_of(thing)
    except (OSError, TypeError):
        return path.name


def _instead(kind: Kind, thing: object) -> str:
    """What kind of thing an object is that is not of the kind that was asked for, and what to do."""
    if not inspect.isclass(thing):
        what = "a function" if inspect.isfunction(thing) else f"of type {type(thing).__name__}"
    elif (other := next((kind for kind, base in _BASE.items() if issubclass(thing, base)), None)) is not None:
        return f"of kind {other}, no {kind}: give it as the {other}"
    else:
        what = "a class of its own"
    base = _BASE[kind]
    return f"{what}, no {kind}: derive one from {base.__module__}.{base.__name__}"


def _checked(kind: Kind, cls: type[Any]) -> type[Any]:
    """A plugin's class. InputError: something is missing in it, or of the wrong type."""
    if inspect.isabstract(cls):
        raise InputError(f"{whose(cls)} does not define {', '.join(sorted(getattr(cls, '__abstractmethods__', ())))}")
    for declared, default in inspect.getmembers(_BASE[kind], lambda value: isinstance(value, frozenset)):
        value = getattr(cls, declared)
        if value is not default and not isinstance(value, property | cached_property):
            if not isinstance(value, Set) or not all(isinstance(each, str) for each in value):
                raise InputError(f"{whose(cls)}: {declared} is {short(repr(value))}, not a set of names")
    return cls


def found(name: str, kinds: Sequence[Kind]) -> tuple[Kind, type[Any]]:
    """The first of these kinds that a plugin of this name is of, and its class. InputError: it is of none of them."""
    reasons: list[str] = []
    for kind in kinds:
        try:
            return kind, load(kind, name)
        except InputError as error:
            reasons.append(str(error))
    if len(set(reasons)) == 1 or plugin_files.parsed(name) is None:
        raise InputError(reasons[0])
    broken = [each for each in reasons if ", no " not in each]
    raise InputError(broken[0] if broken else f"{name} is none of {', '.join(kinds)}: {reasons[0]}")


def is_known(kind: Kind, name: str) -> bool:
    """Whether this is the name of a plugin: a registered one, or an object's in a file."""
    return name in plugins(kind) or plugin_files.parsed(name) is not None


def resolve(kind: Kind, name: str, given: Mapping[str, object], what: str = "") -> tuple[str, dict[str, object]]:
    """A plugin's name as it is recorded, and all its options, defaults included.

    Args:
        kind: Such as "strategy".
        name: The name that was given.
        given: Its options, text or values.
        what: Who has these options, in messages; by default kind and name.

    Raises:
        InputError: The name, or an option, is none.
    """
    cls = load(kind, name)
    values = options.resolve(what or f"{kind} {name}", cls, given)
    if kind == "evaluator" and isinstance(data := values.get("data"), str):
        values["data"] = _recorded(data)
    return cls.name, values


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
    """Plugins of other packages and in files, by module and name of their class."""
    found = [plugin for kind in KINDS for plugin in plugins(kind).values() if plugin.owner != "nastool"]
    found += [plugin for plugin, _ in _in_files.values()]
    return {plugin.entry_point.value.replace(" ", ""): plugin for plugin in found}


def _of_others(cls: type) -> Plugin | None:
    others = _others()
    return next(filter(None, (others.get(f"{base.__module__}:{base.__qualname__}") for base in cls.__mro__)), None)


def whose(cls: type) -> str:
    """Which plugin a class is: "evaluator train"; of another package with that and where it stands."""
    source = getattr(cls, "function", cls)  # which an adapter made the class of
    try:
        where = options.place_of(source)
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
    """The task that reads a data set: one of its `datasets`; in a file "my.py:Signals" or "my.py:Signals:waves".

    Raises:
        InputError: none does.
    """
    for task in tasks():
        if task.reads(data):
            return task
    kinds = [known.removesuffix("FILE") for known in datasets() if known.endswith(":FILE")]
    if data.endswith((".csv", ".npz")):
        fit = [f"{kind}{data}" for kind in kinds if (kind == "csv:") == data.endswith(".csv")]
        raise InputError(f"--data {short(data)}: say what is in it: {' or '.join(map(short, fit))}")
    of_texts = [known for task in tasks() if task.file.endswith(".txt") for known in task.datasets if ":" in known]
    if data.endswith(".txt") and of_texts:
        fit = [short(f"{known.partition(':')[0]}:{data}") for known in of_texts]
        raise InputError(f"--data {short(data)}: say what is in it: {' or '.join(fit)}")
    name, _ = plugin_files.split(data)
    if name is None:
        raise InputError(f"no data set {data!r}; {hint(data, datasets())}{_of_no_file(data)}")
    found: type[Task] = load("task", name)
    return found


def _recorded(data: str) -> str:
    """The name of a data set as it is recorded: with a digest of the file whose task reads it, if it is in one."""
    if any(task.reads(data) for task in tasks()):
        return data
    name, own = plugin_files.split(data)
    return data if name is None else ":".join(filter(None, [task_for(data).name, own]))


def task_of(space: SearchSpace, input: object, classes: int) -> Task:
    """A task that a space has networks for, of these sizes.

    Args:
        space: The space.
        input: The sizes of its examples, such as "3x32x32", or as integers.
        classes: Number of classes, of a task that has some.

    Raises:
        InputError: There are more or fewer sizes, or they are none.
    """
    cls: type[Task] = load("task", FAMILY if FAMILY in space.tasks else min(space.tasks))
    names = [name for name, each in inspect.signature(cls).parameters.items() if each.default is each.empty]
    sizes = [name for name in names if name != "classes"]
    text = input if isinstance(input, str) else "x".join(map(str, input)) if isinstance(input, Sequence) else str(input)
    if not re.fullmatch("x".join([r"\d{1,6}"] * len(sizes)), text):
        like = ", as in 3x32x32" if len(sizes) == 3 else ""
        raise InputError(f"--input {short(text)!r}: write {'x'.join(map(str.upper, sizes))} in numbers{like}")
    given = dict(zip(sizes, map(int, text.split("x")), strict=True)) | {"classes": classes}
    try:
        return cls.from_json({name: given[name] for name in names})
    except ValueError as error:
        raise InputError(str(error)) from None


def space_for(data: str, preferred: str) -> str:
    """Name of the space that is searched for networks for a data set: the preferred one, or the first that has some.

    nastool's own come first. The preferred one where no space has any, or none reads the data.
    """
    task = None
    with suppress(InputError):
        task = task_for(data).kind()
    others = sorted(plugins("space").values(), key=lambda plugin: plugin.owner != "nastool")
    for name in (preferred, *(plugin.name for plugin in others)):
        with suppress(InputError):  # one that is broken is no reason to do without the others
            if task in load("space", name).tasks:
                return name
    return preferred


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


def evaluator_for(space: str, default: str) -> str:
    """The evaluator that is taken for a space by default: this one, or where it cannot one made for such spaces."""
    target = load("space", space)
    if "network" in target.provides:
        return default
    for name in plugins("evaluator"):
        with suppress(InputError):  # one that is broken is no reason to do without the others
            needs: frozenset[str] = load("evaluator", name).needs
            if needs and needs <= target.provides:
                return name
    return default


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
