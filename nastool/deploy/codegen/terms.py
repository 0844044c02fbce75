"""Constructor calls as terms, and what several of them have in common.

A term is a `Call` of a class or function with `Const`, `Name` or further terms as arguments. `common` finds what
several terms have in common, with a `Hole` wherever their numbers differ. `parameters` makes the holes parameters of a
class or function, as few as will do: equal ones are one, and a padding that keeps the size follows from the kernel.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nastool.deploy.codegen.plan import fresh
from nastool.deploy.tracing import singular


@dataclass(frozen=True)
class Const:
    """role: what kind of number it is; numbers of different kinds have nothing to do with each other."""

    value: Any
    role: str = ""


@dataclass(frozen=True)
class Name:
    """An expression over the parameters of the definition that it stands in."""

    text: str
    role: str = ""


@dataclass(frozen=True)
class Call:
    """head: what is called, `names` its parameters, or
        "Sequential", "Named" (an nn.Sequential with names), "List" and "Dict" of modules (names: the keys)
        "Each": a Dict of equal modules; their keys and the module
        "Times": equal items; their number and the item
        "Parameter", "Buffer": the numbers of its shape
        "Class", "Function": a definition, `of` is its name
    of: otherwise the class of the module that became this.
    """

    head: str
    names: tuple[str, ...]
    args: tuple[Term, ...]
    of: str = ""

    def given(self) -> dict[str, Term]:
        return dict(zip(self.names, self.args, strict=True))


@dataclass(frozen=True)
class Hole:
    """Where terms differ. values: of each term.

    formula: then it follows from another hole, whose role `base` and values these are; {} stands for that.
    """

    role: str
    values: tuple[Term, ...]
    formula: str = ""
    base: str = ""

    @property
    def key(self) -> tuple[str, tuple[Term, ...]]:
        """Equal for holes that are one parameter."""
        role = self.base or self.role
        return ("channels" if role in _CHANNELS else role), self.values


Term = Const | Name | Call | Hole


@dataclass
class Parameter:
    """values: what the terms have for it. kind: a role, or "channels", "module NAME WAY", "modules"."""

    name: str
    values: tuple[Term, ...]
    kind: str
    default: Const | None = None


@dataclass
class Definition:
    """A class, or a function whose only attribute, "", is what it returns.

    constants: attributes of a class that are numbers: name -> expression. forward: its lines.
    """

    name: str
    parameters: list[Parameter]
    attributes: dict[str, Term]
    constants: dict[str, str] = field(default_factory=dict)
    forward: list[str] = field(default_factory=list)

    def terms(self) -> Iterator[Term]:
        """All that its attributes are made of."""
        for term in self.attributes.values():
            yield from walk(term)

    def rewrite(self, change: Callable[[Call], Term]) -> None:
        """Change all calls that its attributes are made of."""
        by = lambda term: change(term) if isinstance(term, Call) else term  # noqa: E731
        self.attributes = {name: rewritten(term, by) for name, term in self.attributes.items()}

    def call(self, head: str, index: int) -> Call:
        """The call that makes the term with this index among those that it stands for."""
        args = [parameter.values[index] for parameter in self.parameters]
        roles = list(map(_role, self.parameters))
        given = [replace(a, role=r) if isinstance(a, Const | Name) else a for a, r in zip(args, roles, strict=True)]
        return Call(head, tuple(parameter.name for parameter in self.parameters), tuple(given), self.name)


_DEFAULTS = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
_CHANNELS = {"c", "c_in", "c_out", "c_both"}


def walk(term: Term) -> Iterator[Term]:
    """A term and all inside it, outermost first."""
    yield term
    for arg in term.args if isinstance(term, Call) else ():
        yield from walk(arg)


def rewritten(term: Term, change: Callable[[Term], Term]) -> Term:
    """The term with `change` applied to all inside it, then to itself."""
    if isinstance(term, Call):
        term = replace(term, args=tuple(rewritten(arg, change) for arg in term.args))
    return change(term)


def is_number(term: Term) -> bool:
    """Whether it may be a parameter's value: numbers, or names of modules."""
    if isinstance(term, Const) and term.role != "names":
        values = term.value if isinstance(term.value, tuple) else (term.value,)
        return bool(term.role) and all(type(value) is int for value in values)
    return isinstance(term, Const | Name)


# --- what terms have in common


