"""What can be said of the executor without Ray; the rest is in tests/system/test_ray.py and the contract."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from nastool.core.errors import InputError
from nastool.engine.executors.base import Executor, Setting
from nastool.engine.run import make_executor
from nastool.spaces.nasbench_macro import NasBenchMacro
from tests.helpers.slow import OfSlow


def made(folder: Path, more: str = "") -> Executor:
    spec = OfSlow(NasBenchMacro().ref, "slow", {"log": str(folder / "log")}, workdir=folder)
    return make_executor(f"ray{more}", spec, spec.build(), Setting(2))


def test_without_ray_it_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with closing(made(tmp_path)) as executor:
        with pytest.raises(InputError, match=r"executor ray needs the package ray: pip install 'nastool\[ray\]'"):
            executor.open()
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_asked_for(tmp_path: Path) -> None:
    for more, message in {
        ":cpus=0": "executor ray: need cpus >= 1 and gpus >= 0, got cpus=0 and gpus=0",
        ":gpus=-1": "need cpus >= 1 and gpus >= 0, got cpus=1 and gpus=-1",
        ":gpu=1": "executor ray has no option 'gpu'; did you mean 'gpus'",
        ":address": "write --executor NAME or --executor NAME:KEY=VALUE",
    }.items():
        with pytest.raises(InputError, match=message):
            made(tmp_path, more)


def test_nothing_heavy_is_imported_before_it_is_asked_for() -> None:
    code = "import sys, nastool.engine.executors.ray as found; print(*{'ray', 'torch', 'scipy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not done.stdout.split()
