"""An evaluator turns a proposal into measurements."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol, runtime_checkable

from nastool.core.space import SearchSpace
from nastool.core.values import Arch, Evaluation, Proposal, Scalar

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
    """Capabilities: "budget", "warm-start", "policy", "ensemble" (beside weights it keeps what the networks say of the
    validation data, as of `nastool.ensembles.stored`), and what is known of its results:

    "simulated": the seconds of its evaluations are those of earlier trainings, as a table has them, not spent here.
    "shared-weights": its scores come from weights that architectures share, so that a search ends by training the best
        from scratch.
    """
    inline: ClassVar[bool] = False
    """Costs next to nothing: it runs in the coordinator, without a worker process."""

    local_options: ClassVar[frozenset[str]] = frozenset()
    """Options that say where it runs, not what it measures: a run may be continued with others."""
    metrics: frozenset[str] = frozenset()
    """What its evaluations hold, known when `objective` is; empty: it cannot say beforehand."""
    objective: str = "val_acc"
    """The metric that is optimised unless the user names another, followed by :min or :max if `values.METRICS` does not
    know it; known once built, or prepared where `inline`."""
    workdir: Path | None = None
    """Folder to keep checkpoints in; None: keep none. Set before the first `evaluate`."""

    def __init__(self, space: SearchSpace) -> None:
        """A subclass adds keyword-only options with type annotations. Cheap: it reads no data.

        One that draws random numbers beyond those of a trial has a keyword-only `seed` of type int, too: the run's.
        """
        self.space = space

    @abstractmethod
    def prepare(self) -> None:
        """Read and check data and devices, once, before the first evaluation. InputError names what is wrong."""

    def describe(self) -> Mapping[str, Scalar]:
        """Facts for run.yaml and the screen, once prepared: the device, the data's sizes.

        "fingerprint", if there, names the data's content as it is used: a run is continued only with the same.
        "device" begins with "cpu" on the CPU; with "precision" it has to be the same in all workers, but for its model.
        "data_digest", if there, names it however it is split: lines carry it, and `eval` and `retrain` want the same.
        """
        return {}

    @abstractmethod
    def evaluate(self, trial_id: int, proposal: Proposal, *, seed: int, report: Report) -> Evaluation:
        """Measure. Same arguments, same device model: same metrics.

        Any exception means that this trial failed, and the search goes on; TrialFailed for expected ones. Before any
        trial has succeeded, one that shows a mistake in the evaluator, such as a TypeError, ends the search at once.
        """

    def test(self, proposal: Proposal, evaluation: Evaluation) -> Mapping[str, float]:
        """Metrics on data held out from the search, of what `evaluate` measured (its weights are not changed).

        Called by `eval`, and by `search` once, at the very end, for the best trial. Empty: there is no such data.
        """
        return {}


# --- what only some evaluators can do, by methods and attributes of these names


@runtime_checkable
class Resolving(Protocol):
    """An evaluator with options that stand for what may change while they do not, such as a recipe's name."""

    @classmethod
    def resolved(cls, options: Mapping[str, Any]) -> Mapping[str, Any]:
        """What these options stand for, as JSON. It becomes part of a run's identity and is recorded."""
        ...


@runtime_checkable
class Settling(Protocol):
    """An evaluator with options whose value may depend on the machine."""

    settled_options: ClassVar[frozenset[str]]
    """Their names: `describe` says which value it is, and a run goes on with that."""


def settled_options(evaluator: Evaluator) -> frozenset[str]:
    """As of `Settling`."""
    return evaluator.settled_options if isinstance(evaluator, Settling) else frozenset()


@runtime_checkable
class SharesWeights(Protocol):
    """An evaluator whose shared weights may be scored in several ways."""

    scoring_options: ClassVar[frozenset[str]]
    """Names of the options that say how they are scored, not how they are trained."""


def scoring_options(evaluator: Evaluator) -> frozenset[str]:
    """As of `SharesWeights`."""
    return evaluator.scoring_options if isinstance(evaluator, SharesWeights) else frozenset()


@runtime_checkable
class CarriedOut(Protocol):
    """An evaluator whose jobs are for one executor."""

    executor: ClassVar[str]
    """The name it is registered under."""


def executor_of(evaluator: Evaluator) -> str:
    """As of `CarriedOut`; of others worker processes, or this one for what costs next to nothing."""
    if isinstance(evaluator, CarriedOut):
        return evaluator.executor
    return "inline" if evaluator.inline else "processes"


