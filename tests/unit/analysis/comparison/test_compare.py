"""`nastool compare`: its numbers against scipy called by hand, its verdicts, and what it refuses."""

from __future__ import annotations

import json
import re
import sqlite3
import sys
from collections.abc import Mapping, Sequence
from html.parser import HTMLParser
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from nastool.analysis import blocks
from nastool.analysis.comparison.compare import compare
from nastool.analysis.comparison.gather import gather
from nastool.analysis.comparison.render import blocks as blocks_of
from nastool.analysis.comparison.render import number, verdict
from nastool.cli import run as run_cli
from nastool.core.errors import InputError
from nastool.core.values import Evaluation, Objective, Proposal, Trial
from nastool.engine.config import RunConfig
from nastool.engine.store import Store

# --- runs made up


def make(
    folder: Path,
    strategy: str,
    seed: int,
    values: Sequence[float | None],
    *,
    seconds: Sequence[float] | float = 10.0,
    flops: Sequence[float] | None = None,
    options: Mapping[str, object] | None = None,
    objective: str = "val_acc:max",
    dataset: str | None = None,
    fingerprint: str = "f",
    wanted: int | None = None,
    exhausted: bool = False,
    test: float | None = None,
    space: str = "nasbench201",
) -> Path:
    """A run as a search leaves it. values: None for a failed trial. wanted: more than are there: interrupted."""
    evaluator = {"file": "t.npz", **({"dataset": dataset} if dataset else {})}
    config = RunConfig.resolve((strategy, options or {}), (space, {}), ("table", evaluator), seed, None)
    made = config.make_space()
    target = Objective.parse(objective)
    folder.mkdir(parents=True)
    facts = {"config": config.identity, "objective": str(target), "fingerprint": fingerprint, "origin": {}}
    costs = [seconds] * len(values) if isinstance(seconds, float) else list(seconds)
    arch = made.sample(np.random.default_rng(0))
    with Store.create(folder / "run.db", facts) as store:
        store.begin()
        store.put("trials", wanted or len(values))
        for i, value in enumerate(values):
            store.add(Trial(i, Proposal(arch)))
            if value is None:
                store.finish(Trial(i, Proposal(arch), "failed", error="made to fail"), i)
                continue
            metrics = {target.metric: value} | ({"flops": flops[i]} if flops else {})
            store.finish(Trial(i, Proposal(arch), "done", Evaluation(metrics, costs[i]), (target.loss(metrics),)), i)
        if wanted is None or wanted <= len(values) or exhausted:
            metrics = {} if test is None else {"test_acc": test}
            final = {"trials": len(values), "exhausted": exhausted, "document": {"metrics": metrics, "key": "k"}}
            store.put("final", final)
        store.commit()
    return folder


def several(folder: Path, strategy: str, finals: Sequence[float], **more: Any) -> list[Path]:
    """One run a seed, of three trials, that ends with the best value given."""
    return [
        make(
            folder / f"{strategy}-{seed}", strategy, seed, [value - 0.2, value, value - 0.1], test=value - 0.05, **more
        )
        for seed, value in enumerate(finals)
    ]


