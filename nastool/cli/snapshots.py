"""`search --ensemble`: the mean of what the networks along a strategy's path predict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nastool.cli import common
from nastool.errors import InputError, NastoolError
from nastool.interfaces import Strategy

if TYPE_CHECKING:
    from nastool.interfaces import Evaluator
    from nastool.store import Store
    from nastool.workers import Pool


def check(strategy: Strategy, evaluator: Evaluator) -> None:
    """InputError: these two make no ensemble."""
    if type(strategy).snapshots is Strategy.snapshots:
        raise InputError(f"--ensemble: strategy {strategy.name} has no path of networks to make one of")
    if "ensemble" not in evaluator.provides:
        raise InputError(f"--ensemble: evaluator {evaluator.name} makes no ensembles")


def measure(strategy: Strategy, store: Store, pool: Pool) -> dict[str, Any]:
    """Facts for best.json: the trials whose networks it is made of, and its metrics. NastoolError."""
    from nastool.runner import measure_ensemble

    wanted = set(strategy.snapshots())
    members = [trial for trial in store.trials() if trial.id in wanted]
    gone = [trial.id for trial in members if trial.evaluation is None or trial.evaluation.checkpoint is None]
    if gone:
        raise InputError(
            f"--ensemble: the weights of trial {gone[0]} were not kept: give --ensemble from the beginning of a search"
        )
    metrics, problem = measure_ensemble(pool, members)
    if problem is not None:
        raise NastoolError(f"the ensemble could not be measured: {problem}")
    return {"trials": [trial.id for trial in members], "metrics": dict(metrics)}


def describe(ensemble: Mapping[str, Any]) -> str:
    """For the summary."""
    trials = ", ".join(map(str, ensemble["trials"]))
    return f"ensemble of trials {trials}: {common.describe_metrics(ensemble['metrics'])}"
