"""Long trainings that go on after an interruption, bit for bit, from the end of the last epoch that was kept."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nastool.core import files
from nastool.core.errors import CannotGoOn, InputError, why

if TYPE_CHECKING:
    from torch import Tensor

    from nastool.training.loop import Training

EVERY = 60.0
"""Seconds between two writings, at least; so shorter trainings are never written."""


class Unfinished:
    """What a training needs to go on, in a file beside the checkpoint that it will leave."""

    def __init__(self, path: Path | None, identity: Mapping[str, Any]) -> None:
        """Writes nothing yet.

        Args:
            path: The file; None: nothing is kept.
            identity: What tells this training from others, as JSON.
        """
        self.path = path
        self.identity = json.dumps(dict(identity), sort_keys=True)
        self._written = time.monotonic()

    def keep(self, training: Training, facts: Mapping[str, Any], *, now: bool = False) -> None:
        """Writes it, if it was not written lately.

        Args:
            training: Between two epochs.
            facts: What else is to be known again, as JSON.
            now: Write it in any case.

        Raises:
            CannotGoOn: The disk is full, or the folder cannot be written.
        """
        if self.path is None or (not now and time.monotonic() - self._written < EVERY):
            return
        tensors = {f"weights.{name}": value for name, value in training.network.state_dict().items()}
        tensors |= {f"memory.{name}": value for name, value in training.memory().items()}
        tensors |= {f"random.{name}": value for name, value in _random(training).items()}
        state = {"done": training.done, "begin": training.optimizer.begin, "micro_batches": training.micro_batches}
        about = {"identity": self.identity, "state": json.dumps(state), "facts": json.dumps(dict(facts))}
        try:
            files.write_tensors(self.path, tensors, about)
        except OSError as error:
            raise CannotGoOn(f"cannot write {self.path}: {why(error)}") from error
        self._written = time.monotonic()

    def take(self, training: Training) -> dict[str, Any] | None:
        """Has a training that is about to start go on from there; the facts. None: there is nothing of it."""
        import torch

        if self.path is None or not self.path.is_file():
            return None
        try:
            tensors, about = files.read_tensors(self.path)
        except InputError:  # damaged: it begins anew
            return None
        if about.get("identity") != self.identity:
            return None
        parts: dict[str, dict[str, Tensor]] = {"weights": {}, "memory": {}, "random": {}}
        for key, value in tensors.items():
            part, _, name = key.partition(".")
            parts[part][name] = value
        state = json.loads(about["state"])
        training.network.load_state_dict(parts["weights"])
        training.resume(parts["memory"], state["done"])
        training.optimizer.begin = state["begin"]
        training.micro_batches = state["micro_batches"]
        training.generator.set_state(parts["random"]["batches"])
        torch.set_rng_state(parts["random"]["cpu"])
        if "cuda" in parts["random"]:
            torch.cuda.set_rng_state(parts["random"]["cuda"], training.generator.device)
        facts: dict[str, Any] = json.loads(about["facts"])
        return facts

    def remove(self) -> None:
        """There is nothing to go on with any more."""
        if self.path is not None:
            with suppress(OSError):
                self.path.unlink(missing_ok=True)


def _random(training: Training) -> dict[str, Tensor]:
    """What is drawn next: batches, and what networks draw."""
    import torch

    found = {"batches": training.generator.get_state(), "cpu": torch.get_rng_state()}
    if training.generator.device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(training.generator.device)
    return found
