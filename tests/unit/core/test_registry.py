"""Plugins by their names, and which go together."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from nastool.core import registry
from nastool.core.errors import InputError
from nastool.core.evaluator import Evaluator
from nastool.core.registry import misfits
from nastool.core.space import SearchSpace
from nastool.core.strategy import Strategy
from nastool.spaces.nasbench201 import NasBench201
from tests.helpers.plugins import install


class TestRegistry:
    def test_unknown_names_suggest(self) -> None:
        with pytest.raises(InputError, match="give cell-cnn alone, and each option with -P KEY=VALUE"):
            registry.load("space", "cell-cnn:ops=darts,blocks=4")
        with pytest.raises(InputError, match="no strategy 'evolutoin'; did you mean 'evolution'"):
            registry.load("strategy", "evolutoin")

    def run(self, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "nastool", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    def test_two_owners_of_a_name(self, tmp_path: Path) -> None:
        environment = install(tmp_path, "rival", "", {"nastool.strategies": "evolution = rival:Evolution"})
        result = self.run(environment, "list", "strategies")
        assert result.returncode == 2
        assert "two packages register strategy 'evolution'" in result.stderr
        assert "nastool" in result.stderr and "rival" in result.stderr

    def test_a_broken_plugin_breaks_only_itself(self, tmp_path: Path) -> None:
        environment = install(
            tmp_path,
            "broken",
            "import no_such_module",
            {"nastool.strategies": "broken = broken:Broken", "nastool.spaces": "odd = json:dumps"},
        )
        listed = self.run(environment, "list", "strategies")
        assert listed.returncode == 0
        entries = {entry["name"]: entry for entry in map(json.loads, listed.stdout.splitlines())}
        assert "no_such_module" in entries["broken"]["error"]
        assert "error" not in entries["evolution"]
        assert self.run(environment, "sample").returncode == 0
        chosen = self.run(environment, "search", "-s", "broken")
        assert chosen.returncode == 2 and "package broken cannot be imported" in chosen.stderr
        assert len(chosen.stderr.splitlines()) == 1
        odd = self.run(environment, "sample", "--space", "odd")
        assert odd.returncode == 2 and "no subclass of SearchSpace" in odd.stderr


def test_misfits_are_explained() -> None:
    class Needy(Strategy):
        name = "needy"
        needs = frozenset({"policy"})

    class Picky(Evaluator):
        name = "picky"
        needs = frozenset({"inherit"})

    def reasons(strategy: type[Strategy] | None, evaluator: type[Evaluator] | None) -> list[str]:
        space: type[SearchSpace] = NasBench201
        return misfits(strategy, space, evaluator)

    assert reasons(None, None) == []
    assert reasons(Needy, None) == ["strategy needy needs 'policy', which space nasbench201 lacks"]
    assert reasons(None, Picky) == ["evaluator picky needs 'inherit', which space nasbench201 lacks"]
