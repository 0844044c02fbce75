"""docs/cli.md is what --help says. `make docs` writes it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from nastool.cli import COMMANDS, cli

DOCS = Path(__file__).resolve().parent.parent / "docs"
ROOT = DOCS.parent


def cli_reference() -> str:
    """The help of every command as Markdown."""
    parts = [
        "# Command line\n\n"
        "Every option can also be set by an environment variable, `NASTOOL_<COMMAND>_<OPTION>` (such as\n"
        "`NASTOOL_SEARCH_TRIALS=50`). `search` and `eval` also take a file as `--config`, with a section for each\n"
        "of them; a run's `run.yaml` is such a file. Flags win over the environment, the environment over the file.\n"
    ]
    settings: dict[str, Any] = {**cli.context_settings, "terminal_width": 100}
    group = click.Context(cli, info_name="nastool", **settings)
    parts.append(f"## nastool\n\n```\n{cli.get_help(group)}\n```\n")
    for name in COMMANDS:
        command = cli.get_command(group, name)
        assert command is not None
        context = click.Context(command, info_name=name, parent=group, **settings)
        parts.append(f"## nastool {name}\n\n```\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


def test_cli_reference_is_current() -> None:
    written, current = ((DOCS / "cli.md").read_text().split(), cli_reference().split())
    assert written == current, "run `make docs`"  # versions of click wrap lines differently


def test_links_lead_somewhere() -> None:
    for page in [*ROOT.glob("*.md"), *DOCS.glob("*.md")]:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_readme_strategy_keeps_the_contract() -> None:
    """The page on plugins shows a strategy that works: it resumes exactly."""
    from nastool.spaces.nasbench201 import NasBench201
    from nastool.testing.strategies import drive

    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    (source,) = (block for block in blocks if "class Greedy" in block)
    scope: dict[str, object] = {}
    exec(source, scope)
    make = scope["Greedy"]
    assert callable(make)
    space = NasBench201()
    whole = drive(make(space, seed=1, start=3), 40)
    first = make(space, seed=1, start=3)
    before = drive(first, 20)
    second = make(space, seed=1, start=3)
    second.load_state_dict(first.state_dict(), before)
    assert before + drive(second, 20, 20) == whole


if __name__ == "__main__":
    (DOCS / "cli.md").write_text(cli_reference())
