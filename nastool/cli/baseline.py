"""`search --with-baseline`: random search with the same budget, in a run of its own below the search's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from nastool import options, registry
from nastool.cli import common
from nastool.cli.common import say
from nastool.config import BASELINE, Plugged, RunConfig, RunFolder
from nastool.core import Objective, Scalar, Trial
from nastool.errors import InputError, NastoolError, one_line
from nastool.interfaces import Evaluator, SearchSpace, Strategy

if TYPE_CHECKING:
    from nastool.store import Store
    from nastool.workers import Pool

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
        if not force:
            self.folder.check(self.config, False)
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
        from nastool.store import Store

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
        from nastool import devices
        from nastool.workers import InlinePool, ProcessPool

        spec = self.config.evaluator_spec(self.space, self.folder.path)
        evaluator = spec.build()
        if evaluator.inline:
            pool: Pool = InlinePool(evaluator)
        else:
            workers = min(given["workers"], evaluator.max_workers or given["workers"])
            slots = devices.slots(workers, str(self.config.evaluator.options.get("device") or "auto"))
            pool = ProcessPool(spec, slots, timeout=given["trial_timeout"], logs=self.folder.path / "logs")
        with self.folder.locked(), closing(pool):
            try:
                facts = pool.open()
            except InputError:
                pool.close()
                self.folder.discard()
                raise
            if facts.get("fingerprint") != search.get("fingerprint"):
                raise InputError(f"the data of {self.folder.path.parent} changed since it began: give the same data")
            self.pool = pool
            try:
                with self._open(search, evaluator, facts, trials) as store:
                    return self._run(store, pool, evaluator, trials, given, stop)
            finally:
                self.pool = None

    def _open(self, search: Store, evaluator: Evaluator, facts: Mapping[str, Scalar], trials: int) -> Store:
        from nastool.store import Store

        durable = not evaluator.inline
        if self.folder.check(self.config, False):
            return Store.open(self.folder.database, durable=durable)
        self.folder.clear()
        self.folder.describe(self.config, Objective.parse(search.get("objective")), facts, {"trials": trials})
        about = {key: search.get(key) for key in ("objective", "fingerprint", "origin")}
        return Store.create(self.folder.database, {"config": self.config.identity, **about}, durable=durable)

    def _run(
        self,
        store: Store,
        pool: Pool,
        evaluator: Evaluator,
        trials: int,
        given: Mapping[str, Any],
        stop: Callable[[], bool],
    ) -> dict[str, Any] | None:
        from nastool import product
        from nastool.cli.progress import Progress
        from nastool.runner import Search, test_best

        say(f"random search beside it, {trials} trials, in {self.folder.path}")
        with Progress(trials, "random trials") as progress:
            search = Search(
                store,
                self.config.make_strategy(self.space),
                pool,
                Objective.parse(store.get("objective")),
                self.config.seed,
                trials,
                self.folder.path,
                one_commit=evaluator.inline,
                keep=given["keep"],
                max_failures=given["max_failures"],
                stop=stop,
                watch=progress.watch,
            )
            search.restore()
            store.begin()
            store.put("trials", trials)
            store.commit()
            search.run()
        if search.told < trials and not search.exhausted:
            product.write(self.folder.path, report=False)
            return None
        if search.best is None:
            raise NastoolError(f"all {search.failed} trials of {self.folder.path} failed")
        tested, problem = test_best(pool, search.best, self.config.seed)
        if problem is not None:
            say(f"note: the best random trial, {search.best.id}, could not be tested: {problem}")
        document = self._document(store, search.best, tested)
        store.begin()
        final = {"trials": search.told, "exhausted": search.exhausted, "document": document}
        store.put("final", final)
        store.commit()
        product.write(self.folder.path, report=False)
        return self._facts(store, final)

    def _document(self, store: Store, best: Trial, tested: Mapping[str, float]) -> dict[str, Any]:
        """Write best.json and best.safetensors."""
        from nastool import product

        assert best.evaluation is not None
        checkpoint, path = best.evaluation.checkpoint, self.folder.path
        more: dict[str, Any] = {"run": str(path), **(store.get("origin") or {})}
        weights = product.weights(path, None if checkpoint is None else path / checkpoint)
        if weights is not None:
            more["weights"] = str(weights)
        document = common.trial_document(self.space, best, more)
        document["metrics"].update(tested)
        product.result(path, document)
        return document

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
