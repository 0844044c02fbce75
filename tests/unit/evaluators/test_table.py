"""The table evaluator: reading files, choosing fields, and the published numbers."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nastool.core.errors import InputError, TrialFailed
from nastool.core.values import Proposal
from nastool.evaluators.table import Table
from nastool.spaces.nasbench101 import NasBench101
from nastool.spaces.nasbench201 import NasBench201
from nastool.spaces.nasbench_macro import NasBenchMacro
from tests.helpers.running import Run

SPACE = NasBench201()
PUBLISHED: dict[str, Any] = json.loads((Path(__file__).parents[2] / "reference" / "published.json").read_text())


def silent(step: int, metrics: Mapping[str, float]) -> None:
    raise AssertionError("a table has nothing to report")


def prepared(file: Path, **options: Any) -> Table:
    table = Table(SPACE, file=str(file), **options)
    table.prepare()
    return table


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two architectures, two data sets, two fidelities; one seed missing."""
    path = tmp_path / "small.npz"
    np.savez(
        path,
        arch=np.array([[0] * 6, [1] * 6]),
        aa_val200_s0=[60.0, 70.0],
        aa_val200_s1=[62.0, np.nan],
        aa_test200=[61.5, 69.0],
        aa_val12=[30.0, 20.0],
        aa_test12=[31.0, 21.0],
        aa_train_time200=[1000.0, 2000.0],
        bb_val200=[0.5, 0.25],
        note=np.array("ignored"),
    )
    return path


def evaluate(table: Table, choice: int, seed: int = 0) -> Any:
    return table.evaluate(0, Proposal(table.space.arch([choice] * 6)), seed=seed, report=silent)


def test_fields_are_discovered(small: Path) -> None:
    table = prepared(small, dataset="aa")
    assert table.objective == "val_acc"
    assert evaluate(table, 0).metrics == {"val_acc": 0.61}
    assert evaluate(table, 1).metrics == {"val_acc": 0.7}, "the mean of the seeds there are"
    assert evaluate(table, 1).seconds == 2000
    proposal = Proposal(SPACE.arch([1] * 6))
    assert table.test(proposal, evaluate(table, 1)) == {"test_acc": 0.69}


def test_fidelity_sets_metric_seconds_and_test(small: Path) -> None:
    table = prepared(small, dataset="aa", metric="val12")
    found = evaluate(table, 0)
    assert found.metrics == {"val_acc": 0.3}
    assert found.seconds == pytest.approx(60), "12 of 200 epochs"
    assert table.test(Proposal(SPACE.arch([0] * 6)), found) == {"test_acc": 0.31}


def test_test_accuracy_as_the_objective_is_called_so(small: Path) -> None:
    table = prepared(small, dataset="aa", metric="test200")
    assert table.objective == "test_acc"
    assert evaluate(table, 0).metrics == {"test_acc": 0.615}


def test_labels(small: Path) -> None:
    assert evaluate(prepared(small, dataset="aa", label="1"), 0).metrics == {"val_acc": 0.62}
    with pytest.raises(TrialFailed, match="row 1"):
        evaluate(prepared(small, dataset="aa", label="1"), 1)
    table = prepared(small, dataset="aa", label="random")
    drawn = {evaluate(table, 0, seed).metrics["val_acc"] for seed in range(20)}
    assert drawn == {0.6, 0.62}
    assert {evaluate(table, 1, seed).metrics["val_acc"] for seed in range(20)} == {0.7}


def test_fractions_are_left_alone(small: Path) -> None:
    assert evaluate(prepared(small, dataset="bb"), 0).metrics == {"val_acc": 0.5}


