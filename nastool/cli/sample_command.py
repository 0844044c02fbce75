"""`nastool sample`."""

from __future__ import annotations

from typing import Any

import click

from nastool.cli import common, generated
from nastool.core import defaults


@click.command("sample", cls=common.Command)
@click.option("--space", default=defaults.SPACE, metavar="NAME", help="Search space (`nastool list spaces`).")
@click.option("-P", "--space-options", multiple=True, metavar="KEY=VALUE", help="Option of the space; repeat it.")
@click.option("-n", "--number", type=click.IntRange(min=1), default=1, help="How many.")
@click.option("--seed", type=common.SEED, default=0, help="Seed.")
@click.option(
    "--dedup/--no-dedup",
    default=True,
    help="Draw again what is equivalent to an earlier one, as searches do, or draw each independently.",
)
@click.option(
    "--to",
    type=click.Choice(["json", "string"]),
    default="json",
    help="arch.json lines, or the space's own form.",
)
@click.pass_context
def command(ctx: click.Context, /, number: int, seed: int, dedup: bool, to: str, **given: Any) -> None:
    """Print architectures drawn uniformly from a space.

    \b
    Example:
      nastool sample --space nasbench201 -n 8 --seed 0 | nastool eval --epochs 2
    """
    import sys

    import numpy as np

    from nastool.core import archfile, registry
    from nastool.core.errors import InputError
    from nastool.core.values import SpaceRef

    own = {name: str(value) for name, value in generated.plugin_options(ctx, "space_options").items()}
    space = registry.make_space(SpaceRef.of(given["space"], own))
    rng = np.random.default_rng(seed)
    seen: set[str] = set()
    for done in range(number):
        arch = space.sample_new(rng, seen, space.canonical)
        if arch is None:
            remedy = f"give -n {done} or --no-dedup"
            raise InputError(f"space {space.name}: only {done} architectures were found that differ: {remedy}")
        if dedup:
            seen.add(space.canonical(arch))
        line = archfile.dumps(archfile.to_json(space, arch)) if to == "json" else archfile.to_string(space, arch)
        if line is None:
            raise InputError(f"space {space.name} has no string form: use --to json")
        sys.stdout.write(line + "\n")
