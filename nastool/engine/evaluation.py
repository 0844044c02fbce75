"""Architectures evaluated outside of a search: a stream of them, several at a time, returned in order."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nastool.core import defaults, options, registry
from nastool.core.archfile import ArchDocument
from nastool.core.errors import InputError, short, why
from nastool.core.registry import misfits
from nastool.core.values import Proposal
from nastool.core.wording import as_typed
from nastool.engine.arguments import seeds as seeds_of
from nastool.engine.command_options import EvaluateOptions
from nastool.engine.config import said
from nastool.engine.executors.base import Drive, Executor, Setting
from nastool.engine.executors.jobs import EvaluatorSpec, Finished, Job
from nastool.engine.results import of_seeds
from nastool.engine.run import Watch, check_data, make_executor, said_of_data, scale_of
from nastool.nets import checkpoints
from nastool.tasks.tensors import notes
from nastool.training.evaluator import TrainingEvaluator

STALE = (
    *("metrics", "std", "mean", "runs", "seeds", "error", "fault", "log", "weights", "weights_digest"),
    *("comparison", "baseline", "ensemble", "unfinished"),
)
"""What a line says of an earlier evaluation. Its trial and run still say where the architecture comes from."""
DATA = ("data", "split_seed", "val_fraction", "train_size", "image_size")
"""Options that mean the same to all of nastool's evaluators that train."""


@dataclass
class _Line:
    """An architecture and what its seeds gave so far. said: of the evaluator, its scale and data."""

    document: ArchDocument
    first_job: int
    said: Mapping[str, object]
    results: dict[int, Finished] = field(default_factory=dict)


@dataclass
class Evaluations:
    """Evaluates a stream of architectures, each once with each seed.

    Attributes:
        evaluator: Name of one.
        options: Its options as they are given; they come before those that a line of a search carries.
        seeds: Of the trainings, at least one, none twice.
        setting: How many at a time, and the timeout.
        workdir: Folder that weights are written to.
        keeps_weights: Whether they stay there.
        force: Evaluate although the data are not those that a line was measured with.
        watch: Who is told of it.
        executor: As of `open_run`.
    """

    evaluator: str
    options: Mapping[str, object]
    seeds: Sequence[int]
    setting: Setting
    workdir: Path
    keeps_weights: bool
    force: bool
    watch: Watch
    executor: str | None = None
    _at_work: Executor | None = None
    _said: dict[str, Any] = field(default_factory=dict)
    _waiting: deque[_Line] = field(default_factory=deque)
    _notes: list[str] = field(default_factory=list)
    _jobs: int = 0
    _noted: bool = False
    _problem: InputError | None = None

    def run(self, documents: Iterator[ArchDocument]) -> Iterator[dict[str, Any]]:
        """Yield each architecture's output object, in order.

        Raises:
            InputError: Something is wrong with an architecture, the data or the options; what came before it is
                finished first.
        """
        following = self._next(documents)
        while following is not None:
            first, own = following
            following = None
            self._open(first, own)
            assert self._at_work is not None
            jobs = self._begun(first, own)

            def source(own: Mapping[str, object] = own, first: ArchDocument = first) -> Job | None:
                nonlocal following, jobs
                while (job := next(jobs, None)) is None and following is None and self._problem is None:
                    found = self._next(documents)
                    if found is None:
                        return None
                    if (found[0].space.ref, repr(found[1])) != (first.space.ref, repr(own)):
                        following = found  # once these have finished
                    else:
                        jobs = self._begun(*found)
                return job

            for event in Drive(self._at_work, source):
                if isinstance(event, Finished):
                    self._take(event)
                while self._waiting and len(self._waiting[0].results) == len(self.seeds):
                    yield self._output(self._waiting.popleft())
        if self._problem is not None:
            raise self._problem

    def close(self) -> None:
        """End its work."""
        if self._at_work is not None:
            self._at_work.close()

    def _next(self, documents: Iterator[ArchDocument]) -> tuple[ArchDocument, dict[str, object]] | None:
        """The next architecture and the options for it; None: there is none, or something is wrong with it."""
        try:
            found = None if self._problem is not None else next(documents, None)
            return None if found is None else (found, self._own_options(found))
        except InputError as error:
            self._problem = error
            return None

    def _begun(self, document: ArchDocument, own: Mapping[str, object]) -> Iterator[Job]:
        """The jobs of an architecture; none where its data are others now."""
        try:
            check_data(document, own, self._said, self.force, self.watch)
        except InputError as error:
            self._problem = error
            return iter(())
        while self._notes:
            self.watch.note(self._notes.pop(0))
        first = self._jobs
        self._jobs += len(self.seeds)
        self._waiting.append(_Line(document, first, dict(self._said)))
        proposal = Proposal(document.arch)
        return (Job(number, proposal, seed, "both") for number, seed in enumerate(self.seeds, first))

    def _own_options(self, document: ArchDocument) -> dict[str, object]:
        """A line of a search by the same evaluator is evaluated as it was there, unless told otherwise.

        Where only one of the two trains with shared weights, the data at least are the same.
        """
        target = registry.load("evaluator", self.evaluator)
        known = options.of(target)
        own: dict[str, object] = {}
        origin = document.extra.get("evaluator")
        if isinstance(origin, dict) and isinstance(before := origin.get("options"), dict):
            taken = known if origin.get("name") == self.evaluator else _data_options(origin.get("name"), target)
            taken = {key: value for key, value in before.items() if key in known and key in taken}
            own = {key: value for key, value in taken.items() if key not in target.local_options}
            self._note_unused({key: value for key, value in taken.items() if key not in {**own, **self.options}})
        if document.extra.get("scale") is not None and "scale" in known:
            own["scale"] = document.extra["scale"]
        return registry.resolve("evaluator", self.evaluator, {**own, **self.options})[1]

    def _note_unused(self, asked: Mapping[str, object]) -> None:
        """A line from elsewhere does not decide what is read, loaded or used on this machine."""
        if asked and not self._noted:
            self._noted = True
            self.watch.note(f"note: of {as_typed(asked)}, which a line asks for, your own options decide: give -E")

    def _open(self, document: ArchDocument, own: Mapping[str, object]) -> None:
        self.close()
        if reasons := misfits(None, type(document.space), registry.load("evaluator", self.evaluator)):
            raise InputError("; ".join(reasons))
        spec = EvaluatorSpec(document.space.ref, self.evaluator, own, self.workdir, self.seeds[0])
        evaluator = spec.build()
        if "shared-weights" in evaluator.provides and len(self.seeds) > 1:
            raise InputError(
                f"--seeds: evaluator {self.evaluator} scores with one set of shared weights, so all seeds would give "
                "the same; give one"
            )
        self._said = {"evaluator": said(self.evaluator, own)}
        if (scale := scale_of(evaluator)) is not None:
            self._said["scale"] = scale
        self._at_work = make_executor(self.executor, spec, evaluator, self.setting)
        facts = self._at_work.open()
        self._said |= said_of_data(facts)
        self._notes = list(notes(facts))

    def _take(self, event: Finished) -> None:
        """Note what became of one training."""
        if not self.keeps_weights and event.evaluation is not None and event.evaluation.checkpoint:
            (self.workdir / event.evaluation.checkpoint).unlink(missing_ok=True)
        number = event.job.trial_id
        line = next(line for line in self._waiting if 0 <= number - line.first_job < len(self.seeds))
        line.results[event.job.seed] = event
        if event.error:
            self.watch.note(f"architecture {line.document.arch.key}, seed {event.job.seed}: {event.error}")

    def _output(self, line: _Line) -> dict[str, Any]:
        """The object of an architecture whose seeds have all finished."""
        runs: list[dict[str, Any]] = []
        errors: list[str] = []
        for seed in self.seeds:
            result = line.results[seed]
            if result.evaluation is None:
                errors.append(f"seed {seed}: {result.error}")
                runs.append({"seed": seed, "error": result.error, "fault": result.fault})
            else:
                metrics = {**result.evaluation.metrics, **(result.tested or {})}
                run = {"seed": seed, "metrics": {**metrics, "seconds": result.evaluation.seconds}}
                if self.keeps_weights and result.evaluation.checkpoint is not None:
                    run |= checkpoints.named(self.workdir / result.evaluation.checkpoint)
                runs.append(run)
        more: dict[str, Any] = {"seeds": self.seeds, "runs": runs, **line.said}
        kept = {key: value for key, value in line.document.extra.items() if key not in STALE}
        if errors:
            more["error"] = "; ".join(errors)
        more |= {"metrics": {}, **of_seeds(runs)}
        return replace(line.document, extra=kept).to_json(more)


