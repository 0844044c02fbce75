"""Runs on disk as methods: runs that are equal but for the seed."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nastool.analysis.figures.fronts import reference
from nastool.core import defaults, pareto, registry
from nastool.core.errors import InputError
from nastool.core.options import told_apart
from nastool.core.values import Objective, digest, spelt
from nastool.engine.config import BASELINE, differences
from nastool.engine.store import Store
from nastool.engine.study import Study
from nastool.engine.study_trial import StudyTrial

BESIDE = "random, trained beside"
"""Name of the random architectures that a search with shared weights trains beside its own."""

Axis = str
AXES: tuple[Axis, ...] = ("trials", "seconds", "flops")


@dataclass(frozen=True, eq=False)
class Run:
    """One run, as far as it is compared.

    setting: what has to be equal for runs to be comparable, and strategy: its name and options.
    losses: (n,) in the order finished, infinity for failed ones; without rounds of a policy. objective: what they are;
        with several objectives the hypervolume until then. objectives, values: these, and each trial's losses.
    spent: of each axis, how much had been spent once each trial had finished, (n,); an axis is missing where unknown.
    ended: the strategy had nothing left to propose, so that its result holds for any larger budget.
    final: metrics of its result (best.json's, held-out tests among them); {} before it has one.
    final_loss: of that result, by `objective`; None: it has none.
    by_scores: losses are scores with weights that architectures share; only the final results of such runs compare.
    """

    path: Path
    seed: int
    strategy: Mapping[str, Any]
    setting: Mapping[str, Any]
    objective: Objective
    losses: NDArray[np.float64]
    spent: Mapping[Axis, NDArray[np.float64]]
    state: str
    wanted: int | None
    ended: bool
    final: Mapping[str, float]
    final_loss: float | None
    by_scores: bool
    beside: Mapping[str, float]
    """Metrics of the best random architecture that was trained beside its own; {}: there is none."""
    counted: str = ""
    """Meaning of its FLOPs."""
    objectives: tuple[Objective, ...] = ()
    values: tuple[tuple[float, ...], ...] = ()
    made: str = ""
    """Training of its final network: equal where held-out metrics of such networks compare."""

    failed: int = 0

    @property
    def has_result(self) -> bool:
        return self.final_loss is not None if self.by_scores else bool(np.isfinite(self.losses).any())

    def reach(self, axis: Axis) -> float:
        """End of the run on an axis; infinity where its strategy ended."""
        if self.ended:
            return math.inf
        return float(self.spent[axis][-1]) if len(self.losses) else 0.0


@dataclass(frozen=True)
class Method:
    """Runs that are equal but for the seed, by seed."""

    name: str
    runs: tuple[Run, ...]

    @property
    def is_random(self) -> bool:
        """True for random search, which others should be better than."""
        return self.name == BESIDE or self.runs[0].strategy["name"] == defaults.BASELINE

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]


@dataclass(frozen=True)
class Gathered:
    """methods: by name, random search last. notes: what a reader has to know about what was (not) taken in."""

    methods: tuple[Method, ...]
    notes: tuple[str, ...]

    @property
    def runs(self) -> list[Run]:
        return [run for method in self.methods for run in method.runs]

    @property
    def by_scores(self) -> bool:
        return any(run.by_scores for run in self.runs)


def gather(folders: Sequence[str | Path], *, anyway: bool = False, baselines: bool = True) -> Gathered:
    """Read run folders.

    Args:
        folders: of runs, or their run.db.
        anyway: take in runs that measure different things, with a warning.
        baselines: take in the random search below a run's folder, too, where there is one.

    Raises:
        InputError: one is no run, or they cannot be compared.
    """
    notes: list[str] = []
    found = list(_once(folders, notes))
    runs = [read(path) for path in found]
    given = len(runs)
    if baselines:
        inner = [path / BASELINE for path in found if (path / BASELINE / "run.db").is_file()]
        runs += [read(path) for path in inner if path.resolve() not in {other.resolve() for other in found}]
    notes += _check(runs, anyway)
    runs = _by_hypervolume(_one_of_each(runs, given, notes), notes)
    runs += [beside for run in runs if (beside := _beside(run)) is not None]
    notes += _states(runs)
    return Gathered(_methods(runs), tuple(notes))


def _once(folders: Sequence[str | Path], notes: list[str]) -> Iterator[Path]:
    seen: set[Path] = set()
    for folder in map(Path, folders):
        path = folder.parent if folder.name == "run.db" else folder
        try:
            own = path.resolve()
        except (OSError, ValueError):
            own = path
        if own in seen:
            notes.append(f"{path} is given twice: it counts once")
        else:
            seen.add(own)
            yield path


def read(path: Path) -> Run:
    """One run. InputError: there is none, or it is damaged."""
    study = Study.read(path, curves=False)
    with Store.read(path / "run.db") as store:
        fingerprint, after = store.get("fingerprint"), (store.get("final") or {}).get("finale") or {}
    config, document = study.config, study.document or {}
    told = [trial for trial in study.finished if not trial.is_round]
    shares = any(trial.is_round for trial in study.trials) or _shares_weights(study.evaluator)
    objective, final = study.objective, _numbers(document.get("metrics"))
    final_loss = study.best.trial.loss if study.best is not None else None
    if shares:  # what counts is what was trained from scratch in the end
        inner = study.retrained
        objective = Objective("val_acc", "max") if inner is None else inner.objective
        final_loss = None if inner is None else _loss(objective, final)
    elif len(study.objectives) > 1:
        objective = pareto.HYPERVOLUME
    spent, counted = _spent(study, told)
    resolved = {key: config[key] for key in ("space", "evaluator", "resolved", "limits") if key in config}
    return Run(
        path=path,
        seed=study.seed,
        strategy={**config["strategy"], "options": study.variant},
        setting={**resolved, "data": fingerprint, "objective": spelt(study.objectives)},
        objective=objective,
        losses=np.array([trial.trial.loss for trial in told], dtype=np.float64),
        spent=spent,
        state=study.state,
        wanted=study.wanted,
        ended=study.exhausted and study.state == "finished",
        final=final,
        final_loss=final_loss,
        by_scores=shares,
        objectives=study.objectives,
        values=tuple(trial.trial.losses for trial in told),
        beside=_numbers(((document.get("comparison") or {}).get("random") or {}).get("metrics")),
        counted=counted,
        made=_made(document, after),
        failed=sum(trial.state == "failed" for trial in told),
    )


def _numbers(metrics: Mapping[str, object] | None) -> dict[str, float]:
    return {name: value for name, value in (metrics or {}).items() if isinstance(value, int | float)}


def _loss(objective: Objective, metrics: Mapping[str, float]) -> float | None:
    try:
        return objective.loss(metrics)
    except ValueError:
        return None


def _shares_weights(evaluator: str) -> bool:
    try:
        return "shared-weights" in registry.load("evaluator", evaluator).provides
    except InputError:  # the plugin is not installed here
        return False


def _made(document: Mapping[str, object], after: Mapping[str, object]) -> str:
    """Training of the final network. after: what the search was to do at its end."""
    facts = [document.get("evaluator"), document.get("scale")]
    if Path(str(document.get("run", ""))).name.startswith("retrain-"):
        named = digest([*facts, after.get("retrain"), after.get("training")])
        return f"best of {after.get('retrain', '?')} trained again at the end [{named}]"
    return f"as it was searched [{digest(facts)}]"


# --- what was spent


def _spent(study: Study, told: Sequence[StudyTrial]) -> tuple[dict[Axis, NDArray[np.float64]], str]:
    found = {"trials": np.arange(1.0, len(told) + 1)}
    seconds = np.cumsum([trial.seconds for trial in told])
    if len(told) and seconds[-1] > 0:
        found["seconds"] = seconds
    flops, counted = _flops(study, told)
    if flops is not None:
        found["flops"] = np.cumsum(flops)
    return found, counted


def _flops(study: Study, told: Sequence[StudyTrial]) -> tuple[list[float] | None, str]:
    """FLOPs of each trial, and what is counted; None: some trial that is done has no such metric.

    A trial that failed counts 0: how far it came is not known.
    """
    each = [trial.metrics.get("flops") for trial in told if trial.state == "done"]
    if not each or None in each:
        return None, ""
    resolved, facts = study.config.get("resolved"), study.provenance.get("evaluator")
    recipe = resolved.get("recipe") if isinstance(resolved, dict) else None
    by_default = recipe.get("epochs") if isinstance(recipe, dict) else None
    if isinstance(facts, dict):
        by_default = facts.get("epochs", by_default)
    budgets = [trial.trial.proposal.budget for trial in told]
    text, scale, epochs = "forward FLOPs (2 x multiply-adds) of one image", 1.0, [1.0] * len(told)
    images = None
    if by_default is not None or any(budget is not None for budget in budgets):
        epochs = [float(by_default or math.nan) if budget is None else float(budget) for budget in budgets]
        text += " x epochs"
        images = facts.get("train_images") if isinstance(facts, dict) else None
    if any(math.isnan(value) for value in epochs):  # how long a trial without a budget is trained cannot be told
        return None, ""
    if isinstance(images, int):
        scale, text = float(images), f"{text} x training images"
    else:
        text += "; how many images each trial was trained on is not known, and left out"
    text += "; the backward pass and validation are not counted, failed trials count 0"
    return [scale * n * trial.metrics.get("flops", 0.0) for trial, n in zip(told, epochs, strict=True)], text


# --- which belong together


def _check(runs: Sequence[Run], anyway: bool) -> list[str]:
    """Refuse runs that measure different things. InputError names the first difference; anyway: notes name it instead.

    What cannot be overruled: values of different metrics have no difference.
    """
    if len({run.by_scores for run in runs}) > 1 and not anyway:
        scored = next(run for run in runs if run.by_scores)
        other = next(run for run in runs if not run.by_scores)
        raise InputError(
            f"{scored.path} and {other.path} cannot be compared: the first scores with shared weights, the second does "
            "not; --anyway compares their final results"
        )
    notes = []
    first = runs[0]
    ends = [run for run in runs if run.by_scores and run.final_loss is not None]
    for run in runs[1:]:
        weighed = [
            each.objectives if each.objective == pareto.HYPERVOLUME else (each.objective,) for each in (first, run)
        ]
        if weighed[0] != weighed[1]:
            these, those = (", ".join(map(str, each)) for each in weighed)
            raise InputError(f"{first.path} and {run.path} cannot be compared: objective is {these}, not {those}")
        differ = differences(run.setting, first.setting)
        if run in ends and run.made != ends[0].made:
            differ.append(f"its final result is the {run.made}, not the {ends[0].made}")
        if differ and not anyway:
            raise InputError(
                f"{first.path} and {run.path} cannot be compared: {run.path}: {'; '.join(differ[:3])}; "
                "--anyway compares them all the same"
            )
        if differ:
            notes.append(f"WARNING: {run.path} measures something else than {first.path}: {'; '.join(differ[:3])}")
    return notes


def _key(run: Run) -> str:
    return digest([run.strategy, run.setting])


def _one_of_each(runs: Sequence[Run], given: int, notes: list[str]) -> list[Run]:
    """Run with the most trials of each method and seed. given: how many were named, baselines not counted."""
    best: dict[tuple[str, int], Run] = {}
    for run in runs:
        other = best.get((_key(run), run.seed))
        if other is None or len(run.losses) > len(other.losses):
            best[_key(run), run.seed] = run
    kept = [run for run in runs if best[_key(run), run.seed] is run]
    for run in runs[:given]:
        if run not in kept:
            other = best[_key(run), run.seed]
            notes.append(f"{run.path} is the same search with the same seed as {other.path}: a seed counts once")
    return kept


def _by_hypervolume(runs: Sequence[Run], notes: list[str]) -> list[Run]:
    """Runs with several objectives, with the hypervolume in a box around all as what was found. InputError."""
    if runs[0].objective != pareto.HYPERVOLUME or not any(losses for run in runs for losses in run.values):
        return list(runs)
    box = pareto.Box.around([losses for run in runs for losses in run.values if losses])
    found = []
    for run in runs:
        shares = box.so_far(run.values)
        losses = [-share if values else math.inf for share, values in zip(shares, run.values, strict=True)]
        done = [loss for loss in losses if loss < math.inf]
        found.append(replace(run, losses=np.array(losses, dtype=np.float64), final_loss=min(done, default=None)))
    notes.append(
        "hypervolume: the share of the box between the best and the worst values of all these runs that a run's trials "
        f"leave behind; reference point {reference(box, runs[0].objectives)}"
    )
    return found


def _beside(run: Run) -> Run | None:
    """The best of the random architectures that were trained beside those of a search with shared weights."""
    loss = _loss(run.objective, run.beside)
    if not run.by_scores or run.final_loss is None or loss is None:
        return None
    rival = {"name": BESIDE, "options": {}}
    return replace(run, strategy=rival, losses=np.zeros(0), spent={}, final=run.beside, final_loss=loss)


def _states(runs: Sequence[Run]) -> list[str]:
    notes = []
    for run in runs:
        if run.strategy["name"] == BESIDE:
            continue
        of = f" of {run.wanted}" if run.wanted else ""
        if run.state != "finished":
            notes.append(f"{run.path} is {run.state}: {len(run.losses)}{of} trials so far")
        if run.by_scores and run.final_loss is None:
            notes.append(
                f"{run.path}: its scores come from shared weights of its own, which no other run has, and it has no "
                "retrained result yet: left out (give its search --retrain 3)"
            )
        elif not run.has_result:
            why = f"all its {len(run.losses)} trials failed" if len(run.losses) else "it has no finished trial"
            notes.append(f"{run.path}: {why}: left out of means and tests, which makes its method look better")
    return notes


def _methods(runs: Sequence[Run]) -> tuple[Method, ...]:
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(_key(run), []).append(run)
    names = _names([own[0] for own in groups.values()])
    found = [
        Method(name, tuple(sorted(own, key=lambda run: run.seed)))
        for name, own in zip(names, groups.values(), strict=True)
    ]
    return tuple(sorted(found, key=lambda method: (method.is_random, method.name)))


def _names(firsts: Sequence[Run]) -> list[str]:
    """Names that tell methods apart: strategy, the options in which it differs, and its setting's."""
    names = []
    for run in firsts:
        same = [other.strategy["options"] for other in firsts if other.strategy["name"] == run.strategy["name"]]
        differ = told_apart(run.strategy["options"], same)
        name = str(run.strategy["name"]) + (f"({differ})" if differ else "")
        setting = [text for other in firsts for text in _settings(run, other)]
        names.append(name + (f" [{', '.join(dict.fromkeys(setting))}]" if setting else ""))
    return names


def _settings(run: Run, other: Run) -> list[str]:
    """ "evaluator epochs=2": what is so in run and not in other."""
    return [text.partition(", not ")[0].replace(" is ", "=", 1) for text in differences(run.setting, other.setting)]
