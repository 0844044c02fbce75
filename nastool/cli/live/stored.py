"""From the run.db of a search that runs elsewhere to a view of it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nastool.cli.live.view import LAST, Best, Curve, Drawings, RoundBook, Row, Running, View, remaining
from nastool.core import registry
from nastool.core.values import Objective, Trial
from nastool.engine.store import Store

PACE = 1000
"""Over how many of the last trials their pace is taken."""
PAUSE = 60.0
"""If nothing ran for more than so many seconds, nobody was at work on the run."""
_POLICY = "json_extract(evaluation, '$.policy')"


class Recent(Store):
    """A run's database, asked for what is new."""

    def last(self, k: int) -> list[Trial]:
        """The last k finished trials, in the order told."""
        return list(self._select("WHERE told IS NOT NULL ORDER BY told DESC LIMIT ?", k))[::-1]

    def rounds(self) -> list[Trial]:
        """The rounds of a policy, in order."""
        return list(self._select(f"WHERE told IS NOT NULL AND {_POLICY} IS NOT NULL ORDER BY told"))

    def running(self) -> list[tuple[int, float]]:
        """The running trials, and when each began, in seconds since 1970."""
        return [(int(i), float(at)) for i, at in self._query("SELECT id, started FROM trials WHERE state='running'")]

    def per_trial(self, k: int, rounds: bool) -> float | None:
        """Seconds from one result to the next, over the last k; of rounds only, or only of what is none.

        Without the time between two sittings.
        """
        kind = "NOT NULL" if rounds else "NULL"
        times = sorted(
            # one that was interrupted was asked in an earlier sitting, and has been evaluated again since
            (float(asked if ended - asked - took <= PAUSE else ended - took), float(ended))
            for asked, ended, took in self._query(
                "SELECT started, finished, COALESCE(json_extract(evaluation, '$.seconds'), finished - started) "
                f"FROM trials WHERE told IS NOT NULL AND {_POLICY} IS {kind} ORDER BY told DESC LIMIT ?",
                k,
            )
        )
        if not times:
            return None
        took, until = 0.0, times[0][0]
        for begun, ended in times:
            if begun - until > PAUSE:
                until = begun
            took += max(0.0, ended - until)
            until = max(until, ended)
        return max(took, 1e-9) / len(times)


class Followed:
    """A run folder that somebody else's search works on."""

    def __init__(self, folder: Path) -> None:
        """InputError: it is none."""
        self.folder = folder
        with Recent.read(folder / "run.db") as store:
            self.space = registry.make_space(store.space)
        self._drawings = Drawings(self.space)

    def view(self) -> View:
        with Recent.read(self.folder / "run.db") as store:
            assert isinstance(store, Recent)
            objective = Objective.parse(store.get("objective"))
            counts = store.count()
            done, wanted = counts["done"] + counts["failed"], store.get("trials")
            rounds = RoundBook(store.rounds()).rounds()
            in_rounds = rounds is not None and rounds.done < rounds.total
            state = state_of(self.folder, store)
            per_trial = store.per_trial(PACE, in_rounds) if state == "running" else None
            ahead = remaining(done, wanted, rounds)
            best = store.best(1)
            failures = store.failures(1)
            return View(
                metric=objective.metric,
                done=done,
                total=wanted,
                title=f"{self.folder}: {state}",
                per_hour=None if per_trial is None else 3600 / per_trial,
                left=per_trial * ahead if per_trial and ahead else None,
                then=str(store.get("then") or ""),
                best=self._best(best[0], objective) if best else None,
                last=[Row.of(trial, objective) for trial in store.last(LAST)],
                running=self._running(store, objective),
                failed=counts["failed"],
                failure=(failures[0].id, failures[0].error or "") if failures else None,
                rounds=rounds,
            )

    def running(self) -> list[dict[str, Any]]:
        """The running trials with what they reported last, for JSON."""
        with Recent.read(self.folder / "run.db") as store:
            assert isinstance(store, Recent)
            found: list[dict[str, Any]] = []
            for trial_id, _ in store.running():
                reports = store.reports(trial_id)
                last = {"step": reports[-1][0], "metrics": reports[-1][1]} if reports else {}
                found.append({"trial": trial_id, **last})
            return found

    def _sitting(self) -> float:
        """When who works on it began, in seconds since 1970: what was interrupted before is evaluated again."""
        try:
            return (self.folder / "run.lock").stat().st_mtime
        except OSError:
            return 0.0

    def _best(self, trial: Trial, objective: Objective) -> Best:
        arch = trial.proposal.arch
        return Best(Row.of(trial, objective), arch.key, self._drawings.of(arch))

    def _running(self, store: Recent, objective: Objective) -> Sequence[Running]:
        found = []
        sitting, silent = self._sitting(), store.silent()
        for trial_id, asked in store.running():
            began, curve = max(asked, sitting), Curve()
            for step, metrics in store.reports(trial_id):
                curve.add(step, metrics, objective.metric)
            found.append(curve.running(trial_id, max(0.0, time.time() - began), silent.get(trial_id)))
        return found


def state_of(folder: Path, store: Store) -> str:
    """ "running", "finished" or "interrupted"."""
    from nastool.engine.config import RunFolder

    if RunFolder(folder).busy():
        return "running"
    wanted, final = store.get("trials"), store.get("final")
    enough = final is not None and (final.get("exhausted") or final["trials"] >= (wanted or 0))
    return "finished" if enough and not store.count()["running"] else "interrupted"


def inner_runs(folder: Path) -> list[Path]:
    """The runs below a run's folder that are at work now, such as trainings of its best from scratch."""
    from nastool.engine.config import RunFolder

    return [path.parent for path in sorted(folder.glob("*/run.db")) if RunFolder(path.parent).busy()]
