"""Of equally good architectures, all of the program takes the same one: less validation loss, then fewer parameters."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from nastool import Study
from nastool.analysis.report import data as reported
from nastool.core.values import Evaluation, Proposal, Trial
from nastool.engine.ranking import derive, finalists
from nastool.engine.store import Store
from nastool.evaluators.table import Table
from nastool.evaluators.train import Train
from nastool.spaces.nasbench201 import NasBench201
from tests.helpers import made_runs
from tests.helpers.running import Run
from tests.unit.evaluators.test_train import npz

SPACE = NasBench201()
SEARCH = ["search", "-s", "random", "--evaluator", "table", "-E", "file=t.npz", "-n", "12", "--out", "a", "--no-report"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Every architecture is as good as any other; no two have as many parameters."""
    archs = np.array([arch.choices for arch in SPACE.members()])
    path = tmp_path / "t.npz"
    order = np.random.default_rng(0).permutation(len(archs))
    np.savez(path, arch=archs, val200=np.full(len(archs), 0.5), params=order + 1)
    return path


def test_everything_names_the_smallest_of_equals(run: Run, table: Path) -> None:
    (best,) = run(*SEARCH).accepted()
    with Store.read(Path("a/run.db")) as store:
        trials = [trial for trial in store.trials() if trial.evaluation is not None]
    sizes = {trial.id: trial.evaluation.metrics["params"] for trial in trials if trial.evaluation}
    order = sorted(sizes, key=lambda trial: sizes[trial])
    assert order[0] != 0, "the first one is another"
    assert best["trial"] == order[0] == json.loads(Path("a/best.json").read_text())["trial"]
    assert [line["trial"] for line in run("top", "a", "-k", "5").accepted()] == order[:5]
    assert [line["trial"] for line in run("top", "a", "-k", "5", "--objective", "val_acc").accepted()] == order[:5]
    (status,) = run("status", "a").accepted()
    assert status["best"]["trial"] == order[0]
    study = Study.read("a")
    assert [trial.id for trial in study.ranked] == order
    assert reported.best_drawn(study)[0].id == order[0]
    lines = "".join(json.dumps(line) + "\n" for line in study.lines())
    assert [line["trial"] for line in run("top", "-", "-k", "5", stdin=lines).accepted()] == order[:5]


def test_the_validation_loss_comes_before_the_parameters(run: Run) -> None:
    """In whatever order they are told; with another objective, too."""
    metrics = [
        {"val_acc": 0.9, "val_loss": 0.4, "params": 1, "flops": 7},
        {"val_acc": 0.9, "val_loss": 0.3, "params": 9, "flops": 7},
        {"val_acc": 0.9, "val_loss": 0.3, "params": 5, "flops": 7},
        {"val_acc": 0.8, "val_loss": 0.1, "params": 1, "flops": 7},
        {"val_acc": 0.9, "params": 1, "flops": 7},
    ]
    Path("a").mkdir()
    config = made_runs.config_of("random", SPACE, "train", 0)
    with Store.create(Path("a/run.db"), {"config": config, "objective": "val_acc:max", "trials": 5}) as store:
        for number, found in enumerate(metrics):
            proposal = Proposal(SPACE.arch([number % 5] * 6))
            store.begin()
            store.add(Trial(number, proposal))
            store.finish(Trial(number, proposal, "done", Evaluation(found, 1.0), (-found["val_acc"],)), number)
            store.commit()
        assert [trial.id for trial in store.best(9)] == [2, 1, 0, 4, 3]
        assert [trial.id for trial in store.best(2)] == [2, 1]
    assert [line["trial"] for line in run("top", "a", "-k", "9").accepted()] == [2, 1, 0, 4, 3]
    assert [line["trial"] for line in run("top", "a", "-k", "9", "--objective", "flops").accepted()] == [3, 2, 1, 0, 4]


