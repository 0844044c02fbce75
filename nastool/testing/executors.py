"""What every executor promises."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing

import numpy as np
import pytest

from nastool.core.values import Proposal
from nastool.engine.executors.base import Drive, Executor, carry_out
from nastool.engine.executors.jobs import EvaluatorSpec, Finished, Job

MakeExecutor = Callable[[], Executor]


class ExecutorContract:
    """Subclass it and give the fixtures `spec` and `make`: () -> an executor of that specification, not open yet.

    The evaluator of the specification is a quick one whose metrics follow from architecture and seed.
    """

    @pytest.fixture
    def spec(self) -> EvaluatorSpec:
        raise NotImplementedError("a subclass gives the specification")

    @pytest.fixture
    def make(self, spec: EvaluatorSpec) -> MakeExecutor:
        raise NotImplementedError("a subclass gives the factory")

    @pytest.fixture
    def executor(self, make: MakeExecutor) -> Iterator[Executor]:
        with closing(make()) as executor:
            executor.open()
            yield executor

    def _job(self, spec: EvaluatorSpec, number: int) -> Job:
        space = spec.build().space
        return Job(number, Proposal(space.sample(np.random.default_rng(number))), seed=number)

    def test_evaluates_as_the_evaluator_does(self, spec: EvaluatorSpec, executor: Executor) -> None:
        evaluator = spec.build()
        evaluator.prepare()
        jobs = [self._job(spec, number) for number in range(6)]
        left = iter(jobs)
        found = {}
        for event in Drive(executor, lambda: next(left, None)):
            assert len(executor.busy) <= len(jobs)
            if isinstance(event, Finished):
                assert event.error is None and event.evaluation is not None
                found[event.job.trial_id] = event.evaluation.metrics
        assert found == {
            job.trial_id: evaluator.evaluate(
                job.trial_id, job.proposal, seed=job.seed, report=lambda step, metrics: None
            ).metrics
            for job in jobs
        }
        assert not executor.busy and executor.free

    def test_a_failure_is_a_result(self, spec: EvaluatorSpec, executor: Executor) -> None:
        """And nothing else suffers from it."""
        job = self._job(spec, 0)
        nonsense = Job(1, Proposal(spec.build().space.arch([10**6])), seed=0)
        assert carry_out(executor, nonsense).error
        assert carry_out(executor, job).evaluation is not None

    def test_a_job_aside_comes_back_before_others(self, spec: EvaluatorSpec, executor: Executor) -> None:
        """While the next is asked for, and what happens meanwhile is not lost."""
        numbers = iter(range(5))
        found: list[int] = []

        def source() -> Job | None:
            number = next(numbers, None)
            if number is None:
                return None
            beside = drive.aside(self._job(spec, 100 + number))
            assert beside.job.trial_id == 100 + number and beside.evaluation is not None
            return self._job(spec, number)

        drive = Drive(executor, source)
        for event in drive:
            found += [event.job.trial_id] if isinstance(event, Finished) else []
        assert sorted(found) == [0, 1, 2, 3, 4]

    def test_can_be_closed_and_used_again(self, spec: EvaluatorSpec, executor: Executor) -> None:
        first = carry_out(executor, self._job(spec, 0)).evaluation
        executor.close()
        again = carry_out(executor, self._job(spec, 0)).evaluation
        assert first is not None and again is not None and first.metrics == again.metrics
