"""Searches by differentiable strategies as a whole: what is found, and going on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nastool

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
