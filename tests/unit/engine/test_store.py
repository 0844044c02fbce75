"""What run.db keeps of a trial, and that it is given back as it was."""

from __future__ import annotations

import dataclasses
import json
import math
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from nastool.core.errors import InputError, NastoolError
from nastool.core.evaluator import Evaluator, Report
from nastool.core.strategy import Strategy
from nastool.core.values import Evaluation, Objective, Proposal, Trial
from nastool.engine import rows
from nastool.engine.executors.inline import Inline
from nastool.engine.search import Search
from nastool.engine.store import Store
from nastool.engine.study import Study
from nastool.nets import checkpoints
from nastool.spaces.nasbench201 import NasBench201
from nastool.strategies.random_search import RandomSearch
from tests.helpers import made_runs
from tests.helpers.running import counts

SPACE = NasBench201()
ARCH = SPACE.arch((0, 1, 2, 3, 4, 0))
FULL = Proposal(
    ARCH, 0, 2, {"round": 1, "of": [None, "x"]}, True, (0.25, 1.0), {"expected": 0.1 + 0.2, "more": [1]}, 3, 0, 0
)
MEASURED = Evaluation(
    {"val_acc": 1 / 3, "params": 2**40},
    0.1,
    "checkpoints/trial-000001.safetensors",
    {"best": [1]},
    {"predictions": checkpoints.artifact_of(1, "predictions.npy")},
    {"why": {"a": 1}},
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return made_runs.folder(tmp_path / "a", [0.5])


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    with Store.open(folder / "run.db") as store:
        yield store


def put(store: Store, trial: Trial) -> None:
    store.begin()
    store.add(Trial(trial.id, trial.proposal))
    if trial.state != "running":
        store.finish(trial, trial.id)
    store.commit()


@pytest.mark.parametrize(
    "trial",
    [
        Trial(1, FULL),
        Trial(1, FULL, "failed", error="why"),
        Trial(1, FULL, "failed", error="why", fault="nan"),
        Trial(1, FULL, "done", MEASURED, (-1 / 3,)),
        Trial(1, Proposal(ARCH), "done", Evaluation({}, 0.0), (5.0,)),
        Trial(1, FULL, "stopped", MEASURED, early=(-1 / 3, 2.0)),
    ],
    ids=["running", "failed", "of a kind", "done", "bare", "stopped"],
)
def test_a_trial_comes_back_as_it_was(store: Store, trial: Trial) -> None:
    put(store, trial)
    assert list(store.trials())[1] == trial


def test_what_failed_is_counted_by_kind_and_the_end_of_its_log_kept(store: Store) -> None:
    for number, fault in enumerate(("nan", "memory", None, "nan"), 1):
        store.begin()
        store.add(Trial(number, Proposal(ARCH)))
        store.finish(Trial(number, Proposal(ARCH), "failed", error="why", fault=fault), number, f"line {number}")  # type: ignore[arg-type]
        store.commit()
    assert store.faults() == {"nan": 2, "memory": 1}, "of one it is not known"
    assert store.log(2) == "line 2" and store.log(0) == ""
    assert list(store.logs(2).items()) == [(4, "line 4"), (3, "line 3")]
    for wrong in ("'odd'", "5"):
        with store._errors:
            store._db.execute(f"UPDATE trials SET fault = {wrong} WHERE id = 3")
        with Store.read(store.path) as other, pytest.raises(InputError, match="what it says of trial 3 is no trial"):
            list(other.trials())


def test_every_field_is_kept() -> None:
    """Also one that is added: `FULL` and `MEASURED` have to say something other than its default."""
    for value in (FULL, MEASURED):
        kept = json.loads(rows.to_text(value))
        assert {"arch" if name == "choices" else name for name in kept} == {f.name for f in dataclasses.fields(value)}


def test_what_is_as_by_default_takes_no_room() -> None:
    assert json.loads(rows.to_text(Proposal(ARCH))) == {"choices": [0, 1, 2, 3, 4, 0]}


def test_proposals_can_be_looked_up() -> None:
    assert len({Proposal(ARCH), Proposal(ARCH), Proposal(ARCH, notes={"expected": 1.0})}) == 2


@pytest.mark.parametrize("note", [math.nan, object(), np.float32(1)])
def test_a_note_that_is_no_json_is_the_strategys_fault(folder: Path, store: Store, note: object) -> None:
    class Odd(Strategy):
        name = "odd"

        def propose(self) -> Proposal:
            return Proposal(ARCH, notes={"x": note})

        def tell(self, trial: Trial) -> None: ...

    search = Search(store, Odd(SPACE), Inline(Files(SPACE)), [Objective("val_acc", "max")], 0, 9, folder)
    search.asked = search.finished = 1
    with pytest.raises(NastoolError, match="strategy odd proposed what is no proposal"):
        search.run()
    assert sum(store.count().values()) == 1


def test_odd_notes_are_no_obstacle(folder: Path) -> None:
    """Whatever an evaluator or a strategy may have noted: a report has nothing to say of it."""
    with closing(sqlite3.connect(folder / "run.db")) as db, db:
        db.execute("""UPDATE trials SET proposal = json_set(proposal, '$.notes', json('{"expected": "x", "a": 1}'))""")
    (trial,) = Study.read(folder).trials
    assert trial.expected is None and trial.trial.proposal.notes["a"] == 1


# --- what a trial leaves in files


class Files(Evaluator):
    """Leaves a checkpoint, unless told otherwise, and two files besides."""

    name = "files"
    inline = True
    weights = True
    misnamed = ""

    def prepare(self) -> None: ...

    def evaluate(self, trial_id: int, proposal: Proposal, *, seed: int, report: Report) -> Evaluation:
        assert self.workdir is not None
        found = {name: checkpoints.artifact_of(trial_id, f"{name}.npy") for name in ("val", "test")}
        weights = checkpoints.name_of(trial_id) if self.weights else None
        for path in (*found.values(), *([weights] if weights else [])):
            (self.workdir / path).parent.mkdir(exist_ok=True)
            (self.workdir / path).touch()
        if self.misnamed:
            found["val"] = self.misnamed
        return Evaluation({"val_acc": trial_id % 3 / 3}, 0.0, weights, artifacts=found)


def searched(folder: Path, evaluator: Files, trials: int, keep: int = 2) -> Search:
    folder.mkdir(exist_ok=True)
    evaluator.workdir = folder
    database = folder / "run.db"
    facts = {"config": made_runs.config_of("random", SPACE, "files", 0), "objective": "val_acc:max"}
    with Store.create(database, facts) if Store.is_blank(database) else Store.open(database) as store:
        strategy = RandomSearch(SPACE, seed=0)
        search = Search(store, strategy, Inline(evaluator), [Objective("val_acc", "max")], 0, trials, folder, keep=keep)
        search.restore()
        search.run()
    return search


def left(folder: Path) -> set[str]:
    return {file.name for file in (folder / "checkpoints").iterdir()}


@pytest.mark.parametrize("weights", [True, False])
def test_artifacts_go_with_the_checkpoint(tmp_path: Path, weights: bool) -> None:
    """Of the best two trials they stay, the others' are deleted and forgotten."""
    evaluator = Files(SPACE)
    evaluator.weights = weights
    searched(tmp_path / "a", evaluator, 6)
    ends = ["artifact.val.npy", "artifact.test.npy", *(["safetensors"] if weights else [])]
    assert left(tmp_path / "a") == {f"trial-{trial:06d}.{end}" for trial in (2, 5) for end in ends}
    with Store.read(tmp_path / "a" / "run.db") as store:
        kept = [trial.id for trial in store.trials() if trial.evaluation is not None and trial.evaluation.artifacts]
    assert kept == [2, 5]


def test_what_a_crash_leaves_of_them_is_swept(tmp_path: Path) -> None:
    """And nothing else."""
    searched(tmp_path / "a", Files(SPACE), 4)
    before = left(tmp_path / "a")
    for name in ("trial-000000.artifact.val.npy", "trial-000000.mine.npy", "trial-000099.artifact.x"):
        (tmp_path / "a" / "checkpoints" / name).touch()
    searched(tmp_path / "a", Files(SPACE), 4)
    assert left(tmp_path / "a") == before | {"trial-000000.mine.npy", "trial-000099.artifact.x"}


@pytest.mark.parametrize(
    "name", ["run.db", "../x", "checkpoints/trial-000001.artifact.x", "checkpoints/trial-000000.artifact.a/../../x"]
)
def test_a_file_that_is_no_trials_own_is_refused(tmp_path: Path, name: str) -> None:
    """Whatever a trial says is its own is deleted one day."""
    evaluator = Files(SPACE)
    evaluator.misnamed = name
    search = searched(tmp_path / "a", evaluator, 1)
    assert search.failed == 1 and left(tmp_path / "a") == set()
    with Store.read(tmp_path / "a" / "run.db") as store:
        (trial,) = store.trials()
    assert trial.error is not None and "artifact" in trial.error and "artifact_of" in trial.error


def test_a_deleted_one_is_forgotten(store: Store) -> None:
    put(store, Trial(1, FULL, "done", MEASURED, (-1 / 3,)))
    store.drop_checkpoint(1)
    _, trial = store.trials()
    assert trial.evaluation == dataclasses.replace(MEASURED, checkpoint=None, artifacts={})


def test_a_transaction_that_fails_leaves_nothing(store: Store) -> None:
    store.begin()
    with pytest.raises(InputError):
        store.add(Trial(0, FULL))  # there is one already
    assert store.count() == counts(done=1)


def test_steps_together_are_one_transaction(store: Store) -> None:
    with Store.read(store.path) as reader:
        with store.together():
            put(store, Trial(1, FULL))
            put(store, Trial(2, FULL))
            assert store.count()["running"] == 2
            assert reader.count()["running"] == 0
            store.begin()
            store.sync()
            assert reader.count()["running"] == 0, "a step is open"
            store.commit()
            store.sync()
            assert reader.count()["running"] == 2
            put(store, Trial(3, FULL))
        assert reader.count()["running"] == 3


@pytest.mark.parametrize("how", ["it failed", "it did not end"])
def test_a_step_that_fails_leaves_those_before_it(store: Store, how: str) -> None:
    with pytest.raises(InputError if how == "it failed" else KeyError), store.together():
        put(store, Trial(1, FULL))
        store.begin()
        store.add(Trial(2, FULL))
        if how == "it failed":
            store.add(Trial(0, FULL))  # there is one already
        raise KeyError
    assert store.count()["running"] == 1
    put(store, Trial(2, FULL))
    with Store.read(store.path) as reader:
        assert reader.count()["running"] == 2, "steps are transactions again"


def test_a_stopped_trial_is_never_among_the_best(store: Store) -> None:
    put(store, Trial(1, FULL, "stopped", MEASURED, early=(-0.9,)))
    put(store, Trial(2, Proposal(ARCH), "done", Evaluation({}, 0.0), (-0.1,)))
    assert [trial.id for trial in store.best(3)] == [0, 2]
    assert store.count() == counts(done=2, stopped=1)


@pytest.mark.parametrize("source", [0, 1, 2, 3], ids=["done", "itself", "later", "of another architecture"])
def test_a_trial_goes_on_from_an_earlier_stopped_one_alone(store: Store, source: int) -> None:
    other = SPACE.arch((1, 1, 2, 3, 4, 0))
    proposals = [
        Proposal(ARCH, continues=source if source < 3 else None),
        Proposal(ARCH, fidelity=1),
        Proposal(ARCH, fidelity=1),
        Proposal(other, continues=2 if source == 3 else None),
    ]
    for number, proposal in enumerate(proposals, 1):
        trial = Trial(number, proposal, "done", Evaluation({}, 0.0), (0.0,))
        stopped = Trial(number, proposal, "stopped", Evaluation({}, 0.0), early=(0.0,))
        put(store, trial if proposal.fidelity is None else stopped)
    with pytest.raises(InputError, match=r"trial \d has a parent that is none"):
        store.whole_history()
