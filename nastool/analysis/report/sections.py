"""The parts of a run's page. Each is a section, or nothing where the run has nothing to say."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nastool.analysis import figures
from nastool.analysis.figures.lineage import changes, path_to
from nastool.analysis.figures.results import found_among
from nastool.analysis.report import data, drawings
from nastool.analysis.report.checklist import Item
from nastool.analysis.report.markup import MISSING, Html, code, command, embedded, facts, join, table, tag
from nastool.core.wording import format_seconds
from nastool.engine.study import Study, StudyTrial

WITHOUT_SCRIPT = 50
"""Rows of the table for readers without JavaScript."""
CHANGES = 12
"""Changes between two networks that are listed."""


@dataclass(frozen=True)
class Section:
    """identifier: its id in the page."""

    identifier: str
    title: str
    html: Html


def section(identifier: str, title: str, *children: object) -> Section | None:
    """With a heading; None without content."""
    content = join(*children)
    if not content:
        return None
    html = tag("section", tag("h3", title), content, id=identifier, data_part=identifier)
    return Section(identifier, title, html)


def shown_figures(names: Sequence[str], studies: Sequence[Study], prefix: str) -> Html:
    """The figures of these names for which there is something to show, side by side."""
    found = []
    for name in names:
        for _, drawn in figures.draw(figures.KINDS[name], studies):
            picture = Html(figures.inline(drawn, f"{prefix}{drawn.name}-"))
            found.append(
                tag(
                    "figure",
                    tag("figcaption", tag("strong", drawn.title), " ", drawn.caption),
                    picture,
                    class_="plot",
                )
            )
    return tag("div", *found, class_="plots") if found else Html("")


# --- what was found


def header(study: Study) -> Html:
    """What was searched, how far it is, what was found, what to do next."""
    counts = {state: sum(t.state == state for t in study.trials) for state in ("done", "failed", "running")}
    parts = [f"{counts['done']:,} done"] + [f"{n:,} {s}" for s, n in counts.items() if n and s != "done"]
    wanted = f" of {study.wanted:,} wanted" if study.wanted and study.state != "finished" else ""
    what = join(
        tag("b", study.strategy), " on ", tag("b", study.config["space"]["name"]), f", {study.evaluator} evaluator"
    )
    tiles = [
        ("state", tag("span", study.state, class_=f"state {study.state}")),
        ("trials", f"{', '.join(parts)}{wanted}"),
        *_best(study),
        ("all evaluations", data.cost_text(study)),
        ("wall clock", format_seconds(data.wall_clock(study))),
    ]
    following = [command(text, why) for text, why in data.next_commands(study)]
    return tag(
        "section",
        tag("h2", study.name),
        tag("p", what, f", optimising {study.objective.metric} ({study.objective.goal}), seed {study.seed}"),
        facts(tiles, class_="tiles"),
        warnings(study),
        tag("h3", "What next"),
        tag("ul", *following, class_="commands"),
        class_="summary",
        data_part="summary",
    )


def _best(study: Study) -> list[tuple[str, object]]:
    """Tiles on the best result: of the finished search, or so far."""
    best = study.best
    if best is None:
        return [("best", "none yet" if study.state == "running" else "none")]
    finished = study.document is not None and study.state == "finished"
    metrics: Mapping[str, Any] = (study.document or {}).get("metrics", {}) if finished else best.metrics
    if finished and study.retrained is not None:
        which: object = f"{(study.document or {}).get('key')}, trained from scratch"
    else:
        which = f"trial {best.id}, {best.arch.key}"
    metric = study.objective.metric
    found: list[tuple[str, object]] = [("best" if finished else "best so far", which)]
    tested = [name for name in metrics if name.startswith("test")]
    names = [metric, *(n for n in ("val_acc",) if n in metrics and n != metric), *tested]
    large = (metric if "val_acc" not in metrics else "val_acc", "test_acc")
    for name in dict.fromkeys(names):
        value = metrics.get(name, best.value if name == metric else None)
        if isinstance(value, int | float):
            found.append((name, tag("span", data.number(value), class_="big" if name in large else None)))
    if finished and not tested:
        found.append(("test", "nothing was tested"))
    if not finished:
        found.append(("test", "once, at the end"))
    for name, called in (("params", "parameters"), ("flops", "FLOPs")):
        if isinstance(metrics.get(name), int | float):
            found.append((called, data.number(metrics[name])))
    return found


def warnings(study: Study) -> Html | None:
    """Signs that the search has collapsed."""
    found = _comparison(study).get("warnings")
    if not isinstance(found, list) or not found:
        return None
    return tag("p", tag("strong", "The search may have collapsed: "), "; ".join(map(str, found)), class_="warning")


def progress(study: Study, prefix: str) -> Section | None:
    names = ("best-over-trials", "best-over-time", "best-over-cost", "learning-curves", "size")
    plots = shown_figures(names, [study], prefix)
    return section(f"{prefix}progress", "Progress", plots or tag("p", "No trial has finished yet.", class_="empty"))


def best_architectures(study: Study, best: Sequence[StudyTrial], prefix: str) -> Section | None:
    """The best, drawn."""
    cards = []
    for place, trial in enumerate(best, 1):
        value = f"{study.objective.metric} {data.number(trial.value)}"
        more = [f"{name} {data.number(trial.metrics[name])}" for name in ("params", "flops") if name in trial.metrics]
        text = study.space.to_string(trial.arch)
        drawn = drawings.picture(study, trial.arch, f"trial {trial.id}")
        cards.append(
            tag(
                "article",
                tag("h4", f"{place}. trial {trial.id}"),
                tag("p", ", ".join([value, *more])),
                drawn,
                tag("p", code(text), class_="string") if text is not None else None,
                id=f"{prefix}drawing-{trial.id}",
                class_="card wide" if drawings.is_wide(drawn) else "card",
            )
        )
    if not cards:
        return None
    text = "The best trials, equivalent architectures once."
    if any(trial.is_round for trial in study.trials) and not best[0].is_round:
        text = "The best of those scored after the policy's last round, equivalent ones once."
    return section(f"{prefix}best", "Best architectures", tag("p", text), tag("div", *cards, class_="cards"))


def trials(study: Study, best: Sequence[StudyTrial], prefix: str) -> Section | None:
    """The table of all trials, which the page's script fills; and a short one without it."""
    rows = data.rows(study, {trial.id: f"{prefix}drawing-{trial.id}" for trial in best})
    states = list(dict.fromkeys(rows["values"][1]))
    controls = tag(
        "div",
        tag(
            "label",
            "Filter ",
            tag("input", type="search", class_="filter", placeholder="nor_conv_3x3 params<1e6", autocomplete="off"),
        ),
        tag(
            "label",
            "State ",
            tag("select", tag("option", "all", value=""), *(tag("option", s) for s in states), class_="state-filter"),
        ),
        tag("span", class_="count", role="status"),
        class_="controls",
    )
    pages = tag(
        "div",
        tag("button", "First", type="button", data_go="first"),
        tag("button", "Back", type="button", data_go="back"),
        tag("span", class_="page"),
        tag("button", "Next", type="button", data_go="next"),
        tag("button", "Last", type="button", data_go="last"),
        class_="pages",
    )
    box = tag(
        "div", tag("table", tag("caption", "All trials"), tag("thead"), tag("tbody")), class_="scroll", tabindex=0
    )
    hint = "Words are looked for in every column and among the options; name>number compares. A row opens."
    if len(rows["curves"]) < sum(bool(trial.curve) for trial in study.trials):
        hint += f" Only the best and the latest, {len(rows['curves']):,} trials, bring their learning curves."
    return section(
        f"{prefix}trials",
        "All trials",
        tag("div", tag("p", hint), controls, box, pages, class_="trials needs-script", data_rows=f"{prefix}rows"),
        tag("noscript", _plain_table(study)),
        embedded(f"{prefix}rows", rows),
    )


