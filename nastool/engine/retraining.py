"""Given architectures, trained from scratch as a run of their own: what `retrain` and the end of a search do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from nastool.core import defaults, options, registry
from nastool.core.errors import InputError, short
from nastool.core.limits import whole
from nastool.core.recipe import Recipe
from nastool.core.space import SearchSpace, make_scale
from nastool.core.strategy import Strategy
from nastool.core.values import Arch, Proposal, Scalar, Trial
from nastool.engine.aside import test_best
from nastool.engine.config import Plugged, RunConfig, RunFolder
from nastool.engine.executors.base import Setting
from nastool.engine.run import Run, Watch, open_run
from nastool.engine.stopping import Stopping
from nastool.engine.store import Store
from nastool.training.recipes import load_recipe


@dataclass(frozen=True)
class Final:
    """How what was found is trained in the end: on the search's data, by the recipe for that.

    before: the options of the evaluator that found it. searched: its recipe. same: whether it was the one that
    trains in the end, so that what is said of trainings there holds here. scale: its networks' size.
    recipe: instead of the one that `searched` names. changes: to the scale, as KEY=N,... or a mapping; None: none.
    flags: what these two are called.
    """

    space: SearchSpace
    before: Mapping[str, Any]
    searched: Recipe | None
    same: bool
    scale: Mapping[str, Any] | None
    recipe: str | None
    changes: Any
    flags: tuple[str, str]

    def training(self, what: str, more: Mapping[str, object]) -> Plugged:
        """The evaluator that trains, with its options; what: for errors. more: options that come first. InputError."""
        target = registry.load("evaluator", defaults.TRAINING)
        given = {key: value for key, value in self.before.items() if key in options.of(target)}
        named = (self.searched.retrain if self.searched else "") or None
        name = named if self.recipe is None else self.recipe
        if name is not None or not self.same:
            given.update(recipe=name, batch_size=None, lr=None)
        given["from_checkpoint"] = None
        given["epochs"] = None  # the search's trainings may have been short ones
        given["scale"] = self._scale(name)
        return Plugged(*registry.resolve("evaluator", defaults.TRAINING, {**given, **more}, what))

    def _scale(self, recipe: str | None) -> dict[str, Any] | None:
        """The recipe's, else the search's, with the changes. None: the recipe's as it is."""
        of_recipe = {} if recipe is None else self._load(recipe).scale_for(self.space.Scale)
        base = of_recipe or {key: int(value) for key, value in (self.scale or {}).items()}
        if self.changes is None:
            return None if of_recipe else base or None
        flag = self.flags[1]
        try:
            changes = options.mapping(self.changes, int)
        except InputError as error:
            raise InputError(f"{flag}: {error}") from None
        except ValueError:
            text = short(repr(self.changes))
            raise InputError(f"{flag} {text}: write KEY=N,..., such as channels=16,cells=5") from None
        try:
            make_scale(self.space, {**base, **changes})
        except InputError as error:
            raise InputError(f"{flag}: {error}") from None
        return {**base, **changes}

    def _load(self, name: str) -> Recipe:
        try:
            return load_recipe(name)
        except InputError as error:
            where = self.flags[0] if self.recipe is not None else "the recipe for retraining"
            raise InputError(f"{where}: {error}") from None


class Listed(Strategy):
    """Proposes given architectures, in order."""

    name = "listed"

    def __init__(self, space: SearchSpace, archs: Sequence[Arch]) -> None:
        super().__init__(whole(space))  # what is given is trained, also at a scale at which it is beyond a limit
        self.archs = archs

    def propose(self) -> Proposal | None:
        return Proposal(self.archs[self.asked]) if self.asked < len(self.archs) else None

    def tell(self, trial: Trial) -> None:
        pass


