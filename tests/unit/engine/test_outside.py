"""nastool.engine.outside: trials measured, and architectures proposed, by somebody else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import nastool
from nastool.core import registry
from nastool.core.errors import InputError
from nastool.core.values import SpaceRef
from nastool.engine import outside
from nastool.engine.outside import Stdin
from tests.helpers.running import Run

SPACE = registry.make_space(SpaceRef("nasbench201"))
OUTSIDE = ["search", "--evaluator", "external", "--space", "nasbench201", "-S", "population=3"]
CHOICES = {d.name: d.options[1] for d in SPACE.decisions}


def measured(line: Mapping[str, Any]) -> dict[str, Any]:
    """A result that says nothing of what is measured but the length of its options' names."""
    value = sum(map(len, line["choices"].values())) / 100
    return {"trial": line["trial"], "metrics": {"val_acc": value}, "seconds": 2}


@pytest.fixture
def begun(run: Run, tmp_path: Path) -> Path:
    assert run(*OUTSIDE, "-s", "evolution", "-n", "8", "-o", "r", stdin="").code == 0
    return tmp_path / "r"


def keys(study: nastool.Study) -> list[str]:
    return [trial.arch.key for trial in study.trials]


def test_many_short_processes_and_one_open_one_search_alike(
    begun: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asked and told in steps of any size it is the search of one process, and so it is when it is gone on with."""
    done = nastool.ask(begun, count=0, again=True)
    assert [line["trial"] for line in done] == [0]
    for line in done:
        nastool.tell(begun, measured(line))
    while asked := nastool.ask(begun):
        study = nastool.tell(begun, measured(asked[0]))
    assert study.state == "finished" and len(study.finished) == 8
    assert study.best is not None and study.document is not None
    assert study.document["metrics"]["val_acc"] == study.best.value == max(t.value or 0 for t in study.finished)

    # the same in one process, with somebody at the other end
    handed: list[dict[str, Any]] = []
    answers: list[tuple[str, str]] = []

    def out(line: Mapping[str, Any]) -> None:
        handed.append(dict(line))
        answers.append(("stdin", json.dumps(measured(line))))

    monkeypatch.setattr(outside, "_print", out)
    monkeypatch.setattr(outside, "Stdin", lambda: lambda seconds: [answers.pop()])
    assert run(*OUTSIDE, "-s", "evolution", "-n", "8", "-o", "s").code == 0
    assert [line["key"] for line in handed] == keys(study) == keys(nastool.Study.read("s"))


def test_results_come_in_any_order_and_some_are_failures(begun: Path) -> None:
    lines = [*nastool.ask(begun, count=2, again=True)]
    assert [line["trial"] for line in lines] == [0, 1, 2]
    study = nastool.tell(begun, [measured(lines[2]), {"trial": 0, "error": "no power", "fault": "machine"}])
    assert [(trial.id, trial.state) for trial in study.trials] == [(0, "failed"), (1, "running"), (2, "done")]
    assert (study.trials[0].error, study.trials[0].fault) == ("no power", "machine")
    assert study.trials[2].metrics["seconds"] == 2
    assert study.state == "interrupted"
    assert [line["trial"] for line in nastool.ask(begun)] == [3]  # what is open is not handed out again


def test_a_strategy_that_waits_hands_out_less(run: Run) -> None:
    run(*OUTSIDE[:-2], "-s", "local-search", "-n", "50", "-o", "r", stdin="")
    found = run("ask", "r", "-k", "60")
    assert found.code == 0 and len(found.out.splitlines()) < 60
    assert f"{len(found.out.splitlines())} of 60: no more trials, or the strategy wants results first" in found.err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"trial": 5, "metrics": {"val_acc": 1}}', "result 1: trial 5 is not open; open: 0"),
        ('{"trial": 0, "key": "abc", "metrics": {"val_acc": 1}}', "result 1: trial 0 is architecture"),
        ('{"trial": 0}', 'result 1: need "metrics" or "error" of trial 0'),
        ('{"trial": 0, "error": "x", "fault": "nap"}', "result 1: \"fault\" is 'nap'; did you mean 'nan'?"),
        ('{"trial": true, "error": "x"}', 'result 1: "trial" is the number of a trial, got True'),
        ('{"trial": 0, "metrics": {"val_acc": "high"}}', "result 1: val_acc is no number"),
        ('{"trial": 0, "metrics": {}}', 'result 1: "metrics" maps names to numbers, got {}'),
        ('{"trial": 0, "metrics": {"acc": 1}}', "gives no 'val_acc' to optimise, only acc, seconds"),
        ('{"metrics": {"val_acc": 1}}', 'result 1: need "trial" with a result, or "choices" of an architecture'),
        ('[{"trial": 0}]', "result 1: need a JSON object, got a list"),
        (json.dumps({"choices": CHOICES, "metrics": {"val_acc": 1}}), 'result 1: need "trial", as `nastool ask` gave'),
        ("nonsense", "stdin line 1: no valid JSON"),
    ],
)
def test_what_is_no_result_is_refused(line: str, message: str, begun: Path, run: Run) -> None:
    run("tell", "r", stdin=line).refused(message)
    study = nastool.Study.read(begun)
    assert [trial.state for trial in study.trials] == ["running"]  # nothing is lost


def test_what_came_before_a_bad_line_is_kept(begun: Path, run: Run) -> None:
    lines = nastool.ask(begun, count=1, again=True)
    text = "".join(json.dumps(line) + "\n" for line in [measured(lines[0]), {"trial": 9, "error": "x"}])
    run("tell", "r", stdin=text).refused("result 2: trial 9 is not open; open: 1")
    assert [trial.state for trial in nastool.Study.read(begun).trials] == ["done", "running"]


def test_a_run_that_measures_for_itself_is_refused(run: Run) -> None:
    tiny = ["-E", "train_size=40", "--epochs", "1", "--scale", "channels=2,cells=1", "--device", "cpu"]
    assert run("search", "-s", "random", *tiny, "-n", "1", "-o", "t").code == 0
    run("ask", "t").refused("t measures by evaluator train: begin it with --evaluator external")
    run(*OUTSIDE, "-s", "evolution", "--with-baseline", "-o", "v").refused(
        "--with-baseline: evaluator external is not asked"
    )
    run(*OUTSIDE, "--trial-timeout", "5", "-o", "u").refused("--trial-timeout: what is measured outside cannot be")


def test_proposals_come_from_outside(run: Run) -> None:
    """Each is answered with a line, also one that is none of the space; the search ends with stdin, and goes on."""
    tiny = ["-E", "train_size=40", "--epochs", "1", "--scale", "channels=2,cells=1", "--device", "cpu"]
    command = ["search", "-s", "external", "--space", "nasbench201", *tiny, "-o", "r", "--no-report"]
    string = "|none~0|+|none~0|none~1|+|skip_connect~0|none~1|none~2|"
    wrong = json.dumps({"choices": {**CHOICES, "1<-0": "skip"}})
    found = run(*command, stdin="\n".join([json.dumps({"choices": CHOICES}), wrong, string]))
    assert found.code == 0, found
    *answers, best = map(json.loads, found.out.splitlines())
    (error,) = (line["error"] for line in answers if "trial" not in line)
    assert error.startswith("stdin line 2: decision '1<-0' has no option 'skip'; did you mean 'skip_connect'")
    results = [line for line in answers if "trial" in line]
    assert [line["choices"] for line in results] == [
        CHOICES,
        {**dict.fromkeys(CHOICES, "none"), "3<-0": "skip_connect"},
    ]
    assert all(0 <= line["metrics"]["val_acc"] <= 1 for line in results) and best["run"] == "r"
    more = run("resume", "r", stdin=json.dumps({"choices": dict.fromkeys(CHOICES, "none")}))
    assert more.code == 0 and len(nastool.Study.read("r").finished) == 3


def test_proposals_with_results_make_a_run(run: Run) -> None:
    """What was measured elsewhere becomes a run that has all that runs have."""
    lines = [{"choices": {**CHOICES, "1<-0": o}, "metrics": {"val_acc": len(o)}} for o in SPACE.decisions[0].options]
    both = ["search", "-s", "external", "--evaluator", "external", "--space", "nasbench201", "-n", "99", "-o", "r"]
    found = run(*both, "--no-report", stdin="\n".join(map(json.dumps, lines[:3])))
    assert found.code == 0, found
    assert [trial.value for trial in nastool.Study.read("r").trials] == [4, 12, 12]
    study = nastool.tell("r", lines[3:])
    assert [trial.value for trial in study.trials] == [len(o) for o in SPACE.decisions[0].options]
    with pytest.raises(InputError, match="result 1: trial 0 is not open; open: none"):
        nastool.tell("r", {"trial": 0, **lines[0]})


AGENT = """
import json, random, sys
prompt = sys.stdin.read()
named = [line.partition(": one of ") for line in prompt.splitlines() if ": one of " in line]
first = "The best so far:\\n\\n" in prompt and "has no option" not in prompt
print("So I think:")
print(json.dumps({name: "bla" if first else options.split(", ")[len(prompt) % 5] for name, _, options in named}))
"""


def test_the_example_bridges_to_any_command(tmp_path: Path) -> None:
    """A program proposes, is told what was wrong with that, and proposes again."""
    (tmp_path / "agent.py").write_text(AGENT)
    example = Path(__file__).parents[3] / "docs" / "examples" / "agent.py"
    tiny = ["-E", "train_size=40", "--epochs", "1", "--scale", "channels=2,cells=1", "--device", "cpu"]
    search = ["--space", "nasbench201", *tiny, "-n", "2", "-o", "r", "--no-report"]
    command = [sys.executable, str(example), sys.executable, "agent.py", "--", *search]
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "PATH": path}, check=True, capture_output=True)
    assert len(nastool.Study.read(tmp_path / "r").finished) == 2


def test_lines_arrive_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading) as file:
        monkeypatch.setattr(sys, "stdin", file)
        stdin = Stdin()
        assert stdin(0) == []
        os.write(writing, b'{"a": 1}\n{"b"')
        assert stdin(1) == [("stdin line 1", '{"a": 1}')]
        os.write(writing, b": 2}\n\xc3\xa4")
        assert stdin(1) == [("stdin line 2", '{"b": 2}')]
        os.close(writing)
        assert stdin(1) == [("stdin line 3", "ä")] and stdin(1) is None
