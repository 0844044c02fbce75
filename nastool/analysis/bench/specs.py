"""Strategies and tables to compare, written as "NAME" or "NAME:KEY=VALUE,KEY=VALUE"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from nastool.core import options, registry
from nastool.core.errors import InputError, short
from nastool.core.evaluator import Evaluator, Report, Resolving
from nastool.core.registry import misfits
from nastool.core.space import SearchSpace
from nastool.core.strategy import Strategy
from nastool.core.values import Evaluation, Proposal, Scalar, SpaceRef, digest
from nastool.engine.config import said
from nastool.learners import fidelities
from nastool.learners.multi_fidelity import around

_T = TypeVar("_T")


class Tabular(Protocol):
    """An evaluator that looks results up, as far as comparisons need it; the rest is as in `Evaluator`.

    choices: the architectures of the table, once prepared: indices of their options, (rows, decisions). true_values:
    what each is truly worth by true_metric: (rows,), in [0, 1], NaN where that is not known. noise: standard deviation
    of what is added to labels; noise_seed: of its draws.
    """

    space: SearchSpace
    objective: str
    metrics: frozenset[str]
    local_options: ClassVar[frozenset[str]]
    file: str
    dataset: str | None
    noise: float
    noise_seed: int

    @property
    def true_values(self) -> NDArray[np.float64]: ...
    @property
    def choices(self) -> NDArray[np.integer[Any]]: ...
    @property
    def true_metric(self) -> str: ...
    def true_value(self, proposal: Proposal) -> float: ...
    def redraw(self, noise_seed: int) -> None: ...
    def prepare(self) -> None: ...
    def describe(self) -> Mapping[str, Scalar]: ...
    def estimate(self, proposal: Proposal) -> float | None: ...
    def evaluate(self, trial_id: int, proposal: Proposal, *, seed: int, report: Report) -> Evaluation: ...


@dataclass(frozen=True)
class StrategySpec:
    """A registered strategy and all its options, defaults included. fidelity: as of `RunConfig`; "": none."""

    name: str
    options: Mapping[str, object]
    fidelity: str = ""

    @classmethod
    def parse(cls, text: str) -> StrategySpec:
        name, given = options.split(text, "--strategy")
        if text.encode(errors="replace").decode() != text:
            raise InputError(f"--strategy {short(text)!r}: it is no UTF-8 text")
        return cls(*registry.resolve("strategy", name, given))

    def build(self, space: SearchSpace, seed: int, evaluator: type[Evaluator] | None = None) -> Strategy:
        """evaluator: who measures; None: tables do."""
        strategy: Strategy = registry.make("strategy", self.name, space, given={**self.options, "seed": seed})
        if reasons := misfits(
            strategy, type(space), evaluator or registry.tabular()
        ):  # with these options it may need more than its class
            raise InputError("; ".join(reasons))
        return around(strategy, self.fidelity, evaluator or registry.tabular()) if self.fidelity else strategy

    def by(self, fidelity: str) -> StrategySpec:
        """The same with trainings that end early, as of --fidelity. InputError: by a rule that tables cannot follow."""
        if fidelities.by_reports(fidelities.made(fidelity)):
            raise InputError(f"--fidelity {short(fidelity)}: tables report nothing by which trainings could be ended")
        return replace(self, fidelity=fidelities.spelt(fidelity))

    @property
    def label(self) -> str:
        """ "evolution(population=10, tournament=3) by asha"; "evolution" with its defaults."""
        rule = f" by {fidelities.shown(self.fidelity)}" if self.fidelity else ""
        known = options.of(registry.load("strategy", self.name))
        shown = options.changed(self.options, {name: option.default for name, option in known.items()})
        return (f"{self.name}({', '.join(shown)})" if shown else self.name) + rule

    @property
    def id(self) -> str:
        return digest([self.name, dict(self.options), *([self.fidelity] if self.fidelity else [])])


@dataclass(frozen=True)
class ScorerSpec:
    """An evaluator whose scores are the labels, instead of the table's own, and all its options, defaults included."""

    name: str
    options: Mapping[str, object]

    @classmethod
    def of(cls, name: str, given: Mapping[str, object]) -> ScorerSpec:
        if "simulated" in registry.load("evaluator", name).provides:
            raise InputError(f"--evaluator {name}: labels come from the tables without it: leave it out")
        return cls(*registry.resolve("evaluator", name, given))

    @property
    def label(self) -> str:
        """ "supernet(epochs=10, data=cifar10)"; "supernet" with its defaults."""
        target = registry.load("evaluator", self.name)
        known = {name: option.default for name, option in options.of(target).items()}
        known |= {name: self.options[name] for name in target.local_options & self.options.keys()}
        shown = options.changed(self.options, known)
        return f"{self.name}({', '.join(shown)})" if shown else self.name

    @property
    def id(self) -> str:
        """Names what it measures. An option that a later version adds is None there, and in no id."""
        target = registry.load("evaluator", self.name)
        found = said(self.name, self.options)
        return digest([found, target.resolved(self.options) if issubclass(target, Resolving) else {}])


@dataclass(frozen=True)
class TableSpec:
    """A table: its space, and the options of the evaluator `table`.

    noise_follows: the labels' noise is drawn with each run's own seed.
    """

    space: SpaceRef
    options: Mapping[str, object]
    noise_follows: bool

    @classmethod
    def parse(cls, text: str) -> TableSpec:
        """SPACE:KEY=VALUE,...: options of the evaluator `table`, and of the space those that are not."""
        name, given = options.split(text, "--table")
        space, table = registry.load("space", name), registry.tabular()
        known = options.of(space).keys() - options.of(table).keys()
        own = options.resolve(f"space {name}", space, {k: v for k, v in given.items() if k in known})
        others = {key: value for key, value in given.items() if key not in known}
        values = options.resolve(f"table of space {name}", table, others)
        ref = registry.make("space", name, given=own).ref
        return cls(ref, values, "noise_seed" not in given)

    def build(self) -> Tabular:
        """The evaluator, not prepared yet."""
        space = registry.make_space(self.space)
        table: Tabular = registry.make("evaluator", registry.tabular().name, space, given=self.options)
        return table

    @property
    def text(self) -> str:
        """Name of it in messages."""
        return f"{self.space}: {self.options['file']}"


def check(strategies: Sequence[StrategySpec], tables: Sequence[TableSpec], scorer: ScorerSpec | None) -> None:
    """InputError where one is given twice, where two do not go together, or where one refuses its options."""
    evaluator = registry.tabular() if scorer is None else registry.load("evaluator", scorer.name)
    for strategy in _once([s.id for s in strategies], strategies):
        raise InputError(f"--strategy {strategy.label} is given twice")
    for table in _once([digest([str(t.space), dict(t.options), t.noise_follows]) for t in tables], tables):
        raise InputError(f"--table {table.text} is given twice")
    for table in tables:
        space_class = registry.load("space", table.space.name)
        reasons = [
            reason
            for strategy in strategies
            for reason in misfits(registry.load("strategy", strategy.name), space_class, evaluator)
        ]
        if reasons:
            raise InputError("; ".join(dict.fromkeys(reasons)) + ": `nastool list` shows what goes together")
        space = table.build().space
        if scorer is not None:
            registry.make("evaluator", scorer.name, space, given=scorer.options)
        for strategy in strategies:
            strategy.build(space, 0, evaluator)


def _once(keys: Sequence[str], items: Sequence[_T]) -> list[_T]:
    """The items whose key came before."""
    return [item for i, item in enumerate(items) if keys[i] in keys[:i]]
