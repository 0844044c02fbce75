"""Best practices for research on neural architecture search, as far as runs show that they were kept.

The questions are those of Lindauer & Hutter, Best Practices for Scientific Research on Neural Architecture Search,
JMLR 21, 2020 (arXiv 1909.02453), and whether the test set was left alone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nastool.analysis.figures.progress import groups
from nastool.analysis.report import data
from nastool.core import registry
from nastool.core.errors import InputError
from nastool.core.registry import misfits
from nastool.core.wording import format_seconds
from nastool.engine.study import Study

GROUPS = {"release": "Releasing code", "comparison": "Comparing methods", "reporting": "Reporting"}
SEEDS = 3
"""Fewer runs say nothing of how much results vary."""


@dataclass(frozen=True)
class Item:
    """group: "release", "comparison" or "reporting". done: whether the runs show it. why: what they show.

    how: what to do where it is not done, and the command for it, if there is one; "" where it is.
    """

    name: str
    group: str
    question: str
    done: bool
    why: str
    how: str = ""
    command: str = ""


def items(studies: Sequence[Study]) -> list[Item]:
    """All questions, answered for these runs together; none where nothing was searched."""
    studies = [study for study in studies if study.strategy != data.LISTED]
    if not studies:
        return []
    return [
        _code(studies),
        _configuration(studies),
        _seeds_recorded(studies),
        _same_benchmark(studies),
        _confounders(studies),
        _ablations(studies),
        _protocol(studies),
        _over_time(studies),
        _random(studies),
        _seeds(studies),
        _tabular(studies),
        _tuning(),
        _whole_cost(studies),
        _setup(studies),
        _test_set(studies),
    ]


def _item(name: str, group: str, question: str, problems: Sequence[str], why: str, how: str, command: str = "") -> Item:
    """Done if there are no problems, which are the reason otherwise."""
    if not problems:
        return Item(name, group, question, True, why)
    text = "; ".join(problems)
    return Item(name, group, question, False, f"{text[:1].upper()}{text[1:]}.", how, command)


# --- release


def _code(studies: Sequence[Study]) -> Item:
    problems = []
    foreign = sorted({name for study in studies for name in _foreign(study)})
    if foreign:
        problems.append(f"{', '.join(foreign)}: not part of nastool")
    revisions = {str(study.provenance.get("revision") or "") for study in studies}
    versions = {str(study.provenance.get("nastool") or "") for study in studies}
    if "" in versions:
        problems.append("a run does not say which nastool it was")
    if any("dirty" in revision for revision in revisions):
        problems.append("nastool had changes that were not committed")
    shown = ", ".join(sorted(filter(None, revisions)) or sorted(versions))
    return _item(
        "code",
        "release",
        "Is the code of the method, the search space and the training pipeline released?",
        problems,
        f"All of it is nastool {shown}, without changes of one's own.",
        "Publish the plugins and the exact revision, and name both.",
    )


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


def _configuration(studies: Sequence[Study]) -> Item:
    missing = [study.name for study in studies if not isinstance(study.about.get("search"), dict)]
    return _item(
        "configuration",
        "release",
        "Are all hyper-parameters of the search and of the trainings recorded?",
        [f"run {', '.join(missing)}: run.yaml is missing"] if missing else [],
        "The file run.yaml holds every option and all of the recipe, defaults included: publish it with the results.",
        "Keep run.yaml with the run; it is written when a search begins.",
    )


def _seeds_recorded(studies: Sequence[Study]) -> Item:
    seeds = sorted({study.seed for study in studies})
    shown = ", ".join(map(str, seeds[:10])) + (", ..." if len(seeds) > 10 else "")
    return Item("seeds-recorded", "release", "Are the random seeds recorded?", True, f"Seeds of the runs: {shown}.", "")


# --- comparison


def _benchmark(study: Study) -> str:
    """Space, data, recipe and objective: what two runs must share to be compared."""
    facts = study.provenance.get("evaluator")
    fingerprint = facts.get("fingerprint") if isinstance(facts, dict) else None
    same = [study.config["space"], study.config["evaluator"], study.config.get("resolved"), str(study.objective)]
    return json.dumps([same, fingerprint], sort_keys=True, default=str)


def _told(study: Study) -> int:
    return sum(trial.state != "running" for trial in study.trials)


def _same_benchmark(studies: Sequence[Study]) -> Item:
    problems = []
    if len(studies) == 1:
        problems.append("there is only one run here, and nothing to compare it with")
    elif len({_benchmark(study) for study in studies}) > 1:
        problems.append("the runs differ in their space, evaluator, recipe, data or objective")
    return _item(
        "same-benchmark",
        "comparison",
        "Do all methods have the same data and split, search space, training code and recipe?",
        problems,
        f"The {len(studies)} runs have the same space, evaluator, recipe, data and objective.",
        "Give several runs to nastool report whose commands differ in nothing but strategy and seed.",
    )


def _confounders(studies: Sequence[Study]) -> Item:
    problems = []
    unknown = [study.name for study in studies if not study.provenance]
    if unknown:
        problems.append(f"run {', '.join(unknown)}: hardware and versions are not recorded")
    elif len(studies) == 1:
        problems.append("there is only one run here")
    else:
        for what, key in (
            ("nastool", "nastool"),
            ("revision", "revision"),
            ("Python", "python"),
            ("platform", "platform"),
            ("number of cores", "cores"),
            ("library versions", "packages"),
        ):
            if len({json.dumps(study.provenance.get(key), sort_keys=True, default=str) for study in studies}) > 1:
                problems.append(f"{what} differs between the runs")
        if len({_device(study) for study in studies}) > 1:
            problems.append("device or precision differs between the runs")
    return _item(
        "confounders",
        "comparison",
        "Are confounding factors controlled: the same hardware and the same versions of libraries?",
        problems,
        "All runs have the same hardware, versions and device.",
        "Run everything that is compared on one machine with one installation.",
    )


def _device(study: Study) -> str:
    facts = study.provenance.get("evaluator")
    return f"{facts.get('device')} {facts.get('precision')}" if isinstance(facts, dict) else ""


def _ablations(studies: Sequence[Study]) -> Item:
    variants: dict[str, set[str]] = {}
    for study in studies:
        options = json.dumps(study.config["strategy"]["options"], sort_keys=True, default=str)
        variants.setdefault(_benchmark(study) + study.strategy, set()).add(options)
    several = sorted({study.strategy for study in studies if len(variants[_benchmark(study) + study.strategy]) > 1})
    name = studies[0].strategy
    return _item(
        "ablations",
        "comparison",
        "Are there ablation studies: what does each part of the method contribute?",
        [] if several else ["no two runs differ in an option of their strategy alone"],
        f"There are runs of {', '.join(several)} with different options.",
        f"Repeat the search with one option of {name} changed at a time (-S KEY=VALUE), and give all the runs to "
        "nastool report.",
        "nastool list strategies",
    )


def _protocol(studies: Sequence[Study]) -> Item:
    problems = []
    if len(studies) == 1:
        comparison = data.comparison(studies[0])
        if "random" in comparison:
            count = comparison["random"].get("architectures")
            return Item(
                "protocol",
                "comparison",
                _PROTOCOL,
                True,
                f"The found architectures and {count} random ones were trained from scratch in the same way.",
            )
        problems.append("there is only one run here")
    elif len({_told(study) for study in studies}) > 1:
        counts = sorted({_told(study) for study in studies})
        problems.append(f"the runs have from {counts[0]:,} to {counts[-1]:,} trials")
    elif len({json.dumps(_finale(study), sort_keys=True, default=str) for study in studies}) > 1:
        problems.append("not all runs trained their best from scratch in the same way")
    return _item(
        "protocol",
        "comparison",
        _PROTOCOL,
        problems,
        "All runs have the same number of trials, and their results were found in the same way.",
        "Give all runs the same --trials, --retrain, --retrain-recipe and --retrain-scale.",
    )


_PROTOCOL = "Is the same protocol of evaluation used for all methods, with the same budget?"


def _finale(study: Study) -> Any:
    inner = study.retrained
    return None if inner is None else [inner.config["evaluator"], inner.config.get("resolved"), len(inner.trials)]


def _over_time(studies: Sequence[Study]) -> Item:
    few = [study.name for study in studies if _told(study) < 2]
    return _item(
        "over-time",
        "comparison",
        "Is performance shown over time, not only at the end?",
        [f"run {', '.join(few)}: fewer than two finished trials"] if few else [],
        "The curves above: the best so far over trials, time and cost.",
        "Let the search run on.",
    )


def _random(studies: Sequence[Study]) -> Item:
    problems = []
    for study in studies:
        if study.strategy != "random" and not any(_is_baseline(other, study) for other in studies):
            problems.append(study.strategy)
    problems = list(dict.fromkeys(problems))
    example = next((study for study in studies if study.strategy != "random"), studies[0])
    reason = []
    if problems:
        reason.append(f"no random search with the same space, evaluator and budget as {', '.join(problems)}")
    beside = [study for study in studies if "random" in data.comparison(study)]
    if problems and beside:
        count = data.comparison(beside[0])["random"].get("architectures")
        reason.append(
            f"{count} random architectures were trained beside the found ones, but without the budget of the search"
        )
    only = all(study.strategy == "random" for study in studies)
    return _item(
        "random",
        "comparison",
        "Is there a comparison with random search of the same budget?",
        reason,
        "This is random search." if only else "A random search with the same space, evaluator and budget is here.",
        "Run it, and give both runs to nastool report.",
        data.search_command(example, strategy="random"),
    )


def _is_baseline(other: Study, study: Study) -> bool:
    return other.strategy == "random" and _benchmark(other) == _benchmark(study) and _told(other) >= _told(study) > 0


def _seeds(studies: Sequence[Study]) -> Item:
    counts = [(len({study.seed for study in group}), group[0]) for group in groups(studies)]
    fewest, which = min(counts, key=lambda pair: pair[0])
    seed = 1 + max(study.seed for study in studies if study.strategy == which.strategy)
    return _item(
        "seeds",
        "comparison",
        f"Are there several runs of everything, with different seeds (at least {SEEDS})?",
        [] if fewest >= SEEDS else [f"strategy {which.strategy} has {fewest} seed{'s' if fewest > 1 else ''}"],
        f"Every method has at least {fewest} seeds.",
        "Repeat it with other seeds, and give all the runs to nastool report.",
        data.search_command(which, seed=seed),
    )


def _tabular(studies: Sequence[Study]) -> Item:
    tabular = [study for study in studies if study.evaluator == "table"]
    how = "Compare strategies over many seeds on published tables, which takes minutes."
    command = f"nastool bench -s random -s {data.quoted(studies[0].strategy)} "
    command += "--table nasbench201:file=FILE,dataset=cifar10 --seeds 100"
    if not _on_tables(studies[0].strategy):
        how, command = "Check its scores against a published table: --check-ranking with --ranking-table.", ""
    return _item(
        "tabular",
        "comparison",
        "Is the method examined in depth on a tabular or surrogate benchmark?",
        [] if tabular else ["no run here looks results up in a table"],
        f"{len(tabular)} of {len(studies)} runs look results up in a table.",
        how,
        command,
    )


def _on_tables(strategy: str) -> bool:
    """Whether it searches where results are looked up; a strategy that is not installed here may."""
    try:
        found, table = registry.load("strategy", strategy), registry.load("evaluator", "table")
        return not misfits(found, registry.load("space", "nasbench201"), table)
    except InputError:
        return True


# --- reporting


def _tuning() -> Item:
    return Item(
        "tuning",
        "reporting",
        "Is it said how hyper-parameters were tuned, and what that cost?",
        False,
        "A run does not know what was tried before it.",
        "Say how its options were chosen, on which data, and in how many hours; or that they are the defaults.",
    )


def _whole_cost(studies: Sequence[Study]) -> Item:
    problems = []
    for study in studies:
        if study.state != "finished":
            problems.append(f"run {study.name} has not finished")
        elif any(trial.is_round for trial in study.trials) and study.retrained is None:
            problems.append(
                f"run {study.name} trained its result from scratch nowhere, so that this is no part of its cost"
            )
    search = sum(data.cost(study) for study in studies)
    after = sum(data.cost(study.retrained) for study in studies if study.retrained is not None)
    kind = "training, simulated" if any(study.simulated for study in studies) else "evaluations"
    shown = f"{format_seconds(search)} of {kind}" + (
        f", {format_seconds(after)} of trainings afterwards" if after else ""
    )
    return _item(
        "whole-cost",
        "reporting",
        "Is the time of the whole method reported, not only of the search?",
        problems[:3],
        f"{shown}, {format_seconds(sum(data.wall_clock(study) for study in studies))} from first to last.",
        "Let the search finish, with --retrain K for those with shared weights.",
    )


def _setup(studies: Sequence[Study]) -> Item:
    missing = [study.name for study in studies if not study.provenance.get("packages")]
    return _item(
        "setup",
        "reporting",
        "Are all details of the setup reported: hardware, versions, data, command?",
        [f"run {', '.join(missing)}: run.yaml is missing"] if missing else [],
        "They stand under each run, and in its run.yaml.",
        "Keep run.yaml with the run; it is written when a search begins.",
    )


def _test_set(studies: Sequence[Study]) -> Item:
    problems = []
    for study in studies:
        seen = study.objective.metric.startswith("test")
        if seen or any(name.startswith("test") for trial in study.trials for name in trial.metrics):
            problems.append(f"run {study.name}: the search was shown test results")
        elif not any(name.startswith("test") for name in (study.document or {}).get("metrics", {})):
            problems.append(f"run {study.name}: nothing was tested yet")
    return _item(
        "test-set",
        "reporting",
        "Was the test set left alone until the very end?",
        problems[:3],
        "No trial was told a test result; the result was tested once, when the search was over.",
        "Search by a validation metric, and let the search finish: it tests its best network once.",
    )
