"""Strategies whose result are several networks: nes-rs, nes-re, deep-ensemble."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from nastool.core import registry
from nastool.core.errors import InputError
from nastool.core.strategy import Pooling, SeesPredictions, Strategy, pool
from nastool.core.values import Evaluation, Trial
from nastool.engine.store import Store
from nastool.ensembles import stored
from nastool.evaluators.train import Train
from nastool.nets import checkpoints
from nastool.spaces.cell_cnn import CellCNN
from nastool.spaces.nasbench201 import NasBench201
from nastool.strategies.deep_ensemble import DeepEnsemble
from nastool.strategies.nes_re import NESRE
from nastool.testing.strategies import TinySpace, drive, made_up_predictions
from tests.helpers.running import Run
from tests.unit.evaluators.test_train import npz


def make(name: str, **given: Any) -> Strategy:
    strategy: Strategy = registry.make("strategy", name, NasBench201(), given=given)
    return strategy


@pytest.mark.parametrize(
    ("name", "given", "ordinary", "of_ordinary"),
    [
        ("nes-rs", {}, "random", {}),
        ("deep-ensemble", {"pool": 60}, "random", {}),
        ("nes-re", {"population": 7}, "evolution", {"population": 7}),
        ("saep", {"mutants": 0.0}, "random", {}),
    ],
)
@pytest.mark.parametrize("seed", range(3))
def test_of_one_member_it_is_the_ordinary_search(
    name: str, given: Mapping[str, Any], ordinary: str, of_ordinary: Mapping[str, Any], seed: int
) -> None:
    one, other = make(name, members=1, seed=seed, **given), make(ordinary, seed=seed, **of_ordinary)
    assert drive(one, 60) == drive(other, 60)
    assert one.state_dict() == other.state_dict()
    assert pool(one) == ()


@pytest.mark.parametrize("name", ["nes-rs", "nes-re", "deep-ensemble"])
def test_all_that_may_become_members_are_in_the_pool(name: str) -> None:
    strategy = make(name, members=3)
    assert isinstance(strategy, Pooling) and "ensemble" in strategy.needs
    assert list(pool(strategy)) == []
    trials = drive(strategy, 40)
    done = [trial.id for trial in trials if trial.state == "done"]
    if name == "deep-ensemble":
        best = min((trial for trial in trials if trial.proposal.parent is None), key=lambda trial: trial.rank)
        done = [best.id, *(trial.id for trial in trials if trial.proposal.parent is not None)]
        assert len(done) == 3
    assert list(pool(strategy)) == done


def by_hand(alive: list[Trial], size: int) -> list[int]:
    """Ids that forward selection takes of these: the definition, set by set."""
    of_label = {}
    for trial in alive:
        probabilities, labels = made_up_predictions(trial)
        of_label[trial.id] = probabilities[np.arange(len(labels)), labels]
    taken: list[int] = []
    while len(taken) < size:
        left = [each for each in of_label if each not in taken]
        taken.append(min(left, key=lambda each: -np.log(np.mean([of_label[i] for i in [*taken, each]], 0)).mean()))
    return taken


def test_parents_are_those_that_make_the_best_ensemble_each_as_often() -> None:
    strategy = NESRE(NasBench201(), seed=0, members=3, population=8)
    drive(strategy, 30)
    alive = list(strategy.alive)
    assert len(alive) == 8
    expected = by_hand(alive, 3)
    assert [trial.id for trial in strategy.chosen()] == expected
    assert expected != [trial.id for trial in sorted(alive, key=lambda trial: trial.loss)[:3]]
    counts = Counter[int | None]()
    for _ in range(900):
        proposal = strategy.propose()
        assert proposal is not None
        counts[proposal.parent] += 1
    assert counts.keys() == set(expected)
    assert stats.chisquare(list(counts.values())).pvalue > 0.01


def test_a_child_is_its_parent_or_has_another_input_or_operation_each_as_often() -> None:
    space = CellCNN(blocks=3)
    strategy = NESRE(space, seed=1, members=3, population=8, dedup=False)
    drive(strategy, 30)
    kinds = Counter[str]()
    for _ in range(900):
        proposal = strategy.propose()
        assert proposal is not None and not proposal.inherit
        parent = next(trial for trial in strategy.alive if trial.id == proposal.parent)
        changed = [
            decision.name
            for decision, a, b in zip(space.decisions, proposal.arch.choices, parent.proposal.arch.choices, strict=True)
            if a != b
        ]
        assert len(changed) <= 1
        decision = next((each for each in space.decisions if each.name in changed), None)
        kinds["identity" if decision is None else "input" if decision.refers else "operation"] += 1
    assert len(kinds) == 3 and stats.chisquare(list(kinds.values())).pvalue > 0.01


def test_a_copy_is_measured_although_its_architecture_was_before() -> None:
    trials = drive(NESRE(NasBench201(), seed=0, members=2, population=5), 60)
    copies = [
        trial
        for trial in trials
        if trial.proposal.parent is not None and trial.proposal.arch == trials[trial.proposal.parent].proposal.arch
    ]
    assert 10 <= len(copies) <= 30


def test_predictions_are_read_once_while_a_network_lives() -> None:
    strategy = NESRE(NasBench201(), seed=0, members=2, population=5)
    assert isinstance(strategy, SeesPredictions)
    drive(strategy, 5)
    read: list[int] = []

    def predictions(trial: Trial) -> Any:
        read.append(trial.id)
        return made_up_predictions(trial)

    strategy.predictions = predictions
    done = []
    for number in range(5, 30):
        proposal = strategy.ask()
        assert proposal is not None
        done.append(Trial(number, proposal, "done", Evaluation({"val_acc": 0.5}, 1.0), (-0.5,)))
        strategy.tell(done[-1])
    assert sorted(read) == list(range(29)) and len(strategy._of_label) == 5


def test_a_strategy_that_nobody_lets_see_says_so() -> None:
    strategy = NESRE(NasBench201(), seed=0, members=2, population=2)
    for number in range(2):
        proposal = strategy.ask()
        assert proposal is not None
        strategy.tell(Trial(number, proposal, "done", Evaluation({"val_acc": 0.5}, 1.0), (-0.5,)))
    with pytest.raises(LookupError, match="where the predictions of trial 0 are"):
        strategy.ask()


def test_the_best_of_the_pool_is_trained_again_once_all_of_it_is_known() -> None:
    strategy = DeepEnsemble(NasBench201(), seed=0, members=3, pool=4)
    assert strategy.planned_trials(None) == 6
    proposals = [strategy.ask() for _ in range(5)]
    assert all(proposals[:4]) and proposals[4] is None
    losses = [0.4, None, 0.2, 0.3]

    def tell(number: int, loss: float | None) -> None:
        proposal = proposals[number]
        assert proposal is not None
        if loss is None:
            strategy.tell(Trial(number, proposal, "failed", error="made up"))
        else:
            strategy.tell(Trial(number, proposal, "done", Evaluation({"val_loss": loss}, 1.0), (loss,)))

    for number in (3, 0, 1, 2):
        tell(number, losses[number])
    proposals[4] = again = strategy.ask()
    assert again is not None and again.parent is None, "in place of the one that failed"
    assert strategy.ask() is None
    tell(4, 0.5)
    for _ in range(2):
        proposals.append(copy := strategy.ask())
        assert copy is not None and (copy.parent, copy.arch) == (2, proposals[2] and proposals[2].arch)
    assert strategy.ask() is None
    tell(5, None)
    proposals.append(strategy.ask())
    assert proposals[7] is not None and proposals[7].parent == 2
    tell(6, 0.1)  # a copy that is better is no other architecture
    tell(7, 0.6)
    assert strategy.ask() is None
    assert strategy.pool() == [2, 6, 7]


def test_where_there_are_fewer_architectures_the_pool_is_all_of_them() -> None:
    strategy = DeepEnsemble(TinySpace(), seed=0, members=3, pool=20)  # one of its six trials fails
    trials = drive(strategy, 50)
    assert [trial.proposal.parent is None for trial in trials] == [True] * 6 + [False] * 2


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("nes-rs", {"members": 0}, "need 1 <= members <= 1,000, got 0"),
        ("nes-re", {"members": 21}, "need members <= population, got 21, 20"),
        ("deep-ensemble", {"pool": 0}, "need pool >= 1, got 0"),
    ],
)
def test_bad_options(name: str, given: Mapping[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        make(name, **given)


# --- at work


SEARCH = ["search", "--space", "nasbench201", "--data", "npz:tiny.npz", "--epochs", "1", "-E", "batch_size=16"]
SEARCH += ["--scale", "channels=2,cells=1", "--device", "cpu", "--no-report"]
NES_RE = [*SEARCH, "-s", "nes-re", "-S", "members=2", "-S", "population=4", "--keep", "1"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None) -> None:
    """A folder with data, and trainings in this process."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Train, "inline", True)
    npz(Path("tiny.npz"))


