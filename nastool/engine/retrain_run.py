"""What was found, trained for use: all training images, the final recipe, several seeds, one look at the test set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nastool.core import defaults, invocation, options, registry
from nastool.core.archfile import ArchDocument
from nastool.core.errors import InputError, NastoolError
from nastool.core.recipe import Recipe
from nastool.core.registry import misfits
from nastool.core.values import Scalar
from nastool.core.yaml_files import read_yaml
from nastool.engine import results, retraining
from nastool.engine.arguments import seeds as seeds_of
from nastool.engine.command_options import RetrainOptions
from nastool.engine.config import RETRAINED, Plugged, RunConfig, RunFolder
from nastool.engine.events import Ended
from nastool.engine.executors.base import Setting
from nastool.engine.results import Report, Result, of_seeds
from nastool.engine.retraining import Trained
from nastool.engine.run import Watch, check_data, interruptible
from nastool.engine.store import Store
from nastool.nets import checkpoints
from nastool.training.evaluator import TrainingEvaluator
from nastool.training.recipes import default_recipe, load_recipe

LOCAL = ("data_dir", "device")
"""What a run's configuration says of where it ran, and holds for what follows from it: where to read, no more."""


@dataclass
class RetrainRun:
    """Trainings that are resolved and checked, with nothing begun; `carry_out` begins or continues them.

    Attributes:
        document: The architecture, with what its line says of where it was found.
        config: Of the trainings.
        folder: Of their run.
        seeds: One training with each, at least one.
        setting: How many at a time.
        force: Train although the data are not those of the run any more, and in place of other trainings.
        report: As of `SearchRun`.
        executor: As of `open_run`.
    """

    document: ArchDocument
    config: RunConfig
    folder: RunFolder
    seeds: list[int]
    setting: Setting
    force: bool
    report: Report | None
    executor: str | None

    @classmethod
    def of(cls, options: RetrainOptions, document: ArchDocument, run: Path | None, report: Report) -> RetrainRun:
        """Return the trainings that the options describe.

        Args:
            options: The evaluator's among them come before those of the run.
            document: The architecture.
            run: Folder of the run that it comes from; None: it comes from a file.
            report: As of `SearchRun.of`.

        Raises:
            InputError: Something is wrong with them.
        """
        evaluator = _evaluator(run, document, options.of_evaluator, options.validation)
        space = document.space
        base = RunConfig(Plugged("", {}), Plugged(space.name, dict(space.ref.options)), evaluator, 0, None)
        config = retraining.listed(base, evaluator, [document.arch])
        named = Path("runs") / f"retrain-{document.arch.key}-{config.digest}" if run is None else run / RETRAINED
        return cls(
            document,
            config,
            RunFolder(Path(options.out or named)),
            seeds_of(options.seeds),
            Setting(options.workers),
            options.force,
            report if options.report else None,
            options.executor,
        )

    def carry_out(self, watch: Watch) -> bool:
        """Train, test each network once, and write what the run leaves behind.

        The network that counts is the first seed's: it is chosen before any is tested.

        Returns:
            Whether there is a result; False: it was interrupted.

        Raises:
            InputError: Something is wrong with data, devices or the folder.
            NastoolError: All trainings failed, or a network could not be tested.
            Stopped: A second Ctrl-C ended it at once.
        """
        path = self.folder.path
        if self.folder.check(self.config, self.force):
            has = _finished(self.folder)
            if len(has) > len(self.seeds) and has[: len(self.seeds)] == self.seeds:  # a result is not made smaller
                wanted = f"more than the {len(self.seeds)} asked for: it stays"
                watch.note(f"{path} has a result of {_seeds(len(has))}, {wanted}")
                self.seeds = has

        def accept(facts: Mapping[str, Scalar]) -> None:
            check_data(self.document, self.config.evaluator.options, facts, self.force, watch)

        def ready(facts: Mapping[str, Scalar]) -> None:
            watch.note(f"training {self.document.arch.key} with {_seeds(len(self.seeds))} in {path}")
            if (read := facts.get("read")) is not None:
                watch.note(f"note: {read}")

        again = f"continue with: {invocation.shown()}"
        with interruptible(watch, path, again, lambda: "what is trained") as stoppable:
            trainings = retraining.trained(
                self.config,
                self.document.space,
                [self.document.arch] * len(self.seeds),
                self.folder,
                self.setting,
                stoppable,
                executor=self.executor,
                seeds=self.seeds,
                force=self.force,
                accept=accept,
                ready=ready,
            )
            with trainings as trained:
                if trained is not None:
                    self._conclude(trained, watch)
                return trained is not None

    def _conclude(self, trained: Trained, watch: Watch) -> None:
        """Test each network once and write the result; what an earlier call has found is found again."""
        path, done = self.folder.path, trained.finished
        complete = trained.run.store.get("written") is not False
        if done is not None and done["seeds"] == self.seeds and complete:
            if results.whole(path, done, report=self.report is not None):
                trainings = "training" if len(self.seeds) == 1 else f"{len(self.seeds)} trainings"
                watch.note(f"{path} already has its {trainings}; more --seeds extend it")
                watch.tell(Ended(path, done))
                return
        runs = self._tested(trained)
        chosen = next((i for i, run in enumerate(runs) if "metrics" in run), None)
        if chosen is None:
            raise NastoolError(f"all trainings failed; the last: {runs[-1]['error']}")
        summary = of_seeds(runs)
        spread: dict[str, Any] = {key: summary[key] for key in ("mean", "std") if key in summary}
        facts: dict[str, Any] = {"seeds": self.seeds, "runs": runs, **spread}
        best = trained.trials[chosen]
        origin = trained.run.store.origin
        found = Result(self.document.space, best, path, origin, summary["metrics"], facts).write(path)
        trained.run.finish(len(trained.trials), found)
        if failed := [run["error"] for run in runs if "error" in run]:
            watch.note(f"note: {len(failed)} of {len(runs)} trainings failed; the last: {failed[-1]}")
        written = results.write(path, trained.run.store, self.report)
        trained.run.written()
        watch.tell(Ended(path, found, written))

    def _tested(self, trained: Trained) -> list[dict[str, Any]]:
        """What became of each seed's training, tested."""
        runs: list[dict[str, Any]] = []
        for seed, trial in zip(self.seeds, trained.trials, strict=True):
            if trial.evaluation is None:
                runs.append({"seed": seed, "error": trial.error, "fault": trial.fault})
                continue
            known, problem = trained.test(trial, seed)
            if problem is not None:
                raise NastoolError(f"the network of seed {seed} could not be tested: {problem}; --force trains anew")
            runs.append({"seed": seed, "metrics": {**trial.evaluation.all_metrics, **known}})
            if trial.evaluation.checkpoint is not None:
                runs[-1] |= checkpoints.named(self.folder.path / trial.evaluation.checkpoint)
        return runs


