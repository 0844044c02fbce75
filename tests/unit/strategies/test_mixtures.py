"""Searches by differentiable strategies as a whole: what is found, and going on."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

import nastool
from nastool.core import registry
from nastool.evaluators import supernet
from nastool.training.loop import Training
from nastool.training.shared import PAIRS

SEARCH: dict[str, Any] = {
    "space": "nasbench201",
    "data": "digits",
    "evaluator_options": {"train_size": 100},
    "epochs": 2,
    "scale": {"channels": 4, "cells": 1},
    "retrain": 0,
    "baseline": False,
    "report": False,
}


def test_the_best_of_all_is_found_not_the_last(tmp_path: Path) -> None:
    """Two rounds, then the likeliest: the best by its score, whichever of them that is."""
    study = nastool.search(strategy="gdas", **SEARCH, strategy_options={"candidates": 6}, out=tmp_path / "a")
    trials = [each.trial for each in study.trials]
    assert [trial.proposal.policy is not None for trial in trials] == [True] * 2 + [False] * 6
    scores = [trial.evaluation.metrics["shared_acc"] for trial in trials if trial.evaluation is not None]
    assert study.best is not None and study.best.trial.evaluation is not None
    assert study.best.trial.evaluation.metrics["shared_acc"] == max(scores)
    assert len({trial.proposal.arch for trial in trials[2:]}) == 6


@pytest.mark.parametrize(
    ("strategy", "given", "passes"),
    [("darts", {}, 1), ("darts", {"order": 2}, 5), ("gdas", {}, 1), ("snas", {}, 0), ("snas", {"resource": 0.01}, 0)],
)
def test_what_a_round_will_take(
    strategy: str, given: dict[str, Any], passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If each piece of work takes a second: the steps of the weights, of what they will run, and the architecture's."""
    space = registry.make("space", "nasbench201", given={})
    searcher = registry.make("strategy", strategy, space, given=given)
    evaluator = supernet.Supernet(
        space, data="digits", train_size=48, epochs=2, batch_size=16, scale={"channels": 4, "cells": 1}, device="cpu"
    )
    evaluator.make_policy = searcher.make_policy
    soft: list[bool] = []

    def a_second(work: Iterable[object], synchronize: object) -> float:
        next(iter(work))
        return 1.0

    own = Training.backward

    def noted(training: Training, batch: Any, share: float = 1.0) -> Any:
        soft.append(training.alone)
        return own(training, batch, share)

    monkeypatch.setattr(supernet, "seconds_of_one", a_second)
    monkeypatch.setattr("time.perf_counter", lambda: 0.0)
    monkeypatch.setattr(Training, "backward", noted)
    proposal = searcher.ask()
    assert proposal is not None
    steps = 3
    score, gain = 1, 2 * PAIRS
    assert evaluator.estimate(proposal) == steps + passes * steps + gain + score
    assert soft == [strategy != "gdas"], "a mixture takes longer than one architecture"
