"""`nastool completion`."""

from __future__ import annotations

import click

from nastool.cli import common


@click.command("completion", cls=common.Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def command(ctx: click.Context, /, shell: str) -> None:
    """Print the script with which a shell completes commands.

    Tab then offers commands, options and their values: strategies, spaces, recipes, data sets, run folders, metrics,
    and the keys of -S, -P and -E. Put one of these lines where your shell reads it:

    \b
      bash  eval "$(nastool completion bash)"       in ~/.bashrc
      zsh   eval "$(nastool completion zsh)"        in ~/.zshrc, after compinit
      fish  nastool completion fish | source        in ~/.config/fish/config.fish

    \b
    Examples:
      nastool completion bash > ~/.local/share/bash-completion/completions/nastool
      nastool completion fish > ~/.config/fish/completions/nastool.fish
    """
    from nastool.cli import complete

    complete.answer(ctx.find_root().command, f"{shell}_source")