def cli(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> tuple[str, str]:
    before = sys.argv
    sys.argv = ["nastool", *map(str, arguments)]
    try:
        found = run_cli()
    finally:
        sys.argv = before
    out, err = capsys.readouterr()
    assert found == code, err
    return out, err


def compared(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, Any]:
    out, _ = cli(capsys, "compare", *arguments, "--to", "json")
    document: dict[str, Any] = json.loads(out)
    return document


# --- the bar: a comparison of real searches against scipy


def of_database(folder: Path, column: str = "loss") -> list[float]:
    with sqlite3.connect(folder / "run.db") as db:
        return [row[0] for row in db.execute(f"SELECT {column} FROM trials ORDER BY told")]


def best_at(folder: Path, trials: int) -> float:
    return -min(of_database(folder)[:trials])


def best_within(folder: Path, seconds: float) -> float:
    spent = np.cumsum(of_database(folder, "json_extract(evaluation, '$.seconds')"))
    return -min(loss for loss, at in zip(of_database(folder), spent, strict=True) if at <= seconds)


def check_against_scipy(found: Mapping[str, Any], folders: Mapping[str, Sequence[Path]], trials: int) -> None:
    """Every number of a comparison of "evolution" with "random", seed by seed."""
    assert [method["name"] for method in found["methods"]] == ["evolution", "random"]
    by_axis = {section["over"]: section for section in found["comparisons"]}
    section = by_axis["trials"]
    assert section["marks"][-1] == trials
    for index, mark in enumerate(section["marks"]):
        for name, paths in folders.items():
            values = np.array([best_at(path, int(mark)) for path in paths])
            own = section["means"][name][index]
            interval = stats.ttest_1samp(values, 0).confidence_interval(0.95)
            assert own["mean"] == pytest.approx(values.mean(), rel=1e-12)
            assert (own["low"], own["high"]) == pytest.approx((interval.low, interval.high), rel=1e-9)
            boot = stats.bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=1)
            tolerance = 0.15 * stats.sem(values)
            assert own["boot_low"] == pytest.approx(boot.confidence_interval.low, abs=tolerance)
            assert own["boot_high"] == pytest.approx(boot.confidence_interval.high, abs=tolerance)
    for axis, value in (("trials", best_at), ("seconds", best_within)):
        section = by_axis[axis]
        pair = section["pairs"][-1]
        first, second = (
            np.array([value(path, trials if axis == "trials" else section["marks"][-1]) for path in folders[name]])
            for name in ("evolution", "random")
        )
        assert pair["paired"] and pair["n"] == len(first) and pair["against_random"]
        assert pair["p"] == pair["p_holm"] == pytest.approx(stats.wilcoxon(np.round(first - second, 9)).pvalue)
        assert pair["mean"] == pytest.approx((first - second).mean(), rel=1e-9)
        boot = stats.bootstrap((first - second,), np.mean, method="percentile", n_resamples=20_000, rng=1)
        tolerance = 0.15 * stats.sem(first - second)
        assert pair["low"] == pytest.approx(boot.confidence_interval.low, abs=tolerance)
        assert pair["high"] == pytest.approx(boot.confidence_interval.high, abs=tolerance)
        better = pair["p"] < 0.05 and pair["low"] > 0
        assert ("evolution is better than random" in pair["verdict"]) == better


def searched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], table: Path, trials: int, seeds: int, *more: str
) -> Any:
    folders: dict[str, list[Path]] = {"evolution": [], "random": []}
    for strategy, paths in folders.items():
        for seed in range(seeds):
            paths.append(tmp_path / f"{strategy}-{seed}")
            arguments = ["search", "-s", strategy, "--evaluator", "table", "-E", f"file={table}", *more]
            cli(capsys, *arguments, "-n", trials, "--seed", seed, "--out", paths[-1], "--no-report")
    return folders


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """A made-up benchmark in which neighbors resemble each other, with times and without."""
    from nastool.core import registry

    space = registry.make("space", "nasbench201", given={})
    archs = np.array([arch.choices for arch in space.members()], dtype=np.uint8)
    rng = np.random.default_rng(0)
    worth = rng.uniform(0, 3, (6, 5))[np.arange(6), archs].sum(axis=1)
    path = tmp_path / "table.npz"
    accuracy = 75 + worth + rng.normal(0, 0.5, len(archs))
    np.savez(path, arch=archs, val200=accuracy, test200=accuracy - 1, train_time200=rng.uniform(100, 900, len(archs)))
    return path


