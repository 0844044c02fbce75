"""A made-up package that registers plugins: a metadata folder and a module on PYTHONPATH, no installation."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

SLEEPY = '''
import os, time
from nastool.core import Evaluation
from nastool.interfaces import Evaluator

class Sleepy(Evaluator):
    """Takes a little while, so that it can be killed in the middle; costs no torch import."""
    name = "sleepy"

    def __init__(self, space, *, seconds: float = 0.02, misbehave: str = ""):
        super().__init__(space)
        self.seconds, self.misbehave = seconds, misbehave

    def prepare(self):
        if self.misbehave == "unprepared":
            from nastool.errors import InputError
            raise InputError("no such data: give other data")

    def evaluate(self, trial_id, proposal, *, seed, report):
        report(1, {"val_acc": 0.1})
        time.sleep(self.seconds)
        if trial_id % 5 == 3:
            if self.misbehave == "raise":
                raise RuntimeError("made to fail")
            if self.misbehave == "nan":
                return Evaluation({"val_acc": float("nan")}, 1.0)
            if self.misbehave == "text":
                return Evaluation({"val_acc": "good"}, 1.0)
            if self.misbehave == "die":
                os._exit(3)
            if self.misbehave == "hang":
                time.sleep(1000)
            if self.misbehave == "die-once" and not os.path.exists("died"):
                open("died", "w").close()
                os.kill(os.getpid(), 9)
        if self.misbehave == "always":
            raise RuntimeError("made to fail")
        value = (hash(proposal.arch.choices) % 1009 + seed % 89) / 1100
        if self.misbehave == "numpy":
            import numpy
            return Evaluation({"val_acc": numpy.float32(value), "params": numpy.int64(10)}, numpy.float64(1))
        return Evaluation({"val_acc": value, "params": 10}, self.seconds)

    def test(self, proposal, evaluation):
        return {"test_acc": evaluation.metrics["val_acc"] / 2}

class SleepyInline(Sleepy):
    """The same in the coordinator."""
    name = "sleepy-inline"
    inline = True
'''


POINTS = "sleepy = sleepy_plugin:Sleepy\nsleepy-inline = sleepy_plugin:SleepyInline"


def install(
    folder: Path, module: str, source: str, points: Mapping[str, str], distribution: str | None = None
) -> dict[str, str]:
    """Write module and metadata into folder; returns the environment in which nastool finds them.

    points: entry-point group -> "name = module:Class", one a line.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{module}.py").write_text(source)
    name = distribution or module
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    lines = "".join(f"[{group}]\n{entries}\n" for group, entries in points.items())
    (metadata / "entry_points.txt").write_text(lines)
    path = os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")]))
    # Without devices to count there is no need for torch.
    return {**os.environ, "PYTHONPATH": path, "CUDA_VISIBLE_DEVICES": ""}


def sleepy(folder: Path) -> dict[str, str]:
    """The environment with evaluator "sleepy"."""
    return install(folder, "sleepy_plugin", SLEEPY, {"nastool.evaluators": POINTS})
