"""What trained networks say of the validation data, kept beside their weights: what ensembles are chosen by.

`checkpoints/trial-000012.predictions.safetensors` holds log-probabilities (samples, classes) in half precision, so that
each is good to 0.05% of its logarithm, however near to 0 or 1 it is, and the labels (samples,). Its metadata name the
weights, the data with their split ("fingerprint"), and with what options these are read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nastool.core import files
from nastool.core.errors import InputError, short
from nastool.ensembles.metrics import FLOOR, Labels, Probabilities
from nastool.nets import checkpoints

MOST = 64_000_000
"""Bytes of a network's predictions beyond which they are kept only if that is asked for."""


def size(samples: int, classes: int) -> int:
    """Bytes that the predictions of a network take."""
    return samples * (2 * classes + 4)


def write(checkpoint: Path, probabilities: Probabilities, labels: Labels, about: Mapping[str, str]) -> None:
    """Writes the predictions of a checkpoint's network beside it, whole or not at all. OSError.

    Args:
        checkpoint: File of the weights, which is there.
        probabilities: (samples, classes).
        labels: (samples,).
        about: "fingerprint" of the data; "seed" of the training; "data" and "options", JSON, with which they are read.
    """
    from safetensors.numpy import save

    logs = np.log(np.maximum(probabilities, FLOOR), dtype=np.float32).astype(np.float16)
    weights = files.check_tensors(checkpoint).get("digest", "")
    content = save({"logs": logs, "labels": np.asarray(labels, np.int32)}, {**about, "weights": weights})
    with files.replacing(checkpoints.predictions_of(checkpoint)) as file:
        file.write(content)


@dataclass(frozen=True)
class Stored:
    """Predictions of one network, as they were kept."""

    checkpoint: Path
    """File of its weights, whether or not that is there."""
    logs: NDArray[np.float16]
    """Log-probabilities, (samples, classes)."""
    labels: NDArray[np.int32]
    about: Mapping[str, str]

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """(samples, classes), rows sum to 1."""
        found = np.exp(self.logs, dtype=np.float32)
        found /= found.sum(-1, keepdims=True)
        return found

    @property
    def data(self) -> str:
        """The data's name and fingerprint, for messages."""
        return f"{short(self.about.get('data', '?'), 100)} [{self.about.get('fingerprint', '?')}]"


def read(checkpoint: Path) -> Stored:
    """The predictions beside a checkpoint. InputError: there are none, they are damaged, or of other weights."""
    path = checkpoints.predictions_of(checkpoint)
    if not path.is_file():
        raise InputError(f"{short(checkpoint, 200)} has no predictions beside it")
    with files.open_tensors(path) as file:
        about = dict(file.metadata() or {})
        if not {"logs", "labels"} <= set(file.keys()) or "fingerprint" not in about:
            raise InputError(f"{short(path, 200)} holds no predictions of this version: they have to be made again")
        logs, labels = file.get_tensor("logs"), file.get_tensor("labels")
    if logs.ndim != 2 or labels.shape != logs.shape[:1] or not np.isfinite(logs).all():
        raise InputError(f"{short(path, 200)} is damaged: its numbers are no predictions")
    if checkpoint.is_file() and files.check_tensors(checkpoint).get("digest", "") != about.get("weights"):
        raise InputError(f"{short(path, 200)} is of other weights than {checkpoint.name} beside it")
    return Stored(checkpoint, logs, labels, about)


def check_same(stored: Sequence[Stored]) -> None:
    """InputError: they are of other data, or of another split of them, so that nothing can be averaged."""
    first = stored[0]
    for other in stored[1:]:
        same = first.about["fingerprint"] == other.about["fingerprint"] and first.logs.shape == other.logs.shape
        if not same or not np.array_equal(first.labels, other.labels):
            one, two = short(other.checkpoint, 80), short(first.checkpoint, 80)
            raise InputError(
                f"{one} predicts other data, {other.data}, than {two}, {first.data}: name runs with the same data and "
                "split"
            )


def options(about: Mapping[str, str]) -> dict[str, Any]:
    """With what options a task's `load` reads the data. InputError: it is no JSON."""
    try:
        found: dict[str, Any] = dict(json.loads(about.get("options", "{}")))
    except (TypeError, ValueError):
        raise InputError("predictions do not say how their data are read") from None
    return found
