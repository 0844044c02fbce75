"""A made-up package that registers plugins: a metadata folder and a module on PYTHONPATH, no installation."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from nastool.core import registry

SLEEPY = '''
import hashlib, os, signal, time
from nastool.nets import checkpoints
from nastool.core.values import Evaluation
from nastool.core.errors import CannotGoOn
from nastool.core.evaluator import Evaluator

class Sleepy(Evaluator):
    """Takes a little while, so that it can be killed in the middle; costs no torch import."""
    name = "sleepy"

    def __init__(self, space, *, seconds: float = 0.02, misbehave: str = ""):
        super().__init__(space)
        self.seconds, self.misbehave = seconds, misbehave

    def prepare(self):
        if self.misbehave == "unprepared":
            from nastool.core.errors import InputError
            raise InputError("no such data: give other data")

    def evaluate(self, trial_id, proposal, *, seed, report):
        report(1, {"val_acc": 0.1})
        time.sleep(self.seconds)
        if trial_id % 5 == 3:
            hows = self.misbehave.split("+")  # one after the other
            how = hows[trial_id // 5 % len(hows)]
            if how == "raise":
                raise RuntimeError("made to fail")
            if how == "nan":
                return Evaluation({"val_acc": float("nan")}, 1.0)
            if how == "text":
                return Evaluation({"val_acc": "good"}, 1.0)
            if how == "set":
                return {"val_acc"}
            if how == "metrics":
                return Evaluation({"val_acc"}, 1.0)
            if how == "huge":
                return Evaluation({"val_acc": 10**400}, 1.0)
            if how == "policy":
                return Evaluation({"val_acc": 0.5}, 1.0, policy={"best": {1}})
            if how == "path":
                return Evaluation({"val_acc": 0.5}, 1.0, checkpoints)
            if how == "seconds":
                return Evaluation({"val_acc": 0.5}, None)
            if how == "report":
                report("first", {"val_acc": 0.1})
            if how == "die":
                os._exit(3)
            if how == "hang":
                time.sleep(1000)
            if how == "compute":
                until = time.monotonic() + 4
                while time.monotonic() < until:
                    pass
            if how == "stop":
                os.kill(os.getpid(), signal.SIGSTOP)
            if how == "native":
                import ctypes
                ctypes.PyDLL(None).sleep(1000)  # nothing else of Python runs meanwhile
            if how == "die-once" and not os.path.exists("died"):
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

class SleepyHeir(Sleepy):
    """Its checkpoints hold a number that follows from the parent's, and so does its accuracy."""
    name = "sleepy-heir"
    provides = frozenset({"budget", "warm-start"})

    def evaluate(self, trial_id, proposal, *, seed, report):
        report(1, {"val_acc": 0.1})
        before = ""
        if proposal.inherit and proposal.parent is not None:
            parent = self.workdir / checkpoints.name_of(proposal.parent)
            for path in (parent, checkpoints.optimizer_of(parent)):
                if not path.is_file():
                    raise CannotGoOn(f"there is no {path}: put it back")
                before += path.read_text()
        time.sleep(self.seconds)
        text = f"{before} {proposal.arch.choices} {float(proposal.budget or 0)} {proposal.annealing} {seed}"
        number = hashlib.blake2s(text.encode()).hexdigest()
        mine = self.workdir / checkpoints.name_of(trial_id)
        mine.parent.mkdir(exist_ok=True)
        for path in (checkpoints.optimizer_of(mine), mine) if proposal.inherit else (mine,):
            new = path.with_name(path.name + ".new")
            new.write_text(number)
            os.replace(new, path)
        return Evaluation({"val_acc": int(number[:8], 16) / 2**32}, self.seconds, checkpoints.name_of(trial_id))
'''


POINTS = "\n".join(
    [
        "sleepy = sleepy_plugin:Sleepy",
        "sleepy-inline = sleepy_plugin:SleepyInline",
        "sleepy-heir = sleepy_plugin:SleepyHeir",
    ]
)


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
    """The environment with the evaluators of SLEEPY."""
    return install(folder, "sleepy_plugin", SLEEPY, {"nastool.evaluators": POINTS})


@contextmanager
def here(folder: Path) -> Iterator[None]:
    """This process and those that it starts find what is installed in a folder; afterwards it finds nothing of it."""

    def forget() -> None:
        registry.plugins.cache_clear()
        registry.registered.cache_clear()

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        patch.setenv("PYTHONPATH", str(folder), prepend=os.pathsep)
        forget()
        yield
    forget()
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(f"{folder}{os.sep}"):
            del sys.modules[name]