@dataclass
class Trained:
    """All are trained: what is left is to test them.

    Attributes:
        run: Of these trainings.
        trials: In the order given; those that there was no time for are "running".
        finished: The result that an earlier call has kept.
    """

    run: Run
    trials: list[Trial]
    finished: Mapping[str, Any] | None

    def test(self, trial: Trial, seed: int) -> tuple[Mapping[str, float], str | None]:
        """`test_best`, but no network is tested twice: what was found is kept."""
        store = self.run.store
        known: Mapping[str, Mapping[str, float]] = store.get("tested") or {}
        if str(trial.id) in known:
            return known[str(trial.id)], None
        metrics, problem = test_best(self.run.executor, trial, seed)
        if problem is None:
            store.write({"tested": {**known, str(trial.id): dict(metrics)}})
        return metrics, problem


def listed(config: RunConfig, evaluator: Plugged, archs: Sequence[Arch]) -> RunConfig:
    """The configuration of their trainings; of how many trainings of each it does not say."""
    named = hashlib.blake2s(json.dumps([arch.key for arch in archs]).encode(), digest_size=8).hexdigest()
    strategy = Plugged(Listed.name, {"architectures": named})
    return replace(config, strategy=strategy, evaluator=evaluator, objective=None, limits=(), warm_start=(), prior=None)


@contextmanager
def trained(
    config: RunConfig,
    space: SearchSpace,
    archs: Sequence[Arch],
    folder: RunFolder,
    setting: Setting,
    watch: Watch,
    *,
    executor: str | None = None,
    seeds: Sequence[int] | None = None,
    force: bool = False,
    accept: Callable[[Mapping[str, Scalar]], None] = lambda facts: None,
    ready: Callable[[Mapping[str, Scalar]], None] = lambda facts: None,
    stopping: Stopping | None = None,
) -> Iterator[Trained | None]:
    """Train architectures in a folder, or go on where an earlier call ended; None where it was told to stop.

    Args:
        config: Of `listed`.
        space: Of the architectures.
        archs: What to train, in this order.
        folder: Of these trainings.
        setting, watch, executor, force, accept: As of `open_run`.
        seeds: One for each, where they are not to follow from the configuration's.
        ready: Called with the evaluator's facts when nothing can be wrong any more.
        stopping: What ends it before all are trained; the others are "running" then.

    Raises:
        InputError: The folder holds something else and `force` is not given, or other seeds.
    """

    def check() -> None:
        _check_seeds(folder, config, force, seeds)

    check()  # also before anything is started
    evaluator = config.evaluator_spec(space, folder.path).build()
    opened = open_run(
        config,
        evaluator,
        folder,
        setting,
        watch,
        executor=executor,
        force=force,
        options={"trials": len(archs)},
        check=check,
        accept=accept,
    )
    with opened as run:
        ready(run.facts)
        before = run.store.get("seeds") or []
        search = run.search(
            Listed(space, archs),
            len(archs),
            noun="trainings",
            facts=None if seeds is None else {"seeds": max(before, list(seeds), key=len)},
            keep=len(archs),
            seeds=seeds,
            stopping=stopping,
        )
        short_of_time = search.ends.why == "time" and not watch.stop()
        if search.finished < len(archs) and not short_of_time:
            yield None
            return
        final = run.store.get("final")
        done = final is not None and final["trials"] == len(archs)
        trials = list(run.store.trials())[: len(archs)]
        trials += [Trial(number, Proposal(archs[number])) for number in range(len(trials), len(archs))]
        yield Trained(run, trials, final["document"] if done else None)


def _check_seeds(folder: RunFolder, config: RunConfig, force: bool, seeds: Sequence[int] | None) -> None:
    """InputError: the folder holds other trainings, or these with other seeds."""
    if not folder.check(config, force):
        return
    with Store.read(folder.database) as store:
        before = store.get("seeds") or []
    if before[: len(seeds or ())] != list(seeds or ())[: len(before)]:
        raise InputError(f"{folder.path} began with seeds {before}: give these first, or another --out")
