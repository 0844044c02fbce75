"""Trained networks: weights that say nonsense, and what is no image."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from safetensors import safe_open
from safetensors.numpy import save_file

import nastool
from nastool.core.errors import InputError
from nastool.deploy import models
from tests.helpers.running import Run


def test_numbers_that_are_none(run: Run, a: Path) -> None:
    line = json.loads((a / "best.json").read_text())
    for number in ("NaN", "1" + "0" * 400, "1e400"):
        text = json.dumps({**line, "metrics": {"val_acc": "NUMBER"}}).replace('"NUMBER"', number)
        run("show", "--text", "-", stdin=text).refused()
        for key in ("mean", "std", "scale", "task"):
            value = {"mean": f"[{number}]", "std": f"[{number}]"}.get(key, f'{{"channels": {number}}}')
            with pytest.raises(InputError, match="no checkpoint of nastool"):
                models.load(str(_spoiled(a, **{key: value})))


def _spoiled(folder: Path, **metadata: str) -> Path:
    path = folder / "best.safetensors"
    with safe_open(path, framework="np") as file:
        tensors, found = {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata())
    save_file(tensors, path, {**found, **metadata})
    return path


@pytest.mark.parametrize(
    "metadata",
    [{"scale": "5"}, {"scale": "[1]"}, {"std": "[0]"}, {"std": "[1e-300]"}, {"classes": "[0,1,2,3,4,5,6,7,8,9]"}],
    ids=str,
)
def test_weights_that_say_nonsense(a: Path, metadata: dict[str, str]) -> None:
    with pytest.raises(InputError, match="no checkpoint of nastool"):
        models.load(str(_spoiled(a, **metadata)))


def test_images_that_are_none(trained_run: Path) -> None:
    model = nastool.load(trained_run)
    good = np.random.default_rng(0).integers(0, 256, (3, 1, 8, 8), dtype=np.uint8)
    wanted = model.predict(good)
    views: list[NDArray[np.uint8]] = [good[::-1][::-1], np.ascontiguousarray(good[::-1])[::-1]]
    good.flags.writeable = False
    for same in (good, *views):
        assert np.array_equal(model.predict(same), wanted)
    bad: list[Any] = [good / 255, good[0], good.repeat(3, 1), good.tolist(), None]
    for each in bad:
        with pytest.raises(InputError, match="uint8"):
            model.predict(each)
