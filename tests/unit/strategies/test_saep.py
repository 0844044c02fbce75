"""Strategy saep: an ensemble that grows, and is pruned after each trial."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from nastool.core import registry
from nastool.core.errors import InputError
from nastool.core.space import SearchSpace
from nastool.core.strategy import removed
from nastool.core.values import Evaluation, Trial
from nastool.engine.store import Store
from nastool.ensembles.pruning import tradeoff
from nastool.ensembles.selection import stacking
from nastool.evaluators.train import Train
from nastool.nets import checkpoints
from nastool.spaces.nasbench201 import NasBench201
from nastool.strategies.saep import SAEP
from nastool.testing.strategies import MakeStrategy, StrategyContract, drive, made_up_predictions
from tests.helpers.running import Run
from tests.unit.evaluators.test_train import npz

KINDS = [(pruning, weighted) for pruning in ("prs", "pap", "pie") for weighted in (False, True)]


class TestEachWayOfPruning(StrategyContract):
    @pytest.fixture(params=KINDS, ids=str)
    def given(self, request: pytest.FixtureRequest) -> Mapping[str, object]:
        return {"pruning": request.param[0], "weighted": request.param[1], "members": 2, "least": 3}

    @pytest.fixture
    def space(self) -> SearchSpace:
        return NasBench201()

    @pytest.fixture
    def make(self, given: Mapping[str, Any]) -> MakeStrategy:
        return lambda space, seed: SAEP(space, seed=seed, **given)


@pytest.mark.parametrize(("pruning", "weighted"), KINDS)
def test_who_is_removed_is_said_once_and_enough_stay(pruning: Any, weighted: bool) -> None:
    strategy = SAEP(NasBench201(), seed=0, members=2, least=4, pruning=pruning, weighted=weighted)
    alive: set[int] = set()
    trials: list[Trial] = []
    for number in range(60):
        before = set(alive)
        (trial,) = drive(strategy, 1, number)
        trials.append(trial)
        alive |= {number} if trial.state == "done" else set()
        now = set(strategy.pool())
        assert now <= alive and len(now) >= min(4, len(alive))
        assert trial.state == "done" or now == before
        alive = now
    done = [trial.id for trial in trials if trial.state == "done"]
    said = [each for trial in trials for each in trial.proposal.notes.get("removed", ())]  # type: ignore[attr-defined]
    said += strategy.state_dict().get("removed", [])
    assert sorted([*said, *alive]) == done and list(strategy.pool()) == sorted(alive)
    assert removed(strategy) == len(said) > 10


def wrong(members: list[Trial], weights: Any) -> float:
    """Share of samples that their weighted mean takes for another class."""
    said = [made_up_predictions(trial) for trial in members]
    return float((np.tensordot(weights, [p for p, _ in said], 1).argmax(1) != said[0][1]).mean())


def step(pruning: Any, seed: int, **given: Any) -> tuple[list[Trial], set[int]]:
    """Those alive before a step of pruning, the new one among them, and who is removed by it."""
    strategy = SAEP(NasBench201(), seed=seed, least=5, pruning=pruning, **given)
    trials = drive(strategy, 5)
    trials.append(Trial(7, drive(SAEP(NasBench201(), seed=100 + seed), 1)[0].proposal, "done", Evaluation({}, 1.0)))
    alive = [*strategy.alive.values(), trials[-1]]
    assert len(alive) == 6
    strategy.tell(trials[-1])
    return alive, {trial.id for trial in alive} - set(strategy.pool())


@pytest.mark.parametrize("weighted", [False, True])
def test_by_accuracy_those_go_without_whom_the_mean_is_more_accurate(weighted: bool) -> None:
    sizes = set()
    for seed in range(30):
        alive, gone = step("pap", seed, weighted=weighted)
        weights = np.full(6, 1 / 6)
        if weighted:
            said = [made_up_predictions(trial) for trial in alive]
            best = stacking(np.stack([p for p, _ in said]), said[0][1], 6)
            assert len(best.members) == 6
            weights[best.members] = best.weights
        without = [np.where(np.arange(6) == i, 0, weights) for i in range(6)]
        spoil = {
            each.id for each, rest in zip(alive, without, strict=True) if wrong(alive, rest) < wrong(alive, weights)
        }
        assert gone <= spoil and len(gone) == min(1, len(spoil)), "five stay"
        sizes.add(len(spoil))
    assert {0, 1} <= sizes


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_by_entropy_one_goes_that_adds_least(alpha: float) -> None:
    """The last that is left over is worth least beside the others, as that was counted when it was last compared."""
    for seed in range(10):
        alive, gone = step("pie", seed, alpha=alpha)
        (out,) = gone
        said = {trial.id: made_up_predictions(trial)[0].argmax(1) for trial in alive}
        labels = made_up_predictions(alive[0])[1]

        def worth(each: int, of: list[int], said: Any = said, labels: Any = labels) -> float:
            return sum(tradeoff(said[each], said[i], labels, alpha) for i in of if i != each)

        others = [trial.id for trial in alive if trial.id != out]
        # whoever joined last was preferred to it, beside the same four
        assert any(worth(last, others) >= worth(out, [i for i in others if i != last]) - 1e-12 for last in others)


def test_at_random_one_goes_every_other_time_each_as_often() -> None:
    gone = [step("prs", seed)[1] for seed in range(300)]
    assert {len(each) for each in gone} == {0, 1}
    assert stats.binomtest(sum(map(len, gone)), 300).pvalue > 0.01
    counts = [sum(each in trials for trials in gone) for each in (0, 1, 2, 3, 4, 7)]
    assert stats.chisquare(counts).pvalue > 0.01


def test_mutants_are_of_those_alive_and_new() -> None:
    space = NasBench201()
    strategy = SAEP(space, seed=0, members=4, least=4, mutants=0.7)
    seen, mutants = set[str](), 0
    for number in range(300):
        before = set(strategy.pool())
        (trial,) = drive(strategy, 1, number)
        assert space.canonical(trial.proposal.arch) not in seen
        seen.add(space.canonical(trial.proposal.arch))
        mutants += trial.proposal.parent is not None
        assert trial.proposal.parent is None or trial.proposal.parent in before
    assert stats.binomtest(mutants, 299, 0.7).pvalue > 0.01


def test_nobody_asks_again_what_the_removed_predict() -> None:
    """Their files are gone."""
    strategy = SAEP(NasBench201(), seed=0, members=3, least=3, pruning="pie")
    trials = drive(strategy, 30)
    resumed = SAEP(NasBench201(), seed=0, members=3, least=3, pruning="pie")
    resumed.load_state_dict(json.loads(json.dumps(strategy.state_dict())), trials)
    read = []

    def predictions(trial: Trial) -> Any:
        read.append(trial.id)
        return made_up_predictions(trial)

    alive = list(resumed.pool())
    assert alive == list(strategy.pool())
    proposal = resumed.ask()
    assert proposal is not None
    resumed.predictions = predictions
    resumed.tell(Trial(30, proposal, "done", Evaluation({"val_acc": 0.5}, 1.0), (-0.5,)))
    assert read == [*alive, 30] and removed(resumed) == removed(strategy) + 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"members": 0}, "need 1 <= members <= 1,000, got 0"),
        ({"members": 7, "least": 6}, "need members <= least, got 7, 6"),
        ({"mutants": 1.5}, r"need mutants in \[0, 1\], got 1.5"),
        ({"alpha": -1, "pruning": "pie"}, r"need alpha in \[0, 1\], got -1"),
        ({"alpha": 0.2, "pruning": "pap"}, "alpha is what pruning=pie weighs diversity by"),
    ],
)
def test_bad_options(given: Mapping[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        registry.make("strategy", "saep", NasBench201(), given=given)


@pytest.mark.usefixtures("one_thread")
def test_a_search_goes_on_bit_for_bit_without_the_weights_of_the_removed(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Train, "inline", True)
    npz(Path("tiny.npz"))
    command = [
        "search",
        "-s",
        "saep",
        "-S",
        "members=2",
        "-S",
        "least=2",
        "-S",
        "pruning=pie",
        "--space",
        "nasbench201",
        "--data",
        "npz:tiny.npz",
    ]
    command += ["--epochs", "1", "-E", "batch_size=16", "--scale", "channels=2,cells=1", "--device", "cpu"]
    command += ["--no-report", "--keep", "1"]
    whole = run(*command, "-n", "9", "--out", "whole")
    (document,) = whole.accepted()
    run(*command, "-n", "5", "--out", "cut").accepted()
    (again,) = run(*command, "-n", "9", "--out", "cut").accepted()
    assert document["ensemble"] == again["ensemble"]
    assert document["ensemble"]["removed"] == [7, 9] and "7 of 9 members were removed" in whole.err
    stores = []
    for each in ("whole", "cut"):
        with Store.read(Path(each) / "run.db") as store:
            stores.append([(trial.proposal, trial.losses) for trial in store.trials()])
    assert stores[0] == stores[1]
    kept = {each for each in range(9) if (Path("whole") / checkpoints.name_of(each)).is_file()}
    assert kept == {*document["ensemble"]["trials"], document["trial"]}