@pytest.mark.parametrize(
    "options, message",
    [
        ({}, "several data sets: give dataset=... of aa, bb"),
        ({"dataset": "cc"}, "no data set 'cc'; it has aa, bb"),
        ({"dataset": "aa", "metric": "val100"}, "no metric 'val100'; it has test12, test200, val12, val200"),
        ({"dataset": "aa", "label": "7"}, "no training seed 7 of val200; there are 0, 1"),
        ({"dataset": "bb", "label": "random"}, "no single training seeds"),
    ],
)
def test_wrong_choices(small: Path, options: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        prepared(small, **options)


def test_missing_architecture_is_a_failed_trial(small: Path) -> None:
    with pytest.raises(TrialFailed, match="no architecture"):
        evaluate(prepared(small, dataset="aa"), 2)


def test_broken_files(tmp_path: Path) -> None:
    good = {"arch": np.zeros((1, 6), int), "val200": np.array([50.0])}

    def write(name: str, **columns: Any) -> Path:
        np.savez(tmp_path / name, **columns)
        return tmp_path / f"{name}.npz"

    truncated = tmp_path / "truncated.npz"
    truncated.write_bytes(write("good", **good).read_bytes()[:100])
    single = tmp_path / "single.npy"
    np.save(single, np.zeros(3))
    cases = [
        (tmp_path / "absent.npz", "cannot read .*absent.npz: No such file"),
        (truncated, "cut short"),
        (single, "is no .npz file"),
        (write("noarch", val200=np.zeros(1)), "it has no 'arch'"),
        (write("narrow", arch=np.zeros((1, 5), int), val200=np.zeros(1)), "expected integers of shape"),
        (write("floats", arch=np.zeros((1, 6)), val200=np.zeros(1)), "expected integers"),
        (write("empty", arch=np.zeros((0, 6), int), val200=np.zeros(0)), "it has no rows"),
        (write("outside", arch=np.full((1, 6), 5), val200=np.zeros(1)), "row 0 is no member"),
        (write("twice", arch=np.zeros((2, 6), int), val200=np.zeros(2)), "1 architectures come twice"),
        (write("nothing", arch=np.zeros((1, 6), int)), "has no accuracies"),
        (
            write("short", arch=np.zeros((1, 6), int), val200=np.zeros(3)),
            r"val200 has shape \(3,\)",
        ),
        (write("objects", arch=np.array([[None] * 6]), val200=np.zeros(1)), "arch holds Python objects"),
    ]
    for path, message in cases:
        with pytest.raises(InputError, match=message):
            prepared(path)
    prepared(tmp_path / "good.npz")


@pytest.mark.parametrize(
    "text",
    ["", "[", "[]", "{}", '{"01": 3}', '{"01": {}, "012": {}}', '{"a": {"test_acc": 1}}', "[" * 100_000],
)
def test_broken_json(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(InputError, match="table"):
        prepared(path)


def test_all_nan_is_a_failed_trial(tmp_path: Path) -> None:
    path = tmp_path / "nan.npz"
    np.savez(path, arch=np.zeros((1, 6), int), val200=[np.nan])
    with pytest.raises(TrialFailed, match="has no val200 for row 0"):
        evaluate(prepared(path), 0)


def test_missing_labels_are_failed_trials(tmp_path: Path) -> None:
    """Rows with and without a label: the trial fails, those beside it do not."""
    path = tmp_path / "gaps.npz"
    np.savez(path, arch=np.array([[0] * 6, [2] * 6]), val200=[np.nan, 50.0], test200=[40.0, np.nan])
    table = prepared(path)
    with pytest.raises(TrialFailed, match="has no val200 for row 0"):
        evaluate(table, 0)
    found = evaluate(table, 2)
    assert found.metrics == {"val_acc": 0.5}
    assert table.test(Proposal(SPACE.arch([2] * 6)), found) == {}, "no test accuracy there"


@pytest.mark.parametrize("rows", [1, 3])
def test_constant_labels_and_a_single_row(tmp_path: Path, rows: int) -> None:
    path = tmp_path / "constant.npz"
    np.savez(path, arch=np.array([[i] * 6 for i in range(rows)]), val200=np.full(rows, 50.0))
    table = prepared(path)
    assert [evaluate(table, i).metrics for i in range(rows)] == [{"val_acc": 0.5}] * rows


def test_equivalent_architectures_are_looked_up_by_canonical_form(tmp_path: Path) -> None:
    """An edge behind a zero node counts for nothing. A row of its own comes first, else the first row that is alike."""
    cut, other, third = ([0, 0, op, 3, 0, 0] for op in (1, 2, 3))
    path = tmp_path / "classes.npz"
    np.savez(path, arch=np.array([cut, other, [4] * 6]), val200=[10.0, 20.0, 30.0])
    table = prepared(path)
    found = [table.evaluate(0, Proposal(SPACE.arch(a)), seed=0, report=silent) for a in (cut, other, third)]
    assert [round(100 * f.metrics["val_acc"]) for f in found] == [10, 20, 10]
    with pytest.raises(TrialFailed, match=r"the table has no architecture \(3, 3"):
        evaluate(table, 3)


def test_rows_that_are_no_cells_of_nasbench101(tmp_path: Path) -> None:
    """Neither without a path from input to output nor with ten edges."""
    space, path = NasBench101(), tmp_path / "t.npz"
    good: dict[str, Any] = {"num_vertices": np.array([2, 7], np.int8), "edge_bits": np.array([1, 1 << 15], np.uint64)}
    for bits, message in ((None, ""), (0, "row 1 is no cell: 0 edges"), ((1 << 21) - 1, "row 1 is no cell: 21 edges")):
        if bits is not None:
            good["edge_bits"][1] = bits
        np.savez(path, **good, op_code=np.array([0, 5]), val=[0.5, 0.6])
        arch = np.zeros((2, 26), int)
        arch[:, 15] = 1  # from the input to the output
        if bits is not None:
            arch[1, :21] = bits >> np.arange(21) & 1
        np.savez(tmp_path / "arch.npz", arch=arch + np.eye(2, 26, 25, dtype=int), val=[0.5, 0.6])
        for file in (path, tmp_path / "arch.npz"):
            table = Table(space, file=str(file))
            if not message:
                table.prepare()
                continue
            with pytest.raises(InputError, match=message):
                table.prepare()


def test_counts_of_correct_images(tmp_path: Path) -> None:
    path = tmp_path / "counts.npz"
    counts = np.array([9197, 0], np.uint16)
    np.savez(path, arch=np.array([[0] * 6, [1] * 6]), c_val4_correct_of_10000_s1=counts, c_test_correct_of_9984=counts)
    table = prepared(path, metric="val4", label="1")
    assert evaluate(table, 0).metrics == {"val_acc": 0.9197}
    assert evaluate(prepared(path, metric="test"), 0).metrics == {"test_acc": 9197 / 9984}
    np.savez(path, arch=np.zeros((1, 6), int), test_correct_of_100=np.array([200]))
    with pytest.raises(InputError, match="test_correct_of_100 counts more than there are, such as 200"):
        prepared(path)


def test_published_nasbench201(benchmark_data: Path) -> None:
    facts = PUBLISHED["nasbench201"]
    file = benchmark_data / "nasbench201.npz"
    for dataset in ("cifar10", "cifar100"):
        table = prepared(file, dataset=dataset, metric="test200")
        skip = SPACE.from_string(facts["all_skip"]["string"])
        found = table.evaluate(0, Proposal(skip), seed=0, report=silent)
        assert 100 * found.metrics["test_acc"] == pytest.approx(facts["all_skip"][f"{dataset}_test200"], abs=0.005)
    table = prepared(file, dataset="cifar10")
    best = SPACE.from_string(facts["best_cifar10"]["string"])
    found = table.evaluate(0, Proposal(best), seed=0, report=silent)
    assert found.metrics["params"] == facts["best_cifar10"]["params"]
    assert found.metrics["flops"] == 2 * facts["best_cifar10"]["multiply_adds_32"]
    assert 100 * table.test(Proposal(best), found)["test_acc"] == pytest.approx(94.373, abs=0.001)
    values = [table.evaluate(0, Proposal(a), seed=0, report=silent).metrics["val_acc"] for a in SPACE.members()]
    assert 100 * max(values) == pytest.approx(facts["best_mean_val_cifar10"], abs=0.001)


def test_published_nasbench_macro(benchmark_data: Path) -> None:
    space = NasBenchMacro()
    table = Table(space, file=str(benchmark_data / "nasbench_macro_cifar10.json"))
    table.prepare()
    assert table.objective == "test_acc", "the table has no validation accuracy"
    values = [table.evaluate(0, Proposal(a), seed=0, report=silent).metrics["test_acc"] for a in space.members()]
    assert 100 * max(values) == pytest.approx(PUBLISHED["nasbench_macro"]["best_mean"], abs=0.001)


@pytest.fixture(scope="module")
def columns() -> dict[str, np.ndarray[Any, Any]]:
    """All of nasbench201 with made-up accuracies."""
    archs = np.array([arch.choices for arch in SPACE.members()], dtype=np.uint8)
    return {"arch": archs, "val": np.random.default_rng(0).random(len(archs))}


@pytest.mark.parametrize("name", ["train_time", "test", "params"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_table_without_a_number(run: Run, columns: dict[str, np.ndarray[Any, Any]], name: str, value: float) -> None:
    """Said at once or passed over, never an error at the end of a search."""
    np.savez("odd.npz", allow_pickle=False, **columns, **{name: np.full(len(columns["val"]), value)})
    outcome = run("search", "--evaluator", "table", "-E", "file=odd.npz", "-n", "5", "--out", "out")
    if outcome.code:
        outcome.refused("odd.npz")
    else:
        assert outcome.accepted()[0]["metrics"]["val_acc"] > 0


ODD_TABLES = ["scalar", "no array", "long epochs", "long seed", "many fields", "huge number", "short column", "a pipe"]


@pytest.mark.parametrize("kind", ODD_TABLES)
def test_bad_table(run: Run, columns: dict[str, np.ndarray[Any, Any]], kind: str) -> None:
    """Beside those of test_table.py."""
    arch, val = columns["arch"], columns["val"]
    path = "t.npz"
    match kind:
        case "scalar":
            np.savez(path, arch=np.int8(3), val=val)
        case "no array":
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("arch.npy", "hello")
        case "long epochs":
            np.savez(path, allow_pickle=False, arch=arch, **{"val" + "9" * 5000: val})
        case "long seed":
            np.savez(path, allow_pickle=False, arch=arch, **{"val_s" + "9" * 5000: val})
        case "many fields":
            np.savez(path, allow_pickle=False, arch=arch, **{f"field{i}": val[:1] for i in range(300)})
        case "short column":
            np.savez(path, allow_pickle=False, arch=arch, val=val[:5])
        case "a pipe":
            os.mkfifo(path)
        case "huge number":
            path = "t.json"
            Path(path).write_text('{"000000": {"val": ' + "9" * 400 + "}}")
    run("search", "--evaluator", "table", "-E", f"file={path}", "--out", "out").refused(path)
    assert not (Path("out") / "run.db").exists()


# --- further metrics


@pytest.fixture
def beside(tmp_path: Path) -> Path:
    """A file with the same rows as `small`."""
    path = tmp_path / "beside.npz"
    np.savez(path, gpu=[1.5, np.nan], energy=[3, 4], words=np.array(["a", "b"]))
    return path


def test_columns_become_metrics(small: Path, beside: Path) -> None:
    table = prepared(small, dataset="aa", beside=str(beside), columns="latency_ms=gpu, energy,old=aa_val12")
    assert table.metrics >= {"latency_ms", "energy", "old"}
    found = evaluate(table, 0).metrics
    assert found["latency_ms"] == 1.5 and found["energy"] == 3 and found["old"] == 30
    assert "latency_ms" not in evaluate(table, 1).metrics, "it is missing"
    other = prepared(small, dataset="aa", beside=str(beside), columns="latency_ms=energy")
    assert other.describe()["fingerprint"] != table.describe()["fingerprint"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"columns": "latency_ms=gup"}, "no column 'gup'; did you mean 'gpu'"),
        ({"columns": "x=words"}, "words has shape (2,) and type <U1, not 2 numbers, one per architecture"),
        ({}, "words has shape"),
        ({"columns": "x=gpu,x=energy"}, "x needs a name of its own"),
        ({"columns": "val_acc=gpu"}, "val_acc needs a name of its own"),
        ({"columns": "=gpu"}, "needs a name of its own"),
    ],
    ids=str,
)
def test_columns_that_are_none(small: Path, beside: Path, options: dict[str, str], said: str) -> None:
    with pytest.raises(InputError, match=re.escape(said)):
        prepared(small, dataset="aa", beside=str(beside), **options)
