"""The ensemble that a search ends with: of its trials (`strategy.Pooling`), or of what is trained at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nastool.core import archfile
from nastool.core.errors import InputError
from nastool.core.strategy import FindingEnsembles, Pooling, Strategy, pool, removed
from nastool.core.wording import describe_metrics
from nastool.engine import ensembling, pools
from nastool.nets import checkpoints

if TYPE_CHECKING:
    from nastool.core.evaluator import Evaluator
    from nastool.engine.store import Store

FOLDER = "ensemble"
"""Below the run's."""


def check(strategy: Strategy, evaluator: Evaluator) -> None:
    """InputError: it finds an ensemble, and the evaluator's networks make none."""
    if wanted(strategy) and evaluator.metrics and "val_acc" not in evaluator.metrics:
        chosen = "chooses networks by their probabilities of classes on validation data"
        raise InputError(f"strategy {strategy.name} {chosen}, and there are none here: give -S members=1")


def wanted(strategy: Strategy) -> bool:
    """Whether the search ends with an ensemble of its trials."""
    return isinstance(strategy, Pooling) and strategy.members > 1


def weights(strategy: Strategy, store: Store, folder: Path) -> list[Path]:
    """Files of the networks that may become members so far. InputError: one is gone."""
    of = set(pool(strategy))
    found = []
    for trial in store.trials() if of else ():
        if trial.id in of:
            checkpoint = None if trial.evaluation is None else trial.evaluation.checkpoint
            if checkpoint is None or not (folder / checkpoint).is_file():
                gone = folder / (checkpoint or checkpoints.name_of(trial.id))
                raise InputError(f"strategy {strategy.name} makes an ensemble, and there is no {gone}: put it back")
            found.append(folder / checkpoint)
    return found


def make(strategy: Strategy, networks: Sequence[Path], folder: Path, seed: int, test: bool) -> dict[str, Any]:
    """Facts for best.json: the trials whose networks the ensemble is made of, and its metrics.

    Written is the whole of it to `FOLDER`, in place of that of fewer trials.

    Args:
        strategy: Of the search.
        networks: Files of the weights to choose from.
        folder: Of the run.
        seed: Of the division of the validation data into a part that chooses and one that judges.
        test: Measure test data, too.

    Raises:
        InputError: The weights or predictions of a network are gone, or the folder holds something else.
    """
    ensembling.check_folder(folder / FOLDER, force=True)
    assert isinstance(strategy, FindingEnsembles)
    chosen = ensembling.choose(pools.candidates(networks), strategy.members, seed=seed, test=test)
    found, _ = ensembling.write(chosen, folder / FOLDER, page=None)
    metrics = {name: value for name, value in found["metrics"].items() if name != "params"}
    trials, run = [each.trial for each in chosen.members], chosen.members[0].run
    of: dict[str, Any] = {} if run == folder else {"run": run.name}  # below the search's
    if gone := removed(strategy):
        of["removed"] = [gone, gone + len(networks)]
    return {"trials": trials, **of, "metrics": metrics, "folder": FOLDER}


def discard(folder: Path) -> None:
    """Remove the ensemble of a run that is replaced by another. folder: the run's."""
    there = folder / FOLDER
    if archfile.ensemble_in(there / "best.json") is not None:
        for name in ensembling.OWN:
            (there / name).unlink(missing_ok=True)
        with suppress(OSError):
            there.rmdir()  # not if somebody else's files are in it


def describe(ensemble: Mapping[str, Any], folder: Path) -> str:
    """For the summary."""
    trials = ", ".join(map(str, ensemble["trials"]))
    of = f" of {ensemble['run']}" if "run" in ensemble else ""
    gone = " ({} of {} members were removed meanwhile)".format(*ensemble["removed"]) if "removed" in ensemble else ""
    return f"ensemble of trials {trials}{of}{gone}: {describe_metrics(ensemble['metrics'])}: {folder / FOLDER}"
