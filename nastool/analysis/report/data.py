"""Values that the page shows of a run: columns of its table, learning curves, failures, commands."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nastool.analysis.figures.results import curve_metric
from nastool.analysis.pages import printable
from nastool.core import archfile
from nastool.core.wording import FAULTS, format_number, format_seconds
from nastool.deploy.models import task_in
from nastool.engine.ranking import along
from nastool.engine.retraining import Listed
from nastool.engine.study import Study
from nastool.engine.study_trial import StudyTrial

MISSING = "\N{EN DASH}"
"""In place of a value that there is not."""
CURVE_POINTS = 60
"""At most so many steps of a learning curve are on the page."""
CURVES = 150_000
"""Numbers in all learning curves together; beyond that only the best and the last trials have theirs."""
ROWS, STRINGS = 100_000, 20_000
"""Most trials in the table, and most of which it has the string form, which their decisions say, too."""
LISTED = Listed.name
"""The strategy of a folder of trainings, which searched nothing."""
DRAWN = 6
"""Architectures that are drawn."""


def number(value: float | None) -> str:
    """A measurement for people; a dash where there is none."""
    return MISSING if value is None or value != value else format_number(value)


def comparison(study: Study) -> dict[str, Any]:
    """Comparison that the end of the search made of its result; {}: none."""
    found = (study.document or {}).get("comparison")
    return found if isinstance(found, dict) else {}


def evaluator_facts(study: Study) -> dict[str, Any]:
    """Facts that the evaluator told of its device and data."""
    found = study.provenance.get("evaluator")
    return found if isinstance(found, dict) else {}


def wall_clock(study: Study) -> float:
    """Seconds from the first start to the last finish, pauses included."""
    ends = [trial.finished for trial in study.trials if trial.finished is not None]
    return max(0.0, max(ends) - min(trial.started for trial in study.trials)) if ends else 0.0


def cost(study: Study) -> float:
    """Seconds of all evaluations, failed ones included."""
    return sum(trial.seconds for trial in study.trials)


def cost_text(study: Study) -> str:
    return format_seconds(cost(study)) + (", simulated" if study.simulated else "")


def best_drawn(study: Study) -> list[StudyTrial]:
    """The best trials, no two of equivalent architectures; of a front some that lie evenly along it, and its knee."""
    found: dict[str, StudyTrial] = {}
    front = study.front() if len(study.objectives) > 1 else []
    if front:
        chosen = [*along(front, DRAWN - 1), study.knee()]
        return [trial for trial in front if trial in chosen]
    for trial in study.ranked:
        found.setdefault(study.space.canonical(trial.arch), trial)
        if len(found) == DRAWN:
            break
    return list(found.values())


def delivered(study: Study) -> StudyTrial | None:
    """The trial whose network is the run's result; of what was trained from scratch, that of its architecture.

    None: there is no result yet, or it is of no trial here.
    """
    key, number = ((study.document or {}).get(name) for name in ("key", "trial"))
    if isinstance(number, int) and 0 <= number < len(study.trials) and study.trials[number].arch.key == key:
        return study.trials[number]
    return None if key is None else next((trial for trial in study.ranked if trial.arch.key == key), None)


def listed(study: Study) -> Sequence[StudyTrial]:
    """The trials in the table: all; of very many, the best half and the latest."""
    if len(study.trials) <= ROWS:
        return study.trials
    wanted = {t.id for t in study.ranked[: ROWS // 2]} | {t.id for t in study.trials[-ROWS // 2 :]}
    return [t for t in study.trials if t.id in wanted]


def rows(study: Study, drawn: Mapping[int, str], result: StudyTrial | None) -> dict[str, Any]:
    """The table of trials, as the page's script reads it.

    Args:
        study: The run.
        drawn: Trial -> id of the element with its drawing.
        result: As of `delivered`.
    """
    trials = listed(study)
    columns: list[dict[str, object]] = [{"name": "trial", "kind": "id"}, {"name": "state", "kind": "text"}]
    values: list[list[object]] = [[t.id for t in trials], [state(t) for t in trials]]

    def add(name: str, kind: str, found: Sequence[object], **more: object) -> None:
        if any(value is not None for value in found):
            columns.append({"name": name, "kind": kind, **more})
            values.append(list(found))

    goal = study.objective.goal
    add(study.objective.metric, "number", [t.value for t in trials], goal=goal)
    measured = [t.metrics for t in trials]
    for other in study.objectives[1:]:
        if other.metric != "seconds":
            add(other.metric, "number", [metrics.get(other.metric) for metrics in measured], goal=other.goal)
    for name in study.measured:
        if name not in ("seconds", *(each.metric for each in study.objectives)):
            kind = "count" if name in ("params", "flops") else "number"
            add(name, kind, [metrics.get(name) for metrics in measured])
    add("early", "number", [t.early for t in trials], goal=goal)
    add("epochs then", "number", [t.fidelity for t in trials])
    add("goes on from", "id", [t.trial.proposal.continues for t in trials])
    add("expected", "number", [t.expected for t in trials], goal=goal)
    add("seconds", "seconds", [None if t.state == "running" else t.seconds for t in trials])
    add("budget", "number", [t.trial.proposal.budget for t in trials])
    add("parent", "id", [t.parent for t in trials])
    add("attempts", "count", [t.attempts if t.attempts > 1 else None for t in trials])
    add("fault", "text", [t.fault for t in trials])
    add("error", "text", [t.error for t in trials])
    add("key", "code", [t.arch.key for t in trials])
    if len(trials) <= STRINGS:
        add("architecture", "code", [archfile.to_string(study.space, t.arch) for t in trials])
    return {
        "columns": columns,
        "values": values,
        "decisions": [[d.name, list(d.options)] for d in study.space.decisions],
        "choices": [list(column) for column in zip(*(t.arch.choices for t in trials), strict=True)],
        "curves": curves(study),
        "curve": curve_metric(study),
        "delivered": None if result is None else result.id,
        "drawn": {str(trial): identifier for trial, identifier in drawn.items()},
    }


def state(trial: StudyTrial) -> str:
    return f"{trial.state}, round" if trial.is_round else trial.state


def curves(study: Study) -> dict[str, dict[str, Any]]:
    """trial -> {"step": [...], metric: [...], ...}, thinned out."""
    chosen: Sequence[StudyTrial] = study.trials
    numbers = sum(min(len(t.curve), CURVE_POINTS) * len(t.curve[0][1]) for t in study.trials if t.curve)
    if numbers > CURVES:
        keep = max(1, CURVES * len(study.trials) // numbers // 2)
        wanted = {t.id for t in study.ranked[:keep]} | {t.id for t in study.trials[-keep:]}
        chosen = [t for t in study.trials if t.id in wanted]
    found = {}
    for trial in chosen:
        if trial.curve:
            stride = -(-len(trial.curve) // CURVE_POINTS)
            kept = trial.curve[::-1][::stride][::-1]  # the last step is always there
            names = dict.fromkeys(name for _, metrics in kept for name in metrics)
            found[str(trial.id)] = {
                "step": [step for step, _ in kept],
                "series": [[name, [metrics.get(name) for _, metrics in kept]] for name in names],
            }
    return found


@dataclass
class Failure:
    """Failures for the same reason. reason: of the first, word for word. fault: of which kind; "": it is not known."""

    reason: str
    fault: str
    trials: list[int] = field(default_factory=list)


def failures(study: Study) -> list[Failure]:
    """Grouped by kind and reason, numbers in it aside; the most frequent first."""
    found: dict[tuple[str, str], Failure] = {}
    for trial in study.failed:
        reason = trial.error or "no reason was recorded"
        fault, same = FAULTS.get(trial.fault or "", ""), re.sub(r"\d+(\.\d+)?", "#", reason)
        found.setdefault((fault, same), Failure(reason, fault)).trials.append(trial.id)
    return sorted(found.values(), key=lambda failure: -len(failure.trials))


# --- commands


def quoted(value: object) -> str:
    return shlex.quote(printable(value))


def search_command(study: Study, *, strategy: str | None = None, seed: int | None = None) -> str:
    """A search like this one, by another strategy (with its defaults) or from another seed, in a folder of its own."""
    about = study.about.get("search")
    given = about if isinstance(about, dict) else {}
    parts = ["nastool", "search", "--strategy", strategy or study.strategy]
    if strategy is None:
        parts += _flags("-S", study.config["strategy"]["options"])
        parts += [word for run in study.config.get("warm_start", ()) for word in ("--warm-start", run)]
        parts += ["--prior", study.config["prior"]] if study.config.get("prior") else []
    parts += ["--space", study.config["space"]["name"], *_flags("-P", study.config["space"]["options"])]
    parts += ["--evaluator", study.evaluator]
    resolved = given.get("evaluator-options")
    parts += _flags("-E", resolved if isinstance(resolved, dict) else study.config["evaluator"]["options"])
    wanted = study.config.get("objective") or []
    for objective in [wanted] if isinstance(wanted, str) else wanted:
        parts += ["--objective", objective]
    trials = len([t for t in study.trials if t.state != "running"])
    parts += ["--trials", str(max(1, study.wanted or trials))]
    parts += ["--seed", str(study.seed if seed is None else seed)]
    parts += ["--out", f"{study.path}-{strategy or 'seed'}{seed if strategy is None and seed is not None else ''}"]
    return shlex.join(printable(part) for part in parts)


def _flags(letter: str, options: Mapping[str, object]) -> list[str]:
    found = []
    for key, value in options.items():
        if isinstance(value, Mapping):
            value = ",".join(f"{k}={v}" for k, v in value.items())
        if isinstance(value, bool):
            value = str(value).lower()
        if value is not None:
            found += [letter, f"{key}={value}"]
    return found


def own_command(study: Study) -> str | None:
    """Command as it was typed; None: run.yaml does not say."""
    given = study.provenance.get("command")
    if not isinstance(given, list) or not given:
        return None
    return shlex.join(printable(part) for part in ["nastool", *given[1:]])


def next_commands(study: Study) -> list[tuple[str, str]]:
    """(command, what it does): what to do with the run as it is."""
    run = quoted(study.path)
    found = []
    if study.state == "running":
        return [(f"nastool report {run} --live", "this page, refreshed while the search goes on")]
    if study.state == "interrupted" and (own := own_command(study)) is not None:
        found.append((own, "goes on with the search"))
    if study.best is None:
        return [*found, (f"nastool status {run}", "shows how far it is, and the last failures")]
    if (study.path / "best.safetensors").is_file() and (study.path / "best.json").is_file():
        task = task_in(study.path / "best.safetensors")
        found += [
            (f"nastool export {run} --to python", "the best network as plain PyTorch; also onnx, pt2, safetensors"),
            (f"nastool predict {run} {task.file}", f"what {task.noun}s show"),
        ]
    elif study.simulated:
        best = f"nastool top {run}"
        shape, dataset = "3x32x32", "cifar10"
        if study.config["evaluator"]["options"].get("dataset") == "cifar100":
            shape, dataset = "3x32x32 --classes 100", "cifar100"
        found.append((f"{best} | nastool export - --to python --input {shape}", "the best architecture as code"))
        found.append((f"{best} | nastool eval - --data {dataset}", "trains it from scratch"))
    if not study.simulated and study.strategy != LISTED:
        found.append((f"nastool retrain {run}", "trains the best for use, on all examples, with several seeds"))
    found.append((f"nastool top {run} -k 3", "the best three, as JSON lines"))
    return found
