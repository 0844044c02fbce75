"""The values that travel between strategy, evaluator, runner and store. Imports neither torch nor numpy."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from hashlib import blake2s
from typing import Any, Literal, NoReturn

from nastool.core.errors import Fault, hint

Scalar = str | int | float | bool | None
"""What an option's value may be; everything here is exactly representable in JSON."""

MAX_FLOAT = sys.float_info.max
Goal = Literal["max", "min"]
State = Literal["running", "done", "failed", "stopped"]
"""stopped: it ended before its training was whole, with a result of that fidelity."""


METRICS: Mapping[str, Goal] = {
    "val_acc": "max",  # in [0, 1]
    "test_acc": "max",  # in [0, 1]
    "train_acc": "max",  # in [0, 1]
    "shared_acc": "max",  # in [0, 1]: of the validation images, with weights that architectures share
    "val_loss": "min",  # nats
    "test_loss": "min",  # nats
    "train_loss": "min",  # nats
    "shared_loss": "min",  # nats, as shared_acc
    "shared_score": "max",  # a bonus for FLOPs less shared_loss
    "val_balanced_acc": "max",  # in [0, 1]: the mean over the classes of the accuracy on each
    "test_balanced_acc": "max",  # in [0, 1]
    "val_rmse": "min",  # in the target's units, as the next
    "test_rmse": "min",
    "val_mae": "min",
    "test_mae": "min",
    "val_r2": "max",  # at most 1
    "test_r2": "max",
    "val_ppl": "min",
    "test_ppl": "min",
    "latency_ms": "min",
    "params": "min",  # count
    "flops": "min",  # 2 x multiply-adds
    "memory_mb": "min",  # 10^6 bytes, of one example's forward pass
    "seconds": "min",
}
"""Metric names with a fixed unit and the direction in which each is better."""


@dataclass(frozen=True)
class Decision:
    """One choice an architecture makes.

    name: unique within its space, such as "layer3.op".
    options: the names of what can be chosen, at least one, all different.
    place: the layer or block that it belongs to, such as "layer3"; "" where the space has none.
    refers: for each option the place it stands for, "" for none; () where the decision refers to no place. An input
        decision has ("input1", "input2", "block1"), a skip connection, off or on, ("", "layer1"). A place
        without decisions of its own is one of the network's or cell's inputs.
    """

    name: str
    options: tuple[str, ...]
    place: str = ""
    refers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.options or len(set(self.options)) != len(self.options):
            raise ValueError(f"decision {self.name!r} needs options that differ: {self.options}")
        if self.refers and len(self.refers) != len(self.options):
            raise ValueError(f"decision {self.name!r}: need one place referred to for each option, got {self.refers}")

    @property
    def is_switch(self) -> bool:
        """Whether it only says if something earlier is connected: options off and on, in this order."""
        return len(self.refers) == 2 and not self.refers[0] and bool(self.refers[1])


@dataclass(frozen=True)
class SpaceRef:
    """Which search space: its registered name and the options it was built with, sorted by name."""

    name: str
    options: tuple[tuple[str, Scalar], ...] = ()

    @classmethod
    def of(cls, name: str, options: Mapping[str, Scalar]) -> SpaceRef:
        return cls(name, tuple(sorted(options.items())))

    @cached_property
    def canonical_json(self) -> str:
        return json.dumps([self.name, self.options], separators=(",", ":"))

    def __str__(self) -> str:
        shown = ", ".join(f"{key}={value}" for key, value in self.options)
        return f"{self.name}({shown})" if shown else self.name


