"""The plugins of docs/examples keep their contracts, and are as small as they seem."""

from __future__ import annotations

from collections.abc import Iterator
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
    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def _installed(cls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
        """For the process that the contract starts."""
        points = {"nastool.strategies": "greedy = greedy:Greedy"}
        folder = tmp_path_factory.mktemp("example") / "plugins"
        environment = install(folder, "greedy", (EXAMPLES / "greedy.py").read_text(), points)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", environment["PYTHONPATH"])
            yield

    @pytest.fixture
    def space(self) -> SearchSpace:
        return NasBench201()

    @pytest.fixture
    def make(self) -> MakeStrategy:
        def make(space: SearchSpace, seed: int) -> Strategy:
            strategy: Strategy = example("greedy", "Greedy")(space, seed=seed)
            return strategy

        return make
