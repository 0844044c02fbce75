"""Options of the commands that work on a run or train: what their functions take, and their command lines.

Fields, defaults and descriptions stand here alone: `nastool.api` has them as arguments, `nastool.cli` as options. So
nothing here takes long to import.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from nastool.core.errors import InputError, short

if TYPE_CHECKING:
    from nastool.core.archfile import ArchDocument
    from nastool.engine.events import Event, Listener
    from nastool.engine.study import Study

    Architecture: TypeAlias = str | Path | Mapping[str, Any] | Study
    """A run or its folder, a file, zoo:NAME, or an arch.json object, such as `Study.line` and `evaluate` return."""
    Scale: TypeAlias = Mapping[str, int] | str
    """Size of networks, such as {"channels": 16, "cells": 5}, or "channels=16,cells=5"."""

RANGES: Mapping[str, tuple[int, int | None]] = {
    "trials": (1, None),
    "patience": (1, None),
    "latency_threads": (1, 1024),
    "seed": (0, 2**63 - 1),
    "workers": (1, None),
    "keep": (1, None),
    "max_failures": (1, None),
    "final": (0, 10_000),
    "retrain": (0, 10_000),
    "check_ranking": (0, 100_000),
    "trial": (0, None),
}
"""The least and the greatest value of options that are integers; None: there is none."""


SEVERAL: Mapping[str, str] = {
    "log": "--log",
    "objective": "--objective",
    "limits": "--limit",
    "pick": "--pick",
    "stop_when": "--stop-when",
    "warm_start": "--warm-start",
}
"""Options that are no plugin's and may be given several times, and what each time is called on a command line."""


def nobody(event: Event) -> None:
    """Listen to nothing."""


def never() -> bool:
    """Go on."""
    return False


@dataclass(kw_only=True)
class Options:
    """What the function of a command is given.

    Args:
        on_event: Called with every event, in this thread.
        executor: Who carries out trials: processes, inline, slurm or ray with options such as
            slurm:partition=gpu,gpus=1, or one of another package; by default worker processes, or this process for what
            costs next to nothing.

    Raises:
        InputError: A value is of another type, or out of its range.
    """

    on_event: Listener = nobody
    executor: str | None = None

    def __post_init__(self) -> None:
        for each in fields(self):
            value = plain(getattr(self, each.name))
            if value is None and each.default is not MISSING:
                value = each.default
            elif value is None and each.default_factory is not MISSING:
                value = each.default_factory()
            setattr(self, each.name, value)
            self._check(each, value)

    @staticmethod
    def _check(each: Field[Any], value: object) -> None:
        kinds: dict[object, tuple[type, str]] = {
            "bool": (bool, "True or False"),
            "str": (str, "text"),
            "Mapping[str, object]": (Mapping, "a mapping of option names to values"),
        }
        if value is None:
            return
        kind, wanted = kinds.get(str(each.type).removesuffix(" | None"), (object, ""))
        if not isinstance(value, kind):
            raise InputError(f"{each.name}: need {wanted}, got {short(repr(value))}")
        if each.name in RANGES:
            low, high = RANGES[each.name]
            outside = not isinstance(value, int) or isinstance(value, bool) or value < low
            if outside or (high is not None and isinstance(value, int) and value > high):
                wanted = f">= {low}" if high is None else f"from {low} to {high:,}"
                raise InputError(f"{each.name}: need an integer {wanted}, got {short(repr(value))}")
        if each.name in ("trial_timeout", "hung_timeout"):
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if not number or not 0 < value < math.inf:  # type: ignore[operator]
                raise InputError(f"{each.name}: need a number of seconds > 0, got {short(repr(value))}")


@dataclass(kw_only=True)
class Stoppable(Options):
    """What works in a run's folder, which can be stopped and gone on with.

    Args:
        stop: Called between events; once it returns true, what runs is finished, and nothing begins any more.
        report: At the end, write report.html into the run's folder.
    """

    stop: Callable[[], bool] = never
    report: bool = True


