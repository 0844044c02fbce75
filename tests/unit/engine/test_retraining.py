"""`nastool retrain`, and what a finished run leaves behind."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nastool.core import archfile
from nastool.core.values import Trial
from nastool.engine.store import Store
from nastool.engine.study import Study
from nastool.spaces.nasbench201 import NasBench201
from nastool.tasks.images import data
from tests.helpers.running import Run, in_this_process

pytestmark = pytest.mark.usefixtures("inline", "one_thread")
SEARCH = ["--space", "nasbench201", "--data", "digits", "--epochs", "1", "--scale", "channels=4,cells=1"]
QUICK = ["-E", "train_size=200", "--epochs", "1", "--device", "cpu"]
ARCH = "|nor_conv_3x3~0|+|none~0|skip_connect~1|+|nor_conv_1x1~0|avg_pool_3x3~1|nor_conv_3x3~2|"


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("searched")
    flags = "-E train_size=200 --device cpu --out a --trials 3 -s random --report"
    outcome = in_this_process(folder, "search", *SEARCH, *flags.split(), trains=True)
    assert outcome.code == 0, outcome
    return folder / "a"


@pytest.fixture
def a(searched: Path, tmp_path: Path) -> Path:
    """A copy of the run to spoil."""
    shutil.copytree(searched, tmp_path / "a")
    return tmp_path / "a"


def names(folder: Path) -> list[str]:
    """What is in it, less what SQLite keeps beside a database that was looked at."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("run.db-"))


def test_images() -> None:
    """Of all data, each image is in exactly one part."""
    split, whole = data.load("digits"), data.load("digits", all_data=True)
    assert len(whole.train) == len(split.train) + len(split.val) and not len(whole.val)
    assert split.test is not None and whole.test is not None
    assert np.array_equal(split.test.x, whole.test.x)
    both = np.concatenate([split.train.x, split.val.x]).reshape(len(whole.train), -1)
    assert sorted(map(bytes, both)) == sorted(map(bytes, whole.train.x.reshape(len(whole.train), -1)))
    assert whole.fingerprint != split.fingerprint


