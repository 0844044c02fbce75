"""What the command line shows of a run while it goes on, from its events."""

from __future__ import annotations

import math
import shlex
import sys
from collections.abc import Callable

from nastool.cli import common, results
from nastool.cli.common import say
from nastool.cli.progress import Progress
from nastool.core import archfile
from nastool.core.strategy import Fed
from nastool.core.values import Trial
from nastool.core.wording import as_typed, describe_belief, describe_metrics, format_seconds, trials
from nastool.engine.events import (
    Ended,
    Event,
    Interrupted,
    Note,
    RunBegun,
    TrialFinished,
    TrialsBegun,
    TrialsEnded,
)
from nastool.engine.executors.jobs import Reported
from nastool.engine.search import Search
from nastool.tasks.tensors import notes


class Listener:
    """Says on stderr what happens, and draws the live view on a terminal; the result goes to stdout as JSON."""

    def __init__(self, ended: Callable[[Ended], None], json_flag: bool | None) -> None:
        """Args:
        ended: Says what the result is.
        json_flag: Whether it also goes to stdout; None: where that is no terminal.
        """
        self._ended = ended
        self._json_flag = json_flag
        self._progress: Progress | None = None
        self._begun: TrialsBegun | None = None

    def __call__(self, event: Event) -> None:
        match event:
            case Note(text):
                say(text)
            case RunBegun():
                _say_begun(event)
            case TrialsBegun(noun=noun):
                self._begun = event
                self._progress = Progress(noun)
                self._progress.__enter__()
            case TrialsEnded():
                self._end_trials()
            case Interrupted():
                self._say_interrupted(event)
            case Ended():
                self._ended(event)
                if common.as_json(self._json_flag):
                    common.emit(event.document)
            case TrialFinished(trial) if self._begun is not None and isinstance(self._begun.search.strategy, Fed):
                common.emit(_answer(trial, self._begun.search))
            case _:
                happened: Reported | Trial | None = None
                if isinstance(event, TrialFinished):
                    happened = event.trial
                elif isinstance(event, Reported):
                    happened = event
                if self._progress is not None and self._begun is not None:
                    self._progress.watch(self._begun.search, happened)

    def _end_trials(self) -> None:
        if self._progress is not None:
            self._progress.__exit__(None, None, None)
        self._progress = self._begun = None

    def _say_interrupted(self, event: Interrupted) -> None:
        """The first Ctrl-C."""
        say(f"\nsaved in {event.folder}; {event.next}")
        if self._begun is None:
            return
        executor, kind = self._begun.search.executor, self._begun.noun.removesuffix("s").split()[-1]
        if executor.computes_here:
            running = len(executor.busy)  # 0: one may be about to start
            what = f"{running} running {kind}s" if running > 1 else f"the running {kind}" if running else "what runs"
            say(f"finishing {what}; Ctrl-C again stops at once, to be repeated later")


def _answer(trial: Trial, search: Search) -> dict[str, object]:
    """What who proposed an architecture is told of it."""
    found = archfile.to_json(search.strategy.space, trial.proposal.arch)
    if trial.evaluation is not None:
        found["metrics"] = trial.evaluation.all_metrics
    return {**found, "trial": trial.id, **({"error": trial.error, "fault": trial.fault} if trial.error else {})}


def _say_begun(event: RunBegun) -> None:
    config = event.config
    say(f"searching in {event.folder}")
    for kind, plugged in (("strategy", config.strategy), ("space", config.space)):
        say(
            common.labelled(
                f"  {kind:<10} ", f"{plugged.name}  {as_typed(plugged.options)}".rstrip(), stream=sys.stderr
            )
        )
    facts = "  ".join(f"{key} {value}" for key, value in event.facts.items() if key not in ("read", "fitted"))
    say(
        common.labelled(
            f"  {'evaluator':<10} ", f"{config.evaluator.name}  {facts}".rstrip(), gap="  ", stream=sys.stderr
        )
    )
    if config.fidelity:
        say(f"  {'fidelity':<10} {config.fidelity}")
    if config.limits:
        say(f"  {'limits':<10} {'  '.join(config.limits)}")
    for note in notes(event.facts):
        say(note)


def say_search_ended(event: Ended) -> None:
    """Say what a search has found, what it cost, and what to do with it."""
    search, document = event.search, event.document
    if search is not None:
        _say_counts(search, event.seconds)
    for verdict in document.get("comparison", {}).get("verdicts", []):
        say(verdict["says"])
    metrics = {k: v for k, v in document["metrics"].items() if k != "seconds"}
    searched = document["run"] == str(event.folder)
    which = f"trial {document['trial']}" if searched else "trained from scratch"
    objectives = search.objectives if search is not None else ()
    by = f" (by {objectives[0].metric})" if len(objectives) > 1 and searched else ""
    say(f"best: {which}, architecture {document['key']}{by}")
    say(f"  {describe_metrics(metrics)}")
    run, advice = shlex.quote(str(event.folder)), document.get("recommended")
    if advice is not None and searched and advice["trial"] != document["trial"]:
        which = f"trial {advice['trial']}, architecture {advice['key']}"
        say(f"recommended: {which}: by all results {describe_belief(advice['believed'])} without noise")
        say(f"  to train it: nastool retrain {run} --trial {advice['trial']}")
    for line in event.lines:
        say(line)
    if "front" in document:
        say(f"front: {trials(len(document['front']))} that no other beats in all objectives: nastool top {run} --front")
    if event.written is not None:
        results.say_where(event.folder, event.written, unfinished="unfinished" in document)
    else:
        say(f"more: nastool status {shlex.quote(str(event.folder))}")


def _say_counts(search: Search, seconds: float) -> None:
    if search.exhausted and search.finished < (search.trials or math.inf):
        say(f"the strategy has nothing left to propose after {search.finished} trials")
    stopped = f", {search.stopped} of them stopped early" if search.stopped else ""
    say(f"{search.finished} trials{stopped}, {search.failed} failed, in {format_seconds(seconds)}")


def say_retrain_ended(event: Ended) -> None:
    """Say what the tests of trained networks gave, and what to do with the one that counts."""
    found = event.document
    measured = [run for run in found["runs"] if "metrics" in run]
    for name in found["mean"]:
        if name.startswith("test_"):
            over = ""
            if len(measured) > 1:
                over = f"; over {len(measured)} seeds {found['mean'][name]:.4f} ± {found['std'][name]:.4f}"
            say(f"{name} {found['metrics'][name]:.4f} (seed {measured[0]['seed']}){over}")
    if event.written is not None:
        results.say_where(event.folder, event.written, retrained=True)


def say_notes(event: Event) -> None:
    """Say notes, and nothing else."""
    if isinstance(event, Note):
        say(event.text)
