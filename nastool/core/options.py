"""Options of plugins: read from the constructor's signature, given as text (key=value) or as YAML values."""

from __future__ import annotations

import ast
import inspect
import math
import re
import sys
import textwrap
import threading
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from nastool.core.errors import InputError, hint, short

if TYPE_CHECKING:
    from docstring_parser import Docstring


@dataclass(frozen=True)
class Option:
    """A keyword-only parameter of a constructor."""

    name: str
    type: Any
    default: object
    """inspect.Parameter.empty where it must be given."""

    @property
    def required(self) -> bool:
        return self.default is inspect.Parameter.empty

    def __str__(self) -> str:
        if self.required:
            return f"{self.name}: {describe(self.type)}"
        return f"{self.name}: {describe(self.type)} = {_given(self.default)}"


def _annotation(target: Callable[..., object], parameter: inspect.Parameter, names: dict[str, object]) -> object:
    """The type of one parameter. InputError where the plugin's author gave none that can be resolved."""
    carrier = types.SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    try:
        if parameter.annotation is not inspect.Parameter.empty:
            return typing.get_type_hints(carrier, globalns=names)[parameter.name]
    except Exception:
        pass
    owner = getattr(target, "__name__", str(target))
    raise InputError(f"option {parameter.name} of {owner} needs a type annotation that can be resolved at run time")


RESERVED = frozenset({"seed"})
"""Parameters that the runner fills in; not options."""


def of(target: Callable[..., object]) -> dict[str, Option]:
    """The options of a class or function: its keyword-only parameters (all of a dataclass's), by name.

    A constructor that takes `**more` has the options of the next class it derives from, too.
    """
    found: dict[str, Option] = {}
    dataclass = hasattr(target, "__dataclass_fields__")
    for init in _constructors(target):
        names: dict[str, Any] = getattr(init, "__globals__", {})
        for name, parameter in inspect.signature(init).parameters.items():
            keyword = parameter.kind is inspect.Parameter.KEYWORD_ONLY
            field = dataclass and parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD and name != "self"
            if (keyword or field) and name not in RESERVED and name not in found:
                found[name] = Option(name, _annotation(target, parameter, names), parameter.default)
    return found


def _constructors(target: Callable[..., object]) -> Iterator[Callable[..., object]]:
    """Constructors that read target's parameters: a class's `__init__`, and while it takes `**more` the next base's."""
    if not inspect.isclass(target):
        yield target
        return
    for cls in target.__mro__:
        init = cls.__dict__.get("__init__")
        if init is None or cls is object:
            continue
        yield init
        kinds = {parameter.kind for parameter in inspect.signature(init).parameters.values()}
        if inspect.Parameter.VAR_KEYWORD not in kinds:
            return


PARSING = threading.Lock()
"""Held by whoever parses Python, as numpy does with the headers of .npz files: 3.11 cannot in two threads at a time."""


def parsed(source: str) -> ast.Module:
    """The syntax tree of a module. SyntaxError: it is none."""
    with PARSING:
        return ast.parse(source)


def place_of(thing: Any) -> str:
    """Where a class or function stands: "my.py, line 3". OSError or TypeError: it has no source."""
    with PARSING:  # `inspect` parses for classes
        return f"{Path(str(inspect.getsourcefile(thing))).name}, line {inspect.getsourcelines(thing)[1]}"


def written(target: Any) -> str:
    """The docstring of a class or function; where Python was told to forget it (-OO), as its source has it."""
    if target.__doc__ is not None or sys.flags.optimize < 2:
        return target.__doc__ or ""
    try:
        with PARSING:
            source = inspect.getsource(target)
        (definition,) = parsed(textwrap.dedent(source)).body
        return ast.get_docstring(definition) or ""  # type: ignore[arg-type]  # TypeError where it has none
    except (OSError, SyntaxError, TypeError, ValueError):
        return ""


def docstring(target: object) -> Docstring:
    """The docstring of a class or function, read in Google style; one that cannot be read so is all summary."""
    from docstring_parser import Docstring, ParseError, google  # late: few commands need it

    try:
        return google.parse(written(target))
    except ParseError:
        found = Docstring()
        found.short_description = " ".join(written(target).split())
        return found


def descriptions(target: Callable[..., object]) -> dict[str, str]:
    """Descriptions of options, from `Args:` in the docstrings of target's constructors or its own."""
    found: dict[str, str] = {}
    for documented in (*_constructors(target), target):
        for parameter in docstring(documented).params:
            found.setdefault(parameter.arg_name, " ".join((parameter.description or "").split()).rstrip("."))
    return {name: found[name] for name in of(target) if name in found}


def accepts(target: Callable[..., object], name: str) -> bool:
    """Whether a constructor has the keyword-only parameter, one of those that are no options included."""
    return any(name in inspect.signature(init).parameters for init in _constructors(target))


def parse(pairs: Sequence[str], flag: str) -> dict[str, str]:
    """{"a": "1", "b": "x"} from ["a=1", "b=x"].

    Raises:
        InputError: A pair has no "=", or a key comes twice.
    """
    given: dict[str, str] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        key = key.strip().replace("-", "_")
        if not equals or not key:
            raise InputError(f"{flag} {pair!r}: write {flag} KEY=VALUE")
        if key in given:
            raise InputError(f"{flag} {key}: given twice; keep one")
        given[key] = value
    return given


