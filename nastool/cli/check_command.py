"""`nastool check`."""

from __future__ import annotations

import contextlib
import io
import os
import tempfile
from pathlib import Path
from typing import Any

import click

from nastool.cli import common
from nastool.core.errors import InputError, short

TESTS = """
import pytest
pytest.register_assert_rewrite("nastool.testing.{module}")  # for messages that say what was compared
from nastool.core import registry
from nastool.core.values import SpaceRef
from nastool.testing.{module} import {contract}

class TestIt({contract}):
    {fixture}
"""
FIXTURES = {
    "space": "@pytest.fixture\n    def space(self):\n        return registry.make('space', {name!r}, given={given!r})",
    "strategy": (
        "@pytest.fixture\n    def space(self):\n        return registry.make_space(SpaceRef({space!r}))\n\n"
        "    @pytest.fixture\n    def make(self):\n"
        "        given = {given!r}\n"
        "        return lambda space, seed: registry.make('strategy', {name!r}, space, given={{**given, 'seed': seed}})"
    ),
    "evaluator": (
        "@pytest.fixture\n    def make(self):\n        space = registry.make_space(SpaceRef({space!r}))\n"
        "        return lambda: registry.make('evaluator', {name!r}, space, given={given!r})"
    ),
}
"""Of a test of each kind of plugin, what its contract is given."""


@click.command("check", cls=common.Command)
@click.argument("plugin", metavar="FILE.py:NAME")
@click.option("-E", "--option", "pairs", multiple=True, metavar="KEY=VALUE", help="Option of the plugin; repeat it.")
@click.option("--data", metavar="NAME", help="Of a space or an evaluator, the data that networks are for.")
@click.option("--space", metavar="NAME", help="Of a strategy or an evaluator, the space to try it on.")
def command(plugin: str, pairs: tuple[str, ...], data: str | None, space: str | None) -> int:
    """Check that a plugin of your own keeps its promises.

    Every plugin of its kind promises them: of a space that the options fit together, that samples, neighbours,
    mutations and drawings are what they should be, that a supernet computes what its networks compute. The exit code
    is 1 where something is wrong. Needs pytest (`pip install 'nastool[test]'`).

    \b
    Examples:
      nastool check my_net.py:MyNet --data digits
      nastool check greedy.py:Greedy -E explore=0.3 --space nasbench201
    """
    try:
        import pytest  # noqa: F401  # as the tests need it
        import scipy.stats  # noqa: F401
    except ImportError as error:
        raise InputError(f"check needs {error.name}: pip install 'nastool[test]'") from None
    from nastool.core import defaults, options, registry
    from nastool.core.space import make_scale

    kind, cls = registry.found(plugin, ("space", "strategy", "evaluator", "task"))
    about = f"{kind} {cls.name}: {short((cls.__doc__ or 'no docstring').strip().partition(chr(10))[0])}"
    if kind == "task":
        common.show(about)
        return _task(cls, data)
    text: dict[str, str] = options.parse(pairs, "-E")
    if kind == "evaluator" and data is not None and "data" in options.of(cls):
        text["data"] = data
    given = options.check(f"{kind} {cls.name}", cls, text)
    common.show(about)
    if kind == "space":
        from nastool.testing import fits
        from nastool.testing.spaces import task_of

        made = registry.make("space", cls.name, given=given)
        common.show(f"  {made.size:,} combinations of {len(made.decisions)} decisions")
        for decision in made.decisions[:20]:
            common.show(f"    {decision.name}: {', '.join(decision.options)}")
        if "network" in made.provides:
            task = registry.task_for(data).load(data).task if data else task_of(made)
            found = fits.misfits(made, task, make_scale(made, {}))
            for line in found:
                common.show(f"wrong  {line}")
            if found:
                common.show(f"the options have to fit together, for {task}; other sizes: --data NAME")
                return 1
            common.show(f"ok     all options fit together, for {task}")
    fixture = FIXTURES[kind].format(name=cls.name, space=space or defaults.SPACE, given=given)
    module, contract = "strategies" if kind == "strategy" else f"{kind}s", f"{kind.capitalize()}Contract"
    wrong = _contract(TESTS.format(module=module, contract=contract, fixture=fixture))
    common.show("all is well" if not wrong else "1 promise is broken" if wrong == 1 else f"{wrong} promises are broken")
    return 1 if wrong else 0


def _task(cls: Any, data: str | None) -> int:
    """Look at what a task reads."""
    name = data or cls.name
    read = cls.load(name)
    common.show(f"ok     reads {name}: {', '.join(f'{key} {value}' for key, value in read.describe().items())}")
    import torch

    for part in ("train", "val"):
        batches = read.batches(part, torch.device("cpu"))
        batch = next(iter(batches.in_order(2)))
        for given, wanted in zip(read.task.inputs(batch), read.task.example(len(batch[-1])), strict=True):
            if given.shape[1:] != wanted.shape[1:] or given.dtype != wanted.dtype:
                found = f"{tuple(given.shape[1:])} of {given.dtype}"
                common.show(
                    f"wrong  {part}: examples are {found}, `example` has {tuple(wanted.shape[1:])} of {wanted.dtype}"
                )
                return 1
        common.show(f"ok     {part}: {len(batches):,} examples as `example` has them")
    return 0


class _Told:
    """Pytest's plugin that tells what becomes of each test."""

    def __init__(self) -> None:
        self.wrong = 0

    def pytest_runtest_logreport(self, report: Any) -> None:
        text = report.nodeid.rpartition("::test_")[2].replace("_", " ")
        if report.failed:
            self.wrong += 1
            crash = getattr(report.longrepr, "reprcrash", None)
            why = (
                crash.message.partition("\n")[0]
                if crash
                else short(str(report.longrepr).strip().rpartition("\n")[2], 200)
            )
            common.show(f"wrong  {text}: {short(why, 300)}")
        elif report.when == "call" and report.passed:
            common.show(f"ok     {text}")
        elif report.skipped and isinstance(report.longrepr, tuple):
            common.show(f"-      {text}: {str(report.longrepr[2]).removeprefix('Skipped: ')}")


def _contract(source: str) -> int:
    """Number of tests that fail; each is told."""
    import pytest

    told = _Told()
    with tempfile.TemporaryDirectory(prefix="nastool-") as folder:
        path = Path(folder) / f"test_contract_of_{Path(folder).name.replace('-', '_')}.py"  # a module of its own
        path.write_text(source)
        words = [
            str(path),
            "-p",
            "no:cacheprovider",
            "--import-mode",
            "importlib",
            "-c",
            os.devnull,
            "--rootdir",
            folder,
        ]
        out = io.StringIO()
        with contextlib.redirect_stderr(out):
            code = pytest.main([*words, "-p", "no:terminal", "-s"], plugins=[told])
    if code not in (0, 1):
        raise InputError(f"the tests could not be run: {short(out.getvalue() or f'pytest ended with {code}', 200)}")
    return told.wrong
