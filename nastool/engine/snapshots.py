"""`search --ensemble`: the mean of what the networks along a strategy's path predict."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nastool.core.errors import InputError, NastoolError
from nastool.core.strategy import Strategy, TakingSnapshots, snapshots
from nastool.core.wording import describe_metrics
from nastool.engine.search import measure_ensemble

if TYPE_CHECKING:
    from nastool.core.evaluator import Evaluator
    from nastool.core.values import Trial
    from nastool.engine.executors.base import Executor
    from nastool.engine.store import Store


def check(strategy: Strategy, evaluator: Evaluator) -> None:
    """InputError: these two make no ensemble."""
    if not isinstance(strategy, TakingSnapshots):
        raise InputError(f"--ensemble: strategy {strategy.name} has no path of networks to make one of")
    if "ensemble" not in evaluator.provides:
        raise InputError(f"--ensemble: evaluator {evaluator.name} makes no ensembles")


def members(strategy: Strategy, store: Store, folder: Path) -> list[Trial]:
    """The trials whose networks make the ensemble so far. InputError: the weights of one are gone."""
    wanted = set(snapshots(strategy))
    found = [trial for trial in store.trials() if trial.id in wanted]
    for trial in found:
        if trial.evaluation is None or trial.evaluation.checkpoint is None:
            raise InputError(
                f"--ensemble: the weights of trial {trial.id} were not kept: give --ensemble from the beginning of a "
                "search"
            )
        if not (folder / trial.evaluation.checkpoint).is_file():
            raise InputError(f"--ensemble: there is no {folder / trial.evaluation.checkpoint}: put it back")
    return found


def measure(strategy: Strategy, store: Store, executor: Executor, folder: Path) -> dict[str, Any]:
    """Facts for best.json: the trials whose networks it is made of, and its metrics. NastoolError."""
    found = members(strategy, store, folder)
    if not found:
        raise InputError(f"--ensemble: strategy {strategy.name} has no network to make one of")
    metrics, problem = measure_ensemble(executor, found)
    if problem is not None:
        raise NastoolError(f"the ensemble could not be measured: {problem}")
    taken = found[-int(metrics["members"]) :]
    return {
        "trials": [trial.id for trial in taken],
        "metrics": {name: value for name, value in metrics.items() if name != "members"},
    }


def describe(ensemble: Mapping[str, Any]) -> str:
    """For the summary."""
    trials = ", ".join(map(str, ensemble["trials"]))
    return f"ensemble of trials {trials}: {describe_metrics(ensemble['metrics'])}"
