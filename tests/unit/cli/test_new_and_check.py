"""`nastool new` writes plugins that work, and `nastool check` says what is wrong with one's own."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.helpers.running import Run


@pytest.mark.parametrize("kind", ["space", "evaluator", "task"])
def test_a_new_file_keeps_its_promises(run: Run, kind: str) -> None:
    made = run("new", kind, "my_own")
    assert made.code == 0 and "wrote my_own.py; next:\n  nastool check my_own.py:MyOwn\n" in made.err
    run("new", kind, "my_own").refused("my_own.py", "--force")
    assert run("new", kind, "MyOwn", "--force").code == 0
    found = run("check", "my_own.py:MyOwn")
    assert found.code == 0, found
    assert found.out.startswith(f"{kind} my_own.py:MyOwn@") and "ok     " in found.out and "wrong" not in found.out
    if kind == "space":
        assert "kernel0: 3, 5" in found.out and "ok     child equals supernet with its weights" in found.out


def test_a_new_strategy_searches(run: Run) -> None:
    assert run("new", "strategy", "my-own").code == 0
    assert run("new", "evaluator", "size").code == 0
    words = ["-s", "my_own.py:MyOwn", "-S", "explore=0.5", "--evaluator", "size.py:Size", "--executor", "inline"]
    found = run("search", *words, "-n", "8", "--out", "a")
    assert found.code == 0, found.err
    assert found.accepted()[0]["metrics"]["params_per_class"] > 0


@pytest.mark.parametrize("name", ["3d", "a b", "class", "-x", "ä/b"])
def test_a_name_that_is_none(run: Run, name: str) -> None:
    found = run("new", "space", "--", name)
    assert found.code == 2 and not list(Path().glob("*.py"))


STRATEGY = """
from nastool.core.strategy import Strategy
from nastool.core.values import Proposal
import random


class Mine(Strategy):
    "Draws with a generator of its own."

    def propose(self):
        choices = [random.randrange(len(decision.options)) for decision in self.space.decisions]
        return Proposal(self.space.arch(choices))

    def tell(self, trial):
        pass
"""


def test_broken_promises_are_told(run: Run, tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text(STRATEGY)
    found = run("check", "my.py:Mine")
    assert found.code == 1
    assert "wrong  follows its seed alone: " in found.out and "promises are broken" in found.out
    assert "ok     proposes members" in found.out


SPACE = """
from torch import nn
from nastool import choices as c


def conv(c_in, c_out):
    return nn.Sequential(nn.Conv2d(c_in, c_out, 3, padding=1), nn.ReLU())


class Net(c.Space):
    def network(self, choose, task, scale):
        one = choose.layer("one", {"narrow": lambda: conv(8, 8), "wide": lambda: conv(8, 16)})
        two = choose.layer("two", {"narrow": lambda: conv(8, 8), "wide": lambda: conv(16, 8), "none": nn.Identity})
        more = choose.layer("more", {"a": nn.ReLU, "b": nn.Sigmoid})
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, task.outputs))
        return nn.Sequential(conv(task.channels, 8), one, two, more, head)


class Large(c.Space):
    def network(self, choose, task, scale):
        flat = nn.Sequential(choose.layer("one", {"a": nn.ReLU, "b": nn.Sigmoid}), nn.Flatten())
        return nn.Sequential(flat, nn.Linear(64, task.outputs))


def alone():
    pass
"""


def test_options_that_do_not_fit_are_named(run: Run, tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text(SPACE)
    found = run("check", "my.py:Net")
    assert found.code == 1
    lines = [line.partition(": ")[0] for line in found.out.splitlines() if line.startswith("wrong")]
    assert sorted(lines) == [
        *("wrong  with one=narrow, two=wide", "wrong  with one=wide, two=narrow", "wrong  with one=wide, two=none"),
    ], "the fewest options that fail whatever the others are"
    assert "RuntimeError: " in found.out
    sized = run("check", "my.py:Large", "--data", "digits")
    assert sized.code == 0 or "wrong  networks fit any task" in sized.out  # made for 8x8 pixels alone
    assert "ok     all options fit together, for images of 1x8x8" in sized.out
    assert "wrong  with " in run("check", "my.py:Large").out
    run("check", "my.py:alone").refused("my.py, line 25: alone() is no evaluator")
    run("check", "nothing").refused("no space 'nothing'")


def test_functions(run: Run, tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text(
        "import numpy as np\ndef measure(network, trial):\n    return {'parts': len(list(network.modules()))}\n"
        "measure.objective = 'parts:min'\n"
        "def load():\n    return np.random.default_rng(0).random((100, 1, 8, 8)), np.arange(100) % 3\n"
    )
    assert "input=" in run("check", "my.py:measure").out
    for more in (["--data", "my.py:load"], ["-E", "input=3x8x8"]):
        assert run("check", "my.py:measure", *more).out.endswith("all is well\n")
    assert "ok     train: 60 examples" in run("check", "my.py:load").out
    run("check", "my.py:measure", "-E", "inputs=3").refused("has no option 'inputs'; did you mean 'input'?")


METRIC = """
import torch
from nastool.core.evaluator import Evaluator
from nastool.core.values import Evaluation


class Mine(Evaluator):
    metrics = frozenset({"loss"})
    objective = "loss:min"

    def prepare(self):
        pass

    def evaluate(self, trial_id, proposal, *, seed, report):
        return Evaluation({"loss": torch.zeros(SIZE)}, 0.1)
"""


def test_a_metric_that_is_a_tensor(run: Run, tmp_path: Path) -> None:
    words = ["search", "-s", "random", "--evaluator", "my.py:Mine", "--executor", "inline", "-n", "2"]
    (tmp_path / "my.py").write_text(METRIC.replace("SIZE", "2"))
    found = run(*words, "--out", "a")
    assert found.code == 1 and "see evaluator my.py:Mine@" in found.err
    assert "loss is no number that fits a float: it is of type Tensor: return loss.item(), of one element" in found.err
    (tmp_path / "my.py").write_text(METRIC.replace("SIZE", "()"))
    assert run(*words, "--out", "b").code == 0, "of one element it is a number"