def _evaluator(run: Path | None, document: ArchDocument, given: dict[str, object], validation: bool) -> Plugged:
    """The evaluator that trains, on the data of the run that the architecture comes from, by the recipe for the end."""
    target = registry.load("evaluator", defaults.TRAINING)
    if reasons := misfits(None, type(document.space), target):
        raise InputError("; ".join(reasons))
    for key in given.keys() & {"all_data", "from_checkpoint"}:
        raise InputError(f"-E {key}=: retrain trains from scratch, on all data unless --validation is given")
    origin = document.extra.get("evaluator")
    origin = origin if isinstance(origin, dict) else {}
    found = origin.get("options")
    told = found.items() if isinstance(found, dict) else ()
    before = {**_local(run), **{key: value for key, value in told if key not in target.local_options}}
    if "data" not in {**before, **given}:
        raise InputError("this architecture does not say on what data it was found: give --data")
    recipe = given.pop("recipe", None)
    try:
        scale = options.mapping(document.extra.get("scale") or {}, int)
    except ValueError:
        raise InputError('the architecture\'s "scale" must be an object such as {"channels": 16}') from None
    final = retraining.Final(
        document.space,
        before,
        None if recipe is not None else _searched(origin.get("name"), before),
        same=origin.get("name") == defaults.TRAINING,
        scale=scale,
        recipe=None if recipe is None else str(recipe),
        changes=given.pop("scale", None),
        flags=("--recipe", "--scale"),
    )
    return final.training("retrain", {**given, "all_data": not validation})


def _searched(evaluator: object, before: Mapping[str, object]) -> Recipe | None:
    """The recipe of the search; None: there was none. InputError: it is not there any more."""
    if not isinstance(evaluator, str) or not registry.is_known("evaluator", evaluator) or "data" not in before:
        return None
    target = registry.load("evaluator", evaluator)
    if not issubclass(target, TrainingEvaluator):
        return None
    recipe = before.get("recipe")
    if not isinstance(recipe, str | None):
        raise InputError("the architecture's evaluator has a 'recipe' that is no text; say with --recipe how to train")
    try:
        return load_recipe(recipe or default_recipe(str(before["data"]), target.recipe_prefix))
    except InputError as error:
        raise InputError(f"{error}; say with --recipe how to train") from None


def _local(run: Path | None) -> dict[str, Any]:
    """Where a run's data and device were, as its run.yaml says."""
    if run is None:
        return {}
    try:
        given = (read_yaml(run / "run.yaml").get("search") or {}).get("evaluator-options") or {}
        return {name: given[name] for name in LOCAL if name in given}
    except (InputError, AttributeError):
        return {}


def _finished(folder: RunFolder) -> list[int]:
    """The seeds of the folder's result; []: it has none."""
    with Store.read(folder.database) as store:
        final = store.get("final")
    found = [] if final is None else final["document"].get("seeds")
    return found if isinstance(found, list) else []


def _seeds(count: int) -> str:
    return f"{count} seed" + ("s" if count > 1 else "")
