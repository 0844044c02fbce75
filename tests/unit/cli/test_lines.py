"""A line from elsewhere is data: it does not decide where data are, nor what is opened."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nastool.core import archfile
from nastool.spaces.nasbench201 import NasBench201
from tests.helpers.running import Run

SPACE = NasBench201()


class TestLines:
    LINE = archfile.to_json(SPACE, SPACE.from_string("|none~0|+|none~0|none~1|+|nor_conv_1x1~0|none~1|none~2|"))

    @pytest.mark.usefixtures("inline", "one_thread")
    def test_they_do_not_say_where_data_are_nor_that_they_be_downloaded(
        self, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        options = {"data": "mnist", "data_dir": "theirs", "download": True, "device": "cuda:7", "epochs": 1}
        line = {**self.LINE, "evaluator": {"name": "train", "options": options}}
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
        found = run("eval", json.dumps(line))
        assert found.code == 2
        assert "mnist is not in" in found.err and "mine" in found.err
        assert "data_dir=theirs download=true device=cuda:7, which a line asks for" in found.err
        assert not (tmp_path / "theirs").exists()

    @pytest.mark.usefixtures("inline", "one_thread")
    def test_nor_does_retrain_take_it_from_them(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        options = {"data": "mnist", "data_dir": "theirs", "download": True}
        line = {**self.LINE, "evaluator": {"name": "train", "options": options}}
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "mine"))
        found = run("retrain", json.dumps(line), "--out", "b")
        assert found.code == 2 and "mnist is not in" in found.err and "mine" in found.err
        assert not (tmp_path / "theirs").exists()

    @pytest.mark.parametrize("name", ["/etc/passwd", "../victim.txt", "runs/a/best.json"])
    def test_weights_are_files_of_weights(self, run: Run, tmp_path: Path, name: str) -> None:
        """Whatever else a line names is not opened."""
        line = json.dumps({**self.LINE, "weights": name})
        run("export", "--to", "onnx", line).refused("must name a .safetensors file")
