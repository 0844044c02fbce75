"""The parts of a run's page, as blocks. Each is a section, or left out where the run has nothing to say."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from nastool.analysis.blocks import Block, Cell, Changes, Code, Heading, Lines, Link, Listing, Plots, Table
from nastool.analysis.figures import fronts, kinds, progress
from nastool.analysis.figures.lineage import changes, path_to
from nastool.analysis.figures.results import found_among
from nastool.analysis.report import data, drawings
from nastool.analysis.report.confusion import confusion
from nastool.analysis.report.data import MISSING, comparison, number
from nastool.core import archfile
from nastool.core.errors import InputError
from nastool.core.wording import describe_faults, format_seconds, qualities, trials
from nastool.engine.study import Study
from nastool.engine.study_trial import StudyTrial

WITHOUT_SCRIPT = 50
"""Rows of the table for readers without JavaScript."""
LOGS = 10
"""So many reasons of failures come with the end of a log."""
CHANGES, STEPS = 12, 50
"""Changes between two networks that are listed, and networks on the path to the best."""


@dataclass(frozen=True)
class Facts:
    """Names and values."""

    kind: ClassVar = "facts"
    pairs: Sequence[tuple[str, Cell]]
    style: str


@dataclass(frozen=True)
class Card:
    """One architecture: drawn, or else its decisions. what: its name, for those who cannot see it. mark: what it is."""

    identifier: str
    title: str
    what: str
    text: str
    picture: drawings.Picture | None
    decisions: Sequence[tuple[str, str]]
    string: str | None
    mark: str = ""


@dataclass(frozen=True)
class Cards:
    """Architectures side by side."""

    kind: ClassVar = "cards"
    cards: Sequence[Card]


@dataclass(frozen=True)
class Trials:
    """The table of all trials, which the page's script fills out of rows; short: what is there without it."""

    kind: ClassVar = "trials"
    identifier: str
    hint: str
    states: Sequence[str]
    rows: Mapping[str, object]
    short: Sequence[Block]


@dataclass(frozen=True)
class Section:
    """A part with a heading. identifier: its id in the page."""

    identifier: str
    title: str
    blocks: Sequence[Block | Facts | Cards | Trials]


def of(study: Study, prefix: str) -> list[Section]:
    """All sections of a run. prefix: of the ids in them."""
    best, result = data.best_drawn(study), data.delivered(study)
    if result is not None and result not in best:
        best.append(result)
    listed, several = study.strategy == data.LISTED, len(study.objectives) > 1
    begun = _progress([study], prefix, "learning-curves", "size")
    found: list[tuple[str, str, Sequence[Block | Facts | Cards | Trials]]] = [
        ("progress", "Progress", begun or [Lines(("No trial has finished yet.",))]),
        ("front", "The front", _front(study, best, result, prefix)),
        ("best", "Architectures of the front" if several else "Best architectures", _best(study, best, result, prefix)),
        ("confusion", "Classes", confusion(study.retrained or study, None if study.retrained else result)),
        ("scratch", "Results" if listed else "After the search", [*_retrained(study, prefix), *_after(study)]),
        ("options", "What was chosen", _plots(("operations", "best-decisions"), [study], prefix)),
        ("beliefs", "What the strategy believes", _plots(BELIEFS, [study], prefix)),
        ("lineage", "Genealogy", _lineage(study, prefix)),
        ("failures", "Failures", _failures(study)),
        ("trials", "All trials", [_trials(study, best, result, prefix)]),
        ("setup", "Configuration and setup", _setup(study)),
    ]
    return [Section(f"{prefix}{name}", title, blocks) for name, title, blocks in found if blocks]


BELIEFS = ("policy", "policy-options", "policy-decisions", "staleness", "expected")


def _plots(names: Sequence[str], studies: Sequence[Study], prefix: str) -> list[Block]:
    """The figures of these names for which there is something to show, side by side."""
    found = tuple(drawn for name in names for _, drawn in kinds.draw(kinds.KINDS[name], studies))
    return [Plots(found, prefix)] if found else []


def _progress(studies: Sequence[Study], prefix: str, *more: str) -> list[Block]:
    """The best so far over trials, time and cost, each picture once; and more figures."""
    alike = progress.alike(studies)
    found = _plots((*alike, *more), studies, prefix)
    for name, others in alike.items() if found else ():
        if others:
            first = name.removeprefix("best-over-")
            found.append(_lines(f"Over {' and '.join(others)} the picture is the same as over {first}."))
    return found


def _lines(*lines: str) -> Lines:
    return Lines(lines)


# --- what was found


