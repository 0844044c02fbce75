"""A run, read whole: what reports, comparisons, plots and the Python interface know of it.

Everything comes from the run's folder, which is only read; so it works while the search is still running.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nastool.core import archfile, registry
from nastool.core.errors import InputError, InvalidArchError
from nastool.core.values import Objective, Trial
from nastool.engine.final_stage import FinalStage
from nastool.engine.ranking import front, knee, pick, ranked
from nastool.engine.store import Store
from nastool.engine.study_trial import StudyTrial
from nastool.nets import checkpoints

if TYPE_CHECKING:
    from nastool.core.space import SearchSpace


LOGS = 50
"""So many failed trials' logs are read."""


@dataclass(frozen=True)
class Study:
    """A run as it is now. `read` makes one.

    config: strategy, space, evaluator (each {"name", "options"}), "seed", "objective", as resolved.
    trials: all, by id. wanted: how many trials the last command asked for.
    state: "running": a search is at work on it; "finished"; "interrupted": its command would go on.
    document: best.json's object, once it has finished. about: run.yaml (command, versions, hardware); {} without one.
    retrained: the run of what was trained from scratch at its end, if there is one.
    logs: what the workers of the last failed trials printed last, by trial.
    """

    path: Path
    config: Mapping[str, Any]
    objectives: tuple[Objective, ...]
    space: SearchSpace
    trials: tuple[StudyTrial, ...]
    wanted: int | None
    state: str
    exhausted: bool
    origin: Mapping[str, object]
    document: Mapping[str, Any] | None
    about: Mapping[str, Any]
    retrained: Study | None = None
    logs: Mapping[int, str] = field(default_factory=dict, repr=False)
    ranked: tuple[StudyTrial, ...] = field(repr=False, default=())
    """As of `ranking.ranked`: the best first."""

    @classmethod
    def read(cls, folder: str | Path, *, curves: bool = True, store: Store | None = None) -> Study:
        """Read the run in a folder.

        Args:
            folder: The run's, or its run.db.
            curves: Read what was reported, too.
            store: The run's database, of the caller who is at work on it and has just finished; None: it is opened.

        Raises:
            InputError: There is no run, or it is damaged.
        """
        from nastool.core.yaml_files import read_yaml

        path = Path(folder)
        if path.name == "run.db":
            path = path.parent
        ours = store is not None
        with nullcontext(store) if store is not None else Store.read(path / "run.db") as store, store.snapshot():
            config, objectives = store.get("config"), store.objectives
            if not {"strategy", "evaluator", "seed"} <= config.keys():
                raise InputError(f"{path} is damaged: its configuration is incomplete")
            space = registry.make_space(store.space)
            wanted, final = store.get("trials"), store.get("final")
            state = state_of(path, store, ours=ours)
            reported: dict[int, list[tuple[int, Mapping[str, float]]]] = {}
            for trial_id, step, metrics in store.all_reports() if curves else ():
                reported.setdefault(trial_id, []).append((step, metrics))
            when = store.times()
            found: list[StudyTrial] = []
            for trial in store.trials():
                source = trial.proposal.continues
                before = () if source is None or source >= len(found) else found[source].curve
                own = reported.get(trial.id, [])
                curve = (*(point for point in before if not own or point[0] < own[0][0]), *own)
                found.append(StudyTrial(trial, objectives, *when[trial.id], curve))
            trials = tuple(found)
            if trials and trials[-1].id != len(trials) - 1:
                raise InputError(f"{path} is damaged: it has {len(trials)} trials, but not 0 to {len(trials) - 1}")
            origin, logs = store.origin, store.logs(LOGS)
            bare = [trial.trial for trial in trials]
            for each in bare:
                _check(space, each, path)
            order = ranked(space, bare, FinalStage.read(space, store, bare))
        inner = retrained_in(path, final)
        try:
            about = read_yaml(path / "run.yaml") if (path / "run.yaml").is_file() else {}
        except InputError:
            about = {}
        return cls(
            path=path,
            config=config,
            objectives=objectives,
            space=space,
            trials=trials,
            wanted=wanted,
            state=state,
            exhausted=bool(final and final.get("exhausted")),
            origin=origin,
            document=None if final is None else final["document"],
            about=about,
            retrained=None if inner is None else Study.read(inner, curves=curves),
            logs=logs,
            ranked=tuple(trials[trial.id] for trial in order),
        )

    # --- what it was

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.path.absolute().name

    @property
    def strategy(self) -> str:
        return str(self.config["strategy"]["name"])

    @property
    def variant(self) -> Mapping[str, Any]:
        """The strategy's options, and what else makes it another way to search: "fidelity", and any warm start."""
        more = {name: self.config.get(name) for name in ("fidelity", "prior")}
        more["warm-start"] = bool(self.config.get("warm_start"))
        return {**self.config["strategy"]["options"], **{name: value for name, value in more.items() if value}}

    @property
    def evaluator(self) -> str:
        return str(self.config["evaluator"]["name"])

    @property
    def simulated(self) -> bool:
        """Whether the seconds of its trials are those of trainings of old, as a table has them."""
        return is_simulated(self.evaluator)

    @property
    def seed(self) -> int:
        return int(self.config["seed"])

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Command, versions, hardware; {} where run.yaml is missing."""
        found = self.about.get("provenance")
        return found if isinstance(found, dict) else {}

    # --- what it found

    @property
    def objective(self) -> Objective:
        """The first of `objectives`, which says what is the best of what no other trial dominates."""
        return self.objectives[0]

    def front(self) -> list[StudyTrial]:
        """Trials that no other one beats in all objectives, by the first; with one objective the best alone.

        Of trials with the same values the best alone.
        """
        return [self.trials[trial.id] for trial in front([trial.trial for trial in self.ranked])]

    def knee(self) -> StudyTrial | None:
        """The compromise of the front; None: of fewer than three trials nothing is in between."""
        found = knee([trial.trial for trial in self.front()])
        return None if found is None else self.trials[found.id]

    def pick(self, *wanted: str) -> StudyTrial:
        """The best trial that meets conditions such as "latency_ms<=4"; or the front's "knee".

        Raises:
            InputError: A condition is none, there is no such metric, or no trial meets them.
        """
        return self.trials[pick([trial.trial for trial in self.ranked], wanted).id]

    @property
    def best(self) -> StudyTrial | None:
        """The best trial of the search; what was trained from scratch afterwards is in `retrained`."""
        return self.ranked[0] if self.ranked else None

    @cached_property
    def finished(self) -> list[StudyTrial]:
        """Finished and failed trials in the order in which results came."""
        return sorted((t for t in self.trials if t.order is not None), key=lambda t: t.order or 0)

    @cached_property
    def measured(self) -> list[str]:
        """Names of all that was measured of any trial, "seconds" included, in the order in which they came."""
        return list(dict.fromkeys(name for trial in self.trials for name in trial.metrics))

    @property
    def failed(self) -> list[StudyTrial]:
        return [trial for trial in self.trials if trial.state == "failed"]

    def best_so_far(self) -> list[float]:
        """For each of `finished`, the best value until then; NaN before the first one that is done."""
        found, best = [], math.inf
        for trial in self.finished:
            best = min(best, trial.trial.loss)
            found.append(self.objective.value(best) if math.isfinite(best) else math.nan)
        return found

    def lines(self) -> Iterator[dict[str, Any]]:
        """Every trial as a JSON object: an arch.json line with what is known of the trial. By id."""
        for trial in self.trials:
            yield self.line(trial)

    def texts(self) -> Iterator[str]:
        """`lines` as text: what is the same in all of them is made once."""
        begin, end = (archfile.dumps(same) for same in self._same)
        for trial in self.trials:
            own = archfile.dumps(self._own(trial))
            weights = kept(self.path, trial.trial, self.document)
            more = f", {archfile.dumps(weights)[1:]}" if weights else "}"
            yield f"{begin[:-1]}, {own[1:-1]}, {end[1:-1]}{more}"

    def line(self, trial: StudyTrial) -> dict[str, Any]:
        """The trial as one of `lines`."""
        begin, end = self._same
        return {**begin, **self._own(trial), **end, **kept(self.path, trial.trial, self.document)}

    @property
    def _same(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Begin and end of every trial's line."""
        return archfile.about(self.space), {"run": str(self.path), **self.origin}

    def _own(self, trial: StudyTrial) -> dict[str, Any]:
        proposal = trial.trial.proposal
        found: dict[str, Any] = {
            **_measured(self.space, trial.trial),
            "state": trial.state,
            "attempts": trial.attempts,
            "started": trial.started,
            "finished": trial.finished,
        }
        if proposal.parent is not None:
            found["parent"] = proposal.parent
        if proposal.budget is not None:
            found["budget"] = proposal.budget
        found |= {name: value for name, value in _of_training(trial).items() if value is not None}
        if trial.expected is not None:
            found["expected"] = trial.expected
        if trial.curve:
            found["curve"] = [{"step": step, **metrics} for step, metrics in trial.curve]
        return found

    def columns(self) -> dict[str, list[object]]:
        """All trials as columns of equal length, for `pandas.DataFrame(...)` or `polars.DataFrame(...)`.

        trial, state, key, parent, budget, expected, attempts, started, finished, error, fault, a column for each metric
        ("seconds" among them), and "choice.NAME" for each decision. None where there is no value. Where trials were
        stopped, fidelity and continues, too, and where some were made again, again.
        """
        found: dict[str, list[object]] = {
            "trial": [t.id for t in self.trials],
            "state": [t.state for t in self.trials],
            "key": [t.arch.key for t in self.trials],
            "parent": [t.parent for t in self.trials],
            "budget": [t.trial.proposal.budget for t in self.trials],
            **{name: [_of_training(t)[name] for t in self.trials] for name in self._further},
            "expected": [t.expected for t in self.trials],
            "attempts": [t.attempts for t in self.trials],
            "started": [t.started for t in self.trials],
            "finished": [t.finished for t in self.trials],
            "error": [t.error for t in self.trials],
            "fault": [t.fault for t in self.trials],
        }
        measured = [trial.metrics for trial in self.trials]
        for name in sorted(self.measured):
            found[name] = [metrics.get(name) for metrics in measured]
        for i, decision in enumerate(self.space.decisions):
            found[f"choice.{decision.name}"] = [decision.options[t.arch.choices[i]] for t in self.trials]
        return found

    @property
    def _further(self) -> Sequence[str]:
        """Names of the columns on trainings that ended early or were made again; without such ones, ()."""
        some = {name for t in self.trials for name, value in _of_training(t).items() if value is not None}
        early = ("fidelity", "continues") if some & {"fidelity", "continues"} else ()
        return (*early, *(("again",) if "again" in some else ()))

    def __repr__(self) -> str:
        best = (
            ""
            if self.best is None or self.best.value is None
            else f", best {self.objective.metric}={self.best.value:.4f}"
        )
        return f"<study {self.path}: {self.strategy}, {self.state}, {len(self.trials)} trials{best}>"