@dataclass(kw_only=True)
class Measuring(Options):
    """What has an evaluator, with the common ones among its options.

    Args:
        evaluator_options: Options of the evaluator.
        data: Data set: a name (`nastool list data`), folder:DIR, npz:FILE, csv:FILE, tabular:FILE, signals:FILE or
            FILE.py:CLASS.
        data_dir: Folder with the data sets.
        download: Download the data set if it is missing.
        recipe: How to train: a name (`nastool list recipes`) or a file.
        epochs: Length of a training; by default the recipe's.
        scale: Size of the networks, such as channels=16,cells=5.
        device: auto, cpu, cuda or cuda:N.
    """

    FLAGS: ClassVar = (
        *("data", "data_dir", "download", "recipe", "epochs", "scale", "device"),
        *("from_checkpoint", "attack", "shift"),
    )
    """Options of evaluators that are arguments of their own."""

    evaluator_options: Mapping[str, object] = field(default_factory=dict)
    data: str | None = None
    data_dir: str | Path | None = None
    download: bool | None = None
    recipe: str | Path | None = None
    epochs: int | None = None
    scale: Scale | None = None
    device: str | None = None

    @property
    def of_evaluator(self) -> dict[str, object]:
        """The evaluator's options, with those that are arguments of their own. InputError: one is given twice."""
        found = dict(self.evaluator_options)
        for name in self.FLAGS:
            if (value := getattr(self, name, None)) is None:
                continue
            if name in found:
                raise InputError(f"both {name} and evaluator_options[{name!r}] are given: keep one")
            found[name] = value
        return found


@dataclass(kw_only=True)
class Searching(Stoppable):
    """What is searched.

    Args:
        strategy: Search strategy: a name (`nastool list strategies`) or FILE.py:CLASS; by default evolution, of several
            objectives nsga2.
        strategy_options: Options of the strategy.
        space: Search space: a name (`nastool list spaces`) or FILE.py:CLASS; by default the strategy's own, or
            nasbench201; for data that are no images, the first that has networks for them.
        space_options: Options of the space.
        evaluator: How architectures are measured: a name (`nastool list evaluators`) or FILE.py:CLASS; by default the
            strategy's own, or train.
    """

    strategy: str | None = field(default=None, kw_only=False)
    strategy_options: Mapping[str, object] = field(default_factory=dict)
    space: str | None = None
    space_options: Mapping[str, object] = field(default_factory=dict)
    evaluator: str | None = None


