"""One run of `nastool bench`: what is counted, charged and told; labels, noise and true values."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from nastool.analysis.bench.benchmark import Benchmark
from nastool.analysis.bench.loop import Best, Budget, play, with_recommended
from nastool.analysis.bench.specs import TableSpec
from nastool.core import registry
from nastool.core.errors import InputError
from nastool.core.space import SearchSpace
from nastool.core.strategy import Strategy
from nastool.core.values import Proposal, Trial
from nastool.engine.proposals import trial_seed
from nastool.engine.ranking import recommended
from nastool.engine.retraining import Listed
from nastool.evaluators.table import Table
from nastool.spaces.nasbench_macro import NasBenchMacro

SPACE = NasBenchMacro()
ARCHS = np.array([[i // 3, i % 3, *[0] * 6] for i in range(6)])
NAN = math.nan


class Scripted(Strategy):
    """Asks for given rows of ARCHS (9: an architecture that the table lacks)."""

    name = "scripted"

    def __init__(self, space: SearchSpace, rows: Sequence[int]) -> None:
        super().__init__(space)
        self.rows = list(rows)
        self.told: list[Trial] = []

    def propose(self) -> Proposal | None:
        if not self.rows:
            return None
        row = self.rows.pop(0)
        return Proposal(self.space.arch([2] * 8 if row == 9 else ARCHS[row]))

    def tell(self, trial: Trial) -> None:
        self.told.append(trial)


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "t.npz"
    np.savez(
        path,
        arch=ARCHS,
        val_s0=[0.1, 0.2, 0.3, 0.4, NAN, 0.6],
        val_s1=[0.3, 0.2, 0.1, 0.4, NAN, 0.6],
        test=[0.5, 0.6, 0.4, 0.8, 0.9, NAN],
        train_time=[10.0, 20.0, 30.0, 0.0, 50.0, 10.0],
    )
    return path


def benchmark(path: Path, options: str = "") -> Benchmark:
    return Benchmark(TableSpec.parse(f"nasbench-macro:file={path}{options and ',' + options}"))


def test_facts(table: Path) -> None:
    facts = benchmark(table).facts
    assert (facts.label, facts.metric, facts.truth) == ("nasbench-macro val", "val", "test")
    assert (facts.rows, facts.judged, facts.optimum, facts.worst, facts.mean_seconds) == (6, 5, 0.9, 0.4, 20)
    labels = {benchmark(table, options).facts.label for options in ("label=1", "label=random", "noise=0.01")}
    assert labels == {f"nasbench-macro val {own}" for own in ("label=1", "label=random", "noise=0.01")}


def test_identity_is_what_is_measured_not_where_the_file_is(table: Path, tmp_path: Path) -> None:
    known = benchmark(table).facts.id
    moved = tmp_path / "moved.npz"
    moved.write_bytes(table.read_bytes())
    assert benchmark(moved).facts.id == known
    assert benchmark(table, "metric=val,noise_seed=3").facts.id == known, "said, or by default; without noise no seed"
    others = ["metric=test", "label=0", "noise=0.01", "noise=0.01,noise_seed=0", "noise=0.01,noise_seed=1"]
    assert len({known, *(benchmark(table, options).facts.id for options in others)}) == 6
    with np.load(table) as columns:
        for name in ("val_s0", "test", "train_time"):
            changed = {**columns, name: columns[name] * 0.5}
            np.savez(moved, **changed)
            assert benchmark(moved).facts.id != known, name


def test_rank(table: Path) -> None:
    found = benchmark(table)  # true values .4 .5 .6 .8 .9
    assert [found.rank(value) for value in (0.9, 0.8, 0.6, 0.4, 0.55)] == [1, 2, 3, 5, 4]


def test_every_query_is_charged(table: Path) -> None:
    """Repeated ones, one that the table lacks, one without a label, one that cannot be judged."""
    strategy = Scripted(SPACE, [0, 0, 9, 4, 5, 3, 1])
    run = play(strategy, benchmark(table), 0, Budget(6))
    assert (run.ended, run.queries, run.failed) == ("trials", 6, (3, 4, 5))
    assert [trial.state for trial in strategy.told] == ["done"] * 2 + ["failed"] * 3 + ["done"]
    assert [trial.id for trial in strategy.told] == list(range(6))
    assert "no architecture" in (strategy.told[2].error or "") and "no test for" in (strategy.told[4].error or "")
    assert run.best == (Best(1, 0.2, 0.5, 4), Best(6, 0.4, 0.8, 2)), "a repeated one is no improvement"
    assert run.spent is not None
    assert run.spent.tolist() == [10, 20, 40, 60, 80, 100], "unknown training times cost the table's mean"


def test_the_first_of_equal_labels_stays(table: Path) -> None:
    run = play(Scripted(SPACE, [2, 1, 0]), benchmark(table), 0, Budget(3))  # labels .2 .2 .2, worth .4 .6 .5
    assert [best.value for best in run.best] == [0.4]


def test_the_result_is_chosen_by_label_and_judged_by_truth(table: Path) -> None:
    run = play(Scripted(SPACE, [0, 2]), benchmark(table, "label=0"), 0, Budget(2))
    assert run.best == (Best(1, 0.1, 0.5, 4), Best(2, 0.3, 0.4, 5)), "a better label, truly worse"
    run = play(Scripted(SPACE, [0, 2]), benchmark(table, "label=1"), 0, Budget(2))
    assert run.best == (Best(1, 0.3, 0.5, 4),)


def test_what_is_recommended_at_marks(table: Path, tmp_path: Path) -> None:
    """By all results until there; with few the best label counts."""
    rng = np.random.default_rng(0)
    archs = np.unique(rng.integers(0, 3, (100, 8)), axis=0)
    np.savez(tmp_path / "w.npz", arch=archs, val=0.5 + 0.05 * archs.mean(axis=1), test=0.5 + 0.1 * archs.mean(axis=1))
    found, told = benchmark(tmp_path / "w.npz", "noise=0.02,noise_seed=0"), list[Trial]()
    strategy = Listed(SPACE, [SPACE.arch(archs[i].tolist()) for i in rng.permutation(len(archs))[:60]])
    run = play(strategy, found, 0, Budget(60), told)
    asked = with_recommended(run, found, told, [Budget(5), Budget(60), Budget(30), Budget(60)])
    assert [best.query for best in asked.recommended] == [5, 30, 60] and asked.best == run.best
    assert asked.recommended_after(5) == replace(run.best_after(5) or asked.best[0], query=5)
    for queries in (30, 60):
        best, first = asked.recommended_after(queries), recommended(SPACE, told[:queries])[0].trial
        assert best is not None and best.value == found.table.true_value(first.proposal) and best.label == -first.loss
        assert best.rank == found.rank(best.value)
    assert asked.recommended_after(31) is None, "nobody asked"
    none: list[Trial] = []
    run = play(Scripted(SPACE, [9, 9]), benchmark(table), 0, Budget(2), none)
    assert with_recommended(run, benchmark(table), none, [Budget(2)]).recommended == () and len(none) == 2


def test_random_labels_are_those_of_the_trials_seed(table: Path) -> None:
    found, drawn = benchmark(table, "label=random"), set()
    for seed in range(10):
        run = play(Scripted(SPACE, [0]), found, seed, Budget(1))
        assert run.best[0].label == (0.1, 0.3)[trial_seed(seed, 0) % 2]
        drawn.add(run.best[0].label)
    assert drawn == {0.1, 0.3}


def test_simulated_seconds(table: Path) -> None:
    found = benchmark(table)
    run = play(Scripted(SPACE, [0, 1, 2, 0]), found, 0, Budget(None, 60))
    assert (run.ended, run.queries) == ("seconds", 3), "10 + 20 + 30, the next would exceed it"
    strategy = Scripted(SPACE, [0, 1, 2, 0])
    assert play(strategy, found, 0, Budget(None, 59.9)).queries == len(strategy.told) == 2
    assert play(Scripted(SPACE, [0, 1]), found, 0, Budget(None, 60)).ended == "exhausted"
    assert play(Scripted(SPACE, [0, 1, 2]), found, 0, Budget(2, 60)).ended == "trials"
    assert play(Scripted(SPACE, [9] * 100), found, 0, Budget(None, 60)).queries == 3, "failures use time, too"


def test_seconds_run_out_however_short_the_trainings(tmp_path: Path) -> None:
    """Those of less than half a millisecond, too: nothing else ends a strategy that repeats itself."""
    np.savez(tmp_path / "t.npz", arch=ARCHS, val=np.full(6, 0.5), train_time=np.full(6, 1e-5))
    run = play(Scripted(SPACE, [0] * 1000), benchmark(tmp_path / "t.npz"), 0, Budget(None, 0.1))
    assert (run.ended, run.queries) == ("seconds", 100)


def test_tables_without_times(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", arch=ARCHS[:1], val=[0.5])
    found = benchmark(tmp_path / "t.npz")
    run = play(Scripted(SPACE, [0, 0]), found, 0, Budget(2))
    assert found.facts.mean_seconds is None and run.spent is None
    assert (found.facts.truth, run.best) == ("val", (Best(1, 0.5, 0.5, 1),)), "one row, no test accuracy: its own"


def test_a_table_without_true_values(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", arch=ARCHS[:2], val=[0.5, 0.5], test=[NAN, NAN])
    with pytest.raises(InputError, match="test has no values to judge results by"):
        benchmark(tmp_path / "t.npz")


def test_exhausted_space(tmp_path: Path) -> None:
    archs = np.array([arch.choices for arch in SPACE.members()])
    np.savez(tmp_path / "t.npz", arch=archs, val=np.full(len(archs), 0.5))
    strategy = registry.make("strategy", "random", SPACE, given={"seed": 0})
    run = play(strategy, benchmark(tmp_path / "t.npz"), 0, Budget(10_000))
    assert (run.ended, run.queries, len(run.best)) == ("exhausted", 3969, 1)  # no two equivalent ones


# --- noise


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of nasbench-macro."""
    path = tmp_path_factory.mktemp("wide") / "t.npz"
    archs = np.array([arch.choices for arch in SPACE.members()])
    np.savez(path, arch=archs, val=np.full(len(archs), 0.5), test=np.full(len(archs), 0.5))
    return path


