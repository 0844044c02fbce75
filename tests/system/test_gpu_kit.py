"""benchmarks/gpu.py, whole and in small, so that it is not broken on the day when there is a GPU."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import gpu


@pytest.mark.gpu
def test_the_kit(fake_machine: Callable[..., dict[str, str]], tmp_path: Path) -> None:
    command = [sys.executable, gpu.__file__, "--fake", "--minutes", "60", "--out", str(tmp_path)]
    first = subprocess.run([*command, "--only", "tests,agree,speed"], capture_output=True, text=True)
    assert first.returncode == 0 and "stopped" not in first.stdout, first
    second = subprocess.run(command, capture_output=True, text=True)
    assert second.returncode == 0 and "stopped" not in second.stdout, second
    begun = [line.partition(":")[0] for line in second.stdout.splitlines() if line.endswith(" s")]
    assert begun == ["facts", *list(gpu.PARTS)[3:]], "the others are finished"
    found = {
        path.stem: [json.loads(line) for line in path.read_text().splitlines()] for path in tmp_path.glob("*.jsonl")
    }
    assert found["tests"][-2]["code"] == 0
    assert [record["same"] for record in found["agree"][:-1]] == [True] * 3
    assert sum("ratio" in record for record in found["speed"]) == 7
    assert found["memory"][-2]["survived"]
    assert "each batch in 2 parts" in found["memory"][-2]["notes"][-1]
    assert found["workers"][-2]["same"]
    assert sum("round" in record for record in found["enas"]) == 2
    assert (tmp_path / "report.md").read_text() in second.stdout