@dataclass(kw_only=True)
class SearchOptions(Measuring, Searching):
    """Everything that a search can be told.

    Args:
        trials: Number of trials in all, those of earlier calls included; by default the strategy's own number, or 20
            and at least three times what it begins with at random; with time, until or patience, any number.
        time: Length of time after which it is to have ended, such as 90s, 2m, 8h, or a number of seconds. What
            follows the trials fits in, and the time of earlier calls counts; of shared weights it decides how many
            rounds there are.
        until: The same as an hour, such as 07:30, the next one in local time. With several of these whatever comes
            first counts.
        stop_when: Condition such as val_acc>=0.95, in quotes in a shell; a trial that meets it ends the search, with
            several conditions one that meets them all.
        patience: Number of trials in a row without a better one after which it ends; with several objectives, without
            one that joins the front.
        objective: What to optimise; by default the evaluator's own objective. Several, one each time: a front of
            networks is searched that no other beats in all of them, and the first says which of these is the best.
        limits: What an architecture may cost, one each time, checked before it is trained: params<=50k, flops<=50M,
            latency_ms<=5, memory_mb<=200, of one example.
        latency_threads: CPU threads with which a latency is measured.
        fidelity: End trainings early that promise little: asha or hyperband, with options such as
            asha:eta=3,minimum=1, train many architectures for few epochs and the best of these further; each such part
            of a training is a trial. median ends a training that is worse than the others were by then. With
            predict=power-law any of them compares what learning curves will come to instead of last values, where an
            evaluator reports on the way.
        final: Number of the last trials that are a final stage: they train the most promising architectures, at most 5,
            again with other seeds. A model recommends these by all results, the trainings are dealt out by successive
            rejects, and the result is the one that is best on average. By default 0.
        warm_start: An earlier run of the same space, perhaps on other data, at another scale or with other epochs: its
            results tell the strategy where to begin, as far as its own bear them out. They are read once, and are no
            trials of this search.
        prior: A zero-cost proxy that tells where to begin: synflow, snip, grad_norm, jacob_cov, naswot, zen, params or
            flops. It is found of 500 random architectures before the first trial, on the evaluator's data, or on shapes
            where that has none; evolution begins with the best of these, a model believes them as far as results do.
        seed: Seed of strategy and trials.
        workers: Number of trials at a time; GPUs are dealt out in turn.
        out: Folder of the run; by default one under runs/ named after the search.
        force: Replace another search in the folder.
        keep: Number of best trials whose weights are kept; with several objectives all of the front are.
        trial_timeout: Seconds after which a trial is given up; time in which the search was stopped or its machine
            asleep does not count.
        hung_timeout: Seconds without any progress (no report, and no use of the processor, or no sign of life at all)
            after which a trial's process is ended and it is tried once more; by default it is only said. Not for
            evaluators that wait for long for what others compute.
        max_failures: Number of failed trials in a row after which the search ends.
        retrain: Number of best architectures to train from scratch at the end, as a model recommends them by all
            results (`nastool top --by model`); by default 4 where scores are with shared weights, taken as they are
            (with nesbs its ensemble's members), else 0.
        retrain_recipe: Recipe for that; by default the one that the search's recipe names.
        retrain_scale: Size of the networks then; by default the recipe's, or the search's.
        baseline: With shared weights, train as many random architectures beside them.
        with_baseline: Afterwards search at random with the same budget, in RUN/baseline, and compare the results. Not
            with shared weights, where --baseline trains random architectures beside the best.
        check_ranking: Number of random architectures to train from scratch, to compare their ranking with that of
            their scores.
        ranking_table: Options of evaluator table: look their accuracies up instead.
        log: Also send the trials to a logger (`nastool list loggers`).
    """

    trials: int | None = None
    time: float | str | None = None
    until: str | None = None
    stop_when: str | Sequence[str] = ()
    patience: int | None = None
    objective: str | Sequence[str] | None = None
    limits: str | Sequence[str] = ()
    latency_threads: int = 1
    fidelity: str | None = None
    final: int | None = None
    warm_start: str | Path | Sequence[str | Path] = ()
    prior: str | None = None
    seed: int = 0
    workers: int = 1
    out: str | Path | None = None
    force: bool = False
    keep: int = 10
    trial_timeout: float | None = None
    hung_timeout: float | None = None
    max_failures: int = 10
    retrain: int | None = None
    retrain_recipe: str | None = None
    retrain_scale: Scale | None = None
    baseline: bool = True
    with_baseline: bool = False
    check_ranking: int = 0
    ranking_table: Mapping[str, object] | str | None = None
    log: str | Sequence[str] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        self.log = [self.log] if isinstance(self.log, str) else list(self.log)
        if self.objective is not None and not isinstance(self.objective, str):
            self.objective = list(self.objective) or None
        self.stop_when = [self.stop_when] if isinstance(self.stop_when, str) else list(self.stop_when)
        self.limits = [self.limits] if isinstance(self.limits, str) else list(self.limits)
        runs = [self.warm_start] if isinstance(self.warm_start, str | os.PathLike) else self.warm_start
        self.warm_start = list(map(os.fsdecode, runs))


@dataclass(kw_only=True)
class FinishOptions(Options):
    """What a run is finished with; what is not given is as it was.

    Args:
        run: The run, or its folder.
        workers: Number of trials at a time; GPUs are dealt out in turn.
        data_dir: Folder with the data sets.
        download: Download the data set if it is missing.
        device: auto, cpu, cuda or cuda:N.
        report: At the end, write report.html into the run's folder.
        stop: Called between events; once it returns true, what runs is finished, and nothing begins any more.
    """

    run: str | Path | Study = field(kw_only=False)
    workers: int | None = None
    data_dir: str | Path | None = None
    download: bool | None = None
    device: str | None = None
    report: bool | None = None
    stop: Callable[[], bool] = never

    LOCAL: ClassVar = ("data_dir", "download", "device")
    """Options of its evaluator that say where things are on this machine."""


