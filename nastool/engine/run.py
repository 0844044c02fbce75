"""A run at work: its folder locked, its database open, an executor at hand, and searches in it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from nastool.core import options as plugin_options
from nastool.core import registry
from nastool.core.archfile import ArchDocument
from nastool.core.costs import Costs
from nastool.core.errors import InputError, Stopped, hint, short
from nastool.core.evaluator import Evaluator, Scaled, executor_of, settled_options
from nastool.core.limits import limits_of
from nastool.core.quantities import Condition
from nastool.core.space import SearchSpace
from nastool.core.strategy import Strategy, reads
from nastool.core.values import Objective, Scalar, Trial, spelt
from nastool.core.yaml_files import read_yaml
from nastool.engine import earlier, results
from nastool.engine.config import RunConfig, RunFolder, differences, said
from nastool.engine.costs import costs_of, known
from nastool.engine.events import Interrupted, Listener, Note, TrialFinished, TrialsBegun, TrialsEnded, Waiting
from nastool.engine.executors.base import Executor, Setting
from nastool.engine.executors.jobs import EvaluatorSpec, Reported
from nastool.engine.interrupts import Interrupts
from nastool.engine.lease import Lease
from nastool.engine.limiting import check_limits
from nastool.engine.search import Search
from nastool.engine.stopping import Stopping
from nastool.engine.store import Store
from nastool.engine.written import Written


@dataclass(frozen=True)
class Watch:
    """Who is told of a run, and who may end it.

    Attributes:
        tell: Called with every event.
        stop: Asked between events; once true, the run ends after what is running, to be continued another time.
    """

    tell: Listener
    stop: Callable[[], bool] = lambda: False

    def note(self, text: str) -> None:
        """Tell a line for people."""
        self.tell(Note(text))


@contextmanager
def interruptible(watch: Watch, folder: Path, then: str, saved: Callable[[], str]) -> Iterator[Watch]:
    """Let Ctrl-C end a run: the first after what is running, the second at once.

    Args:
        watch: Who is told of it.
        folder: The run's.
        then: What to do with it afterwards, in words.
        saved: Returns what is saved, in words.
    """
    with Interrupts(lambda: watch.tell(Interrupted(folder, then))) as interrupts:
        try:
            yield Watch(watch.tell, lambda: interrupts.stopping or watch.stop())
        except Stopped:
            watch.note(f"stopped with {saved()} saved in {folder}; {then}")
            raise


@dataclass
class Run:
    """What is at hand while a run is at work.

    Attributes:
        facts: What the evaluator says of itself.
        continued: Whether the run had begun before.
    """

    config: RunConfig
    evaluator: Evaluator
    folder: RunFolder
    executor: Executor
    store: Store
    facts: Mapping[str, Scalar]
    continued: bool
    watch: Watch

    def search(
        self,
        strategy: Strategy,
        trials: int | None,
        *,
        noun: str = "trials",
        then: str = "",
        restored: Callable[[Search], None] = lambda search: None,
        facts: Mapping[str, object] | None = None,
        keep: int = 10,
        max_failures: int = 10,
        seeds: Sequence[int] | None = None,
        as_it_is: bool = False,
        stopping: Stopping | None = None,
        finalists: Callable[[], Sequence[int]] = lambda: (),
    ) -> Search:
        """Search until there are so many trials, the strategy has nothing left, or it is to stop.

        Args:
            strategy: Untouched; what the run knows of it is restored.
            trials: Number of trials, those of earlier runs of the command included, >= 1; None: any.
            noun: What these trials are called. then: what comes after them.
            restored: Called with the search before it goes on.
            facts: Values to store with the number of trials.
            keep, max_failures, seeds, finalists: As of `Search`.
            as_it_is: Only restore it, with the trials that there are.
            stopping: What ends it beside their number.
        """
        tell = self.watch.tell

        def watch(search: Search, event: Reported | Trial | None) -> None:
            if isinstance(event, Trial):
                tell(TrialFinished(event, search.told - 1))
            else:
                tell(event or Waiting())

        search = Search(
            self.store,
            strategy,
            self.executor,
            self.store.objectives,
            self.config.seed,
            trials,
            self.folder.path,
            one_commit=self.evaluator.inline,
            keep=keep,
            max_failures=max_failures,
            evaluator=registry.whose(type(self.evaluator)),
            seeds=seeds,
            stop=lambda: self.watch.stop() or self.executor.ended,
            stopping=stopping,
            finalists=finalists,
            watch=watch,
        )
        search.costs = self._costs(search)
        named = [*(each.metric for each in search.objectives), *(each.metric for each in search.ends.rules.conditions)]
        named += reads(strategy)
        if (limits := limits_of(strategy.space)) is not None:
            limits.costs = search.costs
            named += limits.names
        search.measured = [metric for metric in dict.fromkeys(named) if metric in search.costs.names]
        tell(TrialsBegun(search, noun, then))
        rules = search.ends.rules.to_json()
        try:
            search.restore()
            restored(search)
            if not as_it_is:
                before = self.store.get("ended") or {}
                if before.get("rules") == rules:  # also where a clock has decided it
                    search.ends.why = before["why"]
                else:
                    before = None
                begins = {"trials": trials, "then": then, "silent": {}, "ended": before or None}
                self.store.write({**begins, **(facts or {})})
                search.ends.budget.counts = True
                search.run()
                if search.ends.why and not self.watch.stop():
                    self.store.write({"ended": {"why": search.ends.reason, "trials": search.finished, "rules": rules}})
        finally:
            tell(TrialsEnded())
        return search

    def _costs(self, search: Search) -> Costs:
        """Return what architectures cost by the run's evaluator, which is here or an executor's."""
        threads = self.config.latency_threads
        if not self.evaluator.inline:
            return Costs(partial(search.cost, threads=threads), known(self.evaluator))
        at_hand = not isinstance(self.evaluator, Scaled)
        return Costs(partial(costs_of, self.evaluator, threads=threads), known(self.evaluator), at_hand=at_hand)

    def finish(self, trials: int, document: Mapping[str, object], **facts: object) -> None:
        """Keep the result of so many trials, so that it is not made again."""
        self.store.write({"final": {"trials": trials, **facts, "document": document}, "written": False})

    def written(self) -> None:
        """Keep that all files of the result are written, so that they are not written again."""
        self.store.write({"written": True})


@contextmanager
def open_run(
    config: RunConfig,
    evaluator: Evaluator,
    folder: RunFolder,
    setting: Setting,
    watch: Watch,
    *,
    executor: str | Executor | None = None,
    force: bool = False,
    options: Mapping[str, object],
    check: Callable[[], object] = lambda: None,
    accept: Callable[[Mapping[str, Scalar]], None] = lambda facts: None,
    space: SearchSpace | None = None,
    pace: Callable[[Executor, Mapping[str, Scalar]], Mapping[str, Scalar]] | None = None,
) -> Iterator[Run]:
    """Begin the run in the folder, or go on with it.

    Args:
        config: Of the run.
        evaluator: As of its specification, not prepared.
        folder: The run's; nothing is left there where the run cannot begin.
        setting: Workers and timeout.
        watch: Who is told of it.
        executor: Or its name; None: this process for an evaluator that costs next to nothing, else worker processes.
        force: Replace what else is in the folder.
        options: Of the command, beside the config's, for run.yaml.
        check: Called with the folder locked, for its errors.
        accept: Called before a run begins with what its evaluator says of itself, for its errors, too.
        space: As a search sees it, of which is checked that something is within its limits.
        pace: Called before a run begins with its executor and what the evaluator says; returns settled options of the
            evaluator that come from a clock.

    Raises:
        InputError: The folder holds something else, somebody is at work in it, the data are not those that the run
            began with, or bad.
    """
    settled = {} if force else _settled(config, evaluator, folder)
    spec = config.evaluator_spec(evaluator.space, folder.path)
    spec = replace(spec, options={**spec.options, **settled})
    threads = None if force else _threads_of(folder, watch)
    setting = replace(setting, threads=threads, logs=folder.path / "logs", say=watch.note)
    built = spec.build() if settled else evaluator
    at_work = make_executor(executor, spec, built, setting)
    lease = Lease(folder.database, watch.note)
    with folder.locked(), ExitStack() as stack:
        stack.enter_context(closing(at_work))
        lease.watch()
        continued = folder.check(config, force)  # nobody else can change it from here on
        check()
        try:
            with nullcontext() if continued else folder.new_logs():
                facts = at_work.open()
                if len(at_work.devices) > 1:
                    facts = {**facts, "devices": ", ".join(at_work.devices)}
                if not continued:
                    accept(facts)
                    if space is not None:
                        check_limits(config, evaluator, at_work, space)
                    if pace is not None and (paced := pace(at_work, facts)):
                        at_work.close()
                        chosen = facts.get("threads")
                        setting = replace(setting, threads=chosen if isinstance(chosen, int) else None)
                        spec = replace(spec, options={**spec.options, **paced})
                        evaluator = spec.build()
                        at_work = stack.enter_context(closing(make_executor(executor, spec, evaluator, setting)))
                        facts = at_work.open()
            lease.watch()  # it may have been long until a worker was there
            if continued:
                begun = _continue(evaluator, folder, facts, watch)
            else:
                begun = _create(config, evaluator, folder, facts, options)
        except InputError:
            at_work.close()
            folder.discard()
            raise
        with begun as store, lease.held(store):
            yield Run(config, evaluator, folder, at_work, store, facts, continued, watch)


def make_executor(name: str | Executor | None, spec: EvaluatorSpec, evaluator: Evaluator, setting: Setting) -> Executor:
    """Return an executor, not open yet.

    Args:
        name: Of the executor, with options as NAME:KEY=VALUE,...; or it itself; None: the one that suits the evaluator.
        spec, evaluator, setting: As of `Executor.make`.

    Raises:
        InputError: There is none of that name, its options do not fit, or as of `Executor.make`.
    """
    if not isinstance(name, str | None):
        return name
    plain, given = plugin_options.split(name or executor_of(evaluator), "--executor")
    cls: type[Executor] = registry.load("executor", plain)
    values = plugin_options.resolve(f"executor {plain}", cls, given)
    try:
        return cls.make(spec, evaluator, replace(setting, options=values))
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"executor {plain}: {error}") from error


def _threads_of(folder: RunFolder, watch: Watch) -> int | None:
    """Return how many CPU threads a worker of the run has; None: not chosen yet. With others, sums round otherwise."""
    try:
        with Store.read(folder.database) as store:
            threads = store.get("threads")
    except InputError:
        return None
    if not isinstance(threads, int) or not 1 <= threads <= 1024:
        return None
    if (given := os.environ.get("OMP_NUM_THREADS", str(threads))) != str(threads):
        began = f"{folder.path} began with {threads} threads a worker"
        watch.note(f"note: {began}; with OMP_NUM_THREADS={given} sums are rounded otherwise")
    return threads


def _settled(config: RunConfig, evaluator: Evaluator, folder: RunFolder) -> dict[str, Scalar]:
    """Return the values that the run began with of options that mean another thing elsewhere; {}: it is to begin."""
    try:
        with Store.read(folder.database) as store:
            if differences(store.get("config"), config.identity):
                return {}
            found = store.get("settled")
        recipe = config.identity["resolved"].get("recipe", {})
        if found is None and "precision" in settled_options(evaluator):  # of a version that did not keep them
            facts = dict(read_yaml(folder.path / "run.yaml")["provenance"]["evaluator"])
            found = {"precision": facts["precision"]}
            if found["precision"] == "fp32" and not str(facts["device"]).startswith("cpu"):
                found["precision"] = "tf32"  # so it was, under the other name
        found = {**recipe, **found}  # runs of versions that did not fit recipes to the data keep theirs
    except (InputError, AttributeError, KeyError, TypeError, ValueError):
        return {}
    return {name: found[name] for name in settled_options(evaluator) if name in found}


def _continue(evaluator: Evaluator, folder: RunFolder, facts: Mapping[str, Scalar], watch: Watch) -> Store:
    store = Store.open(folder.database, durable=not evaluator.inline)
    if store.get("fingerprint") != facts.get("fingerprint"):
        store.close()
        raise InputError(
            f"the data of {folder.path} changed since it began: give the same data, another --out, or --force to "
            "begin anew"
        )
    before, now = str(store.get("device") or ""), str(facts.get("device") or "")
    if before and now and before != now and not (before.startswith("cpu") and now.startswith("cpu")):
        how = f"{now} in {facts['precision']}" if "precision" in facts else now
        watch.note(f"note: {folder.path} began on {before} and goes on on {how}: metrics are rounded otherwise")
    if (final := store.get("final")) is not None:
        results.put_back(folder.path, final["document"])
    return store


def _create(
    config: RunConfig,
    evaluator: Evaluator,
    folder: RunFolder,
    facts: Mapping[str, Scalar],
    options: Mapping[str, object],
) -> Store:
    who = registry.whose(type(evaluator))
    try:
        objectives = Objective.parse_all(config.objective or evaluator.objective)
    except ValueError as error:
        raise InputError(str(error) if config.objective else f"{who}: {error}") from None
    for objective in objectives:
        check_metric(evaluator, objective.metric)
    written = spelt(objectives)
    before = earlier.read(config.warm_start, evaluator.space, objectives)
    folder.clear()
    folder.describe(config, written, facts, options)
    about = {
        "config": config.identity,
        "objective": written,
        Written.KEY: {},
        "fingerprint": facts.get("fingerprint"),
        "threads": facts.get("threads"),
        "device": facts.get("device"),
        "settled": {name: facts[name] for name in settled_options(evaluator) if name in facts},
        "origin": {
            "scale": scale_of(evaluator),
            "evaluator": said(evaluator.name, config.evaluator.options),
            **said_of_data(facts),
        },
        **({earlier.KEY: before} if before else {}),
    }
    return Store.create(folder.database, about, durable=not evaluator.inline)


def check_metric(evaluator: Evaluator, metric: str, what: str = "") -> None:
    """Check that trials will have a metric; of an inline evaluator, once it is prepared.

    Args:
        evaluator: Who measures.
        metric: Its name.
        what: Who asks for it, for the error; "": the objective.

    Raises:
        InputError: They won't.
    """
    metrics = evaluator.metrics | known(evaluator) | {"seconds"}
    if evaluator.metrics and metric not in metrics:
        who, near = registry.whose(type(evaluator)), hint(metric, sorted(metrics))
        raise InputError(f"{what}{who} gives no metric {metric!r}; {near}")


def check_reads(strategy: Strategy, evaluator: Evaluator) -> None:
    """InputError: the strategy looks at a metric that no trial will have."""
    for metric in reads(strategy):
        check_metric(evaluator, metric, f"strategy {strategy.name} looks at {metric}: ")


def check_conditions(evaluator: Evaluator, conditions: Sequence[Condition]) -> None:
    """InputError: one that is to end the search names a metric that no trial will have."""
    for condition in conditions:
        check_metric(evaluator, condition.metric, "--stop-when: ")


def scale_of(evaluator: Evaluator) -> dict[str, int] | None:
    """Return the evaluator's scale as a JSON object; None: it builds no networks."""
    return dataclasses.asdict(evaluator.scale) if isinstance(evaluator, Scaled) else None


