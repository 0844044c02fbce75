"""Jobs for an evaluator, what comes back of them, and how one is carried out."""

from __future__ import annotations

import json
import math
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from nastool.core import options, registry
from nastool.core.costs import Costs
from nastool.core.errors import (
    CannotGoOn,
    Fault,
    InputError,
    NastoolError,
    TrialFailed,
    fault_of,
    kind_of,
    one_line,
    short,
)
from nastool.core.evaluator import Splitting, estimate_all
from nastool.core.limits import Limits, limited
from nastool.core.space import said
from nastool.core.values import Evaluation, Proposal, Scalar, SpaceRef
from nastool.engine.costs import check_names, costs_of, known
from nastool.engine.executors import tails
from nastool.nets import checkpoints

if TYPE_CHECKING:
    from nastool.core.evaluator import Evaluator

MAX_DEATHS = 2
"""Number of tries of a job whose worker dies, or whose evaluator says that another try may help."""
MAX_MOVES = 20
"""Number of tries of a job whose machines are taken away."""
BUGS = (TypeError, AttributeError, NameError, ImportError, NotImplementedError, RecursionError, SystemExit)
"""Errors that are a plugin's for every trial, as long as none has succeeded."""
OUTSIDE = 10**9
"""Smallest id of an evaluation that is no trial of a search, so that its checkpoint is none of a search's."""


@dataclass(frozen=True)
class EvaluatorSpec:
    """How to build the same evaluator in any process."""

    space: SpaceRef
    name: str
    options: Mapping[str, Any]
    workdir: Path | None = None
    seed: int = 0
    """The run's, for an evaluator that has a use for one beyond each trial's own."""
    strategy: str | None = None
    """Name of the strategy that searches, whose policy the evaluator may train; None: nobody searches."""
    limits: tuple[str, ...] = ()
    """Within which an evaluator draws architectures itself, where it trains weights that they share."""
    latency_threads: int = 1

    def build(self) -> Evaluator:
        space = registry.make_space(self.space)
        own = {"seed": self.seed} if options.accepts(registry.load("evaluator", self.name), "seed") else {}
        evaluator: Evaluator = registry.make("evaluator", self.name, space, given={**self.options, **own})
        if self.limits:
            limits = Limits.parse(self.limits)
            if not evaluator.inline:
                check_names(limits, evaluator)
            limits.costs = Costs(partial(costs_of, evaluator, threads=self.latency_threads), known(evaluator))
            evaluator.space = limited(space, limits)
        evaluator.workdir = self.workdir
        if self.strategy is not None and hasattr(evaluator, "make_policy"):
            evaluator.make_policy = getattr(registry.load("strategy", self.strategy), "make_policy", None)
        return evaluator


@dataclass(frozen=True)
class Job:
    """task: "evaluate" measures the proposal, "test" tests what `evaluation` measured before, "both" does both.

    "costs" finds what the architecture costs, by the names of `costs`, with so many CPU threads for a latency.
    "estimate" says what proposals take, by spec's evaluator if there is one.
    What it learnt from earlier tries, see `again`: deaths: how many of them ended with their worker. alone: with
    nothing else on the same GPU (of workers without one: nothing else at all). micro_batches: into how many parts each
    batch is split. shunned: the GPU that failed under it. moves: how many machines were taken away under it.
    """

    trial_id: int
    proposal: Proposal
    seed: int
    task: Literal["evaluate", "test", "both", "costs", "estimate"] = "evaluate"
    evaluation: Evaluation | None = None
    proposals: tuple[Proposal, ...] = ()
    spec: EvaluatorSpec | None = None
    deaths: int = 0
    alone: bool = False
    micro_batches: int = 1
    shunned: str | None = None
    moves: int = 0
    costs: tuple[str, ...] = ()
    threads: int = 1

    def __str__(self) -> str:
        return f"trial {self.trial_id}" if self.trial_id < OUTSIDE else f"architecture {self.proposal.arch.key}"


@dataclass(frozen=True)
class Reported:
    job: Job
    step: int
    metrics: Mapping[str, float]


