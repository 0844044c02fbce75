"""The classes of a network: which of its modules share one, and what their constructors make."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import nn

from nastool.core.errors import InputError
from nastool.deploy.codegen.forward import Forward
from nastool.deploy.codegen.layout import change, lines
from nastool.deploy.codegen.plan import Plan, fresh, is_chain, join
from nastool.deploy.codegen.terms import Call, Const, Definition, Hole, Term, common, parameters, walk
from nastool.deploy.codegen.written import signature
from nastool.deploy.tracing import plain_class

_NUMBER = re.compile("\0(-?\\d+)\0")


class _Class:
    """Modules of one type whose forwards are the same but for some numbers."""

    def __init__(self, name: str, forward: Forward) -> None:
        self.name = name
        self.forward = forward
        self.paths: list[str] = []
        self.numbers: list[list[int]] = []

    def add(self, path: str, text: str) -> None:
        self.paths.append(path)
        self.numbers.append([int(number) for number in _NUMBER.findall(text)])

    @property
    def reduces(self) -> bool:
        """Whether it makes images smaller."""
        graph = self.forward.graph
        shapes = [node.shape for node in (*graph.inputs[:1], *graph.outputs[:1])]
        return all(len(shape) == 4 for shape in shapes) and 1 < shapes[1][2] < shapes[0][2]


def definitions(plan: Plan) -> dict[str, Definition]:
    """The classes by name, each after those that its modules are made of, `Model` last."""
    book: dict[str, Definition] = {}
    done: dict[str, Call] = {}
    for kind in _classes(plan):
        definition = book[kind.name] = _definition(plan, kind, done)
        done |= {path: definition.call("Class", i) for i, path in enumerate(kind.paths)}
    return book


def _classes(plan: Plan) -> list[_Class]:
    paths = [path for path in plan.graphs if plan.is_class(path)]
    levels = {path: _level(path, paths) for path in paths}
    paths.sort(key=lambda path: levels[path])
    forwards = {path: Forward(plan, path) for path in paths}
    types = {path: type(plan.module(path)) for path in paths}
    forms = {(types[path], _NUMBER.sub("", forward.text())) for path, forward in forwards.items()}
    found: dict[Any, _Class] = {}
    for path, forward in forwards.items():
        if any(formal.is_list and len(formal.nodes) == 1 for formal in forward.formals):
            other = Forward(plan, path, concatenated=True)
            if (types[path], _NUMBER.sub("", other.text())) in forms:
                forward = other
        text = forward.text()
        nested = any(types[p] is types[path] and (_within(p, path) or _within(path, p)) for p in paths if p and path)
        own = tuple(_attributes(plan, path))
        key = (types[path], _NUMBER.sub("", text), own, levels[path] if nested else 0, not path)
        name = types[path].__name__.strip("_") if path else "Model"
        found.setdefault(key, _Class(name, forward)).add(path, text)
    kinds = sorted(found.values(), key=lambda kind: max(levels[path] for path in kind.paths))
    _name(kinds[:-1])
    return kinds


def _within(path: str, other: str) -> bool:
    return path != other and (not other or path.startswith(f"{other}."))


def _level(path: str, paths: Sequence[str]) -> int:
    """How many classes are inside each other in a module."""
    return 1 + max((_level(other, paths) for other in paths if _within(other, path)), default=0)


def _name(kinds: Sequence[_Class]) -> None:
    """Give them names that differ: after their modules' types."""
    taken = {"CLASSES", "DTYPES", "F", "MEAN", "Model", "Network", "OrderedDict", "Path", "STD", "Tensor"}
    taken |= {"json", "load", "main", "nn", "read", "suppress", "sys", "torch"}
    reducing = [(kind.name, kind.reduces) for kind in kinds]
    for kind, (name, reduces) in zip(kinds, reducing, strict=True):
        kind.name = fresh(f"Reduction{name}" if reduces and (name, False) in reducing else name, taken)
        taken.add(kind.name)


def _definition(plan: Plan, kind: _Class, done: Mapping[str, Call]) -> Definition:
    attributes: dict[str, Term | Sequence[Term]] = {}
    for name in _attributes(plan, kind.paths[0]):
        found = [_term(plan, join(path, name), done) for path in kind.paths]
        shared = common(found, f"{name} {name}")
        passed = [part for part in walk(shared) if isinstance(part, Hole)] if shared is not None else []
        many = sum(hole.role.startswith("module ") for hole in passed) > 2
        attributes[name] = found if shared is None or many else shared
    columns = list(zip(*kind.numbers, strict=True))
    differing = [i for i, column in enumerate(columns) if len(set(column)) > 1]
    made, given, expressions = parameters(attributes, [columns[i] for i in differing])
    constants, forward = _forward(kind.forward, dict(zip(differing, expressions, strict=True)), set(made))
    if all(name.isdigit() for name in made) and made:
        made = {str(i): term for i, term in enumerate(_in_order(made))}
        forward = [] if is_chain(kind.forward.graph) else forward
    return Definition(kind.name, given, made, constants, forward)


def _forward(forward: Forward, expressions: Mapping[int, str], taken: set[str]) -> tuple[dict[str, str], list[str]]:
    """The numbers that a forward needs, and its lines.

    expressions: of the numbers that differ, by their place. taken: names of other attributes.
    """
    constants: dict[str, str] = {}
    count = -1

    def number(match: re.Match[str]) -> str:
        nonlocal count
        count += 1
        expression = expressions.get(count)
        if expression is None:
            return match[1]
        same = [name for name, text in constants.items() if text == expression]
        wanted = expression if expression.isidentifier() else "middle"
        name = same[0] if same else fresh(wanted, taken | set(constants))
        constants[name] = expression
        text, start, end = match.string, match.start(), match.end()  # a slice whose ends are no mere numbers has spaces
        return " " * (text[start - 1 : start] == ":") + f"self.{name}" + " " * (text[end : end + 1] == ":")

    def fill(text: str) -> str:
        return _NUMBER.sub(number, text)

    found: list[str] = []
    for indent, before, doc in forward.rows():
        found += lines(change(doc, fill), indent, before)
    return constants, found


