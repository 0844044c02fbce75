"""Definitions as text."""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Iterator, Mapping, Sequence
from functools import cache

from torch import nn

from nastool.deploy.codegen.layout import Brackets, Doc, Prefixed, call, display, lines, literal
from nastool.deploy.codegen.sharing import Book
from nastool.deploy.codegen.terms import Call, Const, Definition, Name, Parameter, Term


def function(definition: Definition, book: Book) -> Iterator[str]:
    """The lines of a function."""
    body = definition.attributes[""]
    made = "ModuleDict" if isinstance(body, Call) and body.head == "Dict" else "Sequential"
    yield from lines(_def(definition.name, definition.parameters, f"nn.{made}"))
    if [parameter.kind for parameter in definition.parameters] == ["modules"]:
        yield '    """Modules under one name more, as the weights have it."""'
    yield from lines(document(body, book), 4, "return ")


def class_(definition: Definition, book: Book, documentation: str = "") -> Iterator[str]:
    """The lines of a class. documentation: of one line."""
    numbered = bool(definition.attributes) and all(name.isdigit() for name in definition.attributes)
    yield f"class {definition.name}(nn.{'Sequential' if numbered else 'Module'}):"
    if documentation:
        yield from (f'    """{documentation}"""', "")
    if definition.attributes or definition.constants:
        yield from lines(_def("__init__", definition.parameters, "None", "self"), 4)
        if numbered:
            items = [document(term, book) for term in definition.attributes.values()]
            yield from lines(call("super().__init__", *items), 8)
        else:
            yield "        super().__init__()"
        for name, text in definition.constants.items():
            yield f"        self.{name} = {text}"
        for name, term in definition.attributes.items() if not numbered else ():
            doc = document(term, book)
            if isinstance(term, Call) and term.head == "Buffer":
                yield from lines(call("self.register_buffer", literal(name), doc), 8)
            else:
                yield from lines(doc, 8, f"self.{name} = ")
        if definition.forward:
            yield ""
    yield from definition.forward


def _def(name: str, parameters: Sequence[Parameter], result: str, *before: str) -> Brackets:
    return Brackets(f"def {name}(", (*before, *map(_annotated, parameters)), f") -> {result}:")


def _annotated(parameter: Parameter) -> str:
    pairs = any(isinstance(value, Const) and isinstance(value.value, tuple) for value in parameter.values)
    kind = "int | tuple[int, int]" if pairs else "int"
    kind = {"names": "tuple[str, ...]", "modules": "dict[str, nn.Module]"}.get(parameter.kind, kind)
    kind = "nn.Module" if parameter.kind.startswith("module ") else kind
    default = f" = {literal(parameter.default.value)}" if parameter.default is not None else ""
    return f"{parameter.name}: {kind}{default}"


def document(term: Term, book: Book) -> Doc:
    """How a term is written."""
    if isinstance(term, Const):
        return literal(term.value)
    if isinstance(term, Name):
        return term.text
    assert isinstance(term, Call), "all holes have been filled"
    args = [document(arg, book) for arg in term.args]
    if term.head == "Sequential":
        return call("nn.Sequential", *args)
    if term.head == "Named":
        pairs = [Prefixed(f"{key}=", arg) for key, arg in zip(term.names, args, strict=True)]
        names = all(key.isidentifier() and not keyword.iskeyword(key) for key in term.names)
        return call("nn.Sequential", call("OrderedDict", *(pairs if names else [_braces(term, args)])))
    if term.head == "List":
        items = args[0].doc if len(args) == 1 and isinstance(args[0], Prefixed) else display("[", tuple(args), "]")
        return call("nn.ModuleList", items)
    if term.head.partition(" ")[0] in ("Dict", "Each"):
        braces = _braces(term, args)
        return braces if term.head.endswith("braces") else call("nn.ModuleDict", braces)
    if term.head == "Times":
        loop = Prefixed("for _ in ", call("range", args[0]))
        return Prefixed("*", Brackets("[", (args[1], loop), "]", "comprehension"))
    if term.head in ("Parameter", "Buffer"):
        kind = [f"dtype={term.of}"] if term.of else []
        zeros = call("torch.zeros", *(args or ["()"]), *kind)
        return zeros if term.head == "Buffer" else call("nn.Parameter", zeros)
    if term.head in ("Class", "Function"):
        defaults = {parameter.name: parameter.default for parameter in book[term.of].parameters}
        return call(term.of, *_arguments(term, args, defaults))
    return call(term.head, *_arguments(term, args, signature(term.head)))


def _braces(term: Call, args: Sequence[Doc]) -> Doc:
    """Names and modules."""
    keys: tuple[str, ...] = term.names
    if term.head.startswith("Each"):
        names = term.args[0]
        if isinstance(names, Const) and len(names.value) == 1:
            keys, args = names.value, args[1:]
        else:
            given = display("(", tuple(map(literal, names.value)), ")") if isinstance(names, Const) else args[0]
            loop = (Prefixed("name: ", args[1]), Prefixed("for name in ", given))
            return Brackets("{", loop, "}", "comprehension")
    return display("{", tuple(Prefixed(f"{literal(k)}: ", arg) for k, arg in zip(keys, args, strict=True)), "}")


def _arguments(term: Call, args: Sequence[Doc], defaults: Mapping[str, Const | None]) -> Iterator[Doc]:
    """Those that have to be given; the first and those without a default by their position."""
    for i, (name, value, text) in enumerate(zip(term.names, term.args, args, strict=True)):
        default = defaults.get(name)
        if default is None:
            yield text
        elif not isinstance(value, Const) or value.value != default.value:
            yield Prefixed(f"{name}=", text) if i else text


@cache
def signature(head: str) -> dict[str, Const | None]:
    """The parameters of a class of torch.nn with their defaults; None: there is none."""
    found = {}
    for name, parameter in inspect.signature(getattr(nn, head.removeprefix("nn."))).parameters.items():
        if name not in ("device", "dtype") and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            found[name] = None if parameter.default is parameter.empty else Const(parameter.default)
    return found
