"""`nastool eval`."""

from __future__ import annotations

import tempfile
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nastool.cli import common, configfile, results
from nastool.core.errors import InputError, short, why

if TYPE_CHECKING:
    from nastool.core.archfile import ArchDocument
    from nastool.engine.workers import Finished, Pool


@click.command("eval", cls=common.Command)
@click.argument("architectures", nargs=-1, metavar="[ARCH|RUN|-]...")
@common.evaluator_options
@click.option("--from-checkpoint", metavar="FILE", help="Begin with these trained weights instead of from scratch.")
@click.option("--space", metavar="NAME", help="Space of architectures in their own string form.")
@click.option("--seeds", default="0", metavar="N,...", help="Evaluate once with each of these seeds.")
@click.option("--workers", type=click.IntRange(min=1), default=1, help="Evaluations at a time.")
@click.option("--save", metavar="DIR", help="Keep the trained weights under DIR/checkpoints.")
@click.option("--force", is_flag=True, help="Evaluate although the data are not those that a line was measured with.")
@click.option(
    "--trial-timeout",
    type=common.Seconds(),
    metavar="SECONDS",
    help="Give up on a longer one. Time in which the command was stopped or its machine asleep does not count.",
)
@common.json_option
@configfile.option
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> int:
    """Evaluate architectures: train each from scratch and test it, or look it up in a table.

    ARCH is an arch.json file, a file of JSON lines, a run folder (its best), or - for stdin (the default).
    Prints each line again, in the order read: metrics of the first seed's network, their mean and standard deviation
    over the seeds, and every seed's own; on a terminal a table of means. This is the command that looks at the test
    set.

    \b
    Examples:
      nastool sample -n 8 | nastool eval --epochs 2 | jq .metrics.val_acc
      nastool top runs/a -k 3 | nastool eval --epochs 20 --seeds 0,1,2
      nastool eval runs/a --from-checkpoint runs/a/best.safetensors --epochs 9
    """
    from nastool.cli import listing
    from nastool.core import registry
    from nastool.core.values import SpaceRef

    seeds = common.seeds(given["seeds"])
    options = common.layered(ctx, "evaluator_options", (*common.EVALUATOR_FLAGS, "from_checkpoint"))
    space = registry.make_space(SpaceRef(given["space"])) if given["space"] else None
    failures = 0
    if given["save"]:
        _prepare_folder(Path(given["save"]))
    with tempfile.TemporaryDirectory(prefix="nastool-") as scratch:
        workdir = Path(given["save"] or scratch)
        documents = common.read_architectures(given["architectures"] or ["-"], space)
        evaluations = _Evaluations(
            given["evaluator"],
            options,
            seeds,
            given["workers"],
            given["trial_timeout"],
            workdir,
            bool(given["save"]),
            given["force"],
        )
        try:
            show = common.emit if common.as_json(given["json_flag"]) else listing.Growing().add
            for line in evaluations.run(documents):
                show(line)
                failures += "error" in line
        finally:
            evaluations.close()
    return 1 if failures else 0


STALE = (
    *("metrics", "std", "mean", "runs", "seeds", "error", "weights", "weights_digest"),
    *("comparison", "baseline", "ensemble"),
)
"""What a line says of an earlier evaluation. Its trial and run still say where the architecture comes from."""


DATA = ("data", "split_seed", "val_fraction", "train_size", "image_size")
"""Options that mean the same to all of nastool's evaluators that train."""


def _data_options(origin: object, target: type[Any]) -> tuple[str, ...]:
    """Which options of the evaluator named origin mean the same to another one."""
    from nastool.core import registry
    from nastool.training.loop import ImageEvaluator

    if not isinstance(origin, str) or origin not in registry.plugins("evaluator"):
        return ()
    both = (target, registry.load("evaluator", origin))
    return DATA if all(issubclass(cls, ImageEvaluator) for cls in both) else ()


def _prepare_folder(folder: Path) -> None:
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


@dataclass
class _Line:
    """An architecture and what its seeds gave so far."""

    document: ArchDocument
    first_job: int
    said: Mapping[str, Any]
    """Of the evaluator: its name and options, and its scale where it has one."""
    results: dict[int, Finished] = field(default_factory=dict)