def said_of_data(facts: Mapping[str, object]) -> dict[str, Any]:
    """Return what an architecture's line says of the data, from what its evaluator says of itself."""
    return {key: facts[key] for key in ("data_digest",) if facts.get(key)}


def check_data(
    document: ArchDocument, options: Mapping[str, object], facts: Mapping[str, object], force: bool, watch: Watch
) -> None:
    """Check that the data are still those that the architecture was found or measured with.

    Args:
        document: The architecture, with what its line says.
        options: Of the evaluator that is to measure it now; other data are as they are asked for.
        facts: What that evaluator says of itself.
        force: Go on all the same, with a note.
        watch: Who is told of it.

    Raises:
        InputError: They are not.
    """
    origin = document.extra.get("evaluator")
    before = origin.get("options") if isinstance(origin, dict) else None
    then, now = document.extra.get("data_digest"), facts.get("data_digest")
    if not isinstance(before, dict) or not isinstance(then, str) or now in (None, then):
        return
    if any(before.get(key) != options.get(key) for key in ("data", "image_size")):
        return
    found = f"data {short(options.get('data'))} are not those that architecture {document.arch.key} was measured with"
    if not force:
        raise InputError(f"{found} (digest {short(then)}, now {now}): give the same data, or --force to go on")
    watch.note(f"note: {found}")
