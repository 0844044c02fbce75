"""One sitting of a run: its folder locked, its workers at hand, its database open, and a search in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nastool.cli import common
from nastool.cli.progress import Progress
from nastool.core.errors import InputError, hint
from nastool.core.evaluator import Evaluator
from nastool.core.files import read_yaml
from nastool.core.strategy import Strategy
from nastool.core.values import Objective, Scalar
from nastool.engine import results as product
from nastool.engine.config import RunConfig, RunFolder, differences, said
from nastool.engine.search import Search
from nastool.engine.store import Store
from nastool.engine.workers import InlinePool, Pool, ProcessPool, Reported
from nastool.engine.written import Written
from nastool.nets import devices

if TYPE_CHECKING:
    from nastool.core.values import Trial

Watch = Callable[[Search, "Reported | Trial | None"], None]


@dataclass
class Sitting:
    """What is at hand during a sitting. continued: the run had begun before."""

    config: RunConfig
    evaluator: Evaluator
    folder: RunFolder
    pool: Pool
    store: Store
    facts: Mapping[str, Scalar]
    continued: bool

    def search(
        self,
        strategy: Strategy,
        trials: int,
        *,
        stop: Callable[[], bool],
        noun: str = "trials",
        then: str = "",
        watching: Callable[[Watch], Watch] = lambda watch: watch,
        restored: Callable[[Search], None] = lambda search: None,
        facts: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> Search:
        """Search until there are so many trials, the strategy has nothing left, or `stop`; shows its progress.

        then: what comes after them, for the display. watching: wraps the display's `watch`. restored: is told of the
        search before it goes on. facts: to store with the number of trials. settings: other fields of `Search`.
        """
        with Progress(trials, noun, then) as progress:
            search = Search(
                self.store,
                strategy,
                self.pool,
                Objective.parse(self.store.get("objective")),
                self.config.seed,
                trials,
                self.folder.path,
                one_commit=self.evaluator.inline,
                stop=stop,
                watch=watching(progress.watch),
                **settings,
            )
            search.restore()
            restored(search)
            self.store.begin()
            for key, value in {"trials": trials, "then": then, "silent": {}, **(facts or {})}.items():
                self.store.put(key, value)
            self.store.commit()
            search.run()
        return search

    def finish(self, trials: int, document: Mapping[str, Any], **facts: Any) -> None:
        """Keep the result of so many trials, so that it is not made again."""
        self.store.begin()
        self.store.put("final", {"trials": trials, **facts, "document": document})
        self.store.put("written", False)
        self.store.commit()

    def written(self) -> None:
        """Keep that all files of the result are written, so that they are not written again."""
        self.store.begin()
        self.store.put("written", True)
        self.store.commit()


@contextmanager
def sitting(
    config: RunConfig,
    evaluator: Evaluator,
    folder: RunFolder,
    *,
    workers: int,
    timeout: float | None = None,
    force: bool = False,
    options: Mapping[str, Any],
    check: Callable[[], object] = lambda: None,
    accept: Callable[[Mapping[str, Scalar]], None] = lambda facts: None,
    started: Callable[[Pool], None] = lambda pool: None,
) -> Iterator[Sitting]:
    """Begin the run in the folder, or go on with it.

    evaluator: as of the config's specification, not prepared. timeout: seconds for a trial. force: replace what else
    is in the folder. options: of the command, beside the config's, for run.yaml. check: called with the folder locked,
    for its errors. accept: called before a run begins with what its evaluator says of itself, for its errors, too.
    started: is told of the pool before it is opened.

    InputError: the folder holds something else, somebody is at work in it, the data are not those that the run began
    with, or bad; then nothing is left behind.
    """
    settled = {} if force else _settled(config, evaluator, folder)
    spec = config.evaluator_spec(evaluator.space, folder.path)
    spec = replace(spec, options={**spec.options, **settled})
    threads = None if force else _threads_of(folder)
    slots: list[dict[str, str]] = []
    if evaluator.inline:
        pool: Pool = InlinePool(evaluator)
    else:
        # With shared weights one process trains them; others have their turn when the best are trained from scratch.
        count = min(workers, evaluator.max_workers or workers)
        device = str(config.evaluator.options.get("device") or "auto")
        slots = devices.slots(count, device, threads, common.say, evaluator.max_workers)
        pool = ProcessPool(spec, slots, timeout=timeout, logs=folder.path / "logs", say=common.say)
    with folder.locked(), closing(pool):
        continued = folder.check(config, force)  # nobody else can change it from here on
        check()
        started(pool)
        try:
            facts = pool.open()
            if len(models := devices.models(slots)) > 1:
                facts = {**facts, "devices": ", ".join(models)}
            if not continued:
                accept(facts)
        except InputError:
            pool.close()
            folder.discard()
            raise
        with _opened(config, evaluator, folder, continued, facts, options) as store:
            yield Sitting(config, evaluator, folder, pool, store, facts, continued)


def _threads_of(folder: RunFolder) -> int | None:
    """How many CPU threads a worker of the run has: with others, sums are rounded otherwise. None: not chosen yet."""
    try:
        with Store.read(folder.database) as store:
            threads = store.get("threads")
    except InputError:
        return None
    if not isinstance(threads, int) or not 1 <= threads <= 1024:
        return None
    if (given := os.environ.get("OMP_NUM_THREADS", str(threads))) != str(threads):
        began = f"{folder.path} began with {threads} threads a worker"
        common.say(f"note: {began}; with OMP_NUM_THREADS={given} sums are rounded otherwise")
    return threads


def _settled(config: RunConfig, evaluator: Evaluator, folder: RunFolder) -> dict[str, Any]:
    """The values that the run began with of options that mean another thing on another machine; {}: it is to begin."""
    try:
        with Store.read(folder.database) as store:
            if differences(store.get("config"), config.identity):
                return {}
            found = store.get("settled")
        if found is None and "precision" in evaluator.settled_options:  # of a version that did not keep them
            facts = dict(read_yaml(folder.path / "run.yaml")["provenance"]["evaluator"])
            found = {"precision": facts["precision"]}
            if found["precision"] == "fp32" and not str(facts["device"]).startswith("cpu"):
                found["precision"] = "tf32"  # so it was, under the other name
    except (InputError, KeyError, TypeError, ValueError):
        return {}
    return {name: found[name] for name in evaluator.settled_options if name in found} if isinstance(found, dict) else {}


def _opened(
    config: RunConfig,
    evaluator: Evaluator,
    folder: RunFolder,
    continued: bool,
    facts: Mapping[str, Scalar],
    options: Mapping[str, Any],
) -> Store:
    durable = not evaluator.inline
    if continued:
        store = Store.open(folder.database, durable=durable)
        if store.get("fingerprint") != facts.get("fingerprint"):
            store.close()
            raise InputError(
                f"the data of {folder.path} changed since it began: give the same data, another --out, or --force to "
                "begin anew"
            )
        before, now = str(store.get("device") or ""), str(facts.get("device") or "")
        if before and now and before != now and not (before.startswith("cpu") and now.startswith("cpu")):
            how = f"{now} in {facts['precision']}" if "precision" in facts else now
            common.say(f"note: {folder.path} began on {before} and goes on on {how}: metrics are rounded otherwise")
        if (final := store.get("final")) is not None:
            product.put_back(folder.path, final["document"])
        return store
    objective = Objective.parse(config.objective or evaluator.objective)
    known = evaluator.metrics | {"seconds"}
    if evaluator.metrics and objective.metric not in known:
        near = hint(objective.metric, sorted(known))
        raise InputError(f"evaluator {evaluator.name} gives no metric {objective.metric!r}; {near}")
    folder.clear()
    folder.describe(config, objective, facts, options)
    about = {
        "config": config.identity,
        "objective": str(objective),
        Written.KEY: {},
        "fingerprint": facts.get("fingerprint"),
        "threads": facts.get("threads"),
        "device": facts.get("device"),
        "settled": {name: facts[name] for name in evaluator.settled_options if name in facts},
        "origin": {
            "scale": common.scale_of(evaluator),
            "evaluator": said(evaluator.name, config.evaluator.options),
            **common.said_of_data(facts),
        },
    }
    return Store.create(folder.database, about, durable=durable)
