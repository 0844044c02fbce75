"""`nastool ensemble`."""

from __future__ import annotations

from typing import Any

import click

from nastool.cli import common


@click.command("ensemble", cls=common.Command)
@click.argument("runs", nargs=-1, required=True, metavar="RUN...")
@click.option("-m", "--size", type=click.IntRange(min=1), default=5, help="Number of members, at most.")
@click.option(
    "--selector",
    default="forward",
    metavar="NAME[:KEY=VALUE,...]",
    help="Who chooses: forward, beam, quick-greedy, top, stacking, diversity, prs, pap or pie, with its options.",
)
@click.option(
    "--temperature",
    type=click.Choice(["none", "before", "after"]),
    default="none",
    help="Calibrate each network before the mean, or the mean afterwards.",
)
@click.option("--judge", type=float, default=0.5, help="Share of the validation examples that judge and do not choose.")
@click.option("--seed", type=common.SEED, default=0, help="Of that division, and of selectors that draw.")
@click.option("--test", is_flag=True, help="Measure test data, too.")
@click.option("--attack", metavar="NAME[:KEY=VALUE,...]", help="Test on attacked images, too, as eval does.")
@click.option("--shift", metavar="NAME,...|all", help="Test on shifted images, too, as eval does.")
@click.option(
    "--choose-shift",
    metavar="NAME,...|all",
    help="Choose by validation images as they are and, as many, shifted at the highest severity, kinds in turn.",
)
@click.option("-o", "--out", metavar="DIR", help="Where; by default RUN/ensemble, of the first run.")
@click.option("--force", is_flag=True, help="Replace an ensemble that is there.")
@click.option("--report/--no-report", default=True, help="Write report.html, too.")
@common.result_option
def command(runs: tuple[str, ...], json_flag: bool | None, **given: Any) -> None:
    """Average trained networks that do well together.

    RUN is a run folder whose evaluator trains, or one that `nastool eval --save` has written: all networks there that
    have weights (a search keeps those of its best trials: --keep) are the pool. One half of the validation examples
    chooses, the other half judges; printed are figures of the latter alone.

    DIR then holds best.json with the members, their weights, and all figures; best.safetensors, model.py and
    report.html. It can be given to predict, export, report and compare like a run.

    \b
    Selectors:
      forward[:replacement=true]   the best, then whoever lowers the NLL of the mean most
      beam[:width=5]               the same from several sets at a time
      quick-greedy                 everybody once, the best first, who lowers it
      top                          those that are best alone
      stacking                     the convex combination with the least NLL
      diversity[:strength=1]       forward, with a bonus for differing
      prs, pap, pie                SAEP's pruning: at random, by accuracy, by entropy

    \b
    Examples:
      nastool ensemble runs/a -m 3
      nastool ensemble runs/a runs/b --selector beam:width=10 --temperature after --test --out runs/ab
      nastool predict runs/a/ensemble cat.jpg
    """
    from nastool import api
    from nastool.analysis import blocks, ensembles
    from nastool.cli.listener import say_notes

    found = api.ensemble(runs, **given, on_event=say_notes)
    common.say(blocks.text(ensembles.blocks(found)).rstrip())
    if common.as_json(json_flag):
        common.emit(found)
