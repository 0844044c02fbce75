"""docs/tutorial.md runs from top to bottom."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.helpers.served import bash

TUTORIAL = Path(__file__).resolve().parents[2] / "docs" / "tutorial.md"


def script(text: str) -> str:
    """All code blocks, in order, for bash."""
    found = []
    for language, code in re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        assert language in ("sh", "python"), f"a block of {language} cannot be run"
        found.append(code if language == "sh" else f"python - <<'END'\n{code}END\n")
    return "\n".join(found)


def test_tutorial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NASTOOL_SEARCH_REPORT", "NASTOOL_RETRAIN_REPORT"):  # as a user has it
        monkeypatch.delenv(name, raising=False)
    result = bash(script(TUTORIAL.read_text()), tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    for name in ("one.svg", "runs/evolution/report.html", "runs/evolution/retrained/model.py", "network.py"):
        assert (tmp_path / name).stat().st_size > 1000, name
    assert list((tmp_path / "figures").glob("*.svg"))
    assert re.search(r'"image": ?"runs/evolution/retrained/examples/\d/0.png", ?"class": ?"\d"', result.stdout)
    assert "Traceback" not in result.stderr and "warning" not in result.stderr.lower()