def labels(path: Path, order: Sequence[int], **options: Any) -> np.ndarray[Any, Any]:
    table = Table(SPACE, file=str(path), **options)
    table.prepare()
    archs = list(SPACE.members())
    proposals = [Proposal(archs[row]) for row in order]
    found = [table.evaluate(i, p, seed=i, report=lambda step, metrics: None) for i, p in enumerate(proposals)]
    assert all(table.test(p, e) == {"test_acc": 0.5} for p, e in zip(proposals, found, strict=True)), "clean"
    return np.array([evaluation.metrics["val_acc"] for evaluation in found])


def test_noise_is_fixed_for_each_architecture(wide: Path) -> None:
    order = [5, 3, 5, 4, 3]
    found = labels(wide, order, noise=0.01)
    assert found[0] == found[2] and found[1] == found[4] and len(set(found)) == 3
    assert labels(wide, sorted(order), noise=0.01).tolist() == found[[1, 4, 3, 0, 2]].tolist(), "whatever the order"
    assert labels(wide, order, noise=0.02) - 0.5 == pytest.approx(2 * (found - 0.5)), "only scaled"
    assert not set(labels(wide, order, noise=0.01, noise_seed=1)) & set(found)
    assert set(labels(wide, order)) == set(labels(wide, order, noise_seed=1)) == {0.5}


