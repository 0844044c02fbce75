"""The plugins of docs/examples keep their contracts, and are as small as they seem."""

from __future__ import annotations

from pathlib import Path

import pytest

from nastool.core.space import SearchSpace
from nastool.core.strategy import Strategy
from nastool.spaces.nasbench201 import NasBench201
from nastool.testing.strategies import MakeStrategy, StrategyContract
from tests.helpers.examples import EXAMPLES, example
from tests.helpers.plugins import install


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: path.name)
def test_is_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) < 60


class TestGreedy(StrategyContract):
    @pytest.fixture(autouse=True)
    def _installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """For the process that the contract starts."""
        points = {"nastool.strategies": "greedy = greedy:Greedy"}
        environment = install(tmp_path / "plugins", "greedy", (EXAMPLES / "greedy.py").read_text(), points)
        monkeypatch.setenv("PYTHONPATH", environment["PYTHONPATH"])

    @pytest.fixture
    def space(self) -> SearchSpace:
        return NasBench201()

    @pytest.fixture
    def make(self) -> MakeStrategy:
        def make(space: SearchSpace, seed: int) -> Strategy:
            strategy: Strategy = example("greedy", "Greedy")(space, seed=seed)
            return strategy

        return make
