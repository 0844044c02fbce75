"""What a search is said to cost before it begins."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from nastool.core.values import Proposal
from nastool.engine import forecast, planning
from nastool.engine.executors.base import Executor
from nastool.engine.executors.jobs import Job, estimated, perform
from nastool.engine.forecast import foreseen
from nastool.engine.planning import Estimate
from nastool.evaluators.train import Train
from nastool.spaces.macro_cnn import MacroCNN
from nastool.spaces.morph_cnn import MorphCNN
from nastool.spaces.nasbench201 import NasBench201
from nastool.strategies.bo import BayesianOptimisation
from nastool.strategies.enas import ENAS
from nastool.strategies.network_morphism import NetworkMorphism
from nastool.strategies.random_search import RandomSearch
from tests.helpers.running import Run


class TestForeseen:
    def test_a_network_that_grows(self) -> None:
        """All trainings with their epochs, the networks as large as they may have become."""
        strategy = NetworkMorphism(MorphCNN(), steps=2, neighbors=3, start_epochs=5, epochs=4, final_epochs=9)
        found = foreseen(strategy, 100, None)
        assert [proposal.budget for proposal in found] == [5, *[4] * 6, 9]
        assert len({proposal.arch.key for proposal in found}) > 3
        assert len(foreseen(NetworkMorphism(MorphCNN()), 10, None)) == 10

    def test_rounds_and_scores(self) -> None:
        found = foreseen(ENAS(MacroCNN(), candidates=10), 15, 5)
        assert [proposal.policy is not None for proposal in found] == [True] * 5 + [False] * 10

    def test_a_model_is_asked_as_ever(self) -> None:
        space = NasBench201()
        assert foreseen(BayesianOptimisation(space), 5, None) == foreseen(BayesianOptimisation(space), 8, None)[:5]


class TestTrain:
    def test_others_lie_between_those_that_are_looked_at(self, monkeypatch: pytest.MonkeyPatch) -> None:
        space = NasBench201()
        evaluator = Train(space, train_size=50, epochs=3, scale={"channels": 4, "cells": 1}, device="cpu")
        looked_at: list[Proposal] = []

        def costs(proposal: Proposal) -> tuple[float, float]:
            looked_at.append(proposal)
            return 1.0, evaluator._flops(proposal.arch) / 1e3

        monkeypatch.setattr(evaluator, "_costs", costs)
        strategy = RandomSearch(space)
        proposals = [proposal for _ in range(30) if (proposal := strategy.ask()) is not None]
        evaluator.prepare()
        found = evaluator.estimate_all(proposals)
        flops = [evaluator._flops(proposal.arch) for proposal in proposals]
        assert len(looked_at) == 3 and {min(flops), max(flops)} < {evaluator._flops(each.arch) for each in looked_at}
        assert found == pytest.approx([1 + 3 * each / 1e3 for each in flops]), "time is linear in FLOPs here"
        long = evaluator.estimate_all([Proposal(proposals[0].arch, budget=10)])
        assert long == pytest.approx([1 + 10 * flops[0] / 1e3])
        facts = estimated(evaluator, proposals[:2])
        assert facts["epochs"] == 3 and {"0", "1"} < facts.keys()

    def test_it_is_a_job(self) -> None:
        evaluator = Train(NasBench201(), train_size=50, epochs=3, scale={"channels": 4, "cells": 1}, device="cpu")
        arch = evaluator.space.arch([0] * 6)
        done = perform(evaluator, Job(0, Proposal(arch), 0, "estimate", proposals=(Proposal(arch),)), lambda *_: None)
        assert done.tested is not None and done.tested["0"] > 0 and done.evaluation is None


class TestDryRun:
    @pytest.fixture(autouse=True)
    def known(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A trial takes 10 s, a round, too, a score 0.1 s, a training 5 s."""
        from nastool.evaluators.supernet import Supernet

        def estimate(executor: Executor, proposals: Sequence[Proposal], spec: object = None) -> Estimate:
            if spec is not None:
                return Estimate([5.0], 20, 64)
            shared = any(proposal.policy is not None for proposal in proposals)
            return Estimate([0.1 if shared and proposal.policy is None else 10.0 for proposal in proposals], 20, 64)

        for module in (planning, forecast):
            monkeypatch.setattr(module, "estimate", estimate)
        for evaluator in (Train, Supernet):
            monkeypatch.setattr(evaluator, "inline", True)

    def lines(self, run: Run, *options: str) -> list[str]:
        outcome = run("search", "--data", "digits", "--device", "cpu", "--dry-run", *options)
        assert (outcome.code, outcome.out) == (0, "")
        return [line for line in outcome.err.splitlines() if line.startswith("# ")][2:]

    def test_time_says_how_many_trials(self, run: Run) -> None:
        cost, time = self.lines(run, "-s", "random", "--time", "10m")
        assert cost.startswith("# cost: about 10 s a trial (measured), 10 min for about 59 on one worker")
        assert time.startswith("# time: it ends within 10 min, of which ")

    def test_a_number_that_comes_first(self, run: Run) -> None:
        assert "for 5 on one worker" in self.lines(run, "-s", "random", "--time", "10m", "-n", "5")[0]
        assert "for about 5" in self.lines(run, "-s", "random", "--time", "1m", "-n", "50")[0]

    def test_rounds(self, run: Run) -> None:
        small: list[Any] = ["-s", "enas", "-S", "candidates=10"]
        cost, rounds, trainings, _ = self.lines(run, *small, "--time", "10m")
        assert rounds == "# rounds: 47, as there is time for" and "for about 57" in cost
        assert trainings == "# and then: about 5.0 s a training from scratch, 40 s for up to 8 on one worker"
        cost, trainings = self.lines(run, *small, "--epochs", "20")
        assert "for 30 on one worker" in cost and "3 min" in cost
