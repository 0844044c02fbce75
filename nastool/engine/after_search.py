"""What `search` does once its trials are done: train the best from scratch, and say how far scores can be trusted."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nastool.core import defaults, options, registry, statistics
from nastool.core.errors import InputError, NastoolError, TrialFailed, short
from nastool.core.evaluator import Evaluator
from nastool.core.registry import misfits
from nastool.core.space import SearchSpace
from nastool.core.strategy import Strategy, members
from nastool.core.values import Arch, Objective, Proposal, Trial
from nastool.core.wording import describe_metrics, qualities
from nastool.engine import planning, retraining
from nastool.engine.aside import evaluate_all
from nastool.engine.config import Plugged, RunConfig, RunFolder
from nastool.engine.executors.base import Executor, Setting
from nastool.engine.executors.jobs import EvaluatorSpec
from nastool.engine.planning import Estimate, Timing, Trainings
from nastool.engine.ranking import derive, finalists
from nastool.engine.retraining import Trained
from nastool.engine.run import Run, Watch, scale_of
from nastool.engine.store import Store
from nastool.engine.verdict import verdict, verdicts

if TYPE_CHECKING:
    from nastool.engine.command_options import Scale, SearchOptions

_SAMPLE = 0x72616E6B
"""Keeps the sample of random architectures apart from other draws with the same seed."""


@dataclass(frozen=True)
class Settings:
    """The flags.

    retrain: how many of the best are trained from scratch; 0: none. baseline: as many random ones beside them.
    recipe, scale: of these trainings. ranking: size of the sample on which scores are compared with accuracies.
    table: options of evaluator table, where these accuracies are looked up instead.
    """

    retrain: int
    baseline: bool
    recipe: str | None
    scale: Scale | None
    ranking: int
    table: Mapping[str, object] | str | None

    @classmethod
    def read(cls, given: SearchOptions, strategy: Strategy, evaluator: Evaluator) -> Settings:
        """Return what the options say. InputError: they do not go together."""
        retrain = given.retrain
        if retrain is None:
            retrain = (members(strategy) or 4) if "shared-weights" in evaluator.provides else 0
        settings = cls(
            retrain=retrain,
            baseline=given.baseline and "shared-weights" in evaluator.provides,
            recipe=given.retrain_recipe,
            scale=given.retrain_scale,
            ranking=given.check_ranking,
            table=given.ranking_table,
        )
        if settings.ranking == 1:
            raise InputError("--check-ranking 1: a rank correlation needs at least 2 architectures")
        if settings.table is not None and not settings.ranking:
            raise InputError("--ranking-table goes with --check-ranking N: say how many architectures to compare")
        if not settings.trains:
            for flag, value in (("--retrain-recipe", settings.recipe), ("--retrain-scale", settings.scale)):
                if value is not None:
                    raise InputError(f"{flag} goes with --retrain K: say how many architectures to train")
        return settings

    @property
    def trains(self) -> bool:
        """Whether anything is trained from scratch."""
        return bool(self.retrain or (self.ranking and self.table is None))

    @property
    def any(self) -> bool:
        return bool(self.retrain or self.ranking)

    def as_options(self) -> dict[str, object]:
        """As part of a configuration file's `search` section: what differs from doing nothing, and all that matters."""
        found: dict[str, object] = {"retrain": self.retrain}
        if self.retrain:
            found["baseline"] = self.baseline
        if self.ranking:
            found.update({"check-ranking": self.ranking, "ranking-table": self.table})
        found.update({"retrain-recipe": self.recipe, "retrain-scale": self.scale})
        return {key: value for key, value in found.items() if value is not None}

    def to_json(self) -> dict[str, object]:
        return dict(vars(self))


@dataclass
class Outcome:
    """best: the best retrained trial; None: nothing was retrained. tested: its metrics on the test set.

    run: the folder of these trainings. report: facts for best.json. lines: the same for people. members: files of the
    networks that make an ensemble, where the strategy finds one.
    """

    best: Trial | None = None
    tested: Mapping[str, float] = field(default_factory=dict)
    run: Path | None = None
    origin: Mapping[str, object] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
    members: list[Path] = field(default_factory=list)


