"""What a command did, and checks of it."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import click
import pytest

from nastool import cli
from nastool.core.values import State

NASTOOL = str(Path(sys.executable).parent / "nastool")
"""The installed command."""


class Started(subprocess.Popen[str]):
    """A command, as a context that ends it: where a test fails meanwhile, nobody waits for it."""

    def __exit__(self, *error: Any) -> None:
        self.kill()
        super().__exit__(*error)


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


def process(script: str, cwd: Path, prepare: Callable[[], None] | None = None, **env: str) -> Outcome:
    """Run a line of bash that calls $nastool."""
    result = subprocess.run(
        ["bash", "-c", script],
        cwd=cwd,
        capture_output=True,
        text=True,
        errors="replace",
        timeout=60,
        preexec_fn=prepare,
        env={**os.environ, "nastool": NASTOOL, **env},
    )
    return Outcome(result.returncode, result.stdout, result.stderr)


def in_this_process(folder: Path, *arguments: str, stdin: str = "", trains: bool = False, **env: str) -> Outcome:
    """Run a command in a folder, for what several tests share; the fixture `run` is for one test.

    trains: whether it trains networks, which is done in this process, too, as a worker would: with one thread.
    """
    streams = [io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True) for _ in range(2)]
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as threads:
        if trains:
            import torch

            from nastool.evaluators.supernet import Supernet
            from nastool.evaluators.train import Train

            for evaluator in (Train, Supernet):
                patch.setattr(evaluator, "inline", True)
            threads.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(1)
        for name, value in env.items():
            patch.setenv(name, value)
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["nastool", *arguments])
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode()), "utf-8"))
        patch.setattr(sys, "stdout", streams[0])
        patch.setattr(sys, "stderr", streams[1])
        code = cli.run()
    out, err = (stream.buffer.getvalue().decode() for stream in streams)
    return Outcome(code, out, err)


def counts(**states: int) -> dict[str, int]:
    """What a store and `status` say of so many trials in these states, and none in the others."""
    assert states.keys() <= set(get_args(State))
    return {**dict.fromkeys(get_args(State), 0), **states}


def content(folder: Path) -> dict[str, bytes]:
    """What is in the files of a folder."""
    return {str(f.relative_to(folder)): f.read_bytes() for f in sorted(folder.rglob("*")) if f.is_file()}


def searched(run: Run, *more: str, force: bool = False) -> Outcome:
    """A search of tiny networks, in the run folder "a"."""
    command = ["search", "-s", "random", "--data", "digits", "--epochs", "1", "--scale", "channels=2,cells=1"]
    command += ["-E", "train_size=20", "--device", "cpu", "--workers", "1", "--out", "a"]
    return run(*command, *more, *(["--force"] if force else []))
