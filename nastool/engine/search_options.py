"""Everything that a search can be told."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nastool.core import defaults, registry
from nastool.core.errors import InputError, short
from nastool.engine.config import RunConfig
from nastool.training.recipes import default_recipe


@dataclass
class SearchOptions:
    """What `nastool.search` and `nastool search` are given; the former documents each field.

    Raises:
        InputError: A number is out of its range.
    """

    strategy: str = defaults.STRATEGY
    strategy_options: Mapping[str, object] = field(default_factory=dict)
    space: str | None = None
    space_options: Mapping[str, object] = field(default_factory=dict)
    evaluator: str | None = None
    evaluator_options: Mapping[str, object] = field(default_factory=dict)
    trials: int | None = None
    objective: str | None = None
    seed: int = 0
    workers: int = 1
    out: str | Path | None = None
    force: bool = False
    keep: int = 10
    trial_timeout: float | None = None
    max_failures: int = 10
    retrain: int | None = None
    retrain_recipe: str | None = None
    retrain_scale: Any = None
    baseline: bool = True
    with_baseline: bool = False
    check_ranking: int = 0
    ranking_table: Any = None
    ensemble: bool = False
    report: bool = True
    log: Sequence[str] = ()
    executor: str | None = None

    def __post_init__(self) -> None:
        for name, low, high in (
            ("trials", 1, None),
            ("seed", 0, 2**63 - 1),
            ("workers", 1, None),
            ("keep", 1, None),
            ("max_failures", 1, None),
            ("retrain", 0, 10_000),
            ("check_ranking", 0, 100_000),
        ):
            check_integer(name, getattr(self, name), low, high, optional=name in ("trials", "retrain"))
        check_seconds("trial_timeout", self.trial_timeout)

    def config(self) -> RunConfig:
        """Return what identifies the search.

        Raises:
            InputError: Unknown names or options, or a strategy, a space and an evaluator that do not go together.
        """
        goes_with = registry.load("strategy", self.strategy).goes_with
        space = self.space or goes_with.get("space", defaults.SPACE)
        evaluator = self.evaluator or goes_with.get("evaluator", defaults.EVALUATOR)
        found = dict(self.evaluator_options)
        target = registry.load("evaluator", evaluator)
        if "recipes" in goes_with and "recipe" not in found and getattr(target, "recipe_prefix", None) == "":
            found["recipe"] = default_recipe(str(found.get("data", "digits")), goes_with["recipes"])
        return RunConfig.resolve(
            (self.strategy, self.strategy_options),
            (space, self.space_options),
            (evaluator, found),
            self.seed,
            self.objective,
        )


def check_integer(name: str, value: object, low: int, high: int | None, *, optional: bool = False) -> None:
    """Raise InputError unless value is an integer in [low, high], or None where that is optional."""
    if optional and value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < low or (high is not None and value > high):
        wanted = f">= {low}" if high is None else f"from {low} to {high:,}"
        raise InputError(f"{name}: need an integer {wanted}, got {short(repr(value))}")


def check_seconds(name: str, value: object) -> None:
    """Raise InputError unless value is a finite number of seconds > 0, or None."""
    if value is None:
        return
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
        raise InputError(f"{name}: need a number of seconds > 0, got {short(repr(value))}")