def _plain_table(study: Study) -> Html:
    metric = study.objective.metric
    shown = [*study.ranked[:WITHOUT_SCRIPT], *study.failed[-10:]]
    rows = [
        (t.id, t.state, data.number(t.value), format_seconds(t.seconds), code(t.arch.key), t.error or "") for t in shown
    ]
    text = (
        f"The best {min(WITHOUT_SCRIPT, len(study.ranked))} trials and the last failures; all of them with JavaScript."
    )
    return join(tag("p", text), table(("trial", "state", metric, "seconds", "key", "error"), rows))


def operations(study: Study, prefix: str) -> Section | None:
    plots = shown_figures(("operations", "best-decisions"), [study], prefix)
    return section(f"{prefix}options", "What was chosen", plots)


def beliefs(study: Study, prefix: str) -> Section | None:
    """What a policy or a model makes of it."""
    plots = shown_figures(("policy", "policy-options", "policy-decisions", "expected"), [study], prefix)
    return section(f"{prefix}beliefs", "What the strategy believes", plots)


def lineage(study: Study, prefix: str) -> Section | None:
    """Who descends from whom, and what changed on the way to the best."""
    if not any(trial.parent is not None for trial in study.trials):
        return None
    path = path_to(study, study.best)
    rows = []
    for i, trial in enumerate(path):
        if i == 0:
            change: object = "the first network"
        else:
            differing = changes(study, path[i - 1], trial)
            listed = [tag("li", tag("b", name), f": {a} → {b}") for name, a, b in differing[:CHANGES]]
            if len(differing) > CHANGES:
                listed.append(tag("li", f"and {len(differing) - CHANGES} more"))
            change = tag("ul", *listed, class_="changes") if listed else "nothing: trained on"
        params = data.number(trial.metrics.get("params")) if "params" in trial.metrics else MISSING
        rows.append((f"trial {trial.id}", data.number(trial.value), params, change))
    steps = table(("network", study.objective.metric, "parameters", "what changed"), rows) if len(path) > 1 else None
    return section(
        f"{prefix}lineage",
        "Genealogy",
        shown_figures(("genealogy",), [study], prefix),
        join(tag("h4", "The path to the best"), steps) if steps else None,
    )


