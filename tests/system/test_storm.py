"""The whole of benchmarks/storm.py; a little of it whenever the tests run."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import storm

pytestmark = pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")


@pytest.mark.parametrize(
    "count, only", [(3, "evolution                        1"), pytest.param(200, "", marks=pytest.mark.slow)]
)
def test_kills(tmp_path: Path, count: int, only: str) -> None:
    tallies = storm.kills(count, 1, tmp_path, only)
    assert sum(tally.kills.total() for tally in tallies.values()) >= count
    assert not {label: str(tally) for label, tally in tallies.items() if not tally.sound}


@pytest.mark.slow
def test_fuzz(tmp_path: Path) -> None:
    found = storm.fuzz(100_000, 500, 1, tmp_path)
    assert found.inputs.total() >= 100_500
    assert not found.problems
