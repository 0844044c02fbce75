"""A network as the expression that makes it: the calls of its modules' constructors, as they were recorded."""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from itertools import groupby
from types import FrameType, FunctionType
from typing import Any

import torch
from torch import nn

from nastool.deploy.codegen.layout import WIDTH, Brackets, Doc, Prefixed, call, display, flat, literal
from nastool.deploy.codegen.pruning import Lines, watched
from nastool.nets.chosen import Chosen

CONTAINERS = nn.Sequential, nn.ModuleList, nn.ModuleDict

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
"""Those by position and those by name."""


class Unwritable(Exception):
    """Something has no source, or depends on what has none."""


def recorded(build: Callable[[], nn.Module]) -> tuple[nn.Module, Mapping[nn.Module, Arguments], Lines]:
    """A network that is built, what the constructor of each module in it was called with, and the lines that ran."""
    made: dict[nn.Module, Arguments] = {}

    def watch(frame: FrameType) -> None:
        code = frame.f_code
        if code.co_name == "__init__" and code.co_argcount:
            names, rest, more, values = inspect.getargvalues(frame)
            module = values[names[0]]
            if isinstance(module, nn.Module) and module not in made:  # else a base class' constructor
                given = names[1 : code.co_argcount]
                by_name = {name: values[name] for name in names[code.co_argcount :]}
                if rest is None:
                    made[module] = (), {name: values[name] for name in given} | by_name | values.get(more or "", {})
                else:
                    by_position = (*(values[name] for name in given), *values[rest])
                    made[module] = by_position, by_name | values.get(more or "", {})

    network, lines = watched(build, watch)
    return network, made, lines


class Recipe:
    """Writes values as expressions.

    used: the classes and functions that these name, and torch has not. choices: definitions of `CHOICES`, at most one.
    chosen: the options in it.
    """

    def __init__(self, made: Mapping[nn.Module, Arguments]) -> None:
        self.made = made
        self.used: dict[Callable[..., Any], None] = {}
        self.choices: list[str] = []
        self.chosen: Collection[str] = ()
        self._written: set[nn.Module] = set()

    def arguments(self, module: nn.Module) -> Iterator[Doc]:
        """What the constructor of a module is called with. Unwritable: that is not known."""
        if isinstance(module, nn.Sequential | nn.ModuleList) and type(module) in CONTAINERS:
            parts = dict(module.named_children())
            if list(parts) == [str(i) for i in range(len(parts))]:
                items = list(self.repeated(parts.values()))
                yield from [display("[", tuple(items), "]")] if isinstance(module, nn.ModuleList) else items
            else:
                self.used[OrderedDict] = None
                yield call("OrderedDict", self.value(parts))
            return
        if type(module) is nn.ModuleDict:
            yield self.value(dict(module.items()))
            return
        if module not in self.made:
            raise Unwritable(f"a {type(module).__name__} was not made by a constructor in Python")
        by_position, by_name = self.made[module]
        yield from self.repeated(by_position)
        yield from self._named(type(module), by_name)

    def _named(self, kind: Callable[..., Any], values: Mapping[str, Any], named: bool = False) -> Iterator[Doc]:
        """Those that have to be given. named: all by their names, not only those with a default."""
        parameters = inspect.signature(kind).parameters
        for i, (name, value) in enumerate(values.items()):
            parameter = parameters.get(name)
            default = inspect.Parameter.empty if parameter is None else parameter.default
            if default is not inspect.Parameter.empty and (type(value), value) == (type(default), default):
                continue
            free = parameter is None or parameter.kind is parameter.KEYWORD_ONLY
            needed = i == 0 or default is inspect.Parameter.empty
            yield self.value(value) if needed and not free and not named else Prefixed(f"{name}=", self.value(value))

    def repeated(self, values: Iterable[Any]) -> Iterator[Doc]:
        """Arguments, of which those that are the same one after the other are written once."""
        docs = [self.value(value) for value in values]
        start = 0
        for i in range(1, len(docs) + 1):
            if i == len(docs) or docs[i] != docs[start]:
                if i - start > 2 and not isinstance(docs[start], str):
                    loop = Prefixed("for _ in ", f"range({i - start})")
                    yield Prefixed("*", Brackets("[", (docs[start], loop), "]", "comprehension"))
                else:
                    yield from docs[start:i]
                start = i

    def value(self, value: Any) -> Doc:
        """Unwritable: there is no such expression."""
        if value is None or isinstance(value, bool | int):
            return repr(value)
        if isinstance(value, float):
            return repr(value) if abs(value) < float("inf") else f'float("{value}")'
        if isinstance(value, str):
            return literal(value)
        if isinstance(value, torch.dtype):
            return str(value)
        if isinstance(value, nn.Module):
            return self._module(value)
        if type(value) is list:
            return display("[", tuple(map(self.value, value)), "]")
        if type(value) is tuple:
            return display("(", tuple(map(self.value, value)), ")")
        if isinstance(value, dict):
            pairs = ((self.value(key), self.value(item)) for key, item in value.items())
            return display("{", tuple(Prefixed(f"{flat(key)}: ", item) for key, item in pairs), "}")
        if isinstance(value, type | FunctionType):
            return self.name(value)
        return self._object(value)

    def _module(self, module: nn.Module) -> Doc:
        if module in self._written and module.state_dict():
            raise Unwritable(f"a {type(module).__name__} stands in two places")
        self._written.add(module)
        return call(self.name(type(module)), *self.arguments(module))

    def _object(self, value: Any) -> Doc:
        """An instance of a class whose constructor's arguments are attributes of the same names."""
        if isinstance(value, Chosen) and not self.choices:
            self.choices.append("\n".join(_choices(value.options)))
            self.chosen = set(value.options.values())
            return call(self.name(Chosen), "CHOICES")
        try:
            values = {name: getattr(value, name) for name in inspect.signature(type(value)).parameters}
        except (AttributeError, ValueError, TypeError):
            raise Unwritable(f"a {type(value).__name__} cannot be written down") from None
        return call(self.name(type(value)), *self._named(type(value), values, named=len(values) > 4))

    def name(self, value: Callable[..., Any]) -> str:
        """Of a class or function."""
        if getattr(nn, str(value.__name__), None) is value:
            return f"nn.{value.__name__}"
        self.used[value] = None
        return str(value.__name__)


def _choices(options: Mapping[str, str]) -> Iterator[str]:
    """A line for each place."""
    yield from ("# fmt: off", "CHOICES = {")
    for _, names in groupby(options, key=lambda name: name.rpartition(".")[0] or name):
        line = "   "
        for item in (f" {literal(name)}: {literal(options[name])}," for name in names):
            if len(line + item) > WIDTH:
                yield line
                line = "   "
            line += item
        yield line
    yield from ("}", "# fmt: on")
