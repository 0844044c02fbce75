"""What the runs of `nastool bench` say, against values worked out by hand."""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nastool.analysis.bench.benchmark import Facts
from nastool.analysis.bench.journal import Content, Key, Record, Strategy
from nastool.analysis.bench.loop import Best, Budget, Ended, Run
from nastool.analysis.bench.results import Group, compare, gains, groups
from nastool.analysis.bench.view import View, parse_seeds
from nastool.core.errors import InputError

FACTS = Facts("t", "table", "t.npz", "f", "val", "test", 100, 100, optimum=0.9, worst=0.1, mean_seconds=10.0)
STRATEGIES = {name: Strategy(name, name, name, {}) for name in ("a", "b", "c")}


def run(
    *best: tuple[int, float],
    queries: int = 10,
    ended: Ended = "trials",
    budget: Budget | None = None,
    spent: Sequence[float] | None = None,
) -> Run:
    """A run whose incumbent is worth so much since that query."""
    found = tuple(Best(query, value, value, 1 + round(100 * (0.9 - value))) for query, value in best)
    seconds = [10.0 * (i + 1) for i in range(queries)] if spent is None else spent
    return Run(budget or Budget(queries), ended, queries, found, array("d", seconds))


def group(*runs: Run, name: str = "a") -> Group:
    records = {seed: Record(run, 0.001, "0", "") for seed, run in enumerate(runs)}
    return Group(STRATEGIES[name], FACTS, name, records)


def view(trials: int = 10, at: Sequence[int] = (5, 10), target: float = 0.0) -> View:
    return View.of("100", Budget(trials), at, None, target)


def test_seeds() -> None:
    assert parse_seeds("3") == (0, 1, 2)
    assert parse_seeds("3,5") == (3, 5)
    assert parse_seeds("7-7") == (7,)
    assert parse_seeds("0-2, 9") == (0, 1, 2, 9)
    for text in ("", "0", "-3", "x", "1,,2", "5-4", "1,1", "0-3,2", "1e3", "9" * 30, "0-99999999999"):
        with pytest.raises(InputError, match="--seeds"):
            parse_seeds(text)


def test_what_a_run_covers() -> None:
    by_trials = run((1, 0.5))  # 10 queries of 10 s, then its 10 trials were over
    assert by_trials.covers(Budget(10)) and by_trials.covers(Budget(3)) and not by_trials.covers(Budget(11))
    assert by_trials.covers(Budget(None, 99)) and not by_trials.covers(Budget(None, 100)), "an 11th might fit into 100"
    assert by_trials.covers(Budget(10, 500)) and by_trials.covers(Budget(50, 99))
    by_seconds = run((1, 0.5), ended="seconds", budget=Budget(None, 105))
    assert by_seconds.covers(Budget(None, 105)) and not by_seconds.covers(Budget(None, 106))
    assert by_seconds.covers(Budget(10)) and not by_seconds.covers(Budget(11))
    assert run((1, 0.5), ended="exhausted").covers(Budget(1000, 1e9)), "there is nothing more to come"


def test_how_a_run_is_cut() -> None:
    whole = run((1, 0.5))
    assert whole.cut(Budget(4)) == 4 and whole.cut(Budget(None, 40)) == 4 and whole.cut(Budget(None, 39.9)) == 3
    assert whole.cut(Budget(3, 70)) == 3 and whole.cut(Budget(99)) == 10
    assert list(run((3, 0.5), (5, 0.6)).stretches(6)) == [
        (1, 2, None),
        (3, 4, Best(3, 0.5, 0.5, 41)),
        (5, 6, Best(5, 0.6, 0.6, 31)),
    ]
    assert list(run((3, 0.5)).stretches(2)) == [(1, 2, None)] and list(run().stretches(0)) == []


def test_a_row_by_hand() -> None:
    row = group(run((1, 0.8), (4, 0.9)), run((2, 0.7), (7, 0.88)), run((1, 0.9))).row(view())
    first, last = (cell.mean for cell in row.cells)
    assert first is not None and last is not None
    assert first.mean == pytest.approx((0 + 20 + 0) / 3) and last.mean == pytest.approx(2 / 3)
    assert first.error == pytest.approx(np.std([0, 20, 0], ddof=1) / math.sqrt(3))
    assert row.ranks[0] == pytest.approx((1 + 21 + 1) / 3)
    assert row.median_queries == 4 and row.reached == pytest.approx(2 / 3)
    assert row.cpu_seconds == pytest.approx(0.0001)
    assert group(run((2, 0.7), (7, 0.88))).row(view(target=2)).median_queries == 7


