"""nastool.tasks.signals: what is read of arrays; searched, shared and exported from end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nastool.core.errors import InputError
from nastool.evaluators.supernet import Supernet
from nastool.evaluators.train import Train
from nastool.spaces.signal_cnn import SignalCNN
from nastool.tasks.signals import SignalTask
from tests.helpers.running import Run


def waves(path: Path, n: int = 150, numbers: bool = False, **more: Any) -> str:
    """Noisy sines: one, two or three periods are the class, or a number of them that is to be said."""
    rng = np.random.default_rng(0)
    y = rng.uniform(1, 4, n) if numbers else np.arange(n) % 3
    periods = y if numbers else y + 1
    t = np.linspace(0, 2 * np.pi, 32)
    x = np.sin(periods[:, None] * t + rng.uniform(0, 6, (n, 1))) * 5 + 20 + rng.normal(0, 1, (n, 32))
    np.savez(path, **({"x_train": x[:, None], "y_train": y} | more))
    return f"signals:{path}"


def test_channels_are_normalised_by_the_training_part(tmp_path: Path) -> None:
    data = SignalTask.load(waves(tmp_path / "w.npz"))
    assert data.task == SignalTask(1, 32, 3)
    train, val = data.arrays("train"), data.arrays("val")
    assert train is not None and val is not None
    assert train[0].mean() == pytest.approx(0, abs=1e-4) and train[0].std() == pytest.approx(1, rel=1e-4)
    assert abs(val[0].mean()) > 1e-5
    assert "150 signals of 1x32, 3 classes" in str(data.describe()["read"])
    assert SignalTask.load(waves(tmp_path / "n.npz", numbers=True)).task == SignalTask(1, 32, 0, 1)
    assert SignalTask.goals(f"signals:{tmp_path}/n.npz")[1] == "rmse"
    assert SignalTask.load(waves(tmp_path / "f.npz", x_train=np.ones((150, 32)))).task.to_json()["channels"] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"x_train": np.zeros((150, 3, 4, 4))},
            r"need numbers of shape \(N, channels, length\), .*; images are npz:FILE",
        ),
        (
            {"x_train": np.full((150, 1, 4), np.nan)},
            r"x_train: 600 values are not finite, the first nan at \[0, 0, 0\]",
        ),
        ({"x_train": np.zeros((9, 1, 4))}, "x_train has 9 signals but y_train 150 labels"),
        ({"x_val": np.zeros((9, 1, 4))}, "x_val is there without y_val"),
        ({"x_val": np.zeros((9, 1, 4)), "y_val": np.zeros(9, int)}, "signals of x_val are 1x4, those of x_train 1x32"),
        ({"x_val": np.zeros((0, 1, 32)), "y_val": np.zeros(0, int)}, "x_val holds no signal"),
        ({"y_train": np.array(7)}, "y_train is a single value, not an array"),
    ],
)
def test_mistakes_in_arrays(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        SignalTask.load(waves(tmp_path / "w.npz", **change))


def test_no_data_for_validation(tmp_path: Path) -> None:
    x = np.random.default_rng(0).normal(size=(2, 1, 8))
    with pytest.raises(InputError, match="no signal is left for validation; give more signals of each class"):
        SignalTask.load(waves(tmp_path / "w.npz", x_train=x, y_train=np.arange(2)))


def test_signals_are_neither_attacked_nor_shifted(tmp_path: Path) -> None:
    data = waves(tmp_path / "w.npz")
    with pytest.raises(InputError, match=r"attack and shift: only images are attacked and shifted, and .*for signals"):
        Train(SignalCNN(), data=data, attack="fgsm", shift="all")
    with pytest.raises(InputError, match=r"^shift: only images"):
        Train(SignalCNN(), data=data, shift="all")


@pytest.mark.parametrize("numbers", [False, True])
def test_signals_end_with_a_network_of_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run, one_thread: None, numbers: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Train, "inline", True)
    data = waves(Path("w.npz"), numbers=numbers)
    command = (
        f"search -s random -n 1 --data {data} --device cpu --no-report --scale channels=8 --epochs 8 -E batch_size=16"
    )
    (best,) = run(*command.split(), "--out", "a").accepted()
    assert best["space"]["name"] == "signal-cnn"
    assert best["metrics"]["test_r2" if numbers else "test_acc"] > (0.3 if numbers else 0.5)
    x = np.load("w.npz")["x_train"]
    np.savez("new.npz", x=x[:5])
    rows = run("predict", "a", "new.npz").accepted()
    assert [row["row"] for row in rows] == [1, 2, 3, 4, 5] and ("target" if numbers else "class") in rows[0]
    assert run("export", "a", "--to", "pt2").code == 0
    code: dict[str, Any] = {"__name__": "model"}
    exec(Path("a/model.py").read_text(), code)
    import torch

    with torch.no_grad():
        outputs = code["load"]("a/best.safetensors")(torch.tensor(x[:5]).float())
    found = outputs[:, 0] if numbers else outputs.softmax(1).amax(1)
    assert found.tolist() == pytest.approx([row["target" if numbers else "probability"] for row in rows], rel=1e-4)
    np.savez("short.npz", x=x[:5, :, :9])
    run("predict", "a", "short.npz").refused("signals are 1x9, the network is for signals of 1x32")


def test_weights_are_shared_for_signals(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run, one_thread: None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Supernet, "inline", True)
    command = f"search -s random --evaluator supernet -n 2 --data {waves(Path('w.npz'))} --device cpu --no-report"
    command += " --scale channels=4 --epochs 1 --retrain 0 -P stages=1 --out a"
    assert run(*command.split()).accepted()[0]["metrics"].keys() >= {"shared_acc", "shared_loss"}
