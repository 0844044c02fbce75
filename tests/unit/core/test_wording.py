"""Text from elsewhere does nothing to a terminal."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import pytest

from nastool import cli
from nastool.core import wording
from nastool.engine import results as product
from nastool.engine.store import Store
from tests.helpers import made_runs
from tests.helpers.running import Run

RED = "\x1b[31mred\x1b]0;title\x07\x9b1mC1\x7f\u202ereversed\r"


class TestText:
    @pytest.mark.parametrize(
        "command", [["status"], ["top"], ["top", "--text"], ["status", "--text"], ["show"], ["report"]]
    )
    def test_nothing_from_a_run_reaches_the_terminal_raw(self, run: Run, tmp_path: Path, command: list[str]) -> None:
        path = made_runs.folder(tmp_path / f"a{RED}", [0.5, f"no {RED}"], objective=None)
        with Store.open(path / "run.db") as store:
            store.begin()
            store.put("origin", {"evaluator": {"name": RED, "options": {RED: RED}}, "scale": {RED: 1}})
            store.commit()
        found = run(*command, str(path))
        for text in (found.out, found.err):
            assert wording.visible(text) == text, text
        if command == ["status"]:
            (facts,) = found.accepted()
            assert RED.strip() in facts["failures"][0]["error"]  # the same value, written harmlessly

    def test_usage_errors_neither(self, run: Run) -> None:
        found = run("top", f"--{RED}")
        assert found.code == 2 and wording.visible(found.err) == found.err

    def test_text_for_people_goes_through_one_function(self) -> None:
        """click.echo is left where text is our own, or bytes."""
        for path in Path(cli.__file__).parent.glob("*.py"):
            if path.stem not in ("common", "list_command", "complete", "completion_command"):
                lines = [line for line in path.read_text().splitlines() if "click.echo(" in line or "print(" in line]
                assert all("content.encode()" in line for line in lines), (path, lines)

    def test_json_and_plain_text_stay_what_they_are(self) -> None:
        plain = 'grüße, 日本, tab\t "quoted" \\ \n'
        assert wording.visible(plain) == plain
        assert json.loads(wording.visible(json.dumps({"a": RED}, ensure_ascii=False))) == {"a": RED}

    @pytest.mark.parametrize("text", ["=1+1", "+1", "-1+1", "@SUM(A1)", "\t=1"])
    def test_spreadsheets_carry_nothing_out(self, text: str) -> None:
        columns: dict[str, Any] = {text: ["plain", text], "value": [-0.5, 2]}
        rows = list(csv.reader(io.StringIO(product._table(columns), newline="")))
        assert rows == [["'" + text, "value"], ["plain", "-0.5"], ["'" + text, "2"]]
