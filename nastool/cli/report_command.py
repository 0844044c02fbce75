"""`nastool report`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click

from nastool.cli import common
from nastool.cli.common import say
from nastool.core import files
from nastool.core.errors import InputError, why


@click.command("report", cls=common.Command)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("-o", "--out", metavar="FILE", help="Where; by default RUN/report.html, of several report.html here.")
@common.force_option
@click.option("--live", is_flag=True, help="Serve the page on this machine instead, refreshed while searches run.")
@click.option("--port", type=click.IntRange(0, 65_535), help="Port for --live; by default any that is free.")
def command(runs: tuple[str, ...], out: str | None, force: bool, live: bool, port: int | None) -> int:
    """Write a run as one HTML file, which needs no network.

    It has curves, architectures, all trials, and what to do next. Several runs make one page, with their curves
    side by side and a checklist for comparing them. A run need not have finished. Of what `nastool ensemble` has
    written it has members, reliability and diversity. Prints the name of the file, or with --live the address.

    \b
    Examples:
      nastool report runs/a
      nastool report runs/a runs/b runs/random -o comparison.html
      nastool report runs/a --live
    """
    if live and out is not None:
        raise InputError("--live serves the page, --out writes it: keep one")
    if port is not None and not live:
        raise InputError("--port goes with --live")
    folders = [folder(run) for run in runs]
    if live:
        return _serve(folders, port or 0)
    from nastool.analysis import report
    from nastool.core import archfile
    from nastool.engine.study import Study

    target = _target(folders, out, force)
    if len(folders) == 1 and (ensemble := archfile.ensemble_in(folders[0] / "best.json")) is not None:
        from nastool.analysis import ensembles

        files.write_atomic(target, ensembles.page(ensemble))
        common.show(target)
        return 0
    report.write([Study.read(path) for path in folders], target)
    common.show(target)
    return 0


def folder(run: str) -> Path:
    """The run's folder, or that of its run.db."""
    path = Path(run)
    return path.parent if path.name == "run.db" else path


def _target(folders: Sequence[Path], out: str | None, force: bool) -> Path:
    """InputError: nothing can be written there, or only by replacing what is no earlier report of the run's."""
    if out is None and len(folders) == 1:
        path = folders[0] / "report.html"
        return files.target(str(path), "report.html", files.is_marked(path) or force) if path.is_file() else path
    return files.target("report.html" if out is None else out, "report.html", force)


def _serve(folders: Sequence[Path], port: int) -> int:
    """Serve the page until Ctrl-C."""
    from nastool.analysis.report.server import Pages, Server

    pages = Pages(folders)
    try:
        server = Server(pages, port)
    except OSError as error:
        raise InputError(f"--port {port}: {why(error)}; give another, or none") from None
    with server:
        say("this page follows the runs; Ctrl-C ends it")
        common.show(server.url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("\nno longer served")
    return 0
