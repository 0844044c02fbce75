"""What a command did, and checks of it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import click

from nastool import cli


@dataclass(frozen=True)
class Outcome:
    code: int
    out: str
    err: str

    def refused(self, *fragments: str) -> None:
        """One line (after click's usage, where it is a usage error) that says what is wrong; no output."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        if lines and lines[0].startswith("Usage: "):
            lines = lines[next(i for i, line in enumerate(lines) if line.startswith("Try ")) + 1 :]
        assert self.code == 2, self
        assert self.out == "", self
        assert len(lines) == 1, self
        assert lines[0].startswith(("nastool: ", "Error: ")), self
        assert len(lines[0]) <= 400, self
        assert "internal error" not in self.err, self
        for fragment in fragments:
            assert fragment in self.err, self

    def accepted(self) -> list[dict[str, Any]]:
        """The JSON objects on stdout."""
        assert self.code == 0, self
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Outcome]


def changed(command: Sequence[str], *more: str) -> list[str]:
    """A command and more options, without those of its own that would be given twice: they can't be."""
    parsed = cli.cli.get_command(click.Context(cli.cli), command[0])
    assert parsed is not None
    options = [each for each in parsed.params if isinstance(each, click.Option) and not each.multiple]
    known = {name: option for option in options for name in (*option.opts, *option.secondary_opts)}
    again = {known[word.partition("=")[0]] for word in more if word.partition("=")[0] in known}
    found: list[str] = []
    words = iter(command)
    for word in words:
        option = known.get(word)
        if option not in again:
            found.append(word)
        elif option is not None and not option.is_flag:
            next(words)
    return [*found, *more]
