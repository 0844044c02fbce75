"""Every registered space, strategy and evaluator keeps its contract."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nastool.core import registry
from nastool.core.errors import InputError
from nastool.core.evaluator import Evaluator
from nastool.core.space import SearchSpace
from nastool.core.strategy import Strategy
from nastool.core.task import FAMILY
from nastool.testing.evaluators import EvaluatorContract, MakeEvaluator
from nastool.testing.spaces import SpaceContract
from nastool.testing.strategies import MakeStrategy, StrategyContract, drive


def own(kind: registry.Kind) -> list[str]:
    """What nastool itself registers; other packages test their own. "external" is as whoever is outside makes it."""
    found = [name for name, plugin in registry.plugins(kind).items() if plugin.owner == "nastool"]
    return [name for name in found if name != "external"]


def make_space(name: str) -> SearchSpace:
    space: SearchSpace = registry.make("space", name, given={})
    return space


class TestSpaces(SpaceContract):
    @pytest.fixture(params=own("space"))
    def space(self, request: pytest.FixtureRequest) -> SearchSpace:
        return make_space(request.param)


STRATEGY_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "bo": {"candidates": 40},
    "deep-ensemble": {"pool": 25, "members": 100},
    **{name: {"candidates": 200} for name in ("darts", "drnas", "fairdarts", "gdas", "snas")},
    "enas": {"steps": 1, "children": 2, "candidates": 200},
    "nesbs": {"members": 200, "sets": 1, "steps": 1, "children": 2, "sampler": "mc"},
    "network-morphism": {"steps": 30, "neighbors": 7},
    "pnas": {"beam": 6, "candidates": 200},
    "seminas": {
        **{"init": 20, "batch": 20, "unlabelled": 10, "epochs": 2, "joint_epochs": 1},
        **{"hidden": 4, "parents": 5, "steps": 2},
    },
}
"""Not built with their defaults here: ENAS' controller and SemiNAS' model take too long, and others would come to
their end.
"""


SPACE_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "cell-cnn": {"blocks": 2},
    "layerwise-cnn": {"layers": 5},
    "macro-cnn": {"layers": 4},
    "morph-cnn": {"stages": 2, "layers": 3},
    "recurrent-cell": {"nodes": 5},
    "recurrent-tree": {"base": 4},
}
"""Smaller ones than their defaults, for strategies: these spaces have many decisions."""


def fitting() -> list[tuple[str, str]]:
    """Strategy and space, wherever the space has what the strategy needs of one.

    To a strategy one that is for signals or tables alone is as any other: a few try these. A policy is trained with a
    supernet, or not at all.
    """
    spaces = {name: registry.load("space", name).provides for name in own("space")}
    of_spaces = frozenset().union(*spaces.values())
    return [
        (strategy, space)
        for strategy in own("strategy")
        for space, provides in spaces.items()
        if registry.load("strategy", strategy).needs & of_spaces <= provides
        and ("policy" not in registry.load("strategy", strategy).needs or "supernet" in provides)
        and (strategy in ("evolution", "bo", "enas", "reinforce") or FAMILY in registry.load("space", space).tasks)
    ]


SEVERAL = ("nasbench201", "nasbench101", "cell-cnn", "recurrent-tree")
"""Few decisions, rules, many decisions, and decisions that differ."""


def is_quick(strategy: str, space: str) -> bool:
    """Whether a pair is tried in all respects without --slow: some strategies in all their spaces, others in a few.

    Of two one is small; the other has rules, or, with a supernet, many decisions.
    """
    if strategy in ("enas", "evolution", "network-morphism"):
        return True
    if strategy in ("bo", "reinforce"):
        return space in SEVERAL
    trains = "policy" in registry.load("strategy", strategy).needs
    return space in ("nasbench201", "cell-cnn" if trains else "nasbench101")


PAIRS = [
    pytest.param(pair, id="-".join(pair), marks=() if is_quick(*pair) else (pytest.mark.slow,)) for pair in fitting()
]


def make_strategy(name: str, space: SearchSpace, seed: int) -> Strategy:
    given = {"seed": seed, **STRATEGY_OPTIONS.get(name, {})}
    strategy: Strategy = registry.make("strategy", name, space, given=given)
    return strategy


def small_space(name: str) -> SearchSpace:
    space: SearchSpace = registry.make("space", name, given=SPACE_OPTIONS.get(name, {}))
    return space


@pytest.mark.parametrize("pair", [pair for pair in fitting() if not is_quick(*pair)], ids="-".join)
def test_every_space_is_searched(pair: tuple[str, str]) -> None:
    """Also where the rest is tried with --slow alone: with members, and after a restart as before."""
    space = small_space(pair[1])
    strategy, resumed = (make_strategy(pair[0], space, 3) for _ in range(2))
    before = drive(strategy, 12)
    state = json.loads(json.dumps(strategy.state_dict()))
    after = drive(strategy, 8, 12)
    for trial in (*before, *after):
        space.validate(trial.proposal.arch)
    resumed.load_state_dict(state, before)
    assert drive(resumed, 8, 12) == after and len(after) == 8


class TestStrategies(StrategyContract):
    @pytest.fixture(params=PAIRS)
    def pair(self, request: pytest.FixtureRequest) -> tuple[str, str]:
        pair: tuple[str, str] = request.param
        return pair

    @pytest.fixture
    def space(self, pair: tuple[str, str]) -> SearchSpace:
        return small_space(pair[1])

    @pytest.fixture
    def given(self, pair: tuple[str, str]) -> Mapping[str, object]:
        return STRATEGY_OPTIONS.get(pair[0], {})

    @pytest.fixture
    def make(self, pair: tuple[str, str]) -> MakeStrategy:
        def make(space: SearchSpace, seed: int) -> Strategy:
            try:
                return make_strategy(pair[0], space, seed)
            except InputError as error:
                assert "has no network morphisms" in str(error)
                pytest.skip(str(error))  # the contract's own tiny space lacks a capability that it needs

        return make


@pytest.mark.parametrize(
    "strategy",
    ["bananas", "bo", "evolution", "local-search", "nes-rs", "pnas", "q-learning", "random", "reinforce"],
)
def test_no_trial_repeats_an_equivalent_one(strategy: str) -> None:
    """By default, in every strategy with a result per trial: none has more different architectures than another."""
    space = make_space("nasbench201")
    trials = drive(registry.make("strategy", strategy, space, given={"seed": 0}), 100)
    assert len({space.canonical(trial.proposal.arch) for trial in trials}) == 100


def test_random_search_ends_when_every_function_was_seen() -> None:
    """10,000 combinations, 55 that differ; a restart on the way changes nothing."""
    space = registry.make("space", "cell-cnn", given={"blocks": 1, "normal_output": "2", "reduce_output": "0"})

    def make(**given: object) -> Strategy:
        strategy: Strategy = registry.make("strategy", "random", space, given={"seed": 0, **given})
        return strategy

    whole = drive(make(), 100)
    forms = [space.canonical(trial.proposal.arch) for trial in whole]
    assert len(forms) == len(set(forms)) == 55
    strategy = make()
    before = drive(strategy, 40)
    resumed = make()
    resumed.load_state_dict(strategy.state_dict(), before)
    assert before + drive(resumed, 60, 40) == whole and resumed.ask() is None
    assert len(drive(make(dedup=False), 300)) == 300


TEXTS: Mapping[str, Any] = {
    "data": "sentences",
    "epochs": 1,
    "train_size": 600,
    "batch_size": 8,
    "scale": {"hidden": 4},
    "device": "cpu",
}

EVALUATOR_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    "train": {
        "data": "digits",
        "epochs": 1,
        "train_size": 200,
        "scale": {"channels": 4, "cells": 1},
        "device": "cpu",
    },
    "supernet": {
        "data": "digits",
        "epochs": 1,
        "train_size": 200,
        "scale": {"channels": 4, "cells": 1},
        "device": "cpu",
    },
    "train on recurrent-cell": TEXTS,
    "supernet on recurrent-cell": TEXTS,
    "table": {"file": "table.npz", "dataset": "made_up"},
}
"""What each evaluator is built with here, "on" a space; "table.npz" is a small table the test writes."""


def write_table(path: Path, space: SearchSpace) -> None:
    """A complete table of made-up numbers."""
    rng = np.random.default_rng(0)
    archs = np.array([arch.choices for arch in space.members()], dtype=np.uint8)
    columns = {f"made_up_val20_s{seed}": rng.uniform(50, 90, len(archs)) for seed in (0, 1)}
    np.savez(path, arch=archs, made_up_test20=rng.uniform(50, 90, len(archs)), **columns)  # type: ignore[arg-type]  # numpy's stub takes them for its flag


class TestEvaluators(EvaluatorContract):
    @pytest.fixture(params=EVALUATOR_OPTIONS)  # csv-rows goes with its own spaces: tests/unit/spaces/test_csv_rows.py
    def make(self, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MakeEvaluator:
        given = dict(EVALUATOR_OPTIONS[request.param])
        name, _, of = request.param.partition(" on ")
        space = make_space(of or "nasbench201")
        if "file" in given:
            given["file"] = str(tmp_path_factory.mktemp("table") / given["file"])
            write_table(Path(given["file"]), space)

        def make() -> Evaluator:
            evaluator: Evaluator = registry.make("evaluator", name, space, given=given)
            return evaluator

        return make


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_plugin_is_documented(kind: registry.Kind) -> None:
    for name in own(kind):
        cls = registry.load(kind, name)
        assert len((cls.__doc__ or "").partition("\n")[0]) > 20, name
