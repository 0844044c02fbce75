"""Which checkpoints stay on disk, and how often all of them are looked through."""

from __future__ import annotations

from pathlib import Path

import pytest

from nastool.core.values import Evaluation, Proposal, Trial
from nastool.engine.kept import ONCE_IN, Kept
from nastool.engine.store import Store
from nastool.nets import checkpoints
from nastool.spaces.nasbench201 import NasBench201
from tests.helpers import made_runs

SPACE = NasBench201()


@pytest.mark.parametrize("wanted", [0, 900])
def test_a_trial_costs_as_little_with_many_checkpoints_as_with_few(tmp_path: Path, wanted: int) -> None:
    """Of 1,000 trials that pause, the first `wanted` are; what is not is gone in the end."""
    folder = made_runs.folder(tmp_path / "run", [])
    looked = most = 0

    def parents() -> set[int]:
        nonlocal looked
        looked += len(kept._held)
        return set(range(wanted))

    with Store.open(folder / "run.db") as store:
        kept = Kept(store, folder, 0)
        store.begin()
        for number in range(1000):
            artifacts = {"state": checkpoints.artifact_of(number, "state")}
            trial = Trial(number, Proposal(SPACE.arch((0,) * 6), fidelity=1), "stopped")
            store.add(trial)
            ended = Trial(number, trial.proposal, "stopped", Evaluation({}, 1.0, artifacts=artifacts), early=(0.5,))
            store.finish(ended, number)
            kept.take(ended, [ended])
            kept.prune(0, parents, set)
            most = max(most, len(kept._held))
        assert looked < 3 * ONCE_IN * 1000
        assert most <= wanted + wanted // ONCE_IN * 2 + ONCE_IN
        kept.prune(0, parents, set, now=True)
        store.commit()
        assert [trial.id for trial in store.trials() if trial.evaluation and trial.evaluation.artifacts] == [
            *range(wanted)
        ]
