from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from nastool.core import files
from nastool.core.errors import InputError
from nastool.ensembles import metrics, stored
from nastool.nets import checkpoints
from tests.unit.ensembles.test_metrics import drawn

ABOUT = {"fingerprint": "0123abcd", "seed": "5", "data": "digits", "options": '{"split_seed": 3}'}


def kept(path: Path, seed: int = 1, **about: str) -> Path:
    """A checkpoint with predictions beside it."""
    weights = {"a": torch.full((2,), float(seed))}
    checkpoints.write(path, weights, None, {})
    probabilities, labels = drawn(seed, members=1)
    stored.write(path, probabilities[0], labels, {**ABOUT, **about})
    return path


def test_probabilities_come_back_however_near_to_0_or_1(tmp_path: Path) -> None:
    path = kept(tmp_path / "trial-000001.safetensors")
    labels = np.zeros(4, int)
    given = np.array([[1 - 1e-6, 1e-6, 0.0], [0.99, 0.01 - 1e-9, 1e-9], [1 / 3, 1 / 3, 1 / 3], [0.5, 0.25, 0.25]])
    stored.write(path, given, labels, ABOUT)
    found = stored.read(path)
    assert found.logs.dtype == np.float16 and found.probabilities.dtype == np.float32
    assert np.allclose(found.probabilities, given, rtol=0.01, atol=1e-11)
    assert np.allclose(found.probabilities.sum(-1), 1) and list(found.labels) == [0, 0, 0, 0]
    for row in range(4):
        wanted = -np.log(np.maximum(given[row], metrics.FLOOR))
        assert np.allclose(-np.log(found.probabilities[row]), wanted, rtol=2e-3, atol=1e-6)
    assert stored.options(found.about) == {"split_seed": 3} and found.about["seed"] == "5"


def test_what_is_missing_damaged_or_of_other_weights(tmp_path: Path) -> None:
    path = kept(tmp_path / "trial-000001.safetensors")
    beside = checkpoints.predictions_of(path)
    whole = beside.read_bytes()
    for content, words in (
        (whole[: len(whole) // 2], "is damaged"),
        (whole[:4], "is damaged"),
        (b"", "is damaged"),
    ):
        beside.write_bytes(content)
        with pytest.raises(InputError, match=words):
            stored.read(path)
    files.write_tensors(beside, {"val": torch.zeros(2)}, {"fingerprint": "0123abcd"})
    with pytest.raises(InputError, match="no predictions of this version"):
        stored.read(path)
    beside.unlink()
    with pytest.raises(InputError, match="has no predictions beside it"):
        stored.read(path)
    kept(path)
    checkpoints.write(path, {"a": torch.zeros(2)}, None, {})
    with pytest.raises(InputError, match=r"of other weights than trial-000001\.safetensors"):
        stored.read(path)


def test_numbers_that_are_none(tmp_path: Path) -> None:
    path = kept(tmp_path / "trial-000001.safetensors")
    stored.write(path, np.full((3, 2), np.nan), np.zeros(3, int), ABOUT)
    with pytest.raises(InputError, match="its numbers are no predictions"):
        stored.read(path)


def test_only_the_same_data_and_split_can_be_averaged(tmp_path: Path) -> None:
    first = stored.read(kept(tmp_path / "trial-000001.safetensors"))
    again = stored.read(kept(tmp_path / "trial-000002.safetensors", seed=1))
    stored.check_same([first, again])
    for name, seed, about in (("3", 1, {"fingerprint": "ffffffff", "data": "shapes"}), ("4", 2, {})):
        other = stored.read(kept(tmp_path / f"trial-00000{name}.safetensors", seed, **about))
        with pytest.raises(InputError) as caught:
            stored.check_same([first, other])
        assert f"predicts other data, {other.data}, than" in str(caught.value) and len(str(caught.value)) < 400


def test_a_disk_that_is_full_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = kept(tmp_path / "trial-000001.safetensors")
    before = checkpoints.predictions_of(path).read_bytes()
    with pytest.raises(OSError), monkeypatch.context() as patched:
        patched.setattr("nastool.core.files.os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "full")))
        probabilities, labels = drawn(2, members=1)
        stored.write(path, probabilities[0], labels, ABOUT)
    assert checkpoints.predictions_of(path).read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == [checkpoints.predictions_of(path).name, path.name]
