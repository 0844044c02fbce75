"""Whether a run has what it was to have, and what an option given anew means for one that has ended."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from nastool.core.strategy import Fed
from nastool.engine import baseline, own_ensembles, results
from nastool.engine.events import Ended
from nastool.engine.lease import Lease
from nastool.engine.run import Watch
from nastool.engine.store import Store

if TYPE_CHECKING:
    from nastool.engine.search_run import SearchRun

ENDS: Mapping[str, str] = {
    "trials": "trials",
    "time": "time",
    "until": "time",
    "stop_when": "stop-when",
    "patience": "patience",
}
"""Options that end a search, and what `Stopping` calls them."""


def dropped(given: Collection[str], ended: Mapping[str, Any] | None, enough: bool) -> dict[str, None]:
    """Return the options that count no more when a run goes on with others: those by which it has ended.

    Args:
        given: Names of options that are given anew.
        ended: What is stored of its end; None: nothing.
        enough: There are as many trials as were asked for.
    """
    if not any(name in ENDS for name in given):
        return {}
    why = "trials" if ended is None and enough else (ended or {}).get("why")
    return {name: None for name, of in ENDS.items() if of == why}


def finished(run: SearchRun, watch: Watch) -> bool:
    """Whether the run needs nothing more for so many trials; then says so."""
    path, written = run.folder.path, None
    with Store.read(run.folder.database) as store:
        final, complete, count = store.get("final"), store.get("written"), sum(store.count().values())
        ended = store.get("ended") or {}
    if final is None:
        return False
    so = ended.get("rules") == run.rules.to_json() and ended["trials"] == final["trials"]
    exhausted = final.get("exhausted") and not isinstance(run.strategy, Fed)
    enough = 0 if so else 1 if exhausted else run.trials
    if enough is None or min(count, final["trials"]) < enough:
        return False
    if final.get("finale", run.after.identity()) != run.after.identity():
        return False
    document: dict[str, Any] = final["document"]
    if own_ensembles.wanted(run.strategy) and "ensemble" not in document:
        return False
    if run.beside is not None and not baseline.covers(document, min(final["trials"], run.trials or count)):
        return False
    if complete is not False and results.whole(path, document, report=run.report is not None):
        watch.note(_why(run, count, final, ended))
    else:
        document, lease = results.moved(path, document), Lease(run.folder.database, watch.note)
        with run.folder.locked():
            lease.watch()
            with Store.open(run.folder.database) as store, lease.held(store):
                if store.get("final") != final:
                    return False  # somebody went on with it meanwhile
                weights = results.held(path, document) if "weights" in document else None
                if "weights" in document and weights is None:
                    return False  # they can be found again
                watch.note(_why(run, count, final, ended))
                document = results.result(path, document, weights)
                store.write({"final": {**final, "document": document}, "written": False})
                written = results.write(path, store, run.report)
                store.write({"written": True})
    watch.tell(Ended(path, document, written, (run.cost(),)))
    return True


def _why(run: SearchRun, count: int, final: Mapping[str, Any], ended: Mapping[str, Any]) -> str:
    """Why a run with so many trials needs nothing more."""
    measured = final["trials"]
    has = f"{run.folder.path} already has its {count} trials"
    why = ended.get("why")
    if why not in (None, "trials") and not final.get("exhausted"):
        options = [f"--{name.replace('_', '-')}" for name, of in ENDS.items() if of == why]
        return f"{run.folder.path} ended after {measured} trials by its {options[0]}; more {options[0]} extends it"
    if run.trials is None or count < run.trials:
        return f"{has}; the strategy has nothing left to propose"
    if measured < count:
        asked = f"{run.trials} are asked for: this is the result of the first {measured}"
        return f"{has}, {asked}; more --trials extend it"
    asked = f", more than the {run.trials} that are asked for" if count > run.trials else ""
    return f"{has}{asked}; more --trials extend it"
