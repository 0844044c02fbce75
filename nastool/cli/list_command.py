"""`nastool list`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import click

from nastool.cli import common

KINDS = ("strategies", "spaces", "evaluators", "recipes", "data", "zoo", "loggers")
_SINGULAR = {"strategies": "strategy", "spaces": "space", "evaluators": "evaluator", "loggers": "logger"}


@click.command("list", cls=common.Command)
@click.argument("what", nargs=-1, type=click.Choice(KINDS))
@common.json_option
@click.pass_context
def command(ctx: click.Context, /, what: tuple[str, ...], json_flag: bool | None) -> None:
    """List strategies, spaces, evaluators and what goes with what; recipes, data, published architectures, loggers.

    \b
    Examples:
      nastool list strategies
      nastool list recipes data zoo
      nastool list --json | jq -r 'select(.kind == "space") | .name'
    """
    entries = [entry for kind in what or KINDS for entry in _entries(kind)]
    if common.as_json(json_flag):
        for entry in entries:
            common.emit(entry)
    else:
        _text(entries)


def _entries(kind: str) -> Iterator[dict[str, Any]]:
    if kind == "recipes":
        from nastool.recipes import load_recipe, recipe_names

        for name in recipe_names():
            yield {"kind": "recipe", "name": name, "summary": load_recipe(name).description}
    elif kind == "data":
        from nastool.data import DATASETS

        for name, summary in DATASETS.items():
            yield {"kind": "data", "name": name, "summary": summary}
    elif kind == "zoo":
        from nastool.zoo import PUBLISHED

        for name, entry in PUBLISHED.items():
            summary = f"{entry.summary} ({entry.source})"
            yield {"kind": "zoo", "name": f"zoo:{name}", "summary": summary, "space": entry.space}
    else:
        from nastool import registry

        singular = _SINGULAR[kind]
        for name, plugin in registry.plugins(singular).items():
            yield {"kind": singular, "name": name, **_details(singular, name), "package": plugin.owner}


def _details(kind: Any, name: str) -> dict[str, Any]:
    """Summary, options, and what it goes with; a broken plugin says why instead."""
    from nastool import options, registry
    from nastool.errors import InputError

    try:
        target = registry.load(kind, name)
        own = [str(option) for option in options.of(target).values()]
        scale = [str(option) for option in options.of(target.Scale).values()] if kind == "space" else []
    except InputError as error:
        return {"error": str(error)}
    found: dict[str, Any] = {"summary": (target.__doc__ or "").strip().partition("\n")[0], "options": own}
    for capability in ("needs", "provides"):
        if getattr(target, capability, None):
            found[capability] = sorted(getattr(target, capability))
    if kind == "space":
        found["scale"] = scale
    if kind in ("strategy", "evaluator"):
        found["works_with"], found["not_with"] = _fit(kind, target)
    return found


def _fit(kind: str, target: Any) -> tuple[list[str], dict[str, str]]:
    """For an evaluator, the spaces it takes; for a strategy, the pairs "space + evaluator". And why not the others."""
    from nastool import registry
    from nastool.errors import InputError
    from nastool.interfaces import misfits

    def loadable(kind: registry.Kind) -> Iterator[tuple[str, Any]]:
        for name in registry.plugins(kind):
            try:
                yield name, registry.load(kind, name)
            except InputError:
                continue

    fits, reasons = [], {}
    for space_name, space in loadable("space"):
        if kind == "evaluator":
            pairs = [(space_name, misfits(None, space, target))]
        else:
            pairs = [
                (f"{space_name} + {name}", misfits(target, space, evaluator))
                for name, evaluator in loadable("evaluator")
            ]
        for pair, why in pairs:
            if why:
                reasons[pair] = "; ".join(why)
            else:
                fits.append(pair)
    return fits, reasons


def _text(entries: list[dict[str, Any]]) -> None:
    headings = {
        "strategy": "strategies",
        "space": "spaces",
        "evaluator": "evaluators",
        "recipe": "recipes",
        "data": "data",
        "zoo": "zoo",
        "logger": "loggers",
    }
    width = max((len(entry["name"]) for entry in entries), default=0)
    last = None
    for entry in entries:
        if entry["kind"] != last:
            click.echo(("" if last is None else "\n") + click.style(headings[entry["kind"]], bold=True))
            last = entry["kind"]
        click.echo(f"  {entry['name']:<{width}}  {entry.get('summary') or entry.get('error', '')}")
        pad = " " * (width + 4)
        for key, label in (("options", "options"), ("scale", "scale")):
            if entry.get(key):
                click.echo(f"{pad}{label}: " + f"\n{pad}{' ' * len(label)}  ".join(entry[key]))
        for key, label in (("needs", "needs"), ("provides", "provides")):
            if entry.get(key):
                click.echo(f"{pad}{label}: {', '.join(entry[key])}")
        if entry["kind"] == "strategy":  # what an evaluator takes stands with the evaluators
            evaluators = sorted({pair.partition(" + ")[2] for pair in entry.get("works_with", ())})
            click.echo(f"{pad}works with: {', '.join(evaluators)}")
        elif entry.get("works_with"):
            click.echo(f"{pad}works with: {', '.join(entry['works_with'])}")
            for name, why in entry["not_with"].items():
                click.echo(f"{pad}not with {name}: {why}")