def digest(value: object) -> str:
    """8 hexadecimal digits that name a JSON value, whatever the order of its keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return blake2s(text.encode(), digest_size=4).hexdigest()


@dataclass(frozen=True)
class Arch:
    """One member of a search space: for every decision, in order, the index of the option chosen."""

    space: SpaceRef
    choices: tuple[int, ...]

    @cached_property
    def key(self) -> str:
        """12 hexadecimal digits that name this architecture: BLAKE2s of its canonical JSON."""
        text = f"[{self.space.canonical_json},{list(self.choices)}]"
        return blake2s(text.encode(), digest_size=6).hexdigest()


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a strategy wants measured.

    parent: id of the trial whose weights or genes this one starts from.
    budget: fidelity for evaluators that provide "budget" (for training: epochs, > 0); None is their default.
    policy: the state of a policy that the evaluator trains (evaluators that provide "policy"); JSON only.
    inherit: weights are handed down (evaluators that provide "warm-start"): training begins with the parent's, if there
        is one, and leaves behind what a child needs to do the same.
    fidelity: where the training ends early, of evaluators that provide "fidelity": after how many epochs of all those
        that it would have, > 0. It leaves behind what it needs to go on, and its trial is "stopped"; None: it is whole.
    continues: id of the "stopped" trial of the same architecture whose training goes on here.
    again: id of the trial whose architecture is measured once more here, with another seed, as its search's final stage
        does; it makes no difference to the measurement.
    annealing: which part of the learning rate's schedule this training goes through, 0 <= from < to <= 1.
    notes: what only reports read, as JSON: "expected", the loss that the strategy's model expects; "frequencies", how
        often its own policy draws each option of each decision, as shares of 1; whatever else is worth keeping.
    """

    arch: Arch
    parent: int | None = None
    budget: float | None = None
    policy: Mapping[str, object] | None = None
    inherit: bool = False
    annealing: tuple[float, float] = (0.0, 1.0)
    notes: Mapping[str, object] = field(default_factory=dict, hash=False)
    fidelity: float | None = None
    continues: int | None = None
    again: int | None = None


