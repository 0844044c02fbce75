"""`nastool show`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from nastool.cli import common

if TYPE_CHECKING:
    from nastool.archfile import ArchDocument


@click.command("show", cls=common.Command)
@click.argument("source", metavar="ARCH|RUN|recipe:NAME|-")
@click.option("--space", metavar="NAME", help="Space of an architecture in its own string form.")
@common.network_options("Also count parameters and FLOPs for images of this shape.")
@common.json_option
@click.pass_context
def command(ctx: click.Context, /, source: str, json_flag: bool | None, **given: Any) -> None:
    """Show an architecture, or a training recipe to copy and change.

    \b
    Examples:
      nastool show best.json --input 3x32x32 --classes 10
      nastool show '|nor_conv_3x3~0|+|none~0|skip_connect~1|+|none~0|none~1|skip_connect~2|' --space nasbench201
      nastool show recipe:nasbench201 > mine.yaml
    """
    if source.startswith("recipe:"):
        from nastool.recipes import recipe_text

        click.echo(recipe_text(source.removeprefix("recipe:")), nl=False)
        return
    from nastool import registry
    from nastool.core import SpaceRef

    space = registry.make_space(SpaceRef(given["space"])) if given["space"] else None
    for document in common.read_architectures([source], space):
        facts = _count(document, given) if given["shape"] else {}
        if common.as_json(json_flag):
            common.emit(document.to_json(facts))
        else:
            _text(document, facts)


def _count(document: ArchDocument, given: dict[str, Any]) -> dict[str, Any]:
    """Parameters and FLOPs of the network for a task."""
    import torch

    from nastool import networks, options

    task, scale = common.task_and_scale(document, given)
    space = document.space
    with torch.device("meta"):
        network = networks.build(space, document.arch, task, scale)
    return {
        "input": given["shape"],
        "classes": given["classes"],
        "scale": {name: getattr(scale, name) for name in options.of(space.Scale)},
        "params": networks.count_params(network),
        "flops": networks.count_flops(network, task),
    }


def _text(document: ArchDocument, facts: dict[str, Any]) -> None:
    space, arch = document.space, document.arch
    click.echo(f"{space.ref}  {arch.key}")
    width = max(len(decision.name) for decision in space.decisions)
    for decision, choice in zip(space.decisions, arch.choices, strict=True):
        click.echo(f"  {decision.name:<{width}}  {decision.options[choice]}")
    own = space.to_string(arch)
    if own is not None:
        click.echo(f"string     {own}")
    click.echo(f"canonical  {space.canonical(arch)}")
    if facts:
        scale = ", ".join(f"{key}={value}" for key, value in facts["scale"].items())
        click.echo(f"network    {facts['params']:,} parameters, {facts['flops']:,} FLOPs an image")
        click.echo(f"           ({facts['input']}, {facts['classes']} classes, {scale})")
    metrics = document.extra.get("metrics")
    if isinstance(metrics, dict):
        numbers = {k: v for k, v in metrics.items() if isinstance(v, int | float)}
        click.echo(f"metrics    {common.describe_metrics(numbers)}")
    for key in ("run", "trial", "weights"):
        if key in document.extra:
            click.echo(f"{key:<9}  {document.extra[key]}")
