"""`nastool retrain`."""

from __future__ import annotations

from typing import Any

import click

from nastool.cli import common, configfile


@click.command("retrain", cls=common.Command)
@click.argument("source", metavar="RUN|ARCH|-", default="-")
@common.training_options
@common.trial_option
@click.option("--space", metavar="NAME", help="Space of an architecture in its own string form.")
@click.option("--seeds", default="0,1,2", metavar="N,...", help="Train once with each of these seeds.")
@click.option("--validation", is_flag=True, help="Keep the validation images out of the training, and measure on them.")
@click.option("--workers", type=click.IntRange(min=1), default=1, help="Trainings at a time; GPUs are dealt out.")
@click.option("-o", "--out", metavar="DIR", help="Folder; by default RUN/retrained, or one under runs/.")
@click.option(
    "--force",
    is_flag=True,
    help="Train although the data are not those of the run any more, and in place of other trainings in the folder.",
)
@click.option("--report/--no-report", default=True, help="At the end, write report.html into the folder.")
@common.result_option
@configfile.option
@click.pass_context
def command(ctx: click.Context, /, source: str, **given: Any) -> int:
    """Train what was found for use: all training images, the final recipe, several seeds, one look at the test set.

    SOURCE is a run folder (its best architecture), an arch.json file, or - for stdin (the default). The data are those
    of the run; the recipe is the one that the search's recipe names for the end, or the search's own at full length.
    Validation images are trained on, too, unless --validation is given.

    The network that counts is the first seed's: it is chosen before any is tested, once each. The result has its
    metrics, and the mean and standard deviation over the seeds. The same command continues an interrupted one; more
    --seeds extend it.

    \b
    Examples:
      nastool retrain runs/a
      nastool retrain runs/a --recipe nasbench201 --scale channels=32 --seeds 0,1,2,3,4 --workers 4
      nastool retrain zoo:darts-v2 --data cifar10 --data-dir ~/data --recipe enas-micro-cifar10-final
    """
    from nastool import api
    from nastool.cli.listener import Listener, say_retrain_ended
    from nastool.engine import sources

    json_flag = given.pop("json_flag")
    for name in common.EVALUATOR_FLAGS:
        del given[name]
    given["evaluator_options"] = common.layered(ctx, "evaluator_options", common.EVALUATOR_FLAGS)
    found = sources.only_architecture(source, given["space"], common.given()) if source == "-" else source
    api.retrain(found, **given, on_event=Listener(say_retrain_ended, json_flag))
    return 0
