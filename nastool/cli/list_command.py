"""`nastool list`."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from nastool.cli import common
from nastool.core.errors import InputError, hint

if TYPE_CHECKING:
    from nastool.core import registry

Entry = dict[str, Any]
"""Everything known of one thing that is listed, as a JSON object."""
KINDS = ("strategies", "spaces", "evaluators", "recipes", "data", "zoo", "executors", "loggers")
SINGULAR: Mapping[str, registry.Kind] = {
    "strategies": "strategy",
    "spaces": "space",
    "evaluators": "evaluator",
    "executors": "executor",
    "loggers": "logger",
}
"""Kinds that are plugins."""
_FLAGS = {
    "strategy": "-S NAME=VALUE",
    "space": "-P NAME=VALUE",
    "evaluator": "-E NAME=VALUE",
    "executor": "--executor NAME:OPTION=VALUE,...",
}


@click.command("list", cls=common.Command)
@click.argument("what", nargs=-1, metavar="[KIND [NAME]...]...")
@common.json_option
@click.pass_context
def command(ctx: click.Context, /, what: tuple[str, ...], json_flag: bool | None) -> None:
    """List strategies, spaces, evaluators, data, recipes and more.

    Strategies, spaces and evaluators come with what goes with what. KIND is strategies, spaces, evaluators,
    recipes, data, zoo, executors or loggers; by default all. With NAMEs of this kind each is shown in full, with its
    options and what they mean.

    \b
    Examples:
      nastool list strategies
      nastool list strategies evolution
      nastool list recipes data zoo
      nastool list --json | jq -r 'select(.kind == "space") | .name'
    """
    asked = _asked(what)
    as_json = common.as_json(json_flag)
    width = min(shutil.get_terminal_size().columns, 100)
    entries = []
    for kind, names in asked:
        found = list(_entries(kind, names))
        if as_json or not names:
            entries += found
        else:
            click.echo("\n\n".join(in_full(entry, width) for entry in found))
    if as_json:
        for entry in entries:
            common.emit(entry)
    elif entries:
        _overview(entries, width)


def _asked(words: Sequence[str]) -> list[tuple[str, list[str]]]:
    """Each kind that is named, with the names that follow it. InputError: there is no such kind or name."""
    asked: list[tuple[str, list[str]]] = []
    for word in words:
        if word in KINDS:
            asked.append((word, []))
        elif not asked:
            raise InputError(f"no kind {word!r}; {hint(word, KINDS)}")
        else:
            kind, names = asked[-1]
            known = names_of(kind)
            if word not in known and not _in_file(kind, word):
                near = hint(word, [*known, *KINDS])
                what = SINGULAR.get(kind, {"recipes": "recipe", "data": "data set"}.get(kind, "published architecture"))
                raise InputError(f"no {what} {word!r}; {near if near.startswith('did') else hint(word, known)}")
            names.append(word)
    return asked or [(kind, []) for kind in KINDS]


def _in_file(kind: str, word: str) -> bool:
    """Whether a word is the name of a plugin in a file."""
    from nastool.core import registry

    return kind in SINGULAR and registry.is_known(SINGULAR[kind], word)


def names_of(kind: str) -> list[str]:
    """All of this kind. Imports none of the plugins."""
    if kind == "recipes":
        from nastool.training.recipes import recipe_names

        return list(recipe_names())
    if kind == "data":
        from nastool.core import registry

        return list(registry.datasets())
    if kind == "zoo":
        from nastool.core.zoo import PUBLISHED

        return [f"zoo:{name}" for name in PUBLISHED]
    from nastool.core import registry

    return list(registry.plugins(SINGULAR[kind]))


def _entries(kind: str, names: Sequence[str] = ()) -> Iterator[Entry]:
    """Entries of these names, by default of all."""
    for name in names or names_of(kind):
        if kind == "recipes":
            from nastool.training.recipes import load_recipe

            yield {"kind": "recipe", "name": name, "summary": load_recipe(name).description}
        elif kind == "data":
            from nastool.core import registry

            yield {"kind": "data", "name": name, "summary": registry.datasets()[name]}
        elif kind == "zoo":
            from nastool.core.zoo import PUBLISHED

            entry = PUBLISHED[name.removeprefix("zoo:")]
            yield {"kind": "zoo", "name": name, "summary": f"{entry.summary} ({entry.source})", "space": entry.space}
        else:
            yield plugin_entry(SINGULAR[kind], name)


def plugin_entry(kind: registry.Kind, name: str) -> Entry:
    """Everything known of a strategy, a space, an evaluator, an executor or a logger."""
    from nastool.core import registry

    package = plugin.owner if (plugin := registry.plugins(kind).get(name)) else "nastool"
    return {"kind": kind, "name": name, **_details(kind, name), "package": package}


def _details(kind: registry.Kind, name: str) -> Entry:
    """Summary, options, and what it goes with; a broken plugin says why instead."""
    from nastool.core import options, registry
    from nastool.core.strategy import takes_several

    try:
        target = registry.load(kind, name)
        own = [str(option) for option in options.of(target).values()]
        scale = [str(option) for option in options.of(target.Scale).values()] if kind == "space" else []
    except InputError as error:
        return {"error": str(error)}
    doc = options.docstring(target)
    found: Entry = {"summary": doc.short_description or "", "about": doc.long_description or ""}
    found |= {"options": own, "descriptions": options.descriptions(target)}
    for capability in ("needs", "provides"):
        if getattr(target, capability, None):
            found[capability] = sorted(getattr(target, capability))
    if kind == "strategy" and takes_several(target):
        found["objectives"] = ["several"]
    if kind == "space":
        found["scale"] = scale
        found["scale_descriptions"] = options.descriptions(target.Scale)
    if kind in ("strategy", "evaluator"):
        found["works_with"], found["not_with"] = _fit(kind, target)
    return found


def _fit(kind: str, target: Any) -> tuple[list[str], dict[str, str]]:
    """The spaces that an evaluator takes, or the pairs "space + evaluator" of a strategy; and why not the others."""
    from nastool.core import registry
    from nastool.core.registry import misfits

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


def _overview(entries: Sequence[Entry], width: int) -> None:
    """Prints a line or two of each entry, for people: of options only the names."""
    headings = {singular: plural for plural, singular in SINGULAR.items()} | {"recipe": "recipes"}
    pad, last = "", None
    for entry in entries:
        if entry["kind"] != last:
            heading = headings.get(entry["kind"], entry["kind"])
            click.echo(("" if last is None else "\n") + click.style(heading, bold=True))
            last = entry["kind"]
            pad = " " * (4 + max(len(each["name"]) for each in entries if each["kind"] == last))
        summary = entry.get("summary") or entry.get("error", "")
        click.echo(_wrapped(summary, width, f"  {entry['name']}".ljust(len(pad)), pad))
        for label, values in _facts(entry):
            click.echo(_wrapped(", ".join(values), width, f"{pad}{label}: ", f"{pad}  "))
    if any("options" in entry for entry in entries):
        example = next(entry for entry in entries if "options" in entry)
        command = f"nastool list {headings[example['kind']]} {example['name']}"
        click.echo("\n" + _wrapped(f"options and what they mean: {command}", width))


def _facts(entry: Entry) -> Iterator[tuple[str, list[str]]]:
    """The lists in an entry that the overview shows, each with its label."""
    for key in ("options", "scale"):
        if entry.get(key):
            yield key, [text.partition(":")[0] for text in entry[key]]
    for key in ("needs", "provides", "objectives"):
        if entry.get(key):
            yield key, entry[key]
    if entry["kind"] == "strategy":  # what an evaluator takes stands with the evaluators
        yield "works with", sorted({pair.partition(" + ")[2] for pair in entry.get("works_with", ())})
    elif entry.get("works_with"):
        yield "works with", entry["works_with"]


def in_full(entry: Entry, width: int) -> str:
    """All about one, for people: in lines of at most so many characters, words that are longer apart."""
    origin = f" (package {entry['package']})" if entry.get("package", "nastool") != "nastool" else ""
    parts = [click.style(f"{entry['kind']} {entry['name']}", bold=True) + origin]
    parts.append(_wrapped(entry.get("summary") or entry.get("error", ""), width))
    parts += _paragraphs(entry.get("about", ""), width)
    for key, told, how in (
        ("options", "descriptions", _FLAGS.get(entry["kind"], "--log NAME:OPTION=VALUE,...")),
        ("scale", "scale_descriptions", "--scale NAME=N,..."),
    ):
        if entry.get(key):
            lines = [f"{key} ({how}):"]
            for text in entry[key]:
                lines.append(_wrapped(text, width, "  ", "      "))
                if description := entry[told].get(text.partition(":")[0]):
                    lines.append(_wrapped(description, width, "      ", "      "))
            parts.append("\n".join(lines))
    facts = [
        _wrapped(", ".join(values), width, f"{label}: ", "  ")
        for label, values in _facts({**entry, "options": (), "scale": ()})
        if values
    ]
    if entry["kind"] == "evaluator":
        facts += [_wrapped(why, width, f"not with {name}: ", "  ") for name, why in entry.get("not_with", {}).items()]
    if facts:
        parts.append("\n".join(facts))
    if entry["kind"] == "recipe":
        parts.append(f"its values: nastool show recipe:{entry['name']}")
    return "\n\n".join(parts)


def _paragraphs(text: str, width: int) -> Iterator[str]:
    """A docstring's, wrapped; items of lists each from a new line, what is indented as it stands."""
    for paragraph in re.split(r"\n\s*\n", text):
        if paragraph.startswith("    "):
            yield paragraph
        elif paragraph.strip():
            items = re.split(r"\n(?=- )", paragraph)
            yield "\n".join(_wrapped(item, width, "", "  " if item.startswith("- ") else "") for item in items)


def _wrapped(text: str, width: int, first: str = "", others: str = "") -> str:
    return textwrap.fill(
        " ".join(text.split()),
        width,
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=False,
        break_on_hyphens=False,
    )
