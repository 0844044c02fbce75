"""Best practices for research on neural architecture search, as far as runs show that they were kept.

The questions are those of Lindauer & Hutter, Best Practices for Scientific Research on Neural Architecture Search,
JMLR 21, 2020 (arXiv 1909.02453), and whether the test set was left alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from nastool.analysis.figures.progress import groups
from nastool.analysis.report import data
from nastool.core import defaults, registry
from nastool.core.errors import InputError
from nastool.core.registry import misfits
from nastool.core.wording import format_seconds
from nastool.engine.study import Study

GROUPS = {"release": "Releasing code", "comparison": "Comparing methods", "reporting": "Reporting"}
SEEDS = 3
"""Fewer runs say nothing of how much results vary."""
ONE = "there is only one run here"


@dataclass(frozen=True)
class Item:
    """group: one of GROUPS. done: whether the runs show it. why: what they show.

    how: what to do where it is not done, and the command for it, if there is one; "" where it is.
    """

    name: str
    group: str
    question: str
    done: bool
    why: str
    how: str = ""
    command: str = ""


@dataclass(frozen=True)
class Answer:
    """problems: why it is not kept; none: it is. why: what shows that it is. how, command: as of an Item."""

    problems: Sequence[str]
    why: str = ""
    how: str = ""
    command: str = ""


_Ask = Callable[[Sequence[Study]], Answer]
_QUESTIONS: list[tuple[str, str, str, str, _Ask]] = []


def _question(name: str, group: str, question: str, how: str = "") -> Callable[[_Ask], _Ask]:
    """Add a question. how: what to do, unless the answer says."""

    def add(ask: _Ask) -> _Ask:
        _QUESTIONS.append((name, group, question, how, ask))
        return ask

    return add


def items(studies: Sequence[Study]) -> list[Item]:
    """All questions, answered for these runs together; none where nothing was searched."""
    studies = [study for study in studies if study.strategy != data.LISTED]
    found = []
    for name, group, question, how, ask in _QUESTIONS if studies else []:
        answer = ask(studies)
        if answer.problems:
            text = "; ".join(answer.problems)
            why = f"{text[:1].upper()}{text[1:]}."
            found.append(Item(name, group, question, False, why, answer.how or how, answer.command))
        else:
            found.append(Item(name, group, question, True, answer.why))
    return found


# --- release


@_question(
    "code",
    "release",
    "Is the code of the method, the search space and the training pipeline released?",
    "Publish the plugins and the exact revision, and name both.",
)
def _code(studies: Sequence[Study]) -> Answer:
    problems = []
    if foreign := sorted({name for study in studies for name in _foreign(study)}):
        problems.append(f"{', '.join(foreign)}: not part of nastool")
    revisions = {str(study.provenance.get("revision") or "") for study in studies}
    versions = {str(study.provenance.get("nastool") or "") for study in studies}
    if "" in versions:
        problems.append("a run does not say which nastool it was")
    if any("dirty" in revision for revision in revisions):
        problems.append("nastool had changes that were not committed")
    shown = ", ".join(sorted(filter(None, revisions)) or sorted(versions))
    return Answer(problems, f"All of it is nastool {shown}, without changes of one's own.")


def _foreign(study: Study) -> list[str]:
    """Plugins that are not nastool's own, or cannot be loaded."""
    found = []
    for kind in ("strategy", "space", "evaluator"):
        name = str(study.config[kind]["name"])
        try:
            module = registry.load(kind, name).__module__
        except Exception:  # a plugin may fail in any way when it is imported
            module = ""
        if not module.startswith("nastool."):
            found.append(f"{kind} {name}")
    return found


KEEP = "Keep run.yaml with the run; it is written when a search begins."


def _lacking(studies: Sequence[Study], has: Callable[[Study], object]) -> list[str]:
    missing = [study.name for study in studies if not has(study)]
    return [f"run {', '.join(missing)}: run.yaml is missing"] if missing else []


@_question("configuration", "release", "Are all hyper-parameters of the search and of the trainings recorded?", KEEP)
def _configuration(studies: Sequence[Study]) -> Answer:
    return Answer(
        _lacking(studies, lambda study: isinstance(study.about.get("search"), dict)),
        "The file run.yaml holds every option and all of the recipe, defaults included: publish it with the results.",
    )


@_question("seeds-recorded", "release", "Are the random seeds recorded?")
def _seeds_recorded(studies: Sequence[Study]) -> Answer:
    seeds = sorted({study.seed for study in studies})
    return Answer((), f"Seeds of the runs: {', '.join(map(str, seeds[:10]))}{', ...' if len(seeds) > 10 else ''}.")


# --- comparison