def failures(study: Study, prefix: str) -> Section | None:
    found = data.failures(study)
    if not found:
        return None
    rows = [
        (
            f"{len(failure.trials):,}",
            failure.reason,
            ", ".join(map(str, failure.trials[:20])) + (", …" if len(failure.trials) > 20 else ""),
        )
        for failure in found[:50]
    ]
    failed, told = len(study.failed), len(study.told)
    text = f"{failed:,} of {told:,} trials failed ({failed / max(1, told):.0%}), for {len(found):,} different reasons."
    return section(f"{prefix}failures", "Failures", tag("p", text), table(("times", "reason", "trials"), rows))


def scratch(study: Study, prefix: str) -> Section | None:
    """What was trained from scratch at the end, and the ensemble."""
    return section(
        f"{prefix}scratch",
        "After the search" if study.strategy != data.LISTED else "Results",
        _retrained(study, prefix),
        _seeds(study),
        _ranking(study),
        _ensemble(study),
    )


def _comparison(study: Study) -> Mapping[str, Any]:
    found = (study.document or {}).get("comparison")
    return found if isinstance(found, dict) else {}


def _retrained(study: Study, prefix: str) -> Html | None:
    inner = study.retrained
    if inner is None:
        return None
    found = found_among(study)
    names = [n for n in dict.fromkeys(n for t in inner.trials for n in t.metrics) if n not in ("seconds", "flops")]
    rows = [
        (
            "found" if i < found else "random",
            code(trial.arch.key),
            trial.state,
            *(data.number(trial.metrics.get(name)) for name in names),
            format_seconds(trial.seconds),
        )
        for i, trial in enumerate(inner.trials)
    ]
    rows.sort(key=lambda row: row[0])
    tested = {k: v for k, v in (study.document or {}).get("metrics", {}).items() if k.startswith("test")}
    lines = [tag("p", f"The best of {found} found, on the test set: {_metrics(tested)}.")] if tested else []
    rival = _comparison(study).get("random")
    if isinstance(rival, dict):
        metrics = {k: v for k, v in rival.get("metrics", {}).items() if k.startswith(("val_acc", "test"))}
        text = f"The best of {rival.get('architectures')} random ones ({rival.get('key')}), trained the same: "
        lines.append(tag("p", text + f"{_metrics(metrics)}."))
    verdict = _comparison(study).get("verdict")
    if isinstance(verdict, dict):
        lines.append(tag("p", f"{verdict.get('says')}."))
    box = table(("", "architecture", "state", *names, "seconds"), rows[:100])
    plots = shown_figures(("retrained",), [study], prefix)
    return join(tag("h4", "Trained from scratch"), *lines, plots, box)


def _seeds(study: Study) -> Html | None:
    """What trainings with several seeds gave."""
    document = study.document or {}
    runs, mean, std = document.get("runs"), document.get("mean"), document.get("std")
    if not isinstance(runs, list) or not isinstance(mean, dict):
        return None
    names = [name for name in mean if name not in ("params", "flops")]
    rows = [
        (f"seed {run.get('seed')}", *(data.number(run.get("metrics", {}).get(name)) for name in names)) for run in runs
    ]
    rows.append(("mean", *(data.number(mean.get(name)) for name in names)))
    if isinstance(std, dict) and len(runs) > 1:
        rows.append(("standard deviation", *(data.number(std.get(name)) for name in names)))
    return join(tag("h4", "Trained with several seeds" if len(runs) > 1 else "Trained"), table(("", *names), rows))


def _metrics(metrics: Mapping[str, Any]) -> str:
    return ", ".join(f"{k} {data.number(v)}" for k, v in metrics.items() if isinstance(v, int | float)) or MISSING


def _ranking(study: Study) -> Html | None:
    comparison = _comparison(study)
    found = []
    ranking = comparison.get("ranking")
    if isinstance(ranking, dict):
        shown = [(name, ranking.get(key)) for name, key in (("Spearman", "spearman"), ("Kendall", "kendall"))]
        rho = ", ".join(f"{n} {v:.2f}" if isinstance(v, int | float) else f"{n} undefined" for n, v in shown)
        count = ranking.get("architectures")
        text = (
            f"How far scores can be trusted: over {count} random architectures, score against {ranking.get('with')}: "
        )
        found.append(tag("p", f"{text}{rho}."))
    if isinstance(comparison.get("table"), dict):
        found.append(tag("p", f"The best-scored architecture in the table: {_metrics(comparison['table'])}."))
    return join(tag("h4", "Ranking"), *found) if found else None