@dataclass(frozen=True)
class Finished:
    """evaluation or error. job: what is left to do of it, where something was done before the error.

    retry: another try in a fresh process may help. unsound: the process must not evaluate anything else.
    fatal: the error is not the trial's own; nothing can go on before it is mended.
    fault: of which kind the error is. divisible: its batches can be split further. gpu: where it was, if the fault is
    of a device. given_up: the fault is that GPU's own, which is not used any more. bug: in the code of a plugin. log:
    what was printed last, or where an error was raised, as of `tails`.
    """

    job: Job
    evaluation: Evaluation | None = None
    tested: Mapping[str, float] | None = None
    error: str | None = None
    retry: bool = False
    unsound: bool = False
    fatal: bool = False
    fault: Fault | None = None
    divisible: bool = False
    gpu: str | None = None
    given_up: bool = False
    bug: bool = False
    log: str = ""


class Abandoned(BaseException):
    """A report was the last of a job whose result nobody wants any more. What an evaluator catches are other errors."""


JobEvent = Reported | Finished


def again(finished: Finished) -> Job | None:
    """The job as it is to be tried once more; None: it is done, or that was its last try.

    Where memory ran out: alone on its GPU; then with batches in 2, 4, ... parts, as far as its evaluator can split
    them. After a fault of its device: once more, on another GPU if there is one. Where it fails on two GPUs that
    work otherwise, the job is at fault. Where its machine was taken away: elsewhere, which says nothing of the job.
    """
    job = finished.job
    if finished.fatal or finished.error is None:
        return None
    if finished.fault == "memory":
        if not job.alone:
            return replace(job, alone=True)
        return replace(job, micro_batches=2 * job.micro_batches) if finished.divisible else None
    if finished.fault == "device":
        if finished.given_up:
            return job
        return replace(job, shunned=finished.gpu or "") if job.shunned is None else None
    if finished.fault == "machine" and finished.retry:
        return replace(job, moves=job.moves + 1) if job.moves + 1 < MAX_MOVES else None
    return replace(job, deaths=job.deaths + 1) if finished.retry and job.deaths + 1 < MAX_DEATHS else None


def perform(evaluator: Evaluator, job: Job, report: Any) -> Finished:
    """Run one job. Whatever the evaluator raises becomes the job's error; Ctrl-C does not."""
    evaluation = job.evaluation
    tested: Mapping[str, float] | None = None
    if hasattr(evaluator, "micro_batches"):  # as of `Splitting`, of which `isinstance` takes long
        evaluator.micro_batches = job.micro_batches
    try:
        if job.task == "costs":
            return Finished(job, tested=plain(costs_of(evaluator, job.proposal.arch, job.costs, job.threads)))
        if job.task == "estimate":
            return Finished(job, tested=estimated(evaluator if job.spec is None else job.spec.build(), job.proposals))
        if job.task != "test":
            evaluation = evaluator.evaluate(job.trial_id, job.proposal, seed=job.seed, report=report)
            evaluation = checked(evaluation, job.trial_id)
        if job.task != "evaluate":
            assert evaluation is not None
            tested = plain(evaluator.test(job.proposal, evaluation))
    except CannotGoOn as error:
        return Finished(job, error=one_line(error), fatal=True)
    except Abandoned:
        return Finished(job, error="abandoned")
    except (Exception, SystemExit) as error:
        fault = fault_of(error)
        who = (
            registry.blamed(error, evaluator, evaluator.space)
            if fault is None and not isinstance(error, NastoolError)
            else ""
        )
        retry = isinstance(error, TrialFailed) and error.retry
        if job.task == "both" and evaluation is not None:  # what it measured need not be measured again
            job = replace(job, task="test", evaluation=evaluation)
        return Finished(
            job,
            error=f"{short(one_line(error), 180)}{_with(job, evaluator, who)}; see {who}" if who else one_line(error),
            bug=bool(who) and isinstance(error, BUGS),
            retry=retry,
            # An error that is not ours may leave a device in a bad state (after some, CUDA answers nothing else).
            unsound=retry or fault is not None or not isinstance(error, NastoolError),
            fault=kind_of(error),
            log="" if isinstance(error, NastoolError) else tails.of_text(traceback.format_exc()),
            divisible=isinstance(evaluator, Splitting) and 2 * job.micro_batches <= evaluator.max_micro_batches,
        )
    return Finished(job, evaluation, tested)


