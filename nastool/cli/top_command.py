"""`nastool top`."""

from __future__ import annotations

import shlex
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nastool.cli import common
from nastool.core.errors import InputError
from nastool.core.wording import trials

if TYPE_CHECKING:
    from nastool.core.values import Objective
    from nastool.engine.store import Store


@click.command("top", cls=common.Command)
@click.argument("source", metavar="RUN|FILE|-")
@click.option("-k", "--number", type=click.IntRange(min=1), help="How many; by default 1.")
@click.option(
    "--objective",
    metavar="METRIC[:min|max]",
    help="Order by this; by default what the run optimised, or val_acc.",
)
@click.option(
    "--by",
    type=click.Choice(["label", "model"]),
    default="label",
    show_default=True,
    help="Order by what was measured, or by what a model expects without the measurements' noise.",
)
@click.option("--front", is_flag=True, help="Those that no other beats in all objectives of the run.")
@common.json_option
@click.pass_context
def command(
    ctx: click.Context,
    /,
    source: str,
    number: int | None,
    objective: str | None,
    by: str,
    front: bool,
    json_flag: bool | None,
) -> None:
    """Print the best architectures of a run or of JSON lines.

    Equal ones are ordered by a run's further objectives, then by validation loss and the number of parameters, and the
    earlier comes first. A run with several objectives has a front, of which --front prints all, by the first objective.
    After a final stage its architectures come first, as it has ordered them.
    After a search with shared weights these are its scores; what was trained from scratch at its end is a run of its
    own, RUN/retrain-..., which this command takes, too.

    Measurements have noise, so that the best of many was also lucky. --by model fits a Gaussian process to all results
    of a run and their noise, and orders by what it expects of each architecture; lines have it as "believed".

    \b
    Examples:
      nastool top runs/a -k 3
      nastool top runs/a --front
      nastool top runs/a --by model -k 3
      nastool sample -n 8 | nastool eval | nastool top - -k 2 --objective val_loss
    """
    from nastool.core.values import Objective

    try:
        wanted = None if objective is None else Objective.parse(objective)
    except ValueError as error:
        raise InputError(str(error)) from None
    path = Path(source)
    if front and (number is not None or objective is not None):
        raise InputError("--front prints all of a front, by the first objective: leave out -k and --objective")
    if by == "model" and (front or objective is not None):
        raise InputError("--by model orders by the run's own objective: leave out --objective and --front")
    if source != "-" and (path.is_dir() or path.name == "run.db"):
        wanted, lines = _of_run(path if path.is_dir() else path.parent, None if front else number or 1, wanted, by)
    elif by == "model":
        raise InputError(f"--by model: {source} is no run folder, whose results the model is fitted to")
    elif front:
        raise InputError(f"--front: {source} is no run folder, and lines do not say what was optimised")
    else:
        wanted = wanted or Objective.parse("val_acc")
        lines = _of_lines(source, number or 1, wanted)
    if common.as_json(json_flag):
        for line in lines:
            common.emit(line)
        return
    from nastool.cli import listing

    where = "stdin" if source == "-" else source
    these = f"the front, {trials(len(lines))}, " if front else ""
    by = f"what a model expects of {wanted.metric}" if by == "model" else wanted.metric
    first = "those of the final stage by their means, others " if any("final_stage" in line for line in lines) else ""
    common.show(f"{where}: {these}{first}by {by}, {'highest' if wanted.goal == 'max' else 'lowest'} first")
    for row in listing.ranking(lines, wanted):
        common.show(row)


