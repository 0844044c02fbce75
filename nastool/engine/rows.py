"""What stands in run.db, and whether it may stand there.

A trial's proposal and evaluation are JSON whose keys are the fields of their dataclasses. So a new field of either is
one line, in `nastool.core.values`; runs written before it have its default.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args

from nastool.core.errors import FAULTS
from nastool.core.folders import is_within
from nastool.core.typed import fields, fitted, is_number
from nastool.core.values import Arch, Evaluation, Objective, Proposal, SpaceRef, State, Trial
from nastool.nets import checkpoints

encode: Callable[[object], str] = json.JSONEncoder(allow_nan=False).encode
"""A value as JSON. TypeError or ValueError: it cannot be written so."""


def to_text(value: Proposal | Evaluation) -> str:
    """A proposal or an evaluation as JSON, without what is as by default.

    Raises:
        TypeError, ValueError: some of it is no JSON.
    """
    found: dict[str, object] = {"choices": value.arch.choices} if isinstance(value, Proposal) else {}
    for name, default in _DEFAULTS[type(value)]:
        each = getattr(value, name)
        if each is not default and each != default:
            found[name] = each
    return encode(found)


_STATES: Mapping[str, State] = {state: state for state in get_args(State)}
"""One text each, for all trials."""
_parse = json.JSONDecoder().raw_decode


def _read(text: str) -> Any:
    """The JSON value that a text is, without white space around it."""
    value, end = _parse(text)
    if end != len(text):
        raise ValueError(text)
    return value


def trial_of(space: SpaceRef, row: tuple[Any, ...]) -> Trial:
    """The trial of a row, of which anything may stand in a damaged file; what is returned has the types promised.

    Args:
        space: the search space of the run.
        row: (id, state, proposal, evaluation, losses, error, fault).

    Raises:
        AttributeError, LookupError, TypeError, ValueError, RecursionError: it is no trial.
    """
    number, state, proposed, evaluated, losses, error, fault = row
    found = _read(proposed)
    arch = Arch(space, tuple(found.pop("choices")))
    proposal = Proposal(arch, **fitted(found, fields(Proposal)))
    evaluation = None if evaluated is None else Evaluation(**fitted(_read(evaluated), fields(Evaluation)))
    values = () if losses is None else tuple(_read(losses))
    whole = state != "stopped"
    done, early = (values, ()) if whole else ((), values)
    trial = Trial(number, proposal, _STATES[state], evaluation, done, error, early, fault)
    if not _is_whole(trial):
        raise ValueError("no trial")
    return trial


def _is_whole(trial: Trial) -> bool:
    """Whether what the fields of its proposal and evaluation do not say is right, too, and the parts go together."""
    evaluation, choices = trial.evaluation, trial.proposal.arch.choices
    if not (
        isinstance(trial.id, int)
        and trial.id >= 0
        and (set(map(type, choices)) <= {int} or all(isinstance(choice, int) for choice in choices))
        and (trial.error is None or isinstance(trial.error, str))
        and (trial.fault is None or (trial.fault in FAULTS and trial.state == "failed"))
    ):
        return False
    losses = trial.losses or trial.early
    if evaluation is None or not losses:
        return trial.state in ("running", "failed") and evaluation is None and not losses
    return (
        trial.state in ("done", "stopped")
        and all(map(is_number, losses))
        and (evaluation.checkpoint is None or is_within(evaluation.checkpoint))
        and all(checkpoints.is_artifact(name, trial.id) for name in evaluation.artifacts.values())
    )


def orphan(trials: Sequence[Trial]) -> int | None:
    """The number of a trial that cannot come from the one that it names; None: there is none."""
    paused = {trial.id: trial.proposal.arch for trial in trials if trial.state == "stopped"}
    done = {trial.id: trial.proposal.arch for trial in trials if trial.state == "done"}
    for trial in trials:
        parent, source, again = trial.proposal.parent, trial.proposal.continues, trial.proposal.again
        if again is not None and (again >= trial.id or done.get(again) != trial.proposal.arch):
            return trial.id
        if parent is not None and not 0 <= parent < trial.id:
            return trial.id
        if source is not None and (source >= trial.id or paused.pop(source, None) != trial.proposal.arch):
            return trial.id
    return None


_DEFAULTS: Mapping[type, Sequence[tuple[str, object]]] = {
    kind: [
        (field.name, field.default if field.default_factory is dataclasses.MISSING else field.default_factory())
        for field in dataclasses.fields(kind)
        if field.name != "arch"
    ]
    for kind in (Proposal, Evaluation)
}
"""Each field that is written as it is, and its default; of one without a default something that equals nothing else."""


# --- facts about the run


def damaged_fact(config: Any, objective: Any, final: Any, origin: Any, trials: Any) -> str | None:
    """Which of a run's facts, as stored under these keys, is none that was ever put there; None: they are all right."""
    try:
        SpaceRef.of(config["space"]["name"], config["space"]["options"])
        Objective.parse_all(objective)
        named = all(
            _is_plugged(config.get(kind, {"name": "", "options": {}})) for kind in ("strategy", "space", "evaluator")
        )
        if not named or not isinstance(config.get("seed", 0), int):
            return "its configuration"
    except (LookupError, TypeError, ValueError, AttributeError):
        return "its configuration"
    if not isinstance(trials, int | None) or not isinstance(origin, dict | None) or not _is_result(final):
        return "what it says of its result"
    return None


def _is_plugged(value: Any) -> bool:
    return isinstance(value["name"], str) and isinstance(value["options"], dict)


def _is_result(value: Any) -> bool:
    """Whether it can be what is stored as "final"; None can: there is no result yet."""
    if value is None:
        return True
    if not isinstance(value, dict) or not isinstance(value.get("trials"), int):
        return False
    document = value.get("document")
    return (
        isinstance(document, dict)
        and isinstance(document.get("metrics", {}), dict)
        and isinstance(document.get("run"), str | None)
        and isinstance(document.get("comparison"), dict | None)
    )
