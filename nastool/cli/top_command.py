"""`nastool top`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import click

from nastool.cli import common
from nastool.errors import InputError


@click.command("top", cls=common.Command)
@click.argument("source", metavar="RUN|FILE|-")
@click.option("-k", "--number", type=click.IntRange(min=1), default=1, help="How many.")
@click.option(
    "--objective",
    metavar="METRIC[:min|max]",
    help="Order by this; by default what the run optimised, or val_acc.",
)
@click.pass_context
def command(ctx: click.Context, /, source: str, number: int, objective: str | None) -> None:
    """Print the best architectures of a run, or of JSON lines with metrics, best first.

    \b
    Examples:
      nastool top runs/a -k 3
      nastool sample -n 8 | nastool eval | nastool top - -k 2 --objective val_loss
    """
    from nastool.core import Objective

    try:
        wanted = None if objective is None else Objective.parse(objective)
    except ValueError as error:
        raise InputError(str(error)) from None
    path = Path(source)
    if source != "-" and (path.is_dir() or path.name == "run.db"):
        lines: Iterable[dict[str, Any]] = _of_run(path if path.is_dir() else path.parent, number, wanted)
    else:
        lines = _of_lines(source, number, wanted or Objective.parse("val_acc"))
    for line in lines:
        common.emit(line)


def _of_run(folder: Path, number: int, objective: Any) -> Iterator[dict[str, Any]]:
    from nastool import registry
    from nastool.core import Objective
    from nastool.store import Store
    from nastool.study import best_trials

    with Store.read(folder / "run.db") as store:
        space = registry.make_space(store.space)
        more: dict[str, Any] = {"run": str(folder), **(store.get("origin") or {})}
        if objective is None or objective == Objective.parse(store.get("objective")):
            trials = best_trials(store, space, number)
        else:
            scored = []
            for trial in store.trials():
                try:
                    scored.append(
                        (objective.loss(trial.evaluation.all_metrics if trial.evaluation else {}), trial.id, trial)
                    )
                except ValueError:
                    continue
            if not scored:
                raise InputError(f"{folder} has no finished trial with metric {objective.metric!r}")
            trials = [trial for _, _, trial in sorted(scored, key=lambda row: row[:2])[:number]]
        if not trials:
            raise InputError(f"{folder} has no finished trial yet")
        for trial in trials:
            yield common.trial_document(space, trial, more)


def _of_lines(source: str, number: int, objective: Any) -> list[dict[str, Any]]:
    from nastool import archfile

    lines: Iterable[Any] = (
        archfile.read_lines(archfile.bounded(sys.stdin), "stdin") if source == "-" else archfile.read_file(Path(source))
    )
    scored = []
    for document in lines:
        metrics = document.extra.get("metrics")
        try:
            loss = objective.loss(metrics if isinstance(metrics, dict) else {})
        except (ValueError, TypeError):
            continue  # a failed evaluation has no such metric
        scored.append((loss, document))
    if not scored:
        raise InputError(f"{source}: no architecture has metric {objective.metric!r}")
    scored.sort(key=lambda pair: pair[0])
    return [document.to_json() for _, document in scored[:number]]
