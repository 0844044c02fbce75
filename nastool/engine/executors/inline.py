"""Jobs in this process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from nastool.core.evaluator import Evaluator
from nastool.core.values import Scalar
from nastool.engine.executors.base import Executor, Setting
from nastool.engine.executors.jobs import EvaluatorSpec, Finished, Job, JobEvent, described, perform, reported


class Inline(Executor):
    """Carries out jobs in this process, one at a time, for evaluators that cost next to nothing."""

    name = "inline"
    computes_here = False

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        self._events: list[JobEvent] = []

    @classmethod
    def make(cls, spec: EvaluatorSpec, evaluator: Evaluator, setting: Setting) -> Inline:
        return cls(evaluator)

    def open(self) -> Mapping[str, Scalar]:
        self.evaluator.prepare()
        return described(self.evaluator)

    @property
    def free(self) -> int:
        return 0 if self._events else 1

    @property
    def busy(self) -> Sequence[Job]:
        return [event.job for event in self._events if isinstance(event, Finished)]

    def submit(self, job: Job) -> None:
        def report(step: int, metrics: Mapping[str, float]) -> None:
            self._events.append(reported(job, step, metrics))

        self._events.append(perform(self.evaluator, job, report))

    def wait(self, seconds: float) -> list[JobEvent]:
        events, self._events = self._events, []
        return events

    def close(self) -> None:
        pass
