"""An evaluator: how many parameters a network has, and how many of them are for one class."""

import time

import torch

from nastool.core.evaluator import Evaluator, Report
from nastool.core.space import SearchSpace, make_scale
from nastool.core.values import Evaluation, Proposal
from nastool.nets.networks import build, count_params
from nastool.tasks.images.task import ImageTask


class Size(Evaluator):
    """Counts parameters, the fewer the better."""

    metrics = frozenset({"params", "params_per_class"})
    objective = "params_per_class:min"

    def __init__(self, space: SearchSpace, *, classes: int = 10) -> None:
        """Makes an evaluator; what is slow waits for `prepare`.

        Args:
            classes: Number of classes, at least 2.
        """
        super().__init__(space)
        self.task = ImageTask(3, 32, 32, classes)

    def prepare(self) -> None:
        self.scale = make_scale(self.space, {})

    def evaluate(self, trial_id: int, proposal: Proposal, *, seed: int, report: Report) -> Evaluation:
        started = time.perf_counter()
        with torch.device("meta"):  # nothing is computed: shapes are enough
            network = build(self.space, proposal.arch, self.task, self.scale)
        params = count_params(network)
        found = {"params": params, "params_per_class": params / self.task.classes}
        return Evaluation(found, seconds=time.perf_counter() - started)
