"""What every evaluator promises."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pytest

from nastool.core import options
from nastool.core.evaluator import Evaluator
from nastool.core.values import Evaluation, Objective, Proposal

MakeEvaluator = Callable[[], Evaluator]


class EvaluatorContract:
    """Subclass it and give the fixture `make`: () -> an evaluator, not yet prepared."""

    @pytest.fixture
    def make(self) -> MakeEvaluator:
        raise NotImplementedError("a subclass gives the factory")

    @pytest.fixture
    def evaluator(self, make: MakeEvaluator, tmp_path: Path) -> Evaluator:
        evaluator = make()
        evaluator.workdir = tmp_path
        evaluator.prepare()
        return evaluator

    def _evaluate(self, evaluator: Evaluator, number: int = 0, seed: int = 5) -> tuple[Proposal, Evaluation]:
        proposal = Proposal(evaluator.space.sample(np.random.default_rng(number)))

        def report(step: int, metrics: Mapping[str, float]) -> None:
            assert step >= 1
            assert all(math.isfinite(value) for value in metrics.values())

        return proposal, evaluator.evaluate(number, proposal, seed=seed, report=report)

    def test_options_can_be_given_as_text(self, make: MakeEvaluator) -> None:
        for option in options.of(type(make())).values():
            assert option.type is not None
            if not option.required:
                assert options.convert(option.default, option.type) == option.default

    def test_metrics_are_finite_and_hold_the_objective(self, evaluator: Evaluator) -> None:
        _, evaluation = self._evaluate(evaluator)
        assert Objective.parse(evaluator.objective).metric in evaluation.metrics
        assert all(math.isfinite(value) for value in evaluation.metrics.values())
        assert evaluation.seconds >= 0
        for name, value in evaluation.metrics.items():
            assert not name.endswith("_acc") or 0 <= value <= 1

    def test_repeats_itself(self, make: MakeEvaluator, evaluator: Evaluator, tmp_path: Path) -> None:
        """Same arguments, same metrics: again, and in a fresh instance."""
        _, first = self._evaluate(evaluator)
        _, other = self._evaluate(evaluator, 1)
        _, again = self._evaluate(evaluator)
        fresh = make()
        fresh.workdir = tmp_path
        fresh.prepare()
        _, elsewhere = self._evaluate(fresh)
        assert first.metrics == again.metrics == elsewhere.metrics
        assert first.metrics != other.metrics

    def test_checkpoint_is_where_it_says(self, evaluator: Evaluator, tmp_path: Path) -> None:
        _, evaluation = self._evaluate(evaluator)
        if evaluation.checkpoint is not None:
            assert (tmp_path / evaluation.checkpoint).is_file()
            assert not list(tmp_path.rglob("*.new"))

    def test_testing_repeats_and_gives_test_metrics(self, evaluator: Evaluator) -> None:
        proposal, evaluation = self._evaluate(evaluator)
        first = evaluator.test(proposal, evaluation)
        assert first == evaluator.test(proposal, evaluation)
        assert all(name.startswith("test_") and math.isfinite(value) for name, value in first.items())