def test_noise_is_normal(wide: Path) -> None:
    drawn = (labels(wide, range(6561), noise=0.01) - 0.5) / 0.01
    assert stats.kstest(drawn, "norm").pvalue > 0.01
    other = (labels(wide, range(6561), noise=0.01, noise_seed=1) - 0.5) / 0.01
    assert abs(np.corrcoef(drawn, other)[0, 1]) < 0.05
    strategys = np.random.default_rng(0).standard_normal(6561)
    assert abs(np.corrcoef(drawn, strategys)[0, 1]) < 0.05, "independent of a strategy with the same seed"


def test_noise_may_leave_the_unit_interval(tmp_path: Path) -> None:
    np.savez(tmp_path / "t.npz", arch=ARCHS, val=[1.0] * 6)
    table = Table(SPACE, file=str(tmp_path / "t.npz"), noise=0.5)
    table.prepare()
    found = [
        table.evaluate(0, Proposal(SPACE.arch(arch)), seed=0, report=lambda step, metrics: None).metrics["val_acc"]
        for arch in ARCHS
    ]
    assert min(found) < 1 < max(found)


@pytest.mark.parametrize("options", ["noise=-0.1", "noise=2", "noise=nan", "noise=0.1,noise_seed=-1"])
def test_bad_noise(table: Path, options: str) -> None:
    with pytest.raises(InputError, match="noise"):
        benchmark(table, options)


def test_noise_follows_the_seed_unless_given(wide: Path) -> None:
    def label(found: Benchmark, seed: int) -> float:
        found.start(seed)
        return play(Scripted(SPACE, [0]), found, seed, Budget(1)).best[0].label

    follows, fixed = benchmark(wide, "noise=0.01"), benchmark(wide, "noise=0.01,noise_seed=7")
    assert label(follows, 0) != label(follows, 1)
    assert label(fixed, 0) == label(fixed, 1) == label(follows, 7)