def common(terms: Sequence[Term], name: str = "") -> Term | None:
    """What these terms have in common. None: they differ in more than numbers.

    name: then modules that differ are holes, too; of this name, followed by a space and the way to where they stand,
    so that no two are one.
    """
    first = terms[0]
    if isinstance(first, Call):
        calls = _alike([term for term in terms if isinstance(term, Call)])
        first = calls[0]
        if len(calls) == len(terms) and all(
            (c.head, c.names, c.of) == (first.head, first.names, first.of) for c in calls
        ):
            args = [common([call.args[i] for call in calls], _inside(name, first, i)) for i in range(len(first.args))]
            if None not in args:
                return replace(first, args=tuple(arg for arg in args if arg is not None))
        is_module = first.head not in ("Times", "Parameter", "Buffer")
        return Hole(f"module {name}", tuple(terms)) if name and is_module else None
    if isinstance(first, Const) and all(term == first for term in terms):
        return first
    numbers = [term for term in terms if isinstance(term, Const | Name) and is_number(term)]
    if not numbers or len(numbers) < len(terms):
        return None
    return Hole(numbers[0].role, tuple(replace(number, role="") for number in numbers))


def _alike(calls: list[Call]) -> list[Call]:
    """With Dicts in the place of Each, where there are both."""
    if {call.head for call in calls} != {"Each", "Dict"}:
        return calls
    found = []
    for call in calls:
        keys = call.args[0]
        if call.head == "Each" and isinstance(keys, Const):
            call = Call("Dict", keys.value, call.args[1:] * len(keys.value))
        found.append(call)
    return found


def _inside(name: str, call: Call, index: int) -> str:
    """The name for an argument of a call; "" where there is none, or it is made several times."""
    if not name or call.head in ("Each", "Times"):
        return ""
    readable, _, way = name.partition(" ")
    key = call.names[index]
    if key and key != "members":
        readable = f"{singular(readable)}{key}" if key.isdigit() else key
    return f"{readable} {way}.{index}"


# --- parameters


def parameters(
    attributes: Mapping[str, Term | Sequence[Term]], numbers: Sequence[Sequence[int]] = ()
) -> tuple[dict[str, Term], list[Parameter], list[str]]:
    """Of a definition: its attributes, its parameters, and the expressions for other numbers.

    attributes: what is common to the terms of each, or the terms themselves, which are passed in then.
    numbers: that stand elsewhere, of each term.
    """
    whole: dict[str, Term] = {}
    for name, term in attributes.items():
        if isinstance(term, Const | Name | Call | Hole):
            whole[name] = _pads(term)
        else:
            whole[name] = Hole(f"module {name} ", tuple(term))
    holes = [part for term in whole.values() for part in walk(term) if isinstance(part, Hole)]
    roles: dict[tuple[Term, ...], set[str]] = {}
    for hole in holes:
        if hole.key[0] == "channels":
            roles.setdefault(hole.values, set()).add(hole.role)
    texts = {("channels", values): text for values, text in _channels(roles).items()}
    taken = set(texts.values())
    for hole in holes:
        if hole.key not in texts:
            same = texts.get(("channels", hole.values)) if hole.role == "groups" else None
            kind = hole.key[0]
            texts[hole.key] = same or fresh(kind.split()[1] if kind.startswith("module ") else kind, taken)
            taken.add(texts[hole.key])
    found: dict[str, Parameter] = {}
    for (kind, values), text in texts.items():
        if text.isidentifier() and text not in found:
            default = Const(_DEFAULTS.get(kind))
            found[text] = Parameter(text, values, kind, default if default in values else None)
    expressions = []
    for row in numbers:
        text = _number(row, list(found.values()))
        if not text:
            text = fresh("size", taken)
            taken.add(text)
            found[text] = Parameter(text, tuple(map(Const, row)), "size")
        expressions.append(text)

    def fill(term: Term) -> Term:
        if not isinstance(term, Hole):
            return term
        text = texts[term.key]
        return Name(term.formula.format(text) if term.formula else text, term.role)

    filled = {name: rewritten(term, fill) for name, term in whole.items()}
    return filled, sorted(found.values(), key=lambda parameter: parameter.default is not None), expressions


def _role(parameter: Parameter) -> str:
    """Of the argument that is passed for a parameter."""
    if parameter.kind != "channels":
        return parameter.kind
    name = parameter.name.rstrip("0123456789")
    return name if name in ("c_in", "c_out") else "c_both"


