"""`search --with-baseline`: random search with the same budget, in a run of its own below the search's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nastool.cli import common
from nastool.cli.common import say
from nastool.core import options, registry
from nastool.core.errors import InputError, NastoolError, one_line
from nastool.core.evaluator import Evaluator
from nastool.core.space import SearchSpace
from nastool.core.strategy import Strategy
from nastool.core.values import Objective, Trial
from nastool.engine.config import BASELINE, Plugged, RunConfig, RunFolder
from nastool.engine.run import Sitting, sitting

if TYPE_CHECKING:
    from nastool.engine.store import Store
    from nastool.engine.workers import Pool

RANDOM = "random"


class Baseline:
    """Random search beside one search: same space, evaluator, objective, seed, trials and workers."""

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
        if config.strategy.name == RANDOM:
            raise InputError("--with-baseline: strategy random is the baseline itself; leave it out")
        if evaluator.shares_weights:
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
        given = options.resolve("strategy random", registry.load("strategy", RANDOM), {})
        self.config = replace(config, strategy=Plugged(RANDOM, given))
        self.space = space
        self.folder = RunFolder(folder.path / BASELINE)
        self.folder.check(self.config, force)
        self.pool: Pool | None = None
        """What is at work, while it is."""

    def run(
        self, search: Store, trials: int, best: Trial, given: Mapping[str, Any], stop: Callable[[], bool]
    ) -> dict[str, Any] | None:
        """So many trials in all, then facts for best.json. None: interrupted; the same command goes on.

        search: of the search beside it, whose best trial is `best`. given: the options of the command. A baseline that
        fails as a whole is no failure of the search: then "error" is among the facts.
        """
        facts = self._known(trials)
        if facts is None:
            try:
                facts = self._search(search, trials, given, stop)
            except InputError:
                raise
            except NastoolError as error:
                say(f"note: the baseline failed: {one_line(error)}; the same command tries again")
                facts = {"run": str(self.folder.path), "trials": trials, "error": one_line(error)}
        if facts is None:
            return None
        objective = Objective.parse(search.get("objective"))
        mine = objective.value(best.loss)
        facts |= {"objective": str(objective), "search": mine, "seeds": 1}
        if "random" in facts:
            facts["difference"] = mine - facts["random"]
        return facts

    def _known(self, trials: int) -> dict[str, Any] | None:
        """The facts of a baseline that needs nothing more for so many trials."""
        from nastool.engine.store import Store

        if Store.is_blank(self.folder.database) or not self.folder.check(self.config, False):
            return None
        with Store.read(self.folder.database) as store:
            final = store.get("final")
            if final is None or (final["trials"] < trials and not final.get("exhausted")):
                return None
            return self._facts(store, final)

    def _search(
        self, search: Store, trials: int, given: Mapping[str, Any], stop: Callable[[], bool]
    ) -> dict[str, Any] | None:
        def started(pool: Pool) -> None:
            self.pool = pool

        begun = sitting(
            self.config,
            self.config.evaluator_spec(self.space, self.folder.path).build(),
            self.folder,
            workers=given["workers"],
            timeout=given["trial_timeout"],
            options={"trials": trials},
            started=started,
        )
        try:
            with begun as here:
                if here.facts.get("fingerprint") != search.get("fingerprint"):
                    raise InputError(
                        f"the data of {self.folder.path.parent} changed since it began: give the same data"
                    )
                return self._run(here, trials, given, stop)
        finally:
            self.pool = None

    def _run(
        self, here: Sitting, trials: int, given: Mapping[str, Any], stop: Callable[[], bool]
    ) -> dict[str, Any] | None:
        from nastool.engine import results as product
        from nastool.engine.search import test_best

        say(f"random search beside it, {trials} trials, in {self.folder.path}")
        strategy = self.config.make_strategy(self.space)
        kept = {name: given[name] for name in ("keep", "max_failures")}
        search = here.search(strategy, trials, stop=stop, noun="random trials", **kept)
        if search.told < trials and not search.exhausted:
            product.write(self.folder.path, report=False)
            return None
        if search.best is None:
            raise NastoolError(f"all {search.failed} trials of {self.folder.path} failed")
        tested, problem = test_best(here.pool, search.best, self.config.seed)
        if problem is not None:
            say(f"note: the best random trial, {search.best.id}, could not be tested: {problem}")
        here.finish(search.told, self._document(here.store, search.best, tested), exhausted=search.exhausted)
        product.write(self.folder.path, report=False)
        return self._facts(here.store, here.store.get("final"))

    def _document(self, store: Store, best: Trial, tested: Mapping[str, float]) -> dict[str, Any]:
        """Write best.json and best.safetensors; the object in the former."""
        from nastool.engine import results as product

        assert best.evaluation is not None
        checkpoint, path = best.evaluation.checkpoint, self.folder.path
        more: dict[str, Any] = {"run": str(path), **store.origin}
        document = common.trial_document(self.space, best, more)
        document["metrics"].update(tested)
        return product.result(path, document, None if checkpoint is None else path / checkpoint)

    def _facts(self, store: Store, final: Mapping[str, Any]) -> dict[str, Any]:
        counts, document = store.count(), final["document"]
        return {
            "run": str(self.folder.path),
            "trials": counts["done"] + counts["failed"],
            "failed": counts["failed"],
            "exhausted": bool(final["exhausted"]),
            "random": Objective.parse(store.get("objective")).value(store.best(1)[0].loss),
            "trial": document["trial"],
            "key": document["key"],
            "metrics": dict(document["metrics"]),
        }


def covers(document: Mapping[str, Any], trials: int) -> bool:
    """Whether a result (best.json's object) has a baseline of as many trials as its search has by now."""
    found = document.get("baseline")
    return found is not None and "error" not in found and (found["trials"] >= trials or found["exhausted"])


def describe(facts: Mapping[str, Any]) -> str:
    """For the summary."""
    if "error" in facts:
        return f"random search beside it failed: {facts['error']}"
    objective = Objective.parse(facts["objective"])
    mine, theirs = common.format_number(facts["search"]), common.format_number(facts["random"])
    return (
        f"beside random search ({facts['trials']:,} trials): {objective.metric} {mine} against {theirs}, difference "
        f"{facts['difference']:+.4g}; n=1 seed: no verdict (`nastool compare` takes runs of more seeds)"
    )
