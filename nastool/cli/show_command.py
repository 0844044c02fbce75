"""`nastool show`."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from nastool.cli import common
from nastool.core import files
from nastool.core.errors import InputError
from nastool.core.wording import FAULTS

if TYPE_CHECKING:
    from nastool.core.archfile import ArchDocument
    from nastool.core.space import SearchSpace
    from nastool.core.task import Task
    from nastool.core.values import Arch

FORMS = ("svg", "png", "dot", "text", "decisions")


@click.command("show", cls=common.Command)
@click.argument("source", metavar="ARCH|RUN|recipe:NAME|-")
@common.trial_option
@click.option("--space", metavar="NAME", help="Space of an architecture in its own string form.")
@click.option(
    "--to",
    "form",
    type=click.Choice(FORMS),
    help="A picture, a graph for Graphviz, a drawing in characters, a list of all decisions.",
)
@click.option("-o", "--out", metavar="FILE", help="Where to, with --to; by default stdout.")
@common.force_option
@common.network_options("Also count parameters and FLOPs for examples of this size; of texts the vocabulary.")
@common.json_option
@click.pass_context
def command(ctx: click.Context, /, source: str, json_flag: bool | None, **given: Any) -> None:
    """Show an architecture, or a training recipe to copy.

    On a terminal it is drawn in characters, with what is known of it. A drawing shows a cell as a graph, a network
    layer by layer. With --input it also has the shapes, parameters and FLOPs of the layers, and the network that is
    made of a cell. --to decisions lists the choices one by one. Of a trial that failed it says why, with the end of its
    worker's log.

    \b
    Examples:
      nastool show best.json --input 3x32x32 --classes 10
      nastool show runs/demo --to svg -o best.svg
      nastool show runs/demo --trial 7
      nastool show zoo:darts-v2 --input 3x32x32
      nastool show zoo:enas-lm --input 10000
      nastool show zoo:darts-v2 --to decisions
      nastool show 02012100 --space nasbench-macro --input 3x32x32
      nastool show recipe:nasbench201 > mine.yaml
    """
    if given["form"] is None and (given["out"] or given["force"]):
        raise InputError(f"-o and --force are for drawings: add --to {', '.join(FORMS[:-1])} or {FORMS[-1]}")
    if source.startswith("recipe:"):
        if given["form"] is not None:
            raise InputError("a recipe cannot be drawn: leave out --to")
        from nastool.training.recipes import recipe_text

        common.show(recipe_text(source.removeprefix("recipe:")), nl=False)
        return
    from nastool.engine import sources

    trial = sources.picked(source, given["trial"], given["pick"])
    documents = map(_located, sources.read_architectures([source], given["space"], common.given(trial)))
    if given["form"] is not None:
        if json_flag:
            raise InputError("--to gives a drawing and no JSON: leave out one of the two")
        _draw(source, documents, given)
        return
    for number, document in enumerate(documents):
        if common.as_json(json_flag):
            common.emit(document.to_json(_count(document, given) if given["shape"] else {}))
        else:
            drawn = _drawn(document, given)
            common.show(("\n" if number else "") + drawn + _facts(document, drawn), nl=False)


def _draw(source: str, documents: Iterator[ArchDocument], given: dict[str, Any]) -> None:
    """Write the drawing to the file or stdout; several only as text, and to stdout."""
    from nastool import drawing
    from nastool.engine import sources

    form = given["form"]
    out = _out(form, given)
    if form in ("text", "decisions") and out is None:
        for number, document in enumerate(documents):
            shown = _drawn(document, given) if form == "text" else _decisions(document)
            common.show(("\n" if number else "") + shown, nl=False)
        return
    first = sources.only(source, documents)
    content: str | bytes = _decisions(first) if form == "decisions" else getattr(drawing, form)(*_what(first, given))
    if out is None:
        click.echo(content.encode() if isinstance(content, str) else content, nl=False)
        return
    files.write_bytes(out, content.encode() if isinstance(content, str) else content)
    common.say(f"wrote {out}")


def _drawn(document: ArchDocument, given: dict[str, object]) -> str:
    """The drawing in characters that stdout takes, as wide as the terminal."""
    from nastool import drawing

    encoding, ascii = _unicode_or_ascii()
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() or "COLUMNS" in os.environ else 80
    shown = drawing.text(*_what(document, given), width=width, ascii=ascii)
    return shown.encode(encoding, "replace").decode(encoding)


def _out(form: str, given: dict[str, Any]) -> Path | None:
    """The file to write; None for stdout."""
    if given["out"] is None:
        if given["force"]:
            raise InputError("--force is for a file: add -o FILE")
        if form == "png" and sys.stdout.isatty():
            raise InputError("a PNG is nothing for a terminal: add -o FILE")
        return None
    example = "best.txt" if form in ("text", "decisions") else f"best.{form}"
    return files.target(given["out"], example, given["force"])


def _what(document: ArchDocument, given: dict[str, Any]) -> tuple[SearchSpace, Arch, Task | None, object]:
    from nastool.engine import sources

    return sources.sized(document, given["shape"], given["classes"], given["scale"])


def _located(document: ArchDocument) -> ArchDocument:
    """The same with its weights as they are to be found from here; where they are not, without, and a note says so."""
    from nastool.deploy import models

    try:
        return models.located(document)
    except InputError as error:
        common.say(f"note: shown without weights: {error}")
        rest = {key: value for key, value in document.extra.items() if key not in ("weights", "weights_digest")}
        return replace(document, extra=rest)


def _unicode_or_ascii() -> tuple[str, bool]:
    """The encoding of stdout, and whether it has no box drawing characters."""
    from nastool.core.diagram import TIMES

    encoding = sys.stdout.encoding or "ascii"
    try:
        ("─│┼●╮╯┬┴←…" + TIMES).encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return encoding, True
    return encoding, False


def _count(document: ArchDocument, given: dict[str, Any]) -> dict[str, Any]:
    """Parameters and FLOPs of the network for a task."""
    from nastool.core import options
    from nastool.engine import sources
    from nastool.nets.costs import NetworkCosts

    task, scale = sources.built_for(document, given["shape"], given["classes"], given["scale"])
    space = document.space
    return {
        "input": given["shape"],
        "classes": given["classes"],
        "scale": {name: getattr(scale, name) for name in options.of(space.Scale)},
        **NetworkCosts(space, task, scale).of(document.arch, ("params", "flops")),
    }


def _decisions(document: ArchDocument) -> str:
    """All decisions, a line each, and what else names the architecture."""
    from nastool.core.archfile import to_string

    space, arch = document.space, document.arch
    width = max(len(decision.name) for decision in space.decisions)
    lines = [f"{space.ref}  {arch.key}"]
    for decision, choice in zip(space.decisions, arch.choices, strict=True):
        lines.append(f"  {decision.name:<{width}}  {decision.options[choice]}")
    own = to_string(space, arch)
    lines += [] if own is None else [f"string     {own}"]
    return "\n".join([*lines, f"canonical  {space.canonical(arch)}"]) + "\n"


def _facts(document: ArchDocument, drawn: str) -> str:
    """What its line says of it beside the architecture, after the drawing; its string, where that was broken there."""
    from nastool.core.archfile import to_string

    own = to_string(document.space, document.arch)
    lines = [] if own is None or own in drawn else [f"string   {own}"]
    metrics = document.extra.get("metrics")
    if isinstance(metrics, dict):
        numbers = {k: v for k, v in metrics.items() if isinstance(v, int | float)}
        lines.append(common.labelled("metrics  ", common.describe_metrics(numbers), gap="  "))
    lines += [f"{key:<7}  {document.extra[key]}" for key in ("run", "trial", "weights") if key in document.extra]
    if isinstance(error := document.extra.get("error"), str):
        kind = FAULTS.get(str(document.extra.get("fault")))
        lines.append(f"failed   {f'{kind}: ' if kind else ''}{error}")
    if isinstance(log := document.extra.get("log"), list):
        lines += ["log", *(f"  {line}" for line in log)]
    return "\n".join(["", *lines, ""]) if lines else ""
