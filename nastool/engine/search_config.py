"""From a search's options to its configuration, and what of the options does not go together."""

from __future__ import annotations

from nastool.core import defaults, registry
from nastool.core.errors import InputError
from nastool.core.evaluator import Evaluator, most_workers, rounds_of
from nastool.core.strategy import Strategy
from nastool.engine import final_stage, own_ensembles
from nastool.engine.command_options import SearchOptions
from nastool.engine.config import RunConfig
from nastool.engine.planning import shares
from nastool.training.recipes import default_recipe


def config_of(options: SearchOptions) -> RunConfig:
    """What identifies the search. InputError: unknown names or options, or a strategy, ... that do not go together."""
    several = isinstance(options.objective, list) and len(options.objective) > 1
    strategy = options.strategy or (defaults.STRATEGY_OF_SEVERAL if several else defaults.STRATEGY)
    goes_with = registry.load("strategy", strategy).goes_with
    space, found = options.space or goes_with.get("space", defaults.SPACE), options.of_evaluator
    evaluator = options.evaluator or registry.evaluator_for(space, goes_with.get("evaluator", defaults.EVALUATOR))
    if options.space is None and "data" in found:
        space = registry.space_for(str(found["data"]), space)
    target = registry.load("evaluator", evaluator)
    if "recipes" in goes_with and "recipe" not in found and getattr(target, "recipe_prefix", None) == "":
        found["recipe"] = default_recipe(str(found.get("data", "digits")), goes_with["recipes"])
    return RunConfig.resolve(
        (strategy, options.strategy_options),
        (space, options.space_options),
        (evaluator, found),
        options.seed,
        options.objective,
        options.limits,
        options.latency_threads,
        options.fidelity,
        options.warm_start,
        options.prior,
    )


def check(options: SearchOptions, config: RunConfig, strategy: Strategy, evaluator: Evaluator) -> None:
    """InputError: these options do not go together."""
    if "policy" in strategy.needs and rounds_of(evaluator) is None:
        raise InputError(f"strategy {strategy.name} trains shared weights of its own: leave out -E weights=")
    if "budget" in strategy.needs and config.evaluator.options.get("epochs") is not None:
        raise InputError(f"strategy {strategy.name} says itself how long to train: give -S epochs=N, not --epochs")
    own_ensembles.check(strategy, evaluator)
    most = most_workers(evaluator)
    if most is not None and options.workers > most and "shared-weights" not in evaluator.provides:
        raise InputError(f"evaluator {evaluator.name} runs with at most --workers {most}")
    if options.final:
        final_stage.check(options.final, options.trials, config, strategy, shares(evaluator))
