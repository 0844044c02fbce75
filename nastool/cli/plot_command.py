"""`nastool plot`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nastool.cli import common
from nastool.cli.common import say
from nastool.cli.report_command import folder
from nastool.core import files
from nastool.core.errors import InputError, short, why

if TYPE_CHECKING:
    from nastool.analysis.figures.base import Drawn
    from nastool.engine.study import Study

FORMATS = ("png", "svg", "pdf")


@click.command("plot", cls=common.Command)
@click.argument("runs", nargs=-1, metavar="RUN...")
@click.option(
    "-f", "--figure", "names", multiple=True, metavar="NAME", help="Which figure; all by default. Repeatable."
)
@click.option("--to", "form", type=click.Choice(FORMATS), help="Format; png, or what FILE ends with.")
@click.option("-o", "--out", metavar="DIR|FILE", help="Where; by default RUN/figures, of several runs figures here.")
@common.force_option
@click.option("--list", "listing", is_flag=True, help="Name the figures.")
@common.json_option
def command(
    runs: tuple[str, ...],
    names: tuple[str, ...],
    form: str | None,
    out: str | None,
    force: bool,
    listing: bool,
    json_flag: bool | None,
) -> None:
    """Write the figures of a report as files.

    Curves of the best so far show several runs in one figure, the mean over seeds where runs differ in nothing else;
    all other figures are drawn of each run. Prints a line for each file. A figure that a run has nothing for is left
    out.

    \b
    Examples:
      nastool plot runs/a
      nastool plot runs/a --figure genealogy -o genealogy.pdf
      nastool plot runs/a runs/b -f best-over-trials --to svg
    """
    from nastool.analysis.figures import kinds, output

    wanted = kinds.pick(names)
    if listing:
        for kind in wanted:
            if common.as_json(json_flag):
                common.emit({"figure": kind.name, "title": kind.title, "several": kind.shared})
            else:
                common.show(f"{kind.name:<18} {kind.title}")
        return
    if not runs:
        raise InputError("nastool plot needs a run: give its folder (--list names the figures)")
    from nastool.engine.study import Study

    studies = [Study.read(folder(run)) for run in runs]
    target, single = _target(studies, out, force)
    suffix = form or (target.suffix[1:] if single else "png")
    if suffix not in FORMATS or (single and target.suffix not in ("", f".{suffix}")):
        raise InputError(f"--out {short(target)}: its name must end with {' or '.join('.' + f for f in FORMATS)}")
    found: list[tuple[Study | None, Drawn]] = [pair for kind in wanted for pair in kinds.draw(kind, studies)]
    if not found:
        asked = f" for {', '.join(names)}" if names else " yet"
        raise InputError(f"{', '.join(short(run) for run in runs)}: there is nothing to draw{asked}")
    if single and len(found) > 1:
        shown = ", ".join(dict.fromkeys(drawn.name for _, drawn in found))
        raise InputError(
            f"--out {short(target)} is one file, and there are {len(found)} figures ({shown}): give a folder"
        )
    if not single:
        try:
            target.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"--out {short(target)}: {why(error)}") from None
    paths = _paths(found, studies, target, single, suffix)
    for path in paths:  # all of them, before any is written
        files.target(str(path), "figure.pdf", force or (out is None and files.is_marked(path)))
    for path, (study, drawn) in zip(paths, found, strict=True):
        output.save(drawn, path)
        if common.as_json(json_flag):
            run = {} if study is None else {"run": str(study.path)}
            common.emit({"figure": drawn.name, "title": drawn.title, **run, "file": str(path)})
        else:
            common.show(path)
    missing = [kind.name for kind in wanted if not any(drawn.name.startswith(kind.name) for _, drawn in found)]
    if names and missing:
        say(f"note: nothing to draw for {', '.join(missing)}")


def _target(studies: Sequence[Study], out: str | None, force: bool) -> tuple[Path, bool]:
    """Target to write to, and whether it is one file."""
    if out is None:
        return (studies[0].path / "figures" if len(studies) == 1 else Path("figures")), False
    target = Path(out)
    try:
        single = bool(target.suffix) and not target.is_dir() and not out.endswith("/")
    except (OSError, ValueError) as error:
        raise InputError(f"--out {short(out)}: {why(error)}") from None
    return (files.target(out, "figure.pdf", force) if single else target), single


def _paths(
    found: Sequence[tuple[Study | None, Drawn]], studies: Sequence[Study], target: Path, single: bool, suffix: str
) -> list[Path]:
    """A file for each; of several runs each has its number and its name in those of its own figures."""
    if single:
        return [target]
    paths = []
    for study, drawn in found:
        name = drawn.name
        if study is not None and len(studies) > 1:
            number = next(i for i, other in enumerate(studies, 1) if other is study)
            name += f"-{number}-" + re.sub(r"[^A-Za-z0-9._]+", "-", study.name)[:60].strip("-.")
        paths.append(target / f"{name}.{suffix}")
    return paths
