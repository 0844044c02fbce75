"""`nastool new`."""

from __future__ import annotations

import keyword
import re
from importlib.resources import files
from pathlib import Path

import click

from nastool.cli import common
from nastool.core.errors import InputError

CLASSES = {"space": "Net", "strategy": "Greedy", "evaluator": "Size", "task": "Series"}
"""Classes of the templates."""
FLAGS = {"space": "--space", "strategy": "--strategy", "evaluator": "--evaluator", "task": "--data"}


@click.command("new", cls=common.Command)
@click.argument("kind", type=click.Choice(list(CLASSES)))
@click.argument("name")
@common.force_option
def command(kind: str, name: str, force: bool) -> None:
    """Write a plugin of your own to start from, in a file.

    NAME is a word such as my_net or MyNet; the file is my_net.py, the class MyNet.

    \b
    Examples:
      nastool new space my_net
      nastool check my_net.py:MyNet
      nastool search --space my_net.py:MyNet --data digits
    """
    from nastool.core.files import target, write_atomic

    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z0-9]+", name)
    stem, title = "_".join(words).lower(), "".join(word[:1].upper() + word[1:] for word in words)
    if not re.fullmatch(r"[A-Za-z][\w-]*", name) or not title.isidentifier() or keyword.iskeyword(stem):
        raise InputError(f"{name!r} is no name for a class: give a word such as my_{kind}")
    text = (files("nastool.cli") / "templates" / f"{kind}.py").read_text(encoding="utf-8")
    text = re.sub(rf"\b{CLASSES[kind]}\b", title, text)
    path = target(f"{stem}.py", f"{stem}.py", force)
    write_atomic(Path(path), text)
    made, more = f"{stem}.py:{title}", {"space": " --data digits", "task": " --space SPACE"}.get(kind, "")
    common.say(f"wrote {path}; next:\n  nastool check {made}\n  nastool search {FLAGS[kind]} {made}{more}")
