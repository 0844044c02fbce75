"""Views of a search, from its run.db, whoever works on it."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from nastool.cli.live.view import DRAWN, Best, Rounds, Row, Running, View
from nastool.core import pareto, registry
from nastool.core.space import SearchSpace
from nastool.core.values import Arch, Evaluation, Objective, Silence, Trial
from nastool.engine.store import Store
from nastool.engine.study import state_of

LAST = 40
"""Most of the last trials that are shown."""
CURVE = 200
"""Most values of a curve that are shown."""
PACE = 1000
"""Number of the last trials over which their pace is taken."""
PAUSE = 60.0
"""Seconds without anything running after which nobody was at work on the run."""
_LOSSES = "SELECT losses FROM trials WHERE state = 'done'"
_POLICY = "json_extract(evaluation, '$.policy')"


class Recent(Store):
    """A run's database, asked for what is new."""

    def last(self, k: int) -> list[Trial]:
        """The last k finished trials, in the order in which they finished."""
        return list(self._select("WHERE told IS NOT NULL ORDER BY told DESC LIMIT ?", k))[::-1]

    def rounds(self) -> list[Trial]:
        """The rounds of a policy, in order."""
        return list(self._select(f"WHERE told IS NOT NULL AND {_POLICY} IS NOT NULL ORDER BY told"))

    def front(self) -> int | None:
        """Number of trials that no other dominates; None: there is one objective."""
        if len(self.objectives) == 1:
            return None
        return len(pareto.front([json.loads(losses) for (losses,) in self._query(_LOSSES)]))

    def running(self) -> list[tuple[int, float, int | None]]:
        """The running trials, when each began, in seconds since 1970, and how many epochs it trains, where it does."""
        recipe = (self.get("config").get("resolved") or {}).get("recipe")
        own = {**(recipe if isinstance(recipe, dict) else {}), **(self.get("settled") or {})}
        epochs = own.get("epochs")
        found = "SELECT id, started, json_extract(proposal, '$.budget') FROM trials WHERE state = 'running'"
        return [
            (int(i), float(at), None if epochs is None else round(epochs if budget is None else budget))
            for i, at, budget in self._query(found)
        ]

    def per_trial(self, k: int, rounds: bool) -> float | None:
        """Seconds from one result to the next, over the last k; of rounds only, or only of what is none.

        Without the time in which nobody worked on the run.
        """
        kind = "NOT NULL" if rounds else "NULL"
        times = sorted(
            # one that was interrupted was asked before, and has been evaluated again since
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
    """A run folder that a search works on."""

    def __init__(self, folder: Path) -> None:
        """Looks up the space of a run.

        Args:
            folder: The run's.

        Raises:
            InputError: It is no run folder.
        """
        self.folder = folder
        with Recent.read(folder / "run.db") as store:
            self.space = registry.make_space(store.space)

    def view(self, state: str | None = None) -> View:
        """Everything there is to see now.

        Args:
            state: State of the run, where that is known.
        """
        with Recent.read(self.folder / "run.db") as store:
            assert isinstance(store, Recent)
            objective = store.objectives[0]
            counts = store.count()
            done, total = sum(counts.values()) - counts["running"], store.get("trials")
            rounds = rounds_of([trial.evaluation for trial in store.rounds() if trial.evaluation is not None])
            in_rounds = rounds is not None and rounds.done < rounds.total
            state = state or state_of(self.folder, store)
            per_trial = store.per_trial(PACE, in_rounds) if state == "running" else None
            ahead = remaining(done, total, rounds)
            failures = store.failures(1)
            ends = (store.get("time") or {}).get("ends") if state == "running" else None
            return View(
                metric=objective.metric,
                done=done,
                total=total,
                title=f"{self.folder}: {state}",
                per_hour=None if per_trial is None else 3600 / per_trial,
                left=per_trial * ahead if per_trial and ahead else None,
                until=None if ends is None else max(0.0, ends - time.time()),
                then=str(store.get("then") or ""),
                best=next((self._best(trial, objective, store.front()) for trial in store.best(1)), None),
                last=[_row(trial, objective) for trial in store.last(LAST)],
                running=self._running(store, objective.metric),
                failed=counts["failed"],
                stopped=counts["stopped"],
                failure=(failures[0].id, failures[0].error or "") if failures else None,
                rounds=rounds,
            )

    def running(self) -> list[dict[str, Any]]:
        """The running trials with what they reported last, for JSON."""
        with Recent.read(self.folder / "run.db") as store:
            assert isinstance(store, Recent)
            found: list[dict[str, Any]] = []
            for trial_id, *_ in store.running():
                reports = store.reports(trial_id)
                last = {"step": reports[-1][0], "metrics": reports[-1][1]} if reports else {}
                found.append({"trial": trial_id, **last})
            return found

    def _best(self, trial: Trial, objective: Objective, front: int | None) -> Best:
        arch = trial.proposal.arch
        return Best(_row(trial, objective), arch.key, partial(_drawn, self.space, arch), front)

    def _running(self, store: Recent, objective: str) -> Sequence[Running]:
        silent, now = store.silent(), time.time()
        try:  # who works on it began then: what was interrupted before is evaluated again
            begun = (self.folder / "run.lock").stat().st_mtime
        except OSError:
            begun = 0.0
        return [
            running(trial_id, now - max(asked, begun), store.reports(trial_id), objective, silent.get(trial_id), epochs)
            for trial_id, asked, epochs in store.running()
        ]


def running(
    trial_id: int,
    seconds: float,
    reports: Sequence[tuple[int, Mapping[str, float]]],
    objective: str,
    silence: Silence | None = None,
    epochs: int | None = None,
) -> Running:
    """A trial at work. Its curve is that of the objective or, where it is not reported, of the first metric."""
    step, last = reports[-1] if reports else (None, {})
    metric = objective if objective in last else next(iter(last), "")
    curve = tuple(metrics[metric] for _, metrics in reports[-CURVE:] if metric in metrics)
    silent = None if silence is None else (silence.how, max(0.0, time.time() - silence.since))
    return Running(trial_id, max(0.0, seconds), step, metric, curve, silent, epochs)


def rounds_of(evaluations: Sequence[Evaluation]) -> Rounds | None:
    """The rounds of a policy that have these results. None: there were none."""
    found = [evaluation for evaluation in evaluations if evaluation.policy]
    if not found:
        return None
    last = found[-1].learnt
    curves = {
        name: tuple(e.metrics[name] for e in found[-CURVE:] if name in e.metrics) for name in ("shared_acc", "entropy")
    }
    return Rounds(
        len(found),
        len(found) + (0 if last is None else last.rounds_left),
        {name: curve for name, curve in curves.items() if curve},
    )


def remaining(done: int, total: int | None, rounds: Rounds | None) -> int | None:
    """Number of trials of the present kind to come: a round takes far longer than what is scored afterwards."""
    if rounds is not None and rounds.done < rounds.total:
        return rounds.total - rounds.done
    return None if total is None else max(0, total - done)


def _row(trial: Trial, objective: Objective) -> Row:
    evaluation = trial.evaluation
    return Row(
        trial.id,
        objective.value(trial.loss) if trial.losses else None,
        None if evaluation is None else evaluation.seconds,
        None if evaluation is None else evaluation.metrics.get("params"),
        trial.proposal.parent,
        objective.value(trial.early[0]) if trial.early else None,
        trial.fidelity,
    )


@lru_cache(maxsize=16)
def _drawn(space: SearchSpace, arch: Arch, width: int) -> tuple[str, ...]:
    """The architecture in a few lines; () where there are none: a view is no reason to fail."""
    try:
        from nastool import drawing

        return tuple(drawing.small(space, arch, width, lines=DRAWN))[:DRAWN]
    except Exception:
        return ()


def inner_runs(folder: Path) -> list[Path]:
    """The runs below a run's folder that are at work now, such as trainings of its best from scratch."""
    from nastool.engine.config import RunFolder

    return [path.parent for path in sorted(folder.glob("*/run.db")) if RunFolder(path.parent).busy()]