@dataclass
class _Evaluations:
    """Evaluates a stream, several at a time, and returns it in order."""

    evaluator: str
    options: Mapping[str, object]
    seeds: list[int]
    workers: int
    timeout: float | None
    workdir: Path
    keeps_weights: bool
    force: bool
    _pool: Pool | None = None
    _pool_key: object = None
    _waiting: deque[_Line] = field(default_factory=deque)
    _notes: list[str] = field(default_factory=list)
    _jobs: int = 0
    _noted: bool = False

    def run(self, documents: Iterator[ArchDocument]) -> Iterator[dict[str, Any]]:
        """Each architecture's output object. Bad input is raised after what came before it is finished."""
        from nastool.core.values import Proposal
        from nastool.engine.workers import Job

        problem: InputError | None = None
        while True:
            try:
                document = next(documents, None)
                own = self._own_options(document) if document is not None else {}
            except InputError as error:
                document, problem = None, error
            if document is None:
                break
            key = (document.space.ref, repr(own))
            if self._pool is None or key != self._pool_key:
                yield from self._drain()
                self._open(document, own)
                self._pool_key = key
            assert self._pool is not None
            try:
                common.check_data(document, own, self._said, self.force)
            except InputError as error:
                problem = error
                break
            while self._notes:
                common.say(self._notes.pop(0))
            self._waiting.append(_Line(document, self._jobs, self._said))
            for seed in self.seeds:
                while not self._pool.free:
                    yield from self._collect()
                self._pool.submit(Job(self._jobs, Proposal(document.arch), seed, "both"))
                self._jobs += 1
            yield from self._collect(0)
        yield from self._drain()
        if problem is not None:
            raise problem

    def close(self) -> None:
        if self._pool is not None:
            self._pool.close()

    def _own_options(self, document: ArchDocument) -> dict[str, object]:
        """A line of a search by the same evaluator is evaluated as it was there, unless told otherwise.

        Where only one of the two trains with shared weights, the data at least are the same.
        """
        from nastool.core import options, registry

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
        return options.resolve(f"evaluator {self.evaluator}", target, {**own, **self.options})

    def _note_unused(self, asked: Mapping[str, object]) -> None:
        """A line from elsewhere does not decide what is read, loaded or used on this machine."""
        if asked and not self._noted:
            self._noted = True
            common.say(f"note: of {common.as_typed(asked)}, which a line asks for, your own options decide: give -E")

    def _open(self, document: ArchDocument, own: Mapping[str, object]) -> None:
        from nastool.core import registry
        from nastool.core.registry import misfits
        from nastool.engine.config import said
        from nastool.engine.workers import EvaluatorSpec, InlinePool, ProcessPool
        from nastool.nets import devices
        from nastool.tasks.images.data import notes

        self.close()
        ref = document.space.ref
        if reasons := misfits(None, type(document.space), registry.load("evaluator", self.evaluator)):
            raise InputError("; ".join(reasons))
        spec = EvaluatorSpec(ref, self.evaluator, own, self.workdir, self.seeds[0])
        evaluator = spec.build()
        if evaluator.shares_weights and len(self.seeds) > 1:
            raise InputError(
                f"--seeds: evaluator {self.evaluator} scores with one set of shared weights, so all seeds would give "
                "the same; give one"
            )
        self._said = {"evaluator": said(self.evaluator, own)}
        if (scale := common.scale_of(evaluator)) is not None:
            self._said["scale"] = scale
        if evaluator.inline:
            self._pool = InlinePool(evaluator)
        else:
            workers = min(self.workers, evaluator.max_workers or self.workers)
            device = str(own.get("device") or "auto")
            slots = devices.slots(workers, device, None, common.say, evaluator.max_workers)
            self._pool = ProcessPool(spec, slots, timeout=self.timeout, say=common.say)
        facts = self._pool.open()
        self._said |= common.said_of_data(facts)
        self._notes = list(notes(facts))

    def _collect(self, seconds: float = 0.25) -> Iterator[dict[str, Any]]:
        from nastool.engine.workers import Finished, again

        assert self._pool is not None
        for event in self._pool.wait(seconds):
            if isinstance(event, Finished):
                if event.mend:
                    raise InputError(event.error or "no result")
                if (next_try := again(event)) is not None:
                    self._pool.submit(next_try)
                    continue
                if not self.keeps_weights and event.evaluation is not None and event.evaluation.checkpoint:
                    (self.workdir / event.evaluation.checkpoint).unlink(missing_ok=True)
                number = event.job.trial_id
                line = next(line for line in self._waiting if 0 <= number - line.first_job < len(self.seeds))
                line.results[event.job.seed] = event
                if event.error:
                    common.say(f"architecture {line.document.arch.key}, seed {event.job.seed}: {event.error}")
        while self._waiting and len(self._waiting[0].results) == len(self.seeds):
            yield self._output(self._waiting.popleft())

    def _drain(self) -> Iterator[dict[str, Any]]:
        while self._waiting:
            yield from self._collect()

    def _output(self, line: _Line) -> dict[str, Any]:
        from nastool.nets import checkpoints

        runs: list[dict[str, Any]] = []
        errors: list[str] = []
        for seed in self.seeds:
            result = line.results[seed]
            if result.evaluation is None:
                errors.append(f"seed {seed}: {result.error}")
                runs.append({"seed": seed, "error": result.error})
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
        more |= {"metrics": {}, **results.of_seeds(runs)}
        return replace(line.document, extra=kept).to_json(more)
