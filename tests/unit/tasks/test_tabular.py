"""nastool.tasks.tabular: what is read of tables, how it is encoded, one test per mistake; searched from end to end."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import nastool
from nastool.core import registry
from nastool.core.errors import InputError
from nastool.evaluators.train import Train
from nastool.tasks.tabular.table import Column, features, read_csv
from nastool.tasks.tabular.task import TabularTask
from tests.helpers.running import Run

SEARCH = "search -s random -n 2 --epochs 30 --device cpu --no-report".split()


def write(path: Path, *lines: str) -> str:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return f"csv:{path}"


def houses(path: Path, n: int = 200, seed: int = 0) -> str:
    """Prices that a town, a size and an age decide; some sizes are missing, and an id says nothing."""
    rng = np.random.default_rng(seed)
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "size", "town", "age", "price"])
        for i in range(n):
            size, age, town = rng.uniform(40, 200), rng.integers(0, 80), rng.choice(["Bern", "Genf", "Uri"])
            price = 10 * size - 2 * age + {"Bern": 300, "Genf": 800, "Uri": 0}[town] + rng.normal(0, 20)
            writer.writerow([f"h{i}", "NA" if i % 17 == 0 else f"{size:.1f}", town, age, f"{price:.2f}"])
    return f"csv:{path}"


def test_numbers_categories_and_what_is_missing(tmp_path: Path) -> None:
    data: Any = TabularTask.load(houses(tmp_path / "h.csv"))
    assert data.task == TabularTask(6, 0, 1)
    about = data.metadata()
    assert [Column.from_json(each).features for each in about["columns"]] == [
        ["size", "size is missing"],
        ["town=Bern", "town=Genf", "town=Uri"],
        ["age"],
    ]
    train, val, test = (data.arrays(part) for part in ("train", "val", "test"))
    assert train is not None and val is not None and test is not None
    assert [len(each[1]) for each in (train, val, test)] == [120, 40, 40]
    x, y = train
    assert x.dtype == y.dtype == np.float32 and np.isfinite(x).all()
    assert x[:, 5].mean() == pytest.approx(0, abs=1e-5) and x[:, 5].std() == pytest.approx(1, rel=1e-4)
    assert y.mean() == pytest.approx(0, abs=1e-5) and y.std() == pytest.approx(1, rel=1e-4)
    assert abs(val[0][:, 5].mean()) > 1e-4, "what is learnt is learnt from the training rows"
    assert (x[x[:, 1] == 1, 0] == 0).all() and 0 < (x[:, 1] == 1).sum() < 20
    assert (x[:, 2:5].sum(1) == 1).all() and set(np.unique(x[:, 2:5])) == {0, 1}
    read = str(data.describe()["read"])
    assert "200 rows, 2 columns of numbers, 2 of texts; target 'price' (the last column; -E target= names one)" in read
    assert "left out, as nothing can be learnt: id" in read and "numbers from" in read


def test_a_target_is_guessed_by_its_name_and_kind(tmp_path: Path) -> None:
    rows = [f"{i % 3},{i / 7:.3f},{'ab'[i % 2]}" for i in range(60)]
    data = write(tmp_path / "t.csv", "Label,x,z", *rows)
    assert TabularTask.load(data).metadata()["classes"] == ("0", "1", "2"), "few whole numbers are classes"
    assert TabularTask.load(data, target="z").metadata()["classes"] == ("a", "b")
    given: list[dict[str, Any]] = [{"target": "x"}, {"predict": "numbers"}]
    for options in given:
        assert TabularTask.load(data, **options).task.to_json()["targets"] == 1
    assert TabularTask.goals(data, target="x")[1] == "rmse" and TabularTask.goals(data)[1] == "acc"
    assert TabularTask.goals(data, balance="weigh")[1] == "balanced_acc"
    assert TabularTask.goals(f"csv:{tmp_path}/none.csv")[1] == "acc", "`load` will say that it is not there"


def test_other_ways_of_writing_it(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbfa;b;y\r\n1,5;x;1\r\n2,5;y;2\r\n")
    table = read_csv(str(path))
    assert list(table.columns) == ["a", "b", "y"] and table.columns["a"].tolist() == [1.5, 2.5]
    write(path, 'a,"b, c"', '"x, ""z""",1', "", "y,?")
    table = read_csv(str(path))
    assert table.columns["a"].tolist() == ['x, "z"', "y"] and np.isnan(table.columns["b, c"]).tolist() == [False, True]
    write(path, "\ta\tb", "0\t1\t2")
    table = read_csv(str(path))
    assert list(table.columns) == ["a", "b"] and table.note == "left out, as it has no name: column 1", "as pandas'"