def _ensemble(study: Study) -> Html | None:
    given = (study.document or {}).get("ensemble")
    if not isinstance(given, dict):
        return None
    trials = ", ".join(map(str, given.get("trials", ())))
    single = {k: v for k, v in (study.document or {}).get("metrics", {}).items() if k in given.get("metrics", {})}
    text = f"The mean of the predictions of trials {trials}: {_metrics(given.get('metrics', {}))}."
    return join(tag("h4", "Ensemble"), tag("p", text, f" The best alone: {_metrics(single)}."))


def setup(study: Study, prefix: str) -> Section | None:
    """Configuration, versions, hardware, command."""
    about = study.provenance
    own = data.own_command(study)
    rows: list[tuple[object, object]] = []
    for kind in ("strategy", "space", "evaluator"):
        options = study.config[kind]["options"]
        shown = ", ".join(f"{k}={_short(v)}" for k, v in options.items() if v is not None)
        rows.append((kind, join(tag("b", study.config[kind]["name"]), f" {shown}")))
    rows += [("objective", str(study.objective)), ("seed", study.seed), ("folder", code(study.path))]
    for key in ("created", "nastool", "revision", "python", "platform", "cores"):
        if about.get(key) is not None:
            rows.append((key, about[key]))
    packages = about.get("packages")
    if isinstance(packages, dict):
        rows.append(("packages", ", ".join(f"{k} {v}" for k, v in packages.items() if v)))
    told = about.get("evaluator")
    if isinstance(told, dict):
        rows += [(key, value) for key, value in told.items()]
    resolved = study.config.get("resolved")
    recipe = resolved.get("recipe") if isinstance(resolved, dict) else None
    if isinstance(recipe, dict):
        rows.append(("recipe", ", ".join(f"{k}={_short(v)}" for k, v in recipe.items())))
    return section(
        f"{prefix}setup",
        "Configuration and setup",
        join(tag("h4", "Command"), tag("pre", tag("code", own), tabindex=0)) if own else None,
        tag("p", "There is no run.yaml: versions, hardware and command are not known.") if not about else None,
        facts(rows, class_="setup"),
    )


def _short(value: object) -> str:
    return json.dumps(value) if isinstance(value, dict | list) else str(value)


# --- all runs together

GROUPS = {"release": "Releasing code", "comparison": "Comparing methods", "reporting": "Reporting"}


def checklist(items: Sequence[Item]) -> Html | None:
    """Best practices, ticked where the runs show that they were kept."""
    if not items:
        return None
    parts: list[Html] = []
    for group, title in GROUPS.items():
        entries = [
            tag(
                "li",
                tag(
                    "span",
                    "✓" if item.done else "✗",
                    class_="mark",
                    role="img",
                    aria_label="yes" if item.done else "no",
                ),
                tag(
                    "div",
                    tag("strong", item.question),
                    tag("p", item.why),
                    tag("p", item.how, class_="how") if item.how else None,
                    tag("p", code(item.command)) if item.command else None,
                ),
                class_="done" if item.done else "open",
                data_item=item.name,
            )
            for item in items
            if item.group == group
        ]
        parts += [tag("h3", title), tag("ul", *entries, class_="checklist")]
    count = sum(item.done for item in items)
    text = (
        f"{count} of {len(items)} are shown by what is here. The questions follow Lindauer & Hutter (JMLR 2020, "
        "arXiv 1909.02453)."
    )
    content = (tag("h2", "Best practices"), tag("p", text), *parts)
    return tag("section", *content, id="checklist", data_part="checklist")


def overview(studies: Sequence[Study]) -> Html:
    """Several runs beside one another."""
    rows = []
    for number, study in enumerate(studies, 1):
        best = study.best
        metrics = (study.document or {}).get("metrics", {})
        tested = metrics.get("test_acc") if isinstance(metrics.get("test_acc"), int | float) else None
        rows.append(
            (
                tag("a", study.name, href=f"#run{number}"),
                study.strategy,
                study.config["space"]["name"],
                study.seed,
                study.state,
                f"{len(study.told):,}",
                f"{study.objective.metric} {data.number(best.value)}" if best is not None else MISSING,
                data.number(tested),
                data.cost_text(study),
            )
        )
    head = ("run", "strategy", "space", "seed", "state", "trials", "best", "test_acc", "cost")
    return tag(
        "section",
        tag("h2", f"{len(studies)} runs"),
        table(head, rows),
        shown_figures(("best-over-trials", "best-over-time", "best-over-cost"), studies, "all-"),
        id="overview",
        data_part="overview",
    )
