"""`nastool retrain`."""

from __future__ import annotations

from typing import Any

import click

from nastool.cli import common, configfile, generated
from nastool.engine.command_options import RetrainOptions


@click.command("retrain", cls=common.Command)
@click.argument("source", metavar="RUN|ARCH|-", default="-")
@generated.options(RetrainOptions)
@common.result_option
@configfile.option
@click.pass_context
def command(ctx: click.Context, /, source: str, **given: Any) -> int:
    """Train what was found for use, with several seeds.

    That is on all training images, by the final recipe, with one look at the test set. What was found is named by a
    run folder (its best architecture), an arch.json file, or - for stdin (the default). The data are those of the
    run; the recipe is the one that the search's recipe names for the end, or the search's own at full length.
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
    given |= generated.layered(ctx, RetrainOptions)
    found = sources.only_architecture(source, given["space"], common.given()) if source == "-" else source
    api.retrain(found, **given, on_event=Listener(say_retrain_ended, json_flag))
    return 0
