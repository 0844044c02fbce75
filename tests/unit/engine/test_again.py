"""A search that was interrupted: gone on with, finished with what it has, and used before either."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

import nastool
from nastool.core.errors import InputError
from nastool.engine.events import Event, Interrupted, TrialFinished
from nastool.engine.study import Study
from tests.helpers.running import Run, content, in_this_process


def interrupted(folder: Path, after: int, **options: Any) -> None:
    """Search until so many trials have finished."""
    done = 0

    def count(event: Event) -> None:
        nonlocal done
        done += isinstance(event, TrialFinished)

    with pytest.MonkeyPatch.context() as patch:
        from nastool.evaluators.train import Train

        patch.setattr(Train, "inline", True)
        nastool.search(out=folder, on_event=count, stop=lambda: done >= after, **options)


@pytest.fixture
def a(tmp_path: Path, macro_table: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A search on a table, with 4 of 9 trials."""
    monkeypatch.chdir(tmp_path)
    where: dict[str, Any] = {"evaluator": "table", "evaluator_options": {"file": macro_table}, "report": False}
    interrupted(Path("a"), 4, strategy="evolution", strategy_options={"population": 3, "tournament": 2},
                space="nasbench-macro", seed=3, keep=2, trials=9, **where)  # fmt: skip
    return Path("a")


def whole(folder: Path) -> list[tuple[int, str, float | None]]:
    return [(trial.id, trial.arch.key, trial.value) for trial in Study.read(folder).trials]


class TestResume:
    def test_goes_on_as_it_began(self, run: Run, a: Path, macro_table: str) -> None:
        shutil.copytree(a, "b")
        options = ["-S", "population=3", "-S", "tournament=2", "--evaluator", "table", "-E", f"file={macro_table}"]
        run("search", "--space", "nasbench-macro", *options, "--seed", "3", "-n", "9", "--out", "b").accepted()
        (line,) = run("resume", "a").accepted()
        assert line == {**json.loads(Path("b/best.json").read_text()), "run": "a"}
        assert whole(a) == whole(Path("b")) and len(whole(a)) == 9

    def test_the_last_command_counts(self, run: Run, a: Path) -> None:
        run("resume", "a", "-n", "6", "--workers", "2", "--no-report").accepted()
        assert len(whole(a)) == 6
        assert "already has its 6 trials" in run("resume", "a").err
        assert nastool.resume(a, trials=7).wanted == 7
        with pytest.raises(InputError, match="a has 7 trials by now, more than 5: `nastool finish a`"):
            nastool.resume("a", trials=5)

    def test_a_run_that_kept_no_options(self, run: Run, a: Path) -> None:
        """Of an earlier version: what run.yaml says counts, but for the number of trials."""
        from nastool.engine.store import Store

        with Store.open(a / "run.db") as store:
            store.write({"options": None, "trials": 7})
        about = yaml.safe_load((a / "run.yaml").read_text())
        assert about["search"]["keep"] == 2 and about["search"]["trials"] == 9
        run("resume", "a").accepted()
        assert len(whole(a)) == 7

    @pytest.mark.parametrize(
        "arguments, fragment",
        [
            (["resume", "b"], "b is no run folder"),
            (["resume", "a", "--data-dir", "x"], "option 'data_dir'"),
            (["finish", "a", "--workers", "0"], "--workers"),
            (["resume", "a", "--log", "no"], "no logger 'no'"),
            (["resume", "a", "-n", "2"], "a has 4 trials by now, more than 2: `nastool finish a`"),
        ],
    )
    def test_bad_arguments(self, run: Run, a: Path, arguments: list[str], fragment: str) -> None:
        before = content(a)
        run(*arguments).refused(fragment)
        assert content(a) == before


class TestFinish:
    def test_then_resume(self, run: Run, a: Path) -> None:
        outcome = run("finish", "a")
        (line,) = outcome.accepted()
        assert line["unfinished"] == {"trials": 4, "of": 9}
        assert "a: 4 of 9 trials were made; `nastool resume a` makes the others" in outcome.err
        assert (a / "best.json").is_file() and len((a / "trials.jsonl").read_text().splitlines()) == 4
        assert "interrupted" in run("status", "a", "--text").out
        assert "already has its 4 trials" in run("finish", "a").err
        (line,) = run("resume", "a").accepted()
        assert "unfinished" not in line and len(whole(a)) == 9
        assert run("status", "a", "--text").out.startswith("a: finished")

    def test_nothing_has_finished(self, run: Run, a: Path, macro_table: str) -> None:
        options = {"space": "nasbench-macro", "evaluator": "table", "evaluator_options": {"file": macro_table}}
        interrupted(Path("b"), 0, strategy="random", trials=3, **options)
        run("finish", "b").refused("b has no finished trial yet: `nastool resume b` goes on")
        run("show", "b").refused("b has no finished trial yet: `nastool resume b` goes on")

    def test_as_a_function(self, a: Path) -> None:
        study = nastool.finish(a)
        assert study.document is not None and study.state == "interrupted" and study.wanted == 9