@dataclass(kw_only=True)
class ResumeOptions(FinishOptions):
    """What a run goes on with; what is not given is as it was.

    Args:
        trials: Number of trials in all, not less than there are. By default what ended it or was to end it stays as it
            was; where something else of these is given, what it has ended by does not count any more.
        time: Length of time from now on after which it is to have ended, such as 90s, 2m, 8h, or a number of seconds.
        until: The same as an hour, such as 07:30, the next one in local time.
        stop_when: Condition such as val_acc>=0.95; a trial that meets it ends the search.
        patience: Number of trials in a row without a better one after which it ends; with several objectives, without
            one that joins the front.
        trial_timeout: Seconds after which a trial is given up.
        hung_timeout: Seconds without any progress after which a trial's process is ended and it is tried once more.
        log: Also send the trials to a logger (`nastool list loggers`).
    """

    trials: int | None = None
    time: float | str | None = None
    until: str | None = None
    stop_when: str | Sequence[str] | None = None
    patience: int | None = None
    trial_timeout: float | None = None
    hung_timeout: float | None = None
    log: str | Sequence[str] | None = None


@dataclass(kw_only=True)
class EvaluateOptions(Measuring):
    """What is evaluated, and how.

    Args:
        architectures: One, or several.
        evaluator: How they are measured: a name (`nastool list evaluators`) or FILE.py:CLASS; by default train.
        from_checkpoint: Begin with these trained weights instead of from scratch.
        attack: Also test on images attacked by one who knows the weights, such as fgsm or
            pgd:eps=8/255,steps=20,step=2/255, in pixels from 0 to 1.
        shift: Also test on images shifted at five severities: noise, blur, contrast, brightness, several with commas,
            or all.
        space: Space of architectures in their own string form.
        seeds: One evaluation with each of these seeds.
        workers: Number of evaluations at a time.
        save: Folder to keep the trained weights in; by default they are not kept.
        force: Evaluate although the data are not those that a line was measured with.
        trial_timeout: Seconds after which one is given up; time in which the command was stopped or its machine asleep
            does not count.
        hung_timeout: Seconds without any progress after which one's process is ended and it is tried once more.
    """

    architectures: Architecture | Iterable[Architecture] = field(kw_only=False)
    evaluator: str | None = None
    from_checkpoint: str | Path | None = None
    attack: str | None = None
    shift: str | None = None
    space: str | None = None
    seeds: int | str | Iterable[int] = 0
    workers: int = 1
    save: str | Path | None = None
    force: bool = False
    trial_timeout: float | None = None
    hung_timeout: float | None = None


@dataclass(kw_only=True)
class RetrainOptions(Measuring, Stoppable):
    """What is trained for use, and how; by default as in the run it comes from, with the recipe for the end.

    Args:
        architecture: What to train.
        trial: Of a run, the number of the trial that is trained instead of its best.
        pick: Of a run, the best trial that meets it, such as 'latency_ms<=4' (repeat it), or the front's knee.
        space: Space of an architecture in its own string form.
        seeds: One training with each of these seeds; the network that counts is the first one's.
        validation: Keep the validation images out of the training, and measure on them.
        workers: Number of trainings at a time; GPUs are dealt out.
        out: Folder; by default RUN/retrained, or one under runs/.
        force: Train although the data are not those of the run any more, and in place of other trainings in the folder.
    """

    architecture: Architecture | ArchDocument = field(kw_only=False)
    trial: int | None = None
    pick: str | Sequence[str] = ()
    space: str | None = None
    seeds: int | str | Iterable[int] = (0, 1, 2)
    validation: bool = False
    workers: int = 1
    out: str | Path | None = None
    force: bool = False


def plain(value: Any) -> Any:
    """numpy's numbers and arrays as Python's, and paths as text; also within mappings."""
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, bytes | os.PathLike):
        return os.fsdecode(value)
    return value.tolist() if hasattr(value, "tolist") else value


def described(options: type[Options]) -> dict[str, str]:
    """Description of each field, from the docstrings' `Args:`, in the order in which a user meets them."""
    found = {each.name: "" for each in sorted(fields(options), key=lambda each: bool(each.kw_only))}
    for name in ("executor", "report", "on_event", "stop"):
        found |= {name: found.pop(name)} if name in found else {}
    for cls in reversed(options.__mro__):
        name = ""
        for line in (cls.__doc__ or "").partition("    Args:\n")[2].partition("\n\n")[0].splitlines():
            text = line.strip()
            if text and not line.startswith(" " * 12):
                name, _, text = text.partition(": ")
                found[name] = ""
            if text:
                found[name] = f"{found[name]} {text}".strip()
    return found
