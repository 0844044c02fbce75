"""`nastool eval`."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import click

from nastool.cli import common, configfile, generated
from nastool.engine.command_options import EvaluateOptions


@click.command("eval", cls=common.Command)
@click.argument("architectures", nargs=-1, metavar="[ARCH|RUN|-]...")
@generated.options(EvaluateOptions)
@common.json_option
@configfile.option
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> int:
    """Train and test architectures, or look them up in a table.

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
    from nastool.cli.listener import say_notes
    from nastool.engine import evaluation, sources

    json_flag = given.pop("json_flag")
    options = EvaluateOptions(**given | generated.layered(ctx, EvaluateOptions), on_event=say_notes)
    documents = sources.read_architectures(given["architectures"] or ["-"], options.space, common.given())
    lines = evaluation.evaluating(documents, options)
    show = common.emit if common.as_json(json_flag) else listing.Growing().add
    failures = 0
    with closing(lines):
        for line in lines:
            show(line)
            failures += "error" in line
    return 1 if failures else 0