def _front(study: Study, drawn: Sequence[StudyTrial], result: StudyTrial | None, prefix: str) -> list[Block]:
    """With several objectives, the trials that no other one beats: a picture and a table that lead to each."""
    front = study.front() if len(study.objectives) > 1 else []
    if not front:
        return []
    names = [each.metric for each in study.objectives]
    costs = [n for n in ("params", "flops", "latency_ms", "memory_mb") if n in study.measured and n not in names]
    there, compromise = {trial.id for trial in drawn}, study.knee()
    rows: list[list[Cell]] = []
    for trial in front:
        target = f"{prefix}drawing-{trial.id}" if trial.id in there else f"{prefix}trial-{trial.id}"
        marks = ["the result"] * (trial is result) + ["the knee"] * (trial is compromise)
        values = [number(trial.metrics.get(name)) for name in [*names, *costs]]
        rows.append([Link(f"trial {trial.id}", target), *values, ", ".join(marks), Code(trial.arch.key)])
    no_other = f"{trials(len(front))} that no other beats in all of {', '.join(names)}"
    text = f"{no_other}. The best by {names[0]} is the result; `nastool export RUN --pick` takes another of them."
    box = fronts.box_of([study])
    assert box is not None
    try:
        share = f"{box.share([trial.trial.losses for trial in front]):.4f}"
        volume = f"Hypervolume: {share} of the box between the best and the worst values that were measured"
        volume += f" (reference point: {fronts.reference(box, study.objectives)})."
    except InputError as error:
        volume = f"No hypervolume: {error}."
    table = Table(("", *names, *costs, "", "key"), rows, numeric=False)
    return [_lines(text, volume), *_plots(("front", "hypervolume"), [study], prefix), table]


def _best(
    study: Study, best: Sequence[StudyTrial], result: StudyTrial | None, prefix: str
) -> list[Block | Facts | Cards | Trials]:
    if not best:
        return []
    cards = []
    mark = "the result" if study.retrained is None else "the result, trained from scratch"
    for trial in best:
        place = f"{study.ranked.index(trial) + 1:,}. " if trial in study.ranked else ""  # a guess has none
        objectives = [each.metric for each in study.objectives]
        costs = [name for name in ("params", "flops") if name in trial.metrics and name not in objectives]
        shown = (f"{name} {number(trial.metrics.get(name))}" for name in [*objectives, *costs])
        cards.append(
            Card(
                identifier=f"{prefix}drawing-{trial.id}",
                title=f"{place}trial {trial.id}",
                mark=mark if trial is result else "",
                what=f"trial {trial.id}",
                text=", ".join(shown),
                picture=drawings.picture(study, trial.arch),
                decisions=drawings.decisions(study, trial.arch),
                string=archfile.to_string(study.space, trial.arch),
            )
        )
    text = "The best trials, equivalent architectures once."
    if len(study.objectives) > 1:
        text = f"Some of the front, from the best {study.objective.metric} on, and its knee."
    if any(trial.is_round for trial in study.trials) and not best[0].is_round:
        text = "The best of those scored after the policy's last round, equivalent ones once."
    return [_lines(text), Cards(cards)]


def _trials(study: Study, best: Sequence[StudyTrial], result: StudyTrial | None, prefix: str) -> Trials:
    rows = data.rows(study, {trial.id: f"{prefix}drawing-{trial.id}" for trial in best}, result)
    hint = "Words are looked for in every column and among the options; name>number compares. A row opens."
    if (there := len(rows["values"][0])) < len(study.trials):
        hint += f" Of {len(study.trials):,} trials the best and the latest are here, {there:,}; trials.csv has all."
    if len(rows["curves"]) < sum(bool(trial.curve) for trial in study.trials):
        hint += f" Only the best and the latest, {len(rows['curves']):,} trials, bring their learning curves."
    shown = [*study.ranked[:WITHOUT_SCRIPT], *study.failed[-10:]]
    short = [
        (str(t.id), t.state, number(t.value), format_seconds(t.seconds), Code(t.arch.key), t.error or "") for t in shown
    ]
    count = min(WITHOUT_SCRIPT, len(study.ranked))
    text = f"The best {count} trials and the last failures; all of them with JavaScript."
    table = Table(("trial", "state", study.objective.metric, "seconds", "key", "error"), short, numeric=False)
    states = list(dict.fromkeys(rows["values"][1]))
    return Trials(f"{prefix}rows", hint, states, rows, [_lines(text), table])


