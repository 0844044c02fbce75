"""`nastool list`, what it says of options, and suggestions for what is mistyped."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from nastool.cli import list_command
from nastool.core import options, registry
from tests.helpers.plugins import install
from tests.helpers.running import Run


class Base:
    def __init__(self, *, width: int = 1, rare: bool = False, **more: int) -> None:
        """Something first; depth: not here.

        Args:
            width: Of all: such as 1, or
                2. Not 3.
            rare: Told of.
            height: No option.
            seed: No option either.
        """


class Told(Base):
    def __init__(self, *, depth: int | None = None, other: int = 2, **more: int) -> None:
        """Something first.

        Args:
            other: In [0, 1]
            depth: Told here, not in the base.

        Raises:
            rare: Never.
        """


@dataclass(frozen=True)
class Size:
    """Size of something.

    Args:
        cells: Per stage.
        channels: Of each.
    """

    channels: int = 1
    cells: int = 2


def test_descriptions_are_read_from_docstrings() -> None:
    assert options.descriptions(Told) == {
        "depth": "Told here, not in the base",
        "other": "In [0, 1]",
        "width": "Of all: such as 1, or 2. Not 3",
        "rare": "Told of",
    }
    assert options.descriptions(Size) == {"channels": "Of each", "cells": "Per stage"}
    assert options.descriptions(int) == {}


def test_a_docstring_that_breaks_the_rules_is_no_reason_to_fail() -> None:
    def broken(*, depth: int = 1) -> None:
        """Makes something.

        Args:
        depth: Not indented.
        """

    assert options.descriptions(broken) == {}
    assert options.docstring(broken).short_description == "Makes something. Args: depth: Not indented."


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_option_is_described(kind: registry.Kind) -> None:
    for name, plugin in registry.plugins(kind).items():
        if plugin.owner == "nastool":
            target = registry.load(kind, name)
            for each in (target, target.Scale) if kind == "space" else (target,):
                assert options.descriptions(each).keys() == options.of(each).keys(), (name, each)


@pytest.mark.parametrize("width", [60, 80])
def test_overview_fits(run: Run, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    outcome = run("list", "--text")
    assert outcome.code == 0 and "evolution" in outcome.out and "folder:DIR" in outcome.out
    assert all(len(line) <= width for line in outcome.out.splitlines())
    assert "= 20" not in outcome.out, "of options only the names"


@pytest.mark.parametrize("width", [40, 60, 80])
def test_one_in_full(run: Run, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    text = run("list", "strategies", "evolution", "bo", "spaces", "cell-cnn", "--text").out
    assert all(len(line) <= width for line in text.splitlines())
    words = " ".join(text.split())
    assert "population: int = 20 Number of individuals alive, >= 1 tournament: int | none = none Number of" in words
    assert "strategy bo " in words and "- Targets are the normal quantiles" in words
    assert "scale (--scale NAME=N,...): channels: int = 36" in words


def test_the_format_of_tables_is_there(run: Run) -> None:
    text = run("list", "evaluators", "table", "--text").out
    assert "    [DATASET_]val200_s1      validation accuracy, 200 epochs, training seed 1\n" in text


def test_names_of_every_kind(run: Run) -> None:
    for kind in list_command.KINDS:
        for name in list_command.names_of(kind)[:1]:
            assert name in run("list", kind, name, "--text").out
            (entry,) = map(json.loads, run("list", kind, name, "--json").out.splitlines())
            assert entry["name"] == name
    (entry,) = map(json.loads, run("list", "strategies", "evolution", "--json").out.splitlines())
    assert entry["descriptions"]["population"] == "Number of individuals alive, >= 1"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["serch"], "no command 'serch'; did you mean 'search'?"),
        (["xyzzy"], "no command 'xyzzy'; there are search, resume"),
        (["list", "strategie"], "no kind 'strategie'; did you mean 'strategies'?"),
        (["list", "strategies", "sapces"], "no strategy 'sapces'; did you mean 'spaces'?"),
        (["list", "strategies", "evolutoin"], "no strategy 'evolutoin'; did you mean 'evolution'?"),
        (["list", "recipes", "digit"], "no recipe 'digit'; did you mean 'digits'?"),
        (["list", "zoo", "xyzzy"], "no published architecture 'xyzzy'; there are zoo:"),
    ],
)
def test_suggestions(run: Run, words: list[str], message: str) -> None:
    outcome = run(*words)
    assert outcome.code == 2 and message in outcome.err and "Traceback" not in outcome.err


BAD = '''
from nastool.core.values import Proposal
from nastool.core.strategy import Strategy
from nastool.spaces.nasbench201 import NasBench201
from nastool.strategies.evolution import RegularizedEvolution

class Oops(Strategy):
    """Raises what it should not."""
    name = "oops"

    def __init__(self, space, *, seed: int = 0, where: str = "tell"):
        super().__init__(space, seed=seed)
        self.where = where
        if where == "init":
            raise KeyError("oops")

    def propose(self):
        if self.where == "library":
            import json
            json.loads("{")
        return Proposal(self.space.sample(self.rng))

    def tell(self, trial):
        help_out({})

def help_out(known):
    return known["oops"]

class Odd(RegularizedEvolution):
    """Breaks what it derives from."""
    name = "odd"

    def __init__(self, space, *, seed: int = 0):
        super().__init__(space, seed=seed)
        self.population = None

class Room(NasBench201):
    """Cannot be drawn from."""
    name = "room"

    def sample(self, rng):
        raise RuntimeError("no room")
'''


@pytest.fixture
def bad(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plugins of package bad-package that raise, seen by this process."""
    points = {
        "nastool.strategies": "oops = bad_plugins:Oops\nodd = bad_plugins:Odd",
        "nastool.spaces": "room = bad_plugins:Room",
        "nastool.evaluators": "sleepy-inline = sleepy_plugin:SleepyInline",
    }
    from tests.helpers.plugins import SLEEPY

    install(tmp_path / "there", "bad_plugins", BAD, points, "bad_package")
    (tmp_path / "there" / "sleepy_plugin.py").write_text(SLEEPY)
    monkeypatch.syspath_prepend(tmp_path / "there")
    registry.plugins.cache_clear()
    registry.registered.cache_clear()


