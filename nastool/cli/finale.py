"""What `search` does once its trials are done: train the best from scratch, and say how far scores can be trusted."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nastool import options, registry, sharing
from nastool.cli import common
from nastool.cli.common import say
from nastool.cli.progress import Progress
from nastool.config import Plugged, RunConfig, RunFolder
from nastool.core import Arch, Objective, Proposal, Trial
from nastool.errors import InputError, NastoolError
from nastool.interfaces import Evaluator, SearchSpace, Strategy
from nastool.runner import Search, evaluate_all, test_best
from nastool.store import Store

if TYPE_CHECKING:
    from nastool.workers import Pool

TRAIN = "train"
"""The evaluator that trains from scratch."""
_SAMPLE = 0x72616E6B
"""Keeps the sample of random architectures apart from other draws with the same seed."""


class Listed(Strategy):
    """Proposes given architectures, in order."""

    name = "listed"

    def __init__(self, space: SearchSpace, archs: Sequence[Arch]) -> None:
        super().__init__(space)
        self.archs = archs
        self.asked = 0

    def ask(self) -> Proposal | None:
        if self.asked == len(self.archs):
            return None
        proposal = Proposal(self.archs[self.asked])
        self.remember(proposal)
        return proposal

    def remember(self, proposal: Proposal) -> None:
        self.asked += 1

    def tell(self, trial: Trial) -> None:
        pass


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
    scale: str | None
    ranking: int
    table: str | None

    @classmethod
    def read(cls, given: Mapping[str, Any], evaluator: Evaluator) -> Settings:
        retrain = given["retrain"]
        settings = cls(
            retrain=(3 if evaluator.shares_weights else 0) if retrain is None else retrain,
            baseline=given["baseline"] and evaluator.shares_weights,
            recipe=given["retrain_recipe"],
            scale=given["retrain_scale"],
            ranking=given["check_ranking"],
            table=given["ranking_table"],
        )
        if settings.ranking == 1:
            raise InputError("--check-ranking 1: a rank correlation needs at least 2 architectures")
        if settings.table is not None and not settings.ranking:
            raise InputError("--ranking-table goes with --check-ranking N: say how many architectures to compare")
        return settings

    @property
    def any(self) -> bool:
        return bool(self.retrain or self.ranking)

    def to_json(self) -> dict[str, Any]:
        return dict(vars(self))


@dataclass
class Outcome:
    """best: the best retrained trial; None: nothing was retrained. tested: its metrics on the test set.

    run: the folder of these trainings. report: facts for best.json. lines: the same for people.
    """

    best: Trial | None = None
    tested: Mapping[str, float] = field(default_factory=dict)
    run: Path | None = None
    origin: Mapping[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)


class Finale:
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
        if settings.retrain or (settings.ranking and settings.table is None):
            self.training = self._training()
            self._spec(self.folder.path).build()  # for its errors
        if settings.table is not None:
            if "table" not in space.provides:
                raise InputError(f"--ranking-table: space {space.name} has no published tables")
            self.table = _table(space, settings.table)

    # --- what is trained, and how

    def _training(self) -> Plugged:
        """Evaluator train on the same data and device, by the recipe for what a search found."""
        target = registry.load("evaluator", TRAIN)
        known = options.of(target)
        before = self.config.evaluator.options
        given = {key: value for key, value in before.items() if key in known}
        search_recipe = getattr(self.evaluator, "recipe", None)
        name = self.settings.recipe or (search_recipe.retrain if search_recipe else "") or None
        if self.evaluator.shares_weights or name is not None:
            given.update(recipe=name, epochs=None, batch_size=None, lr=None)
        if self.settings.scale is not None:
            given["scale"] = self.settings.scale
        elif self.evaluator.scale is not None:
            from nastool.recipes import load_recipe

            if name is None or not load_recipe(name).scale_for(self.space.Scale):
                given["scale"] = {key: int(value) for key, value in (common.scale_of(self.evaluator) or {}).items()}
            else:
                given["scale"] = None
        return Plugged(TRAIN, options.resolve("retraining", target, given))

    def _spec(self, workdir: Path) -> Any:
        assert self.training is not None
        return replace(self.config, evaluator=self.training).evaluator_spec(self.space, workdir)

    def _random(self) -> list[Arch]:
        """The sample of random architectures, no two equivalent; the smaller sample is the larger one's beginning."""
        wanted = max(self.settings.ranking, self.settings.retrain if self.settings.baseline else 0)
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
        return derive(store, self.space, 1)[0] if self.evaluator.shares_weights else best

    def scores(self, arch: Arch, store: Store) -> dict[str, float]:
        """What the search measured of an architecture, as far as training it gives no such metric."""
        trials = [t for t in derive(store, self.space, max(1, self.settings.retrain)) if t.proposal.arch == arch]
        metrics = trials[0].evaluation.metrics if trials and trials[0].evaluation else {}
        return {name: value for name, value in metrics.items() if name.startswith("shared_")}

    # --- doing it

    def run(self, store: Store, pool: Pool, workers: int, stop: Callable[[], bool]) -> Outcome | None:
        """None: interrupted; the same command goes on. pool: of the search's evaluator; closed before training."""
        outcome = Outcome()
        derived = derive(store, self.space, max(1, self.settings.retrain))
        sample = self._random()
        ranked = sample[: self.settings.ranking]
        scores: list[float] = []
        objective = Objective.parse(store.get("objective"))
        if ranked:
            say(f"scoring {len(ranked)} random architectures, to check the ranking")
            for evaluation in evaluate_all(pool, [Proposal(arch) for arch in ranked], stop):
                scores.append(-objective.loss(evaluation.all_metrics))
            if len(scores) < len(ranked):
                return None
        if self.evaluator.shares_weights:
            self._signs(store, [trial.proposal.arch for trial in derived], outcome)
        if self.table is not None:
            self._look_up(ranked, scores, derived[0], outcome)
        if self.training is None:
            return outcome
        pool.close()
        heads = [trial.proposal.arch for trial in derived[: self.settings.retrain]]
        beside = sample if self.table is None else sample[: self.settings.retrain if self.settings.baseline else 0]
        if not self._train(store, heads, beside, scores if self.table is None else [], workers, stop, outcome):
            return None
        return outcome

    def _train(
        self,
        store: Store,
        heads: list[Arch],
        beside: list[Arch],
        scores: list[float],
        workers: int,
        stop: Callable[[], bool],
        outcome: Outcome,
    ) -> bool:
        """Train what was found and the random ones as a search of its own in a folder below the run's."""
        from nastool import devices
        from nastool.workers import ProcessPool

        assert self.training is not None
        archs = [*heads, *beside]
        named = hashlib.blake2s(json.dumps([arch.key for arch in archs]).encode(), digest_size=8).hexdigest()
        config = replace(
            self.config,
            strategy=Plugged(Listed.name, {"architectures": named}),
            evaluator=self.training,
            objective=None,
        )
        folder = RunFolder(self.folder.path / f"retrain-{config.digest}")
        spec = self._spec(folder.path)
        evaluator = spec.build()
        found = f"{len(heads)} found" if heads else ""
        other = f"{len(beside)} random" if beside else ""
        say(f"training {' and '.join(filter(None, (found, other)))} from scratch in {folder.path}")
        slots = devices.slots(workers, str(self.training.options.get("device") or "auto"))
        with folder.locked(), closing(ProcessPool(spec, slots, logs=folder.path / "logs")) as pool:
            facts = pool.open()
            origin = {
                "scale": common.scale_of(evaluator),
                "evaluator": {
                    "name": TRAIN,
                    "options": {k: v for k, v in self.training.options.items() if v is not None and k != "data_dir"},
                },
            }
            if folder.check(config, False):
                inner = Store.open(folder.database)
            else:
                target = Objective.parse(evaluator.objective)
                folder.clear()
                folder.describe(config, target, facts, len(archs))
                about = {"config": config.identity, "objective": str(target), "origin": origin}
                inner = Store.create(folder.database, {**about, "fingerprint": facts.get("fingerprint")})
            with inner, Progress(len(archs)) as progress:
                search = Search(
                    inner,
                    Listed(self.space, archs),
                    pool,
                    Objective.parse(inner.get("objective")),
                    self.config.seed,
                    len(archs),
                    folder.path,
                    keep=len(archs),
                    stop=stop,
                    watch=progress.watch,
                )
                search.restore()
                inner.begin()
                inner.put("trials", len(archs))
                inner.commit()
                search.run()
                if search.told < len(archs):
                    return False
                trials = list(inner.trials())
                self._conclude(pool, trials[: len(heads)], trials[len(heads) :], scores, outcome)
                inner.begin()
                inner.put("final", {"trials": len(archs), "document": outcome.report})
                inner.commit()
        outcome.run, outcome.origin = folder.path, origin
        return True

    def _conclude(
        self, pool: Pool, heads: list[Trial], beside: list[Trial], scores: list[float], outcome: Outcome
    ) -> None:
        """Test the best that was found and the best random one, once each; compare scores with accuracies."""
        if heads:
            best = min(heads, key=lambda trial: (trial.loss, trial.id))
            if best.evaluation is None:
                raise NastoolError(f"none of the {len(heads)} architectures could be trained: {best.error}")
            outcome.best = best
            outcome.tested, problem = test_best(pool, best, self.config.seed)
            if problem is not None:
                raise NastoolError(f"the retrained architecture could not be tested: {problem}")
            metrics = {**best.evaluation.metrics, **outcome.tested}
            outcome.lines.append(f"best of {len(heads)} retrained: {_accuracies(metrics)}")
            others = beside[: len(heads)] if self.settings.baseline else []
            rival = min(others, key=lambda trial: (trial.loss, trial.id), default=None)
            if rival is not None and rival.evaluation is not None:
                tested, _ = test_best(pool, rival, self.config.seed)
                theirs = {**rival.evaluation.metrics, **tested}
                outcome.lines.append(f"best of {len(others)} random ones, trained the same: {_accuracies(theirs)}")
                outcome.report["random"] = {
                    "architectures": len(others),
                    "key": rival.proposal.arch.key,
                    "metrics": theirs,
                }
        if scores:
            pairs = [(score, -trial.loss) for score, trial in zip(scores, beside, strict=False) if trial.losses]
            self._ranking([a for a, _ in pairs], [b for _, b in pairs], "accuracy when trained from scratch", outcome)

    def _look_up(self, ranked: list[Arch], scores: list[float], best: Trial, outcome: Outcome) -> None:
        """Compare with the table."""
        assert self.table is not None
        self.table.prepare()

        def found(arch: Arch) -> dict[str, float]:
            assert self.table is not None
            evaluation = self.table.evaluate(0, Proposal(arch), seed=0, report=lambda step, metrics: None)
            return {**evaluation.metrics, **self.table.test(Proposal(arch), evaluation)}

        truths = [found(arch)[self.table.objective] for arch in ranked]
        self._ranking(scores, truths, f"{self.table.objective} of the table", outcome)
        own = found(best.proposal.arch)
        outcome.report["table"] = own
        outcome.lines.append(f"the best-scored architecture in the table: {common.describe_metrics(own)}")

    def _ranking(self, scores: list[float], truths: list[float], what: str, outcome: Outcome) -> None:
        ranking = sharing.rank_correlation(scores, truths)
        outcome.report["ranking"] = {**vars(ranking), "with": what}
        outcome.lines.append(f"ranking, score against {what}: {ranking}")

    def _signs(self, store: Store, derived: list[Arch], outcome: Outcome) -> None:
        entropy, candidates = None, None
        for trial in store.trials():
            if trial.proposal.policy is not None and trial.evaluation is not None:
                entropy = trial.evaluation.metrics.get("entropy")
                given: Any = trial.evaluation.policy or {}
                asked: Any = trial.proposal.policy
                if "candidates" in given:
                    candidates = (len(given["candidates"]), asked["options"]["candidates"])
        signs = sharing.collapse(self.space, derived, entropy, candidates)
        if signs:
            outcome.report["warnings"] = signs
            outcome.lines += [f"warning: the search may have collapsed: {sign}" for sign in signs]


def derive(store: Store, space: SearchSpace, count: int) -> list[Trial]:
    """The best trials, no two equivalent, best first: of those that were scored after a policy's rounds, if any."""

    def different(trials: Iterator[Trial]) -> list[Trial]:
        found: dict[str, Trial] = {}
        for trial in trials:
            found.setdefault(space.canonical(trial.proposal.arch), trial)
            if len(found) == count:
                break
        return list(found.values())

    best = store.best(sum(store.count().values()))
    return different(iter([t for t in best if t.proposal.policy is None])) or different(iter(best))


def _accuracies(metrics: Mapping[str, float]) -> str:
    return common.describe_metrics({name: metrics[name] for name in ("val_acc", "test_acc") if name in metrics})


def _table(space: SearchSpace, text: str) -> Evaluator:
    target = registry.load("evaluator", "table")
    try:
        given = options.mapping(text, str)
    except ValueError:
        raise InputError(f"--ranking-table {text}: write KEY=VALUE,..., such as file=t.npz,dataset=cifar10") from None
    found = options.resolve("--ranking-table", target, given)
    evaluator: Evaluator = registry.make("evaluator", "table", space, given=found)
    return evaluator
