"""Runs that were never searched: studies in memory and run folders, for what reads them."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from nastool.core.space import SearchSpace
from nastool.core.values import Arch, Evaluation, Objective, Proposal, Trial
from nastool.engine.store import Store
from nastool.engine.study import Study
from nastool.engine.study_trial import StudyTrial
from nastool.spaces.nasbench201 import NasBench201

Value = float | str | None
"""Of a trial: what was measured, why it failed, or that it is still running."""
PROVENANCE: Mapping[str, Any] = {
    "created": "2026-01-02T03:04:05+0000",
    "command": ["/usr/bin/nastool", "search", "--out", "runs/a b"],
    "nastool": "0.1.0",
    "revision": "abc1234",
    "python": "3.12.1",
    "platform": "Linux-6.1-x86_64",
    "cores": 8,
    "packages": {"torch": "2.8.0", "numpy": "2.1.0"},
    "evaluator": {"device": "cpu", "data": "digits", "fingerprint": "12345678"},
}


def config_of(
    strategy: str, space: SearchSpace, evaluator: str, seed: int, options: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    return {
        "strategy": {"name": strategy, "options": dict(options or {})},
        "space": {"name": space.name, "options": dict(space.ref.options)},
        "evaluator": {"name": evaluator, "options": {"data": "digits"}},
        "resolved": {"recipe": {"epochs": 2, "lr": 0.1}},
        "seed": seed,
        "objective": None,
    }


def study(
    values: Sequence[Value],
    *,
    space: SearchSpace | None = None,
    archs: Sequence[Arch] | None = None,
    strategy: str = "evolution",
    evaluator: str = "train",
    seed: int = 0,
    options: Mapping[str, Any] | None = None,
    objective: str = "val_acc:max",
    parents: Mapping[int, int] | None = None,
    policies: Mapping[int, Mapping[str, Any]] | None = None,
    expected: Mapping[int, float] | None = None,
    frequencies: Mapping[int, tuple[tuple[float, ...], ...]] | None = None,
    metrics: Mapping[str, float] | None = None,
    curve: Sequence[tuple[int, Mapping[str, float]]] = (),
    state: str = "finished",
    document: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
    path: Path = Path("runs/made"),
    retrained: Study | None = None,
) -> Study:
    """A run with a trial for each value. policies: of rounds, what the policy was afterwards. expected: as losses.

    metrics: of every trial, beside its value. about: {} for a run without run.yaml.
    """
    space = space or NasBench201()
    goal = Objective.parse(objective)
    rng = np.random.default_rng(seed)
    trials = []
    for i, value in enumerate(values):
        arch = archs[i] if archs is not None else space.sample(rng)
        policy = (policies or {}).get(i)
        proposal = Proposal(
            arch,
            (parents or {}).get(i),
            policy=None if policy is None else {"round": i},
            notes={
                name: given[i]
                for name, given in (("expected", expected or {}), ("frequencies", frequencies or {}))
                if i in given
            },
        )
        if isinstance(value, str):
            trial = Trial(i, proposal, "failed", error=value)
        elif value is None:
            trial = Trial(i, proposal)
        else:
            found = Evaluation({goal.metric: value, **(metrics or {})}, 2.0 + i % 3, policy=policy, notes=policy or {})
            trial = Trial(i, proposal, "done", found, (goal.loss(found.metrics),))
        told = None if value is None else i
        finished = None if value is None else 1000.0 + 10 * i + 5
        trials.append(StudyTrial(trial, (goal,), told, 1000.0 + 10 * i, finished, 1, tuple(curve)))
    scored = [t for t in trials if t.state == "done"]
    candidates = [t for t in scored if not t.is_round] or scored
    return Study(
        path=path,
        config=config_of(strategy, space, evaluator, seed, options),
        objectives=(goal,),
        space=space,
        trials=tuple(trials),
        wanted=len(values),
        state=state,
        exhausted=False,
        origin={},
        document=document,
        about={"search": {}, "provenance": dict(PROVENANCE)} if about is None else about,
        retrained=retrained,
        ranked=tuple(sorted(candidates, key=lambda t: t.trial.rank)),
    )


def folder(path: Path, values: Sequence[float | str], **more: Any) -> Path:
    """A run folder with a run.db alone, which has a finished trial for each value; more: for `Study`'s config."""
    space = NasBench201()
    path.mkdir(parents=True)
    facts = {"config": config_of("evolution", space, "train", 0) | more, "objective": "val_acc:max", "trials": 9}
    with Store.create(path / "run.db", facts):
        pass
    add(path, values)
    return path


def add(path: Path, values: Sequence[float | str]) -> None:
    """More trials for a run folder."""
    space = NasBench201()
    with Store.open(path / "run.db") as store:
        first = sum(store.count().values())
        for i, value in enumerate(values, first):
            proposal = Proposal(space.sample(np.random.default_rng(i)))
            store.begin()
            store.add(Trial(i, proposal))
            if isinstance(value, str):
                store.finish(Trial(i, proposal, "failed", error=value), i)
            else:
                done = Evaluation({"val_acc": value, "params": 1000 + i}, 1.0)
                store.finish(Trial(i, proposal, "done", done, (-value,)), i)
            store.commit()


def sql(path: Path, *statements: str) -> None:
    """Change a database by hand."""
    with closing(sqlite3.connect(path)) as db, db:
        for statement in statements:
            db.execute(statement)


def with_latency(study: Study, latencies: Sequence[float]) -> Study:
    """The same run with latency_ms as a second objective."""
    objectives = (study.objective, Objective("latency_ms", "min"))

    def changed(found: StudyTrial, latency: float) -> StudyTrial:
        trial = found.trial
        if trial.evaluation is None:
            return replace(found, objectives=objectives)
        evaluation = replace(trial.evaluation, metrics={**trial.evaluation.metrics, "latency_ms": latency})
        more = replace(trial, evaluation=evaluation, losses=(trial.loss, latency))
        return replace(found, objectives=objectives, trial=more)

    trials = tuple(map(changed, study.trials, latencies))
    ranked = sorted((trials[trial.id] for trial in study.ranked), key=lambda trial: trial.trial.rank)
    return replace(study, objectives=objectives, trials=trials, ranked=tuple(ranked))