def test_what_training_rows_have_not_shown_is_unknown(tmp_path: Path) -> None:
    columns = [Column("town", ("a", "b")), Column("n", (), True)]
    write(tmp_path / "new.csv", "n,town,more", "1,c,x", ",b,x")
    found = features(columns, read_csv(str(tmp_path / "new.csv")))
    assert np.array_equal(found, np.array([[0, 0, 1, 0], [0, 1, np.nan, 1]], np.float32), equal_nan=True)


@pytest.mark.parametrize(
    ("lines", "options", "message"),
    [
        (["a,b", "1,2", "3"], {}, "line 3: 1 values, but the first line names 2 columns"),
        (["1,2", "3,4"], {}, "line 1: holds numbers: put the names of the columns there"),
        (["a,a", "1,2"], {}, "line 1: two columns are called 'a'"),
        (["a,", "1,2"], {}, "line 1: found the names of 1 column: need at least 2"),
        (["a", "1"], {}, "line 1: found the names of 1 column"),
        (["a,b"], {}, "holds no rows"),
        ([], {}, "line 1: found the names of 0 columns"),
        (["a,b", "1,x", "2,"], {}, "line 3: the target 'b' is missing: leave such rows out"),
        (["a,b", "1,1.5", "", "2,nan", "3,NA"], {}, "line 4: the target 'b' is missing (and in 1 more rows)"),
        (["a,b", "1,2", "inf,3"], {}, "line 3: column 'a' is infinite: leave it empty instead"),
        (["a,price", "1,2.5", "2,3.5"], {"target": "prise"}, "has no column 'prise' for target; did you mean 'price'?"),
        (["a,b", "1,x", "2,x"], {}, "the target 'b' is 'x' in every row"),
        (["a,b", "1,x", "2,y", "3,z"], {}, "has 3 different texts in 3 rows, so it is no class"),
        (["a,b", "1,x", "2,y"], {"predict": "numbers"}, "predict=numbers, but the target 'b' holds texts"),
        (["a,b", *["1,x", "1,y"] * 20], {}, "each column is constant"),
    ],
)
def test_mistakes_in_a_table(tmp_path: Path, lines: list[str], options: dict[str, Any], message: str) -> None:
    data = write(tmp_path / "t.csv", *lines)
    with pytest.raises(InputError) as caught:
        TabularTask.load(data, **options)
    assert message in str(caught.value) and str(tmp_path / "t.csv") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_table_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes("a,b\n1,ü\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"t\.csv, line 2: no UTF-8: save it as UTF-8"):
        TabularTask.load(f"csv:{tmp_path}/t.csv")
    with pytest.raises(InputError, match=r"cannot read .*none\.csv: No such file"):
        TabularTask.load(f"csv:{tmp_path}/none.csv")


def test_arrays_of_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(80, 3))
    x[5, 1] = np.nan
    path = tmp_path / "t.npz"
    np.savez(path, x_train=x, y_train=np.array(["no", "yes"])[(x[:, 0] > 0).astype(int)], columns=["a", "b", "c"])
    data = TabularTask.load(f"tabular:{path}")
    assert data.metadata()["classes"] == ("no", "yes")
    assert [each["name"] for each in data.metadata()["columns"]] == ["a", "b", "c"]
    for change, message in (
        ({"x_train": x[:, 0]}, r"need numbers or texts of shape \(N, columns\), got float64 \(80,\)"),
        ({"x_train": x[:9]}, "x_train has 9 rows but y_train 80 labels"),
        ({"columns": ["a"]}, "3 columns, but 1 names in the array columns"),
        ({"y_train": np.array(["a", None], dtype=object)[[0, 1] * 40]}, "y_train holds Python objects"),
    ):
        np.savez(path, **({"x_train": x, "y_train": x[:, 0]} | change))
        with pytest.raises(InputError, match=message):
            TabularTask.load(f"tabular:{path}")
    with pytest.raises(InputError, match=r"target: .* says y_train itself: leave it out"):
        TabularTask.check(f"tabular:{path}", target="a")


