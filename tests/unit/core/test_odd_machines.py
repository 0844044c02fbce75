"""What a cluster, a container or an odd home folder refuses is done without where it is not needed."""

from __future__ import annotations

import errno
import os
import pwd
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nastool.core import files
from nastool.core.errors import InputError
from nastool.deploy.codegen import _quoted
from nastool.engine.store import Store
from nastool.evaluators.train import Train
from nastool.nets import devices
from nastool.spaces.nasbench201 import NasBench201
from nastool.tasks.images.data import load
from tests.helpers.running import Run


def refusing(number: int) -> Callable[..., None]:
    def refuse(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    return refuse


def test_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", refusing(errno.EPERM))
    assert devices.usable_cores() == os.cpu_count()


def test_no_sync(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that knows no such thing; one that fails at it still says so."""
    monkeypatch.setattr(os, "fsync", refusing(errno.EINVAL))
    files.write_atomic(tmp_path / "a", "text")
    assert (tmp_path / "a").read_text() == "text"
    monkeypatch.setattr(os, "fsync", refusing(errno.EDQUOT))
    with pytest.raises(InputError, match="free some space"):
        files.write_atomic(tmp_path / "a", "more")
    assert (tmp_path / "a").read_text() == "text"


def test_no_home(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """It is asked for only where it is needed."""

    def unknown(*arguments: object) -> None:
        raise KeyError("no such user")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    for options in (["--recipe", "~/r.yaml"], ["--evaluator", "table", "-E", "file=~/t.npz"]):
        run("search", *options, "--out", "a").refused("no home folder is known; set HOME, or give a path without ~")
    for data in ("npz:~/x.npz", "cifar10"):
        with pytest.raises(InputError, match="no home folder is known; set HOME"):
            load(data)
    with pytest.raises(InputError, match=f"cifar10 is not in {tmp_path}"):
        load("cifar10", data_dir=str(tmp_path))


def test_where_data_are_is_an_option(tmp_path: Path) -> None:
    Train(NasBench201(), data="cifar10", data_dir=str(tmp_path), download=True)


def test_no_write_ahead_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs shared memory in a file."""

    class Without(sqlite3.Connection):
        def execute(self, statement: str, *values: Any) -> sqlite3.Cursor:
            if "WAL" in statement:
                raise sqlite3.OperationalError("disk I/O error")
            return super().execute(statement, *values)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **more: connect(*a, factory=Without, **more))
    config = {"space": {"name": "nasbench201", "options": {}}}
    path = tmp_path / "run.db"
    with Store.create(path, {"config": config, "objective": "val_acc:max", "trials": 3}), Store.read(path) as store:
        assert store.get("trials") == 3


def test_names_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"a b\n\xff") / "w.safetensors"
    files.write_tensors(path, {"a": torch.ones(2)}, {"of": "test"})
    assert files.check_tensors(path) == {"of": "test"}
    tensors, _ = files.read_tensors(path)
    assert tensors["a"].tolist() == [1, 1]
    with pytest.raises(InputError, match=r"there is no .*\\udcff"):
        files.read_tensors(path.with_name("other"))
    _quoted(str(path)).encode()
