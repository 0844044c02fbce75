"""Evaluator zero-cost: what a trial holds, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nastool.core.errors import InputError, TrialFailed
from nastool.core.space import SearchSpace
from nastool.core.values import Proposal
from nastool.evaluators.zero_cost import ZeroCost
from nastool.spaces.nasbench201 import NasBench201
from nastool.spaces.recurrent_cell import RecurrentCell

SPACE = NasBench201()
SMALL = {"data": "digits", "scale": {"channels": 4, "cells": 1}, "device": "cpu", "batch_size": 16}


def evaluate(choices: list[int], seed: int = 0, space: SearchSpace = SPACE, **options: object) -> dict[str, float]:
    evaluator = ZeroCost(space, **{**SMALL, **options})  # type: ignore[arg-type]
    found = evaluator.evaluate(0, Proposal(space.arch(choices)), seed=seed, report=lambda step, metrics: None)
    return dict(found.metrics)


def test_all_proxies_beside_what_networks_cost() -> None:
    found = evaluate([3] * 6)
    assert found.keys() == ZeroCost.metrics
    assert found == evaluate([3] * 6) != evaluate([3] * 6, seed=1)
    other = evaluate([1] * 6)
    assert all(found[name] > other[name] for name in ("synflow", "snip", "params", "flops"))
    alone = evaluate([3] * 6, proxy="snip", all_proxies=False)
    assert alone == {name: found[name] for name in ("snip", "params", "flops")}
    counted = evaluate([3] * 6, proxy="params", all_proxies=False)
    assert counted == {name: found[name] for name in ("params", "flops")}
    evaluator = ZeroCost(SPACE, proxy="snip", **SMALL)  # type: ignore[arg-type]
    evaluator.prepare()
    assert evaluator.objective == "snip:max" and "epochs" not in evaluator.describe()


def test_a_network_without_a_signal_fails() -> None:
    with pytest.raises(TrialFailed, match="no signal"):
        evaluate([0] * 6)


def test_words_are_no_numbers(tmp_path: Path) -> None:
    for part in ("train", "valid", "test"):
        (tmp_path / f"{part}.txt").write_text("one word after the other\n" * 200)
    space = RecurrentCell()
    arch = space.sample(np.random.default_rng(0))
    with pytest.raises(InputError, match="images and signals"):
        evaluate(list(arch.choices), space=space, data=f"text:{tmp_path}", scale={}, batch_size=None)