def _lineage(study: Study, prefix: str) -> list[Block]:
    """Descent of the trials, and the changes on the way to the best."""
    if not any(trial.parent is not None for trial in study.trials):
        return []
    path = path_to(study, study.best)
    rows: list[list[Cell]] = []
    first = max(0, len(path) - STEPS)
    for before, trial in list(zip([None, *path], path, strict=False))[first:]:
        change: Cell = "the first network"
        if before is not None:
            differing = changes(study, before, trial)
            listed = [(name, f"{a} → {b}") for name, a, b in differing[:CHANGES]]
            if len(differing) > CHANGES:
                listed.append(("", f"and {len(differing) - CHANGES} more"))
            change = Changes(listed) if listed else "nothing: trained on"
        params = number(trial.metrics.get("params"))
        rows.append([f"trial {trial.id}", number(trial.value), params, change])
    found = _plots(("genealogy",), [study], prefix)
    if len(path) > 1:
        heads = ("network", study.objective.metric, "parameters", "what changed")
        found.append(Heading("The path to the best", 3))
        found += [_lines(f"The last {len(rows):,} of {len(path):,} networks.")] if first else []
        found.append(Table(heads, rows, numeric=False))
    return found


def _failures(study: Study) -> list[Block]:
    found = data.failures(study)
    if not found:
        return []
    rows = []
    for failure in found[:50]:
        trials = ", ".join(map(str, failure.trials[:20])) + (", …" if len(failure.trials) > 20 else "")
        rows.append((f"{len(failure.trials):,}", failure.fault, failure.reason, trials))
    failed, told = len(study.failed), len(study.finished)
    kinds = describe_faults(Counter(trial.fault for trial in study.failed if trial.fault))
    share = f"{failed / max(1, told):.0%}"
    text = f"{failed:,} of {told:,} trials failed{kinds}, {share}, for {len(found):,} different reasons."
    blocks: list[Block] = [_lines(text), Table(("times", "kind", "reason", "trials"), rows, numeric=False)]
    for failure in found[:LOGS]:
        if (last := next((t for t in reversed(failure.trials) if t in study.logs), None)) is not None:
            blocks += [_lines(f"The end of the log of trial {last}:"), Listing(study.logs[last])]
    return blocks


# --- what was trained from scratch at the end, and the ensemble


def _retrained(study: Study, prefix: str) -> Iterator[Block]:
    inner = study.retrained
    if inner is None:
        return
    found = found_among(study)
    names = [n for n in dict.fromkeys(n for t in inner.trials for n in t.metrics) if n not in ("seconds", "flops")]
    rows = []
    for trial in sorted(inner.trials, key=lambda trial: (trial.id >= found, trial.trial.rank)):
        values = (number(trial.metrics.get(name)) for name in names)
        first = "found" if trial.id < found else "random"
        first += ", the result" if trial.id == (study.document or {}).get("trial") else ""
        rows.append((first, Code(trial.arch.key), trial.state, *values, format_seconds(trial.seconds)))
    yield Heading("Trained from scratch", 3)
    if tested := _tests(study):
        yield _lines(f"The best of {found} found, on the test set: {_metrics(tested)}.")
    rival = comparison(study).get("random")
    if isinstance(rival, dict):
        metrics = qualities(rival.get("metrics", {}))
        which = f"The best of {rival.get('architectures')} random ones ({rival.get('key')})"
        yield _lines(f"{which}, trained the same: {_metrics(metrics)}.")
    yield from _plots(("retrained",), [study], prefix)
    yield Table(("", "architecture", "state", *names, "seconds"), rows[:100], numeric=False)


def _after(study: Study) -> Iterator[Block]:
    """Trainings with several seeds, how far scores can be trusted, the ensemble."""
    document = study.document or {}
    runs, mean, std = document.get("runs"), document.get("mean"), document.get("std")
    if isinstance(runs, list) and isinstance(mean, dict):
        yield Heading("Trained with several seeds" if len(runs) > 1 else "Trained", 3)
        names = [name for name in mean if name not in ("params", "flops")]
        of = [(f"seed {run.get('seed')}", run.get("metrics", {})) for run in runs] + [("mean", mean)]
        if isinstance(std, dict) and len(runs) > 1:
            of.append(("standard deviation", std))
        yield Table(("", *names), [(name, *(number(own.get(n)) for n in names)) for name, own in of], numeric=False)
    ranking, table = comparison(study).get("ranking"), comparison(study).get("table")
    ranking = None if "verdicts" in comparison(study) else ranking  # it is said at the top
    if isinstance(ranking, dict) or isinstance(table, dict):
        yield Heading("Ranking", 3)
    if isinstance(ranking, dict):
        shown = [(name, ranking.get(key)) for name, key in (("Spearman", "spearman"), ("Kendall", "kendall"))]
        rho = ", ".join(f"{n} {v:.2f}" if isinstance(v, int | float) else f"{n} undefined" for n, v in shown)
        of_what = f"over {ranking.get('architectures')} random architectures, score against {ranking.get('with')}"
        yield _lines(f"How far scores can be trusted: {of_what}: {rho}.")
    if isinstance(table, dict):
        yield _lines(f"The best-scored architecture in the table: {_metrics(table)}.")
    given = document.get("ensemble")
    if isinstance(given, dict):
        metrics = given.get("metrics", {})
        single = {k: v for k, v in document.get("metrics", {}).items() if k in metrics}
        yield Heading("Ensemble", 3)
        text = f"The mean of the predictions of trials {', '.join(map(str, given.get('trials', ())))}"
        half = ", of the validation data that did not choose them" if "folder" in given else ""
        yield _lines(f"{text}{half}: {_metrics(metrics)}. The best alone, of all of these: {_metrics(single)}.")


