"""Every registered executor, and the example of one that starts its workers by a command, keeps its contract."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from nastool.core import registry
from nastool.engine.executors.base import Executor, Setting
from nastool.engine.executors.jobs import EvaluatorSpec
from nastool.spaces.nasbench_macro import NasBenchMacro
from nastool.testing.executors import ExecutorContract, MakeExecutor
from tests.helpers.examples import example


def executors() -> list[str]:
    """Those that evaluate; what "external" answers is as whoever is outside makes it."""
    own = registry.plugins("executor").values()
    return [plugin.name for plugin in own if plugin.owner == "nastool" and plugin.name != "external"]


class TestExecutors(ExecutorContract):
    @pytest.fixture
    def spec(self, tmp_path: Path) -> EvaluatorSpec:
        space = NasBenchMacro()
        archs = np.array([arch.choices for arch in space.members()], dtype=np.uint8)
        values = np.random.default_rng(0).random(len(archs)) * 100
        np.savez(tmp_path / "table.npz", allow_pickle=False, arch=archs, val=values, test=values)
        return EvaluatorSpec(space.ref, "table", {"file": str(tmp_path / "table.npz")})

    @pytest.fixture(params=[*executors(), "docs/examples/remote.py"])
    def make(self, request: pytest.FixtureRequest, spec: EvaluatorSpec) -> MakeExecutor:
        cls: type[Executor]
        if request.param in registry.plugins("executor"):
            cls = registry.load("executor", request.param)
        else:
            cls = example("remote", "Remote")
        return lambda: cls.make(spec, spec.build(), Setting(workers=2))
