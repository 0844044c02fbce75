"""One search whose labels are an evaluator's scores, with what it found judged by a table afterwards.

The search is an ordinary run below the comparison's folder, so it goes on where it was killed, and `nastool top` shows
it. Weights that no policy trains with them depend on evaluator and seed alone: they lie beside, for all strategies.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nastool.analysis.bench.benchmark import Benchmark
from nastool.analysis.bench.specs import ScorerSpec, StrategySpec
from nastool.core import folders
from nastool.core.errors import InputError, NastoolError, TrialFailed
from nastool.core.evaluator import Evaluator, rounds_of, scoring_options
from nastool.core.files import write_atomic
from nastool.core.space import SearchSpace
from nastool.core.strategy import planned_trials
from nastool.core.values import Arch, Objective, Proposal, digest
from nastool.engine.aside import evaluate_all
from nastool.engine.config import RunConfig, RunFolder
from nastool.engine.events import TrialFinished
from nastool.engine.executors.base import Setting
from nastool.engine.executors.inline import Inline
from nastool.engine.executors.jobs import OUTSIDE
from nastool.engine.run import Watch, open_run

TOP = 0.1
"""Share of the table's architectures, the truly best, among which a ranking is looked at on its own."""
_SAMPLE = 0x73616D706C65
"""Keeps the sample of architectures apart from other draws with the same seed."""


@dataclass(frozen=True)
class Amounts:
    """How much of a search is asked for.

    trials: scores that a strategy without a policy of its own asks for. sample, top: architectures by which the ranking
    is judged, of all and of the best.
    """

    trials: int
    sample: int
    top: int


@dataclass(frozen=True)
class Judged:
    """A score, higher is better, and what its architecture is truly worth.

    value: in [0, 1]. rank: 1 + how many of the table's architectures are truly better. trial: of the search, from 1;
    cpu: CPU seconds of the search until it was known; both 0 for what is no part of the search.
    """

    score: float
    value: float
    rank: int
    trial: int = 0
    cpu: float = 0.0


@dataclass(frozen=True)
class Scored:
    """A finished search and what came of it.

    asked: the amounts, of which trials are None where the strategy has a policy and so a length of its own.
    candidates: all architectures that were scored with the final weights, the best score first. sample: architectures
    drawn uniformly, no two equivalent; top: such among the TOP of the table; neither where weights are not shared.
    Those without a true value are left out. cpu_seconds, seconds: CPU and wall time of the search, the training of
    shared weights included, the scores of sample and top not.
    """

    trials: int | None
    asked: tuple[int, int]
    candidates: tuple[Judged, ...]
    sample: tuple[Judged, ...]
    top: tuple[Judged, ...]
    cpu_seconds: float
    seconds: float

    def __post_init__(self) -> None:
        judged = (*self.candidates, *self.sample, *self.top)
        if not all(0 <= one.value <= 1 and one.rank > 0 for one in judged) or min(self.cpu_seconds, self.seconds) < 0:
            raise ValueError("what a search is said to have found is none of it")

    def to_json(self) -> dict[str, object]:
        lists = ("candidates", "sample", "top")
        return {**vars(self), **{name: [list(vars(one).values()) for one in getattr(self, name)] for name in lists}}

    def within(self, cpu_seconds: float) -> Judged | None:
        """What had the best score after so much CPU time; None: nothing was known yet, or it was not that long."""
        if cpu_seconds > self.cpu_seconds:
            return None
        return next((one for one in self.candidates if one.cpu <= cpu_seconds), None)

    def covers(self, amounts: Amounts) -> bool:
        """True if it tells all that is asked for."""
        enough = self.trials is None or amounts.trials <= self.trials
        return enough and amounts.sample <= self.asked[0] and amounts.top <= self.asked[1]

    def cut(self, amounts: Amounts) -> Scored:
        """What a search of less would have found. The samples of fewer are the beginnings of those of more."""
        sample, top = self.sample[: amounts.sample], self.top[: amounts.top]
        if self.trials is None or self.trials <= amounts.trials:
            return replace(self, sample=sample, top=top)
        kept = tuple(one for one in self.candidates if one.trial <= amounts.trials)
        cpu = max((one.cpu for one in kept), default=self.cpu_seconds)
        seconds = self.seconds * cpu / self.cpu_seconds if self.cpu_seconds else self.seconds
        return replace(
            self, trials=amounts.trials, candidates=kept, sample=sample, top=top, cpu_seconds=cpu, seconds=seconds
        )