def split(text: str, flag: str) -> tuple[str, dict[str, str]]:
    r"""Name and options of a plugin written as NAME:KEY=VALUE,KEY=VALUE. A comma in a value is written "\,".

    Args:
        text: As it is written.
        flag: Option where it was given, for messages.

    Raises:
        InputError: It is malformed.
    """
    name, colon, rest = text.partition(":")
    if "." in name and "=" not in (thing := rest.partition(":"))[0]:  # my.py:Object
        name, (_, colon, rest) = f"{name}:{thing[0]}", thing
    pairs = re.split(r"(?<!\\),", rest) if colon else []
    if not name.strip() or not all("=" in pair for pair in pairs):
        raise InputError(f"{flag} {short(text)!r}: write {flag} NAME or {flag} NAME:KEY=VALUE,KEY=VALUE")
    return name.strip(), parse([pair.replace(r"\,", ",") for pair in pairs], f"{flag} {name.strip()}:")


def changed(values: Mapping[str, object], defaults: Mapping[str, object]) -> list[str]:
    """["population=10", "dedup=false"]: what is not as by default, written as it is given."""
    return [f"{key}={_given(value)}" for key, value in values.items() if key not in defaults or value != defaults[key]]


def told_apart(own: Mapping[str, object], others: Iterable[Mapping[str, object]]) -> str:
    """ "population=10, dedup=false": the options in which own differs from any of the others; "" for none."""
    among = list(others)
    differ = {key: value for key, value in own.items() if any(key not in o or o[key] != value for o in among)}
    return ", ".join(changed(differ, {}))


def _given(value: object) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{key}={_given(each)}" for key, each in value.items())
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def check(owner: str, target: Callable[..., object], given: Mapping[str, object]) -> dict[str, object]:
    """Values for target's options, converted to their types. Text is parsed, other values must fit.

    Args:
        owner: Name for messages, such as "strategy evolution".
        target: Class or function.
        given: Values by name.

    Raises:
        InputError: There is an unknown key, a wrong type or a missing value.
    """
    known = of(target)
    values: dict[str, object] = {}
    for key, value in given.items():
        if key not in known:
            raise InputError(f"{owner} has no option {key!r}; {hint(key, known)}")
        option = known[key]
        try:
            values[key] = convert(value, option.type)
        except InputError as error:
            raise InputError(f"{owner}: option {key}: {error}") from None
        except ValueError:
            shown = f"a {type(value).__name__}" if isinstance(value, dict | list) else short(repr(value), 80)
            raise InputError(f"{owner}: option {key} must be {describe(option.type)}, got {shown}") from None
    missing = [name for name, option in known.items() if option.required and name not in values]
    if missing:
        raise InputError(f"{owner} needs {', '.join(f'{name}=...' for name in missing)}")
    return values


def resolve(owner: str, target: Callable[..., object], given: Mapping[str, object]) -> dict[str, object]:
    """`check`, with the defaults of the options that are not given filled in."""
    values = check(owner, target, given)
    return {name: values.get(name, option.default) for name, option in of(target).items()}


def convert(value: object, kind: object) -> object:
    """A value as an option's type: str, int, float (finite), bool, None, Literal, unions, Mapping[str, ...].

    Raises:
        ValueError: It does not fit.
    """
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        members = get_args(kind)
        if type(None) in members and (value is None or value in ("none", "null")):
            return None
        # Exact types first, so that "3" fits int before float and before str.
        for member in sorted((m for m in members if m is not type(None)), key=lambda m: m is str):
            try:
                return convert(value, member)
            except InputError:
                raise
            except ValueError:
                continue
        raise ValueError(value)
    if origin is Literal:
        for choice in get_args(kind):
            if value == choice and isinstance(value, bool) == isinstance(choice, bool):
                return choice
            if isinstance(value, str) and value == str(choice):
                return choice
        raise ValueError(value)
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return mapping(value, get_args(kind)[1])
    if kind is bool:
        words = {
            "true": True,
            "yes": True,
            "on": True,
            "1": True,
            "false": False,
            "no": False,
            "off": False,
            "0": False,
        }
        if isinstance(value, str) and value.lower() in words:
            return words[value.lower()]
        if isinstance(value, bool):
            return value
        raise ValueError(value)
    if kind is int:
        if isinstance(value, str) and len(value) < 100:
            return int(value)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        raise ValueError(value)
    if kind is float:
        if isinstance(value, str) or (isinstance(value, int | float) and not isinstance(value, bool)):
            try:
                number = float(value)
            except OverflowError:
                raise ValueError(value) from None
            if math.isfinite(number):
                return number
        raise ValueError(value)
    if kind is str:
        if isinstance(value, str):
            return value
        raise ValueError(value)
    raise ValueError(value)


def mapping(value: object, kind: object) -> dict[str, object]:
    """A YAML mapping, or "a=1,b=2" as text, with values of a kind.

    Raises:
        ValueError: It is malformed.
        InputError: A key is given twice.
    """
    if isinstance(value, str):
        pairs = [part.partition("=") for part in value.split(",")]
        if any(not equals or not key.strip() for key, equals, _ in pairs):
            raise ValueError(value)
        keys = [key.strip() for key, _, _ in pairs]
        for key in keys:
            if keys.count(key) > 1:
                raise InputError(f"{short(key)}= is given twice; keep one")
        value = {key: text for key, (_, _, text) in zip(keys, pairs, strict=True)}
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise ValueError(value)
    return {key: convert(item, kind) for key, item in value.items()}


def describe(kind: object) -> str:
    """A type in words for messages and lists: "int", "a or b", "int or none"."""
    origin = get_origin(kind)
    if origin is Literal:
        return " | ".join(map(str, get_args(kind)))
    if origin in (Union, types.UnionType):
        return " | ".join("none" if m is type(None) else describe(m) for m in get_args(kind))
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return f"KEY={describe(get_args(kind)[1])},..."
    return getattr(kind, "__name__", str(kind))
