"""Files are written whole or not at all."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from nastool.core import files
from nastool.core.errors import InputError


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    files.write_atomic(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "real"]


def test_a_pipe_stays_a_pipe(tmp_path: Path) -> None:
    """What is no file is written to: as root, `-o /dev/null` must not replace it by a file."""
    os.mkfifo(tmp_path / "pipe")
    got: list[str] = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_text()))
    reader.start()
    files.write_atomic(tmp_path / "pipe", "text")
    reader.join(10)
    assert got == ["text"]
    assert (tmp_path / "pipe").is_fifo()


def test_what_cannot_be_replaced_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    for name in ("folder", "missing/x", "x" * 300):
        with pytest.raises(InputError, match="cannot write"):
            files.write_atomic(tmp_path / name, "text")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
