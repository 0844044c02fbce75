"""Which weights a line means: those of its own run, wherever that is by now, and never another's."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import nastool
from nastool.core import archfile, files
from nastool.core.errors import InputError
from nastool.core.values import Trial
from nastool.deploy import models
from nastool.engine.executors.jobs import Finished
from nastool.engine.search import Search
from nastool.engine.study import Study
from nastool.evaluators.train import Train
from nastool.nets import checkpoints
from nastool.tasks.images import data
from tests.helpers.running import Run

SEARCH: dict[str, Any] = {
    "strategy": "random",
    "space": "nasbench201",
    "data": "digits",
    "epochs": 1,
    "scale": "channels=4,cells=1",
    "evaluator_options": {"train_size": 100},
    "device": "cpu",
    "report": False,
}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with runs/a and another search's run, other."""
    folder = tmp_path_factory.mktemp("searched")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(Train, "inline", True)  # no worker processes: they would only take time
        for out, trials, seed in (("runs/a", 2, 0), ("other", 1, 1)):
            nastool.search(**SEARCH, out=out, trials=trials, seed=seed)
    keys = [json.loads((folder / run / "best.json").read_text())["key"] for run in ("runs/a", "other")]
    assert keys[0] != keys[1]
    return folder


@pytest.fixture
def here(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it to spoil, which is the working directory."""
    shutil.copytree(searched, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Train, "inline", True)
    return tmp_path


def digest(path: Path | str) -> str:
    """Of the tensors that are really there."""
    return checkpoints.digest(files.read_tensors(Path(path))[0])


def line_of(path: Path | str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(Path(path).read_text())
    return found


def trained_again(path: Path, where: Path) -> None:
    """The same architecture's checkpoint with other numbers, in good order otherwise."""
    weights, metadata = files.read_tensors(path)
    changed = {name: value + 1 if value.is_floating_point() else value for name, value in weights.items()}
    checkpoints.write(where, changed, None, {key: value for key, value in metadata.items() if key != "digest"})


def exported(run: Run, source: str, stdin: str = "") -> str:
    """The digest of what `export` writes for it."""
    outcome = run("export", source, "--to", "safetensors", "-o", "out.safetensors", "--force", stdin=stdin)
    assert outcome.code == 0, outcome
    return digest("out.safetensors")


def losses_from(first: int, loss: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """From trial `first` on they have this loss, whatever they measure."""
    real = Search._trial

    def praised(self: Search, event: Finished) -> Trial:
        trial = real(self, event)
        return trial if trial.id < first else replace(trial, losses=(loss,))

    monkeypatch.setattr(Search, "_trial", praised)


class TestFound:
    def test_a_line_names_the_digest_of_its_weights(self, here: Path) -> None:
        best = line_of("runs/a/best.json")
        assert best["weights"] == "runs/a/best.safetensors" and best["weights_digest"] == digest(best["weights"])
        for text in Path("runs/a/trials.jsonl").read_text().splitlines():
            trial = json.loads(text)
            assert trial["weights_digest"] == digest(trial["weights"])

    @pytest.mark.parametrize("source", ["moved", "moved/best.json"])
    def test_another_search_has_taken_the_folder(self, run: Run, here: Path, source: str) -> None:
        wanted = digest("runs/a/best.safetensors")
        Path("runs/a").rename("moved")
        Path("other").rename("runs/a")
        assert exported(run, source) == wanted
        assert nastool.load(source).arch.key == line_of("moved/best.json")["key"]
        shown = run("show", source, "--text").out
        assert "params" in shown and "weights  moved/best.safetensors" in shown

    def test_from_elsewhere(self, run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """By an absolute path, from inside, through a link to the folder or to the file, in a copy."""
        wanted = digest("runs/a/best.safetensors")
        from_here = run("show", "runs/a", "--text").out
        Path("link").symlink_to("runs/a")
        Path("mine.json").symlink_to("runs/a/best.json")
        shutil.copytree("runs/a", "copy")
        for source in ("link", "mine.json", "copy", "copy/best.json"):
            assert exported(run, source) == wanted, source
        monkeypatch.chdir(here / "runs" / "a")
        for source in (".", "best.json"):
            assert exported(run, source) == wanted
        elsewhere = here / "elsewhere"
        elsewhere.mkdir()
        monkeypatch.chdir(elsewhere)
        for path in (here / "runs/a", here / "runs/a/best.json", here / "link"):
            assert exported(run, str(path)) == wanted
            assert nastool.load(path).network is not None
        shown = run("show", str(here / "runs/a"), "--text").out
        assert [row for row in shown.splitlines() if not row.startswith("weights")] == [
            row for row in from_here.splitlines() if not row.startswith("weights")
        ]

    def test_lines_on_stdin(self, run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        lines = run("top", "runs/a", "-k", "2").accepted()
        study = Study.read("runs/a")
        for line, trial in zip(lines, study.ranked, strict=True):
            assert line["trial"] == trial.id
            wanted = digest(f"runs/a/checkpoints/trial-{trial.id:06d}.safetensors")
            assert exported(run, "-", json.dumps(line)) == wanted
            assert exported(run, json.dumps(line)) == wanted
            assert models.of(archfile.from_json(line)).facts["found"] == f"trial {trial.id} of runs/a"
            assert nastool.load(study.line(trial)).path == Path(line["weights"])
        monkeypatch.chdir(here / "runs" / "a")
        assert exported(run, "-", json.dumps(lines[0])) == lines[0]["weights_digest"]

    def test_lines_of_a_run_that_was_moved(self, run: Run, here: Path) -> None:
        """In a file of the run: its checkpoints are beside. `top` says where they are now."""
        wanted = {line["trial"]: line["weights_digest"] for line in run("top", "runs/a", "-k", "2").accepted()}
        Path("runs/a").rename("moved")
        Path("other").rename("runs/a")
        for line in run("top", "moved/trials.jsonl", "-k", "2").accepted():
            assert line["weights"] == f"moved/checkpoints/trial-{line['trial']:06d}.safetensors"
            assert exported(run, "-", json.dumps(line)) == wanted[line["trial"]]

    def test_what_eval_has_saved(self, run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (line,) = run("eval", "runs/a", "--save", "kept").accepted()
        assert line["weights_digest"] == digest(line["weights"]) == line["runs"][0]["weights_digest"]
        assert line["weights_digest"] != line_of("runs/a/best.json").get("weights_digest")
        Path("line.json").write_text(json.dumps(line))
        (elsewhere := here / "elsewhere").mkdir()
        monkeypatch.chdir(elsewhere)
        assert exported(run, "../line.json") == line["weights_digest"]
        run("export", "-", "--to", "safetensors", stdin=json.dumps(line)).refused("there is no kept/checkpoints")
        (again,) = run("eval", "../line.json", "--evaluator", "train").accepted()
        assert "weights" not in again and "weights_digest" not in again

    def test_predict_takes_lines(self, run: Run, here: Path) -> None:
        from PIL import Image

        test = data.load("digits").test
        assert test is not None
        Image.fromarray(test.x[0, 0]).save("a.png")
        (wanted,) = run("predict", "runs/a", "a.png").accepted()
        Path("runs/a").rename("moved")
        Path("other").rename("runs/a")
        assert run("predict", "moved", "a.png").accepted() == [wanted]
        assert run("predict", "moved/best.json", "a.png").accepted() == [wanted]
        line = run("top", "moved").accepted()[0]
        assert run("predict", "-", "a.png", stdin=json.dumps(line)).accepted() == [wanted]

    def test_retraining_says_what_its_weights_are(self, run: Run, here: Path) -> None:
        quick = ["--epochs", "1", "--device", "cpu", "--seeds", "0,1"]
        (line,) = run("retrain", "runs/a", *quick).accepted()
        assert line["weights_digest"] == line["runs"][0]["weights_digest"] == digest(line["weights"])
        assert line["runs"][1]["weights_digest"] == digest(line["runs"][1]["weights"]) != line["weights_digest"]
        Path("runs/a").rename("moved")
        assert exported(run, "moved/retrained") == line["weights_digest"]


class TestRefused:
    def test_other_weights_in_their_place(self, run: Run, here: Path) -> None:
        """Of another architecture, and of the same one: a copy of best.json alone, and the folder overwritten."""
        shutil.copy("runs/a/best.json", "mine.json")
        trained_again(Path("runs/a/best.safetensors"), here / "again.safetensors")
        shutil.rmtree("runs/a")
        shutil.copytree("other", "runs/a")
        run("export", "mine.json", "--to", "safetensors").refused("mine.json means other weights", "holds architecture")
        run("predict", "mine.json", "a.png").refused("mine.json means other weights")
        shutil.copy("again.safetensors", "runs/a/best.safetensors")
        run("export", "mine.json", "--to", "safetensors").refused("the same architecture, trained another time")
        outcome = run("show", "mine.json", "--text")
        assert outcome.code == 0 and "note: shown without weights: mine.json means other weights" in outcome.err
        assert "weights" not in outcome.out
        with pytest.raises(InputError, match="trained another time"):
            nastool.load("mine.json")
        assert not Path("model.safetensors").exists()

    def test_a_line_alone(self, run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (elsewhere := here / "elsewhere").mkdir()
        shutil.copy("runs/a/best.json", elsewhere)
        monkeypatch.chdir(elsewhere)
        run("export", "best.json", "--to", "onnx").refused(
            "best.json: there is no runs/a/best.safetensors, which it names as its weights, nor are they beside"
        )
        run("predict", "best.json", "a.png").refused("there is no runs/a/best.safetensors")
        assert "there is no runs/a/best.safetensors" in run("show", "best.json").err

    def test_without_weights(self, run: Run, here: Path) -> None:
        (line,) = run("sample").accepted()
        Path("line.json").write_text(json.dumps(line))
        run("predict", "line.json", "a.png").refused("line.json names no weights")
        run("export", "line.json", "--to", "pt2").refused("line.json names none")
        for wrong in ({"weights": 3}, {"weights": "runs/a/best.safetensors", "weights_digest": 3}, {"weights": "a\0b"}):
            Path("line.json").write_text(json.dumps({**line, **wrong}))
            run("export", "line.json", "--to", "pt2").refused("line.json")

    @pytest.mark.parametrize("same", [True, False])
    def test_lines_of_older_versions(self, run: Run, here: Path, same: bool) -> None:
        """Without a digest a checkpoint counts that names the same architecture."""
        best = {key: value for key, value in line_of("runs/a/best.json").items() if key != "weights_digest"}
        Path("runs/a/best.json").write_text(json.dumps(best))
        wanted = digest("runs/a/best.safetensors")
        Path("runs/a").rename("moved")
        Path("other").rename("runs/a")
        if same:
            assert exported(run, "moved") == exported(run, "moved/best.json") == wanted
        else:
            Path("moved/best.safetensors").unlink()
            run("export", "moved", "--to", "python").refused("means other weights", "holds architecture")

    def test_a_digest_has_to_be_true(self, run: Run, here: Path) -> None:
        """Whoever changes tensors and leaves the metadata is found out when they are read."""
        path = Path("runs/a/best.safetensors")
        weights, metadata = files.read_tensors(path)
        next(iter(weights.values())).view(-1)[0] += 1
        files.write_tensors(path, weights, metadata)
        run("export", "runs/a/best.json", "--to", "safetensors").refused("its tensors were changed")


class TestTwoFiles:
    """best.json and best.safetensors speak of the same network at every moment, and a search can always go on."""

    COMMAND = tuple(
        "search -s random --space nasbench201 --data digits --epochs 1 --scale channels=4,cells=1 -E train_size=100 "
        "--device cpu --no-report --out runs/a".split()
    )

    def agree(self, run: Run, source: str = "runs/a") -> str:
        """The network that all readers see."""
        best, model = line_of(f"{source}/best.json"), nastool.load(source)
        assert exported(run, source) == checkpoints.digest(model.network.state_dict()) == best["weights_digest"]
        assert run("show", source, "--json").accepted()[0]["key"] == model.arch.key == best["key"]
        return str(best["key"])

    @pytest.mark.parametrize("moment", ["best.json", "best.safetensors", "final", "model.py"])
    def test_killed_while_a_result_is_written(
        self, run: Run, here: Path, monkeypatch: pytest.MonkeyPatch, moment: str
    ) -> None:
        """Before it writes the file. Trial 3 is the new best."""
        from nastool.core.files import write_bytes
        from nastool.engine import results as product
        from nastool.engine.run import Run as AtWork

        class Killed(BaseException):
            pass

        def killed(*_: Any, **__: Any) -> Any:
            raise Killed

        losses_from(3, -2.0, monkeypatch)
        before = self.agree(run)
        with monkeypatch.context() as patch:
            if moment.startswith("best."):

                def write(path: Path, data: bytes) -> None:
                    if path.name == moment:
                        raise Killed
                    write_bytes(path, data)

                patch.setattr("nastool.engine.written.write_bytes", write)
            elif moment == "final":
                patch.setattr(AtWork, "finish", killed)
            else:
                patch.setattr(product, "write", killed)
            with pytest.raises(Killed):
                run(*self.COMMAND, "--trials", "4")
        assert (self.agree(run) == before) == (moment == "best.json")
        fewer = run(*self.COMMAND, "--trials", "2")
        (line,) = fewer.accepted()
        assert line == line_of("runs/a/best.json") and self.agree(run) == line["key"]
        assert "already has its 4 trials" in fewer.err
        assert (line["key"] == before) == (moment != "model.py")
        (line,) = run(*self.COMMAND, "--trials", "4").accepted()
        assert line["trial"] == 3 and self.agree(run) == line["key"] != before
        assert line["key"] in Path("runs/a/model.py").read_text()
        assert len(Path("runs/a/trials.jsonl").read_text().splitlines()) == 4

    def test_without_checkpoints_it_goes_on(self, run: Run, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """best.safetensors holds what the end needs. The third trial is no better."""
        losses_from(2, 0.0, monkeypatch)
        (before,) = run(*self.COMMAND, "--trials", "2").accepted()
        best = Path(f"runs/a/checkpoints/trial-{before['trial']:06d}.safetensors")
        kept = best.read_bytes()
        shutil.rmtree("runs/a/checkpoints")
        assert run("top", "runs/a").accepted()[0]["weights_digest"] == before["weights_digest"]
        (after,) = run(*self.COMMAND, "--trials", "3").accepted()
        assert after["trial"] == before["trial"]
        assert after["metrics"] == before["metrics"] and best.read_bytes() == kept
        self.agree(run)

    def test_retraining_goes_on_without_checkpoints(self, run: Run, here: Path) -> None:
        command = ["retrain", "runs/a", "--epochs", "1", "--device", "cpu", "--no-report", "--seeds"]
        (one,) = run(*command, "0").accepted()
        shutil.rmtree("runs/a/retrained/checkpoints")
        (two,) = run(*command, "0,1").accepted()
        assert two["runs"][0] == one["runs"][0] and self.agree(run, "runs/a/retrained")
        fewer = run(*command, "0")
        assert fewer.accepted() == [two] and "has a result of 2 seeds, more than the 1 asked for" in fewer.err

    def test_fewer_trials_than_there_are(self, run: Run, here: Path) -> None:
        (line,) = run(*self.COMMAND, "--trials", "2").accepted()
        outcome = run(*self.COMMAND, "--trials", "1")
        assert outcome.accepted() == [line]
        assert "already has its 2 trials, more than the 1 that are asked for" in outcome.err

    def test_weights_lost_and_spoiled_are_copied_again(self, run: Run, here: Path) -> None:
        (line,) = run(*self.COMMAND, "--trials", "2").accepted()
        for spoil in (
            lambda: Path("runs/a/best.safetensors").unlink(),
            lambda: shutil.copy("other/best.safetensors", "runs/a"),
        ):
            spoil()
            self.agree_by_checkpoint(run, line)
            assert run(*self.COMMAND, "--trials", "2").accepted() == [line]
            assert digest("runs/a/best.safetensors") == line["weights_digest"]

    def agree_by_checkpoint(self, run: Run, line: dict[str, Any]) -> None:
        assert nastool.load("runs/a").path.name == f"trial-{line['trial']:06d}.safetensors"
        assert exported(run, "runs/a") == line["weights_digest"]