def _of_training(trial: StudyTrial) -> dict[str, float | None]:
    """How long it was trained, if not to the end, the trial from which it went on, and the one that it repeats."""
    proposal = trial.trial.proposal
    return {"fidelity": trial.fidelity, "continues": proposal.continues, "again": proposal.again}


def state_of(folder: Path, store: Store, *, ours: bool = False) -> str:
    """ "running", "finished" or "interrupted". ours: whoever is at work on it asks."""
    from nastool.engine.config import RunFolder

    if not ours and RunFolder(folder).busy():
        return "running"
    wanted, final, ended = store.get("trials"), store.get("final"), store.get("ended")
    if final is not None and ended is not None and final["trials"] == ended["trials"]:
        return "finished"  # trials that were cut off stay unfinished
    enough = final is not None and (final.get("exhausted") or (wanted is not None and final["trials"] >= wanted))
    return "finished" if enough and not store.count()["running"] else "interrupted"


def is_simulated(evaluator: str) -> bool:
    """Whether the evaluator of this name says how long something took once, not here."""
    try:
        return "simulated" in registry.load("evaluator", evaluator).provides
    except InputError:  # the plugin is not installed here
        return False


def document(space: SearchSpace, trial: Trial, more: Mapping[str, object]) -> dict[str, Any]:
    """A trial as an arch.json object with its metrics. InputError: it is no member of the space."""
    _check(space, trial, more.get("run", "the run"))
    return {**archfile.about(space), **_measured(space, trial), **more}


