"""`search --limit`: nothing beyond is trained, whatever searches, and a resumed run keeps to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

import nastool
from nastool.core.values import Trial
from nastool.engine.store import Store
from nastool.nets.costs import NetworkCosts
from nastool.spaces.nasbench201 import NasBench201
from nastool.tasks.images.task import ImageTask
from tests.helpers.running import Run, changed

SMALL: dict[str, Any] = {"epochs": 1, "device": "cpu", "report": False}
DIGITS = ImageTask(1, 8, 8, 10)


def trials(folder: Path) -> list[Trial]:
    with Store.read(folder / "run.db") as store:
        return list(store.trials())


@pytest.fixture(scope="session")
def priced_table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The file of a table of NAS-Bench-201 in which large networks are better: params are 100 a convolution."""
    archs = np.array([arch.choices for arch in NasBench201().members()], dtype=np.uint8)
    params = 100.0 * ((archs == 2) + 3 * (archs == 3)).sum(axis=1) + 10
    path = tmp_path_factory.mktemp("table") / "t.npz"
    np.savez(path, allow_pickle=False, arch=archs, val=params / 1e4 + archs.sum(axis=1) / 1e3, params=params)
    return str(path)


@pytest.fixture
def search(run: Run, priced_table: str) -> Run:
    """`run` of a search of 30 trials in that table, in the run folder "out", within 510 parameters."""
    command = ["search", "--evaluator", "table", "-E", f"file={priced_table}", "-n", "30", "--out", "out"]
    return lambda *more: run(*changed([*command, "--limit", "params<=510"], *more))


class TestTable:
    def test_a_run_is_within_and_resume_keeps_it(self, search: Run, run: Run, here: Path) -> None:
        assert "  limits     params<=510\n" in search("--no-report").err
        assert run("resume", "out", "-n", "40", "--report").code == 0
        assert "  limits     params<=510\n" in run("status", "out", "--text").out
        assert "params&lt;=510" in (here / "out" / "report.html").read_text()
        found = trials(here / "out")
        assert len(found) == 40 and all(t.evaluation and t.evaluation.metrics["params"] <= 510 for t in found)
        assert all(
            t.proposal.notes["costs"] == {"params": t.evaluation.metrics["params"]} for t in found if t.evaluation
        )
        written = yaml.safe_load((here / "out" / "run.yaml").read_text())
        assert written["search"]["limits"] == ["params<=510"]
        assert search("-n", "40").code == 0, "the same, however its numbers are written"

    def test_it_is_what_makes_a_search_this_search(self, search: Run) -> None:
        assert search("--no-report", "-n", "3").code == 0
        search("--limit", "params<=400").refused("out holds another search (limits")

    def test_a_configuration_file_has_a_list(self, run: Run, search: Run, here: Path) -> None:
        assert search("--no-report", "-n", "3").code == 0
        assert run("search", "--config", "out/run.yaml", "-n", "5", "--out", "b").code == 0
        assert all(t.evaluation and t.evaluation.metrics["params"] <= 510 for t in trials(here / "b"))

    def test_random_search_beside_it_is_within_it_too(self, search: Run, here: Path) -> None:
        assert search("--no-report", "-s", "evolution", "--with-baseline").code == 0
        found = trials(here / "out" / "baseline")
        assert len(found) == 30 and all(t.evaluation and t.evaluation.metrics["params"] <= 510 for t in found)

    def test_it_ends_when_all_within_are_measured(self, search: Run, here: Path) -> None:
        assert search("--no-report", "-s", "random", "--limit", "params<=10", "-n", "4000").code == 0
        found = trials(here / "out")
        forms = {NasBench201().canonical(NasBench201().arch(c)) for c in np.ndindex(*(5,) * 6) if not {2, 3} & {*c}}
        assert len(found) == len(forms)

    @pytest.mark.parametrize(
        ("text", "said"),
        [
            ("params<=3", "--limit params<=3, params<=510: no architecture of space nasbench201 was found within"),
            ("parms<=3k", "--limit parms<=3000: evaluator table knows no such cost before it measures; did you mean"),
            ("latency_ms<=3s", "evaluator table knows no such cost before it measures; there are params"),
            ("params<3", "write 'METRIC<=VALUE'"),
            ("params<=3MB", "'3MB' is no value of params: write a number, or one with k, M"),
        ],
    )
    def test_mistakes_are_one_line_and_leave_nothing(self, search: Run, here: Path, text: str, said: str) -> None:
        search("--limit", text).refused(said)
        assert not (here / "out").exists()


class TestNetworks:
    def test_nothing_beyond_is_trained(self, here: Path, inline: None, one_thread: None) -> None:
        nastool.search(
            "evolution",
            strategy_options={"population": 2},
            limits=["params<=3k", "flops<=40k", "memory_mb<=0.02", "latency_ms<=1s"],
            latency_threads=2,
            scale={"channels": 2, "cells": 1},
            evaluator_options={"train_size": 60},
            trials=4,
            out="a",
            **SMALL,
        )
        for trial in trials(here / "a"):
            assert trial.evaluation is not None
            found = trial.evaluation.metrics
            assert found["params"] <= 3000 and found["flops"] <= 40_000 and found["memory_mb"] <= 0.02
            assert 0 < found["latency_ms"] <= 1000
            alone = NetworkCosts(NasBench201(), DIGITS, NasBench201.Scale(2, 1)).of(trial.proposal.arch, ("memory_mb",))
            assert found["memory_mb"] == alone["memory_mb"]

    def test_an_unknown_one_is_said_before_data_are_read(self, run: Run) -> None:
        run("search", "--limit", "energy<=3", "--data", "folder:none").refused(
            "knows no such cost", "memory_mb, params"
        )

    @pytest.mark.parametrize("strategy", ["random", "enas"])
    def test_shared_weights_are_trained_and_scored_within(
        self, here: Path, inline: None, one_thread: None, monkeypatch: pytest.MonkeyPatch, strategy: str
    ) -> None:
        """Children as candidates, and those that are trained from scratch beside the best at the end."""
        from nastool.nets.networks import Supernet

        selected, select = set(), Supernet.select

        def watched(network: Supernet, arch: Any) -> None:
            if network.network[0][0].weight.device.type != "meta":  # type: ignore[index]  # not the one that counts
                selected.add(arch)
            select(network, arch)

        monkeypatch.setattr(Supernet, "select", watched)
        nastool.search(
            strategy,
            strategy_options={"candidates": 3, "steps": 2} if strategy == "enas" else {},
            space="nasbench201",
            evaluator="supernet",
            limits="params<=1700",
            scale={"channels": 2, "cells": 1},
            evaluator_options={"train_size": 60},
            trials=4,
            retrain=1,
            out="a",
            **SMALL,
        )
        costs = NetworkCosts(NasBench201(), DIGITS, NasBench201.Scale(2, 1))
        assert len(selected) >= 4 and all(costs.of(arch, ("params",))["params"] <= 1700 for arch in selected)
        (retrained,) = (here / "a").glob("retrain-*")
        found = [*trials(here / "a"), *trials(retrained)]
        assert all(costs.of(trial.proposal.arch, ("params",))["params"] <= 1700 for trial in found)
