"""`nastool eval`."""

from __future__ import annotations

from contextlib import closing
from typing import Any

import click

from nastool.cli import common, configfile


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
    from nastool.cli.listener import say_notes
    from nastool.core import registry
    from nastool.core.values import SpaceRef
    from nastool.engine import evaluation, sources

    space = registry.make_space(SpaceRef(given["space"])) if given["space"] else None
    lines = evaluation.evaluating(
        sources.read_architectures(given["architectures"] or ["-"], space, common.given()),
        evaluator=given["evaluator"],
        evaluator_options=common.layered(ctx, "evaluator_options", (*common.EVALUATOR_FLAGS, "from_checkpoint")),
        seeds=sources.seeds(given["seeds"]),
        workers=given["workers"],
        save=given["save"],
        force=given["force"],
        trial_timeout=given["trial_timeout"],
        on_event=say_notes,
    )
    show = common.emit if common.as_json(given["json_flag"]) else listing.Growing().add
    failures = 0
    with closing(lines):
        for line in lines:
            show(line)
            failures += "error" in line
    return 1 if failures else 0
