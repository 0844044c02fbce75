"""`search --with-baseline`: random search with the same budget, in a run of its own below the search's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nastool.core import defaults, options, pareto, registry
from nastool.core.errors import InputError, NastoolError, one_line
from nastool.core.evaluator import CarriedOut, Evaluator
from nastool.core.space import SearchSpace
from nastool.core.strategy import Strategy
from nastool.core.values import Objective, Trial
from nastool.core.wording import format_number
from nastool.engine import results
from nastool.engine.aside import test_best
from nastool.engine.config import BASELINE, Plugged, RunConfig, RunFolder
from nastool.engine.executors.base import Setting
from nastool.engine.planning import Timing
from nastool.engine.run import Run, open_run
from nastool.engine.store import Store

if TYPE_CHECKING:
    from nastool.engine.command_options import SearchOptions


class Baseline:
    """Random search beside one search: same space, evaluator, objectives, seed, trials and workers.

    With several objectives the two are compared by hypervolume.
    """

    def __init__(
        self,
        config: RunConfig,
        space: SearchSpace,
        strategy: Strategy,
        evaluator: Evaluator,
        folder: RunFolder,
        force: bool,
    ) -> None:
        """InputError: it would compare nothing here, or its folder holds something else (and not `force`)."""
        if config.strategy.name == defaults.BASELINE:
            raise InputError("--with-baseline: strategy random is the baseline itself; leave it out")
        if isinstance(evaluator, CarriedOut):
            raise InputError(
                f"--with-baseline: evaluator {evaluator.name} is not asked here; begin a search by `-s random`"
            )
        if "shared-weights" in evaluator.provides:
            raise InputError(
                f"--with-baseline: scores of evaluator {evaluator.name} come from shared weights and mean nothing in "
                "another search; --baseline, which is on by default, trains random architectures beside the best ones"
            )
        if "budget" in strategy.needs:
            raise InputError(
                f"--with-baseline: strategy {strategy.name} says itself how long each trial is trained, so as many "
                "random trials are no equal budget; run -s random in another --out, then "
                "`nastool compare --over seconds`"
            )
        if (several := len([config.objective] if isinstance(config.objective, str) else config.objective or ())) > 2:
            pareto.hypervolume([(0.0,) * several], (1.0,) * several)  # for its error, before the search
        given = options.resolve("strategy random", registry.load("strategy", defaults.BASELINE), {})
        self.config = replace(config, strategy=Plugged(defaults.BASELINE, given), warm_start=(), prior=None)
        self.space = space
        self.folder = RunFolder(folder.path / BASELINE)
        self.folder.check(self.config, force)

    def run(
        self, search: Run, trials: int, best: Trial, options: SearchOptions, timing: Timing
    ) -> dict[str, Any] | None:
        """Search at random; None: interrupted, and the same command goes on.

        Args:
            search: The run beside it.
            trials: Number of trials in all.
            best: The best trial of that search.
            options: Of the command.
            timing: Of that search.

        Returns:
            Facts for best.json. A baseline that fails as a whole is no failure of the search: then "error" is among
            them.
        """
        watch = search.watch
        facts = self._known(trials)
        if facts is None:
            try:
                facts = self._search(search, trials, options, timing)
            except InputError:
                raise
            except NastoolError as error:
                watch.note(f"note: the baseline failed: {one_line(error)}; the same command tries again")
                facts = {"run": str(self.folder.path), "trials": trials, "error": one_line(error)}
        if facts is None:
            return None
        objective, *others = search.store.objectives
        mine = objective.value(best.loss)
        if others and "random" in facts:
            objective, (mine, facts["random"]) = pareto.HYPERVOLUME, self._hypervolumes(search.store)
        facts |= {"objective": str(objective), "search": mine, "seeds": 1}
        if "random" in facts:
            facts["difference"] = mine - facts["random"]
        return facts

    def _hypervolumes(self, search: Store) -> tuple[float, float]:
        """Those of the search and of this one, as shares of the box around both."""
        with Store.read(self.folder.database) as store:
            both = [[trial.losses for trial in each.trials() if trial.losses] for each in (search, store)]
        box = pareto.Box.around(both[0] + both[1])
        return box.share(both[0]), box.share(both[1])

    def _known(self, trials: int) -> dict[str, Any] | None:
        """The facts of a baseline that needs nothing more for so many trials."""
        if Store.is_blank(self.folder.database) or not self.folder.check(self.config, False):
            return None
        with Store.read(self.folder.database) as store:
            final = store.get("final")
            if final is None or (final["trials"] < trials and not final.get("exhausted")):
                return None
            return self._facts(store, final)

    def _search(self, beside: Run, trials: int, options: SearchOptions, timing: Timing) -> dict[str, Any] | None:
        watch = beside.watch
        opened = open_run(
            self.config,
            self.config.evaluator_spec(self.space, self.folder.path).build(),
            self.folder,
            Setting(options.workers, options.trial_timeout, options.hung_timeout),
            watch,
            executor=options.executor,
            options={"trials": trials},
        )
        with opened as run:
            if run.facts.get("fingerprint") != beside.store.get("fingerprint"):
                raise InputError(f"the data of {self.folder.path.parent} changed since it began: give the same data")
            watch.note(f"random search beside it, {trials} trials, in {self.folder.path}")
            strategy = self.config.make_strategy(self.space)
            search = run.search(
                strategy,
                trials,
                noun="random trials",
                keep=options.keep,
                max_failures=options.max_failures,
                stopping=timing.afterwards(),
            )
            ended = search.exhausted or (search.ends.why == "time" and not watch.stop())
            if search.finished < trials and not ended:
                results.write(self.folder.path, run.store)
                return None
            if search.best is None:
                raise NastoolError(f"all {search.failed} trials of {self.folder.path} failed")
            tested, problem = test_best(run.executor, search.best, self.config.seed)
            if problem is not None:
                watch.note(f"note: the best random trial, {search.best.id}, could not be tested: {problem}")
            found = results.Result(self.space, search.best, self.folder.path, run.store.origin, tested)
            run.finish(search.finished, found.write(self.folder.path), exhausted=ended)
            results.write(self.folder.path, run.store)
            return self._facts(run.store, run.store.get("final"))

    def _facts(self, store: Store, final: Mapping[str, Any]) -> dict[str, Any]:
        counts, document = store.count(), final["document"]
        return {
            "run": str(self.folder.path),
            "trials": counts["done"] + counts["failed"],
            "failed": counts["failed"],
            "exhausted": bool(final["exhausted"]),
            "random": store.objectives[0].value(store.best(1)[0].loss),
            "trial": document["trial"],
            "key": document["key"],
            "metrics": dict(document["metrics"]),
        }


def covers(document: Mapping[str, Any], trials: int) -> bool:
    """Whether a result (best.json's object) has a baseline of as many trials as its search has by now."""
    found = document.get("baseline")
    return found is not None and "error" not in found and (found["trials"] >= trials or found["exhausted"])


def describe(facts: Mapping[str, Any], metrics: Mapping[str, float]) -> str:
    """For the summary. metrics: of the search's best."""
    if "error" in facts:
        return f"random search beside it failed: {facts['error']}"
    objective = Objective.parse(facts["objective"])
    mine, theirs = format_number(facts["search"]), format_number(facts["random"])
    held_out = objective.metric.replace("val_", "test_", 1)
    also = ""
    if held_out != objective.metric and held_out in metrics and held_out in facts.get("metrics", {}):
        mine_then, theirs_then = (format_number(each[held_out]) for each in (metrics, facts["metrics"]))
        also = f"; {held_out}, which neither was chosen by, {mine_then} against {theirs_then}"
    return (
        f"beside random search ({facts['trials']:,} trials): {objective.metric} {mine} against {theirs}, difference "
        f"{facts['difference']:+.4g}{also}; n=1 seed: no verdict (`nastool compare` takes runs of more seeds)"
    )