def test_a_regression_ends_with_a_network_of_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run, one_thread: None
) -> None:
    """Searched, predicted, exported: from the command line, without naming a space."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Train, "inline", True)
    data = houses(Path("h.csv"))
    found = run(*SEARCH, "--data", data, "--out", "a")
    assert found.code == 0 and "nastool predict a TABLE.csv..." in found.err
    (best,) = found.accepted()
    assert best["space"]["name"] == "tabular-net" and best["metrics"]["test_r2"] > 0.5
    houses(Path("new.csv"), 30, seed=1)
    lines = run("predict", "a", "new.csv")
    rows = lines.accepted()
    assert len(rows) == 30 and rows[2].keys() == {"file", "row", "price", "truth"} and rows[2]["row"] == 3
    error = np.sqrt(np.mean([(row["price"] - row["truth"]) ** 2 for row in rows]))
    assert f"rmse {error:.6g} (of 30)" in lines.err
    model = nastool.load("a")
    x, _ = model.task.read("new.csv", {**model.about, "classes": ()}, 1)
    assert model.predict(x)[:, 0].tolist() == pytest.approx([row["price"] for row in rows], rel=1e-5)
    assert run("export", "a", "--to", "pt2").code == 0
    exported = torch.export.load("model.pt2").module()(torch.tensor(x))
    assert exported[:, 0].tolist() == pytest.approx([row["price"] for row in rows], rel=1e-4)
    script = subprocess.run([sys.executable, "a/model.py", "new.csv"], capture_output=True, text=True)
    assert script.stdout.splitlines() == [f"new.csv:{row['row']}  {row['price']:.6g}" for row in rows], script.stderr
    write(Path("bad.csv"), "size,town", "1,Uri")
    run("predict", "a", "bad.csv").refused("bad.csv has no column 'age'")
    write(Path("bad.csv"), "size,town,age", "1,Uri,old")
    run("predict", "a", "bad.csv").refused("bad.csv, line 2: 'age' needs a number, got 'old'")


def test_a_classification_says_what_is_taken_for_what(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Run, one_thread: None
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Train, "inline", True)
    rng = np.random.default_rng(0)
    kinds = rng.choice(["cat", "dog"], 200, p=[0.9, 0.1])
    rows = [f"{(kind == 'dog') * 2 + rng.normal():.3f},{kind}" for kind in kinds]
    data = write(Path("t.csv"), "x,kind", *rows)
    command = [*SEARCH, "--report", "--data", data, "--out", "a"]
    command.remove("--no-report")
    found = run(*command)
    assert "training examples of cat" in found.err and "-E balance=weigh counts all classes alike" in found.err
    assert found.accepted()[0]["metrics"].keys() >= {"val_acc", "test_acc"}
    page = Path("a/report.html").read_text()
    assert "What the validation examples of each class are taken for" in page and "dog</" in page
    weighed = run(*command[:-1], "b", "-E", "balance=weigh")
    assert weighed.accepted()[0]["metrics"].keys() >= {"val_balanced_acc", "test_balanced_acc"}
    assert nastool.Study.read("b").objective.metric == "val_balanced_acc"
    text = run("predict", "a", "t.csv", "--text")
    assert text.out.splitlines()[0].startswith("t.csv:1  ") and "accuracy 0." in text.err
    assert json.loads(Path("a/best.json").read_text())["space"]["name"] == "tabular-net"


def test_a_space_for_other_data_is_named(run: Run, tmp_path: Path) -> None:
    data = houses(tmp_path / "h.csv")
    run(*SEARCH, "--data", data, "--space", "nasbench201").refused(
        "space nasbench201 has networks for images", "is for tabular: give other data, or no --space"
    )
    for data, message in (
        ("h.csv", "--data h.csv: say what is in it: csv:h.csv"),
        ("h.npz", "say what is in it: npz:h.npz or signals:h.npz or tabular:h.npz"),
    ):
        run(*SEARCH, "--data", data).refused(message)
    assert registry.space_for("digits", "nasbench201") == "nasbench201" == registry.space_for("none", "nasbench201")
    assert registry.space_for("signals:x.npz", "nasbench201") == "signal-cnn"
