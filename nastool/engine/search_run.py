"""A search from its options to its result, with what follows its trials."""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, fields, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from nastool.core import invocation, plugin_files, registry
from nastool.core.errors import InputError, NastoolError
from nastool.core.evaluator import Evaluator, Stateful, rounds_of
from nastool.core.options import split
from nastool.core.space import SearchSpace
from nastool.core.strategy import Fed, Strategy, planned_trials, random_trials
from nastool.core.values import Scalar, Trial
from nastool.core.wording import describe_cost, format_seconds
from nastool.core.yaml_files import read_yaml
from nastool.engine import (
    after_search,
    arguments,
    baseline,
    done,
    earlier,
    final_stage,
    logs,
    outside,
    own_ensembles,
    prior,
    ranking,
    results,
)
from nastool.engine.after_search import AfterSearch, Outcome
from nastool.engine.aside import test_best
from nastool.engine.baseline import Baseline
from nastool.engine.command_options import FinishOptions, ResumeOptions, SearchOptions
from nastool.engine.config import RunConfig, RunFolder
from nastool.engine.events import Ended, RunBegun
from nastool.engine.executors.base import Executor, Setting
from nastool.engine.final_stage import ARMS, FinalStage
from nastool.engine.logs import Loggers
from nastool.engine.planning import Timing, paced, shares
from nastool.engine.results import Product, Report, Result
from nastool.engine.retraining import Listed
from nastool.engine.run import Run, Watch, check_conditions, check_reads, interruptible, open_run
from nastool.engine.search import Search
from nastool.engine.search_config import check, config_of
from nastool.engine.stopping import Rules
from nastool.engine.store import Store
from nastool.learners import multi_fidelity

_NAMES = {field.name for field in fields(SearchOptions)} - {"out", "force", "on_event", "stop"}
_SAID = {"out", "force", "log", *SearchOptions.FLAGS}
"""Options that a run records elsewhere, those of its evaluator for one."""