def trials_of(folder: str) -> list[Trial]:
    with Store.read(Path(folder) / "run.db") as store:
        return list(store.trials())


@pytest.mark.usefixtures("here")
def test_a_search_sees_what_its_networks_predict_and_goes_on_bit_for_bit(run: Run) -> None:
    (document,) = run(*NES_RE, "-n", "12", "--out", "whole").accepted()
    run(*NES_RE, "-n", "7", "--out", "cut").accepted()
    (again,) = run(*NES_RE, "-n", "12", "--out", "cut").accepted()
    assert document["ensemble"] == again["ensemble"] and len(document["ensemble"]["trials"]) == 2
    digests = [json.loads(Path(each, "ensemble/best.json").read_text())["weights_digest"] for each in ("whole", "cut")]
    assert digests[0] == digests[1]
    found = trials_of("whole")
    assert [(t.proposal, t.losses) for t in found] == [(t.proposal, t.losses) for t in trials_of("cut")]
    of_label = {}
    for trial in found:
        kept = stored.read(Path("whole") / checkpoints.name_of(trial.id))  # although --keep is 1
        of_label[trial.id] = kept.probabilities[np.arange(len(kept.labels)), kept.labels]
    parents = set()
    for trial in found[4:]:
        alive = [each for each in of_label if trial.id - 4 <= each < trial.id]
        first = min(alive, key=lambda i: -np.log(of_label[i]).mean())
        pairs = {i: -np.log((of_label[first] + of_label[i]) / 2).mean() for i in alive if i != first}
        assert trial.proposal.parent in (first, min(pairs, key=lambda i: pairs[i]))
        parents.add(trial.proposal.parent == first)
    assert parents == {True, False}, "another seed is needed"