def test_what_is_recommended_has_a_column() -> None:
    """Where a run was asked; before any success the worst counts, as everywhere."""
    advice = tuple(Best(query, value, value, 1) for query, value in [(5, 0.88), (10, 0.9)])
    asked, other = replace(run((1, 0.8)), recommended=advice), run((1, 0.7))
    late = replace(run((7, 0.7)), recommended=(Best(10, 0.8, 0.8, 11),))
    own = group(asked, other, late)
    row = own.row(view())
    assert [(cell.mean and (cell.mean.n, round(cell.mean.mean, 6))) for cell in row.recommended] == [(2, 41), (2, 5)]
    assert row.regret(1, recommended=True).startswith("5.000 ± 5.000 (n=2)")
    said: Any = row.to_json(view())["at"]
    assert said[1]["recommended_seeds"] == 2 and said[1]["recommended_regret"] == pytest.approx(5)
    first, last = gains([own, group(other, name="b")], view())
    assert [pair.first for pair in first + last] == ["a", "a"]
    assert last[0].difference.mean == pytest.approx(((0 - 10) + (10 - 20)) / 2)
    assert group(other).row(view()).regret(0, recommended=True) == "-"


def test_without_a_success_the_worst_counts() -> None:
    row = group(run(), run((6, 0.9))).row(view())
    first, last = (cell.mean for cell in row.cells)
    assert first is not None and last is not None
    assert first.mean == pytest.approx(80) and row.ranks[0] == 100
    assert last.mean == pytest.approx(40)


def test_who_leaves_the_target_has_not_reached_it() -> None:
    """Noise lets a worse architecture take the place of the best."""
    left, returned = run((2, 0.9), (5, 0.8)), run((2, 0.9), (5, 0.8), (8, 0.9))
    assert group(left).row(view()).reached == 0
    assert group(left).row(view(trials=4, at=[4])).reached == 1
    assert group(returned).row(view()).median_queries == 8


def test_runs_that_end_early_keep_their_last_result() -> None:
    row = group(run((2, 0.8), queries=4, ended="exhausted")).row(view())
    assert [cell.mean and round(cell.mean.mean, 6) for cell in row.cells] == [10, 10]


def test_runs_that_are_too_short_count_only_where_they_reach() -> None:
    row = group(run((1, 0.8)), run((1, 0.7), queries=5)).row(view())
    first, last = (cell.mean for cell in row.cells)
    assert first is not None and last is not None
    assert (first.n, last.n, row.seeds) == (2, 1, 1)
    assert [cell.mean for cell in group(run((1, 0.7), queries=3)).row(view()).cells] == [None, None]


def test_pairs_share_their_seeds() -> None:
    content = Content({"t": FACTS}, dict(STRATEGIES))
    for name, seed, value in [("a", 0, 0.8), ("a", 1, 0.85), ("b", 1, 0.8), ("b", 2, 0.1), ("c", 7, 0.5)]:
        content.runs[Key(name, "t", seed)] = Record(run((1, value)), 0.0, "0", "")
    (own,) = groups(content, view(at=[10])).values()
    ((pair,),) = compare(own, view(at=[10]))
    assert (pair.first, pair.second, pair.difference.n) == ("a", "b", 1)
    assert pair.difference.mean == pytest.approx(-5) and math.isnan(pair.difference.low)


def test_names_that_clash_are_told_apart() -> None:
    """The same strategy after a change of its defaults; the same table after a change of its file."""
    tables = {"t": FACTS, "u": replace(FACTS, id="u", fingerprint="g")}
    options: dict[str, dict[str, Any]] = {"a": {"n": 1, "x": None}, "b": {"n": 2, "x": None}, "c": {"n": 2, "x": None}}
    strategies = {id: Strategy(id, "same", "s", given) for id, given in options.items() if id != "c"}
    strategies["c"] = Strategy("c", "other", "o", options["c"])
    content = Content(tables, strategies)
    for name in "abc":
        for table in "tu":
            content.runs[Key(name, table, 0)] = Record(run((1, 0.5)), 0.0, "0", "")
    found = groups(content, view())
    assert [facts.label for facts in found] == ["table [f]", "table [g]"]
    for own in found.values():
        assert [group.label for group in own] == ["same [n=1]", "same [n=2]", "other"]


def test_curve_over_queries_and_seconds() -> None:
    found = group(run((1, 0.5), (3, 0.9)), run((1, 0.5))).curve(view())
    assert found is not None
    assert found.x.tolist() == list(range(1, 11)) and found.mean[1:3] == pytest.approx([40, 20])
    timed = View.of("2", Budget(None, 60), None, None, 0)
    found = group(run((1, 0.5), (3, 0.9))).curve(timed)
    assert found is not None
    at = dict(zip(found.x.round(6).tolist(), found.mean.round(6).tolist(), strict=True))
    assert (at[9.8], at[10], at[29.8], at[30], at[60]) == (80, 40, 40, 0, 0)