def test_the_interrupt_names_what_comes_next(a: Path) -> None:
    said: list[str] = []

    def interrupt(event: Event) -> None:
        if isinstance(event, TrialFinished):
            signal.raise_signal(signal.SIGINT)
        if isinstance(event, Interrupted):
            said.append(event.next)

    with pytest.raises(KeyboardInterrupt):
        nastool.resume(a, on_event=interrupt)
    assert said == ["continue with: nastool resume a; or make a result of what it has: nastool finish a"]


def test_status_names_what_comes_next(run: Run, a: Path) -> None:
    assert "next       `nastool resume a` goes on; `nastool finish a` makes" in run("status", "a", "--text").out


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A search on digits with 4 of 6 trials, of which the weights of 3 are kept."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        interrupted(Path("a"), 4, strategy="random", data="digits", epochs=1, device="cpu", keep=3, trials=6,
                    scale={"channels": 2, "cells": 1}, evaluator_options={"train_size": 40}, report=False)  # fmt: skip
    return folder


class TestUse:
    """Of a run that has not finished, and of any of its trials."""

    def test_the_best_so_far(self, run: Run, tmp_path: Path, trained: Path) -> None:
        shutil.copytree(trained / "a", "a")
        best = Study.read("a").best
        assert best is not None
        says = f"note: a has not finished (4 of 6 trials): this is the best so far, trial {best.id}; `nastool finish a`"
        for command in (["show", "a"], ["export", "a", "--to", "python"], ["export", "a", "--to", "safetensors"]):
            outcome = run(*command)
            assert outcome.code == 0 and says in outcome.err, outcome
        assert nastool.load("a").arch == best.arch

    def test_a_trial(self, run: Run, trained: Path) -> None:
        shutil.copytree(trained / "a", "a")
        study = Study.read("a")
        first, lost = study.ranked[1], study.ranked[3]
        (line,) = run("show", "a", "--trial", str(first.id)).accepted()
        assert line["key"] == first.arch.key and line["trial"] == first.id and "weights" in line
        assert nastool.load("a", trial=first.id).arch == first.arch
        path = nastool.export("a", "safetensors", trial=first.id)
        assert path.is_file() and nastool.load(path).arch == first.arch
        run("export", "a", "--trial", str(lost.id), "--to", "pt2").refused(f"trial {lost.id} of a names none")
        run("export", "a", "--trial", str(lost.id), "--to", "python").refused(
            f"trial {lost.id} of a names no", "--input"
        )
        run("predict", "a", "x.png", "--trial", str(lost.id)).refused(f"trial {lost.id} of a names no weights")
        run("show", "a", "--trial", "99").refused("--trial 99: a has trials 0 to 3")
        Path("one.json").write_text(json.dumps(line))
        run("show", "one.json", "--trial", "1").refused("--trial 1: one.json is no run folder")

    def test_retrain_of_a_trial(self, run: Run, trained: Path) -> None:
        shutil.copytree(trained / "a", "a")
        study = Study.read("a")
        other = study.ranked[3]
        outcome = in_this_process(
            Path.cwd(), "retrain", "a", "--trial", str(other.id), "--epochs", "1", "--seeds", "0", trains=True
        )
        (line,) = outcome.accepted()
        assert line["key"] == other.arch.key


def test_a_folder_of_pictures(run: Run, trained: Path) -> None:
    """With what is in no class, what is no picture, and what cannot be read."""
    shutil.copytree(trained / "a", "a")
    model = nastool.load("a")
    pixels = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(3, 8, 8)
    (truth,) = {model.classes[i] for i in model.predict(pixels[:1, None]).argmax(1)}
    other = next(name for name in model.classes if name != truth)
    for name in (f"{truth}/b.png", f"in/{truth}/deep/a.png", f"{other}/c.PNG", "d.png", ".hidden.png", "notes.txt"):
        path = Path("photos") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[0]).save(path, "png")
    Path("photos/broken.png").write_text("none")
    outcome = run("predict", "a", "photos", "--json")
    lines = outcome.accepted()
    names = [line["image"] for line in lines]
    assert names == sorted(names) and len(names) == 4
    assert [line.get("truth") for line in lines if line["image"].endswith("d.png")] == [None]
    assert "accuracy 0.6667 (2 of 3); 1 of 5 pictures could not be read" in outcome.err
    assert "broken.png" in outcome.err
    assert lines == nastool.predict("a", "photos")
    text = run("predict", "a", "photos", "--text").out
    assert f"wrong: {other}" in text and text.count("wrong") == 1
    outcome = run("predict", "a", "photos/broken.png", "--json")
    assert outcome.code == 2 and not outcome.out and "broken.png" in outcome.err
    Path("empty").mkdir()
    assert "empty holds no pictures" in run("predict", "a", "empty").err