@pytest.fixture(autouse=True)
def forget() -> object:
    """Other tests do not see the plugins of this one."""
    yield
    registry.plugins.cache_clear()
    registry.registered.cache_clear()


@pytest.mark.parametrize(
    ("words", "who", "line", "raised"),
    [
        (["-s", "oops"], "strategy oops", 27, "KeyError: 'oops'"),
        (["-s", "oops", "-S", "where=init"], "strategy oops", 15, "KeyError"),
        (["-s", "oops", "-S", "where=library"], "strategy oops", 20, "JSONDecode"),
        (["-s", "odd"], "strategy odd", 29, "TypeError"),
        (["-s", "random", "--space", "room"], "space room", 42, "RuntimeError"),
    ],
)
@pytest.mark.usefixtures("bad")
def test_who_raised_is_named(run: Run, words: list[str], who: str, line: int, raised: str) -> None:
    arguments = ["search", *words, "--evaluator", "sleepy-inline", "--trials", "5", "--out", "a"]
    outcome = run(*arguments)
    assert outcome.code == 1
    *_, last = outcome.err.splitlines()
    assert last.startswith(f"nastool: {who} of package bad_package (bad_plugins.py, line {line}) raised {raised}"), (
        outcome
    )
    assert last.endswith("; --debug shows where"), outcome
    assert "Traceback" not in outcome.err
    assert "Traceback" in run(*arguments, "--force", "--debug").err


def test_our_own_errors_stay_ours(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    from nastool.strategies.random_search import RandomSearch

    def broken(self: RandomSearch) -> None:
        raise KeyError("oops")

    monkeypatch.setattr(RandomSearch, "propose", broken)
    outcome = run("search", "-s", "random", "--dry-run", "--data", "digits")
    assert outcome.code == 1 and "internal error: KeyError: 'oops' (please report it" in outcome.err
