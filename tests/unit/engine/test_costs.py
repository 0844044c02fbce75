"""Costs that an objective names become metrics of every trial, whatever the evaluator measures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import nastool
from nastool.engine.store import Store
from tests.helpers.running import Run, in_this_process

SMALL: dict[str, Any] = {"epochs": 1, "scale": {"channels": 2, "cells": 1}, "device": "cpu", "report": False}


def test_a_cost_is_a_metric_that_the_evaluator_need_not_know(here: Path, inline: None, one_thread: None) -> None:
    nastool.search(
        "random",
        evaluator="supernet",
        space="nasbench201",
        objective="latency_ms",
        trials=2,
        retrain=0,
        out="a",
        evaluator_options={"train_size": 60},
        **SMALL,
    )
    with Store.read(here / "a" / "run.db") as store:
        trials = list(store.trials())
    for trial in trials:
        assert trial.evaluation is not None
        noted = trial.proposal.notes["costs"]
        assert isinstance(noted, dict) and noted.keys() == {"latency_ms", "latency_spread_ms"}
        assert trial.evaluation.metrics["latency_ms"] == noted["latency_ms"] == trial.loss > 0
        assert "latency_spread_ms" not in trial.evaluation.metrics and "shared_acc" in trial.evaluation.metrics


def test_an_executor_is_asked_for_what_its_evaluator_knows(here: Path, one_thread: None) -> None:
    given = {"train_size": 60}
    nastool.search(
        "random", objective="memory_mb", trials=2, evaluator_options=given, out="a", executor="inline", **SMALL
    )
    with Store.read(here / "a" / "run.db") as store:
        trials = list(store.trials())
    assert all(trial.evaluation and trial.evaluation.metrics["memory_mb"] == trial.loss > 0 for trial in trials)
    assert all(trial.evaluation and trial.evaluation.metrics["params"] > 0 for trial in trials)


def test_a_table_says_what_it_has(run: Run, here: Path) -> None:
    from nastool.spaces.nasbench_macro import NasBenchMacro

    archs = np.array([arch.choices for arch in NasBenchMacro().members()], dtype=np.uint8)
    size = archs.sum(axis=1) * 100.0 + 50
    np.savez(here / "t.npz", allow_pickle=False, arch=archs, val=np.linspace(0, 1, len(archs)), params=size)
    table = [
        "search",
        "-s",
        "random",
        "--space",
        "nasbench-macro",
        "--evaluator",
        "table",
        "-E",
        "file=t.npz",
        "-n",
        "4",
    ]
    assert run(*table, "--objective", "params", "-o", "a").code == 0
    with Store.read(here / "a" / "run.db") as store:
        assert all(trial.loss == 50 + 100 * sum(trial.proposal.arch.choices) for trial in store.trials())
    run(*table, "--objective", "latency_ms", "-o", "b").refused("no metric 'latency_ms'", "params")


def test_what_a_strategy_looks_at_is_a_metric_too(here: Path, one_thread: None) -> None:
    given = {"train_size": 60}
    weighs = {"flops_weight": 0.1}
    nastool.search(
        "q-learning", strategy_options=weighs, trials=2, evaluator_options=given, out="a", executor="inline", **SMALL
    )
    with Store.read(here / "a" / "run.db") as store:
        trials = list(store.trials())
    assert all(trial.evaluation and trial.evaluation.metrics["flops"] > 0 for trial in trials)


def test_a_search_whose_evaluator_cannot_serve_it_does_not_begin(run: Run, here: Path, macro_table: str) -> None:
    table = ["--space", "nasbench-macro", "--evaluator", "table", "-E", f"file={macro_table}", "-o", "a"]
    weighs = ["-s", "q-learning", "-S", "flops_weight=0.1"]
    run("search", *weighs, *table).refused("strategy q-learning looks at flops", "gives no metric 'flops'")
    run("search", *weighs, "--fidelity", "median", *table).refused("reports nothing before a training's end")
    run("search", "-s", "evolution", "--fidelity", "asha", *table).refused("results of one fidelity alone")
    assert not (here / "a").exists()
    bench = ["--strategy", "q-learning:flops_weight=0.1", "--table", f"nasbench-macro:file={macro_table}"]
    outcome = in_this_process(here, "bench", *bench, "--seeds", "1", "-n", "5", "--out", "b")
    assert (outcome.code, outcome.err.count("looks at flops, which")) == (2, 1)
