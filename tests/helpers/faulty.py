"""An evaluator that breaks on purpose. Workers import this file, so it imports little."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nastool.core.errors import OutOfMemory, TrialFailed
from nastool.core.evaluator import Evaluator, Report
from nastool.core.space import SearchSpace
from nastool.core.values import Evaluation, Proposal
from nastool.engine.executors.jobs import EvaluatorSpec
from nastool.spaces.nasbench201 import NasBench201

SPACE = NasBench201()

ILLEGAL = (
    "CUDA error: an illegal memory access was encountered\n"
    "CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be "
    "incorrect.\nFor debugging consider passing CUDA_LAUNCH_BLOCKING=1"
)
FULL = "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"


class AcceleratorError(RuntimeError):
    """Newer versions of torch have one."""


class OutOfMemoryError(RuntimeError):
    """As torch's."""


class Faulty(Evaluator):
    """Breaks on purpose; writes down in folder/log what ran where, and beside how many others.

    crowded: these trials need a GPU for themselves. large: micro-batches that this trial needs. broken: these GPUs
    fail always. once: these trials break their GPU on the first try. poison: these do so always. room: for the data of
    so many workers. unprepared: on these GPUs nothing can be prepared. dying: there workers die. meet: workers that
    have to have started before anything is evaluated.
    """

    name = "faulty"
    micro_batches = 1
    metrics = frozenset({"val_acc"})

    def __init__(self, space: SearchSpace, *, folder: Path, **how: Any) -> None:
        super().__init__(space)
        self.folder = folder
        self.how = how
        self.max_micro_batches = how.get("most", 16)
        self.gpu = os.environ.get("CUDA_VISIBLE_DEVICES", "none")

    def prepare(self) -> None:
        if self.gpu in self.how.get("unprepared", ()):
            raise AcceleratorError("CUDA error: uncorrectable ECC error encountered")
        if self.gpu in self.how.get("dying", ()):
            os._exit(3)
        (self.folder / "workers").mkdir(exist_ok=True)
        (self.folder / "workers" / f"{os.getpid()}").touch()
        if len(alive(self.folder / "workers")) > self.how.get("room", 10**9):
            raise OutOfMemory("the images take 2 GB, and 1 GB is free")

    def evaluate(self, trial_id: int, proposal: Proposal, *, seed: int, report: Report) -> Evaluation:
        while len(list(self.folder.glob("workers/*"))) < self.how.get("meet", 0):
            time.sleep(0.02)
        mine = self.folder / f"busy-{self.gpu}-{os.getpid()}"
        mine.touch()
        time.sleep(self.how.get("seconds", 0.1))
        others = len(list(self.folder.glob(f"busy-{self.gpu}-*"))) - 1
        self.note(f"{trial_id} {self.gpu} {others} {self.micro_batches}")
        try:
            if trial_id in self.how.get("crowded", ()) and others:
                raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            if self.micro_batches < self.how.get("large", {}).get(trial_id, 1):
                raise RuntimeError(FULL)
            if self.gpu in self.how.get("broken", ()) or trial_id in self.how.get("poison", ()):
                raise AcceleratorError(ILLEGAL)
            if trial_id in self.how.get("once", ()) and not (self.folder / f"broke-{trial_id}").exists():
                (self.folder / f"broke-{trial_id}").touch()
                raise AcceleratorError(ILLEGAL)
            if trial_id in self.how.get("wrong", ()):
                raise TrialFailed("diverged")
            time.sleep(0.1)
        finally:
            mine.unlink()
        metrics = {"val_acc": (seed % 1009) / 1009}
        return Evaluation({**metrics, "micro_batches": self.micro_batches} if self.micro_batches > 1 else metrics, 1.0)

    def test(self, proposal: Proposal, evaluation: Evaluation) -> Mapping[str, float]:
        self.note(f"test {self.gpu} 0 {self.micro_batches}")
        if self.micro_batches < self.how.get("test", 1):
            raise OutOfMemoryError("CUDA out of memory.")
        return {"test_acc": 0.5}

    def note(self, text: str) -> None:
        with (self.folder / "log").open("a") as file:
            file.write(text + "\n")


def alive(folder: Path) -> list[Path]:
    """Files that are named after processes which are there."""
    return [path for path in folder.iterdir() if Path(f"/proc/{path.name}").exists()]


@dataclass(frozen=True)
class FaultySpec(EvaluatorSpec):
    def build(self) -> Evaluator:
        return Faulty(SPACE, **self.options)
