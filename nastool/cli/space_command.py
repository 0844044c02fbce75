"""`nastool space stats`."""

from __future__ import annotations

import sys
from typing import Any

import click

from nastool.cli import common, generated


@click.command("space", cls=common.Command)
@click.argument("what", type=click.Choice(["stats"]), metavar="stats")
@click.argument("space", metavar="SPACE")
@click.option("-P", "--space-options", multiple=True, metavar="KEY=VALUE", help="Option of the space; repeat it.")
@click.option("--limit", "limits", multiple=True, metavar="'METRIC<=VALUE'", help="Which share is within; repeat it.")
@click.option("-n", "--number", type=click.IntRange(1), default=1000, help="Number of architectures that are drawn.")
@click.option("--seed", type=common.SEED, default=0, help="Seed.")
@click.option("--data", metavar="NAME", help="Data set whose shape the networks are for (`nastool list data`).")
@common.network_options("Shape that they are for, where not of --data; of images by default 3x32x32.")
@click.option("--latency/--no-latency", default=True, help="Measure the latency of up to 30 of them.")
@click.option(
    "--latency-threads", type=click.IntRange(1, 1024), default=1, help="CPU threads with which it is measured."
)
@click.option("--device", default="auto", metavar="NAME", help="Where it is measured: auto, cpu, cuda or cuda:N.")
@common.json_option
@click.pass_context
def command(ctx: click.Context, /, what: str, json_flag: bool | None, **given: Any) -> None:
    """Show what a search space holds, and what limits leave of it.

    Its size, its decisions, and how parameters, FLOPs and latency are distributed over architectures drawn uniformly.
    --limit is that of `nastool search`.

    \b
    Examples:
      nastool space stats nasbench201
      nastool space stats cell-cnn --data digits --scale channels=8 --limit 'params<=50k' --limit 'latency_ms<=5'
    """
    from nastool import api
    from nastool.analysis import space_stats

    space_options = generated.plugin_options(ctx, "space_options")
    names = {"number": "samples", "shape": "input"}
    rest = {names.get(name, name): value for name, value in given.items() if name != "space_options"}
    stats = api.space_stats(rest.pop("space"), space_options=space_options, **rest)
    if common.as_json(json_flag):
        common.emit(stats.to_json())
        return
    encoding = sys.stdout.encoding or "ascii"
    bars = space_stats.BARS.encode(encoding, "ignore").decode(encoding) == space_stats.BARS
    for line in stats.lines(bars):
        common.show(line)