@runtime_checkable
class Scaled(Protocol):
    """An evaluator that builds the space's networks."""

    scale: Any
    """The instance of the space's Scale that they are built with; travels with every result."""


@runtime_checkable
class Costing(Protocol):
    """An evaluator that knows what an architecture costs before it measures it, such as a table.

    Of one that is `Scaled`, and has its `task` once prepared, the rest is known, too: from the networks it builds.
    """

    @property
    def known_costs(self) -> frozenset[str]:
        """Names of what it knows, such as params; of one that is `inline`, once prepared."""
        ...

    def costs_of(self, arch: Arch, names: Collection[str]) -> Mapping[str, float]:
        """Those of these names that it knows, of one architecture. Once prepared."""
        ...


@runtime_checkable
class Limited(Protocol):
    """An evaluator that only so many processes may use at a time, such as one whose weights are shared."""

    max_workers: ClassVar[int]


def most_workers(evaluator: Evaluator) -> int | None:
    """As of `Limited`; None: any number."""
    return evaluator.max_workers if isinstance(evaluator, Limited) else None


@runtime_checkable
class Importing(Protocol):
    """An evaluator that needs modules which take long to import: one process imports them, and forks the workers.

    Importing them may begin no thread and use no device; none of them is a user's, who may change it between two runs.
    """

    imports: ClassVar[tuple[str, ...]]


def imports_of(evaluator: Evaluator) -> tuple[str, ...]:
    """As of `Importing`, by their names."""
    return evaluator.imports if isinstance(evaluator, Importing) else ()


@runtime_checkable
class TrainsPolicy(Protocol):
    """An evaluator that trains a policy and the weights it goes with; it provides "policy"."""

    rounds: int | None
    """For how many rounds; None: not with these options."""


def rounds_of(evaluator: Evaluator) -> int | None:
    """As of `TrainsPolicy`; None: it trains no policy."""
    return evaluator.rounds if isinstance(evaluator, TrainsPolicy) else None


@runtime_checkable
class Stateful(Protocol):
    """An evaluator that leaves in `workdir` what it cannot go on without."""

    def check_state(self) -> None:
        """Called before a run that has finished trials goes on; neither prepared nor in a worker. Cheap.

        Raises:
            InputError: what it left is missing or damaged.
        """
        ...


@runtime_checkable
class Splitting(Protocol):
    """An evaluator that can do with less memory by splitting each training batch (gradients are accumulated)."""

    micro_batches: int
    """Into how many parts. Set before each job: it is 1, unless memory ran out before; then it is doubled. An
    evaluation with more than 1 says so as the metric "micro_batches"."""
    max_micro_batches: int


@runtime_checkable
class Threaded(Protocol):
    """An evaluator that may be quicker with fewer CPU threads than there are."""

    def choose_threads(self, most: int) -> Mapping[str, Scalar]:
        """Find out with how many it is quickest here, up to most, and take these. Once prepared.

        Facts, as for `describe`: how many "threads", and why. {}: it has no say in it.
        """
        ...


@runtime_checkable
class Estimating(Protocol):
    """An evaluator that can tell what an evaluation costs."""

    def estimate(self, proposal: Proposal) -> float | None:
        """About how many seconds one takes here, found out within a few; None: unknown."""
        ...


@runtime_checkable
class EstimatingAll(Protocol):
    """An evaluator whose evaluations are not all alike, and that need not look at each to tell."""

    def estimate_all(self, proposals: Sequence[Proposal]) -> Sequence[float]:
        """About how many seconds each takes here, evaluated in this order."""
        ...


LOOKED_AT = 3
"""Number of proposals that are looked at to tell what others take."""


def estimate_all(evaluator: Evaluator, proposals: Sequence[Proposal]) -> list[float] | None:
    """About how many seconds each of some evaluations takes here, one after another; None: unknown."""
    if isinstance(evaluator, EstimatingAll):
        return list(evaluator.estimate_all(proposals))
    if not isinstance(evaluator, Estimating):
        return None
    found = [evaluator.estimate(proposal) for proposal in proposals[:LOOKED_AT]]
    known = [seconds for seconds in found if seconds is not None]
    return [sum(known) / len(known)] * len(proposals) if known else None
