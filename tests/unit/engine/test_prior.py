"""`search --prior`: a proxy of untrained networks that a search begins with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import nastool
from nastool.core import registry
from nastool.core.errors import InputError
from nastool.core.values import Arch, Proposal
from nastool.engine import earlier, prior
from nastool.engine.command_options import SearchOptions
from nastool.engine.events import Event, TrialFinished
from nastool.engine.executors.base import Setting
from nastool.engine.search_config import config_of
from nastool.engine.store import Store
from nastool.engine.study import Study
from nastool.evaluators.zero_cost import ZeroCost
from nastool.spaces.nasbench201 import NasBench201
from tests.helpers.running import Run

SPACE = NasBench201()
PRIORS = (("with", "params"), ("without", None))
SMALL = {"bo": {"init": 4}, "evolution": {"population": 6}, "bananas": {"init": 4, "batch": 4, "epochs": 3}}
COUNT = 12
DIGITS: dict[str, Any] = {"data": "digits", "train_size": 60, "val_fraction": 0.2, "device": "cpu"}


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch, here: Path, one_thread: None) -> None:
    monkeypatch.setattr(prior, "SAMPLE", COUNT)


def search(file: str, out: str, *, strategy: str = "evolution", stop_after: int = 99, **more: Any) -> Study:
    done = 0

    def count(event: Event) -> None:
        nonlocal done
        done += isinstance(event, TrialFinished)

    given = {"evaluator": "table", "evaluator_options": {"file": file}, "executor": "inline", "prior": "params", **more}
    return nastool.search(
        strategy,
        strategy_options=SMALL[strategy],
        space="nasbench201",
        **given,
        trials=9,
        report=False,
        out=out,
        on_event=count,
        stop=lambda: done >= stop_after,
    )


def convolutions(arch: Arch) -> int:
    """What parameters rank by."""
    return sum({2: 1, 3: 9}.get(choice, 0) for choice in arch.choices)


def test_evolution_begins_with_the_best(nasbench201_table: str, run: Run) -> None:
    study = search(nasbench201_table, "a")
    ranked = sorted(prior.sample(SPACE, COUNT, 0), key=convolutions, reverse=True)
    led = [convolutions(study.trials[i].arch) for i in (0, 1, 2, 4, 5)]
    assert led == [convolutions(arch) for arch in ranked[:5]], "three in four"
    assert study.config["prior"] == "params"
    (line,) = run("status", "a", "--json").accepted()
    assert (line["prior"]["proxy"], line["prior"]["architectures"]) == ("params", COUNT)
    assert 0 < line["prior"]["seconds"] <= line["time"]["used"]
    assert "\n  prior      params of 12 architectures, untrained" in run("status", "a", "--text").out


@pytest.mark.parametrize("strategy", ["bo", "bananas"])
def test_models_begin_with_each_second_of_the_best(nasbench201_table: str, strategy: str) -> None:
    study, plain = (search(nasbench201_table, out, strategy=strategy, prior=name) for out, name in PRIORS)
    ranked = sorted(map(convolutions, prior.sample(SPACE, COUNT, 0)), reverse=True)
    assert [convolutions(study.trials[i].arch) for i in (0, 2)] == ranked[:2]
    assert [t.arch for t in study.trials[4:]] != [t.arch for t in plain.trials[4:]]


@pytest.mark.parametrize(("strategy", "after"), [("evolution", 3), ("evolution", 7), ("bo", 2), ("bo", 6)])
def test_what_was_found_is_stored(
    nasbench201_table: str, strategy: str, after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search(nasbench201_table, "whole", strategy=strategy)
    search(nasbench201_table, "part", strategy=strategy, stop_after=after)
    assert Study.read("part").state == "interrupted"
    monkeypatch.setattr(prior, "find", lambda *_: pytest.fail("it is there"))
    again = nastool.resume("part")
    assert [trial.arch for trial in again.trials] == [trial.arch for trial in whole.trials]


def test_another_prior_is_another_search(nasbench201_table: str) -> None:
    search(nasbench201_table, "a")
    with pytest.raises(InputError, match="prior is params, not flops"):
        search(nasbench201_table, "a", prior="flops")


def test_it_is_found_of_the_evaluator_s_networks_and_data() -> None:
    options = SearchOptions(
        strategy="bo",
        space="nasbench201",
        evaluator="train",
        data="digits",
        scale={"channels": 2, "cells": 1},
        evaluator_options={"train_size": 60, "val_fraction": 0.2, "lr": 0.1},
        epochs=3,
        device="cpu",
        prior="naswot",
        seed=5,
    )
    config, said = config_of(options), list[str]()
    evaluator = config.evaluator_spec(SPACE, None).build()
    spec = prior.spec_of("naswot", config, evaluator)
    assert spec.options.items() >= {**DIGITS, "batch_size": 64, "proxy": "naswot", "epochs": None, "lr": None}.items()
    found = prior.find("naswot", config, SPACE, evaluator, Setting(), "inline", said.append)
    scale = {"channels": 2, "cells": 1}
    scorer = ZeroCost(SPACE, proxy="naswot", all_proxies=False, scale=scale, batch_size=64, **DIGITS)
    for choices, (loss,) in zip(found["choices"], found["losses"], strict=True):
        own = scorer.evaluate(0, Proposal(SPACE.arch(choices)), seed=0, report=lambda *_: None)
        assert loss == -own.metrics["naswot"]
    assert said == ["prior: naswot of 12 random architectures, before any is trained"] and found["seconds"] > 0
    assert [SPACE.arch(choices) for choices in found["choices"]] == prior.sample(SPACE, COUNT, 5)


def test_where_no_signal_goes_through_counts_as_the_worst(
    nasbench201_table: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    archs = [SPACE.arch([option] * 6) for option in (3, 0, 2)]
    monkeypatch.setattr(prior, "sample", lambda *_: archs)
    search(nasbench201_table, "a", prior="synflow")
    with Store.read(Path("a/run.db")) as store:
        (found,) = store.get(earlier.KEY)
    (best,), (none,), (worst,) = found["losses"]
    assert best < worst == none and np.isfinite(none)
    monkeypatch.setattr(prior, "sample", lambda *_: archs[:1])
    with pytest.raises(InputError, match="--prior synflow: it is the same for all of 1 architectures"):
        search(nasbench201_table, "b", prior="synflow")
    assert not Path("b").exists()


def test_mistakes(run: Run, search: Callable[..., Any], here: Path) -> None:
    for part in ("train", "valid", "test"):
        (here / f"{part}.txt").write_text("one word after the other\n" * 200)
    (here / "rows.csv").write_text("depth,acc\n" + "".join(f"{i},{i / 10}\n" for i in range(8)))
    able = [name for name in registry.plugins("strategy") if name in ("bananas", "bo", "evolution")]
    search("-s", "random", "--prior", "zen").refused("--prior: strategy random learns nothing", *able)
    search("-s", "bo", "--prior", "fisher").refused("--prior fisher: there is no such proxy", "synflow")
    search("-s", "bo", "--prior", "zen", "--objective", "val_acc", "--objective", "seconds").refused("one objective")
    text = ["search", "-s", "bo", "--space", "recurrent-cell", "--data", "text:.", "--executor", "inline", "-o", "c"]
    run(*text, "--prior", "zen").refused("--prior zen: ", "zero-cost proxies are for images and signals")
    run("search", "-s", "bo", "--space", "rows.csv", "--prior", "zen", "-o", "c").refused(
        "--prior zen: ", "leave it out"
    )
    assert not (here / "out").exists() and not (here / "c").exists()
