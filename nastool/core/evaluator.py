"""An evaluator turns a proposal into measurements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from nastool.core.values import Evaluation, Proposal, Scalar

if TYPE_CHECKING:
    pass

from nastool.core.space import SearchSpace

Report = Callable[[int, Mapping[str, float]], None]
"""report(step, metrics): an intermediate measurement of the running trial; step counts from 1."""


class Evaluator(ABC):
    """Turns a proposal into measurements. The only code that owns devices and weights.

    Each worker process builds its own instance from the same options.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    """Capabilities it needs of the space."""
    provides: ClassVar[frozenset[str]] = frozenset()
    """Capabilities: "budget", "warm-start", "policy", ..."""
    max_workers: ClassVar[int | None] = None
    """1 where weights are shared."""
    inline: ClassVar[bool] = False
    """Costs next to nothing: it runs in the coordinator, without a worker process."""

    simulated: ClassVar[bool] = False
    """The seconds of its evaluations are those of trainings of old, as a table has them, and were not spent here."""

    shares_weights: ClassVar[bool] = False
    """Its scores come from weights that architectures share: a search ends by training the best from scratch."""
    rounds: int | None = None
    """For how many rounds it trains a policy and the weights it goes with, for those that provide "policy"."""

    local_options: ClassVar[frozenset[str]] = frozenset()
    """Options that say where it runs, not what it measures: a run may be continued with others."""
    settled_options: ClassVar[frozenset[str]] = frozenset()
    """Options whose value may depend on the machine: `describe` says which it is, and a run goes on with that."""

    metrics: frozenset[str] = frozenset()
    """What its evaluations hold, known when `objective` is; empty: it cannot say beforehand."""
    objective: str = "val_acc"
    """The metric that is optimised unless the user names another; known once built, or prepared where `inline`."""
    scale: Any = None
    """The instance of the space's Scale that its networks are built with; travels with every result."""
    workdir: Path | None = None
    """Folder to keep checkpoints in; None: keep none. Set before the first `evaluate`."""
    micro_batches: int = 1
    """Into how many parts each training batch is to be split (gradients are accumulated). Set before each job: it is 1,
    unless memory ran out before; then it is doubled, up to `max_micro_batches`. An evaluation with more than 1 says so
    as the metric "micro_batches"."""
    max_micro_batches: int = 1
    """1: it cannot split batches."""

    def __init__(self, space: SearchSpace) -> None:
        """A subclass adds keyword-only options with type annotations. Cheap: it reads no data.

        One that draws random numbers beyond those of a trial has a keyword-only `seed` of type int, too: the run's.
        """
        self.space = space

    @classmethod
    def resolved(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """What options stand for that may change while they do not, such as a recipe's values by its name.

        It becomes part of a run's identity and is recorded. JSON only.
        """
        return {}

    @abstractmethod
    def prepare(self) -> None:
        """Read and check data and devices, once, before the first evaluation. InputError names what is wrong."""

    def check_state(self) -> None:
        """Called before a run that has finished trials goes on; neither prepared nor in a worker. Cheap.

        InputError: what it has left in workdir and cannot go on without is missing or damaged.
        """
        return

    def describe(self) -> Mapping[str, Scalar]:
        """Facts for run.yaml and the screen, once prepared: the device, the data's sizes.

        "fingerprint", if there, names the data's content as it is used: a run is continued only with the same.
        "device" begins with "cpu" on the CPU; with "precision" it has to be the same in all workers, but for its model.
        "data_digest", if there, names it however it is split: lines carry it, and `eval` and `retrain` want the same.
        """
        return {}

    def choose_threads(self, most: int) -> Mapping[str, Scalar]:
        """Find out with how many CPU threads it is quickest here, up to most, and take these. Once prepared.

        Facts, as for `describe`: how many "threads", and why. {}: it has no say in it.
        """
        return {}

    def estimate(self, proposal: Proposal) -> float | None:
        """About how many seconds one evaluation takes here, found out within a few; None: unknown. For --dry-run."""
        return None

    def estimate_all(self, first: Proposal, trials: int) -> float | None:
        """The same for so many trials one after another, where they do not all take as long as the first."""
        seconds = self.estimate(first)
        return None if seconds is None else seconds * trials

    @abstractmethod
    def evaluate(self, trial_id: int, proposal: Proposal, *, seed: int, report: Report) -> Evaluation:
        """Measure. Same arguments, same device model: same metrics.

        Any exception means that this trial failed, and the search goes on; TrialFailed for expected ones.
        """

    def test(self, proposal: Proposal, evaluation: Evaluation) -> Mapping[str, float]:
        """Metrics on data held out from the search, of what `evaluate` measured (its weights are not changed).

        Called by `eval`, and by `search` once, at the very end, for the best trial. Empty: there is no such data.
        """
        return {}

    def ensemble(self, members: Sequence[tuple[Proposal, Evaluation]]) -> Mapping[str, float]:
        """Metrics of the mean of the members' predictions, for those that provide "ensemble".

        On validation data and, where there is any, test data; and as "members" how many it takes, from the last one on
        (chosen on validation data). Called by `search --ensemble` at the very end.
        """
        raise NotImplementedError(f"evaluator {self.name} makes no ensembles")
