"""Earlier runs that a search begins with: which of their results count, and what of them is stored with the search."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nastool.core import defaults, plugin_files, registry
from nastool.core.errors import InputError, InvalidArchError, hint, short
from nastool.core.evaluator import Evaluator
from nastool.core.space import SearchSpace
from nastool.core.strategy import Earlier, Informable, Strategy
from nastool.core.typed import is_number
from nastool.core.values import Objective, Trial
from nastool.engine.store import Store

KEY = "earlier"
"""Under it a run's database has what was read, so that the search goes on by it whatever became of those runs."""


def named(runs: str | Path | Sequence[str | Path]) -> tuple[str, ...]:
    """The folders of runs, as a configuration has them. InputError: one is given twice."""
    paths = [Path(os.path.normpath(run)) for run in ([runs] if isinstance(runs, str | Path) else runs)]
    found = [str(path.parent if path.name == "run.db" else path) for path in paths]
    for i, name in enumerate(found):
        if name in found[:i]:
            raise InputError(f"--warm-start {short(name)} is given twice: give it once")
    return tuple(found)


def read(runs: Sequence[str], space: SearchSpace, objectives: Sequence[Objective]) -> list[dict[str, Any]]:
    """What runs have measured of a search's objectives: for each "run", "choices" and "losses" of its whole trainings.

    Args:
        runs: Their folders.
        space: Of the search, which has to be theirs.
        objectives: Of the search, whatever theirs were.

    Raises:
        InputError: One is no run, of another space, or has nothing that a search could learn from.
    """
    return [_read(run, space, objectives) for run in runs]


def _read(run: str, space: SearchSpace, objectives: Sequence[Objective]) -> dict[str, Any]:
    given = f"--warm-start {short(Path(run))}"
    try:
        with Store.read(Path(run) / "run.db") as store:
            _check_space(given, store, space)
            done = [trial for trial in store.trials() if trial.state == "done"]
    except InputError as error:
        raise InputError(str(error) if str(error).startswith(given) else f"{given}: {error}") from None
    if not done:
        raise InputError(f"{given} has no finished trial: give a run that has some, or leave it out")
    found = [(trial, losses) for trial in done if (losses := _losses(trial, objectives)) is not None]
    if not found:
        wanted = " and ".join(objective.metric for objective in objectives)
        there = ", ".join(sorted({name for trial in done for name in _metrics(trial)}))
        raise InputError(f"{given} has measured no {wanted}, which this search optimises, only {short(there)}")
    if len({losses[0] for _, losses in found}) == 1:
        raise InputError(f"{given}: all its results are equal ({len(found)}): there is nothing to learn from them")
    for trial, _ in found:
        space.validate(space.arch(trial.proposal.arch.choices))
    choices = [trial.proposal.arch.choices for trial, _ in found]
    return {"run": run, "choices": choices, "losses": [losses for _, losses in found]}


def _check_space(given: str, store: Store, space: SearchSpace) -> None:
    theirs, ours = store.space, space.ref
    if plugin_files.is_other_version(theirs.name, ours.name):
        raise InputError(
            f"{given} has searched another version of {ours.name.partition('@')[0]}: give runs of this one"
        )
    if theirs.name != ours.name or (theirs := registry.make_space(theirs).ref) != ours:
        raise InputError(f"{given} has searched space {theirs}, and this search is of {ours}: give runs of that")


def _metrics(trial: Trial) -> Mapping[str, float]:
    return {} if trial.evaluation is None else trial.evaluation.all_metrics


def _losses(trial: Trial, objectives: Sequence[Objective]) -> list[float] | None:
    try:
        return [objective.loss(_metrics(trial)) for objective in objectives]
    except ValueError:
        return None


def check_proxy(name: str, space: type[SearchSpace], objective: object) -> None:
    """Check a proxy for --prior.

    Raises:
        InputError: There is none of that name, this space has no networks, or there are several objectives.
    """
    scorer: type[Evaluator] = registry.load("evaluator", defaults.SCORER)
    if name not in (known := sorted(scorer.metrics)):
        raise InputError(f"--prior {short(name)}: there is no such proxy; {hint(name, known)}")
    if reasons := registry.misfits(None, space, scorer):
        raise InputError(f"--prior {name}: {'; '.join(reasons)}: leave it out")
    if isinstance(objective, list):
        raise InputError(f"--prior {name} tells of one objective, and {len(objective)} are given: leave it out")


def inform(strategy: Strategy, store: Store, note: Callable[[str], None]) -> None:
    """Have a strategy, untouched, learn from what is stored with its search of earlier runs and proxies, if anything.

    Raises:
        InputError: What is stored is damaged.
    """
    if (found := store.get(KEY)) is None:
        return
    assert isinstance(strategy, Informable)
    try:
        strategy.inform([_earlier(each, strategy.space, len(store.objectives)) for each in found])
    except (InvalidArchError, KeyError, TypeError, ValueError):
        raise _damaged(store) from None
    if counts := described(store):
        note(f"warm start: {shown(counts)}")


def _earlier(value: Any, space: SearchSpace, objectives: int) -> Earlier:
    archs = [space.arch(choices) for choices in value["choices"]]
    for arch in archs:
        space.validate(arch)
    losses = value["losses"]
    if len(losses) != len(archs) or not all(len(each) == objectives and all(map(is_number, each)) for each in losses):
        raise ValueError(value)
    found = np.array([arch.choices for arch in archs], dtype=np.intp), np.array(losses, dtype=np.float64)
    return Earlier(*found, trained="prior" not in value)


def described(store: Store) -> dict[str, int]:
    """How many results a search has of each earlier run; {}: it began without. InputError: it is damaged."""
    try:
        return {str(each["run"]): len(each["choices"]) for each in store.get(KEY) or () if "prior" not in each}
    except (KeyError, TypeError):
        raise _damaged(store) from None


def add(store: Store, found: Sequence[Mapping[str, Any]]) -> None:
    """Store more that the search begins with."""
    store.write({KEY: [*(store.get(KEY) or ()), *found]})


def prior(store: Store) -> dict[str, Any]:
    """The "proxy" that a search began with, of how many "architectures", and "seconds" that took; {}: with none."""
    try:
        for each in store.get(KEY) or ():
            if "prior" in each:
                count, seconds = len(each["choices"]), float(each["seconds"])
                return {"proxy": str(each["prior"]), "architectures": count, "seconds": seconds}
        return {}
    except (KeyError, TypeError, ValueError):
        raise _damaged(store) from None


def _damaged(store: Store) -> InputError:
    return InputError(f"{store.path} is damaged: what it says of earlier runs is none of it; begin anew with --force")


def shown(counts: Mapping[str, int]) -> str:
    """What `described` returns, in a line."""
    return ", ".join(f"{count:,} results of {short(Path(run))}" for run, count in counts.items())