def _measured(space: SearchSpace, trial: Trial) -> dict[str, Any]:
    """A trial's own part of that object."""
    found = archfile.named(space, trial.proposal.arch)
    if trial.evaluation is not None:
        found["metrics"] = trial.evaluation.all_metrics
    if trial.error is not None:
        found |= {"error": trial.error, "fault": trial.fault}
    found["trial"] = trial.id
    return found


def line_of(folder: Path, store: Store, space: SearchSpace, trial: Trial) -> dict[str, Any]:
    """A trial of the run in a folder as an arch.json object that says where it comes from, and where its weights are.

    Raises:
        InputError: It is no member of the space.
    """
    result = (store.get("final") or {}).get("document")
    return document(space, trial, {"run": str(folder), **store.origin, **kept(folder, trial, result)})


def kept(folder: Path, trial: Trial, result: Mapping[str, object] | None) -> dict[str, str]:
    """What a trial's line says of its weights, if the run in the folder still has them; else {}.

    result: best.json's object; if it is of this trial, best.safetensors has them, too.
    """
    checkpoint = None if trial.evaluation is None else trial.evaluation.checkpoint
    if checkpoint is None:
        return {}
    found = checkpoints.named(folder / checkpoint)
    if "weights_digest" in found:
        return found
    found = checkpoints.named(folder / "best.safetensors")
    digest = found.get("weights_digest")
    if digest is None or result is None or below(result) is not None:
        return {}
    return found if (result.get("trial"), result.get("weights_digest")) == (trial.id, digest) else {}


def _check(space: SearchSpace, trial: Trial, where: object) -> None:
    try:
        space.validate(trial.proposal.arch)
    except InvalidArchError as error:
        raise InputError(f"{where} is damaged: trial {trial.id}: {error}") from None


def retrained_in(path: Path, final: Mapping[str, Any] | None) -> Path | None:
    """The folder of what was trained from scratch at a run's end, as its result says; None: nothing was."""
    name = None if final is None else below(final["document"])
    return path / name if name is not None and (path / name / "run.db").is_file() else None


def below(result: Mapping[str, object]) -> str | None:
    """The folder, below the run's, of the trainings that a result (best.json's object) is of; None: the run's own."""
    run = result.get("run")
    name = Path(run).name if isinstance(run, str) else ""  # the folder may have been moved since
    return name if name.startswith("retrain-") and "seeds" not in result else None