def _of_run(
    folder: Path, number: int | None, objective: Objective | None, by: str
) -> tuple[Objective, list[dict[str, Any]]]:
    """What they are ordered by, and the lines. number: None: the front."""
    from nastool.core import registry
    from nastool.engine import ranking
    from nastool.engine.final_stage import FinalStage
    from nastool.engine.ranking import best_trials
    from nastool.engine.store import Store
    from nastool.engine.study import line_of

    finalists: dict[int, dict[str, object]] = {}
    with Store.read(folder / "run.db") as store:
        space = registry.make_space(store.space)
        own = store.objectives[0]
        if by == "model":
            found = ranking.recommended(space, list(store.trials()))
            if not found:
                needs = "one objective, and 10 results or more that differ and were measured alike"
                raise InputError(f"--by model: there is nothing to say of {folder}: it needs {needs}")
            return own, [
                {**line_of(folder, store, space, each.trial), "believed": ranking.believed(each, own)}
                for each in found[:number]
            ]
        if number is None:
            trials = ranking.front(best_trials(store, space, sum(store.count().values())))
        elif objective is None or objective == own:
            trials = best_trials(store, space, number)
            stage = FinalStage.read(space, store)
            finalists = {} if stage is None else {each.trial.id: each.to_json(own) for each in stage.order}
        else:
            scored = []
            for trial in store.trials():
                if trial.state == "stopped":
                    continue
                try:
                    loss = objective.loss(trial.evaluation.all_metrics if trial.evaluation else {})
                except ValueError:
                    continue
                scored.append(replace(trial, losses=(loss,)))
            if not scored:
                advice = _elsewhere(folder, store, objective.metric)
                raise InputError(f"{folder} has no finished trial with metric {objective.metric!r}{advice}")
            trials = sorted(scored, key=lambda trial: trial.rank)[:number]
        if not trials:
            raise InputError(f"{folder} has no finished trial yet")
        objective = objective or own
        if objective.metric.startswith("shared_"):
            inner = _retrained(folder, store)
            leads = f"top {inner} -k 9" if inner is not None else f"top {shlex.quote(str(folder))} -k 3 | nastool eval"
            common.say(f"note: scores with shared weights; trained from scratch: `nastool {leads}`")
        more = {number: {"final_stage": said} for number, said in finalists.items()}
        return objective, [{**line_of(folder, store, space, t), **more.get(t.id, {})} for t in trials]


def _retrained(folder: Path, store: Store) -> str | None:
    """The folder, as typed in a shell, of what was trained from scratch at the end; None: nothing was."""
    from nastool.engine.study import retrained_in

    inner = retrained_in(folder, store.get("final"))
    return None if inner is None else shlex.quote(str(inner))


def _elsewhere(folder: Path, store: Store, metric: str) -> str:
    """Where there may be such a metric."""
    outside = not (folder / "best.json").is_file() and (folder.parent / "best.json").is_file()
    tested, run = metric.startswith("test_"), shlex.quote(str(folder.parent if outside else folder))
    if (inner := _retrained(folder, store)) is not None:
        shared = "its scores are with shared weights, and what was trained from scratch is in"
        if not tested:
            return f": {shared} `nastool top {inner} --objective {metric}`"
        return f": {shared} `nastool top {inner} -k 9`; the best of these is tested: `nastool show {run}`"
    return f": of a run only the best is tested: `nastool show {run}`" if tested else ""


def _of_lines(source: str, number: int, objective: Objective) -> list[dict[str, Any]]:
    from nastool.cli.results import judged_by
    from nastool.core import archfile
    from nastool.core.values import tie_break
    from nastool.deploy import models

    lines: Iterable[Any] = (
        archfile.read_lines(common.stdin(), "stdin") if source == "-" else archfile.read_file(Path(source))
    )
    scored = []
    for document in lines:
        metrics = judged_by(document.extra)
        try:
            loss = objective.loss(metrics)
        except (ValueError, TypeError):
            continue  # a failed evaluation has no such metric
        scored.append(((loss, *tie_break(metrics)), document))
    if not scored:
        raise InputError(f"{source}: no architecture has metric {objective.metric!r}")
    scored.sort(key=lambda pair: pair[0])
    found = []
    for _, document in scored[:number]:
        with suppress(InputError):  # whoever wants its weights will be told
            document = models.located(document)
        found.append(document.to_json())
    return found