def estimated(evaluator: Evaluator, proposals: Sequence[Proposal]) -> dict[str, float]:
    """Seconds of each proposal by its place, "0" first, as far as they are known; and of trainings their "epochs"."""
    evaluator.prepare()
    seconds = estimate_all(evaluator, proposals)
    facts = {name: fact for name, fact in evaluator.describe().items() if name in ("epochs", "batch_size")}
    return plain({**facts, **{str(number): each for number, each in enumerate(seconds or ())}})


def _with(job: Job, evaluator: Evaluator, who: str) -> str:
    """What a network was built of that a space is blamed for."""
    return f", with {said(evaluator.space, job.proposal.arch)}" if who.startswith("space ") else ""


def checked(found: Evaluation, trial_id: int) -> Evaluation:
    """What an evaluator returned of a trial, as the core promises it. TypeError: it is no evaluation."""
    if not isinstance(found, Evaluation):
        raise TypeError(f"the evaluator returned a {type(found).__name__}, not an Evaluation")
    if found.checkpoint is not None and not isinstance(found.checkpoint, str):
        raise TypeError(f"the evaluation's checkpoint is a {type(found.checkpoint).__name__}, not a text")
    for name in found.artifacts.values():
        if not checkpoints.is_artifact(name, trial_id):
            raise TypeError(f"artifact {name!r} is not named after its trial: use checkpoints.artifact_of")
    policy = None if found.policy is None else _as_json(found.policy)
    seconds = _number("seconds", found.seconds)
    if not 0 <= seconds < math.inf:
        raise TypeError(f"the evaluation's seconds are {seconds}")
    notes = _as_json(found.notes) if found.notes else {}
    return Evaluation(plain(found.metrics), seconds, found.checkpoint, policy, found.artifacts, notes)


def _as_json(found: Mapping[str, object]) -> dict[str, Any]:
    """A copy of a mapping as it is read from JSON. TypeError: it is none."""
    try:
        copy: dict[str, Any] = json.loads(json.dumps(dict(found), allow_nan=False))
    except ValueError as error:
        raise TypeError(f"what an evaluation holds is no JSON: {error}") from None
    return copy


def reported(job: Job, step: Any, metrics: Mapping[str, Any]) -> Reported:
    """An intermediate measurement of a job. TypeError: it is none."""
    return Reported(job, int(_number("step", step)), plain(metrics))


def plain(metrics: Mapping[str, Any]) -> dict[str, float]:
    """Metrics as Python numbers, whatever kind of number a plugin used. TypeError: it is none."""
    if not isinstance(metrics, Mapping):
        raise TypeError(f"metrics are a {type(metrics).__name__}, not a mapping of names to numbers")
    return {str(name): _number(name, value) for name, value in metrics.items()}


def _number(name: object, value: Any) -> float:
    if isinstance(value, int) and abs(value) < 2**63:
        return int(value)
    try:
        if not isinstance(value, str | bytes):
            return float(value)
    except (OverflowError, TypeError, ValueError):
        pass
    remedy = f": return {short(name)}.item(), of one element" if hasattr(value, "item") else ""
    raise TypeError(f"{short(name)} is no number that fits a float: it is of type {type(value).__name__}{remedy}")


def described(evaluator: Evaluator) -> dict[str, Scalar]:
    """An evaluator's facts; what is no plain value as text."""
    facts = evaluator.describe()
    if not isinstance(facts, Mapping):
        raise InputError(f"describe of {registry.whose(type(evaluator))} returned no mapping: {short(repr(facts))}")
    return {str(key): fact if isinstance(fact, Scalar) else str(fact) for key, fact in facts.items()}
