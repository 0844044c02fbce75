"""`nastool compare`."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nastool.cli import common
from nastool.core import files
from nastool.core.errors import InputError
from nastool.core.wording import visible

if TYPE_CHECKING:
    from nastool.analysis.blocks import Block
    from nastool.analysis.comparison.compare import Comparison

SUFFIXES = {".txt": "text", ".md": "md", ".json": "json", ".html": "html", ".htm": "html"}


@click.command("compare", cls=common.Command)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option(
    "--to",
    type=click.Choice(["text", "md", "json", "html"]),
    help="Form; by default as the file is named, else text on a terminal and one JSON line elsewhere.",
)
@click.option("-o", "--out", metavar="FILE", help="Write it there, not to stdout.")
@click.option(
    "--over",
    multiple=True,
    type=click.Choice(["trials", "seconds", "flops"]),
    help="Compare at equal cost in this sense only: seconds and FLOPs are those of the evaluations. All by default.",
)
@click.option(
    "--at", metavar="N,N,...", help="At which costs, with one --over; by default quarters of what all runs have."
)
@click.option("--anyway", is_flag=True, help="Compare runs on different spaces, evaluators or data, with a warning.")
@click.option(
    "--baselines/--no-baselines", default=True, help="Take in the random search that `search --with-baseline` ran."
)
@common.force_option
@click.pass_context
def command(ctx: click.Context, /, runs: tuple[str, ...], **given: Any) -> None:
    """Compare runs: what found more at equal cost, and how surely.

    Runs that are equal but for the seed are one method. Each has the mean of the best objective so far with 95%
    intervals, and its held-out test accuracy beside it; each pair a difference with interval, test, effect size and
    a verdict in one sentence; three methods or more also mean ranks. Runs may still be searched meanwhile.

    Folders that `nastool ensemble` has written are set side by side, with the best single network of each pool, and
    where the same examples judged them, differences are tested by these.

    \b
    Examples:
      for seed in 0 1 2 3 4; do nastool search --seed $seed --with-baseline --out runs/evo-$seed; done
      nastool compare runs/evo-*
      nastool compare runs/* --over trials --at 50,100,200 -o comparison.html
    """
    from nastool.analysis.bench.view import numbers
    from nastool.analysis.comparison.compare import compare
    from nastool.analysis.comparison.gather import gather
    from nastool.core import archfile

    over = list(dict.fromkeys(given["over"]))
    at = numbers(given["at"], "--at") if given["at"] is not None else ()
    if at and len(over) > 1:
        raise InputError("--at goes with one --over: say which")
    out = None if given["out"] is None else files.target(given["out"], "comparison.html", given["force"])
    form = given["to"] or (SUFFIXES.get(out.suffix.lower(), "text") if out else None)
    form = form or ("json" if common.as_json(None) else "text")
    color = out is None and sys.stdout.isatty()
    ensembles = {run: said for run in runs if (said := archfile.ensemble_in(Path(run) / "best.json")) is not None}
    if ensembles:
        _check(ensembles, runs, given)
        text = _ensembles(ensembles, form, color)
    else:
        gathered = gather(runs, anyway=given["anyway"], baselines=given["baselines"])
        text = _runs(compare(gathered, over or (["trials"] if at else []), at), form, color)
    if out is None:
        sys.stdout.write(text)
        return
    files.write_atomic(out, text)
    common.say(f"written to {out}")


def _check(ensembles: Collection[str], runs: Sequence[str], given: Mapping[str, Any]) -> None:
    """InputError: something of it goes with runs alone."""
    if others := [run for run in runs if run not in ensembles]:
        raise InputError(
            f"{others[0]} is no ensemble: compare ensembles with each other (each has the best single network of its "
            "pool beside it), or runs"
        )
    if given["over"] or given["at"]:
        raise InputError("--over and --at are for runs: ensembles have no course")


def _ensembles(found: Mapping[str, Mapping[str, Any]], form: str, color: bool) -> str:
    from nastool.analysis import ensembles, pages

    if form == "json":
        return _json(ensembles.document(found))
    shown = list(ensembles.compared(found))
    if form == "html":
        return pages.render("comparison.html", title="ensembles", content=shown, version=None)
    return _words(shown, form, color)


def _runs(found: Comparison, form: str, color: bool) -> str:
    from nastool.analysis.comparison import render

    if form == "json":
        return _json(render.document(found))
    return render.html(found) if form == "html" else _words(render.blocks(found), form, color)


def _json(document: Mapping[str, Any]) -> str:
    from nastool.core import archfile

    return visible(archfile.dumps(document)) + "\n"


def _words(shown: Iterable[Block], form: str, color: bool) -> str:
    from nastool.analysis import blocks

    return blocks.text(shown, None if color else 100, color) if form == "text" else visible(blocks.markdown(shown))