# --- what constructors make


def _attributes(plan: Plan, path: str) -> list[str]:
    """The modules, parameters and buffers of a class."""
    module = plan.module(path)
    own = [name for name in (*module._parameters, *module._buffers) if join(path, name) in plan.live]
    return [*plan.children(path), *own]


def _term(plan: Plan, path: str, done: Mapping[str, Call]) -> Term:
    """The constructor call of a module, or a parameter or buffer. done: those of classes."""
    if path in done:
        return done[path]
    above, _, name = path.rpartition(".")
    owner = plan.module(above)
    tensor = owner._parameters.get(name, owner._buffers.get(name))
    if tensor is not None:
        if name in owner._non_persistent_buffers_set:
            raise InputError(f"buffer {path} is not saved with the weights: there is no code for that")
        shape = tuple(Const(size, "c") for size in tensor.shape)
        kind = "" if tensor.is_floating_point() else str(tensor.dtype)
        return Call("Parameter" if name in owner._parameters else "Buffer", ("",) * len(shape), shape, kind)
    module = plan.module(path)
    if plain_class(module) is not None:
        return _plain(module, path)
    inner = {name: _term(plan, join(path, name), done) for name in plan.children(path)}
    if not inner or len(_attributes(plan, path)) > len(inner):
        raise InputError(
            f"module {path} ({type(module).__name__}) is used without being called: there is no code for that"
        )
    if path in plan.graphs:
        return _chain(module, inner)
    if plan.is_list(path):
        return _times("List", list(inner.values()))
    if len(set(inner.values())) == 1 and isinstance(module, nn.ModuleDict):
        return Call("Each", ("", ""), (Const(tuple(inner), "names"), next(iter(inner.values()))))
    own = "" if isinstance(module, nn.ModuleDict | nn.ModuleList) else type(module).__name__
    return Call("Dict", tuple(inner), tuple(inner.values()), own)


def _chain(module: nn.Module, inner: Mapping[str, Term]) -> Term:
    if len(inner) == 1 and not module.state_dict():
        return next(iter(inner.values()))
    if isinstance(module, nn.Sequential) and all(name.isdigit() for name in inner):
        return _times("Sequential", _in_order(inner))
    own = "" if type(module) is nn.Sequential else type(module).__name__
    return Call("Named", tuple(inner), tuple(inner.values()), own)


def _in_order(numbered: Mapping[str, Term]) -> list[Term]:
    """With identities in the place of missing modules, and equal ones as one."""
    last = int(list(numbered)[-1])
    items = [numbered.get(str(i), Call("nn.Identity", (), ())) for i in range(last + 1)]
    return list(_times("Sequential", items).args)


def _times(head: str, items: Sequence[Term]) -> Call:
    """Items of which three or more equal ones in a row are one."""
    runs: list[list[Term]] = []
    for item in items:
        if runs and runs[-1][0] == item:
            runs[-1].append(item)
        else:
            runs.append([item])
    args: list[Term] = []
    for run in runs:
        args += [Call("Times", ("", ""), (Const(len(run), "count"), run[0]))] if len(run) > 2 else run
    return Call(head, ("",) * len(args), tuple(args))


_ROLES = {
    "in_channels": "c_in",
    "in_features": "c_in",
    "out_channels": "c_out",
    "out_features": "c_out",
    "num_features": "c",
    "num_channels": "c",
    "kernel_size": "kernel",
}


def _plain(module: nn.Module, path: str) -> Call:
    """The constructor call of a module of torch's own."""
    kind = plain_class(module)
    assert kind is not None
    head = f"nn.{kind.__name__}"
    defaults = {name: default.value for name, default in signature(head).items() if default is not None}
    found: dict[str, Any] = {}
    for name in signature(head):
        value = getattr(module, name, defaults.get(name))
        found[name] = value is not None if name == "bias" and not isinstance(value, bool) else _one(value)
    for name in [name for name, default in defaults.items() if default != found[name]]:
        shorter = {**found, name: defaults[name]}
        if _like(head, tuple(shorter.items())) == _like(head, tuple(found.items())):
            found = shorter
    like = _like(head, tuple(found.items()))
    shapes = {key: tuple(value.shape) for key, value in module.state_dict().items()}
    same = like is not None and all(_one(getattr(module, key, None)) == value for key, value in like[0].items())
    if like is None or not same or like[1] != shapes:
        raise InputError(f"module {path} ({head}) is not as its constructor makes it: there is no code for that")
    return Call(head, tuple(found), tuple(Const(value, _ROLES.get(name, name)) for name, value in found.items()))


def _one(value: Any) -> Any:
    """(3, 3) is 3."""
    equal = isinstance(value, tuple) and value and all(type(item) is int and item == value[0] for item in value)
    return value[0] if equal else value


@cache
def _like(head: str, given: tuple[tuple[str, Any], ...]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The attributes and the shapes of a module with these arguments; None: they are wrong."""
    try:
        with torch.device("meta"):
            module = getattr(nn, head.removeprefix("nn."))(**dict(given))
    except (TypeError, ValueError, RuntimeError, AttributeError):
        return None
    simple = {
        key: _one(value)
        for key, value in vars(module).items()
        if not key.startswith("_") and key != "training" and isinstance(value, int | float | str | tuple | None)
    }
    return simple, {key: tuple(value.shape) for key, value in module.state_dict().items()}