class AfterSearch:
    """Everything after the trials of one search."""

    def __init__(
        self, config: RunConfig, space: SearchSpace, evaluator: Evaluator, folder: RunFolder, settings: Settings
    ) -> None:
        """InputError: the settings do not fit; nothing is read yet."""
        self.config = config
        self.space = space
        self.evaluator = evaluator
        self.folder = folder
        self.settings = settings
        self.training: Plugged | None = None
        self.table: Evaluator | None = None
        if settings.trains:
            self.training = self._training()
            try:
                self._spec(self.folder.path).build()
            except InputError as error:
                raise InputError(f"{self._flag()}: {error}") from None
        if settings.table is not None:
            if "table" not in space.provides:
                raise InputError(f"--ranking-table: space {space.name} has no published tables")
            self.table = _table(space, settings.table)

    def prepare(self) -> None:
        """Read the table now rather than at the end. InputError says what is wrong with it."""
        if self.table is not None:
            self.table.prepare()

    def identity(self) -> dict[str, object]:
        """What a result depends on beside the search: the same flags may name a recipe that has changed."""
        training = None if self.training is None else replace(self.config, evaluator=self.training).identity
        return {**self.settings.to_json(), "training": training and [training["evaluator"], training["resolved"]]}

    def wanted(self, trials: int | None) -> Trainings:
        """What is trained from scratch, at most, after so many trials; None: after any number."""
        found = self.settings.retrain if trials is None else min(self.settings.retrain, trials)
        sampled = self.settings.ranking if self.settings.table is None else 0
        return Trainings(found, found if self.settings.baseline else 0, sampled)

    def estimate(self, executor: Executor, arch: Arch) -> Estimate | None:
        """What one of these trainings takes, found out in a worker of the search; None: nothing is trained."""
        if self.training is None:
            return None
        return planning.estimate(executor, [Proposal(arch)], self._spec(self.folder.path))

    # --- what is trained, and how

    def _flag(self) -> str:
        return "--retrain" if self.settings.retrain else "--check-ranking"

    def _training(self) -> Plugged:
        """Evaluator train on the same data and device, by the recipe for what a search found."""
        target = registry.load("evaluator", defaults.TRAINING)
        if reasons := misfits(None, type(self.space), target):
            raise InputError(f"{self._flag()}: {'; '.join(reasons)}")
        before = self.config.evaluator.options
        if "data" not in before:
            run = shlex.quote(str(self.folder.path))
            instead = "look accuracies up with --ranking-table"
            if self.settings.retrain:
                instead = f"afterwards give `nastool top {run} -k 3 | nastool eval - --data NAME`"
            raise InputError(f"{self._flag()}: evaluator {self.evaluator.name} has no data to train on; {instead}")
        final = retraining.Final(
            self.space,
            before,
            getattr(self.evaluator, "recipe", None),
            same="shared-weights" not in self.evaluator.provides,
            scale=scale_of(self.evaluator),
            recipe=self.settings.recipe,
            changes=self.settings.scale,
            flags=("--retrain-recipe", "--retrain-scale"),
        )
        return final.training(self._flag(), {})

    def _spec(self, workdir: Path) -> EvaluatorSpec:
        assert self.training is not None
        return replace(self.config, evaluator=self.training).evaluator_spec(self.space, workdir)

    def _random(self, baseline: int) -> list[Arch]:
        """The sample of random architectures, no two equivalent; the smaller sample is the larger one's beginning."""
        wanted = max(self.settings.ranking, baseline)
        rng = np.random.default_rng([self.config.seed, _SAMPLE])
        found: dict[str, Arch] = {}
        while len(found) < wanted:
            arch = self.space.sample_new(rng, found, self.space.canonical)
            if arch is None:
                break
            found[self.space.canonical(arch)] = arch
        return list(found.values())

    def best(self, best: Trial, store: Store) -> Trial:
        """The search's result, unless it is retrained: of shared weights, the best score with the final ones."""
        return derive(store, self.space, 1)[0] if "shared-weights" in self.evaluator.provides else best

    def scores(self, arch: Arch, store: Store) -> dict[str, float]:
        """What the search measured of an architecture, as far as training it gives no such metric."""
        trials = [t for t in derive(store, self.space, max(1, self.settings.retrain)) if t.proposal.arch == arch]
        metrics = trials[0].evaluation.metrics if trials and trials[0].evaluation else {}
        return {name: value for name, value in metrics.items() if name.startswith("shared_")}

    # --- doing it

    def run(self, run: Run, setting: Setting, executor: str | None, timing: Timing | None = None) -> Outcome | None:
        """Do it; None: interrupted, and the same command goes on. The verdicts on shared weights come first.

        Args:
            run: The search's, whose executor is closed before anything is trained.
            setting, executor: Of the trainings.
            timing: The search's, where it has a limit; None: there is time for all.
        """
        outcome = self._run(run, setting, executor, timing)
        if outcome is not None and "shared-weights" in self.evaluator.provides:
            derived = [trial.proposal.arch for trial in derive(run.store, self.space, 1)]
            said = verdicts(self.space, list(run.store.trials()), derived, outcome.report)
            outcome.report = {"verdicts": said, **outcome.report}
        return outcome

    def _run(self, run: Run, setting: Setting, executor: str | None, timing: Timing | None) -> Outcome | None:
        store, watch = run.store, run.watch
        outcome = Outcome()
        derived = finalists(store, self.space, max(1, self.settings.retrain))
        found = derived or list(store.trials())[:1]  # no time for a result: a guess
        heads = ([trial.proposal.arch for trial in found] or self._random(1))[: self.settings.retrain]
        rivals = len(heads) if self.settings.baseline and found else 0
        sample = self._random(rivals)
        ranked = sample[: self.settings.ranking]
        scores: list[float] = []
        if ranked and (left := _rounds_left(store)):
            watch.note(
                f"note: the ranking is not checked: the search ended {left} rounds before its end; give more --trials"
            )
            ranked, sample = [], sample[:rivals]
        if ranked:
            watch.note(f"scoring {len(ranked)} random architectures, to check the ranking")
            scores = self._scores(ranked, run)
            if len(scores) < len(ranked):
                return None
        if self.table is not None:
            self._look_up(ranked, scores, derived[0], outcome)
        if self.training is None:
            return outcome
        scores = scores if self.table is None else []
        plan = Trainings(len(heads), rivals, len(scores))
        if timing is not None:
            plan = timing.trainings(run, plan, (heads or sample)[0])
        run.executor.close()
        scores = scores[: plan.ranked]
        beside = sample[: max(plan.random, plan.ranked)]
        if not plan.count:
            return outcome
        trained = self._train(heads[: plan.found], beside, scores, plan, setting, executor, watch, outcome, timing)
        return outcome if trained else None

    def _scores(self, archs: list[Arch], run: Run) -> list[float]:
        """The score of each, higher is better; fewer where it is to stop. What is found is kept for the next time."""
        store = run.store
        objective = store.objectives[0]
        known: dict[str, float] = store.get("scores") or {}
        new = [arch for arch in archs if arch.key not in known]

        saved = time.monotonic()
        found = evaluate_all(run.executor, [Proposal(arch) for arch in new], run.watch.stop)
        for arch, evaluation in zip(new, found, strict=False):
            if evaluation.checkpoint is not None:
                (self.folder.path / evaluation.checkpoint).unlink(missing_ok=True)
            try:
                known[arch.key] = -objective.loss(evaluation.all_metrics)
            except ValueError as error:
                raise NastoolError(f"--check-ranking: architecture {arch.key} has no score: {error}") from None
            if time.monotonic() - saved > 5:
                store.write({"scores": known})
                saved = time.monotonic()
        store.write({"scores": known})
        return [known[arch.key] for arch in archs if arch.key in known]

    def _train(
        self,
        heads: list[Arch],
        beside: list[Arch],
        scores: list[float],
        plan: Trainings,
        setting: Setting,
        executor: str | None,
        watch: Watch,
        outcome: Outcome,
        timing: Timing | None,
    ) -> bool:
        """Train what was found and the random ones as a search of its own in a folder below the run's."""
        assert self.training is not None
        archs = [*heads, *beside]
        changed = {name: value for name in ("epochs", "batch_size") if (value := getattr(plan, name)) is not None}
        training = replace(self.training, options={**self.training.options, **changed})
        config = retraining.listed(self.config, training, archs)
        folder = RunFolder(self.folder.path / f"retrain-{config.digest}")
        found = f"{len(heads)} found" if heads else ""
        other = f"{len(beside)} random" if beside else ""
        watch.note(f"training {' and '.join(filter(None, (found, other)))} from scratch in {folder.path}")
        ends = None if timing is None else timing.afterwards()
        trainings = retraining.trained(
            config, self.space, archs, folder, setting, watch, executor=executor, stopping=ends
        )
        with trainings as trained:
            if trained is None:
                return False
            objective = trained.run.store.objectives[0]
            if not self._conclude(trained, len(heads), scores, objective, outcome):
                return False
            if members(self.config.make_strategy(self.space)) is not None:
                own = [trial.evaluation for trial in trained.trials[: len(heads)] if trial.evaluation is not None]
                outcome.members = [folder.path / e.checkpoint for e in own if e.checkpoint and "val_acc" in e.metrics]
            trained.run.finish(sum(trial.state != "running" for trial in trained.trials), outcome.report)
            outcome.run, outcome.origin = folder.path, trained.run.store.origin
        return True

    def _conclude(
        self,
        trained: Trained,
        count: int,
        scores: list[float],
        objective: Objective,
        outcome: Outcome,
    ) -> bool:
        """Test what was found (the first `count`) and the random ones, once each; compare scores with accuracies.

        The result is the best by validation. Tests decide nothing but what is said of found against random. False:
        interrupted.
        """
        heads, beside = trained.trials[:count], trained.trials[count:]
        watch = trained.run.watch
        if heads:
            best = min(heads, key=lambda trial: trial.rank)
            if best.evaluation is None and any(trial.state == "running" for trial in heads):
                watch.note("note: the time was up before anything was trained from scratch; more --time does it")
                return True
            if best.evaluation is None:
                raise NastoolError(f"none of the {len(heads)} architectures could be trained: {best.error}")
            others = [trial for trial in beside if trial.state != "running"] if self.settings.baseline else []
            tested: dict[int, Mapping[str, float]] = {}
            for trial in [best, *heads, *others] if others else [best]:
                if trial.id in tested or trial.evaluation is None:
                    continue
                if watch.stop():
                    return False
                metrics, problem = trained.test(trial, self.config.seed)
                if problem is not None and trial is best:
                    raise NastoolError(f"the retrained architecture could not be tested: {problem}")
                if problem is not None:
                    watch.note(f"note: architecture {trial.proposal.arch.key} could not be tested: {problem}")
                tested[trial.id] = {**trial.evaluation.metrics, **metrics}
                outcome.tested = metrics if trial is best else outcome.tested
            outcome.best = best
            outcome.lines.append(f"best of {len(heads)} retrained: {describe_metrics(qualities(tested[best.id]))}")
            rivals = others[: len(heads)]
            rival = min(rivals, key=lambda trial: trial.rank, default=None)
            if rival is not None and rival.evaluation is not None:
                theirs = tested[rival.id]
                outcome.lines.append(
                    f"best of {len(rivals)} random ones, trained the same: {describe_metrics(qualities(theirs))}"
                )
                outcome.report["random"] = {
                    "architectures": len(rivals),
                    "key": rival.proposal.arch.key,
                    "metrics": dict(theirs),
                }
                samples = [[tested[t.id] for t in trials if t.id in tested] for trials in (heads, others)]
                outcome.report["verdict"] = verdict(samples[0], samples[1], objective)
        if scores:
            pairs = [(score, -trial.loss) for score, trial in zip(scores, beside, strict=False) if trial.losses]
            what = f"{objective.metric} when trained from scratch"
            self._ranking([a for a, _ in pairs], [b for _, b in pairs], what, outcome)
        return True

    def _look_up(self, ranked: list[Arch], scores: list[float], best: Trial, outcome: Outcome) -> None:
        """Compare with the table."""
        table = self.table
        assert table is not None

        def found(arch: Arch) -> dict[str, float] | None:
            """None: the table lacks it."""
            try:
                evaluation = table.evaluate(0, Proposal(arch), seed=0, report=lambda step, metrics: None)
            except TrialFailed:
                return None
            return {**evaluation.metrics, **table.test(Proposal(arch), evaluation)}

        if ranked:
            looked_up = [(score, found(arch)) for score, arch in zip(scores, ranked, strict=True)]
            pairs = [(score, metrics[table.objective]) for score, metrics in looked_up if metrics is not None]
            self._ranking([a for a, _ in pairs], [b for _, b in pairs], f"{table.objective} of the table", outcome)
        if (own := found(best.proposal.arch)) is not None:
            outcome.report["table"] = own
            outcome.lines.append(f"the best-scored architecture in the table: {describe_metrics(own)}")

    def _ranking(self, scores: list[float], truths: list[float], what: str, outcome: Outcome) -> None:
        ranking = statistics.rank_correlation(scores, truths)
        outcome.report["ranking"] = {**vars(ranking), "with": what}
        if "shared-weights" not in self.evaluator.provides:
            outcome.lines.append(f"ranking, score against {what}: {ranking}")


def _rounds_left(store: Store) -> int:
    """How many rounds of a policy are still to come; 0 for a search without one."""
    left = 0
    for trial in store.trials():
        if trial.evaluation is not None and (learnt := trial.evaluation.learnt) is not None:
            left = learnt.rounds_left
    return left


def _table(space: SearchSpace, text: Mapping[str, object] | str) -> Evaluator:
    target = registry.tabular()
    try:
        given = options.mapping(text, str)
    except InputError as error:
        raise InputError(f"--ranking-table: {error}") from None
    except ValueError:
        raise InputError(
            f"--ranking-table {short(repr(text))}: write KEY=VALUE,..., such as file=t.npz,dataset=cifar10"
        ) from None
    found = options.resolve("--ranking-table", target, given)
    evaluator: Evaluator = registry.make("evaluator", target.name, space, given=found)
    return evaluator