def test_a_made_up_table_against_scipy(tmp_path: Path, table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = searched(tmp_path, capsys, table, 60, 6)
    found = compared(capsys, *folders["evolution"], *folders["random"])
    check_against_scipy(found, folders, 60)
    tests = [json.loads((path / "best.json").read_text())["metrics"]["test_acc"] for path in folders["random"]]
    assert found["methods"][1]["test"]["mean"] == pytest.approx(np.mean(tests))


def test_the_published_table_against_scipy(
    tmp_path: Path, benchmark_data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = benchmark_data / "nasbench201.npz"
    folders = searched(tmp_path, capsys, table, 150, 10, "-E", "dataset=cifar10")
    found = compared(capsys, *folders["evolution"], *folders["random"])
    check_against_scipy(found, folders, 150)
    assert "evolution is better than random at 150 trials" in found["comparisons"][0]["pairs"][-1]["verdict"]


# --- what belongs together


def test_methods_are_named_by_what_differs(tmp_path: Path) -> None:
    folders = [
        make(tmp_path / f"{population}-{seed}", "evolution", seed, [0.5], options={"population": population})
        for population in (5, 10)
        for seed in (0, 1)
    ]
    folders += several(tmp_path, "random", [0.4, 0.5])
    methods = gather(folders).methods
    assert [method.name for method in methods] == ["evolution(population=10)", "evolution(population=5)", "random"]
    assert [method.seeds for method in methods] == [[0, 1]] * 3
    assert [method.name for method in gather(folders[:2]).methods] == ["evolution"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"dataset": "cifar100"}, "evaluator dataset is cifar100, not None"),
        ({"fingerprint": "g"}, "data is g, not f"),
        ({"space": "nasbench-macro"}, "space is nasbench-macro, not nasbench201"),
    ],
)
def test_what_cannot_be_compared(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    first = make(tmp_path / "a", "random", 0, [0.5])
    other = make(tmp_path / "b", "random", 0, [0.6], **change)
    with pytest.raises(InputError, match=f"cannot be compared: .*{message}.*--anyway"):
        gather([first, other])
    found = gather([first, other], anyway=True)
    assert len(found.methods) == 2 and found.methods[0].name != found.methods[1].name
    (warning,) = (note for note in found.notes if note.startswith("WARNING"))
    assert message in warning


def test_different_objectives_have_no_difference(tmp_path: Path) -> None:
    first = make(tmp_path / "a", "random", 0, [0.5])
    other = make(tmp_path / "b", "random", 0, [0.6], objective="latency_ms:min")
    for anyway in (False, True):
        with pytest.raises(InputError, match=r"objective is val_acc:max, not latency_ms:min"):
            gather([first, other], anyway=anyway)


def test_a_seed_counts_once(tmp_path: Path) -> None:
    first = make(tmp_path / "a", "random", 0, [0.5])
    longer = make(tmp_path / "b", "random", 0, [0.5, 0.6])
    found = gather([first, longer, first, tmp_path / "a" / ".." / "a", tmp_path / "b" / "run.db"])
    assert [run.path for run in found.runs] == [longer]
    assert sum("given twice" in note for note in found.notes) == 3
    assert any("a seed counts once" in note and str(first) in note for note in found.notes)


def test_the_baseline_of_a_run_is_taken_in(tmp_path: Path) -> None:
    run = make(tmp_path / "a", "evolution", 4, [0.5])
    make(run / "baseline", "random", 4, [0.4])
    assert [method.name for method in gather([run]).methods] == ["evolution", "random"]
    assert [method.name for method in gather([run], baselines=False).methods] == ["evolution"]
    assert [method.name for method in gather([run, run / "baseline"]).methods] == ["evolution", "random"]
    other = make(tmp_path / "b", "local-search", 4, [0.5])
    make(other / "baseline", "random", 4, [0.4])
    found = gather([run, other])
    assert [len(method.runs) for method in found.methods] == [1, 1, 1], "two baselines of one seed are one run"
    assert not any("counts once" in note for note in found.notes), "which nobody named"


# --- at equal cost


def test_unequal_lengths_are_compared_where_both_are(tmp_path: Path) -> None:
    first = make(tmp_path / "a", "evolution", 0, [0.1, 0.2, 0.3, 0.9])
    second = make(tmp_path / "b", "random", 0, [0.4, 0.5], wanted=50)
    found = compare(gather([first, second]))
    assert found.sections[0].marks == (1.0, 2.0)
    assert [cell.mean.mean for cell in found.sections[0].cells["evolution"] if cell.mean] == [0.1, 0.2]
    assert any("unequal length" in note and str(second) in note for note in found.notes)
    assert any("interrupted: 2 of 50 trials" in note for note in found.notes)
    with pytest.raises(InputError, match=r"--at 3: .* has only 2 trials"):
        compare(gather([first, second]), ["trials"], [1, 3])


def test_a_strategy_that_ended_keeps_its_result(tmp_path: Path) -> None:
    first = make(tmp_path / "a", "evolution", 0, [0.1, 0.2, 0.3, 0.9])
    second = make(tmp_path / "b", "local-search", 0, [0.4, 0.5], wanted=50, exhausted=True)
    section = compare(gather([first, second])).sections[0]
    assert section.marks[-1] == 4
    last = section.cells["local-search"][-1].mean
    assert last is not None and last.mean == 0.5


def test_seconds_and_flops(tmp_path: Path) -> None:
    first = make(
        tmp_path / "a", "evolution", 0, [0.1, 0.2, None, 0.9], seconds=[1.0, 1.0, 0.0, 8.0], flops=[4, 4, 0, 2]
    )
    second = make(tmp_path / "b", "random", 0, [0.4, 0.5, 0.6, 0.7], seconds=[5.0, 5.0, 5.0, 5.0], flops=[1, 1, 1, 7])
    sections = {section.axis: section for section in compare(gather([first, second])).sections}
    with sqlite3.connect(first / "run.db") as db:  # a failed trial costs what it took
        started, finished = db.execute("SELECT started, finished FROM trials WHERE id = 2").fetchone()
    assert finished - started < 1
    at = compare(gather([first, second]), ["seconds"], [1.5, 5, 9]).sections[0]
    assert [None if cell.mean is None else cell.mean.mean for cell in at.cells["evolution"]] == [0.1, 0.2, 0.2]
    assert [cell.missing for cell in at.cells["random"]] == [1, 0, 0]
    assert sections["flops"].marks[-1] == 10.0
    assert "one image" in sections["flops"].counted
    assert [c.mean.mean for c in sections["flops"].cells["random"] if c.mean][-1] == 0.7
    no_time = make(tmp_path / "c", "random", 1, [0.4], seconds=0.0)
    found = compare(gather([no_time]))
    assert [section.axis for section in found.sections] == ["trials"]
    assert any("took no time" in note for note in found.notes) and any("flops" in note for note in found.notes)
    with pytest.raises(InputError, match="--over flops"):
        compare(gather([no_time]), ["flops"])


def test_flops_of_trainings_count_epochs_and_images(tmp_path: Path) -> None:
    run = make(tmp_path / "a", "evolution", 0, [0.1, 0.2], flops=[4, 6])
    with sqlite3.connect(run / "run.db") as db:
        (text,) = db.execute("SELECT value FROM run WHERE key = 'config'").fetchone()
        config = json.loads(text) | {"resolved": {"recipe": {"epochs": 10}}}
        db.execute("UPDATE run SET value = ? WHERE key = 'config'", (json.dumps(config),))
        db.execute("UPDATE trials SET proposal = json_set(proposal, '$.budget', 3) WHERE id = 1")
    (own,) = gather([run]).runs
    assert own.spent["flops"].tolist() == [40, 58] and "epochs; how many images" in own.counted
    (run / "run.yaml").write_text("provenance: {evaluator: {train_images: 100}}\n")
    (own,) = gather([run]).runs
    assert own.spent["flops"].tolist() == [4000, 5800] and "training images" in own.counted


def test_minimised_objectives(tmp_path: Path) -> None:
    low = [make(tmp_path / f"a{i}", "evolution", i, [5.0 + i / 10, 9.0], objective="latency_ms:min") for i in range(8)]
    high = [make(tmp_path / f"b{i}", "random", i, [9.0, 7.0 + i / 7], objective="latency_ms:min") for i in range(8)]
    found = compare(gather([*low, *high]))
    section = found.sections[0]
    cell = section.cells["evolution"][-1].mean
    assert cell is not None and cell.mean == pytest.approx(5.35)
    (pair,) = section.pairs[-1]
    assert pair.difference.mean < 0 and pair.difference.effect == -1 and pair.difference.losses == 8
    said = verdict(pair, section.mark(-1), found.objective)
    assert said.startswith("evolution is better than random at 2 trials")


def test_failed_trials_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = several(tmp_path, "random", [0.4, 0.5])
    bad = make(tmp_path / "bad", "evolution", 0, [None, None])
    found = compared(capsys, *good, bad)
    assert found["comparisons"][0]["marks"][-1] == 3, "it does not shorten the others"
    assert found["comparisons"][0]["means"]["evolution"][-1] == {"n": 0, "without_result": 1}
    assert any("all its 2 trials failed: left out" in note for note in found["notes"])
    text, _ = cli(capsys, "compare", bad, "--to", "text")
    assert "no run has a result yet: nothing to compare" in text


def test_held_out_metrics_of_other_trainings_are_left_out(tmp_path: Path) -> None:
    first, second = (make(tmp_path / name, name, 0, [0.5], test=0.4) for name in ("evolution", "random"))
    assert compare(gather([first, second])).test_metric == "test_acc"
    with sqlite3.connect(first / "run.db") as db:
        (text,) = db.execute("SELECT value FROM run WHERE key = 'final'").fetchone()
        final = json.loads(text)
        final["document"]["run"] = str(first / "retrain-00000000")
        db.execute("UPDATE run SET value = ? WHERE key = 'final'", (json.dumps(final),))
    found = compare(gather([first, second]))
    assert found.test_metric is None and not found.tests
    assert any("trained again at the end; as it was searched" in note for note in found.notes)


def test_final_results_of_other_trainings_are_refused(tmp_path: Path) -> None:
    runs = [by_rounds(tmp_path / f"e{seed}", seed, 0.8, None) for seed in range(3)]
    with sqlite3.connect(runs[2] / "run.db") as db:
        (text,) = db.execute("SELECT value FROM run WHERE key = 'final'").fetchone()
        final = json.loads(text) | {"finale": {"retrain": 5}}
        db.execute("UPDATE run SET value = ? WHERE key = 'final'", (json.dumps(final),))
    assert len(gather(runs[:2]).runs) == 2
    with pytest.raises(InputError, match=r"cannot be compared: .*its final result is the best of 5 trained again"):
        gather(runs)
    assert any("best of 5" in note for note in gather(runs, anyway=True).notes)


def test_three_methods_are_ranked_over_seeds(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    values = {
        name: rng.normal(at, 0.01, 8) for name, at in (("evolution", 0.7), ("local-search", 0.7), ("random", 0.6))
    }
    folders = [path for name, finals in values.items() for path in several(tmp_path, name, finals.tolist())]
    section = compare(gather(folders)).sections[0]
    assert section.ranks is not None and list(section.cells) == ["evolution", "local-search", "random"]
    by_hand = stats.friedmanchisquare(*values.values())
    assert section.ranks.p == pytest.approx(by_hand.pvalue) and section.ranks.blocks == 8
    expected = stats.rankdata(-np.array(list(values.values())), axis=0).mean(axis=1)
    assert section.ranks.mean == pytest.approx(expected.tolist())
    p = [stats.wilcoxon(first, second).pvalue for first, second in combinations(values.values(), 2)]
    order = np.argsort(p)
    holm = np.minimum(1, np.maximum.accumulate(np.array(p)[order] * [3, 2, 1]))[np.argsort(order)]
    assert [pair.p for pair in section.pairs[-1]] == pytest.approx(holm.tolist())
    assert compare(gather(folders[:-7])).sections[0].ranks is None, "one block only"


# --- verdicts


def said(tmp_path: Path, first: Sequence[float], second: Sequence[float], shift: int = 0) -> str:
    """shift: the second's seeds begin there."""
    folders = several(tmp_path, "evolution", first)
    for seed, value in enumerate(second, shift):
        folders.append(make(tmp_path / f"random-{seed}", "random", seed, [0.0, value, 0.0]))
    found = compare(gather(folders))
    section = found.sections[0]
    return verdict(section.pairs[-1][0], section.mark(-1), found.objective)


def test_verdict_on_one_seed(tmp_path: Path) -> None:
    text = said(tmp_path, [0.9], [0.8])
    assert text.startswith("evolution and random at 3 trials: no verdict from n = 1 seed") and "+0.1000" in text


def test_verdict_on_few_seeds_says_that_they_are_few(tmp_path: Path) -> None:
    text = said(tmp_path, [0.9, 0.91, 0.92, 0.93], [0.8, 0.79, 0.81, 0.78])
    assert text.startswith("No difference is shown") and "p cannot be below 0.125" in text and "4 paired seeds" in text


def test_verdict_where_nothing_is_there(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    text = said(tmp_path, rng.normal(0.8, 0.02, 10).tolist(), rng.normal(0.8, 0.02, 10).tolist())
    assert text.startswith("No difference is shown") and text.endswith("which does not make them equal.")
    assert "cannot be below" not in text


def test_verdict_where_all_are_equal(tmp_path: Path) -> None:
    assert said(tmp_path, [0.8, 0.9], [0.8, 0.9]).startswith("evolution and random are equal at 3 trials on every seed")


def test_verdict_on_the_worse_first(tmp_path: Path) -> None:
    text = said(tmp_path, [0.5 + i / 100 for i in range(8)], [0.8 + i / 90 for i in range(8)])
    assert text.startswith("random is better than evolution at 3 trials") and "evolution - random -0.3" in text


def test_unpaired_where_seeds_differ(tmp_path: Path) -> None:
    text = said(tmp_path, [0.5 + i / 100 for i in range(6)], [0.8 + i / 90 for i in range(5)], shift=20)
    assert "6 and 5 seeds, unpaired" in text and text.startswith("random is better")


def test_paired_where_most_seeds_match(tmp_path: Path) -> None:
    first, second = [0.5 + i / 100 for i in range(6)], [0.8 + i / 90 for i in range(6)]
    assert "4 paired seeds" in said(tmp_path / "a", first, second, shift=2)
    assert "6 and 6 seeds, unpaired" in said(tmp_path / "b", first, second, shift=4)


# --- forms


class _Page(HTMLParser):
    """Tags that are open; all have to be closed in order."""

    VOID = frozenset({"meta"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: Any) -> None:
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_forms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folders = [*several(tmp_path / "<b>", "evolution", [0.9, 0.8]), *several(tmp_path, "random", [0.7, 0.6])]
    by_default, _ = cli(capsys, "compare", *folders)
    assert json.loads(by_default)["format"] == "nastool.comparison/1", "stdout is no terminal"
    text, _ = cli(capsys, "compare", *folders, "--to", "text")
    assert "\x1b" not in text and max(map(len, text.splitlines())) <= 100
    assert "0.8500 ±0.6353" in text, "t with one degree of freedom: 12.706 * 0.0707 / sqrt(2)"
    for name, begins in (("c.md", "# val_acc"), ("c.html", "<!DOCTYPE html>"), ("c.json", "{"), ("c.txt", "val_acc")):
        out, _ = cli(capsys, "compare", *folders, "-o", tmp_path / name)
        assert not out and (tmp_path / name).read_text().startswith(begins)
    page = (tmp_path / "c.html").read_text()
    parser = _Page()
    parser.feed(page)
    assert not parser.open and "svg" in parser.seen and "script" not in parser.seen and "b" not in parser.seen
    assert "http" not in page.replace("http-equiv", "")
    markdown = (tmp_path / "c.md").read_text()
    row = next(line for line in markdown.splitlines() if line.startswith("| evolution |"))
    assert row.count("|") == 8 and "test_acc, final" in markdown


@pytest.mark.parametrize("width", [30, 60, 80, 200])
def test_no_number_is_cut(tmp_path: Path, width: int) -> None:
    folders = [*several(tmp_path, "evolution", [0.9, 0.8]), *several(tmp_path, "random", [0.7, 0.6])]
    shown = blocks.text(blocks_of(compare(gather(folders))), width)
    assert max(map(len, shown.splitlines())) <= width
    assert {"0.8500", "±0.6353", "0.6500", "+0.2000"} <= set(shown.replace("(", " ").split())


def test_names_are_escaped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make(tmp_path / "<img src=x>", "evolution", 0, [0.5], wanted=9)
    page, _ = cli(capsys, "compare", run, "--to", "html")
    assert "<img" not in page and "&lt;img src=x&gt; is interrupted" in re.sub("<[^>]*>", "", page)


def test_one_run_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run,) = several(tmp_path, "evolution", [0.5])
    text, _ = cli(capsys, "compare", run, "--to", "text")
    flat = " ".join(text.split())
    assert "0.5000" in flat and "one method only" in flat and "--with-baseline" in flat


def test_bad_input(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run,) = several(tmp_path, "evolution", [0.5])
    for arguments, message in (
        ((tmp_path / "none",), "no run folder"),
        ((run, "--at", "x"), "--at 'x': write numbers > 0"),
        ((run, "--at", "0"), "write numbers > 0"),
        ((run, "--at", "1e999"), "write numbers > 0"),
        ((run, "--at", "1", "--over", "trials", "--over", "seconds"), "one --over"),
        ((run, "-o", tmp_path / "no" / "c.md"), "there is no"),
    ):
        _, err = cli(capsys, "compare", *arguments, code=2)
        assert message in err and len(err.strip().splitlines()) == 1


def test_numbers() -> None:
    assert [number(value) for value in (0.0, 0.91234, 1234.5, 1.5e-5, 3e7)] == [
        "0.0000",
        "0.9123",
        "1234.5000",
        "1.5e-05",
        "3e+07",
    ]
    assert number(0.0004, like=0.9) == "0.0004" and number(0.001234, sign=True) == "+0.0012"


# --- shared weights


def by_rounds(folder: Path, seed: int, retrained: float | None, beside: float | None, score: float = 0.9) -> Path:
    """What enas leaves: two rounds, a candidate, and a run of trainings below."""
    config = RunConfig.resolve(("enas", {}), ("nasbench201", {}), ("supernet", {"data": "digits"}), seed, None)
    arch = config.make_space().sample(np.random.default_rng(0))
    folder.mkdir()
    facts = {"config": config.identity, "objective": "shared_acc:max", "fingerprint": "f", "origin": {}}
    with Store.create(folder / "run.db", facts) as store:
        store.begin()
        store.put("trials", 3)
        for i, policy in enumerate(({"round": 0}, {"round": 1}, None)):
            proposal = Proposal(arch, policy=policy)
            store.add(Trial(i, proposal))
            evaluation = Evaluation({"shared_acc": score}, 1.0)
            store.finish(Trial(i, proposal, "done", evaluation, (-score,)), i)
        if retrained is not None:
            document: dict[str, Any] = {"metrics": {"val_acc": retrained, "shared_acc": score}, "key": "k"}
            document["run"] = str(make(folder / "retrain-00000000", "random", seed, [retrained]))
            if beside is not None:
                document["comparison"] = {"random": {"metrics": {"val_acc": beside}}}
            store.put("final", {"trials": 3, "exhausted": False, "document": document})
        store.commit()
    return folder


def test_searches_with_shared_weights_compare_by_their_final_results(tmp_path: Path) -> None:
    runs = [by_rounds(tmp_path / f"e{seed}", seed, 0.8 + seed / 100, 0.7 + seed / 90) for seed in range(7)]
    runs.append(by_rounds(tmp_path / "e7", 7, None, None))
    found = compare(gather(runs))
    (section,) = found.sections
    assert section.axis == "final result" and [method.name for method in found.methods] == [
        "enas",
        "random, trained beside",
    ]
    own = section.cells["enas"][0]
    assert own.mean is not None and own.mean.n == 7 and own.mean.mean == pytest.approx(0.83) and own.missing == 1
    (pair,) = section.pairs[0]
    assert pair.difference.paired and pair.difference.wins == 7
    assert verdict(pair, section.mark(0), found.objective).startswith("enas is better than random, trained beside by")
    assert any(str(runs[-1]) in note and "--retrain 3" in note for note in found.notes)
    assert [len(run.losses) for run in gather(runs[:1]).runs] == [1, 0], "rounds are no scores"
    with pytest.raises(InputError, match="--over"):
        compare(gather(runs), ["trials"])


def test_scores_with_shared_weights_are_no_accuracies(tmp_path: Path) -> None:
    shared = by_rounds(tmp_path / "e", 0, 0.8, None)
    trained = make(tmp_path / "t", "random", 0, [0.7])
    with pytest.raises(InputError, match=r"cannot be compared.*shared weights.*--anyway"):
        gather([shared, trained])
    found = compare(gather([shared, trained], anyway=True))
    assert [section.axis for section in found.sections] == ["final result"]
    assert any(note.startswith("WARNING") for note in found.notes)
