"""docs/cli.md from --help, docs/plugins.md from `nastool list`: `python -m tests.helpers.docs` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from nastool.cli import COMMANDS, cli, list_command
from nastool.core import registry

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


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


def plugin_reference() -> str:
    """What nastool's own plugins and their options are, as Markdown."""
    parts = [
        "# Plugins\n\n"
        "nastool's own strategies, spaces, evaluators, executors and loggers, and what their options mean, as\n"
        "`nastool list KIND NAME` shows it; that also says which go together.\n"
    ]
    for plural, kind in list_command.SINGULAR.items():
        parts.append(f"## {plural}\n")
        for name, plugin in registry.plugins(kind).items():
            if plugin.owner == "nastool":
                entry = list_command.plugin_entry(kind, name)
                entry = {key: value for key, value in entry.items() if key not in ("works_with", "not_with")}
                _, _, text = list_command.in_full(entry, 100).partition("\n\n")
                parts.append(f"### {name}\n\n```\n{click.unstyle(text)}\n```\n")
    return "\n".join(parts)


if __name__ == "__main__":
    (DOCS / "cli.md").write_text(cli_reference())
    (DOCS / "plugins.md").write_text(plugin_reference())