def _data_options(origin: object, target: type[Any]) -> tuple[str, ...]:
    """Which options of the evaluator named origin mean the same to another one."""
    if not isinstance(origin, str) or not registry.is_known("evaluator", origin):
        return ()
    both = (target, registry.load("evaluator", origin))
    return DATA if all(issubclass(cls, TrainingEvaluator) for cls in both) else ()


def prepare_folder(folder: Path) -> None:
    """Make --save's folder before anything is trained. InputError: it cannot be, or holds weights already."""
    checkpoints = folder / "checkpoints"
    try:
        checkpoints.mkdir(parents=True, exist_ok=True)
        if any(checkpoints.iterdir()):
            raise InputError(f"{checkpoints} is not empty: give --save another folder")
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"cannot write {short(checkpoints)}: {why(error)}; give --save another folder") from None


def evaluating(documents: Iterator[ArchDocument], options: EvaluateOptions) -> Generator[dict[str, Any]]:
    """Evaluate a stream of architectures; yield each one's object as soon as those before it are done.

    Errors are as of `nastool.evaluate`. What the options say of architectures is not looked at.
    """
    if options.save is not None:
        prepare_folder(Path(options.save))
    watch = Watch(options.on_event)
    seen = None if options.executor is None else Path.cwd()  # by other machines, too, if the executor has some
    with tempfile.TemporaryDirectory(prefix=".nastool-" if seen else "nastool-", dir=seen) as scratch:
        at_work = Evaluations(
            registry.load("evaluator", options.evaluator or defaults.EVALUATOR).name,
            options.of_evaluator,
            seeds_of(options.seeds),
            Setting(options.workers, options.trial_timeout, options.hung_timeout, say=watch.note),
            Path(options.save or scratch),
            options.save is not None,
            options.force,
            watch,
            options.executor,
        )
        with closing(at_work):
            yield from at_work.run(documents)
