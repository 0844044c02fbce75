"""What is compared: strategies and tables, written as "NAME" or "NAME:KEY=VALUE,KEY=VALUE"."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2s
from typing import Any, TypeVar

from nastool.core import options, registry
from nastool.core.errors import InputError, short
from nastool.core.registry import misfits
from nastool.core.space import SearchSpace
from nastool.core.strategy import Strategy
from nastool.core.values import SpaceRef
from nastool.evaluators.table import Table

_T = TypeVar("_T")


def split(text: str, flag: str) -> tuple[str, dict[str, str]]:
    r"""Name and options of a spec. A comma in a value is written "\,". InputError: malformed."""
    name, colon, rest = text.partition(":")
    pairs = re.split(r"(?<!\\),", rest) if colon else []
    if not name.strip() or not all("=" in pair for pair in pairs):
        raise InputError(f"{flag} {short(text)!r}: write {flag} NAME or {flag} NAME:KEY=VALUE,KEY=VALUE")
    return name.strip(), options.parse([pair.replace(r"\,", ",") for pair in pairs], f"{flag} {name.strip()}:")


def digest(value: object) -> str:
    """8 hexadecimal digits that name a JSON value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return blake2s(text.encode(), digest_size=4).hexdigest()


def changed(values: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[str]:
    """["population=10", "dedup=false"]: what is not as by default, written as it is given."""
    return [f"{key}={_text(value)}" for key, value in values.items() if key not in defaults or value != defaults[key]]


def _text(value: object) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


@dataclass(frozen=True)
class StrategySpec:
    """A registered strategy and all its options, defaults included."""

    name: str
    options: Mapping[str, Any]

    @classmethod
    def parse(cls, text: str) -> StrategySpec:
        name, given = split(text, "--strategy")
        if text.encode(errors="replace").decode() != text:
            raise InputError(f"--strategy {short(text)!r}: it is no UTF-8 text")
        return cls(name, options.resolve(f"strategy {name}", registry.load("strategy", name), given))

    def build(self, space: SearchSpace, seed: int) -> Strategy:
        strategy: Strategy = registry.make("strategy", self.name, space, given={**self.options, "seed": seed})
        if reasons := misfits(strategy, type(space), Table):  # with these options it may need more than its class
            raise InputError("; ".join(reasons))
        return strategy

    @property
    def label(self) -> str:
        """ "evolution(population=10, tournament=3)"; "evolution" with its defaults."""
        known = options.of(registry.load("strategy", self.name))
        shown = changed(self.options, {name: option.default for name, option in known.items()})
        return f"{self.name}({', '.join(shown)})" if shown else self.name

    @property
    def id(self) -> str:
        return digest([self.name, dict(self.options)])


@dataclass(frozen=True)
class TableSpec:
    """A table: its space, and the options of the evaluator `table`.

    noise_follows: the labels' noise is drawn with each run's own seed.
    """

    space: SpaceRef
    options: Mapping[str, Any]
    noise_follows: bool

    @classmethod
    def parse(cls, text: str) -> TableSpec:
        """SPACE:KEY=VALUE,...: options of the evaluator `table`, and of the space those that are not."""
        name, given = split(text, "--table")
        space = registry.load("space", name)
        known = options.of(space).keys() - options.of(Table).keys()
        own = options.resolve(f"space {name}", space, {k: v for k, v in given.items() if k in known})
        others = {key: value for key, value in given.items() if key not in known}
        values = options.resolve(f"table of space {name}", Table, others)
        ref = registry.make("space", name, given=own).ref
        return cls(ref, values, "noise_seed" not in given)

    def build(self) -> Table:
        """The evaluator, not prepared yet."""
        table: Table = registry.make("evaluator", Table.name, registry.make_space(self.space), given=self.options)
        return table

    @property
    def text(self) -> str:
        """How messages call it."""
        return f"{self.space}: {self.options['file']}"


def check(strategies: Sequence[StrategySpec], tables: Sequence[TableSpec]) -> None:
    """InputError where one is given twice, where two do not go together, or where a strategy refuses its options."""
    for strategy in _once([s.id for s in strategies], strategies):
        raise InputError(f"--strategy {strategy.label} is given twice")
    for table in _once([digest([str(t.space), dict(t.options), t.noise_follows]) for t in tables], tables):
        raise InputError(f"--table {table.text} is given twice")
    for table in tables:
        space_class = registry.load("space", table.space.name)
        reasons = [
            reason
            for strategy in strategies
            for reason in misfits(registry.load("strategy", strategy.name), space_class, Table)
        ]
        if reasons:
            raise InputError("; ".join(dict.fromkeys(reasons)) + ": `nastool list` shows what goes together")
        space = table.build().space
        for strategy in strategies:
            strategy.build(space, 0)


def _once(keys: Sequence[str], items: Sequence[_T]) -> list[_T]:
    """The items whose key came before."""
    return [item for i, item in enumerate(items) if keys[i] in keys[:i]]