def _pads(term: Term) -> Term:
    """Paddings that keep the size follow from the kernel and the dilation."""

    def change(part: Term) -> Term:
        if not isinstance(part, Call) or not {"kernel_size", "padding", "dilation"} <= set(part.names):
            return part
        given = part.given()
        kernel, padding, dilation = (given[name] for name in ("kernel_size", "padding", "dilation"))
        if isinstance(padding, Hole):
            count = len(padding.values)
            kernels, dilations = (
                hole.values if isinstance(hole, Hole) else (hole,) * count for hole in (kernel, dilation)
            )
            if all(map(_keeps_size, kernels, padding.values, dilations)):
                if isinstance(kernel, Hole):
                    step = Name("dilation") if isinstance(dilation, Hole) else dilation
                    given["padding"] = Hole("padding", kernels, _padding("{}", step), "kernel")
                elif isinstance(kernel, Const):
                    half = kernel.value // 2
                    given["padding"] = Hole("padding", dilations, "{}" if half == 1 else f"{half} * {{}}", "dilation")
        return replace(part, args=tuple(given.values()))

    different = {part.values for part in walk(term) if isinstance(part, Hole) and part.role == "dilation"}
    return rewritten(term, change) if len(different) < 2 else term


def _padding(kernel: str, dilation: Term) -> str:
    step = dilation.text if isinstance(dilation, Name) else str(dilation.value if isinstance(dilation, Const) else 1)
    return f"{kernel} // 2" if step == "1" else f"{step} * ({kernel} // 2)"


def _keeps_size(kernel: Term, padding: Term, dilation: Term) -> bool:
    if isinstance(kernel, Const) and isinstance(padding, Const) and isinstance(dilation, Const):
        return isinstance(kernel.value, int) and padding.value == dilation.value * (kernel.value // 2)
    return isinstance(kernel, Name) and isinstance(padding, Name) and padding.text == _padding(kernel.text, dilation)


def _channels(roles: Mapping[tuple[Term, ...], set[str]]) -> dict[tuple[Term, ...], str]:
    """Expressions for numbers of channels: parameters, or multiples of these where there would be more than two.

    roles: as what each occurs; in the order of occurrence.
    """
    roles = {values: found | ({"c_in", "c_out"} if "c_both" in found else set()) for values, found in roles.items()}
    own = list(roles)
    multiples: dict[tuple[Term, ...], tuple[int, tuple[Term, ...]]] = {}
    for i, values in enumerate(roles):
        for base in list(roles)[:i]:
            factor = _factor(base, values)
            if len(own) > 2 and factor and base in own:
                multiples[values] = factor, base
                own.remove(values)
                break
    read = [values for values in own if "c_in" in roles[values] and "c_out" not in roles[values]]
    both = [values for values in own if {"c_in", "c_out"} <= roles[values]]
    made = [values for values in own if values not in read and values not in both]
    texts: dict[tuple[Term, ...], str] = {}
    if len(own) == 1 or (both and not read and not made):
        texts[own[0]] = "channels"
    elif both and not read:
        texts[both[0]] = "c_in"
    elif both and not made:
        texts[both[-1]] = "c_out" if len(read) == 1 else "channels"
    for group, name in ((read, "c_in"), (both, "hidden"), (made, "c_out")):
        rest = [values for values in group if values not in texts]
        for i, values in enumerate(rest, 1):
            texts[values] = f"{name}{i}" if len(rest) > 1 else name
    order = ["c_in", "channels", "hidden", "c_out"]
    texts = dict(sorted(texts.items(), key=lambda item: order.index(item[1].rstrip("0123456789"))))
    return texts | {values: f"{factor} * {texts[base]}" for values, (factor, base) in multiples.items()}


def _factor(base: tuple[Term, ...], values: tuple[Term, ...]) -> int:
    """By which whole number the values are multiples of the base; 0: they are not."""
    ratios = set()
    for one, other in zip(base, values, strict=True):
        if not (isinstance(one, Const) and isinstance(other, Const)) or other.value % one.value:
            return 0
        ratios.add(other.value // one.value)
    return ratios.pop() if len(ratios) == 1 else 0


def _number(row: Sequence[int], found: Sequence[Parameter]) -> str:
    """Numbers as an expression over parameters; "": they are none."""
    formulas: list[tuple[str, Callable[[int], int]]] = [
        ("{}", lambda n: n),
        ("{} // 2", lambda n: n // 2),
        ("({} + 1) // 2", lambda n: (n + 1) // 2),
    ]
    for formula, function in formulas:
        for parameter in found:
            numbers = [value.value for value in parameter.values if isinstance(value, Const)]
            if [function(number) for number in numbers if type(number) is int] == list(row):
                return formula.format(parameter.name)
    return ""
