"""`nastool bench`."""

from __future__ import annotations

from typing import Any

import click

from nastool.cli import common, generated
from nastool.core.errors import InputError, short
from nastool.engine.command_options import Measuring

MAX_WORKERS = 1000


@click.command("bench", cls=common.Command)
@click.option(
    "-s",
    "--strategy",
    "strategies",
    multiple=True,
    metavar="NAME[:KEY=VALUE,...]",
    help="A strategy to compare, with its options. Repeat it.",
)
@click.option(
    "--fidelity",
    multiple=True,
    metavar="NAME[:KEY=VALUE,...]",
    help="Run each strategy also with trainings that end early, such as asha, as of `nastool search`. Repeat it.",
)
@click.option(
    "--table",
    "tables",
    multiple=True,
    metavar="SPACE:file=FILE[,KEY=VALUE,...]",
    help="A tabular benchmark: its space, and options of the evaluator `table` (and the space). Repeat it.",
)
@click.option(
    "--evaluator",
    metavar="NAME",
    help="Whose scores are the labels, such as supernet: a table then only judges what was found.",
)
@generated.options(Measuring, but=("executor",))
@click.option(
    "--seeds",
    metavar="N|LIST",
    help="How many runs of each (seeds 0 to N-1), or which: 0,1,5 or 100-199.  [default: 100; with --evaluator 5]",
)
@click.option(
    "-n",
    "--trials",
    type=click.IntRange(min=1),
    help="Queries a run, all charged; with --evaluator the scores that a strategy without a policy asks for.  "
    "[default: 100, or without limit with --sim-seconds]",
)
@click.option(
    "--sample",
    type=click.IntRange(min=2),
    help="With --evaluator: random architectures whose scores are compared with the table.  [default: 200]",
)
@click.option(
    "--top",
    type=click.IntRange(min=2),
    help="The same, of the table's best tenth.  [default: 100]",
)
@click.option(
    "--sim-seconds",
    type=common.Seconds(),
    metavar="SECONDS",
    help="Training time a run may use, as the table has it.",
)
@click.option("--at", metavar="N,...", help="Read results after so many queries.  [default: a quarter, half, all]")
@click.option("--at-seconds", metavar="SECONDS,...", help="Read results after so many simulated seconds.")
@click.option(
    "--target-regret",
    type=click.FloatRange(min=0),
    metavar="POINTS",
    help="Regret that counts as having reached the target.  [default: 0, the optimum]",
)
@click.option("--workers", type=click.IntRange(min=1), default=1, help="Runs at a time, each on one thread.")
@click.option("-o", "--out", metavar="DIR", default="runs/bench", help="Folder that keeps runs and report.")
@click.option("--format", type=click.Choice(["csv", "jsonl"]), default="csv", help="Format of DIR/results.")
@click.option("--force", is_flag=True, help="Make all these runs again, such as after changing a strategy.")
@click.option("--dry-run", is_flag=True, help="Show what would be run, and what is there already.")
@common.json_option
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> int:
    """Compare strategies on tabular benchmarks.

    Every strategy runs on every table with every seed. Results are the regret of the architecture that has the best
    label so far, and of the one that a model recommends by all labels so far: how many accuracy points (of test
    accuracy, in %) it is truly worse than the table's best one. Every query is charged. The folder keeps all runs: the
    same command continues, more --seeds and --trials extend, further strategies and tables are added; without any, the
    report is written anew.

    With --evaluator supernet each run is a search with shared weights. The table says how its scores rank architectures
    and what was found is worth, and nothing to the search.

    \b
    Examples:
      nastool bench -s random -s bo --table nasbench201:file=t.npz,dataset=cifar10
      nastool bench -s evolution:population=50 --table nasbench-macro:file=m.json
      nastool bench --out runs/bench --at 20,40
      nastool bench -s enas --evaluator supernet --data npz:c.npz --table nasbench201:file=t.npz,dataset=cifar10
    """
    from nastool.cli import bench_run

    if given["workers"] > MAX_WORKERS:
        raise InputError(f"need --workers <= {MAX_WORKERS:,}, got {short(given['workers'])}")
    return bench_run.run(given | generated.layered(ctx, Measuring))
