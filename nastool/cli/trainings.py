"""Given architectures, trained from scratch as a run of their own: what `retrain` and the end of a search do."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from nastool.cli import common
from nastool.cli.progress import Progress
from nastool.config import Plugged, RunConfig, RunFolder
from nastool.core import Arch, Objective, Proposal, Trial
from nastool.interfaces import SearchSpace, Strategy
from nastool.runner import Search
from nastool.store import Store

if TYPE_CHECKING:
    from nastool.workers import Pool


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


@dataclass
class Trained:
    """All are trained: what is left is to test them. `trials` are in the order given.

    origin: what a line of such a result says of its evaluator. finished: the document that `finish` was given earlier.
    """

    pool: Pool
    trials: list[Trial]
    store: Store
    origin: Mapping[str, Any]
    finished: Mapping[str, Any] | None

    def finish(self, document: Mapping[str, Any]) -> None:
        """Keep the result, so that it is not made again."""
        self.store.begin()
        self.store.put("final", {"trials": len(self.trials), "document": document})
        self.store.commit()


def listed(config: RunConfig, evaluator: Plugged, archs: Sequence[Arch]) -> RunConfig:
    """The configuration of their trainings."""
    named = hashlib.blake2s(json.dumps([arch.key for arch in archs]).encode(), digest_size=8).hexdigest()
    strategy = Plugged(Listed.name, {"architectures": named})
    return replace(config, strategy=strategy, evaluator=evaluator, objective=None)


@contextmanager
def trained(
    config: RunConfig,
    space: SearchSpace,
    archs: Sequence[Arch],
    folder: RunFolder,
    *,
    workers: int,
    seeds: Sequence[int] | None = None,
    force: bool = False,
    stop: Callable[[], bool] = lambda: False,
    started: Callable[[Pool], None] = lambda pool: None,
) -> Iterator[Trained | None]:
    """Train them in the folder, or go on where an earlier call ended. None: `stop` said so, and some are left.

    config: of `listed`. seeds: one for each, where they are not to follow from the configuration's. started: is told
    of the pool at work. InputError: the folder holds something else and `force` is not given.
    """
    from nastool import devices
    from nastool.workers import ProcessPool

    spec = config.evaluator_spec(space, folder.path)
    evaluator = spec.build()
    slots = devices.slots(workers, str(config.evaluator.options.get("device") or "auto"))
    with folder.locked(), closing(ProcessPool(spec, slots, logs=folder.path / "logs")) as pool:
        started(pool)
        facts = pool.open()
        given = config.identity["evaluator"]["options"].items()
        plugged = {"name": config.evaluator.name, "options": {k: v for k, v in given if v is not None}}
        origin = {"scale": common.scale_of(evaluator), "evaluator": plugged}
        if folder.check(config, force):
            store = Store.open(folder.database)
        else:
            target = Objective.parse(evaluator.objective)
            folder.clear()
            folder.describe(config, target, facts, {"trials": len(archs)})
            about = {"config": config.identity, "objective": str(target), "origin": origin}
            store = Store.create(folder.database, {**about, "fingerprint": facts.get("fingerprint")})
        with store:
            with Progress(len(archs)) as progress:
                search = Search(
                    store,
                    Listed(space, archs),
                    pool,
                    Objective.parse(store.get("objective")),
                    config.seed,
                    len(archs),
                    folder.path,
                    keep=len(archs),
                    stop=stop,
                    watch=progress.watch,
                    seeds=seeds,
                )
                search.restore()
                store.begin()
                store.put("trials", len(archs))
                store.commit()
                search.run()
            if search.told < len(archs):
                yield None
                return
            final = store.get("final")
            done = final is not None and final["trials"] == len(archs)
            yield Trained(pool, list(store.trials()), store, origin, final["document"] if done else None)