def _tests(study: Study) -> dict[str, float]:
    """What was measured of the result on the test data."""
    found = (study.document or {}).get("metrics", {})
    return {k: v for k, v in found.items() if k.startswith("test") and isinstance(v, int | float)}


def _metrics(metrics: Mapping[str, object]) -> str:
    return ", ".join(f"{k} {number(v)}" for k, v in metrics.items() if isinstance(v, int | float)) or MISSING


def _setup(study: Study) -> list[Block | Facts | Cards | Trials]:
    """Configuration, versions, hardware, command."""
    about = study.provenance
    own = data.own_command(study)
    rows: list[tuple[str, Cell]] = []
    for kind in ("strategy", "space", "evaluator"):
        shown = _options(study.config[kind]["options"])
        rows.append((kind, " ".join(filter(None, (study.config[kind]["name"], shown)))))
    if fidelity := study.config.get("fidelity"):
        rows.append(("fidelity", str(fidelity)))
    if prior := study.config.get("prior"):
        rows.append(("prior", str(prior)))
    if runs := study.config.get("warm_start"):
        rows.append(("warm start", ", ".join(runs)))
    if limits := study.config.get("limits"):
        rows.append(("limits", ", ".join(limits)))
    rows += [
        ("objective", ", ".join(map(str, study.objectives))),
        ("seed", str(study.seed)),
        ("folder", Code(study.path)),
    ]
    for key in ("created", "nastool", "revision", "python", "platform", "cores"):
        if about.get(key) is not None:
            rows.append((key, str(about[key])))
    packages = about.get("packages")
    if isinstance(packages, dict):
        rows.append(("packages", ", ".join(f"{k} {v}" for k, v in packages.items() if v)))
    rows += [(key, str(value)) for key, value in data.evaluator_facts(study).items()]
    resolved = study.config.get("resolved")
    recipe = resolved.get("recipe") if isinstance(resolved, dict) else None
    if isinstance(recipe, dict):
        rows.append(("recipe", _options(recipe, nothing=True)))
    found: list[Block | Facts | Cards | Trials] = [Heading("Command", 3), Listing(own)] if own else []
    if not about:
        found.append(_lines("There is no run.yaml: versions, hardware and command are not known."))
    return [*found, Facts(rows, "setup")]


def _options(options: Mapping[str, object], nothing: bool = False) -> str:
    """ "a=1, b=[2]". nothing: those that are None, too."""
    shown = {k: json.dumps(v) if isinstance(v, dict | list) else v for k, v in options.items()}
    return ", ".join(f"{k}={v}" for k, v in shown.items() if nothing or v is not None)


# --- all runs together


def overview(studies: Sequence[Study]) -> list[Block]:
    """Several runs beside one another."""
    rows = []
    for place, study in enumerate(studies, 1):
        best = study.best
        tested = next((each for each in _tests(study).items()), ("", None))
        rows.append(
            (
                Link(study.name, f"run{place}"),
                study.strategy,
                study.config["space"]["name"],
                str(study.seed),
                study.state,
                f"{len(study.finished):,}",
                f"{study.objective.metric} {number(best.value)}" if best is not None else MISSING,
                f"{tested[0]} {number(tested[1])}" if tested[0] else MISSING,
                data.cost_text(study),
            )
        )
    heads = ("run", "strategy", "space", "seed", "state", "trials", "best", "test", "cost")
    more = ("hypervolume",) if any(len(study.objectives) > 1 for study in studies) else ()
    return [Table(heads, rows, numeric=False), *_progress(studies, "all-", *more)]
