"""Whatever a plugin of another package does wrong is said in one line that names it, its file and the line."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.plugins import here, install
from tests.helpers.running import Run, changed

SOURCE = """
import math, sys
from nastool.core.values import Evaluation, Proposal
from nastool.core.evaluator import Evaluator
from nastool.core.strategy import Strategy
from nastool.spaces.nasbench201 import NasBench201

class Odd(Evaluator):
    \"\"\"Measures oddly.\"\"\"
    name = "odd"
    inline = True
    metrics = frozenset({"score"})
    objective = "score:max"

    def __init__(self, space, *, kind: str = "", after: int = 0):
        \"\"\"Makes one.

        Args:
            kind: What is odd.
            after: Number of trials that are not.
        \"\"\"
        super().__init__(space)
        self.kind, self.after = kind, after
        if kind == "objective":
            self.objective = "score"

    def prepare(self):
        if self.kind == "prepare":
            self.nothing.x

    def describe(self):
        return None if self.kind == "describe" else {}

    def evaluate(self, trial_id, proposal, *, seed, report):
        kind = self.kind if trial_id >= self.after else ""
        if kind == "report":
            report("one", {})
        if kind == "no seconds":
            return Evaluation({"score": 1.0})
        if kind == "exit":
            sys.exit(3)
        if kind == "dict":
            return {"score": 1.0}
        value = {"huge": 10**400, "text": "0.7", "none": None, "complex": 1j, "list": [1.0]}.get(kind, 1.0)
        metrics = {} if kind == "missing" else {"score": value}
        return Evaluation(metrics, {"negative": -1.0, "nan": math.nan, "seconds": "1"}.get(kind, 1.0))

class Lists(Odd):
    \"\"\"Declares a list.\"\"\"
    name = "lists"
    metrics = ["score"]

class Wild(Strategy):
    \"\"\"Proposes oddly.\"\"\"
    name = "wild"

    def __init__(self, space, *, seed: int = 0, kind: str = ""):
        super().__init__(space, seed=seed)
        self.kind = kind

    def propose(self):
        arch = self.space.sample(self.rng)
        far = type(arch)(arch.space, (99,) * 6)
        return {
            "none": None, "text": "x", "arch": arch, "choices": Proposal(arch.choices), "far": Proposal(far),
            "parent": Proposal(arch, parent="x"), "budget": Proposal(arch, budget=math.nan),
            "notes": Proposal(arch, notes={"x": {1}}),
        }.get(self.kind, Proposal(arch))

    def tell(self, trial):
        pass

    def state_dict(self):
        return {"x": {1}} if self.kind == "state" else super().state_dict()

class Nowhere(NasBench201):
    \"\"\"Draws oddly.\"\"\"
    name = "nowhere"

    def sample(self, rng):
        arch = super().sample(rng)
        return type(arch)(arch.space, (0.5,) * 6)
"""
POINTS = {
    "nastool.evaluators": "odd = odd_plugins:Odd\nlists = odd_plugins:Lists",
    "nastool.strategies": "wild = odd_plugins:Wild",
    "nastool.spaces": "nowhere = odd_plugins:Nowhere",
}


@pytest.fixture
def plugged(tmp_path: Path) -> Iterator[None]:
    install(tmp_path / "there", "odd_plugins", SOURCE, POINTS, "odd-package")
    with here(tmp_path / "there"):
        yield


EVALUATIONS = {
    "objective": "objective 'score': write METRIC:max",
    "prepare": "raised AttributeError",
    "describe": "returned no mapping: None",
    "report": "step is no number",
    "no seconds": "missing 1 required positional argument: 'seconds'",
    "exit": "SystemExit: 3",
    "dict": "the evaluator returned a dict, not an Evaluation",
    "huge": "score is no number that fits a float",
    "text": "score is no number that fits a float",
    "none": "score is no number that fits a float",
    "complex": "score is no number that fits a float",
    "list": "score is no number that fits a float",
    "missing": "gives no 'score' to optimise, only seconds",
    "negative": "the evaluation's seconds are -1.0",
    "nan": "the evaluation's seconds are nan",
    "seconds": "seconds is no number that fits a float",
}


SEARCH = ["search", "-s", "random", "-n", "12", "--out", "a", "--evaluator", "odd"]


def refused(run: Run, *words: str) -> str:
    """The one line that an attempt ends with."""
    found = run(*changed(SEARCH, *words))
    assert found.code in (1, 2) and not found.out and "internal error" not in found.err, found
    assert " failed: " not in found.err, "no trial fails before"
    return found.err.splitlines()[-1]


@pytest.mark.usefixtures("plugged")
@pytest.mark.parametrize("kind", EVALUATIONS)
def test_odd_evaluations(run: Run, kind: str) -> None:
    line = refused(run, "-E", f"kind={kind}")
    assert EVALUATIONS[kind] in line
    assert re.search(r"evaluator odd of package odd-package \(odd_plugins.py, line \d+\)", line), line


@pytest.mark.usefixtures("plugged")
def test_after_one_that_was_right_a_trial_fails(run: Run) -> None:
    found = run(
        "search", "-s", "random", "-n", "3", "--out", "a", "--evaluator", "odd", "-E", "kind=huge", "-E", "after=2"
    )
    assert found.code == 0 and "trial 2 failed: TypeError: score is no number" in found.err


@pytest.mark.usefixtures("plugged")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--evaluator", "lists"], "evaluator lists of package .*: metrics is .'score'., not a set of names"),
        *(
            (["-s", "wild", "-S", f"kind={kind}"], f"strategy wild of package .* proposed {message}")
            for kind, message in {
                "none": "nothing",
                "text": "what is no proposal: TypeError: it is of type str",
                "arch": "what is no proposal: TypeError: it is of type Arch",
                "choices": "what is no proposal: AttributeError",
                "far": "what is no proposal: ValueError: no member of space nasbench201",
                "parent": "what is no proposal: ValueError: its parent is 'x'",
                "budget": "what is no proposal: ValueError: its budget is nan",
                "notes": "what is no proposal: TypeError: Object of type set is not JSON",
            }.items()
        ),
        (["-s", "wild", "-S", "kind=state"], "strategy wild of package .*: its state is no JSON"),
        (
            ["--space", "nowhere"],
            "space nowhere of package odd-package .odd_plugins.py, line .* raised TypeError",
        ),
    ],
)
def test_odd_declarations_proposals_and_spaces(run: Run, words: list[str], message: str) -> None:
    assert re.search(message, line := refused(run, *words)), line


def test_explanations_without_docstrings(tmp_path: Path) -> None:
    """python -OO forgets them."""
    environment = install(tmp_path, "odd_plugins", SOURCE, POINTS, "odd-package")
    environment["PYTHONDONTWRITEBYTECODE"] = "1"
    code = "import sys; from nastool.cli import run\nfor line in sys.argv[1:]: sys.argv[1:] = line.split(); run()"
    words = ["list evaluators odd", "list strategies evolution", "--help"]
    command = [sys.executable, "-OO", "-c", code, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    for text in ("Number of trials that are not", "Number of individuals alive", "Search for an arch", "Neural arch"):
        assert text in done.stdout, done