def _json(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def _benchmark(study: Study) -> str:
    """Space, data, recipe and objective: what two runs must share to be compared."""
    same = [study.config["space"], study.config["evaluator"], study.config.get("resolved"), str(study.objective)]
    return _json([same, data.evaluator_facts(study).get("fingerprint")])


@_question(
    "same-benchmark",
    "comparison",
    "Do all methods have the same data and split, search space, training code and recipe?",
    "Give several runs to nastool report whose commands differ in nothing but strategy and seed.",
)
def _same_benchmark(studies: Sequence[Study]) -> Answer:
    problems = [f"{ONE}, and nothing to compare it with"] if len(studies) == 1 else []
    if len({_benchmark(study) for study in studies}) > 1:
        problems.append("the runs differ in their space, evaluator, recipe, data or objective")
    return Answer(problems, f"The {len(studies)} runs have the same space, evaluator, recipe, data and objective.")


@_question(
    "confounders",
    "comparison",
    "Are confounding factors controlled: the same hardware and the same versions of libraries?",
    "Run everything that is compared on one machine with one installation.",
)
def _confounders(studies: Sequence[Study]) -> Answer:
    if unknown := [study.name for study in studies if not study.provenance]:
        return Answer([f"run {', '.join(unknown)}: hardware and versions are not recorded"])
    if len(studies) == 1:
        return Answer([ONE])
    known = {"Python": "python", "number of cores": "cores", "library versions": "packages"}
    known = {"nastool": "nastool", "revision": "revision", "platform": "platform", **known}
    differ = [what for what, key in known.items() if len({_json(study.provenance.get(key)) for study in studies}) > 1]
    facts = [data.evaluator_facts(study) for study in studies]
    if len({f"{own.get('device')} {own.get('precision')}" for own in facts}) > 1:
        differ.append("device or precision")
    problems = [f"{what} differs between the runs" for what in differ]
    return Answer(problems, "All runs have the same hardware, versions and device.")


@_question("ablations", "comparison", "Are there ablation studies: what does each part of the method contribute?")
def _ablations(studies: Sequence[Study]) -> Answer:
    variants: dict[tuple[str, str], set[str]] = {}
    for study in studies:
        variants.setdefault((study.strategy, _benchmark(study)), set()).add(_json(study.variant))
    several = sorted({strategy for (strategy, _), options in variants.items() if len(options) > 1})
    return Answer(
        [] if several else ["no two runs differ in an option of their strategy alone"],
        f"There are runs of {', '.join(several)} with different options.",
        f"Repeat the search with one option of {studies[0].strategy} changed at a time (-S KEY=VALUE), and give all "
        "the runs to nastool report.",
        "nastool list strategies",
    )


@_question(
    "protocol",
    "comparison",
    "Is the same protocol of evaluation used for all methods, with the same budget?",
    "Give all runs the same --trials, --retrain, --retrain-recipe and --retrain-scale.",
)
def _protocol(studies: Sequence[Study]) -> Answer:
    counts = sorted({_finished(study) for study in studies})
    if len(studies) == 1:
        rival = data.comparison(studies[0]).get("random")
        if rival is None:
            return Answer([ONE])
        text = f"The found architectures and {rival.get('architectures')} random ones were trained from scratch"
        return Answer((), f"{text} in the same way.")
    problems = []
    if len(counts) > 1:
        problems.append(f"the runs have from {counts[0]:,} to {counts[-1]:,} trials")
    elif len({_json(_after(study)) for study in studies}) > 1:
        problems.append("not all runs trained their best from scratch in the same way")
    return Answer(problems, "All runs have the same number of trials, and their results were found in the same way.")


def _finished(study: Study) -> int:
    return sum(trial.state != "running" for trial in study.trials)


def _after(study: Study) -> object:
    """Setting in which the best was trained after the search; None: it was not."""
    inner = study.retrained
    return None if inner is None else [inner.config["evaluator"], inner.config.get("resolved"), len(inner.trials)]


@_question("over-time", "comparison", "Is performance shown over time, not only at the end?", "Let the search run on.")
def _over_time(studies: Sequence[Study]) -> Answer:
    few = [study.name for study in studies if _finished(study) < 2]
    problems = [f"run {', '.join(few)}: fewer than two finished trials"] if few else []
    return Answer(problems, "The curves above: the best so far over trials, time and cost.")


@_question(
    "random",
    "comparison",
    "Is there a comparison with random search of the same budget?",
    "Run it, and give both runs to nastool report.",
)
def _random(studies: Sequence[Study]) -> Answer:
    others = [study for study in studies if study.strategy != defaults.BASELINE]
    alone = [study.strategy for study in others if not any(_is_baseline(other, study) for other in studies)]
    problems = []
    if alone:
        methods = ", ".join(dict.fromkeys(alone))
        problems.append(f"no random search with the same space, evaluator and budget as {methods}")
        if beside := [found for study in studies if (found := data.comparison(study).get("random"))]:
            count = beside[0].get("architectures")
            text = (
                f"{count} random architectures were trained beside the found ones, but without the budget of a search"
            )
            problems.append(text)
    why = "A random search with the same space, evaluator and budget is here." if others else "This is random search."
    return Answer(problems, why, command=data.search_command((others or studies)[0], strategy=defaults.BASELINE))


def _is_baseline(other: Study, study: Study) -> bool:
    enough = _finished(other) >= _finished(study) > 0
    return other.strategy == defaults.BASELINE and _benchmark(other) == _benchmark(study) and enough


@_question(
    "seeds",
    "comparison",
    f"Are there several runs of everything, with different seeds (at least {SEEDS})?",
    "Repeat it with other seeds, and give all the runs to nastool report.",
)
def _seeds(studies: Sequence[Study]) -> Answer:
    counts = [(len({study.seed for study in group}), group[0]) for group in groups(studies)]
    fewest, which = min(counts, key=lambda pair: pair[0])
    seed = 1 + max(study.seed for study in studies if study.strategy == which.strategy)
    few = f"strategy {which.strategy} has {fewest} seed{'s' if fewest > 1 else ''}"
    command = data.search_command(which, seed=seed)
    return Answer([few] if fewest < SEEDS else [], f"Every method has at least {fewest} seeds.", command=command)


@_question("tabular", "comparison", "Is the method examined in depth on a tabular or surrogate benchmark?")
def _tabular(studies: Sequence[Study]) -> Answer:
    count = sum(study.simulated for study in studies)
    how = "Compare strategies over many seeds on published tables, which takes minutes."
    strategies = f"-s {defaults.BASELINE} -s {data.quoted(studies[0].strategy)}"
    command = f"nastool bench {strategies} --table {defaults.SPACE}:file=FILE,dataset=cifar10 --seeds 100"
    if not _on_tables(studies[0].strategy):
        how, command = "Check its scores against a published table: --check-ranking with --ranking-table.", ""
    problems = [] if count else ["no run here looks results up in a table"]
    return Answer(problems, f"{count} of {len(studies)} runs look results up in a table.", how, command)


def _on_tables(strategy: str) -> bool:
    """True if it searches where results are looked up; a strategy that is not installed here may."""
    try:
        found, table = registry.load("strategy", strategy), registry.tabular()
        return not misfits(found, registry.load("space", defaults.SPACE), table)
    except InputError:
        return True


# --- reporting


@_question(
    "tuning",
    "reporting",
    "Is it said how hyper-parameters were tuned, and what that cost?",
    "Say how its options were chosen, on which data, and in how many hours; or that they are the defaults.",
)
def _tuning(studies: Sequence[Study]) -> Answer:
    return Answer(["a run does not know what was tried before it"])


@_question(
    "whole-cost",
    "reporting",
    "Is the time of the whole method reported, not only of the search?",
    "Let the search finish, with --retrain K for those with shared weights.",
)
def _whole_cost(studies: Sequence[Study]) -> Answer:
    problems = []
    for study in studies:
        if study.state != "finished":
            problems.append(f"run {study.name} has not finished")
        elif any(trial.is_round for trial in study.trials) and study.retrained is None:
            nowhere = f"run {study.name} trained its result from scratch nowhere"
            problems.append(f"{nowhere}, so that this is no part of its cost")
    search = sum(data.cost(study) for study in studies)
    after = sum(data.cost(study.retrained) for study in studies if study.retrained is not None)
    kind = "training, simulated" if any(study.simulated for study in studies) else "evaluations"
    shown = f"{format_seconds(search)} of {kind}"
    shown += f", {format_seconds(after)} of trainings afterwards" if after else ""
    whole = format_seconds(sum(data.wall_clock(study) for study in studies))
    return Answer(problems[:3], f"{shown}, {whole} from first to last.")


@_question("setup", "reporting", "Are all details of the setup reported: hardware, versions, data, command?", KEEP)
def _setup(studies: Sequence[Study]) -> Answer:
    problems = _lacking(studies, lambda study: study.provenance.get("packages"))
    return Answer(problems, "They stand under each run, and in its run.yaml.")


@_question(
    "test-set",
    "reporting",
    "Was the test set left alone until the very end?",
    "Search by a validation metric, and let the search finish: it tests its best network once.",
)
def _test_set(studies: Sequence[Study]) -> Answer:
    problems = []
    for study in studies:
        shown = [study.objective.metric, *study.measured]
        if any(name.startswith("test") for name in shown):
            problems.append(f"run {study.name}: the search was shown test results")
        elif not any(name.startswith("test") for name in (study.document or {}).get("metrics", {})):
            problems.append(f"run {study.name}: nothing was tested yet")
    return Answer(
        problems[:3], "No trial was shown test results; the result was tested once, when the search was over."
    )
