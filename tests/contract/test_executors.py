"""Every registered executor, and the example of one that starts its workers by a command, keeps its contract."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
from _pytest.mark import ParameterSet

from nastool.core import registry
from nastool.engine.executors.base import Setting
from nastool.engine.executors.jobs import EvaluatorSpec
from nastool.engine.run import make_executor
from nastool.spaces.nasbench_macro import NasBenchMacro
from nastool.testing.executors import ExecutorContract, MakeExecutor
from tests.helpers.examples import example
from tests.helpers.ray_nodes import IS_THERE, ray_nodes
from tests.helpers.slurm import fake_slurm


def executors() -> list[ParameterSet]:
    """Those that evaluate; what "external" answers is as whoever is outside makes it."""
    own = registry.plugins("executor").values()
    found = [plugin.name for plugin in own if plugin.owner == "nastool" and plugin.name != "external"]
    reason = "needs Ray: pip install 'nastool[ray]'"
    marks = [pytest.mark.slow, pytest.mark.skipif(not IS_THERE, reason=reason)]
    return [pytest.param(name, marks=marks if name == "ray" else []) for name in found]


class TestExecutors(ExecutorContract):
    @pytest.fixture
    def spec(self, tmp_path: Path) -> EvaluatorSpec:
        space = NasBenchMacro()
        archs = np.array([arch.choices for arch in space.members()], dtype=np.uint8)
        values = np.random.default_rng(0).random(len(archs)) * 100
        np.savez(tmp_path / "table.npz", allow_pickle=False, arch=archs, val=values, test=values)
        return EvaluatorSpec(space.ref, "table", {"file": str(tmp_path / "table.npz")})

    @pytest.fixture(params=[*executors(), "docs/examples/remote.py"])
    def make(
        self, request: pytest.FixtureRequest, spec: EvaluatorSpec, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[MakeExecutor]:
        with ExitStack() as stack:
            if request.param == "slurm":
                monkeypatch.chdir(tmp_path)
                monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
                stack.enter_context(fake_slurm(tmp_path / "slurm", monkeypatch))
            if request.param == "ray":
                monkeypatch.chdir(tmp_path)
                stack.enter_context(ray_nodes(monkeypatch))
            if request.param in registry.plugins("executor"):
                yield lambda: make_executor(request.param, spec, spec.build(), Setting(workers=2))
            else:
                yield lambda: example("remote", "Remote").make(spec, spec.build(), Setting(workers=2))
