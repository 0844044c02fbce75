"""Images of which numbers are said: from arrays to model.py on a file."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nastool.evaluators.train import Train
from nastool.tasks.images.data import load
from nastool.tasks.images.task import ImageTask
from tests.helpers.running import Run


def bright(path: Path, n: int = 120) -> str:
    """How bright images are, from 0 to 50."""
    rng = np.random.default_rng(0)
    y = rng.uniform(0, 50, n)
    x = np.clip(rng.normal(y[:, None, None] * 5, 20, (n, 8, 8)), 0, 255).astype(np.uint8)
    np.savez(path, x_train=x, y_train=y)
    return f"npz:{path}"


def test_the_target_is_in_standard_deviations(tmp_path: Path) -> None:
    d = load(bright(tmp_path / "b.npz"))
    assert d.task == ImageTask(1, 8, 8, 0, 1) and str(d.task) == "images of 1x8x8, 1 target"
    assert d.train.y.dtype == np.float32 and d.train.y.mean() == pytest.approx(0, abs=1e-5)
    assert d.task.statistics.mean[0] == pytest.approx(25, abs=5) and "numbers from " in d.note
    assert ImageTask.goals(f"npz:{tmp_path}/b.npz")[1] == "rmse" and ImageTask.goals("digits")[1] == "acc"


def test_numbers_of_images_end_with_a_network_of_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run, one_thread: None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Train, "inline", True)
    command = f"search -s random -n 1 --data {bright(Path('b.npz'))} --device cpu --no-report --out a --epochs 10"
    (best,) = run(*command.split(), "--scale", "channels=4,cells=1", "-E", "batch_size=16").accepted()
    assert best["metrics"]["test_r2"] > 0.5
    Image.fromarray(np.full((8, 8), 128, np.uint8)).save("grey.png")
    (said,) = run("predict", "a", "grey.png").accepted()
    assert said.keys() == {"image", "target"} and 10 < said["target"] < 40
    script = subprocess.run([sys.executable, "a/model.py", "grey.png"], capture_output=True, text=True)
    assert script.stdout == f"grey.png  {said['target']:.6g}\n", script.stderr
    found = run("export", "a", "--to", "pt2")
    assert found.code == 0 and "takes images: uint8 (N, 1, 8, 8)" in found.err
    exported = torch.export.load("model.pt2").module()(torch.full((1, 1, 8, 8), 128, dtype=torch.uint8))
    assert exported.item() == pytest.approx(said["target"], rel=1e-4)