@dataclass
class SearchRun:
    """A search that is resolved and checked, with nothing begun; `carry_out` begins or continues it.

    Attributes:
        options: With the number of trials filled in.
        after: What is trained once its trials are done.
        beside: Random search beside it, where that is wanted.
        report: Makes the page that it leaves behind; None: it leaves none.
        notes: What to know of it, a line each.
        finishes: Whether it makes a result of the trials that there are; `trials` is their number then.
        rules: What ends it.
        begun: When this call began, by `time.monotonic`.
    """

    options: SearchOptions
    config: RunConfig
    space: SearchSpace
    strategy: Strategy
    evaluator: Evaluator
    folder: RunFolder
    after: AfterSearch
    beside: Baseline | None
    loggers: Loggers
    report: Report | None
    notes: list[str] = field(default_factory=list)
    finishes: bool = False
    rules: Rules = field(default_factory=Rules)
    begun: float = field(default_factory=time.monotonic)

    @classmethod
    def again(cls, options: FinishOptions, report: Report) -> SearchRun:
        """Return the search in a folder, with the options that its last command had.

        Args:
            options: The folder, and others, which come before these. Those of `resume` go on with it, others make a
                result of what it has.
            report: As of `of`.

        Raises:
            InputError: There is no search, or the options do not fit it.
        """
        folder = Path(arguments.word(options.run))
        folder = folder.parent if folder.name == "run.db" else folder
        with Store.read(folder / "run.db") as store:
            found, counts = store.get("options"), store.count()
            ended, used = store.get("ended"), (store.get("time") or {}).get("used", 0.0)
            wanted, strategy = store.get("trials"), store.get("config").get("strategy", {}).get("name")
        if strategy == Listed.name:
            raise InputError(f"{folder} holds trainings and no search: give the command again with which they began")
        found = found or read_yaml(folder / "run.yaml").get("search")  # of a version that did not keep them
        if not isinstance(found, dict):
            raise InputError(f"{folder / 'run.yaml'} does not say how the search began: give its command again")
        given = {name: value for key, value in found.items() if (name := str(key).replace("-", "_")) in _NAMES}
        given |= {"log": logs.given((), given.get("log") or {}), "trials": wanted or given.get("trials")}
        changes = {name: value for name, value in vars(options).items() if value not in (None, ()) and name != "run"}
        made = sum(counts.values()) - counts["running"]
        given["trials"] = given["trials"] and max(given["trials"], made)  # its leader may have gone on beyond these
        finishes = not isinstance(options, ResumeOptions)
        given |= dict.fromkeys(done.ENDS) if finishes else done.dropped(changes, ended, made >= (wanted or 0))
        if "time" in changes:  # from now on
            changes["time"] = used + (Rules.read(SearchOptions(time=changes["time"])).seconds or 0.0)
        local = {name: changes.pop(name) for name in options.LOCAL if name in changes}
        given |= {**changes, "evaluator_options": {**(given.get("evaluator_options") or {}), **local}}
        command = shlex.quote(str(folder))
        if finishes:
            given["trials"] = made
            if not counts["done"]:
                raise InputError(f"{folder} has no finished trial yet: `nastool resume {command}` goes on")
        elif (given["trials"] or made) < made:
            raise InputError(
                f"{folder} has {made} trials by now, more than {given['trials']}: `nastool finish {command}` makes a "
                "result of them, more --trials extend it"
            )
        run = cls.of(SearchOptions(**{**given, "out": folder, "force": False}), report, finishes=finishes)
        plugins = (run.config.strategy.name, run.config.space.name, run.config.evaluator.name)
        for path in plugin_files.changed(*plugins):
            run.notes.append(f"note: {path} has changed since this search began, which goes on with it as it was")
        if finishes and made < (wanted or 0):
            run.notes.append(
                f"{folder}: {made} of {wanted} trials were made; `nastool resume {command}` makes the others"
            )
        return run

    @classmethod
    def of(cls, options: SearchOptions, report: Report | None = None, *, finishes: bool = False) -> SearchRun:
        """Return the search that the options describe; see the class.

        Raises:
            InputError: Something is wrong with them, or with the folder that they lead to.
        """
        rules, begun = Rules.read(options), invocation.began()
        if rules.until is not None:  # the moment that was meant now
            options = replace(options, until=datetime.fromtimestamp(rules.until).astimezone().isoformat())
        config = config_of(options)
        space = config.make_space()
        strategy = config.make_strategy(space)
        folder = RunFolder(Path(options.out) if options.out else config.default_folder)
        evaluator = config.evaluator_spec(space, folder.path).build()
        rounds, endless = rounds_of(evaluator), rules.timed or rules.patience is not None or isinstance(strategy, Fed)
        if paced(rules, config, evaluator):
            rounds = None  # not known yet, and the same search whenever it goes on
        planned = planned_trials(strategy, rounds) or (None if endless else max(20, 3 * random_trials(strategy)))
        options = replace(options, trials=options.trials or planned)
        rules = replace(rules, trials=options.trials)
        check(options, config, strategy, evaluator)
        after = AfterSearch(config, space, evaluator, folder, after_search.Settings.read(options, strategy, evaluator))
        beside = None
        if options.with_baseline:
            beside = Baseline(config, space, strategy, evaluator, folder, options.force)
        loggers = Loggers(options.log)
        page = report if options.report else None
        more: dict[str, Any] = {"finishes": finishes, "rules": rules, "begun": begun}
        run = cls(options, config, space, strategy, evaluator, folder, after, beside, loggers, page, **more)
        rounds = rounds if "policy" in strategy.needs and not finishes else None
        if rounds is not None and options.trials is not None and options.trials <= rounds:
            if after.settings.ranking:
                raise InputError(
                    f"--check-ranking: needs all {rounds} rounds of the search: give more than {rounds} --trials"
                )
            rest = f"its first {rounds} are rounds: it will end among them"
            run.notes.append(f"note: a whole search takes {planned} trials, and {rest}")
        return run

    @property
    def trials(self) -> int | None:
        """Number of trials in all, >= 1; None: as many as there is time for, or as something else ends it."""
        return self.options.trials

    @property
    def paced(self) -> bool:
        """Whether the time that there is decides how many rounds shared weights are trained."""
        return paced(self.rules, self.config, self.evaluator)

    @property
    def recorded(self) -> dict[str, Any]:
        """Options beside the configuration's, as a configuration file's `search` section has them."""
        identity, default = self.config.as_options(), SearchOptions()
        given = {name.replace("_", "-"): getattr(self.options, name) for name in _NAMES - _SAID}
        found = {key: value for key, value in given.items() if value != getattr(default, key.replace("-", "_"))}
        found = {key: value for key, value in sorted(found.items()) if key not in identity}
        if self.after.settings.any or "shared-weights" in self.evaluator.provides:
            found |= self.after.settings.as_options()
        found.pop("log", None)
        if self.options.log:
            found["log"] = dict(split(text, "--log") for text in self.options.log)
        return found

    def carry_out(self, watch: Watch, executor: Executor | None = None) -> bool:
        """Search, and do all that comes afterwards.

        Args:
            watch: Who is told of it.
            executor: Who carries out the trials, instead of who the options name.

        Returns:
            False: it was interrupted, and is continued by the same options. True: it did what there was to do.

        Raises:
            InputError: Something is wrong with data, devices or the folder.
            NastoolError: The search failed. Where it has a result all the same, that is written.
            Stopped: A second Ctrl-C ended it at once.
        """
        for note in self.notes:
            watch.note(note)
        continues = self.folder.check(self.config, self.options.force)
        if continues and done.finished(self, watch):
            return True
        self.after.prepare()
        if continues:
            self._check_state()
        used = 0.0
        if continues:
            with Store.read(self.folder.database) as store:
                used = (store.get("time") or {}).get("used", 0.0)
        timing, found = Timing(self, used), list[dict[str, Any]]()

        def accept(facts: Mapping[str, Scalar]) -> None:
            self._check_metrics()
            multi_fidelity.begin(self.strategy, facts)
            found.extend(self._prior(watch))

        opened = open_run(
            self.config,
            self.evaluator,
            self.folder,
            Setting(self.options.workers, self.options.trial_timeout, self.options.hung_timeout),
            watch,
            executor=executor or self.options.executor,
            force=self.options.force,
            options=self.recorded,
            accept=accept,
            space=self.space,
            pace=timing.pace if self.paced else None,
        )
        with opened as run, self.loggers.opened(run.store, self.space, self.folder.path, watch.note):
            self._check_metrics()
            if self.config.prior is not None and not earlier.prior(run.store):
                earlier.add(run.store, found or self._prior(watch))
            if not run.continued:
                watch.tell(RunBegun(self.config, self.folder.path, run.facts))
            saved = lambda: f"{sum(run.store.count().values()) - run.store.count()['running']} trials"  # noqa: E731
            with interruptible(watch, self.folder.path, self._next, saved) as run.watch, timing.at_work(run):
                return self._go(run, timing)

    @property
    def _next(self) -> str:
        """What to do with it once it is interrupted."""
        folder = shlex.quote(str(self.folder.path))
        ends = "" if self.finishes else f"; or make a result of what it has: nastool finish {folder}"
        return f"continue with: nastool {'finish' if self.finishes else 'resume'} {folder}{ends}"

    def _check_metrics(self) -> None:
        """InputError: no trial will have what the search looks at."""
        check_conditions(self.evaluator, self.rules.conditions)
        check_reads(self.strategy, self.evaluator)

    def _check_state(self) -> None:
        """InputError: the run cannot go on, since what its evaluator left of finished trials is not there any more."""
        with Store.read(self.folder.database) as store:
            begun = store.count()["done"] > 0
        if begun:
            try:
                if isinstance(self.evaluator, Stateful):
                    self.evaluator.check_state()
            except InputError as error:
                raise InputError(f"{error}: the search cannot go on; begin anew with --force") from None

    def _prior(self, watch: Watch) -> list[dict[str, Any]]:
        """The proxy that it begins with, found; nothing where that is not wanted. InputError: it cannot be found."""
        if (name := self.config.prior) is None:
            return []
        with_workers = Setting(self.options.workers), self.options.executor
        return [prior.find(name, self.config, self.space, self.evaluator, *with_workers, watch.note)]

    # --- the parts

    def _go(self, run: Run, timing: Timing) -> bool:
        """From the first trial to the last file. False: interrupted."""
        started = time.monotonic()
        with_loggers = replace(run, watch=Watch(self.loggers.listening(run.watch.tell), run.watch.stop))
        with ExitStack() as opened:
            search = self._search(with_loggers, timing)
            if (executor := timing.with_fewer_rounds(run, search)) is not None:
                run.executor = with_loggers.executor = opened.enter_context(closing(executor))
                self.strategy = self.config.make_strategy(self.space)
                search = self._search(with_loggers, timing)
            if not self.finishes and (why := search.ends.describe(search.finished)):
                run.watch.note(f"ended {why}")
            left = search.asked - search.finished
            ended = run.executor.ended and (left > 0 or not search.ends.over(search.asked))
            end = None if ended or run.watch.stop() else self._end(run, search, timing)
        if end is None:
            results.write(self.folder.path, run.store)
            if ended:
                how = "`nastool tell {0}` takes results, `nastool ask {0}` hands out more"
                run.watch.note(f"{left} trials open; {how.format(shlex.quote(str(self.folder.path)))}")
            return ended
        document, lines, problem = end
        written: Product = results.write(self.folder.path, run.store, self.report)
        run.written()
        took = time.monotonic() - started
        run.watch.tell(Ended(self.folder.path, document, written, (self.cost(), *lines), took, search))
        self.loggers.close(document)
        if problem is not None:
            raise problem
        return True

    def _search(self, run: Run, timing: Timing) -> Search:
        if isinstance(self.strategy, Fed):
            self.strategy.feed = outside.feed(run.executor, self.space, run.watch.stop)
        multi_fidelity.begin(self.strategy, run.facts)
        earlier.inform(self.strategy, run.store, run.watch.note)

        def restored(search: Search) -> None:
            own_ensembles.weights(self.strategy, run.store, self.folder.path)  # for its error, before any training
            if search.asked and not self.finishes:
                left = search.asked - search.finished
                run.watch.note(f"continuing {self.folder.path}: {search.finished} trials done, {left} to repeat")
            for note in (*self.strategy.notes, *multi_fidelity.notes(self.strategy, self.trials)):
                run.watch.note(f"note: {note}")
            random = random_trials(self.strategy)
            trials = (self.trials or math.inf) - self.rules.final
            if trials <= random and not self.finishes:
                begins = f"{self.strategy.name} begins with {random} random trials, and these are all"
                same = ", which --with-baseline compares with itself" if self.beside is not None else ""
                run.watch.note(f"note: {begins}, so this is random search{same}: give more than {random} --trials")

        def finalists() -> list[int]:
            found = [trial.id for trial in ranking.finalists(run.store, self.space, ARMS)]
            if len(found) > 1:
                what = f"the {len(found)} most promising architectures are trained again with other seeds"
                run.watch.note(f"final stage: {what}, {self.rules.final} trainings in all")
            return found

        return run.search(
            self.strategy,
            self.trials,
            finalists=finalists,
            then=self._then(),
            restored=restored,
            keep=self.options.keep,
            max_failures=self.options.max_failures,
            facts={"options": {**self.config.as_options(), **self.recorded}},
            as_it_is=self.finishes,
            stopping=timing.stopping,
        )

    def _then(self) -> str:
        """What comes after the trials, for who looks at the time that is left; "": nothing that takes long."""
        random = [f"{self.trials or 'as many'} random trials"] if self.beside is not None else []
        count = self.after.wanted(self.trials).count
        return " and ".join([*random, *([f"{count} training" + "s" * (count > 1)] if count else [])])

    def _end(
        self, run: Run, search: Search, timing: Timing
    ) -> tuple[dict[str, Any], list[str], NastoolError | None] | None:
        """From the last trial to best.json: its object, what else there is to say, and what went wrong all the same.

        None: interrupted; the same options go on.
        """
        none = f"the time was up before a {'round' if shares(self.evaluator) else 'trial'} had finished"
        guesses = not search.finished and search.ends.why == "time" and shares(self.evaluator) and self.after.training
        if guesses:
            run.watch.note(f"note: {none}: what is trained from scratch is a guess; more --time searches")
        elif search.best is None:
            if not search.finished and search.ends.why == "time":
                again = f"nastool resume {shlex.quote(str(self.folder.path))} --time gives it more"
                raise NastoolError(f"{none}: {again}; or make trials shorter, with --epochs or a smaller --scale")
            if search.stopped:
                more = f"nastool resume {shlex.quote(str(self.folder.path))} with more --trials or --time goes on"
                raise NastoolError(f"of {search.finished} trials none was trained to its end: {more}")
            if not search.finished:
                raise NastoolError(f"{registry.whose(type(search.strategy))} proposed nothing")
            raise NastoolError(f"all {search.failed} trials failed; see `nastool status {self.folder.path}`")
        facts: dict[str, Any] = {}
        beside: dict[str, Any] | None = None
        if self.beside is not None and search.best is not None:
            run.executor.close()  # its processes are started again when there is something to test
            trials = self.trials if search.ends.reason == "trials" and self.trials else search.finished
            beside = self.beside.run(run, trials, search.best, self.options, timing)
            if beside is None:
                return None
        stage = FinalStage.read(self.space, run.store)
        order = [] if stage is None else stage.order
        outcome: Outcome | None = Outcome()
        if self.after.settings.any or "shared-weights" in self.evaluator.provides:
            limited = timing if self.rules.timed else None
            outcome = self.after.run(run, Setting(self.options.workers), self.options.executor, limited)
            if outcome is None:
                return None
        assert outcome is not None
        lines = [f"  {line}" for line in outcome.lines]
        if outcome.report:
            facts["comparison"] = outcome.report
        problem: NastoolError | None = None
        if outcome.best is not None and outcome.run is not None:
            metrics = {**self.after.scores(outcome.best.proposal.arch, run.store), **outcome.tested}
            result = Result(self.space, outcome.best, outcome.run, outcome.origin, metrics)
        elif search.best is None:
            raise NastoolError(f"{none}, or anything was trained: give more --time")
        else:
            best = order[0].trial if order else self.after.best(search.best, run.store)
            result, problem = self._tested(run, best)
        if stage is not None and order:
            facts["final_stage"] = stage.facts(search.objectives[0])
            metric = search.objectives[0].metric
            lines.append(f"  final stage: mean {metric} {final_stage.describe(facts['final_stage'])}")
        elif len(search.objectives) > 1:
            facts["front"] = ranking.described(
                ranking.best_trials(run.store, self.space, search.finished), search.objectives
            )
        elif (advice := ranking.advice(self.space, list(run.store.trials()), search.objectives[0])) is not None:
            facts["recommended"] = advice
        if beside is not None:
            facts["baseline"] = beside
        if own_ensembles.wanted(self.strategy) or len(outcome.members) > 1:
            try:
                tests, path = any(name.startswith("test_") for name in result.metrics), self.folder.path
                networks = outcome.members or own_ensembles.weights(self.strategy, run.store, path)
                facts["ensemble"] = own_ensembles.make(self.strategy, networks, path, self.config.seed, tests)
                lines.append(f"  {own_ensembles.describe(facts['ensemble'], self.folder.path)}")
            except NastoolError as error:  # the search itself has a result all the same
                problem = problem or error
        wanted = run.store.get("trials") or 0
        if self.finishes and search.finished < wanted:
            facts["unfinished"] = {"trials": search.finished, "of": wanted}
        document = replace(result, facts=facts).write(self.folder.path)
        if beside is not None:
            lines.append(f"  {baseline.describe(beside, document['metrics'])}")
        run.finish(search.finished, document, exhausted=search.exhausted, finale=self.after.identity())
        return document, lines, problem

    def _tested(self, run: Run, best: Trial) -> tuple[Result, NastoolError | None]:
        """The search's own best trial, tested; and what went wrong there."""
        if type(self.evaluator).test is Evaluator.test:  # it tests nothing, and its worker may have ended
            return Result(self.space, best, self.folder.path, run.store.origin), None
        tested, reason = test_best(run.executor, best, self.config.seed)
        problem = None
        if reason is not None:
            problem = NastoolError(f"the best trial, {best.id}, could not be tested: {reason}")
        return Result(self.space, best, self.folder.path, run.store.origin, tested), problem

    def cost(self) -> str:
        """What all trials cost together."""
        with Store.read(self.folder.database) as store:
            cost, _, _ = store.spent()
            trials, before = sum(store.count().values()), earlier.prior(store)
        also = f"; its prior took {format_seconds(before['seconds'])}" if before else ""
        spent = describe_cost(cost, simulated="simulated" in self.evaluator.provides)
        return f"  cost of {trials:,} trials: {spent}{also}"