class TestProduct:
    def test_every_file_is_there(self, searched: Path) -> None:
        names = {path.name for path in searched.iterdir()}
        wanted = {"best.json", "best.safetensors", "model.py", "trials.jsonl", "trials.csv", "report.html", "run.yaml"}
        assert wanted <= names

    def test_all_trials_as_text(self, searched: Path) -> None:
        lines = [json.loads(line) for line in (searched / "trials.jsonl").read_text().splitlines()]
        with open(searched / "trials.csv", newline="") as file:
            rows = list(csv.DictReader(file))
        study = Study.read(searched)
        assert len(lines) == len(rows) == len(study.trials) == 3
        for line, row, trial in zip(lines, rows, study.trials, strict=True):
            assert line["metrics"]["val_acc"] == float(row["val_acc"]) == trial.value
            assert line["trial"] == int(row["trial"]) == trial.id
            assert [step["step"] for step in line["curve"]] == [1]
            assert line["choices"] == {k.removeprefix("choice."): v for k, v in row.items() if k.startswith("choice.")}

    def test_code_without_nastool_gives_the_reported_accuracy(self, searched: Path, tmp_path: Path) -> None:
        """In a process that can import nothing of nastool, and not safetensors either."""
        test = data.load("digits", train_size=200).test
        assert test is not None
        torch.save({"x": torch.from_numpy(test.x), "y": torch.from_numpy(test.y)}, tmp_path / "test.pt")
        for name in ("model.py", "best.safetensors"):
            shutil.copy(searched / name, tmp_path)
        script = """
import sys
for name in ("nastool", "safetensors", "numpy", "torchvision"):
    sys.modules[name] = None
import torch
from model import load
images = torch.load("test.pt")
with torch.no_grad():
    logits = load("best.safetensors")(images["x"])
print((logits.argmax(1) == images["y"]).double().mean().item())
"""
        result = subprocess.run(
            [sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        best = json.loads((searched / "best.json").read_text())
        assert float(result.stdout) == best["metrics"]["test_acc"]
        code = (searched / "model.py").read_text()
        assert f"test_acc {best['metrics']['test_acc']:.6g}" in code and best["key"] in code

    def test_what_cannot_be_written_as_code_is_said(
        self, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        """And loses nothing."""
        from nastool.deploy import exports

        def fails(model: object) -> str:
            raise RuntimeError("no [bold]code[/bold]")

        monkeypatch.setattr(exports, "python", fails)
        outcome = run("search", *SEARCH, "-E", "train_size=50", "--trials", "1", "-s", "random", "--out", "b")
        (line,) = outcome.accepted()
        assert "note: model.py could not be written: RuntimeError: no [bold]code[/bold]" in outcome.err
        assert Path(line["weights"]).is_file() and not Path("b/model.py").exists()

    def test_what_was_lost_is_made_again(self, run: Run, a: Path) -> None:
        """By the same command, without searching again, also after the folder was moved."""
        command = ["search", *SEARCH, "-E", "train_size=200", "--device", "cpu", "--trials", "3", "-s", "random"]
        best = json.loads((a / "best.json").read_text())
        (a / "model.py").unlink()
        (a / "trials.csv").unlink()
        outcome = run(*command, "--out", "a")
        assert outcome.accepted() == [best] and "already has its 3 trials" in outcome.err
        assert (a / "model.py").is_file() and (a / "trials.csv").is_file()
        assert "model.py" not in run(*command, "--out", "a").err  # nothing is missing any more
        (a / "best.safetensors").unlink()
        assert run(*command, "--out", "a").accepted()[0]["metrics"] == best["metrics"]
        assert (a / "best.safetensors").is_file()
        a.rename("b")
        (line,) = run(*command, "--out", "b").accepted()
        assert line == {**best, "run": "b", "weights": "b/best.safetensors"}
        assert json.loads(Path("b/best.json").read_text()) == line

    def test_a_new_search_in_the_folder_replaces_all(self, run: Run, a: Path) -> None:
        flags = ["--evaluator", "train", *SEARCH[:4], "-E", "train_size=60", "--trials", "1", "-s", "random"]
        run("search", *flags, "--epochs", "1", "--out", "a", "--force").accepted()
        assert len((a / "trials.jsonl").read_text().splitlines()) == 1
        assert not (a / "report.html").exists()  # of the search before


class TestRetrain:
    def test_run(self, run: Run, a: Path) -> None:
        outcome = run("retrain", "a", *QUICK, "--seeds", "3,5")
        (line,) = outcome.accepted()
        best = json.loads((a / "best.json").read_text())
        assert line["key"] == best["key"] and line["scale"] == best["scale"]
        assert line["seeds"] == [3, 5] == [each["seed"] for each in line["runs"]]
        assert line["metrics"] == line["runs"][0]["metrics"]
        measured = [each["metrics"]["test_acc"] for each in line["runs"]]
        assert line["mean"]["test_acc"] == pytest.approx(np.mean(measured))
        assert line["std"]["test_acc"] == pytest.approx(np.std(measured, ddof=1))
        assert "val_acc" not in line["metrics"] and line["evaluator"]["options"]["all_data"] is True
        assert line["weights"] == "a/retrained/best.safetensors"
        for name in ("best.json", "model.py", "trials.jsonl"):
            assert f"a/retrained/{name}" in outcome.err and Path("a/retrained", name).is_file()
        assert json.loads((a / "best.json").read_text()) == best  # the search's own result stays

    def test_each_seed_is_what_eval_gives(self, run: Run, a: Path) -> None:
        """Without validation both do the same."""
        (line,) = run("retrain", "a", *QUICK, "--seeds", "7,8", "--validation", "--recipe", "digits").accepted()
        (same,) = run("eval", "a", *QUICK, "--seeds", "7,8").accepted()
        for ours, theirs in zip(line["runs"], same["runs"], strict=True):
            for name in ("val_acc", "test_acc", "test_loss"):
                assert ours["metrics"][name] == theirs["metrics"][name]

    def test_trains_on_all_images(self, run: Run, a: Path) -> None:
        """Unless told otherwise; then the recipe is the one for the end."""
        run("retrain", "a", "--epochs", "1", "--device", "cpu", "--seeds", "0", "-o", "b").accepted()
        about = (Path("b") / "run.yaml").read_text()
        assert "train_images: 200" in about  # the run's own train_size
        study = Study.read("b")
        assert study.about["provenance"]["resolved"]["recipe"]["label_smoothing"] == 0.1
        assert study.config["evaluator"]["options"]["recipe"] == "digits-long"
        assert study.config["evaluator"]["options"]["epochs"] == 1

    def test_more_seeds_extend_it(self, run: Run, a: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """And no network is tested twice."""
        from nastool.engine.aside import test_best as real

        tested: list[int] = []

        def counted(pool: Any, trial: Any, seed: int) -> Any:
            tested.append(seed)
            return real(pool, trial, seed)

        monkeypatch.setattr("nastool.engine.retraining.test_best", counted)
        (first,) = run("retrain", "a", *QUICK, "--seeds", "0").accepted()
        (both,) = run("retrain", "a", *QUICK, "--seeds", "0,1").accepted()
        assert both["runs"][0] == first["runs"][0] and len(both["runs"]) == 2
        again = run("retrain", "a", *QUICK, "--seeds", "0,1")
        assert again.accepted() == [both] and "already has" in again.err
        assert tested == [0, 1]
        run("retrain", "a", *QUICK, "--seeds", "1,0").refused("began with seeds [0, 1]")
        run("retrain", "a", *QUICK[:2], "--epochs", "2", "--seeds", "0").refused("a/retrained", "epochs", "--out")
        study = Study.read("a/retrained")
        assert study.state == "finished" and study.best is not None
        (other,) = run(
            "retrain", "a", *QUICK[:2], "--epochs", "2", "--device", "cpu", "--seeds", "4", "--force"
        ).accepted()
        assert other["seeds"] == [4]

    def test_architecture_of_no_run(self, run: Run) -> None:
        (line,) = run(
            "retrain", ARCH, "--space", "nasbench201", "--data", "digits", *QUICK, "--scale", "channels=4,cells=1",
            "--seeds", "0",
        ).accepted()  # fmt: skip
        assert line["run"].startswith("runs/retrain-") and Path(line["weights"]).is_file()

    @pytest.mark.parametrize(
        ("arguments", "fragment"),
        [
            (["nothing"], "nothing"),
            ([ARCH, "--space", "nasbench201"], "--data"),
            (["a", "--seeds", "0,x"], "--seeds"),
            (["a", "--seeds", "0,0"], "--seeds"),
            (["a", "--recipe", "nonsense"], "nonsense"),
            (["a", "--scale", "chanels=3"], "channels"),
            (["a", "-E", "all_data=false"], "--validation"),
            (["a", "-E", "from_checkpoint=a/best.safetensors"], "from_checkpoint"),
            (["a", "--data", "nodata"], "nodata"),
            (["a", "--out", "a"], "a holds another search"),
            (["a", "--epochs", "0"], "epochs"),
        ],
        ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
    )
    def test_bad_arguments(self, run: Run, a: Path, arguments: list[str], fragment: str) -> None:
        before = names(a)
        outcome = run("retrain", *arguments)
        assert outcome.code == 2 and fragment in outcome.err and "internal" not in outcome.err, outcome
        assert outcome.out == ""
        assert names(a) == before

    def test_a_run_on_a_table_names_no_data(self, run: Run) -> None:
        space = NasBench201()
        arch = space.from_string(ARCH)

        line = {**archfile.to_json(space, arch), "evaluator": {"name": "table", "options": {"file": "x.npz"}}}
        Path("x.json").write_text(json.dumps(line))
        run("retrain", "x.json").refused("--data")


def _line(folder: Path, **more: Any) -> None:
    path = folder / "best.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **more}))


@pytest.mark.parametrize(
    ("more", "fragment"),
    [
        ({"scale": 5}, "scale"),
        ({"scale": {"channels": "x"}}, "scale"),
        ({"scale": {"channels": None}}, "scale"),
        ({"scale": {"channels": [1]}}, "scale"),
        ({"evaluator": {"name": "train", "options": {"data": "digits", "recipe": [1]}}}, "recipe"),
        ({"evaluator": {"name": "train", "options": {"data": 5}}}, "data"),
    ],
)
def test_retrain_of_a_spoiled_line(run: Run, a: Path, more: dict[str, Any], fragment: str) -> None:
    _line(a, **more)
    run("retrain", "a/best.json", "--out", "r").refused(fragment)
    assert not Path("r").exists()


def test_retrain_with_bad_data_says_so_and_nothing_else(run: Run, a: Path) -> None:
    run("retrain", "a", "--data", "npz:none.npz", "--device", "cpu", "--out", "r").refused("none.npz")
    assert not Path("r").exists()


@pytest.mark.slow
def test_a_seed_that_fails_is_left_out_of_the_mean(
    run: Run, a: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And said so; the network that counts is the first that there is."""
    from nastool.engine.search import Search

    told = Search._trial

    def fails(search: Search, event: Any) -> Any:
        trial = told(search, event)
        return trial if trial.id else Trial(trial.id, trial.proposal, "failed", error="diverged")

    monkeypatch.setattr(Search, "_trial", fails)
    command = ["retrain", "a", "--epochs", "1", "--seeds", "4,5", "-E", "train_size=50", "--device", "cpu"]
    outcome = run(*command)
    (found,) = outcome.accepted()
    assert "note: 1 of 2 trainings failed; the last: diverged" in outcome.err
    assert "(seed 5)\n" in outcome.err and "over 1" not in outcome.err
    assert found["runs"][0] == {"seed": 4, "error": "diverged"}
    assert found["metrics"] == found["runs"][1]["metrics"]


@pytest.mark.slow
def test_retrain_makes_again_what_was_lost(run: Run, a: Path) -> None:
    """After a kill while it was written, or when files were deleted or the folder was moved; nothing is trained."""
    command = ["retrain", "a", "--epochs", "1", "--seeds", "0,1", "-E", "train_size=50", "--device", "cpu"]
    (first,) = run(*command).accepted()
    folder = Path("a/retrained")
    tested = Store.read(folder / "run.db").get("tested")
    for name in ("model.py", "best.safetensors", "best.json", "trials.csv"):
        (folder / name).unlink()
        assert run(*command).accepted() == [first]
        assert (folder / name).is_file()
    assert "already has" in run(*command).err
    folder.rename("moved")
    (moved,) = run(*command, "--out", "moved").accepted()
    assert moved["weights"] == "moved/best.safetensors"
    assert moved["metrics"] == first["metrics"]
    assert Store.read(Path("moved/run.db")).get("tested") == tested
