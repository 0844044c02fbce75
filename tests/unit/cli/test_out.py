"""Files that commands write: where they may be, and what they may replace."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.helpers import made_runs
from tests.helpers.running import Run

OUTPUTS = {
    "report": ["report", "a", "-o"],
    "compare": ["compare", "a", "-o"],
    "export": ["export", "a", "--to", "python", "--force", "-o"],
    "weights": ["export", "a", "--to", "safetensors", "--force", "-o"],
    "svg": ["show", "a", "--to", "svg", "--force", "-o"],
    "png": ["show", "a", "--to", "png", "--force", "-o"],
    "plot": ["plot", "a", "-f", "best-over-trials", "-o"],
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_places_for_output(run: Run, a: Path, name: str) -> None:
    before = sorted(path.name for path in a.parent.iterdir())
    for out in ("missing/x.png", "x" * 300 + ".png", "y" * 260, *(["", "."] if name != "plot" else [])):
        run(*OUTPUTS[name], out).refused("--out" if len(out) < 250 or name == "plot" else "")
    assert sorted(path.name for path in a.parent.iterdir()) == before
    odd = os.fsdecode(b"\xff\n<b>%#?.png")
    assert run(*OUTPUTS[name], odd).code == 0
    assert Path(odd).stat().st_size


def test_programs_are_written_to_names_that_are_no_text(run: Run, a: Path) -> None:
    """torch ends the process for such a name."""
    name = os.fsdecode(b"\xff.pt2")
    assert run("export", "a", "--to", "pt2", "-o", name).code == 0
    assert Path(name).stat().st_size


class TestOut:
    COMMANDS = (
        ["report", "a", "-o", "out.html"],
        ["plot", "a", "-f", "best-over-trials", "-o", "out.png"],
        ["compare", "a", "b", "-o", "out.md"],
        ["show", "zoo:darts-v2", "--to", "svg", "-o", "out.svg"],
        ["export", "zoo:darts-v2", "--to", "python", "--input", "3x32x32", "-o", "out.py"],
    )

    @pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command[0])
    def test_a_file_that_is_there_is_replaced_only_if_told_to(
        self, run: Run, tmp_path: Path, command: list[str]
    ) -> None:
        for seed, name in enumerate("ab"):
            made_runs.folder(tmp_path / name, [0.5, 0.6], seed=seed)
        out = tmp_path / command[-1]
        out.write_text("mine")
        (tmp_path / f"{command[-1]}.new").write_text("mine, too")
        run(*command).refused(command[-1], "exists", "--force to replace it")
        assert out.read_text() == "mine"
        assert run(*command, "--force").code == 0
        assert b"mine" != out.read_bytes()
        assert (tmp_path / f"{command[-1]}.new").read_text() == "mine, too"

    @pytest.mark.parametrize("command", [["report", "a"], ["plot", "a", "-f", "best-over-trials"]], ids=lambda c: c[0])
    def test_what_nastool_made_of_a_run_may_be_made_again(self, run: Run, tmp_path: Path, command: list[str]) -> None:
        made_runs.folder(tmp_path / "a", [0.5, 0.6])
        for _ in range(2):
            found = run(*command)
            assert found.code == 0, found
        (out,) = {*tmp_path.glob("a/report.html"), *tmp_path.glob("a/figures/*")}
        out.write_text("mine")
        run(*command).refused(out.name, "exists")
        assert out.read_text() == "mine"

    def test_devices_are_no_files_to_keep(self, run: Run) -> None:
        assert run("show", "zoo:darts-v2", "--to", "svg", "-o", "/dev/null").code == 0