def test_eval_and_retrain_mean_the_same_by_metrics(run: Run, one_thread: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of one network, whose weights the line names; the mean over the seeds has a name of its own."""
    monkeypatch.setattr(Train, "inline", True)
    npz(Path("tiny.npz"))
    (arch,) = run("sample", "--seed", "1").accepted()
    options = ["--data", "npz:tiny.npz", "--epochs", "1", "--scale", "channels=2,cells=1", "-E", "batch_size=16"]
    options += ["--device", "cpu", "--seeds", "3,5"]
    Path("arch.json").write_text(json.dumps(arch))
    (evaluated,) = run("eval", "arch.json", *options, "--save", "kept").accepted()
    (trained,) = run("retrain", "arch.json", *options, "--validation", "-o", "final").accepted()
    for line in (evaluated, trained):
        first, second = (each["metrics"] for each in line["runs"])
        assert line["seeds"] == [3, 5] and line["metrics"] == first != second
        for name in ("val_loss", "test_acc", "test_loss"):
            assert line["mean"][name] == pytest.approx((first[name] + second[name]) / 2)
            assert line["std"][name] == pytest.approx(abs(first[name] - second[name]) / 2**0.5)
    assert evaluated["weights"] == evaluated["runs"][0]["weights"]
    assert trained["metrics"]["val_loss"] == pytest.approx(evaluated["metrics"]["val_loss"], rel=1e-6)
    (once,) = run("eval", "arch.json", *options[:-1], "3").accepted()
    assert once["mean"] == once["metrics"] and "std" not in once


def test_lines_of_several_seeds_are_compared_by_the_mean(run: Run) -> None:
    (arch,) = run("sample").accepted()
    lines = [
        {**arch, "trial": 0, "metrics": {"val_acc": 0.9}, "mean": {"val_acc": 0.5}},
        {**arch, "trial": 1, "metrics": {"val_acc": 0.6}, "mean": {"val_acc": 0.7}},
        {**arch, "trial": 2, "metrics": {"val_acc": 0.65}},
    ]
    found = run("top", "-", "-k", "3", stdin="".join(json.dumps(line) + "\n" for line in lines)).accepted()
    assert [line["trial"] for line in found] == [1, 2, 0]
    shown = run("top", "-", "-k", "3", "--text", stdin="".join(json.dumps(line) + "\n" for line in lines)).out
    assert [line.split()[2] for line in shown.splitlines()[2:]] == ["0.7000", "0.6500", "0.5000"]


def test_the_cost_of_a_search_is_that_of_all_its_trials(run: Run, table: Path) -> None:
    """Not of the best one's training; and what was not spent here is called simulated."""
    with np.load(table) as columns:
        np.savez(table, **columns, train_time200=np.full(len(columns["arch"]), 1800.0))
    err = run(*SEARCH).err
    assert "  cost of 12 trials: 6.0 h of training, simulated\n" in err and "30 min" not in err
    assert "6.0 h of training, simulated" in run("status", "a", "--text").out
    (status,) = run("status", "a").accepted()
    assert status["evaluation_seconds"] == 12 * 1800 and status["simulated"] is True
    assert "  cost of 12 trials: 6.0 h of training, simulated\n" in run(*SEARCH, "--text").err
    study = Study.read("a")
    assert reported.cost_text(study) == "6.0 h, simulated"


def test_failed_trials_cost_what_they_took_everywhere(tmp_path: Path) -> None:
    folder = made_runs.folder(tmp_path / "run", [0.5, "failed", 0.6])
    with sqlite3.connect(folder / "run.db") as db:
        db.execute("UPDATE trials SET started = 100, finished = 107")
    with Store.read(folder / "run.db") as store:
        assert store.spent() == (9, 100, 107)
    study = Study.read(folder)
    assert reported.cost(study) == 9 and reported.cost_text(study) == "9.0 s" and not study.simulated


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    """An architecture is worth a sum over its edges; what is measured has noise of its own."""
    archs = np.array([arch.choices for arch in SPACE.members()])
    worth = 0.5 + 0.01 * (archs * [1, 2, 3, 1, 2, 3]).sum(axis=1) / 4
    noise = np.random.default_rng(0).normal(0, 0.01, len(archs))
    path = tmp_path / "t.npz"
    np.savez(path, arch=archs, val200=worth + noise, test200=worth)
    return path


def test_the_best_and_the_recommended(run: Run, noisy: Path) -> None:
    """Where they differ both are named; the result stays what was measured best."""
    ended = run(*(each.replace("12", "80") for each in SEARCH if each != "--no-report"))
    (best,) = ended.accepted()
    advice = best["recommended"]
    assert advice["trial"] != best["trial"] and set(advice) == {"trial", "key", "believed"}
    assert advice["believed"]["metric"] == "val_acc" and advice["believed"]["std"] > 0
    said = f"recommended: trial {advice['trial']}, architecture {advice['key']}: by all results val_acc 0."
    assert said in ended.err and f"nastool retrain a --trial {advice['trial']}" in ended.err
    assert run("report", "a").code == 0
    assert f"trial {advice['trial']}, {advice['key']}" in Path("a/report.html").read_text()
    lines = run("top", "a", "--by", "model", "-k", "80").accepted()
    means = [line["believed"]["mean"] for line in lines]
    assert lines[0]["trial"] == advice["trial"] and lines[0]["believed"] == advice["believed"]
    assert len(lines) == 80 and means == sorted(means, reverse=True)
    table = Table(SPACE, file="t.npz")
    table.prepare()
    worth = [table.true_value(Proposal(SPACE.arch(trial.arch.choices))) for trial in Study.read("a").trials]
    assert worth[advice["trial"]] > worth[best["trial"]]
    shown = run("top", "a", "--by", "model", "--text").out
    assert "by what a model expects of val_acc, highest first" in shown and f"{means[0]:.4f} ± " in shown
    with Store.read(Path("a/run.db")) as store:
        assert store.get("final")["document"]["recommended"] == advice
        again = [trial.id for trial in finalists(store, SPACE, 3)]
        assert again == [line["trial"] for line in lines[:3]], "these are trained once more by --retrain 3"


def test_where_nothing_is_recommended(run: Run, noisy: Path) -> None:
    ended = run(*(each.replace("12", "9") for each in SEARCH))
    assert "recommended" not in ended.accepted()[0] and "recommended" not in ended.err
    with Store.read(Path("a/run.db")) as store:
        assert finalists(store, SPACE, 3) == derive(store, SPACE, 3) == store.best(3)
    run("top", "a", "--by", "model").refused("10 results or more")
    run("top", "-", "--by", "model", stdin="").refused("no run folder")
    run("top", "a", "--by", "model", "--front").refused("leave out --objective")
    run("top", "a", "--by", "model", "--objective", "val_acc").refused("leave out --objective")