class Kept(Protocol):
    """What stays when the process ends: a run's store, or a file."""

    def get(self, key: str) -> Any: ...
    def write(self, values: Mapping[str, object]) -> None: ...


class KeptInFile:
    """JSON values by name in a file, which is replaced as a whole."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values: dict[str, object] = {}
        if path.is_file():
            try:
                self._values = dict(json.loads(path.read_text(encoding="utf-8")))
            except (OSError, TypeError, ValueError):
                raise InputError(f"{path} is damaged: delete its folder, and the weights are trained again") from None

    def get(self, key: str) -> Any:
        return self._values.get(key)

    def write(self, values: Mapping[str, object]) -> None:
        self._values |= values
        write_atomic(self._path, json.dumps(self._values))


class Meter:
    """Time that this process and those before it used for one thing; a kill loses at most half a second of it.

    cpu, wall: seconds. after: CPU seconds until each trial was over.
    """

    def __init__(self, kept: Kept) -> None:
        found = kept.get("spent") or {"cpu": 0.0, "wall": 0.0, "after": []}
        self.cpu, self.wall = float(found["cpu"]), float(found["wall"])
        self.after: list[float] = list(found["after"])
        self._kept = kept
        self._last = self._saved = time.process_time(), time.perf_counter()

    def tick(self, save: bool = False) -> None:
        """Add what was used since the last time."""
        now = time.process_time(), time.perf_counter()
        self.cpu += now[0] - self._last[0]
        self.wall += now[1] - self._last[1]
        self._last = now
        if save or now[1] - self._saved[1] > 0.5:
            self._saved = now
            self._kept.write({"spent": {"cpu": self.cpu, "wall": self.wall, "after": self.after}})

    def trial(self, number: int) -> None:
        """A trial is over. number: of those before it."""
        self.tick()
        self.after = [*self.after[:number], *[self.cpu] * (number + 1 - len(self.after[:number]))]


def carry_out(
    strategy: StrategySpec,
    scorer: ScorerSpec,
    benchmark: Benchmark,
    seed: int,
    folder: Path,
    amounts: Amounts,
    force: bool = False,
) -> Scored:
    """Search, or go on with it; then ask the table, of which the search knows nothing.

    Args:
        strategy: Who proposes.
        scorer: Who scores.
        benchmark: The table.
        seed: Of the search and of the samples.
        folder: The comparison's.
        amounts: How much of it.
        force: Begin the search anew; weights that no policy was trained with stay.

    Raises:
        InputError: It cannot begin, or not go on.
        NastoolError: It failed.
    """
    ref = benchmark.spec.space
    names = (strategy.name, strategy.options), (ref.name, dict(ref.options)), (scorer.name, scorer.options)
    config = RunConfig.resolve(*names, seed, None)
    space = config.make_space()
    searcher = config.make_strategy(space)
    own = RunFolder(folder / "searches" / f"{strategy.name}-{ref.name}-{config.digest}")
    evaluator = config.evaluator_spec(space, own.path).build()
    planned = planned_trials(searcher, rounds_of(evaluator)) if "policy" in searcher.needs else None
    with ExitStack() as stack:
        beside: Kept | None = None
        cpu = wall = 0.0
        if "shared-weights" in evaluator.provides and planned is None:
            weights = folder / "weights" / f"{scorer.name}-{ref.name}-{_trained_as(config, evaluator)}"
            taken = f"{weights} is being trained by process {{holder}}"
            stack.enter_context(folders.locked(weights, "weights.lock", taken, math.inf))
            evaluator.workdir, beside = weights, KeptInFile(weights / "kept.json")
            cpu, wall = _train(evaluator, beside, seed)
        inline = Inline(evaluator)
        watch = Watch(lambda event: None)
        run = stack.enter_context(
            open_run(config, evaluator, own, Setting(), watch, executor=inline, force=force, options={})
        )
        meter = Meter(run.store)
        run.watch = Watch(lambda event: meter.trial(event.number) if isinstance(event, TrialFinished) else None)
        search = run.search(searcher, planned or amounts.trials)
        meter.tick(save=True)
        if search.best is None:
            raise NastoolError(f"all {search.failed} trials failed; see `nastool status {own.path}`")
        finished = sorted((trial for trial in run.store.trials() if trial.losses), key=lambda trial: trial.rank)
        judge = partial(_judged, benchmark)
        candidates = [
            judge(trial.proposal.arch, -trial.loss, trial.id + 1, cpu + meter.after[trial.id])
            for trial in finished
            if trial.proposal.policy is None
        ]
        samples = []
        shares = "shared-weights" in evaluator.provides  # else each score would be a training more
        drawn = (_uniform(space, seed, amounts.sample), benchmark.best(TOP, amounts.top, seed)) if shares else ([], [])
        for archs in drawn:
            kept, by = (run.store, "") if beside is None else (beside, _scored_as(config, evaluator))
            scores = _scores(inline, archs, kept, by)
            samples.append([judge(arch, score) for arch, score in zip(archs, scores, strict=True)])
    sample, top = (tuple(filter(None, judged)) for judged in samples)
    return Scored(
        trials=None if planned is not None else amounts.trials,
        asked=(amounts.sample, amounts.top),
        candidates=tuple(filter(None, candidates)),
        sample=sample,
        top=top,
        cpu_seconds=cpu + meter.cpu,
        seconds=wall + meter.wall,
    )


def _trained_as(config: RunConfig, evaluator: Evaluator) -> str:
    """Names shared weights that no policy was trained with."""
    said = config.identity["evaluator"]
    options = {name: value for name, value in said["options"].items() if name not in scoring_options(evaluator)}
    return digest([config.identity["space"], {**said, "options": options}, config.identity["resolved"], config.seed])


def _scored_as(config: RunConfig, evaluator: Evaluator) -> str:
    """Names how such weights are scored."""
    options = config.identity["evaluator"]["options"]
    return digest([evaluator.objective, {name: options.get(name) for name in sorted(scoring_options(evaluator))}])


def _train(evaluator: Evaluator, kept: Kept, seed: int) -> tuple[float, float]:
    """Train shared weights without a policy, or go on with it. Returns CPU and wall seconds, of earlier calls, too."""
    evaluator.prepare()
    meter = Meter(kept)
    if not kept.get("trained"):
        arch = evaluator.space.sample(np.random.default_rng([seed, _SAMPLE]))
        evaluator.evaluate(OUTSIDE, Proposal(arch), seed=0, report=lambda step, metrics: meter.tick(save=True))
        kept.write({"trained": True})
    return meter.cpu, meter.wall


def _uniform(space: SearchSpace, seed: int, count: int) -> list[Arch]:
    """So many architectures drawn uniformly, no two equivalent; fewer where there are no more."""
    rng = np.random.default_rng([seed, _SAMPLE])
    found: dict[str, Arch] = {}
    while len(found) < count and (arch := space.sample_new(rng, found, space.canonical)) is not None:
        found[space.canonical(arch)] = arch
    return list(found.values())


def _scores(executor: Inline, archs: Sequence[Arch], kept: Kept, by: str) -> list[float]:
    """The score of each, higher is better; those that are known already are not measured again. by: names how."""
    kept_as = f"scores{by and '-'}{by}"
    known: dict[str, float] = kept.get(kept_as) or {}
    (objective,) = Objective.parse_all(executor.evaluator.objective)
    new = [arch for arch in archs if arch.key not in known]
    found = evaluate_all(executor, [Proposal(arch) for arch in new], lambda: False)
    known |= {arch.key: -objective.loss(one.all_metrics) for arch, one in zip(new, found, strict=True)}
    kept.write({kept_as: known})
    return [known[arch.key] for arch in archs]


def _judged(benchmark: Benchmark, arch: Arch, score: float, trial: int = 0, cpu: float = 0.0) -> Judged | None:
    """None: the table does not know what the architecture is worth."""
    try:
        value = benchmark.table.true_value(Proposal(arch))
    except TrialFailed:
        return None
    return None if math.isnan(value) else Judged(score, value, benchmark.rank(value), trial, cpu)
