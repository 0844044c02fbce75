"""Blocks as text and Markdown."""

from __future__ import annotations

import pytest

from nastool.analysis.blocks import Block, Heading, Lines, Listing, Table, markdown, text

TABLE = Table(
    ("strategy", "6", "24", "reached"),
    [("evolution(population=4, tournament=2)", "11.731 ± 1.122", "9.063 ± 0.740", "0.0%"), ("random", "7", "8", "9")],
)


@pytest.mark.parametrize("width", [30, 50, 60, 72, 80, 100])
def test_no_cell_is_cut(width: int) -> None:
    """Where a table has no room, its cells are broken between words, the first column first; else they stand below."""
    shown = text([TABLE], width)
    assert max(map(len, shown.splitlines())) <= max(width, len("evolution(population=4, tournament=2)") * (width < 40))
    for word in ("reached", "evolution(population=4,", "tournament=2)", "11.731", "1.122", "9.063", "0.0%"):
        assert word in shown, (width, shown)
    assert ("reached: 0.0%" in shown) == (width < 60)


def test_control_characters_are_written_out() -> None:
    shown = text([Heading("a\x1b[31m"), Lines(("b\x1b",)), Table(("h\x1b",), [("c\x1b",)])], 80)
    assert "\x1b" not in shown and shown.count("\\u001b") == 4


def test_markdown() -> None:
    table = Table(("h|", "n"), [("_v_", "1")])
    blocks: list[Block] = [Heading("a_b *c*", 1), Lines(("one <b>",)), Lines(("x", "y")), Listing("nastool"), table]
    assert markdown(blocks).split("\n\n") == [
        "# a_b \\*c\\*",
        "one \\<b\\>",
        "- x\n- y",
        "```\nnastool\n```",
        "| h\\| | n |\n| --- | ---: |\n| \\_v\\_ | 1 |\n",
    ]