@pytest.mark.usefixtures("here")
def test_the_ensemble_goes_with_its_search(run: Run) -> None:
    run(*NES_RE, "-n", "3", "--out", "a").accepted()
    own = {"best.json", "best.safetensors", "best.predictions.safetensors", "model.py"}
    assert {file.name for file in Path("a/ensemble").iterdir()} == own
    Path("a/ensemble/mine").touch()
    stopped = run(*NES_RE, "-n", "4", "--out", "a")
    assert stopped.code == 2 and "a/ensemble holds something else than an ensemble" in stopped.err
    Path("a/ensemble/mine").unlink()
    run(*NES_RE, "-n", "4", "--out", "a").accepted()
    run(*SEARCH, "-s", "random", "-n", "1", "--out", "a", "--force").accepted()
    assert not Path("a/ensemble").exists()


@pytest.mark.slow  # two processes import torch
def test_in_worker_processes_too(run: Run) -> None:
    npz(Path("tiny.npz"))
    run(*NES_RE, "-n", "9", "--workers", "2", "--out", "a").accepted()
    assert sum(trial.proposal.parent is not None for trial in trials_of("a")) >= 3


@pytest.mark.usefixtures("here")
def test_without_the_predictions_it_does_not_go_on(run: Run) -> None:
    run(*NES_RE, "-n", "6", "--out", "a").accepted()
    gone = checkpoints.predictions_of(Path("a") / checkpoints.name_of(5))
    gone.rename("away")
    stopped = run(*NES_RE, "-n", "7", "--out", "a")
    assert stopped.code == 2
    assert stopped.err.splitlines()[-1] == f"nastool: a/{checkpoints.name_of(5)} has no predictions beside it"
    Path("away").rename(gone)
    run(*NES_RE, "-n", "7", "--out", "a").accepted()


@pytest.mark.usefixtures("here")
def test_what_cannot_be_an_ensemble_is_refused_before_anything_is_trained(run: Run) -> None:
    run(*NES_RE, "-E", "all_data=true", "--out", "a").refused(
        "probabilities of classes on validation data", "members=1"
    )
    run("search", "-s", "nes-re", "--evaluator", "table", "-E", "file=no.npz").refused("nes-re", "ensemble")
