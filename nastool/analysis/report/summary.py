"""What stands first on a run's page: what is to be said of its result, and its numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

from nastool.analysis.report import data
from nastool.analysis.report.data import comparison, number
from nastool.core import defaults
from nastool.core.wording import describe_belief, format_seconds, trials
from nastool.engine.baseline import describe
from nastool.engine.final_stage import describe as describe_final
from nastool.engine.study import Study


def tiles(study: Study) -> Iterator[tuple[str, str, str]]:
    """Names, values and their CSS classes: how far it is, and what was found."""
    counts = {state: sum(t.state == state for t in study.trials) for state in ("done", "stopped", "failed", "running")}
    parts = [f"{counts['done']:,} done"] + [f"{n:,} {s}" for s, n in counts.items() if n and s != "done"]
    wanted = f" of {study.wanted:,} wanted" if study.wanted and study.state != "finished" else ""
    yield "state", study.state, f"state {study.state}"
    yield "trials", f"{', '.join(parts)}{wanted}", ""
    yield from _best_tiles(study)
    yield "all evaluations", data.cost_text(study), ""
    yield "wall clock", format_seconds(data.wall_clock(study)), ""


def _best_tiles(study: Study) -> Iterator[tuple[str, str, str]]:
    """Tiles on the best result: of the finished search, or so far."""
    best = study.best
    if best is None:
        yield "best", "none yet" if study.state == "running" else "none", ""
        return
    document = study.document or {}
    finished = study.document is not None and study.state == "finished"
    metrics: Mapping[str, Any] = document.get("metrics", {}) if finished else best.metrics
    retrained = finished and study.retrained is not None
    which = f"{document.get('key')}, trained from scratch" if retrained else f"trial {best.id}, {best.arch.key}"
    metric = study.objective.metric
    by = f" by {metric}" if len(study.objectives) > 1 else ""
    yield f"best{by}" if finished else f"best{by} so far", which, ""
    tested = [name for name in metrics if name.startswith("test")]
    large = {metric.replace("shared_", "val_"), metric.replace("shared_", "test_").replace("val_", "test_")}
    large |= {metric} if not large & metrics.keys() else set()
    objectives = [each.metric for each in study.objectives]
    for name in dict.fromkeys([*objectives, *(name for name in sorted(large) if name in metrics), *tested]):
        value = metrics.get(name, best.value if name == metric else None)
        if isinstance(value, int | float):
            yield name, number(value), "big" if name in large else ""
    advice = document.get("recommended") if finished and not retrained else None
    if isinstance(advice, dict) and advice.get("trial") != document.get("trial"):
        with suppress(LookupError, TypeError, ValueError):
            yield "recommended by all results", f"trial {advice['trial']}, {advice['key']}", ""
            yield "without noise", describe_belief(advice["believed"]), ""
    if finished and not retrained and isinstance(document.get("final_stage"), dict):
        with suppress(LookupError, TypeError, ValueError):
            yield f"mean {metric} in the final stage", describe_final(document["final_stage"]), ""
    if finished and not tested:
        yield "test", "nothing was tested", ""
    if not finished:
        yield "test", "once, at the end", ""
    if len(objectives) > 1:
        yield "front", trials(len(study.front())), ""
    for name, called in (("params", "parameters"), ("flops", "FLOPs")):
        if name not in objectives and isinstance(metrics.get(name), int | float):
            yield called, number(metrics[name]), ""


ABOUT = {
    "policy": "Policy:",
    "collapse": "Warning:",
    "ranking": "Scores:",
    "random": "Against random search:",
    "warnings": "The search may have collapsed:",
}
"""What each verdict on a search is about; warnings: an earlier version's."""


def verdicts(study: Study) -> list[tuple[str, str, str]]:
    """What is said first of a search: (how it looks, what it is about, a sentence)."""
    found = comparison(study).get("verdicts")
    said: list[tuple[str, object]] = []
    if isinstance(found, list) and all(isinstance(each, dict) for each in found):
        said = [(each.get("about"), f"{each.get('says')}.") for each in found if each.get("about") in ABOUT]
    else:
        old = comparison(study).get("warnings")
        said = [
            ("random", _against_random(study)),
            ("warnings", "; ".join(map(str, old)) if isinstance(old, list) else ""),
        ]
    look = {"collapse": "warning", "warnings": "warning"}
    return [(look.get(about, "verdict"), ABOUT[about], str(says)) for about, says in said if says]


def _against_random(study: Study) -> str:
    """Whether the result is better than what random search finds; "": nothing was searched, or it goes on."""
    document = study.document or {}
    found, beside = comparison(study).get("verdict"), document.get("baseline")
    if isinstance(found, dict):
        return f"{found.get('says')}."
    if isinstance(beside, dict):
        with suppress(LookupError, TypeError, ValueError):
            return f"{describe(beside, document.get('metrics', {}))}."
    if study.document is None or study.strategy in (data.LISTED, defaults.BASELINE):
        return ""
    return "not compared; the same search --with-baseline is."
