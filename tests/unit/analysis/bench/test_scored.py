"""Searches by an evaluator's scores that a table judges, with a made-up evaluator; and one with shared weights."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nastool.analysis.bench import rankings, scored
from nastool.analysis.bench.benchmark import Benchmark
from nastool.analysis.bench.scored import Amounts, Judged, Scored, carry_out
from nastool.analysis.bench.specs import ScorerSpec, StrategySpec, TableSpec
from nastool.core import registry
from nastool.core.errors import InputError
from nastool.core.evaluator import Evaluator, Report
from nastool.core.space import SearchSpace
from nastool.core.values import Evaluation, Proposal
from nastool.engine.executors.jobs import OUTSIDE
from nastool.spaces.nasbench_macro import NasBenchMacro

AMOUNTS = Amounts(trials=30, sample=25, top=12)
EVENTS: list[str] = []
RANKS = ("spearman", "kendall", "top_spearman", "top_kendall")


class Knows(Evaluator):
    """Scores by the choices alone, as the table's true values are made."""

    name = "knows"
    provides = frozenset({"shared-weights"})

    def __init__(self, space: SearchSpace, *, sign: int = 1) -> None:
        super().__init__(space)
        self.sign = sign

    def prepare(self) -> None:
        pass

    def evaluate(self, trial_id: int, proposal: Proposal, *, seed: int, report: Report) -> Evaluation:
        EVENTS.append("scored" if trial_id >= OUTSIDE else "searched")
        return Evaluation({"val_acc": 0.5 + self.sign * worth(proposal.arch.choices)}, 1.0)


def worth(choices: object) -> float:
    return float(np.dot(np.asarray(choices), 0.01 * 1.3 ** np.arange(8)))


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> TableSpec:
    archs = np.array([arch.choices for arch in NasBenchMacro().members()], dtype=np.uint8)
    path = tmp_path_factory.mktemp("table") / "t.npz"
    np.savez(path, arch=archs, test=0.3 + np.array([worth(row) for row in archs]))
    return TableSpec.parse(f"nasbench-macro:file={path}")


@pytest.fixture
def knows(monkeypatch: pytest.MonkeyPatch) -> None:
    load = registry.load
    monkeypatch.setattr(registry, "load", lambda kind, name: Knows if name == Knows.name else load(kind, name))
    EVENTS.clear()


def search(
    table: TableSpec,
    folder: Path,
    by: str = "knows",
    amounts: Amounts = AMOUNTS,
    strategy: str = "random",
    **given: object,
) -> tuple[Scored, Mapping[str, float]]:
    benchmark = Benchmark(table)
    found = carry_out(StrategySpec.parse(strategy), ScorerSpec.of(by, given), benchmark, 0, folder, amounts)
    return found, rankings.measures(found, benchmark.facts)


def test_scores_that_are_the_truth(knows: None, table: TableSpec, tmp_path: Path) -> None:
    found, measures = search(table, tmp_path)
    assert [measures[name] for name in RANKS] == pytest.approx([1, 1, 1, 1])
    assert (len(found.candidates), len(found.sample), len(found.top)) == (30, 25, 12)
    best = max(found.candidates, key=lambda one: one.value)
    assert found.candidates[0] == best and measures["rank"] == best.rank
    values = np.sort(Benchmark(table).table.true_values)
    assert all(one.value >= values[-657] for one in found.top), "the best tenth of 6,561"
    assert measures["regret"] == pytest.approx(100 * (values[-1] - best.value))
    assert measures["found"] - measures["random_mean"] > 1

    wrong, measures = search(table, tmp_path, sign=-1)
    assert [measures[name] for name in RANKS] == pytest.approx([-1, -1, -1, -1])
    assert wrong.candidates[0].value == min(one.value for one in wrong.candidates)