@dataclass(frozen=True)
class Learnt:
    """What a policy tells its strategy after a round.

    best: its best guess. rounds_left: how many are still to come. candidates: after the last one, architectures to be
    scored; None: not known yet. frequencies, for reports: for each decision how often each of its options is drawn, as
    shares of 1; None: unknown.
    """

    best: tuple[int, ...]
    rounds_left: int
    candidates: tuple[tuple[int, ...], ...] | None = None
    frequencies: tuple[tuple[float, ...], ...] | None = field(default=None, compare=False)

    def to_json(self) -> dict[str, object]:
        """Without frequencies, which are a note."""
        found: dict[str, object] = {"best": list(self.best), "rounds_left": self.rounds_left}
        return found if self.candidates is None else {**found, "candidates": list(map(list, self.candidates))}

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Learnt:
        """As `to_json` wrote it."""
        candidates = found.get("candidates")
        return cls(
            tuple(found["best"]),
            int(found.get("rounds_left", 0)),
            None if candidates is None else tuple(map(tuple, candidates)),
        )


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What an evaluator measured.

    metrics: name to finite value; the names in METRICS have fixed units.
    seconds: cost of the measurement, >= 0 (real, or a table's simulated training time).
    checkpoint: file name of the weights, relative to the run's folder.
    policy: the updated policy, where the proposal carried one.
    artifacts: what else the trial left in files, by what it is; they are deleted together with the checkpoint. Each
        lies beside it and is named after the trial (`checkpoints.artifact_of`), relative to the run's folder.
    notes: what only reports read, as JSON: "frequencies", as of a proposal, after the round; whatever else is worth
        keeping.
    """

    metrics: Mapping[str, float]
    seconds: float
    checkpoint: str | None = None
    policy: Mapping[str, object] | None = None
    artifacts: Mapping[str, str] = field(default_factory=dict, hash=False)
    notes: Mapping[str, object] = field(default_factory=dict, hash=False)

    @property
    def learnt(self) -> Learnt | None:
        """The updated policy, of a round."""
        return Learnt.from_json(self.policy) if self.policy else None

    @property
    def all_metrics(self) -> dict[str, float]:
        """The metrics, and the cost as "seconds"."""
        return {**self.metrics, "seconds": self.seconds}


@dataclass(frozen=True)
class Objective:
    """What the search optimises."""

    metric: str
    goal: Goal

    @classmethod
    def parse(cls, text: str) -> Objective:
        """Read "val_acc" or "energy_mj:min". ValueError where the direction is unknown or misspelt."""
        metric, _, goal = text.partition(":")
        goal = goal or METRICS.get(metric, "")
        if not metric or goal not in ("max", "min"):
            near = hint(metric, METRICS)
            known = (
                f"; {near}" if near.startswith("did") else f" (:max and :min can be left out for {', '.join(METRICS)})"
            )
            raise ValueError(f"objective {text!r}: write METRIC:max or METRIC:min{known}")
        return cls(metric, "max" if goal == "max" else "min")

    @classmethod
    def parse_all(cls, given: str | Sequence[str]) -> tuple[Objective, ...]:
        """Read one, or several of which the first decides between what is else equal.

        Raises:
            ValueError: One is none, or two are of the same metric.
        """
        found = tuple(map(cls.parse, [given] if isinstance(given, str) else given))
        for number, each in enumerate(found):
            if each.metric in [other.metric for other in found[:number]]:
                raise ValueError(f"objective {each.metric!r} is given twice; keep one")
        if not found:
            raise ValueError("need an objective")
        return found

    def loss(self, metrics: Mapping[str, float]) -> float:
        """The metric as a loss: lower is better, always finite. ValueError where it is missing or not finite."""
        if self.metric not in metrics:
            raise ValueError(f"no metric {self.metric!r} among {', '.join(sorted(metrics)) or 'none'}")
        try:
            value = float(metrics[self.metric] + 0)
        except (TypeError, OverflowError):
            raise ValueError(f"{self.metric} is no number") from None
        if not math.isfinite(value):
            raise ValueError(f"{self.metric} is {value}")
        return -value if self.goal == "max" else value

    def value(self, loss: float) -> float:
        """The inverse of `loss`."""
        return -loss if self.goal == "max" else loss

    def __str__(self) -> str:
        return f"{self.metric}:{self.goal}"


def spelt(objectives: Sequence[Objective]) -> str | list[str]:
    """Objectives as files and databases have them, and `Objective.parse_all` reads them: one alone is text."""
    found = list(map(str, objectives))
    return found[0] if len(found) == 1 else found


def tie_break(metrics: Mapping[str, object]) -> tuple[float, float]:
    """What the better of two has less of that are equal by the objective; infinity for what was not measured.

    The validation loss in nats (with shared weights, the shared one): on few images many accuracies are equal. Then the
    number of parameters. Test metrics decide nothing.
    """

    def number(*names: str) -> float:
        for value in map(metrics.get, names):
            if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= MAX_FLOAT:
                return value
        return math.inf

    return number("val_loss", "shared_loss"), number("params")


@dataclass(frozen=True, slots=True)
class Trial:
    """One proposal and what became of it.

    id: 0, 1, 2, ... in the order asked.
    losses: one per objective, lower is better, the first before the others; empty unless state is "done".
    error: the reason, where state is "failed". fault: of which kind; None: it is not known.
    early: the same as losses, of its fidelity, where state is "stopped"; empty otherwise, so that what compares losses
        compares those of whole trainings alone.
    """

    id: int
    proposal: Proposal
    state: State = "running"
    evaluation: Evaluation | None = None
    losses: tuple[float, ...] = ()
    error: str | None = None
    early: tuple[float, ...] = ()
    fault: Fault | None = None

    @property
    def loss(self) -> float:
        """The first loss; infinity for a trial that is not done."""
        return self.losses[0] if self.losses else math.inf

    @property
    def fidelity(self) -> float | None:
        """How many epochs a trial that was stopped was trained, those before it went on included; else None."""
        if self.state != "stopped" or self.evaluation is None:
            return None
        last = self.evaluation.notes.get("last_step", self.proposal.fidelity)
        return last if isinstance(last, int | float) else None

    @property
    def rank(self) -> tuple[float, ...]:
        """What trials are ordered by, the best first: losses; among equal ones `tie_break`, then the earlier one.

        With several objectives the first counts before the second, and so on: the best is not dominated by any other.
        """
        metrics = {} if self.evaluation is None else self.evaluation.metrics
        return (*(self.losses or (math.inf,)), *tie_break(metrics), self.id)


@dataclass(frozen=True)
class Silence:
    """That a running trial makes no progress. since: seconds since 1970. how: "has been stopped", say."""

    since: float
    how: str


def loads(text: str) -> Any:
    """Any JSON value. ValueError with one clear line: also for NaN, a key twice, absurd nesting and numbers."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is no JSON value")

    def number(digits: str) -> float:
        value = float(digits)
        return value if math.isfinite(value) else refuse(digits[:60])

    def integer(digits: str) -> int:
        return int(digits) if len(digits) < 300 else refuse(f"a number of {len(digits):,} digits")

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            raise ValueError(f"key {next(k for k in keys if keys.count(k) > 1)[:60]!r} comes twice")
        return found

    try:
        return json.loads(text, parse_constant=refuse, parse_float=number, parse_int=integer, object_pairs_hook=once)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except json.JSONDecodeError as error:
        line = f"line {error.lineno} " if "\n" in text.strip() else ""
        raise ValueError(f"no valid JSON at {line}column {error.colno}: {error.msg}") from None
