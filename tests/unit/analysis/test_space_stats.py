"""`nastool space stats`: what a space holds, and what limits leave of it."""

from __future__ import annotations

import json
from collections.abc import Collection

import numpy as np
import pytest

import nastool
from nastool.analysis.space_stats import QUANTILES
from nastool.core.values import Arch
from nastool.nets.costs import NetworkCosts
from nastool.spaces.nasbench201 import NasBench201
from nastool.tasks.images.task import ImageTask
from tests.helpers.running import Run

SMALL = ["--input", "1x8x8", "--scale", "channels=4,cells=1", "--device", "cpu"]


def test_costs_are_those_of_architectures_drawn_uniformly(monkeypatch: pytest.MonkeyPatch) -> None:
    space, rng = NasBench201(), np.random.default_rng(5)
    counted = NetworkCosts(space, ImageTask(1, 8, 8, 10), space.Scale(4, 1))
    params = [counted.of(space.sample(rng), ("params",))["params"] for _ in range(60)]
    asked: list[tuple[int, ...]] = []
    of = NetworkCosts.of

    def counting(self: NetworkCosts, arch: Arch, names: Collection[str]) -> dict[str, float]:
        asked.append(arch.choices)
        return of(self, arch, names)

    monkeypatch.setattr(NetworkCosts, "of", counting)
    found = nastool.space_stats(
        "nasbench201",
        input=(1, 8, 8),
        scale={"channels": 4, "cells": 1},
        samples=60,
        seed=5,
        latency=False,
        limits=["params<=6k", "memory_mb<=0.03"],
    )
    spread = found.costs["params"]
    assert spread.samples == sum(spread.counts) == 60 and set(found.costs) == {"params", "flops", "memory_mb"}
    assert [spread.quantiles[name] for name in QUANTILES] == list(
        np.quantile(params, list(QUANTILES.values()), method="nearest")
    )
    assert len(asked) == len(set(asked)) <= 60, "each is counted once, whatever is asked of it"
    share = float(np.mean(np.array(params) <= 6000))
    assert found.shares["params<=6000"] == (share, 60) and 0 < share < 1
    assert list(found.shares)[-1] == "memory_mb<=0.03, params<=6000"
    assert found.shares["memory_mb<=0.03, params<=6000"][0] <= share


def test_on_a_terminal_and_as_json(run: Run, one_thread: None) -> None:
    command = ["space", "stats", "nasbench201", *SMALL, "-n", "20", "--limit", "latency_ms<=1s"]
    shown = run(*command, "--text").out.splitlines()
    assert shown[0] == "nasbench201: 15,625 combinations of 6 decisions (6 of 5 options)"
    assert shown[1] == "networks for images of 1x8x8, 10 classes; channels=4 cells=1"
    assert [line.split()[0] for line in shown[4:7]] == ["params", "flops", "latency_ms"]
    assert shown[-1] == "within latency_ms<=1000: 100% of 20"
    (found,) = map(json.loads, run(*command, "--json").out.splitlines())
    assert found["size"] == 15_625 and len(found["decisions"]) == 6 and found["scale"] == {"channels": 4, "cells": 1}
    assert found["params"]["min"] <= found["params"]["median"] <= found["params"]["max"]
    assert found["latency_ms"]["samples"] == 20 and found["latency_ms"]["spread"] >= 0
    assert found["limits"] == [{"limit": "latency_ms<=1000", "share": 1.0, "samples": 20}]


@pytest.mark.parametrize(
    ("limit", "said"),
    [
        ("params<=4822", "one that was found by steps to neighbors has params 4,822"),
        ("params<=3", "the nearest found has params 4,822"),
    ],
)
def test_what_none_drawn_is_within_is_looked_for(run: Run, limit: str, said: str) -> None:
    shown = run(
        "space", "stats", "nasbench201", *SMALL, "-n", "2", "--seed", "2", "--no-latency", "--text", "--limit", limit
    )
    assert shown.out.splitlines()[-2:] == [f"within {limit}: 0% of 2", said]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("nasbench-201", "no space 'nasbench-201'; did you mean 'nasbench201'?"),
        (
            "nasbench201 --limit parms<=3",
            "--limit parms<=3: nothing of this name is known before training; did",
        ),
        ("nasbench201 --limit params", "write 'METRIC<=VALUE'"),
        ("nasbench201 --data digits --input 3x8x8", "both data and input are given: keep one"),
        ("signal-cnn", "say what its networks are for, with --data NAME or --input SHAPE"),
        ("nasbench201 --data digitz", "no data set 'digitz'"),
        ("nasbench201 -P a=1", "a"),
    ],
)
def test_mistakes_are_one_line(run: Run, arguments: str, said: str) -> None:
    run("space", "stats", *arguments.split()).refused(said)
