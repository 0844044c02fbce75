"""Commands in pipes, as bash runs them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.helpers.running import Outcome

Bash = Callable[[str], Outcome]
TRAIN = "--data digits --epochs 1 -E train_size=60 --scale channels=4,cells=1 --device cpu"


@pytest.fixture
def bash(tmp_path: Path) -> Bash:
    def run(script: str) -> Outcome:
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        whole = ["bash", "-c", f"set -o pipefail; {script}"]
        result = subprocess.run(whole, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
        assert "Traceback" not in result.stderr and "Exception" not in result.stderr, result.stderr
        return Outcome(result.returncode, result.stdout, result.stderr)

    return run


def test_sample_eval_top_export(bash: Bash, tmp_path: Path) -> None:
    done = bash(
        f"nastool sample --space nasbench201 -n 3 --seed 1 | nastool eval - {TRAIN} --save kept | tee lines.jsonl "
        "| nastool top - -k 1 --objective test_acc | tee best.json | nastool export --to python"
    )
    assert done.code == 0, done
    lines = [json.loads(line) for line in (tmp_path / "lines.jsonl").read_text().splitlines()]
    best = json.loads((tmp_path / "best.json").read_text())
    assert best["metrics"]["test_acc"] == max(line["metrics"]["test_acc"] for line in lines)
    assert done.out == "" and Path(best["weights"]).parts[:2] == ("kept", "checkpoints")
    done = bash(f"python model.py {best['weights']}")
    assert "parameters; to classify: python model.py" in done.out
    assert best["key"] in (tmp_path / "model.py").read_text()


def test_first_failure_is_the_pipes(bash: Bash) -> None:
    done = bash(f"nastool sample --space nasbench201 -n 2 | nastool eval - {TRAIN} --recipe nonsense | nastool top -")
    assert done.code != 0 and "nonsense" in done.err


@pytest.mark.parametrize("command", ["sample --space nasbench201 -n 20000 --no-dedup", "top lines.jsonl -k 20000"])
def test_closed_pipe(bash: Bash, command: str) -> None:
    """Whoever reads has seen enough: no error, no message, exit code 0."""
    if command.startswith("top"):
        metric = '{"metrics":{"val_acc":0.5},'
        assert (
            bash(f"nastool sample --space nasbench201 -n 20000 --no-dedup | sed 's/^{{/{metric}/' > lines.jsonl").code
            == 0
        )
    done = bash(f"nastool {command} | head -1; echo ${{PIPESTATUS[0]}}")
    line, status = done.out.splitlines()
    assert json.loads(line)["space"]["name"] == "nasbench201"
    assert status == "0" and done.err == ""


def test_closed_pipe_of_an_evaluation(bash: Bash, nasbench201_table: str) -> None:
    look_up = f"--evaluator table -E file={nasbench201_table}"
    done = bash(
        f"nastool sample --space nasbench201 -n 3 | nastool eval - {look_up} | head -1; echo ${{PIPESTATUS[*]}}"
    )
    line, status = done.out.splitlines()
    assert "metrics" in json.loads(line) and status == "0 0 0"


def test_lines_from_windows_and_a_partial_last_one(bash: Bash, tmp_path: Path, nasbench201_table: str) -> None:
    """What is whole is evaluated, and what is cut off is named."""
    look_up = f"--evaluator table -E file={nasbench201_table}"
    assert bash("nastool sample --space nasbench201 -n 3 > lines.jsonl").code == 0
    first, second, third = (tmp_path / "lines.jsonl").read_bytes().splitlines()
    (tmp_path / "windows.jsonl").write_bytes(b"\r\n".join([first, second, third[: len(third) // 2]]))
    done = bash(f"nastool eval - {look_up} < windows.jsonl | tee out.jsonl | nastool top - -k 5")
    assert done.code == 2  # of eval
    assert len(done.out.splitlines()) == 2
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2
    assert "stdin" in done.err and "3" in done.err
    (tmp_path / "whole.jsonl").write_bytes(b"\r\n".join([first, second, third]))  # without a last line end
    assert len(bash("nastool show - --json < whole.jsonl").out.splitlines()) == 3
