"""A search and what comes after its trials, from the first to the result."""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nastool.cli import common, results
from nastool.cli.common import say
from nastool.cli.interrupts import Interrupts
from nastool.core import invocation
from nastool.core.errors import NastoolError, Stopped
from nastool.core.evaluator import Evaluator
from nastool.core.space import SearchSpace
from nastool.core.strategy import Strategy
from nastool.core.values import Trial
from nastool.core.wording import describe_cost
from nastool.engine import baseline, snapshots
from nastool.engine import results as product
from nastool.engine.config import RunConfig, RunFolder
from nastool.engine.search import Search, test_best
from nastool.engine.store import Store

if TYPE_CHECKING:
    from nastool.engine.after_search import Finale, Outcome
    from nastool.engine.baseline import Baseline
    from nastool.engine.results import Product
    from nastool.engine.run import Sitting
    from nastool.loggers.sending import Loggers

Stop = Callable[[], bool]


@dataclass
class End:
    """How a search ended. document: best.json's object. problem: what went wrong although there is a result."""

    document: dict[str, Any]
    outcome: Outcome | None
    problem: NastoolError | None = None


@dataclass
class SearchRun:
    """A search, and what comes after its trials. beside: random search, if it is wanted. given: the options."""

    config: RunConfig
    space: SearchSpace
    strategy: Strategy
    evaluator: Evaluator
    folder: RunFolder
    finale: Finale
    beside: Baseline | None
    loggers: Loggers
    given: Mapping[str, Any]

    @property
    def options(self) -> dict[str, Any]:
        """Beside the configuration's, as a configuration file's `search` section has them."""
        options: dict[str, Any] = {"trials": self.given["trials"]}
        if self.finale.settings.any or self.evaluator.shares_weights:
            options |= self.finale.settings.as_options()
        if self.beside is not None:
            options["with-baseline"] = True
        return options

    def finished(self) -> dict[str, Any] | None:
        """The result of a run that needs nothing more for so many trials; says why."""
        trials = self.given["trials"]
        with Store.read(self.folder.database) as store:
            final, written, count = store.get("final"), store.get("written"), sum(store.count().values())
        if final is None or min(count, final["trials"]) < (1 if final.get("exhausted") else trials):
            return None
        if final.get("finale", self.finale.identity()) != self.finale.identity():
            return None
        if self.given["ensemble"] and "ensemble" not in final["document"]:
            return None
        if self.beside is not None and not baseline.covers(final["document"], min(count, trials)):
            return None
        document: dict[str, Any] = final["document"]
        path, report = self.folder.path, self.given["report"]
        if written is not False and product.whole(path, document, report=report):
            self._say_done(count, final)
        else:
            document = product.moved(path, document)
            with self.folder.locked(), Store.open(self.folder.database) as store:
                weights = product.held(path, document) if "weights" in document else None
                if "weights" in document and weights is None:
                    return None  # they can be found again
                self._say_done(count, final)
                document = product.result(path, document, weights)
                store.begin()
                store.put("final", {**final, "document": document})
                store.put("written", False)
                store.commit()
                results.say_where(path, product.write(path, report=report))
                store.begin()
                store.put("written", True)
                store.commit()
        return document

    def _say_done(self, count: int, final: Mapping[str, Any]) -> None:
        """Why a run with so many trials needs nothing more."""
        trials, measured = self.given["trials"], final["trials"]
        has = f"{self.folder.path} already has its {count} trials"
        if count < trials:
            say(f"{has}; the strategy has nothing left to propose")
        elif measured < count:
            say(f"{has}, {trials} are asked for: this is the result of the first {measured}; more --trials extend it")
        else:
            asked = f", more than the {trials} that are asked for" if count > trials else ""
            say(f"{has}{asked}; more --trials extend it")

    def repeat(self, document: Mapping[str, Any]) -> None:
        """Show the result of a run that has finished earlier."""
        if common.as_json(self.given["json_flag"]):
            common.emit(document)
            return
        self._say_best(document)
        say(f"more: nastool status {shlex.quote(str(self.folder.path))}")

    def go(self, here: Sitting) -> int:
        """Search, and do all that comes afterwards; the exit code."""
        started = time.monotonic()
        end: End | None = None
        with Interrupts(lambda: self._interrupted(here)) as interrupts:

            def stop() -> bool:
                return interrupts.stopping

            try:
                search = self._search(here, stop)
                if not stop():
                    end = self._end(here, search, stop)
            except Stopped as stopped:
                counts = here.store.count()
                done = f"{counts['done'] + counts['failed']} trials saved in {self.folder.path}"
                say(f"stopped with {done}; continue with: {invocation.shown()}")
                return stopped.exit_code
            if end is None:
                product.write(self.folder.path, report=False)
                return 130
        written = product.write(self.folder.path, report=self.given["report"])
        here.written()
        self._summary(search, end, time.monotonic() - started, written)
        self.loggers.close(end.document)
        if common.as_json(self.given["json_flag"]):
            common.emit(end.document)
        if end.problem is not None:
            raise end.problem
        return 0

    def _interrupted(self, here: Sitting) -> None:
        """The first Ctrl-C."""
        pool = (self.beside and self.beside.pool) or self.finale.pool or here.pool
        say(f"\nsaved in {self.folder.path}; continue with: {invocation.shown()}")
        if self.finale.pool is not None or not self.evaluator.inline:
            kind = "trial" if self.finale.pool is None else "training"
            running = len(pool.busy)  # 0: one may be about to start
            what = f"{running} running {kind}s" if running > 1 else f"the running {kind}" if running else "what runs"
            say(f"finishing {what}; Ctrl-C again stops at once, to be repeated later")

    # --- the parts

    def _search(self, here: Sitting, stop: Stop) -> Search:
        given = self.given

        def restored(search: Search) -> None:
            if given["ensemble"]:
                snapshots.members(self.strategy, here.store, self.folder.path)  # for its error, before any training
            if search.asked:
                left = search.asked - search.told
                say(f"continuing {self.folder.path}: {search.told} trials done, {left} to repeat")
            for note in self.strategy.notes:
                say(f"note: {note}")
            if given["trials"] <= (random := self.strategy.random_trials):
                begins = f"{self.strategy.name} begins with {random} random trials, and these are all"
                same = ", which --with-baseline compares with itself" if self.beside is not None else ""
                say(f"note: {begins}, so this is random search{same}: give more than {random} --trials")

        kept = {name: given[name] for name in ("keep", "ensemble", "max_failures")}
        watching = self.loggers.watching
        then = self._then(given["trials"])
        return here.search(
            self.strategy, given["trials"], stop=stop, then=then, watching=watching, restored=restored, **kept
        )

    def _then(self, trials: int) -> str:
        """What comes after the trials, for who looks at the time that is left; "": nothing that takes long."""
        random = [f"{trials} random trials"] if self.beside is not None else []
        count = self.finale.trainings(trials)
        return " and ".join([*random, *([f"{count} training" + "s" * (count > 1)] if count else [])])

    def _end(self, here: Sitting, search: Search, stop: Stop) -> End | None:
        """From the last trial to the result. None: interrupted; the same command goes on."""
        if search.best is None:
            raise NastoolError(f"all {search.failed} trials failed; see `nastool status {self.folder.path}`")
        further: dict[str, Any] = {}
        if self.beside is not None:
            here.pool.close()  # its processes are started again when there is something to test
            trials = search.told if search.exhausted else self.given["trials"]
            found = self.beside.run(here.store, trials, search.best, self.given, stop)
            if found is None:
                return None
            further["baseline"] = found
        outcome: Outcome | None = None
        if self.finale.settings.any or self.evaluator.shares_weights:
            outcome = self.finale.run(here.store, here.pool, self.given["workers"], stop)
            if outcome is None:
                return None
        best, problem = self.finale.best(search.best, here.store), None
        tested: Mapping[str, float] = {}
        if outcome is None or outcome.best is None:
            tested, reason = test_best(here.pool, best, self.config.seed)
            if reason is not None:
                problem = NastoolError(f"the best trial, {best.id}, could not be tested: {reason}")
        if self.given["ensemble"]:
            try:
                further["ensemble"] = snapshots.measure(self.strategy, here.store, here.pool, self.folder.path)
            except NastoolError as error:  # the search itself has a result all the same
                problem = problem or error
        document = self._result(here.store, best, tested, outcome, further)
        trials = sum(here.store.count().values())
        here.finish(trials, document, exhausted=search.exhausted, finale=self.finale.identity())
        return End(document, outcome, problem)

    def _result(
        self,
        store: Store,
        best: Trial,
        tested: Mapping[str, float],
        outcome: Outcome | None,
        further: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Write best.json and the best weights."""
        path = self.folder.path
        more: dict[str, Any] = {"run": str(path), **store.origin}
        source, scores = path, dict[str, float]()
        if outcome is not None and outcome.best is not None and outcome.run is not None:
            scores = self.finale.scores(outcome.best.proposal.arch, store)
            best, tested, source = outcome.best, outcome.tested, outcome.run
            more = {"run": str(outcome.run), **outcome.origin}
        assert best.evaluation is not None
        checkpoint = best.evaluation.checkpoint
        document = common.trial_document(self.space, best, more)
        document["metrics"].update({**scores, **tested})
        if outcome is not None and outcome.report:
            document["comparison"] = outcome.report
        document.update(further)
        return product.result(path, document, None if checkpoint is None else source / checkpoint)

    def _summary(self, search: Search, end: End, took: float, written: Product) -> None:
        document, outcome = end.document, end.outcome
        if search.exhausted and search.told < search.trials:
            say(f"the strategy has nothing left to propose after {search.told} trials")
        say(f"{search.told} trials, {search.failed} failed, in {common.format_seconds(took)}")
        self._say_best(document)
        for line in outcome.lines if outcome is not None else ():
            say(f"  {line}")
        if "ensemble" in document:
            say(f"  {snapshots.describe(document['ensemble'])}")
        if "baseline" in document:
            say(f"  {baseline.describe(document['baseline'])}")
        results.say_where(self.folder.path, written)

    def _say_best(self, document: Mapping[str, Any]) -> None:
        """What was found, and what all trials cost together."""
        metrics = {k: v for k, v in document["metrics"].items() if k != "seconds"}
        searched = document["run"] == str(self.folder.path)
        which = f"trial {document['trial']}" if searched else "trained from scratch"
        say(f"best: {which}, architecture {document['key']}")
        say(f"  {common.describe_metrics(metrics)}")
        with Store.read(self.folder.database) as store:
            cost, _, _ = store.spent()
            trials = sum(store.count().values())
        say(f"  cost of {trials:,} trials: {describe_cost(cost, simulated=self.evaluator.simulated)}")