def test_the_truth_is_asked_after_the_search(
    knows: None, table: TableSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    judged = scored._judged

    def noted(*arguments: object) -> object:
        EVENTS.append("judged")
        return judged(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(scored, "_judged", noted)
    search(table, tmp_path)
    assert EVENTS.count("searched") == 30 and EVENTS[: EVENTS.index("judged")] == ["scored", *["searched"] * 30]
    assert "searched" not in EVENTS[EVENTS.index("judged") :]


def test_it_goes_on_and_extends(knows: None, table: TableSpec, tmp_path: Path) -> None:
    whole, _ = search(table, tmp_path / "whole", amounts=Amounts(40, 30, 20))
    few, _ = search(table, tmp_path / "b", amounts=Amounts(10, 5, 4))
    EVENTS.clear()
    more, _ = search(table, tmp_path / "b", amounts=Amounts(40, 30, 20))
    assert EVENTS.count("searched") == 30, "those that were there are not measured again"
    assert [one.value for one in more.candidates] == [one.value for one in whole.candidates]
    assert (more.sample, more.top) == (whole.sample, whole.top)
    assert more.covers(Amounts(10, 5, 4)) and not few.covers(Amounts(11, 5, 4)) and not few.covers(Amounts(10, 6, 4))
    cut = more.cut(Amounts(10, 5, 4))
    assert [one.value for one in cut.candidates] == [one.value for one in few.candidates]
    assert (cut.sample, cut.top) == (few.sample, few.top) and cut.cpu_seconds <= more.cpu_seconds


def test_a_kill_amid_the_search(knows: None, table: TableSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, _ = search(table, tmp_path / "whole")
    evaluate = Knows.evaluate

    def dies(self: Knows, trial_id: int, *arguments: object, **named: object) -> Evaluation:
        if trial_id == 17:
            raise KeyboardInterrupt
        return evaluate(self, trial_id, *arguments, **named)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Knows, "evaluate", dies)
        with pytest.raises(KeyboardInterrupt):
            search(table, tmp_path / "b")
    again, _ = search(table, tmp_path / "b")
    assert [(one.score, one.trial) for one in again.candidates] == [(one.score, one.trial) for one in whole.candidates]
    assert again.sample == whole.sample


def test_weights_are_trained_once_for_strategies_without_a_policy(table: TableSpec, tmp_path: Path) -> None:
    """Single-path one-shot: uniformly trained weights, then evolution over their scores."""
    given: dict[str, Any] = {"data": "digits", "epochs": 1, "train_size": 64, "scale": {"channels": 4}, "device": "cpu"}
    amounts = Amounts(4, 3, 2)
    first, _ = search(table, tmp_path, "supernet", amounts, **given)
    (weights,) = (tmp_path / "weights").glob("*/checkpoints/supernet.safetensors")
    before = weights.read_bytes()
    evolution = "evolution:population=2,tournament=2"
    second, _ = search(table, tmp_path, "supernet", amounts, evolution, **given)
    assert weights.read_bytes() == before and len(list((tmp_path / "weights").iterdir())) == 1
    assert second.sample == first.sample, "the same weights score alike"
    kept = json.loads((weights.parents[1] / "kept.json").read_text())
    assert min(first.cpu_seconds, second.cpu_seconds) > kept["spent"]["cpu"] > 0, "both are charged the training"
    tuned, _ = search(table, tmp_path, "supernet", amounts, **given, tune=2, tune_lr=0.5)
    assert weights.read_bytes() == before and len(list((tmp_path / "weights").iterdir())) == 1
    assert [one.score for one in tuned.sample] != [one.score for one in first.sample], "they are scored in other ways"


def test_what_a_search_is_recorded_as() -> None:
    one = Judged(0.5, 0.9, 1, 3, 2.0)
    with pytest.raises(ValueError, match="none of it"):
        Scored(1, (2, 2), (Judged(0.5, 1.1, 1),), (), (), 1.0, 1.0)
    assert json.loads(json.dumps(Scored(1, (2, 2), (one,), (), (), 1.0, 1.0).to_json()))["candidates"] == [
        [0.5, 0.9, 1, 3, 2.0]
    ]


def test_random_search_of_equal_cost(table: TableSpec) -> None:
    facts = Benchmark(table).facts
    found = (Judged(0.9, 0.4, 9, 3, 30.0), Judged(0.8, 0.6, 5, 1, 10.0), Judged(0.7, 0.5, 7, 2, 20.0))
    beside = Scored(3, (2, 2), found, (), (), 30.0, 30.0)

    def equal(cpu: float) -> float:
        return rankings.measures(Scored(1, (2, 2), (), (), (), cpu, cpu), facts, beside)["equal_cost"]

    assert equal(25.0) == equal(10.0) == 60 and equal(30.0) == 40, "by its scores, not by the truth"
    assert np.isnan(equal(9.0)) and np.isnan(equal(31.0)), "nothing was trained yet; it was not that long"


def test_trainings_make_no_samples(table: TableSpec, tmp_path: Path) -> None:
    given: dict[str, Any] = {"data": "digits", "epochs": 1, "train_size": 64, "scale": {"channels": 4}, "device": "cpu"}
    found, measures = search(table, tmp_path, "train", Amounts(2, 3, 2), **given)
    assert len(found.candidates) == 2 and found.sample == found.top == () and np.isnan(measures["spearman"])
    assert found.covers(Amounts(2, 3, 2)) and 0 < found.candidates[0].cpu <= found.cpu_seconds


def test_tables_do_not_score(table: TableSpec) -> None:
    with pytest.raises(InputError, match="leave it out"):
        ScorerSpec.of("table", {"file": sys.argv[0]})
